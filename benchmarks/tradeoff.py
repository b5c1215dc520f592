"""What following a control costs the music: error against Fréchet distances, notes and CLAP.

Every control by the papers' loss and by one that is done when it is met, with pulls, over K, T' and
the strength of guidance, by searches, and by other methods. A row is a point, and rows of one line
make a curve of the picture. Cut it into pieces by ``--rows``; finished clips are kept, so a run
that was stopped goes on. Settings are chosen by it, so its seeds begin at 1000.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import measures as m
from benchmarks import music
from benchmarks import variants as v
from benchmarks.runner import Entry, Table
from benchmarks.tasks import Bench, Task, generate
from benchmarks.variants import Variant
from ditto.audio.scales import FREQUENCY
from ditto.controls import (
    Brightness,
    Intensity,
    LatentNorm,
    Melody,
    NearUncontrolled,
    Structure,
    Text,
)
from ditto.controls.base import Control
from ditto.errors import ModelError
from ditto.methods import BestOf
from ditto.methods.ditto2 import MAX_TRAVEL
from ditto.methods.guidance import FREEDOM_STRENGTH
from ditto.methods.latch import MEAN, VARIANCE
from ditto.request import Request
from ditto.runner import run

SEED = 1000
ITERATIONS, STEPS, SEARCHED, SHARES = (10, 20, 40, 70, 150), (1, 2, 8), (4, 16, 64), (0.5, 1.0, 2.0)
"""K, T' beside 4, clips searched, and strengths of guidance over the default."""
PULLED = {"intensity": 1.0, "melody": 0.1, "structure": 0.01, "brightness": 0.1, "text": 0.1}
"""λ of a pull beside each control, whose losses differ in size."""
TOLERANCES, DENSITIES, MARGINS = (0.05, 0.2), (0.0, 0.03), (0.3, 1.2)
"""Of form; weights of its onsets; nats by which a tune leads: beside the defaults."""
TRAVELS = {"melody": (0.4, 0.55), "structure": (0.1, 0.4), "text": (0.15, 0.6)}
"""Ways beside the defaults."""
TAG_PULLS = (2.0, 6.0)
"""λ of the pull towards the tags, over the default."""
GUIDED = (2.0, 3.0)
"""w beside the model's own."""
ENDS = (0.65, 0.7, 0.8)
"""Cosines at which a text is done, beside the default."""
FEW = 40
"""K of the rows that try one thing more."""
ERRORS = {
    "intensity": m.MSE,
    "melody": m.ACCURACY,
    "structure": m.STRUCTURE,
    "brightness": m.Measure("brightness_mse_octaves2", "octaves^2"),
    "text": m.TEXT,
}
TARGETS: dict[str, type[Control]] = {
    "intensity": Intensity,
    "melody": Melody,
    "structure": Structure,
    "brightness": Brightness,
    "text": Text,
}
COSTS = (*music.FRECHET.values(), m.FAD, music.NOTES, music.ONSETS, m.CLAP_SCORE)
"""What is paid, by ears that nothing is optimised against."""


def done_when_met(control: Control) -> Control:
    """Return the control with the loss that ends where its target is met."""
    if isinstance(control, Intensity):
        return replace(control, dead_zone=1.0)
    if isinstance(control, Melody):
        return replace(control, measure="margin")
    if isinstance(control, Structure):
        return Structure(control.form)
    if isinstance(control, Text):
        return Text(control.text, control.source)
    return control


def as_published(control: Control) -> Control:
    """Return the control with the papers' loss."""
    if isinstance(control, Intensity):
        return replace(control, dead_zone=0.0)
    if isinstance(control, Melody):
        return replace(control, measure="nll", octave=False)
    if isinstance(control, Structure):
        return Structure(control.form, tolerance=0.0, density=0.0)
    if isinstance(control, Text):
        return Text(control.text, control.source, enough=1.0)
    return control


Change = Callable[[Control, Request, Bench, Variant], Control]


@dataclass(frozen=True)
class Steered(Task):
    """A clip that follows one control, changed.

    Attributes:
        kind: of the control.
        change: of it.
        iterations: K, if not the control's own.
    """

    kind: str = "intensity"
    change: Change | None = None
    iterations: int | None = None

    def request(self, bench: Bench, variant: Variant, i: int, *more: Control) -> Request:
        """Return clip i's request."""
        request = super().request(bench, variant, i, *more)
        control = target(bench, self.kind, i)
        if self.change is not None:
            control = self.change(control, request, bench, variant)
        own = request.iterations if self.iterations is None else self.iterations
        given = bench.overrides.get("iterations", own)
        return replace(request, controls=(control,), iterations=given)


def target(bench: Bench, kind: str, i: int) -> Control:
    """Return clip i's target of a kind.

    Raises:
        ModelError: a text needs a CLAP.
    """
    if kind == "text":
        if bench.models.clap is None:
            raise ModelError("no weights: this row needs a CLAP, give it with --text-clap")
        return Text(bench.targets.tags(i).caption(), bench.models.clap)
    if kind == "brightness":
        shapes = [name for name, _ in FREQUENCY.shapes]
        rng = np.random.default_rng([bench.targets.seed + i, 8])
        return Brightness(shapes[int(rng.integers(len(shapes)))])
    return bench.targets.control(i, kind)


def _papers(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
    return as_published(control)


def _met(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
    return done_when_met(control)


def _form(**settings: float) -> Change:
    def change(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
        assert isinstance(control, Structure)
        return Structure(control.form, **settings)

    return change


def _melody(**settings: Any) -> Change:
    def change(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
        assert isinstance(control, Melody)
        return replace(control, **settings)

    return change


def _text(enough: float) -> Change:
    def change(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
        assert isinstance(control, Text)
        return Text(control.text, control.source, enough=enough)

    return change


def _pulled(pull: Control) -> Change:
    def change(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
        return as_published(control) + PULLED[control.kind] * pull

    return change


def _near(control: Control, request: Request, bench: Bench, variant: Variant) -> Control:
    """Pull towards the clip that the same seed gives without control."""
    plain = run(replace(request, controls=()), bench.models.of(variant))
    return as_published(control) + PULLED[control.kind] * NearUncontrolled(plain.x_0)


def bare(ctm: Variant) -> Variant:
    """Return DITTO-2 with nothing but corrections and the best of many noises."""
    return ctm.with_(regulariser=0.0, max_travel=MAX_TRAVEL, tag_pull=0.0)


def _unsearched(
    kind: str, ctm: Variant
) -> Iterator[tuple[str, Variant, Change | None, int | None]]:
    """Yield rows that begin at their own noise, not at the best of many."""
    for travel in TRAVELS[kind]:
        yield f"ways from one noise, {travel:g}", ctm.with_(max_travel=travel), None, None
    for end in ENDS if kind == "text" else ():
        yield f"ends from one noise, {end:g}", ctm, _text(end), None


def _tagged(own: float, ctm: Variant) -> Iterator[tuple[str, Variant, Change | None, int | None]]:
    """Yield rows of the pull towards the tags, whose λ is a control's `own`."""
    for share in TAG_PULLS:
        yield f"tag pulls, {share:g}", ctm.with_(tag_pull=share * own), None, None
    yield "without, tag pull", ctm.with_(tag_pull=0.0), None, None
    yield "one by one, tag pull", bare(ctm).with_(tag_pull=None), _papers, FEW


def _own(kind: str, ctm: Variant) -> Iterator[tuple[str, Variant, Change | None, int | None]]:
    """Yield the rows of what some controls alone have."""
    for travel in TRAVELS.get(kind, ()):
        yield f"ways, {travel:g}", ctm.with_(max_travel=travel), None, None
    if own := TARGETS[kind].corrected.tag_pull:
        yield from _tagged(own, ctm)
    if kind in ("structure", "text"):
        yield from _unsearched(kind, ctm.with_(candidates=1))
    for end in ENDS if kind == "text" else ():
        yield f"ends, {end:g}", ctm, _text(end), None
    if kind == "melody":
        for margin in MARGINS:
            yield f"margins, {margin:g}", ctm, _melody(margin=margin), FEW
        yield "margins, octave", ctm, _melody(octave=True), FEW
    if kind == "structure":
        for tolerance in TOLERANCES:
            yield f"tolerances, {tolerance:g}", ctm, _form(tolerance=tolerance), FEW
        for density in DENSITIES:
            yield f"onsets, {density:g}", ctm, _form(density=density), FEW


def _rows(kind: str) -> list[tuple[str, Variant, Change | None, int | None]]:
    """Return line and point of each row of a control, its method, change and K.

    "default" is what a user gets, with more or less of one thing; "without" leaves one thing out of
    it; "papers' loss" has nothing of it but corrections, and "one by one" adds one thing to that.
    """
    ctm, best = v.CTM, Variant("best of", BestOf(), student="ctm")
    plain = bare(ctm)
    rows: list[tuple[str, Variant, Change | None, int | None]] = [
        ("no control, teacher", v.TTM, None, None),
        ("no control, student", best.with_(count=1), None, None),
        ("default", ctm, None, None),
        *((f"default, K {k}", ctm, None, k) for k in ITERATIONS if k != FEW),
        *((f"default, T' {n}", ctm.with_(decode_steps=n), None, None) for n in STEPS),
        *((f"default, w {w:g}", ctm.with_(guidance=w), None, None) for w in GUIDED),
        *((f"default, {n} candidates", ctm.with_(candidates=n), None, None) for n in (16, 128)),
        ("default, keep decoded", ctm.with_(keep="decoded"), None, None),
        ("default, straight through", ctm.with_(corrections="every step"), None, None),
        ("default, hear sound", ctm.with_(hear="sound"), None, None),
        *_own(kind, ctm),
        ("without, regulariser", ctm.with_(regulariser=0.0), None, None),
        ("without, short way", ctm.with_(max_travel=MAX_TRAVEL), None, None),
        ("without, an end", ctm, _papers, None),
        *((f"papers' loss, K {k}", plain, _papers, k) for k in ITERATIONS),
        ("one by one, regulariser", plain.with_(regulariser=None), _papers, FEW),
        ("one by one, short way", ctm.with_(regulariser=0.0, tag_pull=0.0), _papers, FEW),
        ("one by one, an end", plain, _met, FEW),
        ("one by one, 16 candidates", plain.with_(candidates=16), _papers, FEW),
        ("one by one, keep decoded", plain.with_(keep="decoded"), _papers, FEW),
        ("one by one, norm", plain, _pulled(LatentNorm()), FEW),
        ("one by one, near", plain, _near, FEW),
        *((f"best of, {n}", best.with_(count=n), None, None) for n in SEARCHED),
        *(
            (
                f"FreeDoM, {share:g}",
                v.FREEDOM.with_(strength=share * FREEDOM_STRENGTH),
                _papers,
                None,
            )
            for share in SHARES
        ),
        ("FreeDoM, an end", v.FREEDOM, _met, None),
        *(
            (
                f"LatCH, {share:g}",
                v.LATCH.with_(variance=share * VARIANCE, mean=share * MEAN),
                _papers,
                None,
            )
            for share in SHARES
        ),
        ("DITTO", v.DITTO, _papers, None),
    ]
    if kind == "brightness":  # whose loss has no end
        return [row for row in rows if "an end" not in row[0]]
    return rows


def _entry(
    kind: str, name: str, variant: Variant, change: Change | None, iterations: int | None
) -> Entry:
    task = Steered(
        f"tradeoff {kind} {name}",
        generate,
        together=True,
        texts=kind == "text",
        kind=kind,
        change=change,
        iterations=iterations,
    )
    heard = (m.TUNE, m.TUNE_CONTRAST) if kind == "melody" else ()
    return Entry(kind, task, variant.with_(name=name), (ERRORS[kind], *heard, *COSTS, m.TIME))


TABLE = Table(
    "tradeoff",
    "What following a control costs the music",
    tuple(_entry(kind, *row) for kind in ERRORS for row in _rows(kind)),
    count=32,
    seed=SEED,
)
