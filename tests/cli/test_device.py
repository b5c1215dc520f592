"""``--device`` and its like on the command line."""

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer

from ditto.cli import COMMANDS
from ditto.cli.models import EXAMPLES
from ditto.errors import ModelError
from ditto.methods.ditto import Ditto
from ditto.request import Request
from ditto.runner import HALF_REMEDY, run

WITHOUT = {
    "bench": "it says where the benchmarks are, which have a --device of their own, and runs none",
    "data compose": "a program composes, and FluidSynth plays",
    "data prepare": "it measures tempi and cuts recordings, in NumPy",
    "data shard": "it packs files with their mels, which must be the same wherever they are made",
    "train pack": "it copies averaged weights from run folders into a model folder",
    "train report": "it draws what a run has logged, and copies its samples",
}
"""Commands without `--device`, and why they need none."""


def commands() -> dict[str, Any]:
    """All commands by their words."""
    found: dict[str, Any] = {}

    def walk(words: str, given: Any) -> None:
        if hasattr(given, "commands"):
            for name, one in given.commands.items():
                walk(f"{words} {name}", one)
        else:
            found[words] = given

    for name, (module, _) in COMMANDS.items():
        whole = module if "." in module else f"ditto.cli.{module}"
        group: Any = typer.main.get_group(import_module(whole).app)
        walk(name, group.commands[name])
    return found


def test_every_command_that_loads_a_model_has_device() -> None:
    spelt = {words: {o for p in one.params for o in p.opts} for words, one in commands().items()}
    having = {words for words, options in spelt.items() if "--device" in options}
    assert commands().keys() - having == WITHOUT.keys()


def test_a_command_without_device_runs_no_network(
    ditto_music, composed, soundfont, tmp_path, monkeypatch
) -> None:
    """With a generation as the counter-example: it is stopped at its first network."""

    def refused(*_: object, **__: object) -> None:
        raise ModelError("a network was run")

    monkeypatch.setattr(torch.nn.Module, "__call__", refused)
    folder = tmp_path / "recordings"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(15 * 22_050)
    soundfile.write(folder / "noise.wav", noise, 22_050)
    shutil.copytree(composed, "composed")
    for command in (
        ("data", "compose", "--out", "new", "--count", 1, "--soundfont", soundfont),
        ("data", "prepare", folder, "--out", "prepared"),
        ("data", "shard", "composed", "--out", "shards"),
    ):
        code, _, error = ditto_music(*command)
        assert code == 0, error
    code, _, error = ditto_music("bench")
    assert (code, "a network was run" in error) == (2, False)
    code, _, error = ditto_music("generate", "-o", "out.wav")
    assert (code, "a network was run" in error) == (2, True)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", "there is no cuda device here"),
        ("cuda:7", "there is no cuda device here"),
        ("mps", "there is no mps device here"),
        ("tpu", "unknown device 'tpu'"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_one_line(ditto_music, model_folder, device, words) -> None:
    for command in (
        ("generate", "--model", model_folder, "-o", "out.wav"),
        ("models", model_folder),
        ("train", "base", "--data", "nothing"),
        ("distill", "ctm", "--teacher", model_folder),
    ):
        code, _, error = ditto_music(*command, "--device", device)
        assert code == 2
        assert error.count("\n") == 1
        assert words in error


def test_a_run_says_where_it_was_and_takes_the_options(ditto_music, model_folder) -> None:
    options = ("--device", "cpu", "--low-memory", "--decoder-precision", "bfloat16")
    code, _, error = ditto_music(
        *("generate", "--model", model_folder, "-o", "out.wav", "--loudness", "swell"),
        *("--method", "ditto", "-T", 2, "-K", 1, *options),
    )
    assert code == 0, error
    assert " s on cpu" in error
    code, _, error = ditto_music(
        "generate", "--model", model_folder, "-o", "b.wav", "--decoder-precision", "int8"
    )
    assert code == 2
    assert "unknown precision 'int8' of the decoder" in error


def test_float16_without_a_finite_gradient_is_one_line(
    ditto_music, model_folder, monkeypatch
) -> None:
    from ditto.controls.intensity import Intensity

    loss = Intensity.loss
    monkeypatch.setattr(Intensity, "loss", lambda self, o: loss(self, o) * torch.nan)
    code, _, error = ditto_music(
        *("generate", "--model", model_folder, "-o", "out.wav", "--loudness", "swell"),
        *("--method", "ditto", "-T", 1, "-K", 2, "--precision", "float16"),
    )
    assert code == 2
    assert error.count("\n") == 1
    assert "take --precision bfloat16 or float32" in error


def test_float16_that_overflows_later_keeps_the_best_so_far(
    ditto_music, model_folder, monkeypatch
) -> None:
    from ditto.controls.intensity import Intensity

    loss, heard = Intensity.loss, []

    def overflowing(self: Intensity, output: Any) -> torch.Tensor:
        heard.append(1)
        return loss(self, output) * (torch.nan if len(heard) > 1 else 1.0)

    monkeypatch.setattr(Intensity, "loss", overflowing)
    whole = ("generate", "--model", model_folder, "--loudness", "swell", "-T", 2)
    whole = (*whole, "--precision", "float16")
    code, _, error = ditto_music(*whole, "--method", "ditto", "-K", 4, "-o", "out.wav")
    assert code == 1, error  # as of every optimisation that broke off: a file, and a warning
    assert HALF_REMEDY in error
    report = json.loads(Path("out.json").read_text())
    assert len(report["loss"]) == 1
    (note,) = report["notes"]
    assert HALF_REMEDY in note
    assert note.startswith("clip 1: ")
    code, _, error = ditto_music(*whole, "--method", "none", "-o", "none.wav")
    assert code == 0, error
    # the best is what was heard first: x_T as it was drawn
    assert np.array_equal(soundfile.read("out.wav")[0], soundfile.read("none.wav")[0])


def test_one_clip_of_a_shared_batch_that_overflows_is_noted(
    tiny_model, together, monkeypatch
) -> None:
    """As on a graphics card, where the others of the batch go on."""
    from ditto.controls.intensity import Intensity

    loss = Intensity.loss
    spoilt = torch.tensor([1.0, torch.nan])
    monkeypatch.setattr(Intensity, "loss", lambda self, output: loss(self, output) * spoilt)
    model = replace(tiny_model, precision=torch.float16)
    asked = Request(Intensity("swell"), count=2, iterations=2, method=Ditto(steps=1))
    result = run(asked, model, compare=False)
    (note,) = result.notes
    assert note.startswith("clip 2: ")
    assert HALF_REMEDY in note
    assert torch.equal(result.losses.isnan(), torch.tensor([[False, True]] * 2))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
def test_auto_says_which_it_took(ditto_music, model_folder) -> None:
    code, _, error = ditto_music(
        *("generate", "--model", model_folder, "-o", "out.wav", "--method", "none", "-T", 1),
        *("--device", "auto"),
    )
    assert code == 0, error
    assert " s on cpu\n" in error
    assert json.loads(Path("out.json").read_text())["model"]["device"] == "cpu"


def test_too_little_memory_anywhere_is_one_line(ditto_music, model_folder, monkeypatch) -> None:
    from ditto.models.model import MusicModel

    def full(*_: object) -> None:
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(MusicModel, "to_sound", full)
    code, _, error = ditto_music("generate", "--model", model_folder, "-o", "out.wav")
    assert code == 2
    assert error.count("\n") == 1
    assert "cpu has not enough memory for a clip of 0.51 s" in error


def test_what_a_run_costs_is_estimated_of_every_control_that_is_offered(
    ditto_music, model_folder
) -> None:
    for control in EXAMPLES:
        words = "models", model_folder, "--estimate", "-T", 2, "--device", "cpu"
        code, out, error = ditto_music(*words, "--control", control)
        assert code == 0, error
        assert f"on         cpu, {control}" in out


def test_an_estimate_names_control_and_cards(ditto_music, model_folder) -> None:
    code, out, error = ditto_music(
        "models", model_folder, "--estimate", "-T", 2, "--control", "melody", "--device", "cpu"
    )
    assert code == 0, error
    assert "on         cpu, melody" in out
    assert "fits       8 GB: yes, 12 GB: yes, 24 GB: yes" in out
    code, _, error = ditto_music("models", model_folder, "--estimate", "--control", "dance")
    assert code == 2
    assert "there is no estimate of 'dance'" in error
    code, _, error = ditto_music("models", model_folder, "--model", "another")
    assert (code, "give the model once" in error) == (2, True)
    for option, value in (("--seconds", "inf"), ("--count", 0), ("-T", 0), ("-K", -1)):
        code, _, error = ditto_music("models", model_folder, "--estimate", option, value)
        assert (code, error.count("\n")) == (2, 1)
        assert f"not {value}" in error
