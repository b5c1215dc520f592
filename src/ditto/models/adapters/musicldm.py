"""MusicLDM (Chen et al. 2023; `MusicLDMPipeline`): latent diffusion of mels, told by CLAP alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ditto.models.adapters.common import packed, part
from ditto.models.adapters.mel_latent import MelLatentModel


@dataclass(frozen=True, eq=False, kw_only=True)
class MusicLDMModel(MelLatentModel):
    """`MusicLDMPipeline` as a `MusicModel`; a condition is CLAP's embedding of the prompt
    (width,).
    """

    default_guidance: ClassVar[float] = 2.0

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Conditions of prompts."""
        negative = [self.negative_prompt or ""] * len(prompts)
        return packed((self._embedding(prompts),), (self._embedding(negative),))

    def _embedding(self, texts: list[str]) -> Tensor:
        """CLAP's normalised text features, which transformers 5 returns inside an output and
        earlier ones bare.

        The pipeline's own ``_encode_prompt`` knows only the latter.
        """
        parts = part(self.pipe)
        tokens = parts.tokenizer(
            texts,
            padding="max_length",
            max_length=parts.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(parts.text_encoder.device)
        features = parts.text_encoder.get_text_features(
            tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return getattr(features, "pooler_output", features)

    def told(self, cond: Tensor) -> dict[str, Tensor | None]:
        """The embedding alone."""
        return {"encoder_hidden_states": None, "class_labels": cond}


adapt_musicldm = MusicLDMModel.of
