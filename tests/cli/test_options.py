"""Options: every old spelling still works, and classes' settings are all there."""

import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from ditto.cli import COMMANDS
from ditto.cli.options import Options, method_settings, spans
from ditto.controls import CONTROLS, Intensity, Melody, StructureLike
from ditto.errors import ControlError, RequestError
from ditto.methods import METHODS
from ditto.methods.ditto2 import Ditto2

OLD: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "options_v01.json").read_text(encoding="utf-8")
)
"""Options of every command of version 0.1, spellings of one joined by "/"."""


def command(words: str) -> Any:
    """The real command of some words, with all its options."""
    first, *rest = words.split()
    found: Any = typer.main.get_group(
        import_module(f"ditto.cli.{COMMANDS[first][0]}").app
    ).commands[first]
    for word in rest:
        found = found.commands[word]
    return found


@pytest.mark.parametrize("words", OLD)
def test_every_option_of_the_first_version_is_still_taken(words: str) -> None:
    spelt = {name for p in command(words).params for name in (*p.opts, *p.secondary_opts)}
    # Arguments have a name of their own; it is their place that counts.
    old = {name for names in OLD[words] for name in names.split("/") if name.startswith("-")}
    assert old - spelt == set()


def test_every_setting_of_every_method_is_an_option_that_says_who_has_it() -> None:
    options = {p.name: p for p in command("generate").params}
    settings = {setting.field: setting for setting in method_settings()}
    for name, method in METHODS.items():
        for field in fields(method):
            setting = settings[field.name]
            assert name in setting.methods
            assert setting.about in options[setting.name].help
            assert setting.about


def test_every_control_has_its_options_in_every_command_that_makes_music() -> None:
    for words in ("generate", "inpaint", "outpaint", "loop"):
        spelt = {name for p in command(words).params for name in p.opts}
        for kind in CONTROLS:
            assert {f"--{kind}", f"--{kind}-during", f"--{kind}-weight"} <= spelt
        assert {"--loudness", "--loudness-like", "--loudness-during"} <= spelt


def options(**given: Any) -> Options:
    """Options of `generate` as they are if only some are given."""
    names = {p.name: p.default for p in command("generate").params if p.name}
    return Options(names | given)


def test_options_become_a_request() -> None:
    request = options(
        intensity="swell",
        intensity_during="1-2",
        intensity_loss="correlation",
        melody="C4:1 E4:1",
        tags="tempo=240",
        method="ditto2",
        surrogate_steps="adaptive",
        iterations=9,
        seed=4,
    ).request()
    loudness, melody = request.controls
    assert loudness == Intensity("swell", "correlation").during((1.0, 2.0))
    assert isinstance(melody, Melody)
    assert melody.tune.seconds == pytest.approx(0.5)
    assert request.method == Ditto2(surrogate_steps="adaptive")
    assert (request.iterations, request.seed, request.guidance) == (9, 4, None)


def test_weights_are_those_of_the_api() -> None:
    request = options(intensity="swell", intensity_weight=0.25, melody="C4:1").request()
    loudness, melody = Intensity("swell"), request.controls[1]
    assert request.control == loudness / 4 + melody
    during = options(intensity="swell", intensity_weight=2.0, intensity_during="1-2").request()
    assert during.control == loudness.during((1.0, 2.0)) * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bpm": 90.0}, "--bpm needs a melody to go with"),
        ({"intensity_during": "1-2"}, "--intensity-during needs a loudness curve to go with"),
        ({"intensity": "swell", "intensity_like": Path("a.wav")}, "give either --intensity or"),
        ({"intensity": "swell", "intensity_during": "now"}, "write seconds, from-to"),
        ({"melody_weight": 2.0}, "--melody-weight needs a melody to go with"),
        ({"clap": "x"}, "--clap needs a text to go with"),
    ],
)
def test_options_without_what_they_go_with_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ControlError, match=message):
        options(**given).request()


def test_a_setting_of_another_method_names_the_methods_own() -> None:
    with pytest.raises(RequestError, match="freedom has no setting decode_steps: it has steps"):
        options(intensity="swell", method="freedom", decode_steps=3).request()


def test_spans_are_read() -> None:
    assert spans("0-1.5, 4-6", "--x") == ((0.0, 1.5), (4.0, 6.0))
    assert StructureLike.kind == "structure"
