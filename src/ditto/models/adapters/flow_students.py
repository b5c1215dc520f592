"""Transformers of rectified flows with the CFG scale as an input, to distil (DITTO-2 §3).

They need a newer diffusers than the other students, so they have a module of their own.
"""

from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3DiTModel
from torch import Tensor, nn

from ditto.models.adapters.student import FEATURES


class GuidedStableAudio3DiT(StableAudio3DiTModel):
    """`StableAudio3DiTModel` that takes w; its settings are that class's, and one more.

    Args:
        time_cond_proj_dim: size of the embedding of w, as diffusers' UNets call it.
    """

    @register_to_config
    def __init__(
        self,
        io_channels: int = 256,
        patch_size: int = 1,
        embed_dim: int = 1536,
        depth: int = 24,
        num_heads: int = 24,
        cond_token_dim: int = 768,
        global_cond_dim: int = 768,
        local_add_cond_dim: int = 257,
        timestep_features_dim: int = 256,
        ff_mult: float = 4.0,
        num_memory_tokens: int = 64,
        use_differential_attention: bool = True,
        time_cond_proj_dim: int = FEATURES,
    ) -> None:
        super().__init__(
            io_channels=io_channels,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            cond_token_dim=cond_token_dim,
            global_cond_dim=global_cond_dim,
            local_add_cond_dim=local_add_cond_dim,
            timestep_features_dim=timestep_features_dim,
            ff_mult=ff_mult,
            num_memory_tokens=num_memory_tokens,
            use_differential_attention=use_differential_attention,
        )
        self.guidance_proj = nn.Linear(time_cond_proj_dim, global_cond_dim, bias=False)

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
            hidden_states: see `StableAudio3DiTModel.forward`.
            timestep: the same.
            **inputs: the same.
            global_hidden_states: the length, which modulates every layer as the time does.
            timestep_cond: embedding of w, (B, time_cond_proj_dim), added to the length's.
        """
        guided = global_hidden_states + self.guidance_proj(timestep_cond)
        return super().forward(hidden_states, timestep, global_hidden_states=guided, **inputs)


class GuidedAceStepTransformer(AceStepTransformer1DModel):
    """`AceStepTransformer1DModel` that takes w; its settings are that class's, and one more.

    Args:
        time_cond_proj_dim: size of the embedding of w, as diffusers' UNets call it.
    """

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 2048,
        intermediate_size: int = 6144,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        num_key_value_heads: int = 8,
        head_dim: int = 128,
        in_channels: int = 192,
        audio_acoustic_hidden_dim: int = 64,
        patch_size: int = 2,
        rope_theta: float = 1000000.0,
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        rms_norm_eps: float = 1e-6,
        sliding_window: int = 128,
        layer_types: list[str] | None = None,
        encoder_hidden_size: int | None = None,
        is_turbo: bool = False,
        model_version: str | None = None,
        time_cond_proj_dim: int = FEATURES,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            in_channels=in_channels,
            audio_acoustic_hidden_dim=audio_acoustic_hidden_dim,
            patch_size=patch_size,
            rope_theta=rope_theta,
            attention_bias=attention_bias,
            attention_dropout=attention_dropout,
            rms_norm_eps=rms_norm_eps,
            sliding_window=sliding_window,
            layer_types=layer_types,
            encoder_hidden_size=encoder_hidden_size,
            is_turbo=is_turbo,
            model_version=model_version,
        )
        width = encoder_hidden_size or hidden_size
        self.guidance_proj = nn.Linear(time_cond_proj_dim, width, bias=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor,
        **inputs: Any,
    ) -> Any:
        """Compute the transformer's output.

        Args:
            hidden_states: see `AceStepTransformer1DModel.forward`.
            timestep: the same.
            **inputs: the same.
            encoder_hidden_states: of lyrics, timbre and caption.
            timestep_cond: embedding of w, (B, time_cond_proj_dim), added to each of them: there
                is no token of the whole clip, and every layer attends to these.
        """
        guided = encoder_hidden_states + self.guidance_proj(timestep_cond)[:, None]
        return super().forward(hidden_states, timestep, encoder_hidden_states=guided, **inputs)
