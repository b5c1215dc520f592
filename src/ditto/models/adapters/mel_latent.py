"""Latents of a mel spectrogram: VAE, vocoder, front end and schedule of AudioLDM2 and MusicLDM."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from ditto.diffusion.schedule import Schedule
from ditto.models.adapters.common import (
    NO_TAGS,
    PipelineModel,
    feature_spec,
    freeze,
    in_chunks,
    schedule_of,
)
from ditto.tables import table

MEL_FFT = 1024
MEL_TOP_HERTZ = 8000.0
MEL_FLOOR = 1e-5
"""Of the magnitudes under the logarithm."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MelLatentModel(PipelineModel):
    """x_0 is (B, channels, mel bins / r, mel frames / r), r being the VAE's scale factor.

    The pipelines' own latents have the last two axes the other way round.
    """

    default_guidance: ClassVar[float]
    """The pipeline's."""

    licence: ClassVar[dict[str, str]] = {"license": "cc-by-nc-sa-4.0"}

    @classmethod
    def of(
        cls, pipe: DiffusionPipeline, *, name: str, sha256: str, negative_prompt: str | None = None
    ) -> Self:
        """Make a model of the pipeline's components, which are frozen."""
        freeze(pipe)
        unet, vae, vocoder = (cast(Any, pipe).components[n] for n in ("unet", "vae", "vocoder"))
        hop = vocoder_rate(vocoder) * vae_scale(vae)
        spec = feature_spec(vocoder.config.sampling_rate, hop, unet.config.sample_size)
        return cls(
            network=unet,
            vocoder=vocoder,
            spec=spec,
            vocabulary=NO_TAGS,
            guidance=cls.default_guidance,
            name=name,
            sha256=sha256,
            pipe=pipe,
            negative_prompt=negative_prompt,
        )

    @abstractmethod
    def network_kwargs(self, cond: Tensor) -> dict[str, Tensor | None]:
        """Return the UNet's arguments for one half of a condition."""

    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Compute ε̂ of the UNet or its student."""
        kwargs = {**self.network_kwargs(cond), **inputs, "return_dict": False}
        (output,) = network(x_t.transpose(-1, -2), t, **kwargs)
        return output.transpose(-1, -2)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise levels of the pipeline's scheduler."""
        return schedule_of(cast(Any, self.pipe).scheduler)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, and mel bins over the VAE's scale."""
        bins = cast(Any, self.vocoder).config.model_in_dim
        return cast(Any, self.network).config.in_channels, bins // vae_scale(self.vae)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draw x_T of one item: the numbers that the pipeline draws, in their places."""
        channels, bins, frames = shape
        return (
            torch.randn((channels, frames, bins), generator=generator).transpose(1, 2).contiguous()
        )

    def decode(self, x_0: Tensor) -> Tensor:
        """Decode by VAE and vocoder to sound (B, 1, frames · hop)."""
        mel = self.checkpointed(self._mel_of, x_0)
        rate, reach = vocoder_rate(self.vocoder), vocoder_reach(self.vocoder)
        return in_chunks(
            lambda part: self.checkpointed(self._sound_of, part),
            mel,
            chunk=self.chunk,
            reach=reach,
            rate=rate,
        )

    def _mel_of(self, x_0: Tensor) -> Tensor:
        """Decode to the pipeline's mel spectrogram, (B, bins, mel frames)."""
        z = x_0.transpose(-1, -2) / self.vae.config.scaling_factor
        return self.vae.decode(z.to(self.vae.dtype)).sample[:, 0].transpose(1, 2)

    def _sound_of(self, mel: Tensor) -> Tensor:
        vocoder = cast(Any, self.vocoder)
        return vocoder(mel.transpose(1, 2).to(vocoder.dtype))[:, None].float()

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (B, samples) or (B, channels, samples) as x_0, its last frame padded.

        The pipelines have no such path; the mel front end is that of their training, without its
        normalisation of the level, which a reference should keep.
        """
        mono = audio if audio.ndim == 2 else audio.mean(dim=1)
        padded = torch.nn.functional.pad(mono, (0, -mono.shape[-1] % self.spec.hop)).to(self.device)
        config = cast(Any, self.vocoder).config
        mel = front_end(
            padded, config.sampling_rate, vocoder_rate(self.vocoder), config.model_in_dim
        )
        latent = self.vae.encode(mel.transpose(1, 2)[:, None].to(self.vae.dtype)).latent_dist.mode()
        return (latent.to(mel.dtype) * self.vae.config.scaling_factor).transpose(-1, -2)


def vae_scale(vae: Any) -> int:
    """Return the mel frames (and bins) of one step of the latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def vocoder_rate(vocoder: Any) -> int:
    """Return the samples of a mel frame."""
    return math.prod(vocoder.config.upsample_rates)


def vocoder_reach(vocoder: Any) -> int:
    """Return the mel frames to either side that a sample of HiFi-GAN depends on, rounded up."""
    config = vocoder.config
    kernels, dilations = config.resblock_kernel_sizes, config.resblock_dilation_sizes
    widest = max(
        (k - 1) // 2 * sum(d + 1 for d in ds) for k, ds in zip(kernels, dilations, strict=True)
    )
    reach, rate = 3.0, 1
    for up, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        reach += (kernel / (2 * up) + 1) / rate
        rate *= up
        reach += widest / rate
    return math.ceil(reach + 3 / rate)


def front_end(audio: Tensor, sample_rate: int, hop: int, bins: int) -> Tensor:
    """Compute the mels that AudioLDM's VAE and vocoder were trained on.

    These are the natural logarithm of Slaney-normalised mel *magnitudes*, at least 1e-5, of a
    Hann-windowed STFT of 1024 samples with the ends reflected.

    Args:
        audio: (B, samples).
        sample_rate: Hz.
        hop: samples per frame.
        bins: mel bins.

    Returns:
        Shape (B, bins, samples // hop).
    """
    window = torch.hann_window(MEL_FFT, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(
        audio, MEL_FFT, hop, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    # the root of exactly zero has no finite gradient
    magnitude = power.clamp(min=1e-20).sqrt()[..., : audio.shape[-1] // hop]
    filters = _filters(sample_rate, bins, magnitude.dtype, magnitude.device)
    return (filters @ magnitude).clamp(min=MEL_FLOOR).log()


@table(maxsize=8)
def _filters(sample_rate: int, bins: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    top = min(MEL_TOP_HERTZ, sample_rate / 2)
    filters = mel_filter_bank(
        MEL_FFT // 2 + 1, bins, 0.0, top, sample_rate, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(np.ascontiguousarray(filters.T)).to(dtype).to(device)
