"""What docs/scale.md says of batches, each as a part that measures it and compares it with a bound.

A part returns what it measured as JSON: its sizes, figures, `bounds` and whether all of them hold.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.conftest import tiny
from tests.fleet.batches import SETTINGS, differences, kill_in_the_middle, make, wishes
from tests.fleet.nodes import started

import ditto
from ditto.models.model import MusicModel

Found = dict[str, Any]
Requests = Callable[[int], list[ditto.Request]]

PER_WORKER = 3
"""First clips of a worker that are not counted: it warms up, or has yet to begin."""


@dataclass(frozen=True)
class Bound:
    """A bound of a figure.

    Attributes:
        figure: its name.
        measured: its value.
        at_least, below: what it is to be.
    """

    figure: str
    measured: float
    at_least: float | None = None
    below: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure keeps to it; one that is no number does not."""
        above = self.at_least is None or self.measured >= self.at_least
        return above and (self.below is None or self.measured < self.below)

    def told(self) -> Found:
        """Return it as JSON."""
        found = {"figure": self.figure, "measured": self.measured, "holds": self.holds}
        sides = {"at least": self.at_least, "below": self.below}
        return found | {side: value for side, value in sides.items() if value is not None}


def part(*bounds: Bound, **figures: Any) -> Found:
    """Return what a part found."""
    told = [bound.told() for bound in bounds]
    return {**figures, "bounds": told, "holds": all(bound.holds for bound in bounds)}


def real_requests(count: int) -> list[ditto.Request]:
    """Requests of the embedded model with four iterations."""
    return [ditto.Request(ditto.Intensity("swell"), seed=i, iterations=4) for i in range(count)]


def cluster(folder: Path, *, count: int) -> Found:
    """Make a batch on two nodes of Ray's, of which a worker and then a node are killed."""
    model, requests = tiny(), wishes(count)
    before = time.monotonic()
    with started() as nodes:
        places = (count // 4, count // 2)
        kill_in_the_middle(nodes, model, requests, folder / "ray", places=places)
    took = time.monotonic() - before
    make(model, requests, folder / "one")
    found = differences(folder / "ray", folder / "one", count)
    return part(
        Bound("differences", len(found), below=1),
        requests=count,
        seconds=round(took, 1),
        differences=found,
    )


def rate(
    model: MusicModel, requests: list[ditto.Request], folder: Path, workers: int
) -> tuple[float, int]:
    """Return clips a second of a batch, once all its workers are at work, and its clips."""
    times = []
    for made in ditto.batch(model, requests, out=folder, workers=workers, **SETTINGS):
        assert made.error is None, made.error
        times.append(time.perf_counter())
    skipped = PER_WORKER * max(workers, 1)
    return (len(requests) - 1 - skipped) / (times[-1] - times[skipped]), len(times)


def processes(
    folder: Path,
    *,
    count: int,
    turns: int,
    few: int = 1,
    many: int = 2,
    model: MusicModel | None = None,
    requests: Requests = real_requests,
) -> Found:
    """Compare the rates of one process and two, of one thread each, in turns.

    Args:
        folder: for the clips.
        count: clips of a worker in a turn.
        turns: of each.
        few, many: workers.
        model: the embedded one by default.
        requests: returns so many for it.
    """
    model = model or ditto.load(device="cpu")
    rates: dict[int, list[float]] = {few: [], many: []}
    clips = 0
    for turn in range(turns):
        for workers, found in rates.items():
            place, wanted = folder / f"{workers}-{turn}", requests(count * max(workers, 1))
            speed, made = rate(model, wanted, place, workers)
            found.append(speed)
            clips += made
    one, two = (sum(each) / turns for each in rates.values())
    return part(
        Bound("factor", round(two / one, 3), at_least=1.8),
        requests=clips,
        clips_a_second={
            str(workers): [round(each, 4) for each in found] for workers, found in rates.items()
        },
    )


def overhead(
    folder: Path, *, count: int, model: MusicModel | None = None, requests: Requests = real_requests
) -> Found:
    """Compare a batch in this process with a loop, a clip of each in turns."""
    model, wanted = model or ditto.load(device="cpu"), requests(count)
    (folder / "loop").mkdir()
    made = ditto.batch(model, wanted, out=folder / "batch", **SETTINGS)
    batch = loop = 0.0
    ditto.run(wanted[0], model, compare=False).save(folder / "first.wav", picture=False)
    for i, request in enumerate(wanted):
        begun = time.perf_counter()
        each = next(made)
        between = time.perf_counter()
        assert each.error is None, each.error
        result = ditto.run(request, model, compare=False)
        result.save(folder / "loop" / f"{i:05d}.wav", picture=False)
        batch, loop = batch + between - begun, loop + time.perf_counter() - between
    begun = time.perf_counter()
    assert next(made, None) is None
    batch += time.perf_counter() - begun
    return part(
        Bound("overhead", round(batch / loop - 1, 4), below=0.03),
        requests=count,
        seconds={"batch": round(batch, 2), "loop": round(loop, 2)},
    )


def memory(folder: Path, *, first: int, last: int, workers: int = 1, every: float = 0.5) -> Found:
    """Measure the command's first process while another makes thousands of tiny clips.

    Args:
        folder: for the clips.
        first: rows from which its memory is not to grow.
        last: rows in the end.
        workers: processes that make clips.
        every: seconds between two looks.
    """
    tiny().save(folder / "model")
    line = {"loudness": "swell", "iterations": 1, "method": "ditto", "steps": 1}
    lines = (json.dumps(line | {"seed": seed}) for seed in range(last))
    (folder / "requests.jsonl").write_text("\n".join(lines))
    words = [sys.executable, "-m", "ditto", "batch", str(folder / "requests.jsonl")]
    words += ["--out", str(folder / "clips"), "--model", str(folder / "model")]
    words += ["--workers", str(workers), "--no-pictures", "--no-compare"]
    index, sizes = folder / "clips" / "index.jsonl", []
    with (folder / "said").open("w") as said, subprocess.Popen(words, stderr=said) as command:
        process = psutil.Process(command.pid)
        while command.poll() is None:
            rows = index.read_bytes().count(b"\n") if index.exists() else 0
            if rows >= first:
                sizes.append(process.memory_info().rss / 2**20)
            time.sleep(every)
    assert command.returncode == 0, (folder / "said").read_text()
    made = index.read_bytes().count(b"\n")
    assert made == last, f"{made} rows"
    assert len(sizes) > 1, "it was over before it was looked at twice"
    before, after = sizes[0], max(sizes[1:])  # the end frees some
    return part(
        Bound("grown", round(after / before - 1, 4), below=0.03),
        requests=made,
        mebibytes={str(first): round(before, 1), str(last): round(after, 1)},
        looks=len(sizes),
    )
