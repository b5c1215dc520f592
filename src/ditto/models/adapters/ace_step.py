"""ACE-Step 1.5 (arXiv 2602.00744): a rectified flow of stereo songs, turbo and base.

Turbo was distilled by its makers, guidance included, to 8 steps of Euler's method; it is its own
student here. The base (and its fine-tune, SFT) is guided by APG (`ProjectedDenoiser`). Caption,
lyrics, tempo and key are conditions of their own. Its language model, which plans songs, is no part
of the pipeline.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from diffusers.pipelines.ace_step.pipeline_ace_step import AceStepPipeline
from torch import Tensor

from ditto.diffusion.denoiser import GuidedDenoiser, ProjectedDenoiser
from ditto.diffusion.schedule import Flow, Schedule
from ditto.errors import ModelError, RequestError
from ditto.models.adapters.common import (
    NO_TAGS,
    feature_spec,
    freeze,
    null_condition,
    pack_condition,
)
from ditto.models.adapters.flow import FlowModel, check_scheduler, own_student
from ditto.models.adapters.stable_audio import decoder_reach
from ditto.models.conditioning import Tags

SECONDS, SHIFT, GUIDANCE = 60.0, 3.0, 7.0
"""The pipeline's defaults; guidance is the base's, turbo has none."""

TIMBRE_SECONDS = 30
"""Of silence, where no recording gives a timbre."""

LONGEST_TEXT, LONGEST_LYRICS = 256, 2048
"""Tokens that the pipeline's own call keeps."""

CHUNK = 64
"""Frames (2.6 s) that the autoencoder decodes at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AceStepModel(FlowModel):
    """`AceStepPipeline` as a `MusicModel`; x_0 is (B, 64, frames), a frame being 1920 samples.

    A condition holds the condition encoder's states (length, width) of lyrics, timbre and caption.
    The network attends to all of them, padding too: of several sets of tags that are encoded
    together the shorter ones are padded, as in the pipeline.

    Attributes:
        shift: of the times; see `AceStepModel.schedule`.
    """

    sings: ClassVar[bool] = True
    knows_keys: ClassVar[bool] = True
    licence: ClassVar[dict[str, str]] = {"license": "mit"}

    chunk: int = CHUNK
    shift: float = SHIFT

    @cached_property
    def schedule(self) -> Flow:
        """Times s·u / (1 + (s − 1)·u) of even u, s being the shift."""
        shift = self.shift
        return Schedule.flow(lambda place: shift * place / (1 + (shift - 1) * place))

    @property
    def denoiser(self) -> GuidedDenoiser:
        """Of the base guided by APG, of turbo as it is."""
        kind = GuidedDenoiser if self.turbo else ProjectedDenoiser
        return kind(self._output, self.schedule, self.prediction, null_condition, limit=None)

    @property
    def turbo(self) -> bool:
        """Whether guidance and few steps were distilled into the network."""
        return cast(Any, self.pipe).is_turbo

    def check_guidance(self, guidance: float) -> None:
        """Refuse guidance of turbo.

        Raises:
            RequestError: it is not 1.
        """
        if self.turbo and guidance != 1.0:
            raise RequestError(
                "guidance was distilled into ACE-Step turbo: leave it out, or load the base"
            )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels."""
        return (cast(Any, self.network).config.audio_acoustic_hidden_dim,)

    @property
    def longest(self) -> int:
        """As long as there is silence to be filled."""
        return cast(Any, self.pipe).condition_encoder.silence_latent.shape[1]

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draw x_T of one item: the numbers that the pipeline draws, in their places."""
        channels, frames = shape
        return torch.randn((frames, channels), generator=generator).T.contiguous()

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode captions alone."""
        return self.encoded_tags([Tags(prompt=prompt) for prompt in prompts], seconds)

    def encoded_tags(self, tags: list[Tags], seconds: float) -> Tensor:
        """Encode captions, lyrics, tempi and keys, as the pipeline's call does it for each."""
        pipe = cast(Any, self.pipe)
        device = pipe.text_encoder.device
        captions, lyrics = zip(*(self._texts(one, seconds) for one in tags), strict=True)

        def tokens(texts: tuple[str, ...], longest: int) -> Any:
            settings = {"padding": "longest", "truncation": True, "return_tensors": "pt"}
            return pipe.tokenizer(list(texts), max_length=longest, **settings).to(device)

        caption, lyric = tokens(captions, LONGEST_TEXT), tokens(lyrics, LONGEST_LYRICS)
        frames = math.ceil(TIMBRE_SECONDS * pipe.latents_per_second)
        encoder = pipe.condition_encoder
        states, _ = encoder(
            text_hidden_states=pipe.text_encoder(input_ids=caption.input_ids).last_hidden_state,
            text_attention_mask=caption.attention_mask.bool(),
            # lyrics are looked up only: the condition encoder has a network of its own for them
            lyric_hidden_states=pipe.text_encoder.get_input_embeddings()(lyric.input_ids),
            lyric_attention_mask=lyric.attention_mask.bool(),
            refer_audio_acoustic_hidden_states_packed=encoder.silence_latent[:, :frames]
            .to(device)
            .expand(len(tags), -1, -1),
            refer_audio_order_mask=torch.arange(len(tags), device=device),
        )
        return pack_condition((states,), (encoder.null_condition_emb.expand_as(states),))

    def _texts(self, tags: Tags, seconds: float) -> tuple[str, str]:
        """Return caption and lyrics in the forms that the encoders know."""
        return cast(Any, self.pipe)._format_prompt(
            prompt=replace(tags, tempo=None).caption(),
            lyrics=tags.lyrics or "",
            audio_duration=seconds,
            bpm=None if tags.tempo is None else round(tags.tempo),
            keyscale=tags.key,
        )

    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Compute the velocity by the transformer or its student."""
        config = cast(Any, self.network).config
        width = config.encoder_hidden_size or config.hidden_size
        time = t.to(x_t.dtype)
        output = network(
            hidden_states=x_t.mT,
            timestep=time,
            timestep_r=time,
            encoder_hidden_states=cond.unflatten(1, (-1, width)),
            context_latents=self._context(x_t).mT,
            return_dict=False,
            **inputs,
        )[0]
        return output.mT

    def _context(self, x_t: Tensor) -> Tensor:
        """Return what is to be filled in, and where: (B, 2 · channels, frames)."""
        source = self._silence[:, : x_t.shape[-1]].to(x_t)
        return torch.cat([source, torch.ones_like(source)]).expand(len(x_t), -1, -1)

    @cached_property
    def _silence(self) -> Tensor:
        """Silence as a latent, (channels, longest), on the network's device."""
        return cast(Any, self.pipe).condition_encoder.silence_latent[0].T.to(self.device)

    @property
    def reach(self) -> int:
        """See `FlowModel.reach`."""
        return decoder_reach(self.vae.config.downsampling_ratios)

    def latent_of(self, sound: Tensor) -> Tensor:
        """See `FlowModel.latent_of`; the mode of what the pipeline samples."""
        return self.vae.encode(sound).latent_dist.mode()


def adapt_ace_step(
    pipe: AceStepPipeline, *, name: str, sha256: str, negative_prompt: str | None = None
) -> AceStepModel:
    """Make a model of the pipeline's components, which are frozen.

    Raises:
        ModelError: the pipeline's scheduler is not of the kind that ACE-Step was trained for, or
            there is a negative prompt.
    """
    if negative_prompt is not None:
        raise ModelError(
            "ACE-Step guides away from a learned condition, not from a prompt: leave the negative "
            "prompt out"
        )
    freeze(pipe)
    parts = cast(Any, pipe)
    check_scheduler(parts.scheduler, "ACE-Step")
    rate, hop = parts.vae.config.sampling_rate, parts.vae.hop_length
    return AceStepModel(
        network=parts.transformer,
        vocoder=parts.vae,
        spec=feature_spec(rate, hop, math.ceil(SECONDS * rate / hop)),
        vocabulary=NO_TAGS,
        guidance=1.0 if parts.is_turbo else GUIDANCE,
        name=name,
        sha256=sha256,
        distilled=own_student(parts.transformer) if parts.is_turbo else None,
        pipe=pipe,
    )
