"""Training the quality bench's classifier on the training split: ``ditto-music train classifier``.

Clips are stretched in time (with the tempo's label), turned up or down, and lose a band of mels at
random, so that the classifier hears music, not recordings. Its weights judge generated clips only;
no model contains them.
"""

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import ClipDataset, read_labels, tags_of_label
from ditto.data.shards import Shards, find_data
from ditto.errors import DataError
from ditto.eval.classifier import ClipClassifier
from ditto.models.conditioning import TagVocabulary
from ditto.paths import StrPath, atomic_file, printable
from ditto.training.learner import Count, Decay, Every, NotNegative, Recipe, Share
from ditto.training.loop import built, seeded, step_seed
from ditto.training.run import Run, alone

HEADS = ("genre", "mood", "tempo")


class Clips(Protocol):
    """Where clips come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return x_0 (B, 1, n_mels, frames) and conditions (B, 5) without null tags.

        There are at least `drawn_frames` frames.
        """
        ...


@dataclass(frozen=True)
class ClassifierConfig(Recipe):
    """Everything that determines the weights, given the data.

    Attributes:
        network: keyword arguments of `ClipClassifier` beyond what spectrogram and tags say.
        frames: length of a clip.
        smoothing: label smoothing.
        stretch: clips last up to 1 + this times as long or as short.
        gain_db: clips are turned up or down by up to this.
        masked: most mel bands to be silenced; in half of the clips.
    """

    network: dict[str, Any] = field(default_factory=dict)
    frames: Every = 512
    steps: Count = 1200
    batch_size: Every = 32
    lr: NotNegative = 2e-3
    decay: Share = 0.6
    weight_decay: NotNegative = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    smoothing: Share = 0.05
    stretch: NotNegative = 0.2
    gain_db: NotNegative = 6.0
    masked: Count = 24
    checkpoint_every: Every = 250
    fused: ClassVar[bool] = False  # as when the shipped weights were made

    @property
    def drawn_frames(self) -> int:
        """Frames that a clip must have before it is stretched."""
        return math.ceil(self.frames * (1 + self.stretch))


def train_classifier_on(
    config: ClassifierConfig,
    clips: Clips,
    vocabulary: TagVocabulary,
    out: Path,
    *,
    show: bool = True,
) -> ClipClassifier:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`.

    Writes ``config.json``, ``log.jsonl``, ``tensorboard/`` and ``step-*/`` under `out`.

    Raises:
        DataError: the training diverged.
        OutputError: see `start_run`.
    """
    accelerator = Accelerator()
    alone(accelerator, "the classifier")
    network = _network(config, vocabulary)
    run = Run(config, out, accelerator, network)
    for step in run.steps("classifier", show):
        x_0, targets = augmented(config, vocabulary, *clips.batch(step, config.batch_size), step)
        x_0, *targets = (tensor.to(accelerator.device) for tensor in (x_0, *targets))
        run.update(_loss(run.model, x_0, targets, config, step))
    return network.eval()


def train_classifier(
    config: ClassifierConfig, data: StrPath, out: Path, *, held_out: StrPath | None = None
) -> Path:
    """Train on a data folder or shards; save float16 weights in ``out/classifier``.

    They are scored on held-out data. The folder gets ``scores.json`` (the accuracies on
    `held_out`) and the run's ``log.jsonl`` and ``config.json``.

    Returns:
        ``out/classifier``.

    Raises:
        DataError: a folder is not a data folder, or lacks tags for some piece.
        TagError: the held-out data have a tag that the others lack.
    """
    spec = AudioSpec(clip_frames=config.frames)
    found = _labelled(data)
    clips = ClipDataset(found, spec, frames=config.drawn_frames, seed=config.seed)
    held = None if held_out is None else _labelled(held_out)
    if held is not None:  # what is wrong with it is said before the training
        ClipDataset(held, spec, clips.vocabulary, frames=spec.clip_frames)
    network = train_classifier_on(config, clips, clips.vocabulary, out)
    folder = out / "classifier"
    save_half(network, folder)
    for name in ("log.jsonl", "config.json"):
        target = "train_config.json" if name == "config.json" else name
        shutil.copyfile(out / name, folder / target)
    if held is not None:
        scores = accuracies(ClipClassifier.load(folder), held, spec, clips.vocabulary)
        with atomic_file(folder / "scores.json", force=True) as temporary:
            temporary.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return folder


def _labelled(place: StrPath) -> Path | Shards:
    """Return the data at a place.

    Raises:
        DataError: a piece lacks a tag, or there are no data.
    """
    found = find_data(place)
    for piece in read_labels(found):
        tags = tags_of_label(piece)
        if None in (tags.genre, tags.mood, tags.tempo):
            raise DataError(
                "the classifier needs a genre, a mood and a tempo for every piece of "
                f"{printable(place)}"
            )
    return found


def save_half(network: ClipClassifier, folder: Path) -> None:
    """Save as ``config.json`` and float16 safetensors."""
    copy.deepcopy(network).half().save_pretrained(folder)


@torch.no_grad()
def accuracies(
    network: ClipClassifier,
    root: Path | Shards,
    spec: AudioSpec,
    vocabulary: TagVocabulary,
    places: int = 4,
) -> dict[str, float]:
    """Return the shares of a data folder's clips whose tags are recognised, and how many clips.

    The tempo also counts within one bin.

    Clips are taken at `places` evenly spaced places of every piece.
    """
    dataset = ClipDataset(root, spec, vocabulary, frames=spec.clip_frames)
    right: list[Tensor] = []
    for i, piece in enumerate(read_labels(root)):
        x_0 = torch.stack([dataset.clip(i, (k + 0.5) / places)[0] for k in range(places)])
        found = torch.stack([logits.argmax(dim=-1) + 1 for logits in network(x_0).logits], dim=1)
        distance = (found - vocabulary.encode(tags_of_label(piece))[: len(HEADS)]).abs()
        right.append(torch.cat([distance == 0, distance[:, 2:] <= 1], dim=1).double())
    means = torch.cat(right).mean(dim=0).tolist()
    return dict(zip((*HEADS, "tempo_within_1"), means, strict=True)) | {
        "clips": float(sum(map(len, right)))
    }


def augmented(
    config: ClassifierConfig, vocabulary: TagVocabulary, x_0: Tensor, tags: Tensor, step: int
) -> tuple[Tensor, list[Tensor]]:
    """Draw gain, stretch and masks of clips (B, 1, n_mels, frames) from (seed, step).

    Returns the clips and class probabilities.

    A stretched clip has another tempo, of which its bin is known, not the value; so the tempo's
    target is the share of the stretched bin that falls into each bin. Stretches that would leave
    the range of tempi are mirrored.
    """
    rng = np.random.default_rng([config.seed, step])
    items, shares = [], []
    for clip, tempo in zip(x_0, tags[:, 2].tolist(), strict=True):
        factor, share = _stretch(config, vocabulary, int(tempo) - 1, rng)
        items.append(_masked(config, _resampled(clip[0], factor, config.frames, rng), rng))
        shares.append(share)
    sizes = (len(vocabulary.genres), len(vocabulary.moods))
    hard = [
        torch.nn.functional.one_hot(tags[:, i] - 1, size).float() for i, size in enumerate(sizes)
    ]
    return torch.stack(items)[:, None], [*hard, torch.from_numpy(np.stack(shares)).float()]


def _stretch(
    config: ClassifierConfig, vocabulary: TagVocabulary, tempo_bin: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Draw a factor on the tempo of a clip from bin `tempo_bin`.

    Returns it with the shares of the bins that the new tempo may be in, (tempo_bins,).
    """
    low, high, bins = vocabulary.tempo_low, vocabulary.tempo_high, vocabulary.tempo_bins
    width = (high - low) / bins
    edges = np.array([tempo_bin, tempo_bin + 1]) * width + low
    factor = (1 + config.stretch) ** rng.uniform(-1, 1)
    if not low <= edges.mean() * factor <= high:
        factor = 1 / factor
    first, last = edges * factor
    grid = low + width * np.arange(bins + 1)
    grid[0], grid[-1] = -np.inf, np.inf
    return factor, np.diff(np.clip(grid, first, last)) / (last - first)


def _resampled(clip: Tensor, factor: float, frames: int, rng: np.random.Generator) -> Tensor:
    """Return `frames` frames of a clip (n_mels, drawn frames) played `factor` times as fast."""
    needed = min(round(frames * factor), clip.shape[-1])
    start = int(rng.integers(clip.shape[-1] - needed + 1))
    return interpolate(
        clip[None, :, start : start + needed], size=frames, mode="linear", align_corners=False
    )[0]


def _masked(config: ClassifierConfig, clip: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a clip (n_mels, frames) at another level and perhaps with silent bands."""
    clip = clip + rng.uniform(-1, 1) * config.gain_db / (AudioSpec().dynamic_range_db / 2)
    if config.masked and rng.random() < 0.5:
        width = int(rng.integers(1, config.masked + 1))
        start = int(rng.integers(len(clip) - width + 1))
        clip[start : start + width] = -1.0
    return clip


def _loss(
    model: torch.nn.Module,
    x_0: Tensor,
    targets: Sequence[Tensor],
    config: ClassifierConfig,
    step: int,
) -> Tensor:
    # Dropout draws from the process-wide generator: fixed by the step, so that a resumed run
    # repeats it.
    with seeded(step_seed(config.seed, step)):
        logits = model(x_0).logits
    losses = [
        cross_entropy(found, target, label_smoothing=config.smoothing)
        for found, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(losses).sum()


def _network(config: ClassifierConfig, vocabulary: TagVocabulary) -> ClipClassifier:
    spec = AudioSpec()
    known: dict[str, Any] = {
        "n_mels": spec.n_mels,
        "frame_rate": spec.frame_rate,
        "dynamic_range_db": spec.dynamic_range_db,
        "genres": len(vocabulary.genres),
        "moods": len(vocabulary.moods),
        "tempo_bins": vocabulary.tempo_bins,
        "tempo_low": vocabulary.tempo_low,
        "tempo_high": vocabulary.tempo_high,
    }
    with seeded(config.seed):
        return built("network", lambda: ClipClassifier(**(known | config.network)))
