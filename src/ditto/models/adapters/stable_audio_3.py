"""Stable Audio 3 (arXiv 2605.17991): a rectified flow of stereo sound, small, medium and base.

The checkpoints that are called base are plain flows, sampled by Euler's method with CFG. The others
were distilled by their makers to 8 steps of ping-pong sampling, which draws new noise at every
step; their scheduler says so (``stochastic_sampling``). They are their own students here, and are
decoded without that noise (γ = 0): the second of 8 times is τ = 0.994, so that of what x_T says
0.6 % would be left.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import StableAudio3Pipeline
from torch import Tensor

from ditto.diffusion.schedule import Flow, Schedule
from ditto.models.adapters.common import NO_TAGS, feature_spec, freeze, pack_condition
from ditto.models.adapters.flow import FlowModel, check_scheduler, own_student

SECONDS = 10.0
"""The pipeline's default length."""

GUIDANCE = 1.0
"""The pipeline's default. Base checkpoints want more."""

LOG_SNR = -6.2, 2.0
"""Between which the pipeline's times are even in the logarithm of the signal-to-noise ratio."""

CHUNK = 32
"""Frames (3 s) that the autoencoder decodes at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StableAudio3Model(FlowModel):
    """`StableAudio3Pipeline` as a `MusicModel`.

    x_0 is (B, 256, frames), a frame being 4096 samples. A condition holds the tokens of prompt and
    length (257, width), padded ones replaced as the transformer would do it, and the length's once
    more (width,).
    """

    licence: ClassVar[dict[str, str]] = {
        "license": "other",
        "license_name": "stable-audio-community",
        "license_link": "https://stability.ai/license",
    }

    chunk: int = CHUNK

    @cached_property
    def schedule(self) -> Flow:
        """Times even in log-SNR; the first is pure noise."""
        low, high = LOG_SNR

        def warp(place: Tensor) -> Tensor:
            return torch.sigmoid(-(high - place * (high - low))).masked_fill(place == 1, 1.0)

        return Schedule.flow(warp)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels."""
        return (cast(Any, self.network).config.io_channels,)

    @property
    def longest(self) -> int:
        """The longest clip that the model can be told of."""
        longest = cast(Any, self.pipe).duration_embedder.config.max_val
        return int(longest * self.spec.frame_rate)

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode prompts for clips of `seconds`, through the pipeline's own functions."""
        pipe, count = cast(Any, self.pipe), len(prompts)
        device = pipe.text_encoder.device
        length = pipe.encode_duration(seconds, pipe.duration_embedder.device, 1, count).to(device)
        padding = cast(Any, self.network).prompt_padding_embedding

        def tokens(texts: list[str]) -> Tensor:
            text, mask = pipe.prepare_cross_attention(*pipe.encode_prompt(texts, device, 1), length)
            return torch.where(mask.bool()[..., None], text, padding.to(text))

        negative = [self.negative_prompt or ""] * count
        return pack_condition((tokens(prompts), length), (tokens(negative), length))

    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Compute the velocity by the transformer or its student."""
        config = cast(Any, self.network).config
        width = config.global_cond_dim
        tokens, length = cond.split([cond.shape[1] - width, width], dim=1)
        return network(
            x_t,
            t,
            encoder_hidden_states=tokens.unflatten(1, (-1, config.cond_token_dim)),
            global_hidden_states=length,
            return_dict=False,
            **inputs,
        )[0]

    @property
    def reach(self) -> int:
        """See `FlowModel.reach`."""
        return decoder_reach(self.vae.config)

    def latent_of(self, sound: Tensor) -> Tensor:
        """See `FlowModel.latent_of`."""
        return self.vae.encode(sound).latents


def decoder_reach(config: Any) -> int:
    """Return the latent frames to either side that a sample of SAME depends on, rounded up.

    Each of its layers sees a window of its stage's frames to either side; the stages go up by a
    stride each, the last of the config first.
    """
    reach, rate = 0.0, 1
    stages = zip(config.encoder_transformer_depths, config.encoder_strides, strict=True)
    for depth, stride in reversed(list(stages)):
        reach += depth * config.sliding_window / rate
        rate *= stride
    return math.ceil(reach)


def adapt_stable_audio_3(
    pipe: StableAudio3Pipeline, *, name: str, sha256: str, negative_prompt: str | None = None
) -> StableAudio3Model:
    """Make a model of the pipeline's components, which are frozen.

    Raises:
        ModelError: the pipeline's scheduler is not of the kind that Stable Audio 3 was trained for.
    """
    freeze(pipe)
    parts = cast(Any, pipe)
    check_scheduler(parts.scheduler, "Stable Audio 3")
    rate, hop = parts.vae.config.sampling_rate, parts.vae.downsampling_ratio
    longest = int(parts.duration_embedder.config.max_val * rate / hop)
    few = parts.scheduler.config.stochastic_sampling
    return StableAudio3Model(
        network=parts.transformer,
        vocoder=parts.vae,
        spec=feature_spec(rate, hop, min(math.ceil(SECONDS * rate / hop), longest)),
        vocabulary=NO_TAGS,
        guidance=GUIDANCE,
        name=name,
        sha256=sha256,
        distilled=own_student(parts.transformer) if few else None,
        pipe=pipe,
        negative_prompt=negative_prompt,
    )
