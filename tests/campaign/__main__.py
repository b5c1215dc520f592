"""``python -m tests.campaign``: the whole campaign, and a table of what came of it."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tests.campaign.trials import TRIALS, attempt
from tests.campaign.world import World, preload


@dataclass
class Tally:
    """What came of the trials of one kind.

    Attributes:
        outcomes: how often each.
        failures: seeds and reasons.
        slowest: processor time in seconds of the slowest, and its seed.
        memory: the largest growth of memory during a trial, in MiB, and its seed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, -1)
    memory: tuple[float, int] = (0.0, -1)


def memory(name: str) -> float:
    """Return a line of this process's status in MiB: VmRSS, or VmHWM, the peak; 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        try:
            place.write_text("5")
        except OSError:
            return


def campaign(
    world: World, counts: dict[str, int], first: int, log: Path | None
) -> dict[str, Tally]:
    """Make all trials; a failure ends none of the others. Ctrl-C ends with what was made."""
    tallies = {kind: Tally() for kind in counts}
    for kind, count in counts.items():
        tally, begun, stopped = tallies[kind], time.monotonic(), False
        try:
            for seed in range(first, first + count):
                one_trial(world, kind, seed, tally)
        except KeyboardInterrupt:
            stopped = True
        made, took = sum(tally.outcomes.values()), time.monotonic() - begun
        print(f"{kind}: {made} of {count} in {took:.0f} s: {dict(tally.outcomes)}", file=sys.stderr)
        if log is not None:
            log.write_text(json.dumps(summary(tallies, first), indent=1) + "\n")
        if stopped:
            break
    return tallies


def one_trial(world: World, kind: str, seed: int, tally: Tally) -> None:
    """Make a trial, and note what came of it."""
    forget_peak()
    before, started = memory("VmRSS"), processor_time()
    try:
        outcome = attempt(world, kind, seed)
    except Exception as error:
        outcome = "failed"
        tally.failures[seed] = f"{type(error).__name__}: {error}"
        print(f"FAILED {kind} {seed}", file=sys.stderr)
        traceback.print_exc()
    tally.outcomes[outcome] += 1
    tally.slowest = max(tally.slowest, (processor_time() - started, seed))
    tally.memory = max(tally.memory, (memory("VmHWM") - before, seed))


def processor_time() -> float:
    """Return the seconds that this process and its children have computed."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def summary(tallies: dict[str, Tally], first: int) -> dict[str, object]:
    """Return the tallies as JSON."""
    return {
        "first_seed": first,
        "kinds": {
            kind: {
                "outcomes": dict(sorted(tally.outcomes.items())),
                "failures": tally.failures,
                "slowest": {"seconds": round(tally.slowest[0], 3), "seed": tally.slowest[1]},
                "memory": {"MiB": round(tally.memory[0], 1), "seed": tally.memory[1]},
            }
            for kind, tally in tallies.items()
            if tally.outcomes
        },
    }


def main() -> int:
    """Run the campaign; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the whole campaign")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--only", action="append", choices=TRIALS, help="kinds of trials")
    parser.add_argument("--log", type=Path, help="receives what came of it as JSON")
    given = parser.parse_args()
    counts = {
        kind: max(1, round(given.share * count))
        for kind, (_, count) in TRIALS.items()
        if given.only is None or kind in given.only
    }
    torch.set_num_threads(1)  # a child of a process with several would wait for the others for ever
    preload()
    root = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        tallies = campaign(World.make(root), counts, given.seed, given.log)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    failed = sum(len(tally.failures) for tally in tallies.values())
    total = sum(sum(tally.outcomes.values()) for tally in tallies.values())
    print(f"{total} trials from seed {given.seed} on, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
