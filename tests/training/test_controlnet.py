"""Training a ControlNet: kill -9 and resume bit for bit, what is given, that it learns to follow,
what is refused."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.conftest import VOCABULARY, make_vocoder, randomised
from tests.training.runs import assert_same, fresh_processes, weights
from torch import Tensor

from ditto.audio.features import log_mel, mel_rms_db, smooth
from ditto.audio.spec import AudioSpec
from ditto.data.prepare import prepare_folder
from ditto.errors import DataError, OutputError
from ditto.models.conditioning import TagVocabulary
from ditto.models.controlnet import ControlAdapter
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.models.unet import TagUNet
from ditto.training.base import train_base
from ditto.training.controlnet import (
    Batch,
    ControlledDataset,
    ControlNetConfig,
    draw,
    given_frames,
    sample,
    setting_of,
    train_controlnet,
    train_from_folder,
)
from ditto.training.denoising import BaseConfig
from ditto.training.loop import RECIPES, load_config, read_log

SPEC = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=16, clip_frames=32)
TINY = ControlNetConfig(
    blocks=1,
    steps=12,
    batch_size=4,
    lr=1e-2,
    warmup=2,
    log_every=1,
    checkpoint_every=4,
    evaluate_every=100,
    curve_dropout=0.2,
)


def make_model(
    vocabulary: TagVocabulary = VOCABULARY, spec: AudioSpec = SPEC, **changes: Any
) -> MusicModel:
    settings = {
        "n_mels": spec.n_mels,
        "patch": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "tag_sizes": vocabulary.sizes,
    }
    network = randomised(PatchTransformer(**settings | changes), scale=0.05)
    return MusicModel(network, make_vocoder(), spec, vocabulary, shift=0.5)  # pyright: ignore[reportArgumentType]


class Ramps:
    """Clips whose level is a random ramp, told as their loudness; the melody is a random class."""

    def batch(self, step: int, batch_size: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        ends = torch.rand(batch_size, 2, 1, generator=generator) - 0.6
        ramp = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * torch.linspace(0, 1, 32)
        noise = torch.randn(batch_size, 1, 16, 32, generator=generator)
        classes = torch.randint(0, 12, (batch_size, 1), generator=generator).expand(-1, 32)
        tags = torch.zeros(batch_size, 5, dtype=torch.long)
        return Batch(ramp[:, None, None] + 0.02 * noise, tags, 40 * ramp - 26, classes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps."""
    folder = tmp_path_factory.mktemp("controlnet") / "run"
    train_controlnet(TINY, make_model(), Ramps(), folder, show=False)
    return folder


def test_what_a_run_leaves(run: Path) -> None:
    names = sorted(path.name for path in run.iterdir())
    assert names == [
        "adapter",
        "config.json",
        "log.jsonl",
        "samples",
        "step-00000008",
        "step-00000012",
        "tensorboard",
    ]
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert {"held_out_loss", "held_out_loss_untold", "intensity_rho"} <= rows[-1].keys()
    averaged, raw = weights(run, "ema"), weights(run, "model")
    assert not any(torch.equal(raw[name], averaged[name]) for name in raw)
    shipped = ControlAdapter.load(run / "adapter", make_model())
    assert all(
        torch.equal(value, averaged[name].half().float())
        for name, value in shipped.state_dict().items()
    )


def test_the_base_is_left_as_it_is(tmp_path: Path) -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    train_controlnet(replace(TINY, steps=2), model, Ramps(), tmp_path, show=False)
    assert_same(dict(model.network.state_dict()), before)
    assert all(parameter.grad is None for parameter in model.network.parameters())


class Plain:
    """The same clips for the base, which is told nothing."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        batch = Ramps().batch(step, batch_size)
        return batch.x_0, batch.cond


def test_it_learns_to_follow_the_curve(tmp_path: Path) -> None:
    settings = {
        "n_mels": 16,
        "patch": 4,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "tag_sizes": VOCABULARY.sizes,
    }
    recipe = BaseConfig(
        network=settings,
        frames=32,
        steps=160,
        batch_size=8,
        lr=2e-2,
        warmup=2,
        ema=0.9,
        shift=0.5,
        data_std=0.25,
        checkpoint_every=160,
        evaluate_every=1000,
    )
    base = train_base(recipe, Plain(), tmp_path / "base", show=False)
    model = replace(make_model(), network=base.requires_grad_(False).eval())
    config = replace(
        TINY,
        steps=160,
        batch_size=8,
        checkpoint_every=160,
        evaluate_every=1000,
        ema=0.9,
        data_std=0.25,
        blocks=2,
    )
    adapter = train_controlnet(config, model, Ramps(), tmp_path / "controlnet", show=False)
    last = read_log(tmp_path / "controlnet" / "log.jsonl")[-1]
    assert last["held_out_loss"] < 0.85 * last["held_out_loss_untold"]
    batch = Ramps().batch(10_000, 8)
    with torch.no_grad():
        followed = sample(adapter, model, batch, seed=0).mean(dim=(1, 2))
    wanted = batch.x_0.mean(dim=(1, 2))
    # Over all frames of all clips: some ramps are flat, and have no shape of their own.
    assert np.corrcoef(followed.flatten().numpy(), wanted.flatten().numpy())[0, 1] > 0.7


def test_curves_are_left_out_at_their_rates() -> None:
    config = replace(TINY, curve_dropout=0.3, span_dropout=0.25)
    where = given_frames(config, torch.Size((20_000, 16)), torch.Generator().manual_seed(0)).float()
    nowhere = (where.sum(dim=1) == 0).float().mean().item()
    everywhere = (where.sum(dim=1) == 16).float().mean().item()
    # A cut is empty, and so none, with probability 1/17, and the whole clip with (1/17)²·2 or so.
    assert nowhere == pytest.approx(0.3, abs=0.02)
    assert everywhere == pytest.approx(0.7 * (0.75 + 0.25 / 17), abs=0.02)
    always = given_frames(
        replace(config, curve_dropout=0.0, span_dropout=0.0),
        torch.Size((50, 16)),
        torch.Generator(),
    )
    assert always.all()


def test_a_steps_draws_come_from_the_step_alone() -> None:
    setting, batch = setting_of(TINY, make_model()), Ramps().batch(0, 8)
    a, b, other = (draw(TINY, setting, batch, step) for step in (3, 3, 4))
    assert torch.equal(a.example.x_t, b.example.x_t)
    assert torch.equal(a.curves, b.curves)
    assert not torch.equal(a.example.noise, other.example.noise)
    assert [int(t) // 125 for t in a.example.t] == list(range(8))


def test_another_base_or_config_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="begun with another base"):
        train_controlnet(TINY, make_model(mlp_ratio=2.0), Ramps(), run, show=False)
    with pytest.raises(OutputError, match="another lr"):
        train_controlnet(replace(TINY, lr=0.5), make_model(), Ramps(), run, show=False)
    unet = TagUNet((8, 8), (1, 1), 1, 2, 4, 8, VOCABULARY.sizes)
    with pytest.raises(DataError, match="patch transformer"):
        train_controlnet(
            TINY, replace(make_model(), network=unet), Ramps(), tmp_path / "unet", show=False
        )
    wild = replace(TINY, lr=1e9, warmup=0, clip_norm=1e9)
    with pytest.raises(DataError, match="diverged"):
        train_controlnet(wild, make_model(), Ramps(), tmp_path / "wild", show=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_decay": "steep"}, "lr_decay: Input should be 'linear' or 'cosine'"),
        ({"curve_dropout": 1.0}, "curve_dropout: Input should be less than 1"),
    ],
)
def test_a_bad_config_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=message):
        load_config(tmp_path / "config.json", ControlNetConfig)


def test_the_committed_config_loads() -> None:
    assert load_config(RECIPES / "controlnet.json", ControlNetConfig).steps > 0


# From a data folder, and killed.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of two pieces: a tone of C♯ that swells, and noise."""
    root = tmp_path_factory.mktemp("data")
    (root / "sounds").mkdir()
    time_s = np.arange(2 * 22_050) / 22_050
    tone = np.sin(2 * np.pi * 554.365 * time_s) * np.linspace(0.01, 0.5, len(time_s))
    soundfile.write(root / "sounds" / "a.wav", tone, 22_050)
    soundfile.write(
        root / "sounds" / "b.wav",
        0.1 * np.random.default_rng(0).standard_normal(2 * 22_050),
        22_050,
    )
    (root / "tags.csv").write_text("file,genre,mood,tempo\na.wav,jazz,calm,100\nb.wav,rock,,\n")
    prepare_folder(
        root / "sounds", root / "set", tags_csv=root / "tags.csv", heldout=0.0, shortest_seconds=0.5
    )
    return root / "set" / "train"


def folder_model(folder: Path) -> Path:
    """A model for the data folder, on disk."""
    model = make_model(TagVocabulary(("jazz", "rock"), ("calm",)), AudioSpec(clip_frames=32))
    vocoder = type(model.vocoder)(width=8, depth=1)  # pyright: ignore[reportCallIssue]
    replace(model, vocoder=vocoder).save(folder)
    return folder


def test_curves_are_those_of_the_clips_own_audio(data: Path, tmp_path: Path) -> None:
    model = load(folder_model(tmp_path / "model"), precision="float32")
    clips = ControlledDataset(data, model, seed=1)
    batch = clips.batch(0, 6)
    assert batch.x_0.shape == (6, 1, 160, 32)
    assert batch.levels.shape == batch.classes.shape == (6, 32)
    assert torch.equal(clips.batch(0, 6).levels, batch.levels)
    # The log-mel has its own way to the loudness: away from the ends, which it sees beyond, both
    # agree.
    from_mel = smooth(mel_rms_db(batch.x_0[:, 0], model.spec), model.spec)
    assert (from_mel - batch.levels)[:, 8:-8].abs().max() < 1.5
    tones = batch.cond[:, 0] == 1
    assert tones.any()
    assert not tones.all()
    assert (batch.classes[tones] == 1).all()
    # And the samples are those under the clip: their log-mel is the clip but for its ends.
    audio = clips._audio(0, 0.5)[None]
    clip, _ = clips.clips.clip(0, 0.5)
    assert (log_mel(audio, model.spec) - clip)[..., 4:-4].abs().max() < 0.01


KILLED = replace(TINY, steps=40, batch_size=2, checkpoint_every=5, evaluate_every=1000)


def trained_in_a_process(model: Path, data: Path, out: Path) -> None:
    train_from_folder(KILLED, load(model, precision="float32"), data, out)


def test_a_killed_run_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    model = folder_model(tmp_path / "model")
    context = fresh_processes()

    def started(folder: str) -> Any:
        process = context.Process(
            target=trained_in_a_process, args=(model, data, tmp_path / folder)
        )
        process.start()
        return process

    whole = started("whole")
    for step in (8, 23):
        process = started("killed")
        while not any(row["step"] >= step for row in read_log(tmp_path / "killed" / "log.jsonl")):
            assert process.is_alive(), "the run ended before it was killed"
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -9
    for process in (started("killed"), whole):
        process.join()
        assert process.exitcode == 0
    for group in ("model", "ema", "optimizer"):
        assert_same(weights(tmp_path / "killed", group), weights(tmp_path / "whole", group))
