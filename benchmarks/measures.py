"""What is measured on clips: errors that they were kept with, and what judges hear in them.

This is the only module that touches the classifier's embedding and CLAP scores.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cache import Tensors
from benchmarks.hearing import Heard, Hearing
from benchmarks.report import ROOT
from benchmarks.targets import Targets
from benchmarks.tasks import COSINE_SCALE, Bench, sound
from ditto.controls.melody import Melody
from ditto.errors import DittoError
from ditto.eval.bootstrap import Interval, mean_interval, ratio_interval, statistic_interval
from ditto.eval.classifier import ClipClassifier
from ditto.eval.ears.tune import tune_shares
from ditto.eval.efficiency import steps_to_converge
from ditto.eval.embeddings import classify, tag_accuracy
from ditto.eval.frechet import Reference
from ditto.eval.seams import typical_jumps
from ditto.eval.text_adherence import clap_scores, embed_clips
from ditto.models.clap import Clap
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel

CONVERGED = 2.0
"""τ of MS2C, dB² (DITTO, appendix L)."""
CLAP, CLASSIFIER = ROOT / "weights" / "clap-judge", ROOT / "weights" / "classifier"
"""Of a checkout: the CLAP that nothing is optimised against, and the tag classifier."""
DISTANCES = 32
"""Clips that a Fréchet distance takes at least."""
NEGLIGIBLE = 1e-12
"""Smallest error: a perfect row would otherwise have infinite ratios."""
NO_JUDGE = "no weights: {} needs {}"

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judge:
    """The embedding that Fréchet distances are in, CLAP scores, and recognised tags.

    Attributes:
        model: whose clips are heard.
        targets: the tags that were asked for, and real clips.
        clap: a CLAP that nothing was optimised against.
        classifier: hears where there is no CLAP, and recognises tags.
        text_clap: the CLAP that texts are optimised with; hears if there is no other.
        fewest: clips that a Fréchet distance takes at least.
        hearing: what foreign ears hear.
    """

    model: MusicModel
    targets: Targets
    clap: Clap | None = None
    classifier: ClipClassifier | None = None
    text_clap: Clap | None = None
    fewest: int = DISTANCES
    hearing: Hearing | None = None

    @classmethod
    def load(cls, bench: Bench, clap: str | None, classifier: Path | None) -> "Judge":
        """Load the networks that are named, or those of the checkout.

        Raises:
            ModelError: one that is named is not there, or one is damaged.
        """
        claps = clap or (str(CLAP) if CLAP.is_dir() else None)
        folder = classifier or (CLASSIFIER if CLASSIFIER.is_dir() else None)
        return cls(
            bench.models.model,
            bench.targets,
            clap=Clap.load(claps) if claps else None,
            classifier=ClipClassifier.load(folder) if folder else None,
            text_clap=bench.models.clap,
            hearing=Hearing(bench.targets, bench.models.model.spec.sample_rate, bench.cache),
        )

    @property
    def listener(self) -> Clap | None:
        """The CLAP that hears, if there is one."""
        return self.clap or self.text_clap

    @property
    def name(self) -> str:
        """The embedding, with the beginning of its weights' hash."""
        clap = self.listener
        if clap is not None:
            return f"clap {_in_checkout(clap.name)} {clap.sha256[:12]}"
        return f"classifier {self.classifier.sha256()[:12]}" if self.classifier else "none"

    def embed(self, audio: Tensor) -> Tensor:
        """Return embeddings (N, D) of audio (N, samples) at the model's rate.

        Raises:
            DittoError: there is no judge.
        """
        if self.listener is not None:
            return embed_clips(self.listener, audio, self.model.spec.sample_rate)
        return self.classify(audio=audio)[0]

    def classify(self, audio: Tensor | None, x_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the classifier's embeddings (N, D) and tags (N, 3), of audio or of log-mels.

        Raises:
            DittoError: there is no classifier.
        """
        if self.classifier is None:
            raise DittoError(NO_JUDGE.format("this figure", "--clap or --classifier"))
        if x_0 is None:
            assert audio is not None
            x_0 = self.model.encode(audio.to(self.model.device)).float().cpu()
        heard = classify(self.classifier, self.model.bands.mel(x_0))
        return heard.embeddings, heard.tags

    @property
    def foreign(self) -> Hearing:
        """The foreign ears.

        Raises:
            DittoError: there are none.
        """
        if self.hearing is None:
            raise DittoError("this figure needs foreign ears: pip install 'ditto-music[ears]'")
        return self.hearing

    @cached_property
    def reference(self) -> Reference:
        """Real clips that no task edits."""
        return Reference(self.embed(self.targets.real().reference).double().numpy())

    def scores(self, row: "RowResult", clap: Clap | None) -> Array:
        """Return the CLAP score of every clip and its tags' caption, (N,).

        Raises:
            DittoError: there is no such CLAP.
        """
        if clap is None:
            raise DittoError(NO_JUDGE.format("a CLAP score", "a CLAP, give it with --clap"))
        tags_of = row.tags or self.targets.tags
        texts = [tags_of(i).caption() for i in range(row.count)]
        embeddings = embed_clips(clap, row.audio, self.model.spec.sample_rate)
        return clap_scores(clap, embeddings, texts).double().numpy()

    @cached_property
    def real_jumps(self) -> list[Array]:
        """The spectral jumps of every real clip, in dB."""
        return [typical_jumps(clip, self.model.spec) for clip in self.targets.real().audio]

    def seam_limit(self, i: int) -> float:
        """Return the 95th percentile, in dB, of the jumps in real clips of clip i's genre."""
        tags = self.targets.real().tags
        alike = (tags[:, 0] == tags[i, 0]).nonzero()[:, 0].tolist()
        return float(np.percentile(np.concatenate([self.real_jumps[n] for n in alike]), 95))


@dataclass(frozen=True, eq=False)
class RowResult:
    """The clips of a row.

    Attributes:
        tensors: of all clips.
        judge: hears them.
        tags: of clip i, where they are not the held-out clip's.
    """

    tensors: Tensors
    judge: Judge
    tags: Callable[[int], Tags] | None = None

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(self.tensors["seconds"])

    @property
    def timed(self) -> NDArray[np.bool_]:
        """Whether each clip was timed in this run, (N,)."""
        return self.tensors.get("timed", torch.ones(self.count)).numpy() > 0

    @property
    def audio(self) -> Tensor:
        """Sounds (N, samples), float32."""
        return sound(self.tensors["audio"])

    def first(self, count: int) -> "RowResult":
        """Return the first clips alone."""
        return replace(self, tensors={key: value[:count] for key, value in self.tensors.items()})

    @cached_property
    def embeddings(self) -> Array:
        """The judge's embeddings (N, D), float64."""
        return self.judge.embed(self.audio).double().numpy()

    @cached_property
    def heard(self) -> Heard:
        """What the foreign ears hear in every clip, by name."""
        return self.judge.foreign.heard(self.audio)

    @cached_property
    def recognised(self) -> dict[str, Array]:
        """Whether each tag was heard as asked for; see `ditto.eval.embeddings`."""
        x_0 = self.tensors.get("x_0")
        audio = None if x_0 is not None else self.audio
        _, heard = self.judge.classify(audio, None if x_0 is None else x_0.float())
        asked = self.judge.targets.real().tags[: self.count, : heard.shape[1]]
        return tag_accuracy(heard, asked)


@dataclass(frozen=True)
class Measure:
    """A figure of a row's clips.

    Attributes:
        name: column of the report.
        unit: "" for a pure number.
        ideal: the best value; claims compare distances from it. None if there is none.
        compute: one value a clip, (N,); None takes the tensors of this name, averaged.
        like: the figure whose order in the paper is claimed of this one too; None is its own.
    """

    name: str
    unit: str = ""
    ideal: float | None = 0.0
    compute: Callable[[RowResult], Array] | None = None
    like: "Measure | None" = None

    def values(self, row: RowResult) -> Array:
        """Return one value a clip.

        Raises:
            DittoError: there is no judge for it.
        """
        if self.compute is not None:
            return self.compute(row)
        values = row.tensors[self.name].double()
        return values.reshape(len(values), -1).mean(dim=1).numpy()

    def count(self, *rows: RowResult) -> int:
        """Return how many clips the figure of a row is of, or the ratio of rows of one size."""
        return rows[0].count

    def interval(self, row: RowResult) -> Interval:
        """Return the figure with its interval."""
        return mean_interval(self.values(row))

    def ratio(self, above: RowResult, below: RowResult, *, paired: bool = True) -> Interval:
        """Return the ratio of two rows' distances from the ideal, each `NEGLIGIBLE` or more."""
        ideal = self.ideal or 0.0
        a, b = (np.maximum(np.abs(self.values(r) - ideal), NEGLIGIBLE) for r in (above, below))
        return ratio_interval(a, b, paired=paired)


class TimedMeasure(Measure):
    """A time, of those clips alone that were timed in this run."""

    def values(self, row: RowResult) -> Array:
        """Return one time a clip that was timed.

        Raises:
            DittoError: none was: all are of another run, or of another process beside this one.
        """
        return super().values(row)[self._timed(row)]

    def count(self, *rows: RowResult) -> int:
        """Return how many clips were timed, in all of the rows."""
        return int(self._timed(*rows).sum())

    def ratio(self, above: RowResult, below: RowResult, *, paired: bool = True) -> Interval:
        """Return the ratio of two rows' times, over the clips that were timed in both."""
        both = self._timed(above, below)
        a, b = (super(TimedMeasure, self).values(row)[both] for row in (above, below))
        return ratio_interval(a, b, paired=paired)

    def _timed(self, *rows: RowResult) -> NDArray[np.bool_]:
        found = np.logical_and.reduce([row.timed for row in rows])
        if not found.any():
            raise DittoError("timed in another run: give --timed, on a machine with nothing to do")
        return found


class FrechetMeasure(Measure):
    """The Fréchet distance to real clips, in the judge's embedding."""

    def embeddings(self, row: RowResult) -> Array:
        """Return the embeddings, clips first."""
        return row.embeddings

    def distance(self, row: RowResult) -> Callable[[Array], float]:
        """Return the distance of embeddings that rows of this size are compared by."""
        return row.judge.reference.distance

    def values(self, row: RowResult) -> Array:
        """Return the embeddings, clips first.

        Raises:
            DittoError: there is no judge, or there are too few clips.
        """
        if row.count < row.judge.fewest:
            raise DittoError(f"a Fréchet distance needs {row.judge.fewest} clips or more")
        return self.embeddings(row)

    def interval(self, row: RowResult) -> Interval:
        """Return the distance with its interval."""
        values = self.values(row)  # first: says at once whether there are enough
        return statistic_interval(self.distance(row), values)

    def ratio(self, above: RowResult, below: RowResult, *, paired: bool = True) -> Interval:
        """Return the ratio of two distances; paired clips are drawn together."""
        a, b = self.values(above), self.values(below)
        distance = self.distance(above)

        def ratio(x: Array, y: Array) -> float:
            return distance(x) / max(distance(y), NEGLIGIBLE)

        if not paired:
            return statistic_interval(ratio, a, b)
        pairs = np.stack([a, b], axis=1)
        return statistic_interval(lambda pair: ratio(pair[:, 0], pair[:, 1]), pairs)


def _within_limit(row: RowResult) -> Array:
    """Return the share of each clip's seams that jump no more than real music of the genre."""
    jumps = row.tensors["seam_jumps"]
    limits = torch.tensor([row.judge.seam_limit(i) for i in range(len(jumps))], dtype=jumps.dtype)
    return (jumps <= limits[:, None]).double().mean(dim=1).numpy()


def _converged(row: RowResult) -> Array:
    return steps_to_converge(row.tensors["losses"].T, CONVERGED).double().numpy()


def _tune_shares(row: RowResult) -> Array:
    """Return how often basic-pitch hears each clip's tune, and the tune in other keys, (N, 12)."""
    shares = []
    for i, sounds in enumerate(row.heard["pitch_classes"]):
        melody = row.judge.targets.control(i, "melody")
        assert isinstance(melody, Melody)
        tune = [(note.onset, note.duration, note.pitch) for note in melody.tune.notes]
        shares.append(tune_shares(sounds, tune))
    return 100 * np.stack(shares)


def _tune_contrast(row: RowResult) -> Array:
    shares = _tune_shares(row)
    return shares[:, 0] - shares[:, 1:].mean(axis=1)


def _recognised(name: str) -> Measure:
    return Measure(name, "", None, lambda row: row.recognised[name])


def _in_checkout(name: str) -> str:
    """Return a folder's name as seen from the checkout."""
    path = Path(name)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else name


MSE, RHO = Measure("intensity_mse_db2", "dB^2"), Measure("intensity_rho", "", 1.0)
ACCURACY = Measure("melody_accuracy_percent", "%", 100.0)
TUNE = Measure("tune_heard_percent", "%", 100.0, lambda row: _tune_shares(row)[:, 0])
TUNE_CONTRAST = Measure("tune_contrast_percent", "%", 100.0, _tune_contrast)
"""By basic-pitch; the second less what it hears of the tune in other keys."""
STRUCTURE = Measure(
    "structure_mse_cosine",
    compute=lambda row: COSINE_SCALE * row.tensors["structure_mse"].double().numpy(),
)
TEXT = Measure("clap_score_own", "", 1.0, lambda row: row.tensors["clap_score"].numpy())
"""By the CLAP that it was optimised with."""
OUTPAINT, INPAINT = Measure("outpaint_mse"), Measure("inpaint_mse")
LOOP, INVERT = Measure("loop_mse"), Measure("invert_mse")
SEAM, SEAMS = Measure("seam_jump", "dB"), Measure("seam_jumps", "dB")
WITHIN = Measure("seams_within_limit", "", 1.0, _within_limit)
FAD = FrechetMeasure("frechet_distance")
CLAP_SCORE = Measure("clap_score", "", 1.0, lambda row: row.judge.scores(row, row.judge.listener))
OWN_CLAP_SCORE = Measure(
    "clap_score_optimised", "", 1.0, lambda row: row.judge.scores(row, row.judge.text_clap)
)
TIME = TimedMeasure("seconds_per_clip", "s")
CANDIDATES = Measure("candidates", "", None)
CONVERGENCE = Measure("steps_to_converge", "steps", 0.0, _converged)
STEP_TIME = TimedMeasure("seconds_per_step", "s")
MEMORY = Measure("mean_memory_gb", "GB")
REUSE = Measure("reuse_loss")
VARIANCES = (
    Measure("intensity_variance", "dB^2"),
    Measure("melody_variance"),
    Measure("structure_variance"),
)
RECOGNISED = tuple(
    _recognised(name)
    for name in ("genre_accuracy", "mood_accuracy", "tempo_accuracy", "tempo_within_1_bin")
)
VOCODER = (
    Measure("spectral_convergence"),
    Measure("log_magnitude_db", "dB"),
    Measure("mel_db", "dB"),
    Measure("rms_db", "dB"),
)
