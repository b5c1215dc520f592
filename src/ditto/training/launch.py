"""One training on several processes of this machine, by torch's launcher.

Several machines, or settings beyond these, are for ``accelerate launch -m ditto.cli train base …``.
"""

import logging
import os
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ditto.errors import DataError
from ditto.models.device import chosen_device
from ditto.training.place import RANK_VARIABLE

INTERRUPTED = 130
"""Exit code after a signal, as of the command itself."""


def launched(words: Sequence[str], processes: int, batch_size: int, device: str = "auto") -> int:
    """Run ``ditto-music`` in several processes that train together.

    Args:
        words: the command and its options.
        processes: how many, on graphics cards one for each.
        batch_size: of the recipe, which they share.
        device: "auto", "cpu" or "cuda".

    Returns:
        The exit code: of the first that failed, or 0.

    Raises:
        DataError: the batch cannot be shared by so many, there are fewer graphics cards, or this
            is such a process already.
        ModelError: there is no such device.
    """
    if RANK_VARIABLE in os.environ:
        raise DataError("a launcher has started this process already: leave out --processes")
    if batch_size % processes:
        raise DataError(
            f"a batch of {batch_size} cannot be shared by {processes} processes: their number must "
            "divide batch_size"
        )
    kind, cards = chosen_device(device).type, torch.cuda.device_count()
    if kind == "cuda" and processes > cards:
        raise DataError(f"there are {cards} graphics cards for {processes} processes: give fewer")
    if kind not in ("cpu", "cuda"):
        raise DataError(f"{kind} trains on one process: leave out --processes")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    with TemporaryDirectory(prefix="ditto-") as logs:
        return _launched(words, processes, logs)


def _launched(words: Sequence[str], processes: int, logs: str) -> int:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_endpoint="localhost:0",
        rdzv_backend="c10d",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=logs, local_ranks_filter={0}),  # all say the same
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", "ditto", *words)
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode)
    except SignalException:
        return INTERRUPTED
    return 0
