"""A CLAP of random weights that runs in milliseconds: 8 kHz, 1 s, 16 mels."""

from pathlib import Path

import torch
from transformers import ClapConfig, ClapModel, PreTrainedTokenizerBase

from ditto.data.captions import words_of
from ditto.models.clap import Clap, save
from ditto.models.clap_frontend import ClapFrontEnd
from ditto.models.clap_tokenizer import word_tokenizer

EXTRACTOR = {
    "feature_size": 16,
    "sampling_rate": 8000,
    "hop_length": 130,
    "max_length_s": 1,
    "fft_window_size": 256,
    "frequency_max": 4000,
    "truncation": "rand_trunc",
}
AUDIO = {
    "spec_size": 32,
    "num_mel_bins": 16,
    "patch_size": [4, 4],
    "patch_stride": [4, 4],
    "patch_embeds_hidden_size": 8,
    "depths": [1, 1],
    "num_attention_heads": [1, 2],
    "window_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.0,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def make_model(seed: int) -> tuple[ClapModel, PreTrainedTokenizerBase]:
    tokenizer = word_tokenizer(words_of())
    text = {**TEXT, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ClapModel(ClapConfig(text_config=text, audio_config=dict(AUDIO), projection_dim=8))
        for (
            parameter
        ) in model.parameters():  # initial weights are so small that all sounds are alike
            parameter.data.add_(0.15 * torch.randn_like(parameter))
    return model.requires_grad_(False).eval(), tokenizer


def make_clap(seed: int = 0) -> Clap:
    return Clap.of(*make_model(seed), ClapFrontEnd.of(EXTRACTOR), f"tiny-{seed}")


def save_clap(folder: Path, seed: int = 0) -> None:
    save(folder, *make_model(seed), EXTRACTOR, {"seed": seed})
