"""Pipelines of tiny, randomly initialised components, built in memory: nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    DDIMScheduler,
    EDMEulerScheduler,
    MusicLDMPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ditto.diffusion.samplers import Chain
from ditto.models.adapters.common import PipelineModel
from ditto.models.conditioning import Tags

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-"
SAMPLE_RATE = 8000


def built(make: Callable[[], Any], seed: int = 0) -> Any:
    """What `make` makes, with its random numbers drawn from a seed and the process's own left
    alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make()
    return made.eval() if isinstance(made, nn.Module) else made


def roberta_tokenizer() -> RobertaTokenizer:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *CHARACTERS]
    return RobertaTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=40
    )


def t5_tokenizer(length: int = 40) -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *CHARACTERS]
    return T5Tokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=length,
    )


def clap() -> ClapModel:
    text = ClapTextConfig(
        vocab_size=80,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        projection_dim=16,
        max_position_embeddings=64,
    )
    audio = ClapAudioConfig(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        intermediate_size=32,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=2,
        hidden_size=32,
        projection_dim=16,
        patch_size=2,
        patch_stride=2,
        patch_embed_input_channels=4,
        patch_embeds_hidden_size=16,
    )
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=16)
    return built(lambda: ClapModel(config))


def t5(width: int = 32) -> T5EncoderModel:
    config = T5Config(vocab_size=80, d_model=width, d_ff=32, d_kv=8, num_heads=2, num_layers=1)
    return built(lambda: T5EncoderModel(config))


def mel_vae() -> AutoencoderKL:
    return built(
        lambda: AutoencoderKL(
            block_out_channels=(8, 16),
            in_channels=1,
            out_channels=1,
            latent_channels=4,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=0.8,
        )
    )


def hifigan() -> SpeechT5HifiGan:
    """8 mel bins, 64 samples a mel frame; its weights are made larger, for it begins almost
    mute."""
    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=SAMPLE_RATE,
        upsample_initial_channel=8,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    vocoder = built(lambda: SpeechT5HifiGan(config))
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(14)
    return vocoder


def ddim_scheduler() -> DDIMScheduler:
    """As the published checkpoints configure it."""
    return DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def make_audioldm2() -> AudioLDM2Pipeline:
    unet = built(
        lambda: AudioLDM2UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 16, 32], [None, 16, 32]),
            attention_head_dim=4,
        )
    )
    language = GPT2Config(
        n_embd=16, n_head=2, n_layer=1, vocab_size=80, n_positions=99, max_new_tokens=8
    )
    pipe = AudioLDM2Pipeline(
        vae=mel_vae(),
        text_encoder=clap(),
        text_encoder_2=t5(),
        projection_model=built(lambda: AudioLDM2ProjectionModel(16, 32, 16)),
        language_model=built(lambda: GPT2LMHeadModel(language)),
        tokenizer=roberta_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        feature_extractor=ClapFeatureExtractor(),
        unet=unet,
        scheduler=ddim_scheduler(),
        vocoder=hifigan(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_musicldm() -> MusicLDMPipeline:
    unet = built(
        lambda: UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            cross_attention_dim=(8, 16),
            attention_head_dim=4,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=16,
            class_embeddings_concat=True,
        )
    )
    pipe = MusicLDMPipeline(
        vae=mel_vae(),
        text_encoder=clap(),
        tokenizer=roberta_tokenizer(),
        feature_extractor=ClapFeatureExtractor(),
        unet=unet,
        scheduler=ddim_scheduler(),
        vocoder=hifigan(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class AtanEuler(EDMEulerScheduler):
    """Diffusers' deterministic Euler solver of EDM, telling the network the noise level as Stable
    Audio's own does."""

    def precondition_noise(self, sigma: float | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(sigma).atan() * (2 / torch.pi)


def deterministic(pipe: StableAudioPipeline) -> StableAudioPipeline:
    """The same components with `AtanEuler` over the scheduler's own σ."""
    config = pipe.scheduler.config
    solver = AtanEuler(
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        sigma_data=config.sigma_data,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
    )
    other = StableAudioPipeline(**(pipe.components | {"scheduler": solver}))
    other.set_progress_bar_config(disable=True)
    return other


def make_stable_audio() -> StableAudioPipeline:
    transformer = built(
        lambda: StableAudioDiTModel(
            sample_size=64,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            out_channels=4,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=32,
            cross_attention_input_dim=16,
        )
    )
    vae = built(
        lambda: AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[2, 4, 8],
            channel_multiples=[1, 2, 4],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=2,
            sampling_rate=SAMPLE_RATE,
        )
    )
    pipe = StableAudioPipeline(
        vae=vae,
        text_encoder=t5(16),
        projection_model=built(
            lambda: StableAudioProjectionModel(16, 16, min_value=0, max_value=4)
        ),
        tokenizer=t5_tokenizer(12),
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(solver_order=2),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


PROMPT = Tags(prompt="calm jazz piano")


def chain_of(model: PipelineModel, steps: int, guidance: float, batch: int = 1) -> Chain:
    """Of `PROMPT`."""
    cond = model.cond(PROMPT, batch)
    return Chain(model.denoiser, model.schedule, model.schedule.timesteps(steps), cond, guidance)


def noise_of(model: PipelineModel, *seeds: int, seconds: float | None = None) -> torch.Tensor:
    """x_T, one item a seed."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([model.noise(model.shape(seconds), generator) for generator in generators])
