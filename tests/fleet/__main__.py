"""``python -m tests.fleet``: what docs/scale.md says of batches, shown at its size.

`make test` shows the same with a few requests. Speed and overhead need a machine with nothing else
to do, and about half an hour; ``--small`` tries everything in two minutes, and means nothing.

The log says on which machine, when and by which commit, what was measured, and which bound it is
held against.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from benchmarks.cache import git_commit, machine
from tests.fleet.parts import Found, cluster, memory, overhead, processes

import ditto

PARTS: dict[str, Callable[..., Found]] = {
    "cluster": cluster,
    "processes": processes,
    "overhead": overhead,
    "memory": memory,
}
FULL: dict[str, dict[str, Any]] = {
    "cluster": {"count": 400},
    "processes": {"count": 40, "turns": 2},
    "overhead": {"count": 200},
    "memory": {"first": 100, "last": 5000},
}
SMALL: dict[str, dict[str, Any]] = {
    "cluster": {"count": 40},
    "processes": {"count": 12, "turns": 1},
    "overhead": {"count": 10},
    "memory": {"first": 20, "last": 200, "every": 0.1},
}


def circumstances(small: bool) -> dict[str, Any]:
    """Return where, when and of what the figures are."""
    more = {
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        # Of a machine with nothing else to do it is near 0.
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    return {
        "command": shlex.join(["python", "-m", "tests.fleet", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ditto_version": ditto.__version__,
        "git_commit": git_commit(),
        "machine": machine() | more,
        "small": small,
    }


def shown(name: str, sizes: dict[str, Any]) -> Found:
    """Return what a part found; one that fails does not hold, and ends none of the others."""
    try:
        with tempfile.TemporaryDirectory(prefix="ditto-fleet-") as folder:
            return PARTS[name](Path(folder), **sizes)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "holds": False}


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
    names = given.parts or list(PARTS)
    found: dict[str, Found] = {}
    log = circumstances(given.small)
    for i, name in enumerate(names, start=1):
        found[name] = shown(name, (SMALL if given.small else FULL)[name])
        print(name, json.dumps(found[name]), flush=True)
        holds = all(each["holds"] for each in found.values())
        log |= {"parts": found, "missing": names[i:], "holds": holds}
        if given.log:
            given.log.parent.mkdir(parents=True, exist_ok=True)
            given.log.write_text(json.dumps(log, indent=1) + "\n")
    return int(not log["holds"])


if __name__ == "__main__":
    sys.exit(main())
