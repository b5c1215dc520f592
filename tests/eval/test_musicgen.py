"""MusicGen as a comparator, on a tiny one of random weights in a real folder."""

from pathlib import Path

import pytest
import torch
from transformers import (
    EncodecConfig,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
    T5Tokenizer,
)

from ditto.errors import ModelError, RequestError
from ditto.eval.musicgen import MusicGen


@pytest.fixture(scope="module", params=["musicgen", "musicgen_melody"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """MusicGen, or the kind that also takes melodies."""
    melodic = request.param == "musicgen_melody"
    whole_kind = (
        MusicgenMelodyForConditionalGeneration if melodic else MusicgenForConditionalGeneration
    )
    config_kind = MusicgenMelodyConfig if melodic else MusicgenConfig
    decoder_kind = MusicgenMelodyDecoderConfig if melodic else MusicgenDecoderConfig
    path = tmp_path_factory.mktemp("musicgen")
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters], extra_ids=0
    )
    text = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    codec = EncodecConfig(
        target_bandwidths=[3.2],
        sampling_rate=8000,
        num_filters=2,
        hidden_size=8,
        num_residual_layers=1,
        upsampling_ratios=[5, 4, 2],
        codebook_size=16,
        codebook_dim=8,
        num_lstm_layers=1,
        use_causal_conv=False,
    )
    books = 4
    decoder = decoder_kind(
        vocab_size=16,
        max_position_embeddings=256,
        num_hidden_layers=1,
        ffn_dim=16,
        num_attention_heads=2,
        hidden_size=16,
        num_codebooks=books,
        pad_token_id=16,
        bos_token_id=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = whole_kind(
            config_kind(
                text_encoder=text.to_dict(),
                audio_encoder=codec.to_dict(),
                decoder=decoder.to_dict(),
            )
        )
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()  # zeros by default, so that all codes would sound alike
    model.generation_config = GenerationConfig(
        decoder_start_token_id=16,
        pad_token_id=16,
        bos_token_id=16,
        do_sample=True,
        guidance_scale=3,
        max_length=200,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_it_makes_sound_of_texts_each_from_its_own_seed(folder: Path) -> None:
    model = MusicGen.load(folder)
    before = torch.get_rng_state()
    audio = model.generate(["calm jazz", "rock"], 0.2, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert audio.shape == (2, 1600)
    assert audio.dtype == torch.float32
    assert torch.isfinite(audio).all()
    assert audio.std() > 0
    torch.testing.assert_close(model.generate(["rock"], 0.2, seed=6), audio[1:])
    assert not torch.equal(model.generate(["calm jazz"], 0.2, seed=6), audio[:1])


def test_length_and_text_are_checked(folder: Path) -> None:
    model = MusicGen.load(folder)
    with pytest.raises(RequestError, match="at most 30"):
        model.generate(["rock"], 31)
    with pytest.raises(RequestError, match="a text"):
        model.generate(["  "], 1)


def test_what_is_missing_or_damaged_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as found:
        MusicGen.load(tmp_path)
    assert "\n" not in str(found.value)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load MusicGen"):
        MusicGen.load(tmp_path)


def test_weights_that_a_file_lacks_are_an_error(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "fc1" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="incomplete"):
        MusicGen.load(tmp_path)
