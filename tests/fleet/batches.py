"""Batches of tiny requests, and what is killed in their middle."""

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tests.fleet.nodes import Nodes

import ditto
from ditto.models.model import MusicModel

SETTINGS: dict[str, Any] = {"pictures": False, "compare": False}


def wishes(count: int) -> list[ditto.Request]:
    """Requests of a few milliseconds each.

    Without checkpointing, for which each process would import PyTorch's compiler for seconds.
    """
    method = ditto.Ditto(steps=2, checkpointing=False)
    return [
        ditto.Request(ditto.Intensity("swell"), seed=seed, iterations=2, method=method)
        for seed in range(count)
    ]


def make(model: MusicModel, requests: Sequence[ditto.Request], out: Path, **place: Any) -> None:
    """Make a batch."""
    for _ in ditto.batch(model, requests, out=out, **SETTINGS, **place):
        pass


def kill_in_the_middle(
    nodes: Nodes,
    model: MusicModel,
    requests: Sequence[ditto.Request],
    out: Path,
    *,
    places: tuple[int, int],
) -> None:
    """Make a batch on a cluster of two nodes, four workers, and kill some.

    Args:
        nodes: of the cluster; the second is gone after this.
        model: makes the clips.
        requests: of the batch.
        out: folder of the clips.
        places: after so many clips a worker of the first node is killed, and the second node.
    """
    place: dict[str, Any] = {"ray": nodes.address, "workers": 4}
    made = ditto.batch(model, requests, out=out, **SETTINGS, **place)
    for count, _ in enumerate(made, start=1):
        if count == places[0]:
            os.kill(nodes.workers(0)[0], signal.SIGKILL)
        if count == places[1]:
            assert nodes.workers(1), "the second node has no part in the work"
            nodes.kill(1)


def differences(out: Path, one: Path, count: int) -> list[str]:
    """Return in what a batch is not what one process made of the same requests."""
    rows, expected = _rows(out), _rows(one)
    times = Counter(map(_number, rows))
    found = [f"request {i} has {times[i]} rows" for i in range(count) if times[i] != 1]
    if sorted(map(_told, rows)) != sorted(map(_told, expected)):
        found.append("the rows differ")
    for i in range(count):
        if not (out / f"{i:05d}.wav").exists():
            found.append(f"clip {i} is not there: {[r for r in rows if _number(r) == i]}")
            continue
        ours, theirs = (soundfile.read(folder / f"{i:05d}.wav")[0] for folder in (out, one))
        if not np.array_equal(ours, theirs):
            found.append(f"clip {i} is another")
    return found + [f"{path.name} is left behind" for path in out.glob(".*")]


def _rows(folder: Path) -> list[str]:
    return (folder / "index.jsonl").read_text().splitlines()


def _number(row: str) -> int:
    return int(json.loads(row)["number"])


def _told(row: str) -> str:
    """Return all of a row that the same clip has on any machine."""
    return json.dumps({key: value for key, value in json.loads(row).items() if key != "took"})
