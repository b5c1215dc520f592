"""AudioLDM2 (Liu et al. 2023): latent diffusion of mels, conditioned by CLAP, T5 and a GPT-2."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from diffusers.pipelines.audioldm2.pipeline_audioldm2 import AudioLDM2Pipeline
from torch import Tensor

from ditto.models.adapters.common import pack_condition
from ditto.models.adapters.mel_latent import MelLatentModel

NEW_TOKENS = 8
"""States that GPT-2 generates, where its config does not say."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AudioLDM2Model(MelLatentModel):
    """`AudioLDM2Pipeline` as a `MusicModel`.

    A condition holds GPT-2's states (`new_tokens`, width), T5's (length, width) and T5's mask
    (length,); the length is that of the longest prompt of those encoded together.
    """

    default_guidance: ClassVar[float] = 3.5

    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode prompts through the pipeline's own ``encode_prompt``."""
        encoder = cast(Any, _Encoder(**self.pipe.components))
        negative = [self.negative_prompt or ""] * len(prompts)
        device = cast(Any, self.pipe).text_encoder.device
        t5, mask, generated = encoder.encode_prompt(
            prompts, device, 1, True, negative_prompt=negative
        )
        null, prompt = zip(generated.chunk(2), t5.chunk(2), mask.chunk(2), strict=True)
        return pack_condition(prompt, null)

    def network_kwargs(self, cond: Tensor) -> dict[str, Tensor | None]:
        """Return GPT-2's states, T5's and their mask."""
        pipe = cast(Any, self.pipe)
        language = pipe.language_model.config
        tokens, width = new_tokens(language), language.n_embd
        t5_width = pipe.text_encoder_2.config.d_model
        length = (cond.shape[1] - tokens * width) // (t5_width + 1)
        generated, t5, mask = cond.split([tokens * width, length * t5_width, length], dim=1)
        return {
            "encoder_hidden_states": generated.unflatten(1, (tokens, width)),
            "encoder_hidden_states_1": t5.unflatten(1, (length, t5_width)),
            "encoder_attention_mask_1": mask,
        }


class _Encoder(AudioLDM2Pipeline):
    """The pipeline with a generation loop that runs on every version of transformers.

    The pipeline's own calls a method that `GPT2Model`, the class that published checkpoints name,
    no longer has.
    """

    def generate_language_model(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        inputs_embeds: Tensor,
        max_new_tokens: int | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Generate GPT-2's further states, (B, max_new_tokens, width)."""
        model = cast(Any, self).language_model
        model = getattr(model, "transformer", model)
        count = max_new_tokens or new_tokens(model.config)
        for _ in range(count):
            states = model(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask
            ).last_hidden_state
            inputs_embeds = torch.cat([inputs_embeds, states[:, -1:]], dim=1)
            if attention_mask is not None:
                attention_mask = torch.cat(
                    [attention_mask, attention_mask.new_ones(len(attention_mask), 1)], dim=1
                )
        return inputs_embeds[:, -count:]


def new_tokens(config: object) -> int:
    """Return the number of states that GPT-2 generates for a prompt."""
    return getattr(config, "max_new_tokens", None) or NEW_TOKENS


adapt_audioldm2 = AudioLDM2Model.of
