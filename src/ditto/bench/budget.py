"""``ditto-music bench d2-table2`` and ``d2-fig4``: what a budget of M and T' steps buys (DITTO-2
§4.3).

The targets, tags and x_T are those of ``bench intensity``, the same for every row. Errors, and the
distance to real clips, are measured on the sound that a user gets.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.bench import budget_charts
from ditto.bench.clips import chain_for, real_clips, weights_digest
from ditto.bench.intensity import drawn_targets
from ditto.bench.report import Claim, Partial, Report, Row, Tensors, timed
from ditto.controls.base import Output
from ditto.controls.intensity import Intensity
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import ModelError
from ditto.methods.ditto import decode, ditto
from ditto.methods.ditto2 import (
    CORRECTIONS,
    adaptive_schedule,
    corrected_adam,
    decode2,
    ditto2,
    item_noise,
)
from ditto.methods.ways import estimates
from ditto.metrics.bootstrap import Interval, mean_interval, ratio_interval, statistic_interval
from ditto.metrics.control_error import EachItsOwn
from ditto.metrics.embeddings import listen
from ditto.metrics.frechet import frechet_distance
from ditto.metrics.text_adherence import clap_scores, embed_clips
from ditto.models.clap import Clap
from ditto.models.classifier import ClipClassifier
from ditto.models.music_model import MusicModel
from ditto.optimize import Step
from ditto.request import GAMMAS

Kind = Literal["DM", "CM", "CTM"]


@dataclass(frozen=True)
class Budget:
    """One row.

    Attributes:
        kind: what is optimised through: the base ("DM", which is DITTO), or a student.
        optimise: M, steps while optimising; "adaptive" is `adaptive_schedule`.
        decode: T', steps of the final sampling.
        surrogate: "mel" hears the loudness in x_0 while optimising and leaves the vocoder to the
            end.
        paper: the paper's figures, by column.
        corrections: of the surrogate, see `ditto.methods.ditto2`; 0 is the paper's algorithm.
    """

    kind: Kind
    optimise: int | Literal["adaptive"]
    decode: int
    paper: tuple[tuple[str, float], ...] = ()
    surrogate: Literal["sound", "mel"] = "sound"
    corrections: int = 0

    def adam(self, iterations: int) -> dict[str, float]:
        """Settings of Adam for K `iterations` where they are not the paper's."""
        return corrected_adam(iterations) if self.corrections else {}

    @property
    def optimised(self) -> str:
        """What the optimisation is named by, which rows that differ in decoding alone share."""
        return self.row if self.corrections else f"{self.kind}-{self.optimise} {self.surrogate}"

    @property
    def row(self) -> str:
        """The name that Fig. 4 gives it, "CTM-1/2"; a star is the adaptive schedule."""
        name = f"{self.kind}-{'*' if self.optimise == 'adaptive' else self.optimise}/{self.decode}"
        return (
            name
            + (" mel" if self.surrogate == "mel" else "")
            + (" corrected" if self.corrections else "")
        )


def _paper(seconds: float, mse: float, clap: float) -> tuple[tuple[str, float], ...]:
    """Table 2's figures but for FAD, which is in another embedding there and is not put beside
    ours.
    """
    return (("seconds_per_clip", seconds), ("intensity_mse", mse), ("clap_score", clap))


TABLE_2 = (
    Budget("CTM", 1, 1, _paper(5.447, 1.835, 0.295)),
    Budget("CTM", 1, 2, _paper(5.467, 3.311, 0.307)),
    Budget("CTM", 1, 4, _paper(5.502, 5.792, 0.301)),
    Budget("CTM", 1, 8),
    Budget("CTM", 2, 2, _paper(10.171, 2.384, 0.281)),
    Budget("CTM", 2, 4, _paper(10.387, 3.894, 0.296)),
    Budget("CTM", "adaptive", 4, _paper(10.315, 2.561, 0.296)),
    Budget("CTM", 1, 2, corrections=CORRECTIONS),
    Budget("CTM", 1, 4, corrections=CORRECTIONS),
)
"""The paper's grid of (M, T'), and two rows with corrections, which the paper has not."""

FIG_5 = tuple(Budget("CM", 1, steps) for steps in (1, 2, 4, 8))
FIG_4 = (
    Budget("DM", 8, 20),
    Budget("DM", 20, 20, (("seconds_per_clip", 82.192), ("intensity_mse", 4.758))),
)


@dataclass(frozen=True, eq=False)
class Setting:
    """What all rows share."""

    model: MusicModel
    cm: MusicModel | None
    classifier: ClipClassifier | None
    """Whose embedding distances are in; None where none are measured."""
    seed: int
    iterations: int
    lr: float
    guidance: float
    gamma: float
    judge: Clap | None = None
    """Whose CLAP scores of the tags' captions are reported; None where there are none."""

    @property
    def ear(self) -> ClipClassifier:
        """The classifier, which must be there."""
        assert self.classifier is not None
        return self.classifier

    def student(self, kind: Kind) -> MusicModel:
        """The model whose student a row uses.

        Raises:
            ModelError: there is none of that kind.
        """
        found = self.cm if kind == "CM" else self.model
        if found is None or found.distilled is None or found.distilled.kind != kind.lower():
            raise ModelError(
                f"there is no {kind} student: distil one with `ditto-music distill {kind.lower()}`"
            )
        return found

    def chain(self, budget: Budget, tags: Tensor) -> Chain:
        """The chain that a row decodes with."""
        chain = chain_for(self.model, tags, budget.decode, self.guidance)
        if budget.kind == "DM":
            return chain
        student = self.student(budget.kind).student
        assert student is not None
        return replace(chain, denoiser=student)

    def steps(
        self,
        budget: Budget,
        control: EachItsOwn,
        tags: Tensor,
        x_T: Tensor,
        iterations: int,
        first: int = 0,
    ) -> Iterator[Step]:
        """The optimisation of a row, of clips from number `first` on."""
        chain, lr = self.chain(budget, tags), self.lr
        if budget.surrogate == "mel":
            curves = [c.curve for c in control.controls if isinstance(c, Intensity)]
            control = EachItsOwn([Intensity(curve, domain="mel") for curve in curves])

        def loss(x_0: Tensor) -> Tensor:
            return control(x_0, self.model)

        if budget.kind == "DM":
            chain = replace(chain, timesteps=self.model.schedule.timesteps(int(budget.optimise)))
            return ditto(x_T, chain, loss, iterations=iterations, lr=lr)
        calls = adaptive_schedule(iterations) if budget.optimise == "adaptive" else budget.optimise
        settings: dict[str, Any] = {"iterations": iterations, "lr": lr, "surrogate_steps": calls}
        if not budget.corrections:
            return ditto2(x_T, chain, loss, **settings)
        objective, calibrate = estimates(control, self.model)
        heard = partial(self.decoded, budget, tags, first)
        settings |= budget.adam(iterations)
        return ditto2(
            x_T,
            chain,
            objective,
            decode=heard,
            calibrate=calibrate,
            corrections=budget.corrections,
            **settings,
        )

    def decoded(self, budget: Budget, tags: Tensor, first: int, x_T: Tensor) -> Tensor:
        """x_0 of a row's latents, those of clips from number `first` on."""
        chain = self.chain(budget, tags)
        if budget.kind == "DM":
            return decode(x_T, chain)
        noise = item_noise(x_T.shape[1:], self.seed + first, len(x_T), x_T.device)
        return decode2(x_T, chain, GAMMAS["cm"] if budget.kind == "CM" else self.gamma, noise)

    def surrogate(self, tags: Tensor) -> Callable[[Tensor], Tensor]:
        """One jump of the CTM student, x_T → x_0."""
        chain = replace(
            self.chain(Budget("CTM", 1, 1), tags), timesteps=self.model.schedule.timesteps(1)
        )
        return partial(ddim, chain)


def run_budget(
    name: str,
    budgets: Sequence[Budget],
    model: MusicModel,
    heldout: Path,
    classifier: ClipClassifier | Path,
    *,
    cm: Path | None = None,
    judge: Clap | None = None,
    count: int = 32,
    seed: int = 0,
    out: Path = Path("docs/results"),
    batch: int = 4,
    iterations: int = 70,
    lr: float = 5e-3,
    guidance: float | None = None,
    gamma: float | None = None,
    cache: Path = Path("runs/bench"),
    resume: bool = True,
    show: bool = True,
    command: str | None = None,
) -> Report:
    """Measure `budgets` and write NAME.json, NAME.md and NAME.png into `out`.

    Args:
        name: of the result.
        budgets: rows.
        model: base and, as its student, CTM.
        heldout: data folder of real clips for the Fréchet distance.
        classifier: the network whose embedding that distance is in, or its folder.
        cm: folder of the CM student; None leaves its rows without values.
        judge: for CLAP scores; None leaves them out.
        count: clips a row.
        seed: item i draws curve, tags and x_T from ``seed + i``.
        out: folder of the results.
        batch: clips optimised at once, which seconds a clip depend on.
        iterations: K.
        lr: Adam's learning rate.
        guidance: CFG scale w of every row; None is the model's default.
        gamma: γ of the CTM's decoding; None is that of `ditto.request.GAMMAS`. CM's rows have γ =
            1.
        cache: where finished parts are kept.
        resume: use those.
        show: progress.
        command: what the report says it was run by.

    Raises:
        DataError: the held-out folder cannot be used.
        ModelError: a folder of weights cannot be loaded.
        OutputError: the results cannot be written.
    """
    ear = classifier if isinstance(classifier, ClipClassifier) else ClipClassifier.load(classifier)
    scale = model.guidance if guidance is None else guidance
    gamma = GAMMAS["ctm"] if gamma is None else gamma
    setting = Setting(
        model,
        model.with_student(cm) if cm else None,
        ear,
        seed,
        iterations,
        lr,
        scale,
        gamma,
        judge,
    )
    settings: dict[str, Any] = {
        "iterations": iterations,
        "lr": lr,
        "guidance": scale,
        "gamma": gamma,
        "batch": batch,
        "classifier_sha256": ear.sha256(),
        "judge": judge and f"{judge.name} {judge.sha256[:12]}",
    }
    identity = settings | {"model": weights_digest(model), "seed": seed}
    found: dict[str, Tensors | str] = {}
    optimised: set[str] = set()
    for budget in budgets:
        try:
            own = identity | {"row": budget.row, "student": _digest(setting, budget)}
            own |= (
                {"corrections": budget.corrections, **budget.adam(iterations)}
                if budget.corrections
                else {}
            )
            parts = Partial(cache, "budget", own, batch=batch, resume=resume, show=show)
            # A bench afresh optimises anew for the first of the rows that share it.
            again = resume or budget.optimised in optimised
            latents = Partial(
                cache, "latents", own | {"row": budget.optimised}, batch=batch, resume=again
            )
            optimised.add(budget.optimised)
            measure = partial(_measure, setting, budget, latents)
            found[budget.row] = parts.gathered(budget.row.replace("/", "-"), count, measure)
        except ModelError as error:
            found[budget.row] = str(error)
    real = real_clips(heldout, model.spec, model.vocabulary, count, seed)
    halves = listen(ear, model.bands.mel(model.encode(real.audio))).vectors
    rows = [
        row
        for b in budgets
        for row in _rows(b, found[b.row], halves[: real.count], halves[real.count :])
    ]
    report = Report(
        name,
        command or f"ditto-music bench {name} --count {count}",
        model.describe(),
        "classifier",
        count,
        seed,
        sum(f["seconds"].sum().item() for f in found.values() if not isinstance(f, str)),
        settings,
        tuple(rows),
        tuple(_claims(found)),
    )
    report.write(out, budget_charts.scatter(report, model.spec.clip_seconds))
    return report


def _digest(setting: Setting, budget: Budget) -> str:
    return setting.model.sha256 if budget.kind == "DM" else setting.student(budget.kind).sha256


def _measure(setting: Setting, budget: Budget, latents: Partial, first: int, last: int) -> Tensors:
    """MSE, ρ, embeddings and seconds a clip of one row's clips `first` … `last` − 1.

    Seconds are those of optimising, when that was done, and of decoding.
    """
    control, tags, x_T = drawn_targets(setting.model, setting.seed, first, last)
    optimise = partial(_optimised, setting, budget, control, tags, x_T, first)
    optimised = latents.get(f"{first:04d}-{last:04d}", partial(timed, optimise))
    started = time.perf_counter()
    x_0 = setting.decoded(budget, tags, first, optimised["x_T"])
    audio = setting.model.to_audio(x_0).detach()
    seconds = time.perf_counter() - started + optimised["seconds"].item()
    errors = control.errors(Output(x_0, setting.model, audio))
    return _adherence(setting, tags, audio) | {
        "mse": errors["intensity_mse_db2"],
        "rho": errors["intensity_rho"],
        "embeddings": listen(
            setting.ear, setting.model.bands.mel(setting.model.encode(audio))
        ).embeddings,
        "clip_seconds": torch.full((len(x_T),), seconds / len(x_T), dtype=torch.float64),
    }


def _adherence(setting: Setting, tags: Tensor, audio: Tensor) -> Tensors:
    """CLAP scores of the clips and their tags' captions, if there is a judge."""
    if setting.judge is None:
        return {}
    texts = [setting.model.vocabulary.decode(row).caption() for row in tags.tolist()]
    embeddings = embed_clips(setting.judge, audio, setting.model.spec.sample_rate)
    return {"clap_score": clap_scores(setting.judge, embeddings, texts)}


def _optimised(
    setting: Setting, budget: Budget, control: EachItsOwn, tags: Tensor, x_T: Tensor, first: int
) -> Tensors:
    *_, last = setting.steps(budget, control, tags, x_T, setting.iterations, first)
    return {"x_T": last.best_x_T}


def made(
    setting: Setting, budget: Budget, control: EachItsOwn, tags: Tensor, x_T: Tensor, first: int
) -> Tensor:
    """x_0 (B, …) of clips from number `first` on, after optimising and decoding within the
    budget.
    """
    return setting.decoded(
        budget, tags, first, _optimised(setting, budget, control, tags, x_T, first)["x_T"]
    )


def _rows(budget: Budget, found: Tensors | str, first: Any, second: Any) -> list[Row]:
    columns = {
        "seconds_per_clip": "s",
        "intensity_mse": "dB^2",
        "intensity_rho": "",
        "frechet_distance": "",
    }
    paper = dict(budget.paper)
    if isinstance(found, str):
        return [
            Row(budget.row, c, unit, paper=paper.get(c), error=found) for c, unit in columns.items()
        ]
    vectors = found["embeddings"].double().numpy()[: len(first)]
    values: tuple[Interval | float, ...] = (
        mean_interval(found["clip_seconds"].numpy()),
        mean_interval(found["mse"].double().numpy()),
        mean_interval(found["rho"].double().numpy()),
        statistic_interval(_distance, vectors, first, second),
    )
    rows = [
        Row.of(budget.row, c, u, v, paper.get(c))
        for (c, u), v in zip(columns.items(), values, strict=True)
    ]
    if "clap_score" in found:
        score = mean_interval(found["clap_score"].double().numpy())
        rows.append(Row.of(budget.row, "clap_score", "", score, paper.get("clap_score")))
    return rows


def _distance(clips: Any, first: Any, second: Any) -> float:
    """Fréchet distance to real clips, the mean over their two halves."""
    return (frechet_distance(clips, first) + frechet_distance(clips, second)) / 2


def _claims(found: dict[str, Tensors | str]) -> list[Claim]:
    """What §4.3 says of the rows that are there."""
    claims = []
    for row, other, column, border, words in (
        (
            "DM-20/20",
            "CTM-1/2",
            "clip_seconds",
            10.0,
            "DITTO-2 (1, 2) is at least 10 times as fast as DITTO (20, 20)",
        ),
        (
            "DM-20/20",
            "CTM-1/2",
            "mse",
            1.0,
            "the MSE of DITTO-2 (1, 2) is no larger than that of DITTO (20, 20)",
        ),
        (
            "DM-20/20",
            "CTM-1/2 corrected",
            "clip_seconds",
            25.0,
            "DITTO-2 (1, 2), corrected: at least 25 times as fast",
        ),
        (
            "DM-20/20",
            "CTM-1/2 corrected",
            "mse",
            1.0,
            "its MSE is no larger than that of DITTO (20, 20)",
        ),
        (
            "CTM-1/4",
            "CTM-1/1",
            "mse",
            1.0,
            "more decoding steps lie further from the one-step surrogate: MSE rises",
        ),
        (
            "CTM-1/4",
            "CTM-*/4",
            "mse",
            1.0,
            "the adaptive schedule lowers the MSE of decoding in 4 steps",
        ),
        ("CTM-2/4", "CTM-*/4", "mse", 1.0, "the adaptive schedule has a lower MSE than M = 2"),
        (
            "CTM-1/2",
            "CTM-1/2 corrected",
            "mse",
            1.0,
            "corrections lower the MSE of decoding in 2 steps",
        ),
        (
            "CTM-*/4",
            "CTM-1/4 corrected",
            "mse",
            1.0,
            "corrections have a lower MSE than the adaptive schedule",
        ),
    ):
        above, below = found.get(row), found.get(other)
        if isinstance(above, dict) and isinstance(below, dict):
            ratio = ratio_interval(
                above[column].double().numpy(), below[column].double().numpy(), paired=True
            )
            claims.append(Claim.at_least(words, ratio, border))
    return claims
