"""Pipelines of rectified flows, of tiny and randomly initialised components: nothing is downloaded.

Branches that begin at zero get random weights, or the networks would be nearly the identity and
parity with them vacuous.
"""

import math
from typing import Any

import torch
from diffusers import (
    AceStepConditionEncoder,
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3Pipeline,
)
from diffusers.models.autoencoders.autoencoder_same import AutoencoderSAME
from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3DiTModel
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from tests.models.adapters.tiny_pipelines import SAMPLE_RATE, built
from torch import nn
from transformers import (
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5GemmaConfig,
    T5GemmaEncoderModel,
)

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-#/|<>_[]"


def stirred(module: nn.Module, std: float = 0.3) -> None:
    """Give parameters that are zero random values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.abs().max() == 0:
                size = std / max(1, parameter.shape[-1]) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def gemma_tokenizer() -> GemmaTokenizer:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS]
    return GemmaTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    words = ["<|endoftext|>", "Ġ", "Ċ", *CHARACTERS]
    return Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=4096
    )


def t5gemma() -> T5GemmaEncoderModel:
    module = {
        "vocab_size": 90,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 8,
        "max_position_embeddings": 64,
    }
    config = T5GemmaConfig(encoder=module, decoder=module, is_encoder_decoder=False, vocab_size=90)
    return built(lambda: T5GemmaEncoderModel(config))


def flow_scheduler(**settings: Any) -> FlowMatchEulerDiscreteScheduler:
    """As the converters of published checkpoints write it."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0, **settings)


def same(depths: tuple[int, ...] = (2,), strides: tuple[int, ...] = (8,)) -> AutoencoderSAME:
    vae = built(
        lambda: AutoencoderSAME(
            audio_channels=2,
            patch_size=32 // math.prod(strides) * 2,
            encoder_channels=8,
            encoder_c_mults=[2] * len(strides),
            encoder_strides=list(strides),
            encoder_transformer_depths=list(depths),
            latent_dim=4,
            dim_heads=8,
            ff_mult=2,
            sampling_rate=SAMPLE_RATE,
        )
    )
    stirred(vae)
    return vae


def make_stable_audio_3(base: bool = False) -> StableAudio3Pipeline:
    """Frames of 64 samples, up to 0.5 s; the base is Euler's, otherwise ping-pong as distilled."""
    transformer = built(
        lambda: StableAudio3DiTModel(
            io_channels=4,
            embed_dim=16,
            depth=2,
            num_heads=2,
            cond_token_dim=16,
            global_cond_dim=16,
            local_add_cond_dim=5,
            timestep_features_dim=8,
            ff_mult=2.0,
            num_memory_tokens=2,
            use_differential_attention=base,  # as small and medium differ
        )
    )
    stirred(transformer, 1.0)
    pipe = StableAudio3Pipeline(
        vae=same(),
        text_encoder=t5gemma(),
        tokenizer=gemma_tokenizer(),
        duration_embedder=built(
            lambda: StableAudio3DurationEmbedder(output_dim=16, fourier_dim=8, max_val=0.5)
        ),
        transformer=transformer,
        scheduler=flow_scheduler(stochastic_sampling=not base),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_ace_step(base: bool = False) -> AceStepPipeline:
    """Frames of 256 samples; the base guides, turbo does not."""
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
    }
    transformer = built(
        lambda: AceStepTransformer1DModel(
            num_hidden_layers=2,
            in_channels=12,
            audio_acoustic_hidden_dim=4,
            patch_size=2,
            is_turbo=not base,
            **size,
        )
    )
    condition = built(
        lambda: AceStepConditionEncoder(
            text_hidden_dim=16,
            timbre_hidden_dim=4,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=2,
            **size,
        )
    )
    with torch.no_grad():  # of its own shape, or a saved pipeline could not be loaded
        silence = built(lambda: torch.randn(condition.silence_latent.shape), 5)
        condition.silence_latent.copy_(0.3 * silence)
    vae = built(
        lambda: AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[4, 8, 8],
            channel_multiples=[1, 2, 4],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=2,
            sampling_rate=SAMPLE_RATE,
        )
    )
    text = Qwen3Config(
        vocab_size=90,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        sliding_window=None,
    )
    pipe = AceStepPipeline(
        vae=vae,
        text_encoder=built(lambda: Qwen3Model(text)),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        condition_encoder=condition,
        scheduler=flow_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
