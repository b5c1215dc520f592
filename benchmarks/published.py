"""Models of the sizes that are published, without what was learnt: to be timed, or to be counted.

No published weights are needed for either. A model's networks have the settings of its published
configuration, and its prompts are zeros: text encoders are on the CPU, apart from all that counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ditto.models.hub import KINDS
from ditto.models.model import MusicModel

Network = Callable[[Any, Mapping[str, Any]], Any]
"""Makes a network of a class with settings."""

SMALL: dict[str, Any] = {
    "transformer": {
        "embed_dim": 1024,
        "depth": 20,
        "num_heads": 16,
        "use_differential_attention": False,
    },
    "vae": {},
}
"""Stable Audio 3 small, with the smaller autoencoder."""

MEDIUM: dict[str, Any] = {
    "transformer": {},
    "vae": {
        "encoder_channels": 256,
        "encoder_transformer_depths": [12],
        "decoder_sinusoidal_blocks": [8],
    },
}
"""Stable Audio 3 medium, whose transformer diffusers has as its default, with the larger one."""

XL: dict[str, Any] = {
    "dit": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "encoder_hidden_size": 2048,
    }
}
"""ACE-Step 1.5 XL, by the card and configuration of acestep-v15-xl-base-diffusers."""

OOBLECK: dict[str, Any] = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48_000,
}
"""ACE-Step's autoencoder, by the configuration of ACE-Step/Ace-Step1.5."""


def stable_audio_3(
    network: Network, *, transformer: Mapping[str, Any], vae: Mapping[str, Any]
) -> MusicModel:
    """Make a distilled Stable Audio 3 of these settings."""
    from diffusers.models.autoencoders.autoencoder_same import AutoencoderSAME
    from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3DiTModel
    from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import (
        StableAudio3DurationEmbedder,
    )
    from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import StableAudio3Pipeline

    pipe = StableAudio3Pipeline(
        vae=network(AutoencoderSAME, vae),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        duration_embedder=StableAudio3DurationEmbedder(output_dim=8),
        transformer=network(StableAudio3DiTModel, transformer),
        scheduler=_flow_scheduler(stochastic_sampling=True),
    )
    config: Any = pipe.transformer.config
    return unprompted(pipe, 257 * config.cond_token_dim + config.global_cond_dim)


def ace_step(
    network: Network, *, dit: Mapping[str, Any] | None = None, vae: Mapping[str, Any] = OOBLECK
) -> MusicModel:
    """Make an ACE-Step 1.5 turbo of these settings; those of diffusers are the published."""
    from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
    from diffusers.pipelines.ace_step.pipeline_ace_step import AceStepPipeline

    transformer = network(AceStepTransformer1DModel, {"is_turbo": True, **(dit or {})})
    config: Any = transformer.config
    encoder: dict[str, Any] = {  # of conditions, which is not called
        "text_hidden_dim": 16,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_lyric_encoder_hidden_layers": 1,
        "num_timbre_encoder_hidden_layers": 1,
    }
    pipe = AceStepPipeline(
        vae=network(AutoencoderOobleck, vae),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        transformer=transformer,
        condition_encoder=AceStepConditionEncoder(
            timbre_hidden_dim=config.audio_acoustic_hidden_dim, **encoder
        ),
        scheduler=_flow_scheduler(),
    )
    return unprompted(pipe, 150 * (config.encoder_hidden_size or config.hidden_size))


def stable_audio_open(network: Network) -> MusicModel:
    """Make a Stable Audio Open 1.0, whose settings are those of diffusers."""
    from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
    from diffusers.models.transformers.stable_audio_transformer import StableAudioDiTModel
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
    from diffusers.pipelines.stable_audio.pipeline_stable_audio import StableAudioPipeline
    from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import (
        EDMDPMSolverMultistepScheduler,
    )

    pipe = StableAudioPipeline(
        vae=network(AutoencoderOobleck, {}),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        projection_model=StableAudioProjectionModel(8, 8, 0, 512),
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        transformer=network(StableAudioDiTModel, {}),
        scheduler=EDMDPMSolverMultistepScheduler(
            sigma_min=0.3,
            sigma_max=500,
            sigma_schedule="exponential",
            prediction_type="v_prediction",
        ),
    )
    config: Any = pipe.transformer.config
    width = 130 * config.cross_attention_input_dim + config.global_states_input_dim
    return unprompted(pipe, width)


@dataclass(frozen=True)
class Size:
    """A published model.

    Attributes:
        make: makes it of the networks that are given.
        millions: parameters of its denoiser.
        seconds: of a clip that its costs are told of.
        source: where its sizes are published.
    """

    make: Callable[[Network], MusicModel]
    millions: float
    seconds: float
    source: str


SIZES: dict[str, Size] = {
    "Stable Audio 3 small": Size(
        partial(stable_audio_3, **SMALL),
        459.1,
        30.0,
        "the model table of github.com/Stability-AI/stable-audio-3, which has 433 M: 26.2 M more "
        "take a region to be kept",
    ),
    "Stable Audio 3 medium": Size(
        partial(stable_audio_3, **MEDIUM),
        1453.0,
        30.0,
        "the defaults of diffusers' StableAudio3DiTModel; 1.4 B in Stability's table",
    ),
    "ACE-Step 1.5": Size(
        ace_step, 1575.46, 30.0, "config.json of huggingface.co/ACE-Step/Ace-Step1.5"
    ),
    "ACE-Step 1.5 XL": Size(
        partial(ace_step, **XL),
        4169.0,
        30.0,
        "the card of huggingface.co/ACE-Step/acestep-v15-xl-base-diffusers",
    ),
    "Stable Audio Open 1.0": Size(
        stable_audio_open,
        1056.9,
        47.0,
        "the defaults of diffusers' StableAudioDiTModel and AutoencoderOobleck",
    ),
}


def unprompted(pipe: Any, width: int) -> MusicModel:
    """Adapt a pipeline without text encoders: a condition is zeros, `width` for prompt and null."""
    name = KINDS[type(pipe).__name__].module
    adapt = getattr(import_module(f"ditto.models.adapters.{name}"), f"adapt_{name}")
    model = adapt(pipe, name=f"{name}, random weights", sha256="")

    def cond(self: MusicModel, tags: Any, batch: int = 1, seconds: float | None = None) -> Tensor:
        return torch.zeros(batch, 2 * width, device=self.device)

    kind = type(model)
    object.__setattr__(model, "__class__", type(kind.__name__, (kind,), {"cond": cond}))
    return model


def _flow_scheduler(**settings: Any) -> Any:
    """Make the scheduler that both flows have."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, **settings)
