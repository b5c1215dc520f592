"""``ditto-music bench quality``: how good and how faithful to its tags the uncontrolled model is.

A classifier trained on the training split listens to generated clips and to held-out ones. Two
questions: does it recognise the tag that was asked for as often as in real music, and how far are
the generated embeddings from real ones (Fréchet distance), beside real-against-real at the same
counts (the floor) and noise (the ceiling)?

"Spectrogram" rows hear x_0 as the denoiser made it; "sound" rows hear the audio after the vocoder,
which is what a user gets and what the claims are about. Real clips are heard as they are, and after
their own trip through the vocoder. Students make the same clips from the same x_T in few steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditto.bench import charts
from ditto.bench.clips import (
    Generated,
    RealClips,
    drawn_tags,
    generated,
    generated_by_student,
    real_clips,
    weights_digest,
)
from ditto.bench.report import Claim, Partial, Report, Row
from ditto.metrics.bootstrap import Interval, mean_interval, ratio_interval, statistic_interval
from ditto.metrics.embeddings import Ear, listen, recognised
from ditto.metrics.frechet import frechet_distance
from ditto.metrics.vocoder_error import evaluate_vocoder, griffin_lim_mel
from ditto.models.classifier import ClipClassifier
from ditto.models.music_model import MusicModel
from ditto.request import draw_x_T

Vectors = NDArray[np.float64]
Parts = dict[str, Tensor]

REAL, REAL_VOCODED = "real held-out", "real, through the vocoder"
SPECTROGRAM, SOUND = "generated (spectrogram)", "generated (sound)"
NOISE_SPECTROGRAM, NOISE_SOUND = "noise: x_T as a spectrogram", "noise: white, −20 dB RMS"
FRECHET, OVER_FLOOR = "frechet_distance", "frechet_over_floor"
VOCODER_UNITS = {
    "spectral_convergence": "",
    "log_magnitude_db": "dB",
    "mel_db": "dB",
    "rms_db": "dB",
}
ACCURACY_SHARE, FLOOR_MULTIPLE, STUDENT_MULTIPLE = 0.85, 5.0, 1.25
STUDENT_STEPS = (1, 2, 4, 8)
SHOWN = 4


@dataclass(frozen=True, eq=False)
class Heard:
    """One row's clips as the classifier hears them, with the tags that they should have."""

    ear: Ear
    asked: Tensor

    @property
    def right(self) -> dict[str, NDArray[np.float64]]:
        """See `recognised`."""
        return recognised(self.ear.tags, self.asked[:, : self.ear.tags.shape[1]])


@dataclass(frozen=True, eq=False)
class Bench:
    """What all parts of this bench share."""

    model: MusicModel
    classifier: ClipClassifier
    parts: Partial
    steps: int


@dataclass(frozen=True)
class Taught:
    """Clips that a student makes in so many steps.

    Attributes:
        model: whose student it is.
        steps: T'.
    """

    model: MusicModel
    steps: int

    @property
    def suffix(self) -> str:
        """What its rows' names end in."""
        assert self.model.distilled is not None
        return f", {self.model.distilled.kind.upper()} in {self.steps} step{'s' if self.steps > 1 else ''}"

    def make(self, tags: Tensor, seed: int) -> Generated:
        """Clips for conditions (B, 5)."""
        return generated_by_student(self.model, tags, seed, self.steps)


def run_quality(
    model: MusicModel,
    heldout: Path,
    classifier: ClipClassifier | Path,
    *,
    count: int = 256,
    seed: int = 0,
    out: Path = Path("docs/results"),
    steps: int = 20,
    guidances: Sequence[float] = (),
    batch: int = 8,
    cm: MusicModel | None = None,
    vocoder_count: int = 32,
    cache: Path = Path("runs/bench"),
    resume: bool = True,
    show: bool = True,
    resamples: int = 200,
    command: str | None = None,
) -> Report:
    """Measure and write quality.json, quality.md and quality.png into `out`.

    Args:
        model: what is judged.
        heldout: data folder of the held-out split; real clips, and the distribution of the tags
            asked for.
        classifier: trained on the training split, or its folder.
        count: generated clips; real ones are as many if the split has them in each of two halves.
        seed: item i draws its x_T from ``seed + i``.
        out: folder of the results.
        steps: T of DDIM.
        guidances: CFG scales to measure besides the model's default.
        batch: clips at once.
        cm: the same model with a CM student, to be measured beside its own.
        vocoder_count: real clips for the vocoder's comparison with Griffin-Lim.
        cache: where finished parts are kept, so that a killed run goes on.
        resume: use those parts.
        show: progress bars.
        resamples: of the bootstrap of the Fréchet distances.
        command: what the report says it was run by.

    Raises:
        DataError: the held-out folder cannot be used.
        ModelError: the classifier cannot be loaded.
        OutputError: the results cannot be written.
    """
    ear = classifier if isinstance(classifier, ClipClassifier) else ClipClassifier.load(classifier)
    real = real_clips(heldout, model.spec, model.vocabulary, count, seed)
    settings: dict[str, Any] = {
        "steps": steps,
        "sampler": "ddim",
        "guidance": model.guidance,
        "guidances": list(guidances),
        "clip_seconds": round(model.spec.clip_seconds, 3),
        "real_clips_per_half": real.count,
        "vocoder_count": min(vocoder_count, len(real.audio)),
        "classifier_sha256": ear.sha256(),
    }
    students = [
        taught for taught in (model, cm) if taught is not None and taught.distilled is not None
    ]
    identity = [weights_digest(model, student=False), ear.sha256(), real.digest, seed, steps, batch]
    parts = Partial(cache, "quality", {"identity": identity}, batch=batch, resume=resume, show=show)
    bench = Bench(model, ear, parts, steps)
    asked = drawn_tags(real.tags, count, seed)
    heard, seconds, pictures = _heard(bench, real, asked, seed, guidances)
    for taught in students:
        seconds += _hear_student(bench, taught, asked, seed, heard)
    vocoders, spent = _vocoders(bench, real.audio[: settings["vocoder_count"]])
    distances = _frechet_rows(heard, real.count, resamples)
    rows = [*_accuracy_rows(heard), *distances, *_vocoder_rows(vocoders)]
    claims = [*_accuracy_claims(heard), *_frechet_claims(distances), *_vocoder_claims(vocoders)]
    claims += _student_claims(heard, real.count, resamples)
    report = Report(
        "quality",
        command or f"ditto-music bench quality --count {count}",
        model.describe(),
        "classifier",
        count,
        seed,
        seconds + spent,
        settings,
        tuple(rows),
        tuple(claims),
    )
    report.write(
        out,
        charts.quality(
            report,
            model.bands.mel(pictures),
            model.bands.mel(model.encode(real.audio[:SHOWN])),
            model.spec,
        ),
    )
    return report


def _heard(
    bench: Bench, real: RealClips, asked: Tensor, seed: int, guidances: Sequence[float]
) -> tuple[dict[str, Heard], float, Tensor]:
    """All rows' clips as heard, the seconds spent, and the first generated x_0."""
    model = bench.model

    def hear_real(first: int, last: int) -> Parts:
        audio = real.audio[first:last]
        with torch.no_grad():
            vocoded = model.to_audio(model.encode(audio))
        return {
            **_ear(bench, "plain", model.encode(audio)),
            **_ear(bench, "vocoded", model.encode(vocoded)),
        }

    found = bench.parts.gathered("real", len(real.audio), hear_real)
    heard = {
        REAL: Heard(_taken(found, "plain"), real.tags),
        REAL_VOCODED: Heard(_taken(found, "vocoded"), real.tags),
    }
    seconds, pictures = found["seconds"].sum().item(), torch.empty(0)
    for guidance in (None, *guidances):
        make = partial(generated, bench.model, steps=bench.steps, guidance=guidance)
        made = bench.parts.gathered(
            _name(guidance), len(asked), partial(_generate, bench, asked, seed, make)
        )
        suffix = "" if guidance is None else f", w={guidance:g}"
        heard[SPECTROGRAM + suffix] = Heard(_taken(made, "spectrogram"), asked)
        heard[SOUND + suffix] = Heard(_taken(made, "sound"), asked)
        seconds += made["seconds"].sum().item()
        pictures = made["x_0"][:SHOWN].float() if guidance is None else pictures
    noise = bench.parts.gathered("noise", real.count, partial(_noise, bench, seed))
    heard[NOISE_SPECTROGRAM] = Heard(_taken(noise, "spectrogram"), real.tags[: real.count])
    heard[NOISE_SOUND] = Heard(_taken(noise, "sound"), real.tags[: real.count])
    return heard, seconds + noise["seconds"].sum().item(), pictures


def _hear_student(
    bench: Bench, model: MusicModel, asked: Tensor, seed: int, heard: dict[str, Heard]
) -> float:
    """Add the rows of a model's student to `heard`; returns the seconds spent."""
    seconds = 0.0
    for taught in (Taught(model, steps) for steps in STUDENT_STEPS):
        name = f"student-{weights_digest(model)[:12]}-{taught.steps}"
        made = bench.parts.gathered(
            name, len(asked), partial(_generate, bench, asked, seed, taught.make)
        )
        heard[SOUND + taught.suffix] = Heard(_taken(made, "sound"), asked)
        seconds += made["seconds"].sum().item()
    return seconds


def _generate(
    bench: Bench,
    asked: Tensor,
    seed: int,
    make: Callable[[Tensor, int], Generated],
    first: int,
    last: int,
) -> Parts:
    clips = make(asked[first:last], seed + first)
    sound = bench.model.encode(clips.audio)
    kept = clips.x_0[: SHOWN if first == 0 else 0].half()
    return {**_ear(bench, "spectrogram", clips.x_0), **_ear(bench, "sound", sound), "x_0": kept}


def _noise(bench: Bench, seed: int, first: int, last: int) -> Parts:
    model = bench.model
    x_T = draw_x_T(model.shape(), seed + first, last - first)
    samples = model.spec.samples(model.spec.clip_frames)
    white = 0.1 * draw_x_T((samples,), seed + first, last - first)
    return {**_ear(bench, "spectrogram", x_T), **_ear(bench, "sound", model.encode(white))}


def _ear(bench: Bench, name: str, x_0: Tensor) -> Parts:
    ear = listen(bench.classifier, bench.model.bands.mel(x_0))
    return {f"{name}.embeddings": ear.embeddings, f"{name}.tags": ear.tags}


def _taken(found: Parts, name: str) -> Ear:
    return Ear(found[f"{name}.embeddings"], found[f"{name}.tags"])


def _name(guidance: float | None) -> str:
    return "generated" if guidance is None else f"generated-w{guidance:g}"


def _accuracy_rows(heard: dict[str, Heard]) -> list[Row]:
    return [
        Row.of(name, column, "", mean_interval(values))
        for name, clips in heard.items()
        for column, values in clips.right.items()
    ]


def _accuracy_claims(heard: dict[str, Heard]) -> list[Claim]:
    claims = []
    for column in ("genre_accuracy", "mood_accuracy", "tempo_accuracy", "tempo_within_1_bin"):
        ratio = ratio_interval(heard[SOUND].right[column], heard[REAL].right[column], paired=False)
        words = f"{column.replace('_', ' ')} of generated clips, as sound, is at least 85 % of real clips'"
        claims.append(Claim.at_least(words, ratio, ACCURACY_SHARE))
    return claims


def _frechet_rows(heard: dict[str, Heard], count: int, resamples: int) -> list[Row]:
    interval = partial(statistic_interval, resamples=resamples)
    halves = _halves(heard[REAL], count)
    crossed = interval(_crossed, *halves, *_halves(heard[REAL_VOCODED], count))
    rows = [
        Row.of(REAL, FRECHET, "", interval(frechet_distance, *halves)),
        Row.of(REAL_VOCODED, FRECHET, "", crossed),
    ]
    for name, clips in heard.items():
        if name not in (REAL, REAL_VOCODED):
            rows.append(Row.of(name, FRECHET, "", interval(_distance, _few(clips, count), *halves)))
            rows.append(
                Row.of(name, OVER_FLOOR, "", interval(_over_floor, _few(clips, count), *halves))
            )
    return rows


def _frechet_claims(rows: Sequence[Row]) -> list[Claim]:
    words = "the Fréchet distance of generated clips, as sound, is at most 5 times the floor of real against real"
    ratio = next(r for r in rows if (r.row, r.column) == (SOUND, OVER_FLOOR))
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return []
    return [Claim.at_most(words, Interval(ratio.value, ratio.low, ratio.high), FLOOR_MULTIPLE)]


def _student_claims(heard: dict[str, Heard], count: int, resamples: int) -> list[Claim]:
    """A CTM student's distance in 2 and in 4 steps over its teacher's."""
    claims, halves = [], _halves(heard[REAL], count)
    for steps in (2, 4):
        row = f"{SOUND}, CTM in {steps} steps"
        if row in heard:
            # both are of the same x_T and tags, so they are drawn together
            pairs = np.stack([_few(heard[row], count), _few(heard[SOUND], count)], axis=1)
            ratio = statistic_interval(_over_teacher, pairs, *halves, resamples=resamples)
            words = f"the Fréchet distance of the CTM student in {steps} steps is at most 1.25 times its teacher's"
            claims.append(Claim.at_most(words, ratio, STUDENT_MULTIPLE))
    return claims


def _over_teacher(pairs: Vectors, first: Vectors, second: Vectors) -> float:
    """Of the student's and the teacher's embeddings (N, 2, D)."""
    return _distance(pairs[:, 0], first, second) / max(_distance(pairs[:, 1], first, second), 1e-12)


def _halves(clips: Heard, count: int) -> tuple[Vectors, Vectors]:
    return clips.ear.vectors[:count], clips.ear.vectors[count : 2 * count]


def _few(clips: Heard, count: int) -> Vectors:
    """As many clips as a half of the real ones has: distances compare at equal counts only."""
    return clips.ear.vectors[:count]


def _distance(clips: Vectors, first: Vectors, second: Vectors) -> float:
    """Distance to real clips, the mean over the two halves."""
    return (frechet_distance(clips, first) + frechet_distance(clips, second)) / 2


def _crossed(
    first: Vectors, second: Vectors, vocoded_first: Vectors, vocoded_second: Vectors
) -> float:
    """Distance of each half, vocoded, to the other."""
    return (frechet_distance(vocoded_first, second) + frechet_distance(vocoded_second, first)) / 2


def _over_floor(clips: Vectors, first: Vectors, second: Vectors) -> float:
    return _distance(clips, first, second) / max(frechet_distance(first, second), 1e-12)


def _vocoders(
    bench: Bench, audio: Tensor
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], float]:
    """Errors of every clip for the model's vocoder and for Griffin-Lim on the same mels, and the
    seconds spent.
    """
    spec = bench.model.spec
    kinds = {
        "vocoder": bench.model.vocoder,
        "Griffin-Lim, 32 iterations": partial(griffin_lim_mel, spec=spec),
    }
    found, seconds = {}, 0.0
    for name, vocoder in kinds.items():

        def measure(first: int, last: int, vocoder: Callable[[Tensor], Tensor] = vocoder) -> Parts:
            errors = [evaluate_vocoder(vocoder, audio[i : i + 1], spec) for i in range(first, last)]
            return {
                key: torch.tensor([e[key] for e in errors], dtype=torch.float64)
                for key in VOCODER_UNITS
            }

        measured = bench.parts.gathered(name.split(",")[0].lower(), len(audio), measure)
        seconds += measured.pop("seconds").sum().item()
        found[name] = {key: measured[key].numpy() for key in VOCODER_UNITS}
    return found, seconds


def _vocoder_rows(vocoders: dict[str, dict[str, NDArray[np.float64]]]) -> list[Row]:
    return [
        Row.of(name, column, VOCODER_UNITS[column], mean_interval(values))
        for name, errors in vocoders.items()
        for column, values in errors.items()
    ]


def _vocoder_claims(vocoders: dict[str, dict[str, NDArray[np.float64]]]) -> list[Claim]:
    ours, other = vocoders.values()
    claims = []
    for column in ("spectral_convergence", "log_magnitude_db", "mel_db"):
        ratio = ratio_interval(other[column], ours[column], paired=True)
        claims.append(
            Claim.at_least(f"Griffin-Lim's {column} is larger than the vocoder's", ratio, 1.0)
        )
    return claims
