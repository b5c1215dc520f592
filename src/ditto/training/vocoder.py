"""Training the vocoder: spectral losses first, adversarial after (MusicHiFi's recipe, made small).

Run it with ``ditto-music train vocoder --config vocoder --data datasets/train --out
runs/vocoder``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.audio.spectral_distance import SIZES, multi_resolution_stft
from ditto.data.dataset import AudioCrops
from ditto.data.shards import find_data
from ditto.errors import DataError
from ditto.models.vocoder import Vocoder
from ditto.paths import StrPath
from ditto.training.discriminators import (
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from ditto.training.learner import Count, Decay, Every, Learner, NotNegative, Recipe, Share
from ditto.training.loop import Checkpoints, built, load_config, seeded, step_seed
from ditto.training.run import Run

PEAK_LIMIT = 0.99
"""A crop's gain never takes its peak beyond this."""


class Crops(Protocol):
    """Where crops come from: a function of the step alone, so that a killed run resumes exactly."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Return audio of shape (B, samples), float32."""
        ...


@dataclass(frozen=True)
class VocoderConfig(Recipe):
    """Everything that determines the weights, given the data.

    AdamW's settings are the discriminators' too.

    Attributes:
        network: keyword arguments of `Vocoder`.
        discriminators: keyword arguments of `Discriminators`.
        crop_frames: length of the crops that are compared, in frames.
        adversarial_from: first step with discriminators; at least `steps` for none.
        final_lr: share of the learning rates left at the end of an exponential decay, beside the
            recipe's other one.
        discriminator_lr: the discriminators' highest learning rate.
        ema: decay of the averaged weights, which are the ones that ship.
        gain_db: range of the random gain of each crop.
        mel_weight, adversarial_weight, matching_weight: of the losses beside the multi-resolution
            STFT loss.
        evaluate_every: in steps.
    """

    network: dict[str, Any] = field(default_factory=dict)
    discriminators: dict[str, Any] = field(default_factory=dict)
    crop_frames: Every = 48
    steps: Count = 20_000
    adversarial_from: Count = 12_000
    lr: NotNegative = 1e-3
    decay: Share = 0.0
    final_lr: Share = 0.05
    discriminator_lr: NotNegative = 2e-4
    betas: tuple[Decay, Decay] = (0.8, 0.99)
    weight_decay: NotNegative = 1e-3
    ema: Decay = 0.999
    gain_db: tuple[float, float] = (-20.0, 3.0)
    mel_weight: NotNegative = 1.0
    adversarial_weight: NotNegative = 0.1
    matching_weight: NotNegative = 0.5
    checkpoint_every: Every = 250
    evaluate_every: Every = 500
    fused: ClassVar[bool] = False  # as when the shipped weights were made

    def rate(self, step: int) -> float:
        """Compute the learning rates' factor at a step, 0 to 1."""
        return self.final_lr ** (step / max(self.steps, 1)) * super().rate(step)

    @property
    def crop_samples(self) -> int:
        """Samples that a crop must bring.

        It has half a mel window more at each end, so that its mel sees real sound.
        """
        spec = self.make_network().spec
        return spec.samples(self.crop_frames + 2 * spec.margin_frames)

    def make_network(self) -> Vocoder:
        """Build the vocoder with initial weights that are a function of the seed."""
        with seeded(self.seed):
            return built("network", lambda: Vocoder(**self.network))

    def make_discriminators(self) -> Discriminators:
        """Build the discriminators with initial weights that are a function of the seed."""
        with seeded(self.seed):
            return built("discriminators", lambda: Discriminators(**self.discriminators))


def train_vocoder(
    config: VocoderConfig,
    crops: Crops,
    out: Path,
    *,
    held_out: Crops | None = None,
    show: bool = True,
) -> Vocoder:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`.

    Returns the EMA vocoder. The same config, data and machine give the same float32 weights on a
    CPU bit for bit, however often the run was killed. Writes ``config.json``, ``log.jsonl``,
    ``tensorboard/`` and ``step-*/`` under `out`.

    Args:
        config: the recipe.
        crops: audio of `config.crop_samples` samples a crop.
        out: the run's folder.
        held_out: crops for the held-out loss; by default `crops`, at steps that training does not
            reach.
        show: draw a progress bar.

    Raises:
        DataError: the crops have another length, or training diverged.
        OutputError: the folder cannot be made or holds a run with another config.
    """
    accelerator, vocoder = Accelerator(), config.make_network()
    judges = Learner(
        accelerator,
        config.make_discriminators(),
        config,
        lr=config.discriminator_lr,
        names=("discriminators", "discriminator_optimizer"),
    )
    run = Run(
        config, out, accelerator, vocoder, averages={"ema": config.ema}, extra_learners=[judges]
    )
    for step in run.steps("vocoder", show):
        audio = _load(config, crops, step)[run.part]
        x_0, target = split_crop(audio.to(accelerator.device), vocoder.spec)
        made = run.model(x_0, seed=step)
        losses = spectral_losses(config, made, target, vocoder.spec)
        if step >= config.adversarial_from:
            losses |= _adversarial_losses(config, judges, made, target, step, run.mean)
        run.update(torch.stack(list(losses.values())).sum(), losses)
        if run.due(config.evaluate_every):
            _evaluate(config, _averaged(config, run.averages["ema"].shadow), held_out or crops, run)
    return _averaged(config, run.averages["ema"].shadow)


def train_from_folder(
    config: VocoderConfig, data: StrPath, out: Path, *, held_out: StrPath | None = None
) -> Vocoder:
    """Run `train_vocoder` on data folders or shards.

    Raises:
        DataError: a folder is not a data folder or fits badly, or training diverged.
        OutputError: see `train_vocoder`.
    """
    spec = config.make_network().spec
    crops = AudioCrops(find_data(data), spec, samples=config.crop_samples, seed=config.seed)
    held = (
        AudioCrops(find_data(held_out), spec, samples=config.crop_samples, seed=config.seed)
        if held_out
        else None
    )
    return train_vocoder(config, crops, out, held_out=held)


def spectral_losses(
    config: VocoderConfig, made: Tensor, target: Tensor, spec: AudioSpec
) -> dict[str, Tensor]:
    """Compute the weighted losses of the reconstruction phase, scalars by name.

    Multi-resolution STFT (spectral convergence and log magnitude) and L1 of the log-mels in tens of
    dB.
    """
    convergence, log_magnitude = multi_resolution_stft(made, target, SIZES)
    difference = (log_mel(made, spec) - log_mel(target, spec)).abs().mean() * (
        spec.dynamic_range_db / 20
    )
    return {
        "convergence": convergence.mean(),
        "log_magnitude": log_magnitude.mean(),
        "mel": config.mel_weight * difference,
    }


def split_crop(audio: Tensor, spec: AudioSpec) -> tuple[Tensor, Tensor]:
    """Return a crop's log-mel and its sound without the margins: (B, n_mels, F), (B, F * hop)."""
    margin = spec.margin_frames
    inner = slice(margin * spec.hop, audio.shape[1] - margin * spec.hop)
    return log_mel(audio, spec)[..., margin:-margin], audio[:, inner]


def load_vocoder(run_dir: Path) -> Vocoder:
    """Load the averaged weights of a run's newest checkpoint.

    Raises:
        DataError: the run has no checkpoint yet.
    """
    groups, _ = Checkpoints(run_dir).newest()
    return _averaged(load_config(run_dir / "config.json", VocoderConfig), groups["ema"])


def _adversarial_losses(
    config: VocoderConfig,
    judges: Learner,
    made: Tensor,
    target: Tensor,
    step: int,
    whole: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Update the discriminators, then compute the vocoder's weighted losses against them."""
    level = target.square().mean(dim=1, keepdim=True).sqrt()
    judges.descend(
        discriminator_loss(judges.model(target, level), judges.model(made.detach(), level)), step
    )
    with torch.no_grad():
        real = judges.model(target, level)
    fake = judges.model(made, level)
    return {
        "adversarial": config.adversarial_weight * adversarial_loss(fake),
        "matching": config.matching_weight * feature_matching_loss(real, fake, whole),
    }


def _load(config: VocoderConfig, crops: Crops, step: int) -> Tensor:
    """Return crops with random gains, from (seed, step) alone."""
    audio = crops.batch(step, config.batch_size)
    if audio.shape[1] != config.crop_samples:
        raise DataError(
            f"the recipe needs crops of {config.crop_samples} samples, got {audio.shape[1]}"
        )
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    low, high = config.gain_db
    gain = 10 ** ((low + (high - low) * torch.rand(len(audio), 1, generator=generator)) / 20)
    return audio * gain.minimum(PEAK_LIMIT / audio.abs().amax(dim=1, keepdim=True).clamp(min=1e-6))


@torch.no_grad()
def _evaluate(config: VocoderConfig, vocoder: Vocoder, crops: Crops, run: Run) -> None:
    """Log the spectral losses of the averaged weights on two batches that training never sees."""
    rows, spec = [], vocoder.spec
    for i in range(2):
        x_0, target = split_crop(_load(config, crops, config.steps + i), spec)
        rows.append(spectral_losses(config, vocoder(x_0), target, spec))
    means = {
        f"held_out_{name}": sum(row[name].item() for row in rows) / len(rows) for name in rows[0]
    }
    run.log.write(run.done, **means)
    if run.log.writer is not None:
        x_0 = split_crop(_load(config, crops, config.steps)[:1], spec)[0]
        pair = torch.cat([x_0[0], log_mel(vocoder(x_0), spec)[0]], dim=-1)
        cast(Any, run.log.writer).add_image(
            "mel: real, made", ((pair + 1) / 2).clamp(0, 1).flip(0)[None], run.done
        )


def _averaged(config: VocoderConfig, shadow: dict[str, Tensor]) -> Vocoder:
    vocoder = config.make_network()
    vocoder.load_state_dict(shadow)
    return vocoder.eval()
