"""Training heads: a killed run, what they learn, what they are pushed to, and the command."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import Command, make_vocoder, randomised
from tests.training.runs import assert_same, weights
from torch import Tensor

from ditto.audio.chroma import log_chroma
from ditto.audio.features import log_mel, rms_db
from ditto.audio.similarity import mfcc, onset_strength
from ditto.errors import DataError
from ditto.models.heads import Heads, read_from
from ditto.models.model import MusicModel
from ditto.training.heads import (
    HeadsConfig,
    Pool,
    Setting,
    evaluated,
    losses_of,
    new_heads,
    pushed,
    train_heads,
)
from ditto.training.loop import load_config, read_log

FEATURES = ("loudness", "chroma", "onsets", "timbre")
TINY = HeadsConfig(
    features=FEATURES,
    width=8,
    depth=1,
    pool=20,
    fresh=1,
    fresh_from=4,
    push_steps=2,
    steps=8,
    batch_size=4,
    warmup=1,
    log_every=1,
    checkpoint_every=4,
    evaluate_every=8,
)


class Ramps:
    """Clips whose level is a random ramp."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(step)
        ends = torch.rand(batch_size, 2, 1, 1, generator=draws) - 0.7
        ramp = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * torch.linspace(0, 1, 64)
        noise = torch.randn(batch_size, 1, 16, 64, generator=draws)
        return ramp + 0.05 * noise, torch.zeros(batch_size, 5, dtype=torch.long)


@pytest.fixture(scope="module")
def run(student_model: MusicModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "run"
    train_heads(TINY, student_model, Ramps(), folder, show=False)
    return folder


def test_what_a_run_leaves(run: Path, student_model: MusicModel) -> None:
    assert {"heads", "pool", "held-out", "config.json", "log.jsonl"} <= {
        path.name for path in run.iterdir()
    }
    last = read_log(run / "log.jsonl")[-1]
    assert {"held_out_chroma_kl", "mel_chroma_kl", "held_out_loudness_error_db"} <= last.keys()
    shipped = student_model.with_heads(run / "heads").readers
    assert shipped is not None
    averaged = weights(run, "ema")
    assert all(
        torch.equal(value, averaged[name].half().float())
        for name, value in shipped.network.state_dict().items()
        if name in averaged
    )


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    run: Path, student_model: MusicModel, tmp_path: Path
) -> None:
    train_heads(replace(TINY, steps=4), student_model, Ramps(), tmp_path, show=False)
    kept = sorted((tmp_path / "pool").iterdir())[0]
    made = kept.stat().st_mtime_ns
    train_heads(TINY, student_model, Ramps(), tmp_path, show=False)
    assert kept.stat().st_mtime_ns == made, "what was decoded is not decoded again"
    # The rate falls over the last steps, so only runs of one length are alike: this one is not.
    train_heads(TINY, student_model, Ramps(), tmp_path / "again", show=False)
    assert_same(weights(run, "model"), weights(tmp_path / "again", "model"))


def test_what_another_start_of_the_run_decoded_is_not_taken_for_this_ones(
    tiny_model: MusicModel, student_model: MusicModel, tmp_path: Path
) -> None:
    """As of a run that was stopped before its first checkpoint, and begun again otherwise."""
    Pool(Setting(tiny_model, ("loudness",)), Ramps(), 4, 0, tmp_path)
    louder = replace(tiny_model, vocoder=randomised(make_vocoder(), 5))
    for model, features, seed in (
        (louder, ("loudness",), 0),
        (student_model, ("loudness",), 0),
        (student_model, ("chroma",), 0),
        (student_model, ("chroma",), 1),
    ):
        setting = Setting(model, features)
        kept, fresh = (Pool(setting, Ramps(), 4, seed, folder) for folder in (tmp_path, None))
        assert kept.features.keys() == fresh.features.keys()
        assert torch.equal(kept.x_0, fresh.x_0)
        assert torch.equal(kept.features[features[0]], fresh.features[features[0]])


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(
    run: Path, student_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    def stop(*arguments: object) -> Tensor:
        raise StopError

    draws = Pool.batch

    def until(pool: Pool, step: int, size: int) -> object:
        return draws(pool, step, size) if step < 6 else stop()

    monkeypatch.setattr(Pool, "batch", until)
    with pytest.raises(StopError):
        train_heads(TINY, student_model, Ramps(), tmp_path, show=False)
    monkeypatch.undo()
    train_heads(TINY, student_model, Ramps(), tmp_path, show=False)
    assert_same(weights(run, "model"), weights(tmp_path, "model"))
    assert_same(weights(run, "ema"), weights(tmp_path, "ema"))


def test_a_run_of_another_decoder_is_refused(
    run: Path, student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.training.heads.decoder_hash", lambda model: "another")
    with pytest.raises(DataError, match="begun with another model"):
        train_heads(TINY, student_model, Ramps(), run, show=False)


def test_the_targets_are_the_features_of_the_decoded_sound(student_model: MusicModel) -> None:
    setting = Setting(student_model, FEATURES)
    pool = Pool(setting, Ramps(), 8, seed=3)
    x_0, features = pool.batch(5, 2)
    audio, spec = student_model.to_audio(x_0), student_model.spec
    mel = log_mel(audio, spec)
    oracle = {
        "loudness": rms_db(audio, spec),
        "chroma": log_chroma(audio, spec),
        "onsets": onset_strength(mel, spec),
        "timbre": mfcc(mel, spec)[:, 1:],
    }
    for name, value in oracle.items():
        # What is kept is rounded to float16.
        torch.testing.assert_close(features[name], value, rtol=2e-3, atol=2e-2)  # pyright: ignore[reportArgumentType]


def test_the_pool_has_every_kind_of_clip(student_model: MusicModel) -> None:
    clips = Ramps().batch(0, 16)[0].half()
    made = Pool(Setting(student_model, ("loudness",)), Ramps(), 16, seed=0).x_0
    same = [torch.equal(a, b) for a, b in zip(made, clips, strict=True)]
    assert same == [True, False, False, False] * 4
    noised = (made - clips).float().flatten(1).std(dim=1)
    assert noised[1::4].max() < 0.2 * clips.float().std() < noised[3::4].min()


def test_no_loss_where_a_head_is_right(student_model: MusicModel) -> None:
    features = Setting(student_model, FEATURES).decoded(Ramps().batch(0, 2)[0])
    assert all(abs(loss.item()) < 1e-6 for loss in losses_of(features, features).values())
    other = {name: value.roll(7, -1) for name, value in features.items()}
    assert all(loss.item() > 1e-4 for loss in losses_of(other, features).values())


def test_a_pushed_clip_is_nearby_and_the_heads_hear_another(student_model: MusicModel) -> None:
    setting = Setting(student_model, ("loudness",))
    config = replace(TINY, features=("loudness",), push_steps=5)
    heads = new_heads(config, setting)
    x_0 = Ramps().batch(0, 4)[0]
    moved = pushed(heads, setting, x_0, config, torch.Generator().manual_seed(0))
    largest = config.push_steps * config.push_size * x_0.std()
    assert 0 < (moved - x_0).abs().max() <= largest
    before, after = (heads(read_from(student_model, x), "loudness") for x in (x_0, moved))
    random = x_0 + (moved - x_0).abs() * torch.randn(x_0.shape).sign()
    beside = heads(read_from(student_model, random), "loudness")
    assert (after - before).abs().mean() > 2 * (beside - before).abs().mean()


def test_heads_learn(student_model: MusicModel, tmp_path: Path) -> None:
    config = replace(TINY, steps=60, lr=1e-2, fresh=0, decay=0.5, ema=0.8, evaluate_every=1000)
    heads = train_heads(config, student_model, Ramps(), tmp_path, show=False)
    judged = Pool(Setting(student_model, FEATURES), Ramps(), 16, seed=9)
    untrained = new_heads(config, judged.setting)
    before, after = evaluated(untrained, judged), evaluated(heads, judged)
    assert isinstance(heads, Heads)
    # The tiny vocoder's chroma is mostly that of its noise.
    for name, most in (("loudness_error_db", 0.7), ("timbre_error_db", 0.95), ("chroma_kl", 0.9)):
        assert after[f"held_out_{name}"] < most * before[f"held_out_{name}"], name


def test_the_recipe_and_the_command(
    composed: Path, model_folder: Path, ditto_music: Command, tmp_path: Path
) -> None:
    assert load_config("heads", HeadsConfig).features == (*FEATURES, "clap")
    config = tmp_path / "tiny.json"
    config.write_text(
        '{"features": ["chroma"], "width": 8, "depth": 1, "pool": 4, "steps": 2, "batch_size": 2}'
    )
    words = ("train", "heads", "--config", config, "--data", composed, "--out", tmp_path / "run")
    code, _, error = ditto_music(*words, "--model", model_folder)
    if "sampled at" in error:
        assert code == 2
        return
    assert code == 0, error
    assert (tmp_path / "run" / "heads" / "model_index.json").is_file()
