"""What a base's training measures on held-out clips, the same at every evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.sharpness import sharpness
from ditto.audio.spec import AudioSpec
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Schedule
from ditto.models.conditioning import null_tags
from ditto.models.model import guided_denoiser
from ditto.training.denoising import BaseConfig, Clips, Network, Setting, diffusion_loss, draw
from ditto.training.run import Run

SIGMAS = (0.1, 0.26, 0.5, 1.0, 2.0, 4.0)
"""Noise levels that the denoising error is measured at, in units of the log-mel in [−1, 1]."""
BATCH = 16
"""Clips at once."""


class Measure:
    """Evaluates networks for a run's log.

    ``held_out_loss`` is the loss; ``error_db_<σ>`` the root mean square error of x̂_0 at a noise
    level, in dB of log-mel; ``contrast_off`` and ``peaks_off`` are those of
    `ditto.audio.sharpness`, of sampled clips against as many others.

    Args:
        run: its log and pictures.
        setting: of the loss.
        config: the recipe.
        clips: held-out ones, in model space.
        bands: of the model space.
        spec: dynamic range of the log-mels.
    """

    def __init__(
        self,
        run: Run,
        setting: Setting,
        config: BaseConfig,
        clips: Clips,
        bands: Bands,
        spec: AudioSpec | None = None,
    ) -> None:
        self.run, self.setting, self.config, self.bands = run, setting, config, bands
        # Tags that a network never saw would be noise to it.
        self.clips = Untagged(clips) if config.tag_dropout == 1 else clips
        self.spec = spec or AudioSpec()

    @torch.no_grad()
    def __call__(self, network: Network, prefix: str = "") -> None:
        """Log everything, the names beginning with `prefix`; draw four clips above samples.

        The samples have the tags of the clips.
        """
        network.eval()
        with self.run.accelerator.autocast():
            found = {"held_out_loss": held_out_loss(network, self.setting, self.config, self.clips)}
            if self.config.measured:
                found |= self.errors(network)
            count = max(4, self.config.measured // 2)
            real, tags = self.clips.batch(0, count)
            schedule, seed = self.setting.schedule, self.config.seed
            made = sample_clips(network, schedule, tags, real.shape[1:], seed, bands=self.bands)
        real, made = self.bands.mel(real)[:, 0], self.bands.mel(made.float())[:, 0]
        if self.config.measured:
            found |= sharpness(made, self.spec.dynamic_range_db).off_by(
                sharpness(real, self.spec.dynamic_range_db)
            )
        self.run.log.write(self.run.done, **{prefix + name: value for name, value in found.items()})
        if not prefix:
            from ditto.plots import mel_grid  # imports Matplotlib: here, for few steps draw

            mel_grid(self.run.picture, [*real[:4, None], *made[:4, None]], columns=4)

    def errors(self, network: nn.Module, sigmas: Sequence[float] = SIGMAS) -> dict[str, float]:
        """Compute ``error_db_<σ>`` for each noise level; the noise is fixed."""
        half_range, unit, found = self.spec.dynamic_range_db / 2, self.bands.variance**0.5, {}
        for sigma in sigmas:
            squares, count = 0.0, 0
            for i in range(self.config.measured // BATCH):
                x_0, tags = self.clips.batch(i, BATCH)
                t = self.setting.schedule.nearest(torch.full((BATCH,), sigma / unit))
                noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(i))
                x_t = self.setting.schedule.add_noise(x_0, noise, t)
                output = network(x_t, t, tags).float()
                estimate = self.setting.schedule.to_x_0(
                    output, x_t, t, self.setting.prediction, self.setting.skip_std
                )
                squares += (self.bands.mel(estimate) - self.bands.mel(x_0)).square().sum().item()
                count += x_0.numel()
            found[f"error_db_{sigma:g}"] = half_range * (squares / max(count, 1)) ** 0.5
        return found


@dataclass(frozen=True)
class Untagged:
    """Clips without their tags."""

    clips: Clips

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return clips and conditions of no tags."""
        x_0, tags = self.clips.batch(step, batch_size)
        return x_0, null_tags(tags)


@torch.no_grad()
def held_out_loss(
    network: nn.Module, setting: Setting, config: BaseConfig, clips: Clips, batches: int = 4
) -> float:
    """Average the loss over fixed held-out clips, timesteps and noise.

    Two checkpoints compare exactly.
    """
    losses = []
    for i in range(batches):
        x_0, tags = clips.batch(i, config.batch_size)
        t, noise, _ = draw(config, setting.schedule, x_0, i)
        loss = diffusion_loss(network, setting, x_0, tags, t, noise)
        losses.append(loss.item())
    return sum(losses) / len(losses)


def sample_clips(
    network: Network,
    schedule: Schedule,
    tags: Tensor,
    shape: Any,
    seed: int,
    steps: int = 20,
    guidance: float = 1.0,
    bands: Bands = PLAIN,
) -> Tensor:
    """Sample clips (B, 1, n_mels, frames) by DDIM for `tags`, conditions (B, 5)."""
    denoiser = guided_denoiser(network, schedule, bands)
    schedule = schedule.suited(denoiser.prediction)
    chain = Chain(denoiser, schedule, schedule.timesteps(steps), tags, guidance)
    noise = torch.randn(len(tags), *shape, generator=torch.Generator().manual_seed(seed))
    return ddim(chain, noise)
