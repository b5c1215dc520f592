"""What ends an optimisation early, and which method the settings of a command line mean."""

import json
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.conftest import Command
from torch import Tensor

from ditto.cli.optimising import Optimisation
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.regions import Region, SelfLoop
from ditto.models.model import MusicModel
from ditto.optimize import Step

OUTPAINT = "outpaint", "song.wav", "--seconds", 1.5, "--overlap", 0.2


@pytest.fixture
def run(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    """A command on the tiny model, beside a recording ``song.wav`` of 1.2 s."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    soundfile.write(tmp_path / "song.wav", samples, 8000)
    return lambda *arguments: ditto_music(*arguments, "--model", model_folder)


def report(name: str) -> dict:
    return json.loads(Path(name).read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_best_so_far(
    run: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(self: Optimisation, step: Step) -> None:
        self.steps += 1
        if step.i == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Optimisation, "watch", interrupted)
    before = signal.getsignal(number)
    code, _, err = run("generate", "--loudness", "swell", "-K", 9, "-T", 2, "-o", "out.wav")
    assert code == 130, err
    assert "this is the best of 2 iterations" in err
    assert len(report("out.json")["loss"]) == 2
    assert signal.getsignal(number) is before


def test_a_signal_before_the_first_step_keeps_nothing(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("ditto.cli.generate.Run", interrupted)
    code, _, err = run("generate", "--loudness", "swell", "-o", "out.wav")
    assert (code, err) == (130, "stopped; nothing half-written was kept\n")
    assert not Path("out.wav").exists()


def test_a_second_signal_ends_at_once(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Optimisation, step: Step) -> None:
        self.steps += 1
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Optimisation, "watch", interrupted)
    assert run("generate", "--loudness", "swell", "-K", 9, "-T", 2, "-o", "out.wav")[0] == 130
    assert not Path("out.wav").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["generate", OUTPAINT])
def test_a_signal_while_files_are_written_waits_for_the_last(
    run: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, command: str | tuple
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        os.kill(os.getpid(), number)

    words = (command,) if isinstance(command, str) else command
    home = "ditto.result" if command == "generate" else "ditto.edit.result"
    original = import_module(home).write
    monkeypatch.setattr(f"{home}.write", interrupted)
    code, _, err = run(*words, "-K", 1, "-T", 2, "-o", "out.wav")
    assert code == 130, err
    assert {"out.wav", "out.png", "out.json"} <= {path.name for path in Path().iterdir()}
    assert not [path for path in Path().iterdir() if path.name.startswith(".ditto-")]


def test_a_signal_finishes_an_edit_with_the_best_so_far(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Optimisation.progress

    def interrupted(self: Optimisation, window: int, windows: int, step: Step) -> None:
        original(self, window, windows, step)
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Optimisation, "progress", interrupted)
    code, _, err = run(*OUTPAINT, "-K", 9, "-T", 2, "-o", "longer.wav")
    assert code == 130, err
    assert "this is the best of 1 iterations" in err
    assert soundfile.info("longer.wav").frames == 12_000


def test_a_gradient_that_is_not_finite_keeps_the_best_so_far(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def loss(self: Intensity, output: Output) -> Tensor:
        calls.append(output)
        return original(self, output) * (float("nan") if len(calls) > good else 1.0)

    original = Intensity.loss
    monkeypatch.setattr(Intensity, "loss", loss)
    words, good = ("generate", "--loudness", "swell", "-K", 9, "-T", 2), 3
    code, _, err = run(*words, "-o", "out.wav")
    assert code == 1
    assert "this is the best of 3 iterations" in err
    assert len(report("out.json")["loss"]) == 3
    good = 0
    code, _, err = run(*words, "-o", "none.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("none.wav").exists()


@pytest.mark.parametrize(
    ("words", "poisoned", "note"),
    [
        (OUTPAINT, Region, "window 1 of 1: clip 1: a loss or"),
        (("invert", "song.wav"), Region, "clip 1: a loss or"),
        (("loop", "--seconds", 0.4, "--overlap", 0.1), SelfLoop, "clip 1: a loss or"),
        (
            ("generate", "--seconds", 1.6, "--method", "ditto"),
            Region,
            "window 2 of 4: clip 1: a loss or",
        ),
    ],
    ids=["outpaint", "invert", "loop", "song"],
)
def test_an_edit_whose_window_fails_is_whole_and_says_so_by_its_exit_code(
    run: Command, monkeypatch: pytest.MonkeyPatch, words: Any, poisoned: Any, note: str
) -> None:
    calls, original = [], poisoned.loss

    def loss(self: Any, output: Output) -> Tensor:
        calls.append(output)
        return original(self, output) * (float("nan") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(poisoned, "loss", loss)
    output = "out.latent" if words[0] == "invert" else "out.wav"
    code, _, err = run(*words, "-K", 9, "-T", 2, "-o", output)
    assert code == 1, err
    assert note in err
    assert Path(output).exists()


def test_settings_do_not_turn_an_edit_into_plain_sampling(run: Command) -> None:
    code, _, err = run(*OUTPAINT, "-K", 2, "-T", 2, "--lr", 0.01, "-o", "out.wav")
    assert code == 0, err
    part = report("out.json")["parts"][0]
    method = part["request"]["method"]
    assert (method["name"], method["steps"], method["lr"]) == ("ditto", 2, 0.01)


def test_settings_choose_among_the_default_methods(
    ditto_music: Command, student_model: MusicModel, tmp_path: Path
) -> None:
    student_model.save(tmp_path / "model")
    words = "generate", "--loudness", "swell", "-K", 2, "--model", "model"
    for name, settings in {"ditto2": ("--decode-steps", 3), "ditto": ("-T", 2)}.items():
        code, _, err = ditto_music(*words, *settings, "-o", f"{name}.wav")
        assert code == 0, err
        assert report(f"{name}.json")["request"]["method"]["name"] == name
        assert ("the method is ditto, for the sake of steps" in err) == (name == "ditto")
    code, _, err = ditto_music(*words, "-T", 2, "--decode-steps", 3, "-o", "both.wav")
    assert code == 2
    assert "the method ditto2 has no setting steps: it has" in err


def test_what_a_training_returns_is_shown(
    ditto_music: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_clap(config: object, data: Path, out: Path, *, held_out: Path | None) -> Path:
        return out / "clap"

    monkeypatch.setattr("ditto.training.clap.train_clap", train_clap)
    assert ditto_music("train", "clap", "--config", "clap-judge")[:2] == (0, "runs/clap/clap\n")
