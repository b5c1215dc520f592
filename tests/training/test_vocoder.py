"""The vocoder's recipe: losses fall, a killed run resumes bit for bit, exports load, mistakes are
one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.errors import DataError, OutputError
from ditto.models.vocoder import Vocoder
from ditto.training.discriminators import (
    Discriminators,
    Verdict,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from ditto.training.loop import RECIPES, load_config, read_log
from ditto.training.vocoder import VocoderConfig, load_vocoder, split_crop, train_vocoder

NETWORK = {
    "sample_rate": 8000,
    "mel_n_fft": 256,
    "hop": 64,
    "n_mels": 16,
    "n_fft": 256,
    "width": 16,
    "depth": 1,
}
TINY = VocoderConfig(
    network=NETWORK,
    discriminators={"periods": [2], "windows": [128], "channels": 2},
    crop_frames=40,
    steps=6,
    batch_size=2,
    adversarial_from=4,
    warmup=1,
    final_lr=1.0,
    log_every=1,
    checkpoint_every=2,
    evaluate_every=100,
)


class Notes:
    """Decaying notes over a little noise, drawn from the step."""

    def __init__(self, samples: int, only_step: int | None = None) -> None:
        self.samples, self.only_step = samples, only_step

    def batch(self, step: int, batch_size: int) -> Tensor:
        rng = np.random.default_rng(step if self.only_step is None else self.only_step)
        seconds = np.arange(self.samples) / 8000
        hertz, start = rng.uniform(100, 1500, (batch_size, 1)), rng.uniform(0, 0.2, (batch_size, 1))
        notes = np.sin(2 * np.pi * hertz * seconds) * np.exp(-4 * np.abs(seconds - start))
        return torch.from_numpy(0.3 * notes + 0.01 * rng.normal(size=notes.shape)).float()


def weights(vocoder: Vocoder) -> dict[str, Tensor]:
    return dict(vocoder.named_parameters())


def test_a_few_steps_lower_the_loss_on_one_batch(tmp_path: Path) -> None:
    # without feedback, which mends much of what an untrained network does wrong
    changes = {
        "network": {**NETWORK, "feedback": 0},
        "steps": 25,
        "adversarial_from": 25,
        "lr": 5e-3,
    }
    config = VocoderConfig(**{**vars(TINY), **changes, "gain_db": (0.0, 0.0)})
    train_vocoder(config, Notes(config.crop_samples, only_step=0), tmp_path, show=False)
    losses = [row["loss"] for row in read_log(tmp_path / "log.jsonl") if "loss" in row]
    assert len(losses) == 25
    assert losses[-1] < 0.75 * losses[0]


def test_adversarial_steps_move_the_discriminators_and_log_their_losses(tmp_path: Path) -> None:
    config = VocoderConfig(**{**vars(TINY), "steps": 2, "adversarial_from": 1})
    train_vocoder(config, Notes(config.crop_samples), tmp_path, show=False)
    rows = [row for row in read_log(tmp_path / "log.jsonl") if "loss" in row]
    assert ["adversarial" in row for row in rows] == [False, True]
    before = config.make_discriminators().state_dict()
    after = load_file(tmp_path / "step-00000002" / "discriminators.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_vocoder import TINY, Notes
from ditto.training.vocoder import train_vocoder

class Slow(Notes):
    def batch(self, step, batch_size):
        if step == 5:
            Path(sys.argv[2], "reached").touch()
            time.sleep(60)
        return super().batch(step, batch_size)

train_vocoder(TINY, Slow(TINY.crop_samples), Path(sys.argv[2]), show=False)
"""


def test_a_run_killed_in_the_adversarial_phase_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train_vocoder(TINY, Notes(TINY.crop_samples), tmp_path / "whole", show=False)
    out = tmp_path / "killed"
    out.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(out)], env=environment
    )
    deadline = time.monotonic() + 120
    while not (out / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert sorted(p.name for p in out.glob("step-*")) == ["step-00000002", "step-00000004"]
    resumed = train_vocoder(TINY, Notes(TINY.crop_samples), out, show=False)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    assert [row["step"] for row in read_log(out / "log.jsonl") if "loss" in row] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_averaged_weights_are_what_ships_and_differ_from_the_raw(tmp_path: Path) -> None:
    trained = train_vocoder(TINY, Notes(TINY.crop_samples), tmp_path / "run", show=False)
    raw = load_file(tmp_path / "run" / "step-00000006" / "model.safetensors")
    assert any(not torch.equal(value, raw[name]) for name, value in weights(trained).items())
    loaded = load_vocoder(tmp_path / "run")
    for name, value in weights(trained).items():
        assert torch.equal(value, weights(loaded)[name]), name
    assert not loaded.training


def test_a_run_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no checkpoint yet.*train longer$"):
        load_vocoder(tmp_path)


def test_the_committed_config_loads_and_an_unknown_key_is_one_line(tmp_path: Path) -> None:
    committed = RECIPES / "vocoder.json"
    config = load_config(committed, VocoderConfig)
    assert config.make_network().spec == AudioSpec()
    config.make_discriminators()
    values = json.loads(committed.read_text())
    (tmp_path / "c.json").write_text(json.dumps({**values, "learning_rat": 1}))
    with pytest.raises(
        DataError, match="learning_rat: Unexpected keyword argument; known are adversarial_from"
    ) as caught:
        load_config(tmp_path / "c.json", VocoderConfig)
    assert "\n" not in str(caught.value)


def test_crops_of_another_length_and_another_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="crops of"):
        train_vocoder(TINY, Notes(100), tmp_path / "a", show=False)
    train_vocoder(
        VocoderConfig(**{**vars(TINY), "steps": 1}),
        Notes(TINY.crop_samples),
        tmp_path / "b",
        show=False,
    )
    with pytest.raises(OutputError, match="another lr"):
        train_vocoder(
            VocoderConfig(**{**vars(TINY), "lr": 2e-3}),
            Notes(TINY.crop_samples),
            tmp_path / "b",
            show=False,
        )


def test_a_crops_mel_sees_real_sound_beyond_its_ends() -> None:
    spec = AudioSpec()
    audio = torch.randn(1, 60 * 256, generator=torch.Generator().manual_seed(0)) * 0.1
    x_0, target = split_crop(audio[:, 10 * 256 : 50 * 256], spec)
    assert torch.equal(target, audio[:, 14 * 256 : 46 * 256])
    assert torch.allclose(x_0, log_mel(audio, spec)[..., 14:46], atol=1e-5)


def test_discriminator_losses_are_the_hinge_and_relative_l1() -> None:
    real, fake = (
        [Verdict(torch.tensor([2.0, 0.5]), [torch.tensor([1.0, 3.0])])],
        [Verdict(torch.tensor([-0.5]), [torch.tensor([2.0, 3.0])])],
    )
    assert discriminator_loss(real, fake).item() == pytest.approx(0.25 + 0.5)
    assert adversarial_loss(fake).item() == pytest.approx(0.5)
    assert feature_matching_loss(real, fake).item() == pytest.approx(0.5 / 2)


def test_discriminators_judge_alike_at_any_level() -> None:
    torch.manual_seed(0)
    judges, audio = Discriminators(channels=2), torch.randn(2, 4096)
    level = audio.square().mean(dim=1, keepdim=True).sqrt()
    for loud, quiet in zip(judges(audio, level), judges(0.1 * audio, 0.1 * level), strict=True):
        assert torch.allclose(loud.score, quiet.score, atol=1e-3)
