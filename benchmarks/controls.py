"""``ditto-music bench controls``: every control and edit of the papers, on targets that training
never saw.

Each is done without control, by DITTO, and by DITTO-2 with a CTM and a CM student, with the same
x_T, tags and targets. Edits are made as a user makes them, into a recording; without control they
are cut and pasted. Errors are measured on what a user gets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import charts
from benchmarks.ear import FAD, Found
from benchmarks.paper import paper
from benchmarks.report import Claim, Report, Tensors
from benchmarks.setups import CM, CTM, DITTO, TTM, Bench, Setup, Task
from benchmarks.tables import ACCURACY, MSE, STRUCTURE, TIME, Entry, Table
from benchmarks.tasks import CONTROLS, INVERSION, PAIRS, WIDE_OVERLAP, control_of, values_of
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.regions import SelfLoop
from ditto.edit.edits import SELF_OVERLAP, closed
from ditto.edit.timeline import FADE_SECONDS, Timeline
from ditto.edit.windows import Filling
from ditto.errors import ModelError
from ditto.eval.bootstrap import mean_interval, ratio_interval
from ditto.eval.seams import seam_jump
from ditto.request import run

OVERLAP, GAP = 1.0, 4.0
"""Seconds: of out- and inpainting, and of the gap to inpaint."""
LONGER = 5.05
"""How many times as long a clip becomes in `_grown`: 5.94 s become 30."""
MOST_OVERLAP = 0.4
"""Share of a clip that is overlapped at most."""
NONE = TTM.but("no control")
SETUPS = (NONE, DITTO.but(DITTO.name, few=True), CTM, CM)


def song(bench: Bench, i: int) -> Timeline:
    """A held-out clip as a recording."""
    samples = bench.real.audio[i].numpy()[None]
    return Timeline(samples, np.ones(samples.shape[1], bool), bench.model.spec.sample_rate)


def _filled(
    kind: str, names: Sequence[str], overlap: float, bench: Bench, i: int, setup: Setup
) -> Tensors:
    """A held-out clip that goes on, or whose middle is made anew."""
    recording, model = song(bench, i), bench.player(setup)
    overlap = min(overlap, MOST_OVERLAP * recording.seconds)
    new = recording.length - recording.at(overlap) - 64
    gap = (recording.length, recording.length + new)
    if kind == "inpaint":
        middle, half = (
            recording.length // 2,
            recording.at(min(GAP, recording.seconds - 2 * overlap) / 2),
        )
        gap = (middle - half, middle + half)
    timeline = recording.extended(0, max(gap[1] - recording.length, 0))
    filling = _filling(
        kind, overlap, bench, i, setup, [control_of(bench, i, name) for name in names]
    )
    result, *_ = filling.fill(timeline, [gap])
    return values_of(result) | _jumps(timeline, gap, model.spec)


def _grown(bench: Bench, i: int, setup: Setup) -> Tensors:
    """A held-out clip that goes on for several windows; the sound that is kept is the last
    one's.
    """
    recording, model = song(bench, i), bench.player(setup)
    timeline = recording.extended(0, round((LONGER - 1) * recording.length))
    gap = (recording.length, timeline.length)
    filling = _filling("outpaint", min(OVERLAP, MOST_OVERLAP * recording.seconds), bench, i, setup)
    results = [values_of(result) for result in filling.fill(timeline, [gap])]
    errors, seconds = (
        torch.stack([r[name] for r in results]) for name in ("outpaint_mse", "seconds_per_clip")
    )
    whole = {"outpaint_mse": errors.mean(dim=0), "seconds_per_clip": seconds.sum(dim=0)}
    return results[-1] | whole | _jumps(timeline, filling.joins(timeline, [gap]), model.spec)


def _filling(
    kind: str, overlap: float, bench: Bench, i: int, setup: Setup, controls: Sequence[Control] = ()
) -> Filling:
    request, all_context = bench.request(i, setup, controls), kind == "inpaint"
    return Filling(
        kind, bench.player(setup), request, overlap, all_context=all_context, fade=_fade(setup)
    )


def _fade(setup: Setup) -> float:
    """Seconds of cross-fades: without control, clips are cut and pasted."""
    return 0.0 if setup.method == "none" else FADE_SECONDS


def _jumps(timeline: Timeline, edges: Sequence[int], spec: AudioSpec) -> Tensors:
    heard = torch.from_numpy(timeline.samples[0])
    inner = [edge / timeline.sample_rate for edge in edges if 0 < edge < timeline.length]
    return {
        "seam_jumps": torch.tensor(
            [[seam_jump(heard, at, spec) for at in inner]], dtype=torch.float64
        )
    }


def _looped(bench: Bench, i: int, setup: Setup) -> Tensors:
    """A loop from nothing; its join is heard when it is repeated."""
    model, spec = bench.player(setup), bench.model.spec
    overlap = round(SELF_OVERLAP * spec.frame_rate)
    control = SelfLoop(model.shape()[-1] - overlap, overlap)
    result = run(bench.request(i, setup, [control]), model)
    once = closed(
        result.audio.numpy(), spec.samples(control.period), round(_fade(setup) * spec.sample_rate)
    )
    twice = Timeline(np.tile(once, 2), np.ones(2 * once.shape[1], bool), spec.sample_rate)
    return values_of(result) | _jumps(twice, [once.shape[1]], spec)


def _task(name: str, kind: str, names: Sequence[str] = (), overlap: float = OVERLAP) -> Task:
    return Task(
        f"{name} of a recording", partial(_filled, kind, names, overlap), balanced=bool(names)
    )


TASKS: dict[str, tuple[Task, tuple[str, ...], float | None]] = {
    "intensity": (CONTROLS["intensity"], (MSE,), 8.0),
    "melody": (CONTROLS["melody"], (ACCURACY,), None),
    "structure": (CONTROLS["structure"], (STRUCTURE,), 10.0),
    "outpainting": (_task("outpainting", "outpaint"), ("outpaint_mse",), 10.0),
    "outpainting to 30 s": (Task("outpainting to 30 s", _grown), ("outpaint_mse",), None),
    "inpainting": (_task("inpainting", "inpaint"), ("inpaint_mse",), 10.0),
    "looping": (Task("loop from nothing, closed", _looped), ("loop_mse",), 10.0),
    "inversion": (INVERSION, ("invert_mse",), None),
    "intensity+structure": (PAIRS["structure"], (MSE, STRUCTURE), 2.0),
    "intensity+melody": (PAIRS["melody"], (MSE, ACCURACY), 2.0),
    "intensity+outpainting": (
        _task("intensity+outpainting", "outpaint", ("intensity",), WIDE_OVERLAP),
        (MSE, "outpaint_mse"),
        2.0,
    ),
}
"""METHOD's controls and edits, and Table 9's pairs: what is done, its errors, and how many times
smaller these must become."""
SEAMED = ("outpainting", "outpainting to 30 s", "inpainting", "looping", "intensity+outpainting")


def _setups(name: str) -> tuple[Setup, ...]:
    """The four methods; inversion without control is DDIM's alone, and 30 s by DITTO would take ten
    minutes a clip.
    """
    if name == "outpainting to 30 s":
        return NONE, CTM
    if name != "inversion":
        return SETUPS
    return NONE.but(NONE.name, how="ddim"), *(
        setup.but(setup.name, how="ditto") for setup in SETUPS[1:]
    )


def _figures(name: str, setup: Setup) -> Mapping[str, float]:
    """What DITTO's Tables 3, 7 and 9 have of a task."""
    row = {NONE.name: "Default TTM", DITTO.name: "DITTO"}.get(setup.name)
    if row is None:
        return {}
    plain = {
        measure: paper("d1_table3_controls", row, column)
        for measure, column in (
            (MSE, "intensity MSE"),
            (ACCURACY, "melody acc %"),
            (STRUCTURE, "structure MSE"),
        )
    }
    if "+" in name and row == "DITTO":
        first, second = (
            paper("d1_table9_multi_objective", f"{name} DITTO", column)
            for column in ("first", "second")
        )
        plain = {MSE: first, STRUCTURE: second, ACCURACY: None if second is None else 100 * second}
    plain["invert_mse"] = paper(
        "d1_table7_inversion_mse", "DDIM" if row == "Default TTM" else "DITTO", "6s w=1"
    )
    return {measure: value for measure, value in plain.items() if value is not None}


def controls_table(names: Sequence[str] = ()) -> Table:
    """The table of some of `TASKS`; none named is all.

    Raises:
        ModelError: there is no task of a name.
    """
    unknown = sorted(set(names) - set(TASKS))
    if unknown:
        raise ModelError(f"there is no task {unknown[0]!r}: choose of {', '.join(TASKS)}")
    entries = []
    for name, (task, errors, _) in TASKS.items():
        seams = ("seams_within_limit", "seam_jumps") if name in SEAMED else ()
        entries += [
            Entry(name, task, setup, (*errors, FAD, *seams, TIME), figures=_figures(name, setup))
            for setup in _setups(name)
            if not names or name in names
        ]
    return Table(
        "controls",
        "Every control and edit",
        None,
        tuple(entries),
        NONE.name,
        claims=_claims,
        picture=_picture,
    )


def _claims(found: Mapping[Entry, Found | str]) -> list[Claim]:
    claims = []
    plain = {entry.group: clips for entry, clips in found.items() if entry.setup.name == NONE.name}
    for entry, own in found.items():
        base = plain[entry.group]
        if entry.setup.name == NONE.name or isinstance(own, str) or isinstance(base, str):
            continue
        base = _first(base, len(own.tensors["seconds"]))
        if entry.group == "melody":
            words = f"melody, {entry.setup.name}: accuracy of at least 75 % (chance 8.3)"
            claims.append(Claim.at_least(words, mean_interval(own.values(ACCURACY)), 75.0))
        if entry.group == "inversion":
            words = f"inversion, {entry.setup.name}: MSE of at most 0.003"
            claims.append(Claim.at_most(words, mean_interval(own.values("invert_mse")), 0.003))
        if entry.group in SEAMED:
            claims += _seam_claims(entry.name, own, base)
        _, errors, cut = TASKS[entry.group]
        for column in errors if cut else ():
            ratio = ratio_interval(_error(base, column), _error(own, column), paired=True)
            words = f"{entry.name}: {column} at least {cut:g} times nearer than without control"
            claims.append(Claim.at_least(words, ratio, cut or 0.0))
    return claims


def _first(found: Found, count: int) -> Found:
    """The first clips alone, as many as another row has."""
    return replace(found, tensors={name: values[:count] for name, values in found.tensors.items()})


def _seam_claims(name: str, own: Found, pasted: Found) -> list[Claim]:
    """Whether seams are heard, against what real clips do, and against the same clips cut and
    pasted.
    """
    column = "seams_within_limit"
    inside = mean_interval(own.values(column))
    smaller = ratio_interval(pasted.values("seam_jumps"), own.values("seam_jumps"), paired=True)
    return [
        Claim.at_least(
            f"{name}: 95 % of the seams jump no more than 95 % of a real clip's moments",
            inside,
            0.95,
        ),
        Claim.at_least(
            f"{name}: seams jump less than where clips are cut and pasted", smaller, 1.0
        ),
    ]


def _error(found: Found, column: str) -> Any:
    """An error that falls as things get better: an accuracy counts by what it lacks."""
    values = found.values(column)
    return 100 - values if column == ACCURACY else values


def _picture(report: Report) -> Figure:
    """Every error as a share of no control's."""
    shares = {
        f"{name}: {column}": {
            setup.name: share
            for setup in SETUPS[1:]
            if (share := _share(report, name, column, setup)) is not None
        }
        for name, (_, errors, _) in TASKS.items()
        for column in errors
        if any(row.row.startswith(f"{name},") for row in report.rows)
    }
    return charts.shares(
        shares, "error as a share of no control's (melody: of what accuracy lacks)"
    )


def _share(report: Report, name: str, column: str, setup: Setup) -> float | None:
    if setup.name not in (own.name for own in _setups(name)):
        return None
    own, plain = (
        report.value(f"{name}, {setup.name}", column),
        report.value(f"{name}, {NONE.name}", column),
    )
    if own is None or plain is None:
        return None
    own, plain = (100 - v if column == ACCURACY else v for v in (own, plain))
    return own / plain if plain else None
