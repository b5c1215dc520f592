"""What each part of corrected DITTO-2 is worth, with DITTO given the same help, as data.

Loudness, on the budgets' targets. Corrections, from none to one in every step, which is a
straight-through estimator, stand beside one another with the papers' Adam and with ours, heard by
proxies between corrections and in sound; DITTO has one part after the other of what DITTO-2 has,
and all of it; a search over seeds and a constant gain on the uncontrolled clip are what any method
has to beat; beside it stand others' terms that keep x_T like noise, and LatCH's guidance; and all
of it at w = 3 again.
"""

import torch

from benchmarks import measures as m
from benchmarks import music
from benchmarks import tasks as t
from benchmarks import variants as v
from benchmarks.cache import Tensors
from benchmarks.controls import BEST_OF
from benchmarks.helped import HELPED_DITTO, Helped, Pulled
from benchmarks.runner import Entry, Table, Versus
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.pulls import LatentNorm, LatentStatistics

CORRECTIONS = (0, 1, 2, 4, 8, "every step")
ADAMS = {
    "the papers' Adam": {"lr": 5e-3, "momentum": 0.9},
    "our Adam": {"lr": 1.5e-2, "momentum": 0.7},
}
PROXY, SOUND = "estimate", "sound"
EARS = {PROXY: "", SOUND: ", heard in sound"}
"""What is heard between corrections, and how a row tells it."""
INTENSITY = t.CONTROLS["intensity"]
OFFSET = "with a constant gain"
W = 3.0
"""The most that the student was taught. The model's own w is 1; the papers do not tell theirs."""


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


def corrected(corrections: int | str, adam: str, heard: str) -> v.Variant:
    """Return DITTO-2 (1, 2) with so many corrections, one of the `ADAMS`, heard in one of `EARS`.

    Without corrections K is the paper's, sound is heard and nothing pulls x_T back.
    """
    often = "every step" if isinstance(corrections, str) else f"{corrections} times"
    name = f"CTM-1/2 corrected {often}, {adam}{EARS[heard]}"
    settings = {"decode_steps": 2, "corrections": corrections, "hear": heard, **ADAMS[adam]}
    return v.CTM.with_(name=name, **settings)


def heard_by_proxies(adam: str) -> v.Variant:
    """Return DITTO with DITTO-2's proxies and one of the `ADAMS`."""
    return v.DITTO.with_(name=f"DITTO, proxies, {adam}", proxies=True, **ADAMS[adam])


def _entry(variant: v.Variant, group: str = "", task: t.Task = INTENSITY) -> Entry:
    return Entry(group, task, variant, (m.TIME, m.MSE, m.RHO, *music.BESIDE))


PAPERS, OURS = ADAMS
FASTER_ADAM = v.DITTO.with_(name=f"DITTO, {OURS}", **ADAMS[OURS])
LADDER = {
    (n, adam, heard): corrected(n, adam, heard)
    for heard in EARS
    for adam in ADAMS
    for n in CORRECTIONS
    if n or heard == PROXY
}
BEST = LADDER[8, OURS, PROXY]
NORM = Pulled.of(INTENSITY, 1.0 * LatentNorm(), "norm")
WEIGHT = Intensity.corrected.regulariser
STATISTICS = Pulled.of(INTENSITY, WEIGHT * LatentStatistics(), "statistics")
REGULARISED = (
    (v.PUBLISHED_CTM.with_(name="CTM-1/1, ReNO's norm", decode_steps=1), NORM),
    (v.PUBLISHED_CTM.with_(name="CTM-1/2, DNO's statistics"), STATISTICS),
    (v.DITTO.with_(name="DITTO, ReNO's norm"), NORM),
    (v.DITTO.with_(name="DITTO, DNO's statistics"), STATISTICS),
)
"""ReNO optimises the noise of a one-step generator, DNO that of a whole chain. The weights are
those of `tradeoff` and of DITTO-2's default."""
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
        *(_entry(heard_by_proxies(adam)) for adam in ADAMS),
        _entry(HELPED_DITTO, task=Helped.of(INTENSITY)),
        *(_entry(variant, task=task) for variant, task in REGULARISED),
        _entry(v.LATCH),
        *(_entry(variant.with_(guidance=W), f"w={W:g}") for variant in AT_W),
    ),
    claims=tuple(
        Versus(claim, above, below, measure, least)
        for claim, above, below, measure, least in (
            (
                "8 corrections lower the MSE with the papers' Adam",
                LADDER[0, PAPERS, PROXY].name,
                LADDER[8, PAPERS, PROXY].name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections lower the MSE with our Adam",
                LADDER[0, OURS, PROXY].name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "our Adam lowers the MSE of 8 corrections",
                LADDER[8, PAPERS, PROXY].name,
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
                LADDER["every step", OURS, PROXY].name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections heard by proxies are at least twice as fast as heard in sound",
                LADDER[8, OURS, SOUND].name,
                BEST.name,
                m.TIME,
                2.0,
            ),
            (
                "8 corrections have a lower MSE heard in sound than by proxies",
                BEST.name,
                LADDER[8, OURS, SOUND].name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections have a lower MSE than guidance through estimates (LatCH)",
                v.LATCH.name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            *(
                (
                    f"DNO's statistics bring published DITTO-2 nearer to real music ({far.name})",
                    LADDER[0, PAPERS, PROXY].name,
                    "CTM-1/2, DNO's statistics",
                    far,
                    1.0,
                )
                for far in music.DISTANCES
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
                HELPED_DITTO.name,
                BEST.name,
                m.MSE,
                1.0,
            ),
            (
                "8 corrections are at least 10 times as fast as DITTO with the same help",
                HELPED_DITTO.name,
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
