"""musicnn against its published graph, written out in numpy, and the mel against librosa."""

import ast

import librosa
import numpy as np
import pytest
import torch
from tests.eval.ears.made_music import played

from ditto.eval.ears.musicnn import (
    TAGS,
    MusicNN,
    Name,
    listen,
    load_musicnn,
    log_mel_patches,
    mel_power,
)
from ditto.eval.ears.tf_checkpoint import read_checkpoint
from ditto.eval.ears.wheels import wheel_file

NAMES: tuple[Name, ...] = ("MSD_musicnn", "MTT_musicnn")


@pytest.fixture(scope="module")
def networks() -> dict[Name, MusicNN]:
    return {name: load_musicnn(name) for name in NAMES}


@pytest.fixture(scope="module")
def patches() -> torch.Tensor:
    return log_mel_patches(torch.from_numpy(played(rate=16_000))[None])


def published(name: str, patch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tags and embedding of a patch (187, 96) by `musicnn.models.build_musicnn`, step by step."""
    index = wheel_file("musicnn", f"{name}/.index")
    w = read_checkpoint(f"{index.parent}/", lambda key: "Adam" not in key)

    def norm(i: int, x: np.ndarray) -> np.ndarray:
        layer = "batch_normalization" + (f"_{i}" if i else "")
        centred = x - w[f"{layer}/moving_mean"]
        return (
            centred / np.sqrt(w[f"{layer}/moving_variance"] + 1e-3) * w[f"{layer}/gamma"]
            + w[f"{layer}/beta"]
        )

    def conv(layer: str, x: np.ndarray) -> np.ndarray:
        """Valid convolution of (time, frequency), ReLU: (time, frequency, filters)."""
        kernel = w[f"{layer}/kernel"][:, :, 0]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2])
        return np.maximum(np.tensordot(windows, kernel, 2) + w[f"{layer}/bias"], 0)

    x = norm(0, patch[:, :, None].astype(np.float64))[:, :, 0]
    front = []
    for i, (layer, before, after) in enumerate(
        [("", 3, 3), ("_1", 3, 3), ("_2", 63, 64), ("_3", 31, 32), ("_4", 15, 16)]
    ):
        padded = np.pad(x, ((before, after), (0, 0)))
        front.append(norm(i + 1, conv(f"conv2d{layer}", padded)).max(axis=1))
    features = [np.concatenate(front, axis=1)]
    for i in (5, 6, 7):
        y = norm(i + 1, conv(f"conv2d_{i}", np.pad(features[-1], ((3, 3), (0, 0))))[:, 0])
        features.append(y if i == 5 else y + features[-1])
    z = np.concatenate(features, axis=1)
    pooled = np.stack([z.max(axis=0), z.mean(axis=0)], axis=1).ravel()
    hidden = np.maximum(norm(9, pooled) @ w["dense/kernel"] + w["dense/bias"], 0)
    embedding = norm(10, hidden)
    logits = embedding @ w["dense_1/kernel"] + w["dense_1/bias"]
    return 1 / (1 + np.exp(-logits)), embedding


@pytest.mark.parametrize("name", NAMES)
def test_is_the_published_graph(
    networks: dict[Name, MusicNN], patches: torch.Tensor, name: Name
) -> None:
    tags, embedding = published(name, patches[0, 1].numpy())
    heard = listen(networks[name], patches[:, 1:2])
    np.testing.assert_allclose(heard.tags[0, 0], tags, atol=1e-5)
    np.testing.assert_allclose(heard.embedding[0, 0], embedding, atol=1e-4)


def test_shapes_names_and_determinism(networks: dict[Name, MusicNN], patches: torch.Tensor) -> None:
    assert patches.shape == (1, 3, 187, 96)
    for name, network in networks.items():
        heard = listen(network, patches)
        assert heard.tags.shape == (1, 3, 50)
        assert heard.embedding.shape == (1, 3, 200)
        assert len(set(TAGS[name])) == 50
        assert 780_000 < sum(p.numel() for p in network.parameters()) < 800_000
        again = listen(load_musicnn(name), patches, batch_size=2)
        torch.testing.assert_close(heard.embedding, again.embedding, atol=1e-4, rtol=0)


def test_tags_are_those_of_the_wheel() -> None:
    source = wheel_file("musicnn", "musicnn/configuration.py").read_text()
    lists = {
        target.id: ast.literal_eval(line.value)
        for line in ast.parse(source).body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name) and target.id.endswith("_LABELS")
    }
    assert list(TAGS["MSD_musicnn"]) == lists["MSD_LABELS"]
    assert list(TAGS["MTT_musicnn"]) == lists["MTT_LABELS"]


def test_plucked_tones_are_no_rock(networks: dict[Name, MusicNN], patches: torch.Tensor) -> None:
    tags = listen(networks["MTT_musicnn"], patches).tags.mean(dim=(0, 1))
    heard = dict(zip(TAGS["MTT_musicnn"], tags.tolist(), strict=True))
    assert heard["guitar"] + heard["harp"] + heard["piano"] + heard["solo"] > 4 * heard["rock"]
    assert heard["no vocals"] + heard["no vocal"] + heard["no voice"] > heard["male voice"]


def test_the_mel_is_that_of_librosa() -> None:
    audio = played(rate=16_000)
    audio += 0.01 * np.random.default_rng(0).standard_normal(len(audio)).astype("f")
    wanted = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect"
    )
    made = mel_power(torch.from_numpy(audio)[None])[0].T.numpy()
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-6)


def test_a_clip_shorter_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2\.98 s"):
        log_mel_patches(torch.zeros(1, 40_000))
