"""Every control and edit of the papers, on targets that training never saw, as data.

Each is done without control, by DITTO, and by DITTO-2 with a CTM and a CM student, with the same
x_T, tags and targets. Edits are made as a user makes them, into a recording; without control they
are cut and pasted. Errors are measured on what a user gets.
"""

from collections.abc import Callable

from benchmarks.measures import (
    ACCURACY,
    FAD,
    INPAINT,
    INVERT,
    LOOP,
    MSE,
    OUTPAINT,
    SEAMS,
    STRUCTURE,
    TIME,
    WITHIN,
    Measure,
)
from benchmarks.report import Claim
from benchmarks.runner import Entry, Level, Results, Table, Versus, figures
from benchmarks.tasks import CONTROLS, INVERSION, PAIRS, RECORDINGS, Task
from benchmarks.variants import CM, CTM, DITTO, TTM, Variant

NONE, SLOW_DITTO = TTM.with_(name="no control"), DITTO.with_(slow=True)
VARIANTS = (NONE, SLOW_DITTO, CTM, CM)
TASKS: dict[str, tuple[Task, tuple[Measure, ...], float | None]] = {
    "intensity": (CONTROLS["intensity"], (MSE,), 8.0),
    "melody": (CONTROLS["melody"], (ACCURACY,), None),
    "structure": (CONTROLS["structure"], (STRUCTURE,), 10.0),
    "outpainting": (RECORDINGS["outpainting"], (OUTPAINT,), 10.0),
    "outpainting to 30 s": (RECORDINGS["extending"], (OUTPAINT,), None),
    "inpainting": (RECORDINGS["inpainting"], (INPAINT,), 10.0),
    "looping": (RECORDINGS["looping"], (LOOP,), 10.0),
    "inversion": (INVERSION["ditto"], (INVERT,), None),
    "intensity+structure": (PAIRS["structure"], (MSE, STRUCTURE), 2.0),
    "intensity+melody": (PAIRS["melody"], (MSE, ACCURACY), 2.0),
    "intensity+outpainting": (RECORDINGS["intensity+outpainting"], (MSE, OUTPAINT), 2.0),
}
"""What is done, its errors, and how many times smaller these must become."""
SEAMED = ("outpainting", "outpainting to 30 s", "inpainting", "looping", "intensity+outpainting")


def _variants(name: str) -> tuple[Variant, ...]:
    """Return the four methods; 30 s by DITTO would take ten minutes a clip."""
    return (NONE, CTM) if name == "outpainting to 30 s" else VARIANTS


def _papers(name: str, variant: Variant) -> dict[Measure, float | None]:
    """Return what DITTO's Tables 3, 7 and 9 have of a task."""
    row = {NONE.name: "Default TTM", DITTO.name: "DITTO"}.get(variant.name)
    columns = {
        "intensity": {MSE: "intensity MSE"},
        "melody": {ACCURACY: "melody acc %"},
        "structure": {STRUCTURE: "structure MSE"},
    }
    if row is not None and name in columns:
        return figures("d1_table3_controls", row, columns[name])
    if name == "inversion" and row is not None:
        how = "DITTO" if variant.name == DITTO.name else "DDIM"
        return figures("d1_table7_inversion_mse", how, {INVERT: "6s w=1"})
    if "+" in name and variant.name == DITTO.name:
        table, row = "d1_table9_multi_objective", f"{name} DITTO"
        second = TASKS[name][1][1]
        scale = 100.0 if second is ACCURACY else 1.0
        return figures(table, row, {MSE: "first"}) | figures(table, row, {second: "second"}, scale)
    return {}


def _entry(name: str, variant: Variant) -> Entry:
    task, errors, _ = TASKS[name]
    if name == "inversion" and variant is NONE:
        task = INVERSION["ddim"]
    seams = (WITHIN, SEAMS) if name in SEAMED else ()
    return Entry(name, task, variant, (*errors, FAD, *seams, TIME), _papers(name, variant))


def _claims(name: str, variant: Variant) -> list[Callable[[Results], list[Claim]]]:
    """Return the claims of a task by a method: against fixed borders, and against no control."""
    row, plain = f"{name}, {variant.name}", f"{name}, {NONE.name}"
    _, errors, cut = TASKS[name]
    claims: list[Callable[[Results], list[Claim]]] = []
    if name == "melody":
        words = f"{row}: accuracy above 75 % (chance 8.3)"
        claims.append(Level(words, row, ACCURACY, least=75.0))
    if name == "inversion":
        claims.append(Level(f"{row}: MSE below 0.003", row, INVERT, most=0.003))
    if name in SEAMED:
        words = f"{row}: 95 % of the seams jump no more than 95 % of a real clip's moments"
        claims.append(Level(words, row, WITHIN, least=0.95))
        words = f"{row}: seams jump less than where clips are cut and pasted"
        claims.append(Versus(words, plain, row, SEAMS))
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
        for claim in _claims(name, variant)
    ),
)
