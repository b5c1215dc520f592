"""Every control and edit of the papers, on targets that training never saw, as data.

Each is done without control, by DITTO, and by DITTO-2 with a CTM and a CM student, with the same
x_T, tags and targets. Edits are made as a user makes them, into a recording; without control they
are cut and pasted. Errors are measured on what a user gets, and beside them what foreign ears hear
of the music: a target that is met by something that is no music any more is not met.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.recordings import RECORDINGS
from benchmarks.report import Claim
from benchmarks.runner import Entry, Results, Table, Versus, figures
from ditto.methods import BestOf

NONE, STUDENT = v.TTM.with_(name="no control"), v.STUDENT
VARIANTS = (NONE, v.DITTO, v.CTM, v.CM)
BEST_OF = v.Variant("best of 64", BestOf(), student="ctm")
"""What a search over seeds finds, without optimising."""
OTHER_NOISE = tuple(
    variant.with_(name=f"{variant.name}, other noise", other_noise=True)
    for variant in (v.CTM, v.CM)
)
"""Corrections fit a clip to the noise of its decoding: what is left of it with other noise."""
SEARCHED = ("intensity", "melody", "structure")
ERRORS: dict[str, tuple[m.Measure, ...]] = {
    "intensity": (m.MSE,),
    "melody": (m.ACCURACY, m.TUNE),
    "structure": (m.STRUCTURE,),
}
TASKS: dict[str, tuple[t.Task, tuple[m.Measure, ...], float | None]] = {
    "intensity": (t.CONTROLS["intensity"], (m.MSE,), 40.0),
    "melody": (t.CONTROLS["melody"], (m.ACCURACY, m.TUNE, m.TUNE_CONTRAST), None),
    "structure": (t.CONTROLS["structure"], (m.STRUCTURE,), 20.0),
    "text": (t.TEXT, (m.TEXT,), None),
    "outpainting": (RECORDINGS["outpainting"], (m.OUTPAINT,), 10.0),
    "outpainting to 30 s": (RECORDINGS["extending"], (m.OUTPAINT,), None),
    "inpainting": (RECORDINGS["inpainting"], (m.INPAINT,), 10.0),
    "looping": (RECORDINGS["looping"], (m.LOOP,), 10.0),
    "looping, free ends": (RECORDINGS["looping, free ends"], (m.LOOP,), 10.0),
    "inversion": (t.INVERSION["ditto"], (m.INVERT,), None),
    "intensity+structure": (t.PAIRS["structure"], (m.MSE, m.STRUCTURE), 2.0),
    "intensity+melody": (t.PAIRS["melody"], (m.MSE, m.ACCURACY, m.TUNE), 2.0),
    "melody+structure": (t.MELODY_FORM, (m.ACCURACY, m.TUNE, m.STRUCTURE), 2.0),
    **{
        f"{name}+text": (task, (*ERRORS[name], m.TEXT), None) for name, task in t.TEXT_PAIRS.items()
    },
    "intensity+outpainting": (RECORDINGS["intensity+outpainting"], (m.MSE, m.OUTPAINT), 2.0),
}
"""What is done, its errors, and how many times smaller these must become."""
HEARD = ("intensity", "melody", "structure", "text")
"""What generated clips follow, alone and in pairs: foreign ears hear these rows."""
COSTS = (*music.FRECHET.values(), music.NOTES, music.ONSETS, m.CLAP_SCORE)
ENOUGH: dict[str, tuple[tuple[m.Measure, str, dict[str, Any]], ...]] = {
    "intensity": ((m.MSE, "MSE at most 1 dB²", {"most": 1.0}),),
    "melody": (
        (m.ACCURACY, "accuracy at least 85 % (chance 8.3)", {"least": 85.0}),
        (m.TUNE, "basic-pitch hears the tune in at least 80 % of its frames", {"least": 80.0}),
    ),
}
PAIRED = ("intensity+structure", "intensity+melody", "intensity+outpainting")
"""Pairs that DITTO's paper has."""
SEAMED = (
    "outpainting",
    "outpainting to 30 s",
    "inpainting",
    "looping",
    "looping, free ends",
    "intensity+outpainting",
)


def _variants(name: str) -> tuple[v.Variant, ...]:
    """Return a task's methods; 30 s by DITTO would take ten minutes a clip, and free ends drone."""
    if name in ("outpainting to 30 s", "looping, free ends"):
        return NONE, v.CTM
    plain = (STUDENT,) if _heard(name) else ()
    return (*plain, *VARIANTS, *OTHER_NOISE, BEST_OF) if name in SEARCHED else (*plain, *VARIANTS)


def _papers(name: str, variant: v.Variant) -> dict[m.Measure, float | None]:
    """Return what DITTO's Tables 3, 7 and 9 have of a task."""
    row = {NONE.name: "Default TTM", v.DITTO.name: "DITTO"}.get(variant.name)
    columns = {
        "intensity": {m.MSE: "intensity MSE"},
        "melody": {m.ACCURACY: "melody acc %"},
        "structure": {m.STRUCTURE: "structure MSE"},
    }
    if row is not None and name in columns:
        return figures("d1_table3_controls", row, columns[name])
    if name == "inversion" and row is not None:
        how = "DITTO" if variant.name == v.DITTO.name else "DDIM"
        return figures("d1_table7_inversion_mse", how, {m.INVERT: "6s w=1"})
    if name in PAIRED and variant.name == v.DITTO.name:
        table, row = "d1_table9_multi_objective", f"{name} DITTO"
        second = TASKS[name][1][1]
        scale = 100.0 if second is m.ACCURACY else 1.0
        return figures(table, row, {m.MSE: "first"}) | figures(
            table, row, {second: "second"}, scale
        )
    return {}


def _entry(name: str, variant: v.Variant) -> Entry:
    task, errors, _ = TASKS[name]
    if name == "inversion" and variant is NONE:
        task = t.INVERSION["ddim"]
    more = (m.WITHIN, m.SEAMS) if name in SEAMED else COSTS if _heard(name) else ()
    return Entry(name, task, variant, (*errors, m.FAD, *more, m.TIME), _papers(name, variant))


def _heard(name: str) -> bool:
    return set(name.split("+")) <= set(HEARD)


def _claims(name: str, variant: v.Variant) -> list[Callable[[Results], list[Claim]]]:
    """Return the claims of a task by a method: against fixed borders, and against no control."""
    row, plain = f"{name}, {variant.name}", f"{name}, {NONE.name}"
    _, errors, cut = TASKS[name]
    claims: list[Callable[[Results], list[Claim]]] = []
    for measure, words, border in ENOUGH.get(name, ()):
        claims.append(Versus(f"{row}: {words}", row, None, measure, **border))
    if _heard(name):
        claims += music.kept(row, f"{name}, {STUDENT.name}")
    if name == "inversion":
        claims.append(Versus(f"{row}: MSE below 0.003", row, None, m.INVERT, most=0.003))
    if name in SEAMED:
        words = f"{row}: 95 % of the seams jump no more than 95 % of a real clip's moments"
        claims.append(Versus(words, row, None, m.WITHIN, least=0.95))
        words = f"{row}: seams jump less than where clips are cut and pasted"
        claims.append(Versus(words, plain, row, m.SEAMS))
    for error in errors if cut else ():
        words = f"{row}: {error.name} at least {cut:g} times nearer than without control"
        claims.append(Versus(words, plain, row, error, least=cut or 1.0))
    return claims


TABLE = Table(
    "controls",
    "Every control and edit",
    tuple(_entry(name, variant) for name in TASKS for variant in _variants(name)),
    claims=tuple(
        claim
        for name in TASKS
        for variant in _variants(name)
        if variant not in (NONE, STUDENT, BEST_OF)
        for claim in _claims(name, variant)
    ),
    count=32,
)
