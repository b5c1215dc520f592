"""The denoiser of a diffusers pipeline with the CFG scale as an input, to distil (DITTO-2 §3).

Diffusers' UNets have an input for the guidance embedding of latent consistency models
(``timestep_cond``, of ``time_cond_proj_dim`` values). Stable Audio's transformer has none, so it
gets one of the same name here; flows' transformers get theirs in `flow_students`.
"""

from typing import Any, cast

from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
from torch import Tensor, nn

from ditto.errors import ModelError
from ditto.models.network import with_extra_inputs

GUIDED = {
    "StableAudioDiTModel": "GuidedStableAudioDiT",
    "StableAudio3DiTModel": "GuidedStableAudio3DiT",
    "AceStepTransformer1DModel": "GuidedAceStepTransformer",
}
"""Students of denoisers that have no input for w, by the denoisers' classes."""

FEATURES = 32
"""Size of the embedding of w."""


class GuidedStableAudioDiT(StableAudioDiTModel):
    """`StableAudioDiTModel` that takes w; its settings are that class's, and one more.

    Args:
        time_cond_proj_dim: size of the embedding of w, as diffusers' UNets call it.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 1024,
        in_channels: int = 64,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        num_key_value_attention_heads: int = 12,
        out_channels: int = 64,
        cross_attention_dim: int = 768,
        time_proj_dim: int = 256,
        global_states_input_dim: int = 1536,
        cross_attention_input_dim: int = 768,
        time_cond_proj_dim: int = FEATURES,
    ) -> None:
        super().__init__(
            sample_size,
            in_channels,
            num_layers,
            attention_head_dim,
            num_attention_heads,
            num_key_value_attention_heads,
            out_channels,
            cross_attention_dim,
            time_proj_dim,
            global_states_input_dim,
            cross_attention_input_dim,
        )
        self.guidance_proj = nn.Linear(time_cond_proj_dim, global_states_input_dim, bias=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        *,
        global_hidden_states: Tensor,
        timestep_cond: Tensor,
        **inputs: Any,
    ) -> Any:
        """Compute the transformer's output.

        Args:
            hidden_states: see `StableAudioDiTModel.forward`.
            timestep: the same.
            **inputs: the same.
            global_hidden_states: the duration's token, to which the timestep is added as well.
            timestep_cond: embedding of w, (B, time_cond_proj_dim), added to that token.
        """
        guided = global_hidden_states + self.guidance_proj(timestep_cond)[:, None]
        return super().forward(hidden_states, timestep, global_hidden_states=guided, **inputs)  # pyright: ignore[reportArgumentType]


def new_student(network: nn.Module) -> nn.Module:
    """Copy a pipeline's denoiser, in float32, with an input for w that has no effect yet.

    Raises:
        ModelError: it has one already, as a student has.
    """
    if cast(Any, network).config.get("time_cond_proj_dim") is not None:
        raise ModelError(
            "this model's denoiser is a student already: distil the model that it comes from"
        )
    name = type(network).__name__
    return with_extra_inputs(network, GUIDED.get(name, name), time_cond_proj_dim=FEATURES)
