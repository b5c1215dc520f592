"""The recipe of the embedded CLAP: it learns what can be heard, resumes bit for bit, and saves what
loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.benchmarks.conftest import (
    data as data,  # the bench's folder of short pieces, as a fixture
)
from tests.models.tiny_clap import AUDIO, EXTRACTOR, TEXT
from torch.nn.functional import cross_entropy

from ditto.data.captions import words_of
from ditto.models.clap import CARD, Clap
from ditto.models.clap_tokenizer import word_tokenizer
from ditto.training.clap import (
    ClapTraining,
    clap_network,
    contrastive_loss,
    prepared,
    spread,
    train_clap,
    train_clap_on,
)
from ditto.training.loop import RECIPES, load_config

TOKENIZER = word_tokenizer(words_of())
KINDS = [
    f"{mood} {genre}" for mood in ("calm", "happy") for genre in ("jazz", "rock", "funk", "folk")
]


class Bands:
    """Synthetic clips: the genre is where the energy lies, the mood how loud it is."""

    def batch(self, step: int, batch_size: int) -> tuple[torch.Tensor, list[str]]:
        rng = np.random.default_rng(step)
        kinds = rng.permutation(batch_size) % len(KINDS)
        levels = rng.normal(-80, 3, (batch_size, 1, 62, 16))
        for clip, kind in zip(levels, kinds, strict=True):
            clip[..., 4 * (kind % 4) : 4 * (kind % 4) + 4] += 25 + 25 * (kind // 4)
        return torch.from_numpy(levels).float(), [f"a {KINDS[kind]} song" for kind in kinds]


class Killed(Bands):
    def batch(self, step: int, batch_size: int) -> tuple[torch.Tensor, list[str]]:
        if step == 5:
            raise KeyboardInterrupt
        return super().batch(step, batch_size)


def small_config(**changes: object) -> ClapTraining:
    settings = {
        "audio": {**AUDIO, "drop_path_rate": 0.1},
        "text": {**TEXT, "hidden_dropout_prob": 0.1},
        "projection": 8,
        "front_end": EXTRACTOR,
        "steps": 6,
        "batch_size": 8,
        "checkpoint_every": 2,
        "log_every": 1,
        "warmup": 5,
        "masked": 2,
        "gain_db": 3.0,
    }
    return ClapTraining(**(settings | changes))  # pyright: ignore[reportArgumentType]


def test_the_loss_is_the_mean_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, text = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
        for _ in range(2)
    )
    scores = (audio.double() @ text.double().T).numpy()
    own = np.arange(6)
    expected = 0.0
    for matrix, scale in ((scores, 5.0), (scores.T, 9.0)):
        likelihoods = np.exp(scale * matrix)
        expected -= 0.5 * np.log(likelihoods[own, own] / likelihoods.sum(axis=1)).mean()
    found = contrastive_loss(audio, text, torch.tensor(5.0), torch.tensor(9.0))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    # It is not transformers' loss, whose two halves go one way.
    one_way = cross_entropy(9.0 * (text @ audio.T), torch.arange(6))
    assert abs(found.item() - one_way.item()) > 1e-2


def test_at_first_embeddings_spread_over_the_whole_space() -> None:
    config = small_config()
    levels, captions = Bands().batch(0, 64)
    batch = prepared(config, TOKENIZER, levels, captions, 0)
    network = clap_network(config, TOKENIZER).train()
    spread(network, batch)
    assert network.training
    assert network.text_model.training
    with torch.no_grad():
        texts = network.eval().text_projection(
            network.text_model(batch[1], attention_mask=batch[2]).pooler_output
        )
    torch.testing.assert_close(texts.mean(dim=0), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(texts.std(dim=0), torch.ones(8), atol=1e-2, rtol=0)


def test_learns_what_can_be_heard(tmp_path: Path) -> None:
    config = small_config(
        audio=AUDIO,
        text=TEXT,
        projection=32,
        steps=150,
        batch_size=16,
        lr=3e-3,
        ema=0.9,
        masked=0,
        gain_db=1.0,
        unknown=0.0,
        checkpoint_every=150,
        log_every=50,
    )
    network = train_clap_on(config, Bands(), TOKENIZER, tmp_path, show=False)
    levels, captions = Bands().batch(10_000, 64)
    clap = Clap.of(network, TOKENIZER, None)  # pyright: ignore[reportArgumentType]
    texts = [f"a {kind} song" for kind in KINDS]
    with torch.no_grad():
        nearest = (clap.embed_features(levels[:, None]) @ clap.embed_text(texts).mT).argmax(dim=1)
    assert (
        np.mean([texts[i] == said for i, said in zip(nearest.tolist(), captions, strict=True)])
        > 0.6
    )  # chance: 1/8


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    config = small_config()
    whole = train_clap_on(config, Bands(), TOKENIZER, tmp_path / "a", show=False)
    with pytest.raises(KeyboardInterrupt):
        train_clap_on(config, Killed(), TOKENIZER, tmp_path / "b", show=False)
    resumed = train_clap_on(config, Bands(), TOKENIZER, tmp_path / "b", show=False)
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name


def test_another_seed_makes_another_judge(tmp_path: Path) -> None:
    first, second = (
        train_clap_on(
            small_config(seed=seed, steps=1), Bands(), TOKENIZER, tmp_path / str(seed), show=False
        )
        for seed in (0, 1)
    )
    assert not first.audio_projection.linear1.weight.equal(second.audio_projection.linear1.weight)


def test_the_shipped_weights_are_the_averaged_ones_with_the_latest_statistics(
    tmp_path: Path,
) -> None:
    from ditto.training.loop import Checkpoints

    shipped = train_clap_on(
        small_config(ema=0.5), Bands(), TOKENIZER, tmp_path, show=False
    ).state_dict()
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    name, statistic = (
        "audio_projection.linear1.weight",
        "audio_model.audio_encoder.batch_norm.running_mean",
    )
    assert shipped[name].equal(found[1]["ema"][name])
    assert not shipped[name].equal(found[1]["model"][name])
    assert shipped[statistic].equal(found[1]["model"][statistic])
    assert shipped[statistic].abs().max() > 1


def test_augmentation_is_a_function_of_the_step_and_spares_special_tokens() -> None:
    config = small_config(unknown=0.5)
    levels, captions = Bands().batch(0, 8)
    (first, ids, mask), (again, same, _), (other, others, _) = (
        prepared(config, TOKENIZER, levels, captions, step) for step in (3, 3, 4)
    )
    assert first.equal(again)
    assert ids.equal(same)
    assert not first.equal(other)
    assert not ids.equal(others)
    assert (first >= -100).all()
    lost = (ids == TOKENIZER.unk_token_id).float()[:, 1:5].mean()
    assert 0.2 < lost < 0.8
    assert (ids[:, 0] == TOKENIZER.bos_token_id).all()
    assert ((ids == TOKENIZER.eos_token_id).sum(dim=1) == 1).all()
    assert ((ids == TOKENIZER.pad_token_id) == (mask == 0)).all()


def test_training_leaves_the_process_wide_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_clap_on(small_config(steps=1), Bands(), TOKENIZER, tmp_path, show=False)
    assert torch.get_rng_state().equal(before)


def test_from_a_data_folder_to_a_clap_that_loads_with_its_scores(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ditto.audio.spec import AudioSpec
    from ditto.training import clap as recipe

    monkeypatch.setattr(recipe, "AudioSpec", lambda: AudioSpec(clip_frames=80))  # pieces of 2.5 s
    folder = train_clap(
        small_config(batch_size=4, steps=2), data, tmp_path, held_out=data, show=False
    )
    clap = Clap.load(folder)
    card = json.loads((folder / CARD).read_text())
    assert card["seed"] == 0
    assert card["scores"]["pairs"] == 6
    assert set(card["scores"]) >= {"recall_at_10_text", "genre_accuracy", "unrelated_cosine"}
    assert clap.embed_text(["a calm jazz song"]).shape == (1, 8)
    assert clap.front_end.sample_rate == 8000


def test_the_committed_configs_differ_in_the_seed_alone() -> None:
    folder = RECIPES
    first, judge = (
        load_config(folder / f"{name}.json", ClapTraining) for name in ("clap", "clap-judge")
    )
    assert first.seed != judge.seed
    assert {**vars(first), "seed": None} == {**vars(judge), "seed": None}
