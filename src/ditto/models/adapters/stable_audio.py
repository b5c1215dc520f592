"""Stable Audio Open (Evans et al. 2024): latent diffusion of stereo sound by a transformer.

Its scheduler is a stochastic solver in EDM's variables, where σ = 500 … 0.3 and the network's
timestep is (2/π)·atan σ. Scaled by EDM's c_in, the network's input is variance-preserving with
ᾱ = 1 / (1 + σ²), and its output is v. So the deterministic samplers work on it as on any model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline
from torch import Tensor
from torch.nn.functional import pad

from ditto.diffusion.schedule import Schedule
from ditto.errors import ModelError
from ditto.models.adapters.common import (
    NO_TAGS,
    PipelineModel,
    feature_spec,
    freeze,
    in_chunks,
    pack_condition,
)

GUIDANCE = 7.0
"""The pipeline's default."""

LEVELS = 100_000
"""Noise levels in the table of the schedule: a grid's σ is within 0.004 % of the scheduler's."""

CHUNK = 64
"""Frames (3 s) that the autoencoder decodes at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StableAudioModel(PipelineModel):
    """`StableAudioPipeline` as a `MusicModel`; x_0 is (B, 64, frames), a frame being 2048 samples.

    A condition holds the tokens of prompt, start and end (length + 2, width), and start and end
    once more (2 · width,). The pipeline always denoises its whole window and then cuts it; here a
    shorter clip is a shorter latent, with its own end as condition.
    """

    licence: ClassVar[dict[str, str]] = {
        "license": "other",
        "license_name": "stable-audio-community",
        "license_link": "https://huggingface.co/stabilityai/stable-audio-open-1.0/blob/main/LICENSE.md",
    }

    chunk: int = CHUNK

    @cached_property
    def schedule(self) -> Schedule:
        """The scheduler's σ, on a fine exponential table."""
        config = cast(Any, self.pipe).scheduler.config
        sigma = torch.linspace(
            math.log(config.sigma_min), math.log(config.sigma_max), LEVELS, dtype=torch.float64
        ).exp()
        return Schedule(1 / (1 + (sigma / config.sigma_data).square()), "span")

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels."""
        return (cast(Any, self.network).config.in_channels,)

    @property
    def longest(self) -> int:
        """The window that the transformer was trained on."""
        return cast(Any, self.network).config.sample_size

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode prompts for clips of `seconds`, through the pipeline's own ``encode_prompt``."""
        pipe, count = cast(Any, self.pipe), len(prompts)
        device = pipe.text_encoder.device
        negative = None if self.negative_prompt is None else [self.negative_prompt] * count
        text = pipe.encode_prompt(prompts, device, negative is not None, negative)
        start, end = pipe.encode_duration(0.0, seconds, device, False, count)
        duration = torch.cat([start, end], dim=1)
        tokens = torch.cat([text[-count:], duration], dim=1)
        # With no negative prompt the pipeline blanks the tokens of the duration too, though not
        # their second copy.
        null = (
            torch.zeros_like(tokens)
            if negative is None
            else torch.cat([text[:count], duration], dim=1)
        )
        return pack_condition((tokens, duration), (null, duration))

    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Compute v̂ of the transformer or its student."""
        config = cast(Any, self.network).config
        width = config.cross_attention_input_dim
        tokens, duration = cond.split([cond.shape[1] - 2 * width, 2 * width], dim=1)
        rotary = get_1d_rotary_pos_embed(
            config.attention_head_dim // 2,
            x_t.shape[-1] + 1,
            use_real=True,
            repeat_interleave_real=False,
        )
        return network(
            x_t,
            self._network_time(t),
            encoder_hidden_states=tokens.unflatten(1, (-1, width)),
            global_hidden_states=duration[:, None],
            rotary_embedding=tuple(table.to(x_t) for table in rotary),
            return_dict=False,
            **inputs,
        )[0]

    def _network_time(self, t: Tensor) -> Tensor:
        """Return the network's timestep (2/π)·atan σ_t; shape (B,), float32."""
        signal, spread = self.schedule.scales(t, torch.empty(0, device=t.device))
        return torch.atan2(spread, signal) * (2 / math.pi)

    def decode(self, x_0: Tensor) -> Tensor:
        """Decode by the autoencoder to sound (B, 2, frames · hop)."""
        reach = decoder_reach(self.vae.config.downsampling_ratios)
        return in_chunks(
            lambda z: self.checkpointed(self._sound_of, z),
            x_0,
            chunk=self.chunk,
            reach=reach,
            rate=self.spec.hop,
        )

    def _sound_of(self, z: Tensor) -> Tensor:
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (B, samples) or (B, channels, samples) as x_0, its last frame padded."""
        channels = self.vae.config.audio_channels
        sound = audio[:, None] if audio.ndim == 2 else audio
        if sound.shape[1] != channels:
            sound = sound.mean(dim=1, keepdim=True).expand(-1, channels, -1)
        sound = pad(sound, (0, -sound.shape[-1] % self.spec.hop)).to(self.device)
        return self.vae.encode(sound.to(self.vae.dtype)).latent_dist.mode().to(sound.dtype)


def decoder_reach(ratios: list[int]) -> int:
    """Return the latent frames to either side that a sample of Oobleck depends on, rounded up.

    Its convolutions have 7 taps; each stage goes up by a ratio and has residual units of dilation
    1, 3 and 9.
    """
    reach, rate = 3.0, 1
    for ratio in reversed(ratios):
        reach += 2 / rate
        rate *= ratio
        reach += 3 * (1 + 3 + 9) / rate
    return math.ceil(reach + 3 / rate)


def adapt_stable_audio(
    pipe: StableAudioPipeline, *, name: str, sha256: str, negative_prompt: str | None = None
) -> StableAudioModel:
    """Make a model of the pipeline's components, which are frozen.

    Raises:
        ModelError: the pipeline's scheduler is not of the kind that Stable Audio was trained for.
    """
    freeze(pipe)
    parts = cast(Any, pipe)
    config = parts.scheduler.config
    if (
        config.get("sigma_schedule") != "exponential"
        or config.get("prediction_type") != "v_prediction"
    ):
        kind = type(parts.scheduler).__name__
        raise ModelError(
            f"cannot use the scheduler {kind}: Stable Audio wants CosineDPMSolverMultistepScheduler"
        )
    spec = feature_spec(
        parts.vae.config.sampling_rate, parts.vae.hop_length, parts.transformer.config.sample_size
    )
    return StableAudioModel(
        network=parts.transformer,
        vocoder=parts.vae,
        spec=spec,
        vocabulary=NO_TAGS,
        guidance=GUIDANCE,
        name=name,
        sha256=sha256,
        pipe=pipe,
        negative_prompt=negative_prompt,
    )
