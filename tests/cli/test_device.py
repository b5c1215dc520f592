"""``--device`` and its like on the command line."""

from importlib import import_module
from typing import Any

import pytest
import torch
import typer

from ditto.cli import COMMANDS

WITHOUT = {"bench", "data compose", "data prepare", "data shard", "train pack", "train report"}
"""Commands that load no model and compute nothing with one."""


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
    assert commands().keys() - having == WITHOUT


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


def test_too_little_memory_anywhere_is_one_line(ditto_music, model_folder, monkeypatch) -> None:
    from ditto.models.model import MusicModel

    def full(*_: object) -> None:
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(MusicModel, "to_sound", full)
    code, _, error = ditto_music("generate", "--model", model_folder, "-o", "out.wav")
    assert code == 2
    assert error.count("\n") == 1
    assert "cpu has not enough memory for a clip of 0.51 s" in error


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
    for option, value in (("--seconds", "inf"), ("--count", 0), ("-T", 0), ("-K", -1)):
        code, _, error = ditto_music("models", model_folder, "--estimate", option, value)
        assert (code, error.count("\n")) == (2, 1)
        assert f"not {value}" in error
