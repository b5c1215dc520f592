"""What `models --estimate` says of the published sizes, against a count of whole runs.

Nothing is allocated and no weights are needed: networks are made without writing to them, and run
on tensors that have shapes and no values. An estimate rehearses one iteration and counts by itself;
the count is PyTorch's own (`torch.distributed._tools.mem_tracker`), of `ditto.run` as it is: two
iterations with all that they keep, corrections, decoding and the measures of the clip.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.published import SIZES, Size
from benchmarks.report import Report, Row
from ditto import optimize
from ditto.controls.intensity import Intensity
from ditto.methods.base import Method
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.models.low_memory import rehearsed_low_memory
from ditto.models.model import MusicModel
from ditto.models.profile import GIB, Rehearsal, weights_of
from ditto.request import Request
from ditto.runner import run

NAME = "memory"
STEPS = 3
"""T of DITTO. Each step more keeps one latent more."""


def unwritten(kind: Any, settings: Mapping[str, Any]) -> Any:
    """Make a network whose weights were never written to: a denoiser in bfloat16."""
    with torch.device("meta"):
        network = kind(**settings)
    decodes = hasattr(network, "decoder")
    nn.Module.to(network, torch.float32 if decodes else torch.bfloat16)
    return network.to_empty(device="cpu")


def measured(sizes: Mapping[str, Size] = SIZES, *, command: str) -> Report:
    """Estimate and count runs of all sizes."""
    started = time.perf_counter()
    rows: list[Row] = []
    for name, size in sizes.items():
        rows += measured_size(name, size)
    return Report(
        name=NAME,
        command=command,
        model={"name": "none", "sha256": ""},
        embedding="none",
        count=1,
        seed=0,
        seconds=time.perf_counter() - started,
        settings={"control": "loudness", "steps": STEPS, "precision": "bfloat16"}
        | {name: size.source for name, size in sizes.items()},
        rows=tuple(rows),
        claims=(),
    )


def measured_size(name: str, size: Size) -> Sequence[Row]:
    """Estimate and count a run of one model, by ditto2 where it is its own student, or ditto."""
    model = size.make(unwritten)
    own = model.distilled is not None
    method: Method = Ditto2(decode_steps=1) if own else Ditto(steps=STEPS)
    estimate = estimated(model, method, size.seconds)
    with rehearsed_low_memory(model) as lean:
        low = estimated(lean, method, size.seconds)
    count = counted(model, method, size.seconds)
    row = f"{name}, {size.seconds:g} s, {method.name}"
    return (
        Row.of(row, "weights", "GiB", weights_of(model) / GIB),
        Row.of(row, "estimated", "GiB", estimate / GIB),
        Row.of(row, "counted", "GiB", count / GIB),
        Row.of(row, "estimated_over_counted", "", estimate / count),
        Row.of(row, "low_memory", "GiB", low / GIB),
    )


def estimated(model: MusicModel, method: Method, seconds: float) -> int:
    """Return the bytes that `models --estimate` says a run takes at its peak, weights apart."""
    loudness = Intensity("swell")
    rehearsal = Rehearsal.of(model, seconds, 1, None, loudness)
    if isinstance(method, Ditto2):
        return rehearsal.ditto2() or 0
    return rehearsal.ditto(STEPS, True)


def counted(model: MusicModel, method: Method, seconds: float) -> int:
    """Return the bytes that are alive at the peak of a run of two iterations, weights apart."""
    model = replace(model)  # what it keeps of the run goes with it
    _ = model.schedule, model.student_schedule  # tables are to be real
    request = Request(Intensity("swell"), method=method, iterations=2, seconds=seconds)
    mode, memory = FakeTensorMode(allow_non_fake_inputs=True), Memory()
    parts = [t for part in model.computing() for t in (*part.parameters(), *part.buffers())]
    weights = [mode.from_tensor(tensor) for tensor in parts]
    memory.track_external(*weights)
    before = memory.bytes("current")
    with mock.patch.object(optimize, "_gradient", _gradient), mode, memory, Answers():
        run(request, model, compare=False)
    return memory.bytes("peak") - before


class Memory(MemTracker):
    """PyTorch's tracker for a whole program; of single modules it can only track trained ones."""

    def __init__(self) -> None:
        """Leave out what it does at each module."""
        super().__init__()
        for name in ("_pre_fw_hook", "_post_fw_hook", "_pre_bw_hook", "_post_bw_hook"):
            setattr(self, name, lambda *_: None)

    def bytes(self, when: str) -> int:
        """Return what is alive "current"ly, or was at the "peak"."""
        return sum(place["Total"] for place in self.get_tracker_snapshot(when).values())


class Answers(TorchDispatchMode):
    """Answers what a program asks of values that are not there: no to questions, else 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default:
            return False if args[0].dtype is torch.bool else 1
        if func is aten.nonzero.default:
            return args[0].new_zeros((0, args[0].ndim), dtype=torch.long)
        return func(*args, **(kwargs or {}))


def _gradient(loss: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient as `optimize` does where all of it is finite."""
    (gradient,) = torch.autograd.grad(loss.sum(), latent)
    fine = gradient.isfinite()
    return torch.where(fine, gradient, 0.0), torch.zeros(len(loss), dtype=torch.bool)
