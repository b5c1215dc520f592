"""Two small questions that the papers leave open, as tables.

`FEATURES`: what the loss is taken of while optimising. An estimate needs no decoder and is
corrected by what is heard now and then; the draft is the fast vocoder's sound; sound is the whole
decoder's, as in the papers. Errors are those of what a user gets. A text has no estimate, and a
form is read off x_0 in any case.

`SCHEDULES`: DITTO-2's adaptive M against fixed ones, which the paper tells of loudness alone (here
``d2-table2``), for a melody and a form.
"""

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.runner import Entry, Table, Versus

TASKS: dict[str, tuple[t.Task, tuple[m.Measure, ...]]] = {
    "intensity": (t.CONTROLS["intensity"], (m.MSE,)),
    "text": (t.TEXT, (m.TEXT,)),
    "melody": (t.CONTROLS["melody"], (m.ACCURACY, m.TUNE)),
    "structure": (t.CONTROLS["structure"], (m.STRUCTURE,)),
}
"""What is asked for, and its errors."""
ESTIMATE, DRAFT, SOUND = "estimate", "draft", "sound"
HEARD = {
    "intensity": (ESTIMATE, DRAFT, SOUND),
    "text": (DRAFT, SOUND),
    "melody": (ESTIMATE, DRAFT, SOUND),
    "structure": (ESTIMATE, SOUND),
}
FASTER = 2.0
"""Times sound, what is cheapest to hear."""


def _entry(name: str, variant: v.Variant) -> Entry:
    task, errors = TASKS[name]
    return Entry(name, task, variant, (*errors, *music.BESIDE, m.TIME))


def _heard(name: str) -> list[Versus]:
    """Return the claims on what is cheapest to hear: it is faster, and sound is more exact."""
    cheap, sound = f"{name}, {HEARD[name][0]}", f"{name}, {SOUND}"
    faster = f"{cheap}: at least {FASTER:g} times as fast as {SOUND}"
    return [
        Versus(faster, sound, cheap, m.TIME, least=FASTER),
        *(
            Versus(f"{sound}: {error.name} is better than of {HEARD[name][0]}", cheap, sound, error)
            for error in TASKS[name][1]
        ),
    ]


FEATURES = Table(
    "features",
    "What the loss is taken of while optimising",
    tuple(
        _entry(name, v.CTM.with_(name=heard, hear=heard))
        for name, several in HEARD.items()
        for heard in several
    ),
    claims=tuple(claim for name in HEARD for claim in _heard(name)),
    count=32,
)

SCHEDULED = ("melody", "structure")
FIXED, TWO, ADAPTIVE, CORRECTED = "CTM-1/4", "CTM-2/4", "CTM-*/4", "CTM-1/4 corrected"
BUDGETS = {
    FIXED: v.PUBLISHED_CTM.with_(decode_steps=4),
    TWO: v.PUBLISHED_CTM.with_(surrogate_steps=2, decode_steps=4),
    ADAPTIVE: v.PUBLISHED_CTM.with_(surrogate_steps="adaptive", decode_steps=4),
    CORRECTED: v.CTM.with_(decode_steps=4),
}
SCHEDULES = Table(
    "schedules",
    "The adaptive schedule against fixed ones, and against corrections",
    tuple(
        _entry(name, variant.with_(name=row))
        for name in SCHEDULED
        for row, variant in BUDGETS.items()
    ),
    claims=tuple(
        Versus(
            f"{name}: {error.name} of {better} is better than that of {worse}",
            above=f"{name}, {worse}",
            below=f"{name}, {better}",
            measure=error,
        )
        for name in SCHEDULED
        for error in TASKS[name][1]
        for worse, better in ((FIXED, ADAPTIVE), (TWO, ADAPTIVE), (ADAPTIVE, CORRECTED))
    ),
    count=32,
)

TABLES = (FEATURES, SCHEDULES)
