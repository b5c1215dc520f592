"""What each part of corrected DITTO-2 is worth, with DITTO given the same help, as data.

Loudness, on the budgets' targets. Corrections, from none to one in every step, stand beside one
another with the papers' Adam and with ours; DITTO has the proxies, Adam and kept activations that
DITTO-2 has; a search over seeds and a constant gain on the uncontrolled clip are what any method
has to beat; and all of it at w = 3 again.
"""

import torch

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.cache import Tensors
from benchmarks.controls import BEST_OF
from benchmarks.runner import Entry, Table, Versus
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output

CORRECTIONS = (0, 1, 2, 4, 8, "every step")
ADAMS = {
    "the papers' Adam": {"lr": 5e-3, "momentum": 0.9},
    "our Adam": {"lr": 1.5e-2, "momentum": 0.7},
}
OFFSET = "with a constant gain"
W = 3.0


def constant_gain(bench: t.Bench, task: t.Task, variant: v.Variant, i: int) -> Tensors:
    """Make a variant's clip louder or softer as a whole, by the mean of what it is off in dB."""
    clips = bench.some(t.CONTROLS["intensity"], variant, [i])
    model, control = bench.models.of(variant), bench.targets.control(i, "intensity")
    assert isinstance(control, Intensity)
    audio, x_0 = t.sound(clips["audio"]), torch.zeros(1, *model.shape())
    heard = Output(x_0, model, audio)
    gain = (control.target(heard) - control.feature(heard)).mean(dim=1, keepdim=True)
    louder = (audio * 10 ** (gain / 20)).clamp(-1, 1)
    errors = {n: e.double() for n, e in control.errors(Output(x_0, model, louder)).items()}
    kept = {"seconds_per_clip": clips["seconds_per_clip"], "timed": clips["timed"]}
    return kept | errors | {"audio": t.pcm(louder)}


GAIN = t.Task("intensity, constant gain", constant_gain, ("intensity",))


def corrected(corrections: int | str, adam: str) -> v.Variant:
    """Return DITTO-2 (1, 2) with so many corrections and one of the `ADAMS`."""
    often = "every step" if isinstance(corrections, str) else f"{corrections} times"
    name = f"CTM-1/2 corrected {often}, {adam}"
    return v.CTM.with_(name=name, decode_steps=2, corrections=corrections, **ADAMS[adam])


def helped(adam: str) -> v.Variant:
    """Return DITTO with DITTO-2's proxies and one of the `ADAMS`, without checkpointing."""
    return v.DITTO.with_(name=f"DITTO, proxies, {adam}", proxies=True, **ADAMS[adam])


def _entry(variant: v.Variant, group: str = "", task: t.Task = t.CONTROLS["intensity"]) -> Entry:
    return Entry(group, task, variant, (m.TIME, m.MSE, m.RHO, *music.BESIDE))


PAPERS, OURS = ADAMS
FASTER_ADAM = v.DITTO.with_(name=f"DITTO, {OURS}", **ADAMS[OURS])
LADDER = {(n, adam): corrected(n, adam) for adam in ADAMS for n in CORRECTIONS}
BEST, HELPED = LADDER[8, OURS], helped(OURS)
AT_W = (v.TTM, v.DITTO, v.PUBLISHED_CTM, v.CTM.with_(name="DITTO-2 CTM corrected"))
TABLE = Table(
    "ablation",
    "What each part of corrected DITTO-2 is worth",
    (
        _entry(v.TTM),
        _entry(v.TTM.with_(name=f"{v.TTM.name} {OFFSET}"), task=GAIN),
        _entry(BEST_OF),
        *(_entry(variant) for variant in LADDER.values()),
        _entry(v.PUBLISHED_CTM.with_(name=f"CTM-1/2 {OFFSET}"), task=GAIN),
        _entry(v.DITTO),
        _entry(FASTER_ADAM),
        _entry(helped(PAPERS)),
        _entry(HELPED),
        *(_entry(variant.with_(guidance=W), f"w={W:g}") for variant in AT_W),
    ),
    claims=tuple(
        Versus(claim, above, below, measure, least)
        for claim, above, below, measure, least in (
            (
                "8 corrections lower the MSE with the papers' Adam",
                LADDER[0, PAPERS].name,
                LADDER[8, PAPERS].name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections lower the MSE with our Adam",
                LADDER[0, OURS].name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "our Adam lowers the MSE of 8 corrections",
                LADDER[8, PAPERS].name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections have a lower MSE than the published DITTO-2 with a constant gain",
                f"CTM-1/2 {OFFSET}",
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections have a lower MSE than a correction in every step",
                LADDER["every step", OURS].name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections have a lower MSE than the best of 64 seeds",
                BEST_OF.name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "the MSE of 8 corrections is below that of DITTO with the same help",
                HELPED.name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections are at least 10 times as fast as DITTO with the same help",
                HELPED.name,
                BEST.name,
                m.TIME,
                10.0,
            ),
            (
                "at w = 3, DITTO-2 corrected is at least 25 times as fast as DITTO",
                f"w={W:g}, DITTO",
                f"w={W:g}, DITTO-2 CTM corrected",
                m.TIME,
                25.0,
            ),
        )
    ),
)
