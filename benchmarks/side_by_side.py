"""Clips of tables made by several processes side by side, and kept where the tables then find
them.
"""

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.setups import Bench, Setup, Task
from ditto.errors import DittoError

if TYPE_CHECKING:
    from benchmarks.every import Weights

Job = tuple[Task, Setup, int]
"""Clip i of a task by a setup."""

_own: list[Bench] = []
"""The bench of a process that makes clips; each begins its own."""


def make_clips(
    weights: "Weights",
    heldout: Path,
    settings: Mapping[str, Any],
    jobs: Iterable[Job],
    workers: int,
    *,
    show: bool,
) -> None:
    """Make and keep the clips of `jobs`, each once, in `workers` processes of
    ``settings["threads"]`` threads each.

    What cannot be made is left out: the table that asks for it says why.

    Args:
        weights: that every process loads.
        heldout: data folder of real clips.
        settings: of each process's `Bench`.
        jobs: what to make.
        workers: processes.
        show: progress.
    """
    once = list({(task.name, setup, i): (task, setup, i) for task, setup, i in jobs}.values())
    spawn = multiprocessing.get_context("spawn")
    begin = weights, heldout, dict(settings)
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=begin) as pool:
        made = pool.map(_make, once)
        console = Console(stderr=True)
        for _ in track(
            made, "clips", total=len(once), disable=not show, transient=True, console=console
        ):
            pass


def _begin(weights: "Weights", heldout: Path, settings: dict[str, Any]) -> None:
    """The process is ours, so its number of threads is ours to set."""
    torch.set_num_threads(settings["threads"])
    _own[:] = [weights.bench(heldout, **settings)]


def _make(job: Job) -> None:
    task, setup, i = job
    try:
        _own[0].clip(task, setup, i)
    except DittoError:
        return


def jobs_of(entries: Sequence[tuple[Task, Setup, int]]) -> list[Job]:
    """Every clip of rows of so many clips, the first clips of all rows first."""
    longest = max((count for _, _, count in entries), default=0)
    return [(task, setup, i) for i in range(longest) for task, setup, count in entries if i < count]
