"""Heads of a flow's latent: trained by the command, used while optimising, saved with the model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.conftest import Command
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import PROMPT, make_stable_audio, noise_of

from ditto import cli
from ditto.audio.features import rms_db
from ditto.controls.base import Output
from ditto.controls.intensity import Intensity
from ditto.errors import ModelError
from ditto.methods import Ditto2, LatCH
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt, load
from ditto.models.profile import Rehearsal, describe_model
from ditto.request import Request
from ditto.runner import run
from ditto.training.heads import HeadsConfig, Pool, Setting, evaluated, new_heads

MAKERS = {"stable_audio_3": make_stable_audio_3, "ace_step": make_ace_step}
KINDS = {"stable_audio_3": "StableAudio3Pipeline", "ace_step": "AceStepPipeline"}
SECONDS = {"stable_audio_3": 0.4, "ace_step": 1.5}
RECIPE = {
    "features": ["loudness", "chroma"],
    "step": 1,
    "width": 16,
    "depth": 1,
    "pool": 32,
    "fresh": 1,
    "fresh_from": 40,
    "push_steps": 2,
    "steps": 60,
    "batch_size": 8,
    "lr": 1e-2,
    "warmup": 2,
    "ema": 0.8,
    "evaluate_every": 60,
}


@pytest.fixture(scope="module", params=MAKERS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A model's name, and a folder with it, songs and the heads' run, which the command made."""
    root, name = tmp_path_factory.mktemp("heads"), request.param
    adapt(MAKERS[name]()).save(root / "model")
    (root / "songs").mkdir()
    draws = np.random.default_rng(0)
    for i in range(3):  # of a level that moves
        level = np.interp(np.arange(24_000), np.arange(0, 24_001, 3000), draws.uniform(0, 0.4, 9))
        samples = level[:, None] * draws.standard_normal((24_000, 2))
        soundfile.write(root / "songs" / f"{i}.wav", samples.clip(-1, 1), 8000)
    (root / "recipe.json").write_text(json.dumps(RECIPE | {"seconds": SECONDS[name]}))
    words = ["ditto-music", "train", "heads", "--config", root / "recipe.json"]
    words += ["--model", root / "model", "--data", root / "songs", "--out", root / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*map(str, words), "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    return name, root


@pytest.fixture(scope="module")
def model(trained: tuple[str, Path]) -> PipelineModel:
    loaded = load(trained[1] / "model").with_heads(trained[1] / "run" / "heads")
    assert isinstance(loaded, PipelineModel)
    return replace(loaded, spec=replace(loaded.spec, clip_frames=40))


def test_the_command_teaches_heads_the_sound_of_the_latent(
    trained: tuple[str, Path], model: PipelineModel
) -> None:
    """A head errs half as much as one that is untrained, and the row of the log says how much."""
    config = HeadsConfig(**{k: tuple(v) if k == "features" else v for k, v in RECIPE.items()})
    setting = Setting(model, config.features)

    class Drawn:
        def batch(self, step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
            x_0 = torch.cat([noise_of(model, i) for i in range(batch_size)])
            return x_0, model.cond(PROMPT, batch_size)

    judged = Pool(setting, Drawn(), 16, seed=9)
    assert model.readers is not None
    before, after = (
        evaluated(new_heads(config, setting), judged),
        evaluated(model.readers.network, judged),
    )
    for figure in ("held_out_loudness_error_db", "held_out_chroma_kl"):
        assert after[figure] < 0.7 * before[figure], figure
    last = json.loads((trained[1] / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["held_out_loudness_error_db"] < before["held_out_loudness_error_db"]


class Decodings:
    """Counts what is decoded, and with what gradients."""

    def __init__(self, patch: pytest.MonkeyPatch, model: PipelineModel) -> None:
        self.count = self.graphs = 0
        decode = type(model).decode

        def counted(which: Any, x_0: torch.Tensor) -> torch.Tensor:
            self.count += 1
            self.graphs += torch.is_grad_enabled() and x_0.requires_grad
            return decode(which, x_0)

        patch.setattr(type(model), "decode", counted)


def test_the_decoder_runs_once_in_a_while(
    model: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the heads no gradient passes the decoder, and it decodes 3 times in place of 24."""
    control = Intensity("0:-20 0.2:-45")
    asked = Request(control, PROMPT, seed=4, iterations=24, method=Ditto2(corrections=8, lr=0.1))
    seen = Decodings(monkeypatch, model)
    result = run(asked, model)
    assert seen.graphs == 0
    whole = seen.count
    plain = Decodings(monkeypatch, model)
    run(asked, replace(model, readers=None))
    assert plain.graphs == 24
    assert whole <= 5 < plain.count
    first = run(replace(asked, iterations=1, method=Ditto2(corrections=0, lr=1e-6)), model)
    losses = [control(each.x_0, model).item() for each in (first, result)]
    assert losses[1] < losses[0]


def test_latch_guides_by_the_heads(model: PipelineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Decodings(monkeypatch, model)
    asked = Request(Intensity("0:-20 0.2:-45"), PROMPT, guidance=1.0, method=LatCH(steps=4))
    assert bool(run(asked, model).audio.isfinite().all())
    assert seen.graphs == 0


def test_what_is_read_is_the_feature_once_calibrated(model: PipelineModel) -> None:
    control, output = Intensity("swell"), Output(noise_of(model, 1), model)
    with torch.no_grad():
        calibrated = control.proxy().calibrate(output)
        torch.testing.assert_close(calibrated.loss(output), control.loss(output))
        read = model.read(output.x_0, "loudness")
    assert read is not None
    assert read.shape == rms_db(output.audio, model.spec).shape


def test_an_estimate_goes_through_the_heads_and_leaves_them_usable(model: PipelineModel) -> None:
    control = Intensity("swell")
    before = model.read(noise_of(model, 1), "loudness")
    asked = (model, None, 1, 1.0, control)
    cost, plain = (Rehearsal.of(*asked, proxy).ditto2() for proxy in (control.proxy(), control))
    assert cost is not None
    assert plain is not None
    assert cost < plain
    after = model.read(noise_of(model, 1), "loudness")
    torch.testing.assert_close(after, before)
    assert "heads      loudness, chroma" in describe_model(model)


def test_heads_are_saved_with_the_pipeline_and_checked(
    trained: tuple[str, Path], model: PipelineModel, tmp_path: Path
) -> None:
    folder = tmp_path / "whole"
    digest = model.save(folder)
    loaded = load(folder)
    assert loaded.sha256 == digest == load(trained[1] / "model").sha256
    assert loaded.readers is not None
    assert loaded.describe()["heads"] == loaded.readers.sha256
    x_0 = noise_of(model, 2)
    torch.testing.assert_close(loaded.read(x_0, "chroma"), model.read(x_0, "chroma"))
    other = adapt(make_stable_audio())
    with pytest.raises(ModelError, match="trained with another decoder"):
        other.with_heads(trained[1] / "run" / "heads")
    other.save(tmp_path / "other")
    index = json.loads((folder / "model_index.json").read_text())
    shutil.copytree(folder / "heads", tmp_path / "other" / "heads")
    file = tmp_path / "other" / "model_index.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"_ditto_heads": index["_ditto_heads"]})
    )
    with pytest.raises(ModelError, match="trained with another decoder") as wrong:
        load(tmp_path / "other")
    assert "\n" not in str(wrong.value)
    shutil.rmtree(folder / "heads")
    with pytest.raises(ModelError, match="incomplete: heads/"):
        load(folder)


def test_generate_takes_heads(trained: tuple[str, Path], ditto_music: Command) -> None:
    name, root = trained
    words = ["generate", "--model", root / "model", "--heads", root / "run" / "heads"]
    asked = ["--tags", "prompt=calm", "--loudness", "swell", "--seconds", SECONDS[name], "-K", 3]
    code, _, error = ditto_music(*words, *asked, "--low-memory", "-o", "out.wav")
    assert code == 0, error
    assert json.loads(Path("out.json").read_text())["model"]["heads"]
    code, _, error = ditto_music(*words[:-1], root / "model", *asked, "-o", "no.wav")
    assert code == 2
    assert error.splitlines()[-1].endswith(
        "is another kind of model than heads alone: a " + KINDS[name]
    )
