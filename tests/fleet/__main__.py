"""``python -m tests.fleet``: what docs/scale.md says of batches, shown at its size.

`make test` shows the same with a few requests. Speed and overhead need a machine with nothing else
to do, and about half an hour; ``--small`` tries everything in two minutes, and means nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from tests.conftest import tiny
from tests.fleet.batches import SETTINGS, differences, kill_in_the_middle, make, wishes
from tests.fleet.nodes import started

import ditto

PER_WORKER = 3
"""First clips of a worker that are not counted: it warms up, or has yet to begin."""


def cluster(folder: Path, *, small: bool) -> dict[str, Any]:
    """Make a batch on two nodes of Ray's, of which a worker and then a node are killed."""
    count = 40 if small else 400
    model, requests = tiny(), wishes(count)
    before = time.monotonic()
    with started() as nodes:
        places = (count // 4, count // 2)
        kill_in_the_middle(nodes, model, requests, folder / "ray", places=places)
    took = time.monotonic() - before
    make(model, requests, folder / "one")
    found = differences(folder / "ray", folder / "one", count)
    return {"requests": count, "seconds": round(took, 1), "differences": found, "holds": not found}


def real_requests(count: int) -> list[ditto.Request]:
    """Requests of the embedded model with four iterations."""
    return [ditto.Request(ditto.Intensity("swell"), seed=i, iterations=4) for i in range(count)]


def rate(model: Any, folder: Path, workers: int, count: int) -> float:
    """Return clips a second of a batch, once all its workers are at work."""
    times = []
    requests = real_requests(count)
    for _ in ditto.batch(model, requests, out=folder, workers=workers, **SETTINGS):
        times.append(time.perf_counter())
    skipped = PER_WORKER * workers
    return (count - 1 - skipped) / (times[-1] - times[skipped])


def processes(folder: Path, *, small: bool) -> dict[str, Any]:
    """Compare the rates of one process and two, of one thread each, in turns."""
    count, turns = (12, 1) if small else (40, 2)
    model = ditto.load(device="cpu")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for workers in rates:
            place = folder / f"{workers}-{turn}"
            rates[workers].append(rate(model, place, workers, count * workers))
    one, two = (sum(each) / turns for each in rates.values())
    factor = two / one
    told = {str(workers): [round(each, 4) for each in found] for workers, found in rates.items()}
    return {"clips a second": told, "factor": round(factor, 3), "holds": factor >= 1.8}


def overhead(folder: Path, *, small: bool) -> dict[str, Any]:
    """Compare a batch in this process with a loop, a clip of each in turns."""
    count = 10 if small else 200
    model, requests = ditto.load(device="cpu"), real_requests(count)
    (folder / "loop").mkdir()
    made = ditto.batch(model, requests, out=folder / "batch", **SETTINGS)
    batch = loop = 0.0
    ditto.run(requests[0], model, compare=False).save(folder / "first.wav", picture=False)
    for i, request in enumerate(requests):
        begun = time.perf_counter()
        next(made)
        between = time.perf_counter()
        result = ditto.run(request, model, compare=False)
        result.save(folder / "loop" / f"{i:05d}.wav", picture=False)
        batch, loop = batch + between - begun, loop + time.perf_counter() - between
    begun = time.perf_counter()
    assert next(made, None) is None
    batch += time.perf_counter() - begun
    share = batch / loop - 1
    found = {"requests": count, "batch": round(batch, 2), "loop": round(loop, 2)}
    return found | {"overhead": round(share, 4), "holds": share < 0.03}


def memory(folder: Path, *, small: bool) -> dict[str, Any]:
    """Measure the command's first process while another makes thousands of tiny clips."""
    first, last = (20, 200) if small else (100, 5000)
    tiny().save(folder / "model")
    line = {"loudness": "swell", "iterations": 1, "method": "ditto", "steps": 1}
    lines = (json.dumps(line | {"seed": seed}) for seed in range(last))
    (folder / "requests.jsonl").write_text("\n".join(lines))
    words = [sys.executable, "-m", "ditto", "batch", str(folder / "requests.jsonl")]
    words += ["--out", str(folder / "clips"), "--model", str(folder / "model")]
    words += ["--workers", "1", "--no-pictures", "--no-compare"]
    index, sizes = folder / "clips" / "index.jsonl", {first: 0.0, last: 0.0}
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as command:
        process = psutil.Process(command.pid)
        while command.poll() is None:
            rows = index.read_bytes().count(b"\n") if index.exists() else 0
            if rows >= first:
                place = last if sizes[first] else first
                with_rows = process.memory_info().rss / 2**20
                sizes[place] = max(sizes[place], with_rows)
            time.sleep(0.5)
    assert command.returncode == 0
    grown = sizes[last] - sizes[first]
    told = {f"MiB at {rows} rows": round(size, 1) for rows, size in sizes.items()}
    return told | {"grown": round(grown, 1), "holds": grown < 0.03 * sizes[first]}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "cluster": cluster,
    "processes": processes,
    "overhead": overhead,
    "memory": memory,
}


def main() -> int:
    """Show what is asked for; exit code 1 says that something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet")
    parser.add_argument("parts", nargs="*", help="by default all")
    parser.add_argument("--small", action="store_true", help="few requests, to try it")
    parser.add_argument("--log", type=Path, help="a JSON file of what came out")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="ditto-fleet-") as folder:
            found[name] = PARTS[name](Path(folder), small=given.small)
        print(name, json.dumps(found[name]), flush=True)
        if given.log:
            given.log.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(each["holds"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
