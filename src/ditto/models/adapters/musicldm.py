"""MusicLDM (Chen et al. 2023): latent diffusion of mels, conditioned by CLAP alone."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from ditto.models.adapters.common import pack_condition
from ditto.models.adapters.mel_latent import MelLatentModel


@dataclass(frozen=True, eq=False, kw_only=True)
class MusicLDMModel(MelLatentModel):
    """`MusicLDMPipeline` as a `MusicModel`; a condition is CLAP's embedding (width,)."""

    default_guidance: ClassVar[float] = 2.0

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode prompts."""
        negative = [self.negative_prompt or ""] * len(prompts)
        return pack_condition((self._embedding(prompts),), (self._embedding(negative),))

    def _embedding(self, texts: list[str]) -> Tensor:
        """Compute CLAP's normalised text features.

        transformers 5 returns them inside an output and earlier versions bare; the pipeline's own
        ``_encode_prompt`` knows only the latter.
        """
        pipe = cast(Any, self.pipe)
        tokens = pipe.tokenizer(
            texts,
            padding="max_length",
            max_length=pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(pipe.text_encoder.device)
        features = pipe.text_encoder.get_text_features(
            tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return getattr(features, "pooler_output", features)

    def network_kwargs(self, cond: Tensor) -> dict[str, Tensor | None]:
        """Return the embedding alone."""
        return {"encoder_hidden_states": None, "class_labels": cond}


adapt_musicldm = MusicLDMModel.of
