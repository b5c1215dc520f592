"""Every control and edit of the papers, on targets that training never saw, as data.

Each is done without control, by DITTO, and by DITTO-2 with a CTM and a CM student, with the same
x_T, tags and targets. Edits are made as a user makes them, into a recording; without control they
are cut and pasted. Errors are measured on what a user gets.
"""

from collections.abc import Callable

from benchmarks import measures as m
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.recordings import RECORDINGS
from benchmarks.report import Claim
from benchmarks.runner import Entry, Results, Table, Versus, figures
from ditto.methods import BestOf

NONE, SLOW_DITTO = v.TTM.with_(name="no control"), v.DITTO.with_(slow=True)
VARIANTS = (NONE, SLOW_DITTO, v.CTM, v.CM)
BEST_OF = v.Variant("best of 64", BestOf(), student="ctm")
"""What a search over seeds finds, without optimising."""
OTHER_NOISE = tuple(
    variant.with_(name=f"{variant.name}, other noise", other_noise=True)
    for variant in (v.CTM, v.CM)
)
"""Corrections fit a clip to the noise of its decoding: what is left of it with other noise."""
SEARCHED = ("intensity", "melody", "structure")
TASKS: dict[str, tuple[t.Task, tuple[m.Measure, ...], float | None]] = {
    "intensity": (t.CONTROLS["intensity"], (m.MSE,), 8.0),
    "melody": (t.CONTROLS["melody"], (m.ACCURACY,), None),
    "structure": (t.CONTROLS["structure"], (m.STRUCTURE,), 10.0),
    "outpainting": (RECORDINGS["outpainting"], (m.OUTPAINT,), 10.0),
    "outpainting to 30 s": (RECORDINGS["extending"], (m.OUTPAINT,), None),
    "inpainting": (RECORDINGS["inpainting"], (m.INPAINT,), 10.0),
    "looping": (RECORDINGS["looping"], (m.LOOP,), 10.0),
    "inversion": (t.INVERSION["ditto"], (m.INVERT,), None),
    "intensity+structure": (t.PAIRS["structure"], (m.MSE, m.STRUCTURE), 2.0),
    "intensity+melody": (t.PAIRS["melody"], (m.MSE, m.ACCURACY), 2.0),
    "intensity+outpainting": (RECORDINGS["intensity+outpainting"], (m.MSE, m.OUTPAINT), 2.0),
}
"""What is done, its errors, and how many times smaller these must become."""
SEAMED = ("outpainting", "outpainting to 30 s", "inpainting", "looping", "intensity+outpainting")


def _variants(name: str) -> tuple[v.Variant, ...]:
    """Return a task's methods; 30 s by DITTO would take ten minutes a clip."""
    if name == "outpainting to 30 s":
        return NONE, v.CTM
    return (*VARIANTS, *OTHER_NOISE, BEST_OF) if name in SEARCHED else VARIANTS


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
    if "+" in name and variant.name == v.DITTO.name:
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
    seams = (m.WITHIN, m.SEAMS) if name in SEAMED else ()
    return Entry(name, task, variant, (*errors, m.FAD, *seams, m.TIME), _papers(name, variant))


def _claims(name: str, variant: v.Variant) -> list[Callable[[Results], list[Claim]]]:
    """Return the claims of a task by a method: against fixed borders, and against no control."""
    row, plain = f"{name}, {variant.name}", f"{name}, {NONE.name}"
    _, errors, cut = TASKS[name]
    claims: list[Callable[[Results], list[Claim]]] = []
    if name == "melody":
        words = f"{row}: accuracy above 75 % (chance 8.3)"
        claims.append(Versus(words, row, None, m.ACCURACY, least=75.0))
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
        for variant in _variants(name)[1:]
        if variant is not BEST_OF
        for claim in _claims(name, variant)
    ),
)
