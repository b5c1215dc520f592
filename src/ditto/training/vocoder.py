"""Training the vocoder: spectral losses first, adversarial fine-tuning after (METHOD: MusicHiFi's recipe, made small).

Run it with ``ditto-music train vocoder --config configs/vocoder.json --data datasets/train --out runs/vocoder``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.audio.spectral_distance import SIZES, multi_resolution_stft
from ditto.data.dataset import AudioCrops
from ditto.errors import DataError
from ditto.models.vocoder import Vocoder
from ditto.training.discriminators import (
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from ditto.training.loop import (
    Checkpoints,
    Ema,
    RunLog,
    load_config,
    load_optimizer,
    optimizer_tensors,
    progress_steps,
    start_run,
    step_seed,
)

PEAK_LIMIT = 0.99
"""A crop's gain never takes its peak beyond this."""


class Crops(Protocol):
    """Where crops come from: a pure function of the step, which is what makes a killed run resume exactly."""

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Audio of shape (B, samples), float32."""
        ...


@dataclass(frozen=True)
class VocoderConfig:
    """Everything that determines the weights, given the data.

    Attributes:
        network: keyword arguments of `Vocoder`.
        discriminators: keyword arguments of `Discriminators`.
        crop_frames: length of the crops that are compared, in frames.
        steps, batch_size: optimiser steps and crops a step.
        adversarial_from: first step with discriminators; at least `steps` for none.
        lr, warmup, final_lr: AdamW's rate after `warmup` linear steps, and the share of it left at the end of an
            exponential decay. `discriminator_lr` decays alike.
        betas, weight_decay, clip_norm: AdamW, for both.
        ema: decay of the averaged weights, which are the ones that ship.
        gain_db: range of the random gain of each crop.
        mel_weight, adversarial_weight, matching_weight: of the losses beside the multi-resolution STFT loss.
        log_every, checkpoint_every, evaluate_every: in steps.
    """

    network: dict[str, Any] = field(default_factory=dict)
    discriminators: dict[str, Any] = field(default_factory=dict)
    crop_frames: int = 48
    steps: int = 20_000
    batch_size: int = 16
    adversarial_from: int = 12_000
    lr: float = 1e-3
    warmup: int = 100
    final_lr: float = 0.05
    discriminator_lr: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    ema: float = 0.999
    gain_db: tuple[float, float] = (-20.0, 3.0)
    mel_weight: float = 1.0
    adversarial_weight: float = 0.1
    matching_weight: float = 0.5
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 250
    evaluate_every: int = 500

    @property
    def crop_samples(self) -> int:
        """Samples that a crop must bring: half a mel window more at each end, so that its mel sees real sound."""
        spec = self.make_network().spec
        return spec.samples(self.crop_frames + 2 * _margin(spec))

    def make_network(self) -> Vocoder:
        """The vocoder with initial weights that are a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Vocoder(**self.network)

    def make_discriminators(self) -> Discriminators:
        """The discriminators with initial weights that are a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Discriminators(**self.discriminators)


@dataclass
class _Run:
    """What a step changes."""

    config: VocoderConfig
    accelerator: Accelerator
    vocoder: Any
    discriminators: Any
    optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    ema: Ema

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that a checkpoint needs."""
        return {
            "model": self.accelerator.unwrap_model(self.vocoder).state_dict(),
            "ema": self.ema.shadow,
            "optimizer": optimizer_tensors(self.optimizer),
            "discriminators": self.accelerator.unwrap_model(self.discriminators).state_dict(),
            "discriminator_optimizer": optimizer_tensors(self.discriminator_optimizer),
        }


def train_vocoder(
    config: VocoderConfig, crops: Crops, out: Path, *, held_out: Crops | None = None, show: bool = True
) -> Vocoder:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`; returns the vocoder with EMA weights.

    The same config, data and machine give the same float32 weights on a CPU bit for bit, however often the run was
    killed. Writes ``config.json``, ``log.jsonl``, ``tensorboard/`` and ``step-*/`` under `out`.

    Args:
        config: the recipe.
        crops: audio of `config.crop_samples` samples a crop.
        out: the run's folder.
        held_out: crops for the held-out loss; by default `crops`, at steps that training does not reach.
        show: draw a progress bar.

    Raises:
        DataError: the crops have another length, or training diverged.
        OutputError: the folder cannot be made or holds a run with another config.
    """
    start_run(out, config)
    run, start = _start(config, out)
    checkpoints, log = Checkpoints(out), RunLog(out, start, _tensorboard(out))
    for step, meter in progress_steps(start, config.steps, "vocoder", show):
        audio = _load(config, crops, step).to(run.accelerator.device)
        losses = train_step(run, audio, step)
        meter.add(losses["loss"])
        done = step + 1
        if not losses["loss"] < 1e6:
            raise DataError(f"training diverged at step {done} (loss {losses['loss']:g}): lower lr and start afresh")
        if done % config.log_every == 0:
            log.write(done, smooth_loss=meter.smooth, **losses)
        if done % config.evaluate_every == 0 or done == config.steps:
            _evaluate(run, held_out or crops, done, log)
        if done % config.checkpoint_every == 0 or done == config.steps:
            checkpoints.save(done, run.tensors(), {})
    return _averaged(config, run.ema.shadow)


def train_from_folder(config: VocoderConfig, data: Path, out: Path, *, held_out: Path | None = None) -> Vocoder:
    """`train_vocoder` on data folders.

    Raises:
        DataError: a folder is not a data folder or fits badly, or training diverged.
        OutputError: see `train_vocoder`.
    """
    spec = config.make_network().spec
    crops = AudioCrops(data, spec, samples=config.crop_samples, seed=config.seed)
    held = AudioCrops(held_out, spec, samples=config.crop_samples, seed=config.seed) if held_out else None
    return train_vocoder(config, crops, out, held_out=held)


def train_step(run: _Run, audio: Tensor, step: int) -> dict[str, float]:
    """One update of the vocoder (and of the discriminators, from `adversarial_from` on); the losses as numbers."""
    config, adversarial = run.config, step >= run.config.adversarial_from
    _set_rates(run, step)
    x_0, target = split_crop(audio, _spec(run))
    made = run.vocoder(x_0, seed=step)
    parts = spectral_losses(config, made, target, _spec(run))
    if adversarial:
        parts |= _adversarial_losses(run, made, target)
    loss = torch.stack(list(parts.values())).sum()
    run.optimizer.zero_grad()
    run.accelerator.backward(loss)
    run.accelerator.clip_grad_norm_(run.vocoder.parameters(), config.clip_norm)
    run.optimizer.step()
    run.ema.update(run.accelerator.unwrap_model(run.vocoder), step)
    return {"loss": loss.item(), **{name: value.item() for name, value in parts.items()}}


def spectral_losses(config: VocoderConfig, made: Tensor, target: Tensor, spec: AudioSpec) -> dict[str, Tensor]:
    """The weighted losses of the reconstruction phase, scalars by name.

    Multi-resolution STFT (spectral convergence and log magnitude) and L1 of the log-mels in tens of dB.
    """
    convergence, log_magnitude = multi_resolution_stft(made, target, SIZES)
    difference = (log_mel(made, spec) - log_mel(target, spec)).abs().mean() * (spec.dynamic_range_db / 20)
    return {
        "convergence": convergence.mean(),
        "log_magnitude": log_magnitude.mean(),
        "mel": config.mel_weight * difference,
    }


def split_crop(audio: Tensor, spec: AudioSpec) -> tuple[Tensor, Tensor]:
    """A crop's log-mel and the sound it stands for, both without the margins: (B, n_mels, F) and (B, F * hop)."""
    margin = _margin(spec)
    inner = slice(margin * spec.hop, audio.shape[1] - margin * spec.hop)
    return log_mel(audio, spec)[..., margin:-margin], audio[:, inner]


def load_vocoder(run_dir: Path) -> Vocoder:
    """The averaged weights of a run's newest checkpoint.

    Raises:
        DataError: the run has no checkpoint yet.
    """
    found = Checkpoints(run_dir).latest()
    if found is None:
        raise DataError(f"the run {str(run_dir)!r} has no checkpoint yet: train longer")
    return _averaged(load_config(run_dir / "config.json", VocoderConfig), found[1]["ema"])


def export_vocoder(run_dir: Path, out_dir: Path) -> None:
    """Write the averaged weights of a run's newest checkpoint as a diffusers folder, in half precision.

    `Vocoder.from_pretrained(out_dir)` reads it.

    Raises:
        DataError: the run has no checkpoint yet, or a weight does not fit half precision.
    """
    vocoder = load_vocoder(run_dir).half()
    if not all(bool(p.isfinite().all()) for p in vocoder.parameters()):
        raise DataError(f"the weights of {str(run_dir)!r} do not fit half precision: train again with a lower lr")
    vocoder.save_pretrained(out_dir)


def _adversarial_losses(run: _Run, made: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Update the discriminators, then the vocoder's weighted losses against them."""
    config = run.config
    level = target.square().mean(dim=1, keepdim=True).sqrt()
    judge_loss = discriminator_loss(run.discriminators(target, level), run.discriminators(made.detach(), level))
    run.discriminator_optimizer.zero_grad()
    run.accelerator.backward(judge_loss)
    run.accelerator.clip_grad_norm_(run.discriminators.parameters(), config.clip_norm)
    run.discriminator_optimizer.step()
    with torch.no_grad():
        real = run.discriminators(target, level)
    fake = run.discriminators(made, level)
    return {
        "adversarial": config.adversarial_weight * adversarial_loss(fake),
        "matching": config.matching_weight * feature_matching_loss(real, fake),
    }


def _start(config: VocoderConfig, out: Path) -> tuple[_Run, int]:
    """A run at its newest checkpoint, or at step 0."""
    vocoder, discriminators = config.make_network(), config.make_discriminators()
    optimizer = _adamw(vocoder, config.lr, config)
    discriminator_optimizer = _adamw(discriminators, config.discriminator_lr, config)
    ema, start = Ema(vocoder, config.ema), 0
    if (found := Checkpoints(out).latest()) is not None:
        start, groups, _ = found
        vocoder.load_state_dict(groups["model"])
        ema.load(groups["ema"])
        load_optimizer(optimizer, groups["optimizer"])
        discriminators.load_state_dict(groups["discriminators"])
        load_optimizer(discriminator_optimizer, groups["discriminator_optimizer"])
    accelerator = Accelerator()
    model, judges, *optimizers = accelerator.prepare(vocoder, discriminators, optimizer, discriminator_optimizer)
    return _Run(config, accelerator, model, judges, optimizers[0], optimizers[1], ema), start


def _adamw(module: nn.Module, lr: float, config: VocoderConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        module.parameters(), lr=lr, betas=(config.betas[0], config.betas[1]), weight_decay=config.weight_decay
    )


def _set_rates(run: _Run, step: int) -> None:
    config = run.config
    factor = config.final_lr ** (step / max(config.steps, 1)) * min(1.0, (step + 1) / max(config.warmup, 1))
    for optimizer, lr in ((run.optimizer, config.lr), (run.discriminator_optimizer, config.discriminator_lr)):
        for group in optimizer.param_groups:
            group["lr"] = lr * factor


def _load(config: VocoderConfig, crops: Crops, step: int) -> Tensor:
    """Crops with random gains, from (seed, step) alone."""
    audio = crops.batch(step, config.batch_size)
    if audio.shape[1] != config.crop_samples:
        raise DataError(f"the recipe needs crops of {config.crop_samples} samples, got {audio.shape[1]}")
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    low, high = config.gain_db
    gain = 10 ** ((low + (high - low) * torch.rand(len(audio), 1, generator=generator)) / 20)
    return audio * gain.minimum(PEAK_LIMIT / audio.abs().amax(dim=1, keepdim=True).clamp(min=1e-6))


@torch.no_grad()
def _evaluate(run: _Run, crops: Crops, step: int, log: RunLog) -> None:
    """Log the spectral losses of the averaged weights on two batches that training never sees."""
    config, spec = run.config, _spec(run)
    vocoder, rows = _averaged(config, run.ema.shadow).to(run.accelerator.device), []
    for i in range(2):
        audio = _load(config, crops, config.steps + i).to(run.accelerator.device)
        x_0, target = split_crop(audio, spec)
        rows.append(spectral_losses(config, vocoder(x_0), target, spec))
    log.write(step, **{f"held_out_{name}": sum(row[name].item() for row in rows) / len(rows) for name in rows[0]})
    if log.writer is not None:
        x_0 = split_crop(_load(config, crops, config.steps)[:1].to(run.accelerator.device), spec)[0]
        pair = torch.cat([x_0[0], log_mel(vocoder(x_0), spec)[0]], dim=-1)
        cast(Any, log.writer).add_image("mel: real, made", ((pair + 1) / 2).clamp(0, 1).flip(0)[None], step)


def _averaged(config: VocoderConfig, shadow: dict[str, Tensor]) -> Vocoder:
    vocoder = config.make_network()
    vocoder.load_state_dict(shadow)
    return vocoder.eval()


def _spec(run: _Run) -> AudioSpec:
    return run.accelerator.unwrap_model(run.vocoder).spec


def _margin(spec: AudioSpec) -> int:
    """Frames that half a mel window spans."""
    return -(-spec.n_fft // (2 * spec.hop))


def _tensorboard(out: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"))
