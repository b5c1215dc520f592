"""CLAP: embeddings against transformers' own way from sound and text to them, gradients, folders,
mistakes."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.tiny_clap import AUDIO, EXTRACTOR, TEXT, make_clap, save_clap
from torch.nn.functional import normalize
from transformers import (
    AutoTokenizer,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaTokenizer,
)

from ditto.errors import ControlError, ModelError
from ditto.models.clap import CARD, EMBEDDED, WEIGHTS, Clap, save
from ditto.models.clap_audio import ClapAudioConfig
from ditto.models.clap_text import ClapTextConfig

NOISE = torch.randn(3, 6000, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clap") / "tiny"
    save_clap(path)
    return path


def test_embeddings_are_those_of_transformers(folder: Path) -> None:
    clap = Clap.load(folder)
    model = ClapModel.from_pretrained(folder, dtype=torch.float32).eval()
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    features = extractor(list(NOISE.numpy()), sampling_rate=8000, return_tensors="pt")
    texts = ["a calm jazz song", "fast rock with drums, at 150 bpm"]
    with torch.no_grad():
        audio = model.get_audio_features(**features).pooler_output
        text = model.get_text_features(
            **AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        ).pooler_output
    torch.testing.assert_close(clap.embed_audio(NOISE, 8000), audio, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clap.embed_text(texts), text, atol=1e-6, rtol=1e-5)


def test_embeddings_are_unit_vectors_and_tell_sounds_and_texts_apart() -> None:
    clap = make_clap()
    audio, text = (
        clap.embed_audio(NOISE, 22_050),
        clap.embed_text(["a calm jazz song", "loud rock"]),
    )
    for vectors in (audio, text):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))
        assert (vectors[0] - vectors[1]).abs().max() > 1e-3


def test_a_text_alone_is_embedded_as_in_a_batch() -> None:
    clap = make_clap()
    short, long = "jazz", "a calm jazz song with vibraphone and double bass, at 96 bpm"
    torch.testing.assert_close(clap.embed_text([short, long])[:1], clap.embed_text([short]))


def test_a_long_sound_is_the_mean_of_its_windows() -> None:
    clap = make_clap()
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    halves = clap.embed_audio(audio.view(2, 8000), 8000).mean(dim=0)
    torch.testing.assert_close(clap.embed_audio(audio, 8000)[0], halves / halves.norm())


def test_gradients_through_features_and_audio_tower_are_those_of_finite_differences() -> None:
    clap = make_clap()
    clap.audio.double()
    audio = torch.randn(1, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    places = torch.arange(20, 400, 37)

    def embedding(values: torch.Tensor) -> torch.Tensor:
        # What is padded is repeated, not silent: at the floor's kink there is no derivative.
        return clap.embed_audio(audio.index_copy(1, places, values[None]), 6000)

    values = audio[0, places].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(embedding, (values,), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_a_saved_folder_comes_back_with_its_hash(folder: Path) -> None:
    clap = Clap.load(folder)
    for half in (clap.audio, clap.text):
        assert {p.dtype for p in half.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in half.parameters())
        assert not half.training
    assert clap.sha256 == Clap.load(folder).sha256 != make_clap(1).sha256
    card = json.loads((folder / CARD).read_text())
    assert card["seed"] == 0
    assert len(card["sha256"]) == 64
    assert {v.dtype for v in load_file(folder / WEIGHTS).values()} == {torch.float16, torch.int64}
    torch.testing.assert_close(
        clap.embed_text(["jazz"]), make_clap().embed_text(["jazz"]), atol=5e-3, rtol=0
    )


def test_loading_leaves_the_process_as_it_was(folder: Path) -> None:
    before = (
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )
    Clap.load(folder).embed_audio(NOISE, 8000)
    after = (
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("text", ["", "  \n ", "?!…"])
def test_no_text_is_an_error(text: str) -> None:
    with pytest.raises(ControlError, match="the text is empty"):
        make_clap().embed_text([text])


@pytest.mark.parametrize("text", ["穏やかなジャズ", "спокойный джаз", "qwxyz"])
def test_a_text_of_unknown_words_is_an_error(text: str) -> None:
    with pytest.raises(ControlError, match="CLAP knows no word"):
        make_clap().embed_text([text])


def test_ten_thousand_characters_are_an_error_of_one_line() -> None:
    clap = make_clap()
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(ControlError, match="at most 62: shorten it") as found,
    ):
        clap.embed_text(["a calm jazz song " * 589])
    assert "\n" not in str(found.value)


def test_unknown_words_are_named_and_case_and_accents_do_not_matter() -> None:
    clap = make_clap()
    assert clap.unknown_words("A calm kazoo JAZZ song, naïve") == ["kazoo", "naïve"]
    torch.testing.assert_close(clap.embed_text(["CALM, Jázz!"]), clap.embed_text(["calm jazz"]))


def test_a_clap_with_robertas_tokenizer_as_published_ones_have(tmp_path: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    tokenizer = RobertaTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=64
    )
    config = ClapConfig(
        text_config={**TEXT, "vocab_size": len(words)}, audio_config=dict(AUDIO), projection_dim=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(tmp_path, ClapModel(config), tokenizer, EXTRACTOR, {})
    (tmp_path / CARD).unlink()
    clap = Clap.load(tmp_path)
    vectors = clap.embed_text(["calm jazz", "穏やかなジャズ"])
    assert vectors.shape == (2, 8)
    assert not torch.equal(vectors[0], vectors[1])
    assert clap.unknown_words("kazoo") == []
    inner = [words.index(c) for c in "jazz"]
    assert clap.tokens.batch(["jazz", ""], 1).tolist() == [[0, *inner, 2], [0, 2, 1, 1, 1, 1]]


def test_a_fused_clap_hears_four_equal_channels() -> None:
    audio = {**AUDIO, "enable_fusion": True, "fusion_type": "aff_2d"}
    tiny = make_clap()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ClapConfig(
            text_config=tiny.config["text_config"], audio_config=audio, projection_dim=8
        )
        model = ClapModel(config).eval()
    extractor = {**EXTRACTOR, "truncation": "fusion"}
    clap = Clap.of(model, tiny.tokens, tiny.front_end.of(extractor))
    made = ClapFeatureExtractor(**extractor)(
        list(NOISE.numpy()), sampling_rate=8000, return_tensors="pt"
    )
    with torch.no_grad():
        # The extractor marks a random clip of every batch as longer than it is.
        never = torch.zeros(3, 1, dtype=torch.bool)
        expected = model.get_audio_features(made["input_features"], is_longer=never).pooler_output
        torch.testing.assert_close(clap.embed_audio(NOISE, 8000), expected, atol=1e-5, rtol=1e-4)


SHAPES = {
    "as published": ({}, 64, 1001),
    "that fuses": ({"enable_fusion": True, "fusion_type": "aff_2d"}, 64, 1001),
    # The second grid, of 10, is no whole number of windows.
    "odd": (
        {
            "spec_size": 80,
            "num_mel_bins": 40,
            "patch_size": [4, 6],
            "patch_embeds_hidden_size": 8,
            "depths": [2, 3],
            "num_attention_heads": [2, 4],
            "window_size": 4,
            "hidden_size": 16,
            "hidden_act": "silu",
            "qkv_bias": False,
            "enable_patch_layer_norm": False,
            "mlp_ratio": 1.5,
            "layer_norm_eps": 1e-3,
        },
        40,
        130,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_hears_is_transformers_and_so_are_its_gradients(shape: str) -> None:
    settings, n_mels, frames = SHAPES[shape]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClapModel(
            ClapConfig(
                audio_config=settings,
                text_config={**TEXT, "vocab_size": 8},
                projection_dim=24,
                projection_hidden_act="gelu",
            )
        ).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.15 * torch.randn_like(parameter))
        features = torch.randn(2, 4 if "enable_fusion" in settings else 1, frames, n_mels)
        direction = torch.randn(2, 24)
    found, expected = (features.clone().requires_grad_(True) for _ in range(2))
    never = torch.zeros(2, 1, dtype=torch.bool)
    theirs = model.get_audio_features(expected, is_longer=never).pooler_output
    ours = Clap.of(model, make_clap().tokens, make_clap().front_end).audio(found)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for embedding in (ours, theirs):
        (embedding * direction).sum().backward()
    assert expected.grad is not None
    largest = expected.grad.abs().max().item()
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-5 * largest, rtol=1e-4)


TEXTS = {
    "as published": {"num_hidden_layers": 2, "vocab_size": 300},
    "odd": {
        **TEXT,
        "vocab_size": 300,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-2,
        "type_vocab_size": 2,
        "pad_token_id": 4,
    },
}


@pytest.mark.parametrize("shape", TEXTS)
def test_what_reads_is_transformers(shape: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ClapConfig(
            text_config=TEXTS[shape],
            audio_config=dict(AUDIO),
            projection_dim=24,
            projection_hidden_act="gelu",
        )
        model = ClapModel(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        tokens = torch.randint(5, 300, (4, 40))
    padding = config.text_config.pad_token_id
    mask = torch.arange(40) < torch.tensor([40, 1, 7, 39])[:, None]
    tokens = tokens.where(mask, torch.tensor(padding))
    with torch.no_grad():
        theirs = model.get_text_features(tokens, attention_mask=mask.long()).pooler_output
        clap = Clap.of(model, make_clap().tokens, make_clap().front_end)
        ours = normalize(clap.text(tokens), dim=-1)
    assert clap.text.config.positions == config.text_config.max_position_embeddings - padding - 1
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_texts_of_the_embedded_clap_are_cut_as_transformers_cuts_them() -> None:
    clap, theirs = Clap.load(), AutoTokenizer.from_pretrained(EMBEDDED)
    texts = [
        "A calm jazz song at 96 beats per minute.",
        "kazoo",
        "Fröhlich, LOUD  rock!",
        "a " * 60,
    ]
    for text in texts:
        assert clap.tokens.content(text) == theirs(text, add_special_tokens=False)["input_ids"]
    whole = theirs(texts, padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(clap.tokens.batch(texts, 1), whole)
    assert (clap.tokens.unknown, clap.tokens.longest) == (3, 64)


def test_defaults_are_transformers() -> None:
    assert ClapAudioConfig.of({}) == ClapAudioConfig.of(ClapConfig().to_dict())
    assert ClapTextConfig.of({}) == ClapTextConfig.of(ClapConfig().to_dict())


def test_what_cannot_be_read_is_said(folder: Path, tmp_path: Path) -> None:
    for config, message in (
        ({"projection_hidden_act": "swish"}, "no activation 'swish': gelu"),
        ({"text_config": {"num_attention_heads": 5}}, "5 heads cannot share a width of 768"),
        ({"text_config": {"num_attention_heads": 0}}, "0 heads cannot share"),
        ({"text_config": {"pad_token_id": 600}}, "its padding, 600, is no token"),
        ({"text_config": {"pad_token_id": -1}}, "its padding, -1, is no token"),
    ):
        with pytest.raises(ValueError, match=message):
            ClapTextConfig.of(config)
    with pytest.raises(TypeError, match="vocab_size is 8, not of type int"):
        ClapTextConfig.of({"text_config": {"vocab_size": "8"}})
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for text in ("{", "{}", '{"model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=r"cannot load the CLAP in .*tokenizer\.json") as found:
            Clap.load(tmp_path).embed_text(["jazz"])
        assert "\n" not in str(found.value)


def test_what_cannot_be_heard_is_said() -> None:
    clap = make_clap()
    with pytest.raises(ValueError, match="at most 64 frames of 16 mels, not 65 frames"):
        clap.audio(torch.zeros(1, 1, 65, 16))
    for config, message in (
        ({"projection_hidden_act": "swish"}, "no activation 'swish': gelu"),
        ({"audio_config": {"spec_size": 5000}}, "spec_size is 5000, not 1 to 4096"),
    ):
        with pytest.raises(ValueError, match=message):
            ClapAudioConfig.of(config)
    with pytest.raises(TypeError, match="window_size is 8, not of type int"):
        ClapAudioConfig.of({"audio_config": {"window_size": "8"}})


WRONG: list[tuple[str, Any]] = [
    ("preprocessor_config.json", {"hop_length": 0}),
    ("preprocessor_config.json", {"hop_length": "10"}),
    ("preprocessor_config.json", {"hop_length": 2}),
    ("preprocessor_config.json", {"fft_window_size": 0}),
    ("preprocessor_config.json", {"fft_window_size": 2**15}),
    ("preprocessor_config.json", {"feature_size": 8}),
    ("preprocessor_config.json", {"sampling_rate": 8000.5}),
    ("preprocessor_config.json", {"frequency_max": float("nan")}),
    ("preprocessor_config.json", {"frequency_max": -1}),
    ("preprocessor_config.json", {"max_length_s": 10**9}),
    ("preprocessor_config.json", {"max_length_s": 0}),
    ("preprocessor_config.json", {"padding": "x"}),
    ("config.json", {"num_mel_bins": 0}),
    ("config.json", {"patch_stride": [0, 4]}),
    ("config.json", {"patch_stride": []}),
    ("config.json", {"num_attention_heads": []}),
    ("config.json", {"num_attention_heads": [3, 2]}),
    ("config.json", {"window_size": 1000}),
    ("config.json", {"window_size": 0}),
    ("config.json", {"hidden_size": 8}),
    *((name, None) for name in ("config.json", "preprocessor_config.json", CARD)),
]


@pytest.mark.parametrize(("name", "changes"), WRONG)
def test_settings_of_nonsense_are_one_line_at_loading(
    folder: Path, tmp_path: Path, name: str, changes: dict[str, Any] | None
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    said = json.loads((tmp_path / name).read_text())
    if changes is None:
        said = []
    elif name == "config.json":
        said["audio_config"] |= changes
    else:
        said |= changes
    (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(ModelError, match="cannot load the CLAP") as found:
        Clap.load(tmp_path)
    assert "\n" not in str(found.value)


def test_what_reads_is_asked_for_when_there_is_a_text(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / CARD).unlink()
    tensors = load_file(folder / WEIGHTS)
    clap = Clap.load(tmp_path)
    torch.testing.assert_close(
        clap.embed_audio(NOISE, 8000), Clap.load(folder).embed_audio(NOISE, 8000)
    )
    with pytest.raises(ModelError, match="cannot load the CLAP"):
        clap.embed_text(["jazz"])
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    save_file({k: v for k, v in tensors.items() if "text_projection" not in k}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="lacks 4 tensors, text_projection"):
        Clap.load(tmp_path).embed_text(["jazz"])


def test_a_missing_incomplete_or_damaged_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CLAP in"):
        Clap.load(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="SHA-256"):
        Clap.load(tmp_path)
    (tmp_path / CARD).unlink()
    save_file(
        {k: v for k, v in load_file(folder / WEIGHTS).items() if "audio_projection" not in k},
        weights,
    )
    with pytest.raises(ModelError, match="lacks 4 tensors") as found:
        Clap.load(tmp_path)
    assert "\n" not in str(found.value)
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["patch_embeds_hidden_size"] = 2**20
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="asks for more weights than there are"):
        Clap.load(tmp_path)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load"):
        Clap.load(tmp_path)


def test_a_name_that_is_no_folder_and_no_hub_id_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("/nowhere at all", "nobody/no-clap"):
        with pytest.raises(ModelError, match="no folder") as found:
            Clap.load(name)
        assert "\n" not in str(found.value)


def test_float64_audio_is_heard_in_float64_features() -> None:
    clap = make_clap()
    features = clap.front_end(NOISE.double(), 8000)
    assert features.dtype == torch.float64
    np.testing.assert_allclose(
        clap.embed_features(features), clap.embed_audio(NOISE, 8000), atol=1e-4
    )
