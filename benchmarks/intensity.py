"""``ditto-music bench intensity``: how closely DITTO follows loudness curves that nobody prepared
for.

Every clip gets tags and a target curve drawn by its seed: named shapes with random ends, and
breakpoints at random. The same x_T is decoded without control and after DITTO; both are measured on
the sound that a user gets, in dB² (DITTO, Table 3: 40.843 without control, 4.758 with).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmarks import charts
from benchmarks.clips import chain_for, weights_digest
from benchmarks.report import Claim, Partial, Report, Row, Tensors
from ditto.audio.features import intensity
from ditto.controls.base import Output
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.per_item import PerItem
from ditto.diffusion.samplers import Chain
from ditto.eval.bootstrap import mean_interval, ratio_interval
from ditto.methods.ditto import decode, ditto
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.request import draw_x_T

LOWEST_DB, HIGHEST_DB = -40.0, -14.0
"""Range of the target curves' levels."""

PAPER_MSE = {"no control": 40.843, "DITTO": 4.758}
"""DITTO, Table 3: intensity MSE."""

CUT = 8.0
"""How many times smaller the MSE must become (the papers' ratio is 8.58)."""

SHAPES: tuple[Callable[[float], tuple[tuple[float, float], ...]], ...] = (
    lambda at: ((0.0, 0.0), (1.0, 1.0)),
    lambda at: ((0.0, 1.0), (1.0, 0.0)),
    lambda at: ((0.0, 0.0), (at, 1.0), (1.0, 0.0)),
    lambda at: ((0.0, 1.0), (at, 0.0), (1.0, 1.0)),
    lambda at: ((0.0, 0.0), (at, 0.0), (at + 0.02, 1.0), (1.0, 1.0)),
    lambda at: ((0.0, 0.5), (1.0, 0.5)),
)
"""Crescendo, decrescendo, swell, dip, step, flat: (share of the clip, share of the range), turning
at a share."""


@dataclass(frozen=True)
class Setting:
    """How every clip is made."""

    model: MusicModel
    seed: int
    steps: int
    iterations: int
    lr: float
    checkpointing: bool
    guidance: float
    show: bool


def random_curve(rng: np.random.Generator, seconds: float) -> Curve:
    """A target: in half of the draws a named shape with random ends, otherwise 2 to 5 breakpoints.

    Levels lie within `LOWEST_DB` … `HIGHEST_DB`; the ends of a shape are at least 6 dB apart.
    """
    if rng.random() < 0.5:
        low = rng.uniform(LOWEST_DB, HIGHEST_DB - 6)
        high = rng.uniform(low + 6, HIGHEST_DB)
        shape = SHAPES[int(rng.integers(len(SHAPES)))](rng.uniform(0.2, 0.8))
        return Curve(
            tuple((t, float(low + share * (high - low))) for t, share in shape),
            relative=True,
            name="shape",
        )
    times = _breakpoint_shares(rng, int(rng.integers(2, 6)))
    levels = rng.uniform(LOWEST_DB, HIGHEST_DB, len(times))
    return Curve(
        tuple((float(t * seconds), float(v)) for t, v in zip(times, levels, strict=True)),
        name="breakpoints",
    )


def random_tags(rng: np.random.Generator, vocabulary: TagVocabulary) -> Tensor:
    """A condition (5,): a genre, a mood and a tempo, each uniform; the clip starts on a bar."""
    tags = vocabulary.decode([int(rng.integers(1, size)) for size in vocabulary.sizes])
    return vocabulary.encode(replace(tags, beat=0.0))


def drawn_targets(
    model: MusicModel, seed: int, first: int, last: int
) -> tuple[PerItem, Tensor, Tensor]:
    """What the clips `first` … `last` − 1 are to be: their curves, conditions (B, 5) and x_T."""
    draws = [np.random.default_rng([seed + i, 2]) for i in range(first, last)]
    control = PerItem([Intensity(random_curve(rng, model.spec.clip_seconds)) for rng in draws])
    tags = torch.stack([random_tags(rng, model.vocabulary) for rng in draws])
    return control, tags, draw_x_T(model.shape(), seed + first, last - first)


def run_intensity(
    model: MusicModel,
    *,
    count: int = 32,
    seed: int = 0,
    out: Path = Path("docs/results"),
    batch: int = 4,
    steps: int = 20,
    iterations: int = 70,
    lr: float = 5e-3,
    checkpointing: bool = False,
    guidance: float | None = None,
    workers: int = 1,
    cache: Path = Path("runs/bench"),
    resume: bool = True,
    show: bool = True,
    command: str | None = None,
) -> Report:
    """Measure and write intensity.json, intensity.md and intensity.png into `out`.

    Args:
        model: what is steered.
        count: clips.
        seed: item i draws curve, tags and x_T from ``seed + i``.
        out: folder of the results.
        batch: clips optimised at once; each is saved when done.
        steps: T.
        iterations: K.
        lr: Adam's learning rate.
        checkpointing: memory that does not grow with T, for a third more time; the gradients are
            the same.
        guidance: CFG scale w of both methods; None is the model's default. w=1 takes half the time
            of others.
        workers: processes that make batches side by side; seconds a clip are then those with the
            others running.
        cache: where finished batches are kept, so that a killed run goes on.
        resume: use those.
        show: progress.
        command: what the report says it was run by.

    Raises:
        OutputError: the results cannot be written.
    """
    guidance = model.guidance if guidance is None else guidance
    setting = Setting(
        model, seed, steps, iterations, lr, checkpointing, guidance, show and workers == 1
    )
    settings: dict[str, Any] = {
        "method": "ditto",
        "iterations": iterations,
        "steps": steps,
        "lr": lr,
        "sampler": "ddim",
        "batch": batch,
        "guidance": guidance,
        "curve_db": [LOWEST_DB, HIGHEST_DB],
        "checkpointing": checkpointing,
        "clip_seconds": round(model.spec.clip_seconds, 3),
    }
    identity = settings | {"model": weights_digest(model), "seed": seed}
    parts = Partial(
        cache, "intensity", identity, batch=batch, resume=resume, show=show and workers > 1
    )
    found = parts.gathered("clips", count, partial(_measure, setting, count), workers=workers)
    report = Report(
        "intensity",
        command or f"ditto-music bench intensity --count {count}",
        model.describe(),
        "none",
        count,
        seed,
        found["seconds"].sum().item(),
        settings | {"workers": workers},
        tuple(_rows(found)),
        tuple(_claims(found)),
    )
    report.write(out, charts.intensity(found, model.spec))
    return report


def _measure(setting: Setting, count: int, first: int, last: int) -> Tensors:
    """Both methods on the clips `first` … `last` − 1: errors, curves, losses and seconds a clip."""
    model, items = setting.model, range(first, last)
    control, tags, x_T = drawn_targets(model, setting.seed, first, last)
    chain = chain_for(model, tags, setting.steps, setting.guidance)
    plain, plain_seconds = _clocked(lambda: _achieved(setting, chain, control, x_T))
    losses: list[Tensor] = []
    (steered, steered_seconds) = _clocked(
        lambda: _steered(setting, chain, control, x_T, losses, f"{last}/{count}")
    )
    return {
        **{f"none.{name}": value for name, value in plain.items()},
        **{f"ditto.{name}": value for name, value in steered.items()},
        "target": torch.stack(
            [c.target(Output(x_T[:1], model)) for c in control.controls if isinstance(c, Intensity)]
        ),
        "losses": torch.stack(losses, dim=1),
        "none.seconds": torch.full((len(items),), plain_seconds / len(items), dtype=torch.float64),
        "ditto.seconds": torch.full(
            (len(items),), steered_seconds / len(items), dtype=torch.float64
        ),
    }


def _steered(
    setting: Setting, chain: Chain, control: PerItem, x_T: Tensor, losses: list[Tensor], label: str
) -> Tensors:
    """DITTO, then its measurement; `losses` receives one (B,) an iteration."""
    best = x_T
    with Console(stderr=True, quiet=not setting.show).status(f"clip {label}") as status:
        for step in ditto(
            x_T,
            chain,
            lambda x_0: control(x_0, setting.model),
            iterations=setting.iterations,
            lr=setting.lr,
            checkpointing=setting.checkpointing,
        ):
            losses.append(step.loss)
            best = step.best_x_T
            mean = step.best_loss.mean().item()
            status.update(
                f"clip {label}, iteration {step.i + 1}/{setting.iterations}, {mean:.3g} dB²"
            )
    return _achieved(setting, chain, control, best)


@torch.no_grad()
def _achieved(setting: Setting, chain: Chain, control: PerItem, x_T: Tensor) -> Tensors:
    """MSE, ρ and the achieved curves of the decoded sound."""
    x_0 = decode(x_T, chain)
    output = Output(x_0, setting.model)
    errors = control.errors(output)
    return {
        "mse": errors["intensity_mse_db2"],
        "rho": errors["intensity_rho"],
        "curve": intensity(output.audio, setting.model.spec),
    }


def _clocked(make: Callable[[], Tensors]) -> tuple[Tensors, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started


def _rows(found: Tensors) -> list[Row]:
    rows = []
    for name, key in (("no control", "none"), ("DITTO", "ditto")):
        mse = found[f"{key}.mse"].double().numpy()
        seconds = found[f"{key}.seconds"].numpy()
        rows += [
            Row.of(name, "intensity_mse", "dB^2", mean_interval(mse), PAPER_MSE[name]),
            Row.of(name, "intensity_mse_median", "dB^2", float(np.median(mse))),
            Row.of(name, "intensity_mse_worst", "dB^2", float(mse.max())),
            Row.of(name, "intensity_rho", "", mean_interval(found[f"{key}.rho"].double().numpy())),
            Row.of(name, "seconds_per_clip", "s", mean_interval(seconds)),
        ]
    return rows


def _claims(found: Tensors) -> list[Claim]:
    ratio = ratio_interval(
        found["none.mse"].double().numpy(), found["ditto.mse"].double().numpy(), paired=True
    )
    return [
        Claim.at_least(
            "DITTO cuts the intensity MSE at least 8-fold (the paper: 8.6-fold)", ratio, CUT
        )
    ]


def _breakpoint_shares(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rising shares of the clip, the first in its first tenth, the last in its last, at least 8 %
    apart.
    """
    while True:
        inner = np.sort(rng.uniform(0.1, 0.9, count - 2))
        times = np.concatenate([[rng.uniform(0, 0.1)], inner, [rng.uniform(0.9, 1.0)]])
        if (np.diff(times) >= 0.08).all():
            return times
