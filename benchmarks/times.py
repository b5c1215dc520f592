"""How long a clip of each control takes by DITTO-2 as it is by default, in one run on one machine.

Times depend on the machine, so the claims are ratios: no control takes more than twice as long as
loudness. Give it a machine with nothing else to do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks import tradeoff
from benchmarks.measures import TIME
from benchmarks.runner import Entry, Table, Versus
from benchmarks.tasks import Bench, Task, generate
from benchmarks.variants import CTM, Variant
from ditto.controls import Beats, Chords
from ditto.controls.base import Control
from ditto.controls.notes import DEFAULT_BPM
from ditto.request import Request

PROGRESSION = "C:2 Am:2 F:2 G:2"
LOUDNESS = "intensity"
MOST = 2.0
"""Times loudness, at most."""


@dataclass(frozen=True)
class Timed(Task):
    """A clip that follows controls of some kinds.

    Attributes:
        kinds: of the controls.
    """

    kinds: tuple[str, ...] = ()

    def request(self, bench: Bench, variant: Variant, i: int, *more: Control) -> Request:
        """Return clip i's request."""
        controls = tuple(_control(bench, kind, i) for kind in self.kinds)
        return replace(super().request(bench, variant, i, *more), controls=controls)


def _control(bench: Bench, kind: str, i: int) -> Control:
    tempo = bench.targets.tags(i).tempo or DEFAULT_BPM
    made: dict[str, Callable[[], Control]] = {
        "beats": lambda: Beats(tempo),
        "chords": lambda: Chords(PROGRESSION, bpm=tempo),
    }
    return made[kind]() if kind in made else tradeoff.target(bench, kind, i)


ROWS = (
    (LOUDNESS,),
    ("melody",),
    ("structure",),
    ("text",),
    ("brightness",),
    ("beats",),
    ("chords",),
    (LOUDNESS, "melody"),
    (LOUDNESS, "structure"),
)


def _entry(kinds: tuple[str, ...]) -> Entry:
    name = "+".join(kinds)
    task = Timed(f"times {name}", generate, texts="text" in kinds, kinds=kinds)
    return Entry("", task, CTM.with_(name=name), (TIME,))


TABLE = Table(
    "times",
    "Seconds a clip by control",
    tuple(_entry(kinds) for kinds in ROWS),
    claims=tuple(
        Versus(
            f"a clip with {' and '.join(kinds)} takes at most {MOST:g} times loudness's time",
            "+".join(kinds),
            LOUDNESS,
            TIME,
            most=MOST,
        )
        for kinds in ROWS[1:]
    ),
    fresh=True,
    count=8,
)
