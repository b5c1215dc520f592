"""The classifier: its rhythm against numpy, its targets against counting, learning, resuming,
saving."""

import json
import shutil

import numpy as np
import pytest
import torch

from ditto.errors import DataError, ModelError
from ditto.eval.classifier import BEAT_MULTIPLES, ClipClassifier
from ditto.models.conditioning import TagVocabulary
from ditto.training import classifier as recipe
from ditto.training.classifier import (
    ClassifierConfig,
    augmented,
    save_half,
    train_classifier,
    train_classifier_on,
)

VOCABULARY = TagVocabulary(("jazz", "rock"), ("happy", "sad"))
SMALL = {"width": 16, "embedding": 8, "onset_bands": 4, "candidates": 2}
FRAME_RATE = 22_050 / 256


class Beats:
    """Synthetic clips: the genre is where the energy lies, the mood how loud it is, the tempo how
    often it pulses."""

    def __init__(self, frames):
        self.frames = frames

    def batch(self, step, batch_size):
        rng = np.random.default_rng(step)
        tags = np.stack([rng.integers(1, high, batch_size) for high in (3, 3, 13)], axis=1)
        clips = np.stack([self.clip(*row, rng) for row in tags]).astype(np.float32)
        return torch.from_numpy(clips)[:, None], torch.from_numpy(tags)

    def clip(self, genre, mood, tempo, rng):
        beats = np.arange(self.frames) / FRAME_RATE * (60 + 10 * (tempo - 0.5)) / 60 + rng.random()
        level = -60 + 15 * mood - 20 * (beats % 1) + rng.normal(size=(160, self.frames))
        level[(genre - 1) * 80 : genre * 80] -= 30
        return level / 80 + 1


def small_config(**options):
    settings = {
        "frames": 256,
        "steps": 6,
        "batch_size": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "network": SMALL,
    }
    return ClassifierConfig(**(settings | options))


def test_autocorrelation_is_numpys():
    net = ClipClassifier(**SMALL)
    levels = torch.rand(2, 160, 400, generator=torch.Generator().manual_seed(0))
    found = net.rhythm.autocorrelation(levels)
    rises = (
        np.maximum(np.diff(levels[1].double().numpy(), axis=-1), 0).reshape(4, 40, -1).mean(axis=1)
    )
    onsets = rises - rises.mean(axis=1, keepdims=True)
    for lag in (0, 1, 37, 200):
        count = onsets.shape[1]
        products = (onsets[:, lag:] * onsets[:, : count - lag]).sum(axis=1) * count / (count - lag)
        expected = products / ((onsets**2).sum(axis=1) + 1e-3)
        np.testing.assert_allclose(found[1, :, lag], expected, rtol=1e-3, atol=1e-4)


def test_candidates_read_the_autocorrelation_at_their_own_beat():
    rhythm = ClipClassifier(**SMALL).rhythm
    ramp = torch.arange(rhythm.max_lag + 1, dtype=torch.float32)
    lags = (rhythm.reader @ ramp).unflatten(0, (24, -1))
    tempi = 60 + (torch.arange(24) + 0.5) * 5
    expected = 60 * FRAME_RATE / tempi[:, None] * torch.tensor(BEAT_MULTIPLES)
    torch.testing.assert_close(lags, expected.float(), rtol=1e-4, atol=1e-3)


def test_what_is_inaudible_is_not_heard():
    net = ClipClassifier(**SMALL).eval()
    x_0 = torch.rand(1, 1, 160, 128, generator=torch.Generator().manual_seed(0)) * 0.5
    quiet = x_0.clone()
    x_0[:, :, 100:], quiet[:, :, 100:] = -0.3, -1.0
    torch.testing.assert_close(net(x_0).embedding, net(quiet).embedding)


def test_stretched_tempo_targets_are_shares_of_the_bin():
    config = small_config(stretch=0.3)
    rng = np.random.default_rng(0)
    for tempo_bin in (0, 5, 11):
        for _ in range(20):
            factor, shares = recipe._stretch(config, VOCABULARY, tempo_bin, rng)
            tempi = (60 + 10 * (tempo_bin + (np.arange(5000) + 0.5) / 5000)) * factor
            bins = np.clip((tempi - 60) // 10, 0, 11).astype(int)
            np.testing.assert_allclose(shares, np.bincount(bins, minlength=12) / 5000, atol=1e-3)
            assert 1 / 1.3 - 1e-9 <= factor <= 1.3 + 1e-9


def test_a_stretched_clip_pulses_at_the_tempo_of_its_target():
    clip = torch.zeros(160, 614)
    clip[:, ::40] = 1.0
    faster = recipe._resampled(clip, 1.2, 512, np.random.default_rng(0))
    spacing = np.diff(
        np.flatnonzero((faster[0, 1:-1] > faster[0, :-2]) & (faster[0, 1:-1] >= faster[0, 2:]))
    )
    assert faster.shape == (160, 512)
    assert spacing.mean() == pytest.approx(40 / 1.2, rel=0.02)


def test_augmentation_is_a_function_of_the_step():
    config = small_config()
    x_0, tags = Beats(config.drawn_frames).batch(0, 4)
    first, again, other = (augmented(config, VOCABULARY, x_0, tags, step) for step in (3, 3, 4))
    assert first[0].equal(again[0])
    assert not first[0].equal(other[0])
    assert first[0].shape == (4, 1, 160, 256)
    for targets in first[1]:
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


def test_learns_what_can_be_heard(tmp_path):
    config = small_config(
        steps=60, batch_size=16, lr=1e-2, warmup=5, checkpoint_every=60, masked=0, gain_db=1.0
    )
    net = train_classifier_on(config, Beats(config.drawn_frames), VOCABULARY, tmp_path, show=False)
    x_0, tags = Beats(256).batch(10_000, 64)
    with torch.no_grad():
        found = [
            (logits.argmax(dim=1) + 1 == tags[:, i]).float().mean()
            for i, logits in enumerate(net(x_0).logits)
        ]
    assert found[0] > 0.9
    assert found[1] > 0.9
    assert found[2] > 0.5


def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    class Killed(Beats):
        def batch(self, step, batch_size):
            if step == 5:
                raise KeyboardInterrupt
            return super().batch(step, batch_size)

    config = small_config()
    whole = train_classifier_on(
        config, Beats(config.drawn_frames), VOCABULARY, tmp_path / "a", show=False
    )
    with pytest.raises(KeyboardInterrupt):
        train_classifier_on(
            config, Killed(config.drawn_frames), VOCABULARY, tmp_path / "b", show=False
        )
    resumed = train_classifier_on(
        config, Beats(config.drawn_frames), VOCABULARY, tmp_path / "b", show=False
    )
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name


def test_training_leaves_the_process_wide_generator_alone(tmp_path):
    before = torch.get_rng_state()
    train_classifier_on(small_config(steps=1), Beats(400), VOCABULARY, tmp_path, show=False)
    assert torch.get_rng_state().equal(before)


def test_saved_weights_are_half_precision_and_come_back(tmp_path):
    net = ClipClassifier(genres=2, moods=2, **SMALL).eval()
    save_half(net, tmp_path)
    loaded = ClipClassifier.load(tmp_path)
    x_0 = torch.rand(2, 1, 160, 128, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(loaded(x_0).embedding, net(x_0).embedding, atol=2e-2, rtol=2e-2)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    assert loaded.sha256() == net.sha256()


def test_a_missing_or_damaged_classifier_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="train classifier"):
        ClipClassifier.load(tmp_path / "none")
    save_half(ClipClassifier(**SMALL), tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot load"):
        ClipClassifier.load(tmp_path)


def test_the_committed_config_is_one_of_the_recipe():

    from ditto.training.loop import RECIPES, load_config

    config = load_config(RECIPES / "classifier.json", ClassifierConfig)
    assert (
        ClipClassifier(**config.network).config["embedding"]
        == json.loads(json.dumps(config.network))["embedding"]
    )


def test_a_data_folder_with_all_tags_trains_it(composed, tmp_path):
    config = small_config(frames=128, steps=1, batch_size=2)
    folder = train_classifier(config, composed, tmp_path, held_out=composed)
    assert 0 <= json.loads((folder / "scores.json").read_text())["genre"] <= 1
    assert not ClipClassifier.load(folder).training


@pytest.mark.parametrize("lost", ["genre", "mood", "tempo"])
def test_what_lacks_a_tag_is_refused_before_the_training(composed, tmp_path, lost):
    config = small_config(frames=128, steps=1, batch_size=2)
    untagged = shutil.copytree(composed, tmp_path / "untagged")
    labels = [json.loads(line) for line in (untagged / "labels.jsonl").read_text().splitlines()]
    del labels[-1][lost]
    (untagged / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    for data, held_out in ((untagged, None), (composed, untagged), (composed, tmp_path / "none")):
        with pytest.raises(DataError, match=r"every piece of|is missing"):
            train_classifier(config, data, tmp_path / "run", held_out=held_out)
        assert not (tmp_path / "run").exists()
