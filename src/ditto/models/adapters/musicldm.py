"""MusicLDM (Chen et al. 2023; `MusicLDMPipeline`): latent diffusion of mels, told by CLAP alone."""

from dataclasses import dataclass
from typing import ClassVar

from diffusers.pipelines.deprecated.musicldm.pipeline_musicldm import MusicLDMPipeline
from torch import Tensor

from ditto.models.adapters.common import NO_TAGS, frozen, packed, part
from ditto.models.adapters.mel_latent import MelLatentModel, mel_spec, vae_scale, vocoder_rate

GUIDANCE = 2.0
"""The pipeline's default."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MusicLDMModel(MelLatentModel):
    """`MusicLDMPipeline` as a `MusicModel`; a condition is CLAP's embedding of the prompt (width,)."""

    licence: ClassVar[dict[str, str]] = {"license": "cc-by-nc-sa-4.0"}

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Conditions of prompts."""
        negative = [self.negative_prompt or ""] * len(prompts)
        return packed((self._embedding(prompts),), (self._embedding(negative),))

    def _embedding(self, texts: list[str]) -> Tensor:
        """CLAP's normalised text features, which transformers 5 returns inside an output and earlier ones bare.

        The pipeline's own ``_encode_prompt`` knows only the latter.
        """
        parts = part(self.pipe)
        tokens = parts.tokenizer(
            texts, padding="max_length", max_length=parts.tokenizer.model_max_length, truncation=True,
            return_tensors="pt",
        ).to(parts.text_encoder.device)  # fmt: skip
        features = parts.text_encoder.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
        return getattr(features, "pooler_output", features)

    def predict(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """ε̂ of the UNet."""
        output = part(self.network)(
            x_t.transpose(-1, -2), t, encoder_hidden_states=None, class_labels=cond, return_dict=False
        )[0]
        return output.transpose(-1, -2)


def adapt_musicldm(
    pipe: MusicLDMPipeline, *, name: str, sha256: str, negative_prompt: str | None = None
) -> MusicLDMModel:
    """A model of the pipeline's components, which are frozen."""
    frozen(pipe)
    parts = part(pipe)
    spec = mel_spec(
        parts.vocoder.config.sampling_rate, vocoder_rate(parts.vocoder), vae_scale(parts.vae),
        parts.unet.config.sample_size,
    )  # fmt: skip
    return MusicLDMModel(
        parts.unet, parts.vocoder, spec, NO_TAGS, GUIDANCE, name=name, sha256=sha256, pipe=pipe,
        negative_prompt=negative_prompt,
    )  # fmt: skip
