"""A wish is one thing in three spellings: its request, its command and its Python agree."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import ditto
from ditto import cli
from ditto.cli import generate as generate_command
from ditto.cli import options
from ditto.edit import edits, loops, variations
from ditto.edit.timeline import Timeline
from ditto.errors import ControlError, DittoError, RequestError
from ditto.latents import Latent
from ditto.models.model import MusicModel
from ditto.optimize import never
from ditto.request import Request
from ditto.studio.wishes import EditWish, Generate, Vary, read_wish


class CaughtError(Exception):
    """What would have been done."""


def caught(*args: Any, **kwargs: Any) -> Any:
    raise CaughtError(args, kwargs)


@pytest.fixture
def model(student_model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> MusicModel:
    """The tiny model, which the command line and `ditto.load` load too."""
    monkeypatch.setattr(options, "load", lambda *_, **__: student_model)
    monkeypatch.setattr(ditto, "load", lambda: student_model, raising=False)
    return student_model


def by_command(line: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Any, Any]:
    """Return what a command line hands on."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(generate_command, "carry_out", caught)
    for module, name in (
        *((edits, "inpaint"), (edits, "outpaint")),
        *((loops, "loop"), (loops, "loop_recording")),
        (variations, "vary"),
    ):
        monkeypatch.setattr(module, name, caught)
    with pytest.raises(CaughtError) as done:
        cli.app(shlex.split(line)[1:], standalone_mode=False)
    return done.value.args[0], done.value.args[1]


def by_python(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return what a snippet hands to a function of Ditto's."""
    monkeypatch.setattr(ditto, name, caught, raising=False)
    with pytest.raises(CaughtError) as done:
        exec(text, {})
    return done.value.args[0], done.value.args[1]


WISHES = [
    {},
    {"tags": "genre=jazz mood=calm tempo=110", "loudness": {"text": "0:-36.5 0.3:-14"}, "seed": 7},
    {
        "tags": "tempo=90",
        "melody": {"text": "C4:1 R:0.5 F#4:0.25", "during": "0-0.2, 0.3-0.4"},
        "structure": {"text": "A:2 B:4 A:2", "weight": 0.5},
        "loudness": {"text": "swell", "weight": 0.025},
        "brightness": {"text": "0:700 0.5:2800"},
        "iterations": 9,
        "guidance": 1.25,
        "method": "ditto",
        "seconds": 0.4,
    },
    {"melody": {"text": "C4 E4"}, "text": {"text": "it's a 'calm' trio"}},
    {"chords": {"text": "Am:4 F:2 C"}, "tags": "tempo=90"},
    {"beats": {"text": "96.5", "during": "0.1-0.4", "weight": 0.5}, "tags": "tempo=90"},
    {"loudness": {"text": "swell", "weight": 0.12345678}, "seconds": 0.41234567},
    {"melody": {"text": "C4 E4"}, "tags": "tempo=101.23456"},
]


@pytest.mark.parametrize("values", WISHES)
def test_a_clip_is_the_same_in_all_spellings(
    values: dict, model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wish = read_wish(Generate, values)
    request = wish.request(model.spec, seconds=wish.seconds)
    (commanded, _), _ = by_command(wish.command(), monkeypatch, tmp_path)
    assert same(commanded) == same(request)
    _, keywords = by_python(wish.python(model), "generate", monkeypatch)
    assert same(Request(**keywords)) == same(request)


SONG = {
    "seconds": 1.2,
    "fade": 0.25,
    "seed": 3,
    "iterations": 1,
    "loudness": {"text": "0:-40 1.1:-15", "weight": 0.5},
    "structure": {"text": "AB"},
}


def test_a_song_is_the_same_samples_in_all_spellings(
    model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wish = read_wish(Generate, SONG)
    assert wish.long(model)
    made = wish.song(model, lambda *_: None, never)
    made.save(tmp_path / "wish.wav")
    expected = soundfile.read(tmp_path / "wish.wav", dtype="int16")[0]
    assert len(expected) == 9600
    assert np.abs(expected[-400:]).max() < 0.2 * np.abs(expected[-2000:]).max()
    for name, spelling in (
        ("command", lambda: cli.app(shlex.split(wish.command())[1:], standalone_mode=False)),
        ("python", lambda: exec(wish.python(model), {})),
    ):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        spelling()
        found = soundfile.read("out.wav", dtype="int16")[0]
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_what_is_no_song_does_not_fade(model: MusicModel) -> None:
    wish = read_wish(Generate, {"fade": 1, "seconds": 0.4})
    with pytest.raises(RequestError, match="a fade goes with music of several windows"):
        wish.python(model)


def same(request: Request) -> Any:
    """Return what two equal requests have in common; names of tunes and curves are not compared."""
    described = request.to_dict()
    for control in described["controls"]:
        for term in control.get("terms", [control]):
            term.pop("curve", None)
            term.pop("tune", None)
            term.pop("understood", None)
    return described


EDITS = [
    ({"kind": "inpaint", "regions": [(0.2, 0.3), (0.4, 0.55)], "overlap": 0.1}, "inpaint"),
    ({"kind": "outpaint", "seconds": 1.5, "backwards": True, "tags": "tempo=100"}, "outpaint"),
    ({"kind": "outpaint", "seconds": 1.25, "beat": 2.5, "tags": "tempo=100"}, "outpaint"),
    ({"kind": "inpaint", "regions": [(0.2123456, 0.3123456)], "overlap": 0.1234567}, "inpaint"),
    ({"kind": "outpaint", "seconds": 1.2345678, "beat": 1 / 3}, "outpaint"),
    ({"kind": "loop", "bpm": 120, "bars": 2, "repeats": 3}, "loop_recording"),
    ({"kind": "loop", "bpm": 234.56789, "bars": 1, "melody": {"text": "C4"}}, "loop"),
    ({"kind": "loop", "bpm": 123.45678, "seconds": 2, "melody": {"text": "C4"}}, "loop_recording"),
    ({"kind": "loop", "seconds": 2.0, "tags": "genre=jazz"}, "loop_recording"),
    ({"kind": "loop", "bpm": 480 / 2, "bars": 1, "recording": None, "seed": 5}, "loop"),
    (
        {
            "kind": "inpaint",
            "regions": [(0.2, 0.3)],
            "overlap": 0.1,
            "loudness": {"text": "crescendo", "during": "0-0.3"},
            "melody": {"text": "C4:1 R:0.5 E4", "weight": 0.5},
            "tags": "tempo=90",
        },
        "inpaint",
    ),
    ({"kind": "outpaint", "seconds": 1.5, "loudness": {"text": "0:-30 1.5:-10"}}, "outpaint"),
    ({"kind": "loop", "bpm": 240, "bars": 1, "melody": {"text": "C4 E4"}}, "loop"),
    ({"kind": "loop", "bpm": 150, "bars": 1, "melody": {"text": "C4"}}, "loop_recording"),
    (
        {
            "kind": "loop",
            "bpm": 150,
            "bars": 1,
            "beats": {"text": "150"},
            "chords": {"text": "Am:4 F:2"},
            "brightness": {"text": "0:700 1:2800", "during": "0-1"},
            "text": {"text": "it's calm"},
        },
        "loop_recording",
    ),
    (
        {
            "kind": "loop",
            "bpm": 240,
            "bars": 1,
            "chords": {"text": "C:2 G:2"},
            "melody": {"text": "C4"},
            "structure": {"text": "AB"},
        },
        "loop",
    ),
]


@pytest.mark.parametrize(("values", "verb"), EDITS)
def test_an_edit_is_the_same_in_all_spellings(
    values: dict, verb: str, model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = None if verb == "loop" else "-my song.wav"
    recording = None if name is None else Path(name)
    monkeypatch.chdir(tmp_path)
    if name is not None:
        soundfile.write(name, 0.1 * np.random.default_rng(0).standard_normal(9600), 8000)
    wish = read_wish(EditWish, values)
    line, text = wish.command(name), wish.python(model, name)
    commanded, keywords = by_command(line, monkeypatch, tmp_path)
    with pytest.raises(CaughtError) as done:
        wish.edit(model, recording, lambda *_: None, lambda _: False)
    made, more = done.value.args

    def plain(args: Any, settings: dict) -> tuple[Any, Any]:
        kept = {key: settings[key] for key in settings if key not in ("progress", "stop", "halt")}
        kept = {key: value for key, value in kept.items() if (key, value) != ("begin", None)}
        # The command has read the recording already.
        rest = [a.name if isinstance(a, Timeline | Path) else a for a in args[1:]]
        rest = [same(a) if isinstance(a, Request) else a for a in rest]
        if verb == "inpaint" and kept.get("overlap") is None:
            kept["overlap"] = 1.0
        if verb == "outpaint":
            kept.setdefault("overlap", 1.0)
        return rest, kept

    assert plain(commanded, keywords) == plain(made, more)
    args, settings = by_python(text, verb, monkeypatch)
    request = next(one for one in made if isinstance(one, Request))
    own = {key: settings.pop(key) for key in list(settings) if key in Request.__dataclass_fields__}
    if verb in ("outpaint", "loop_recording", "loop") and "seconds" in own:
        settings["seconds"] = own.pop("seconds")
    assert same(Request(**own)) == same(request)
    seconds = wish.length()
    if seconds is not None:
        assert settings["seconds"] == seconds
    if verb == "inpaint":
        assert args[2] == [tuple(region) for region in wish.regions]
    assert settings.get("repeats", 1) == wish.repeats


def test_variations_are_the_same_in_all_spellings(
    model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Latent(torch.zeros(1, 1, 16, 64), model.sha256).save("a b.latent")
    wish = read_wish(Vary, {"latent": "x", "count": 3, "tags": "genre=rock", "seed": 4, "steps": 5})
    with monkeypatch.context() as patch:
        _, commanded = by_command(wish.command("a b.latent"), patch, tmp_path)
        with pytest.raises(CaughtError) as done:
            wish.vary(model, Path("a b.latent"))
        _, made = done.value.args
    assert commanded == made
    _, snippet = by_python(wish.python("a b.latent"), "vary", monkeypatch)
    assert snippet == {key: value for key, value in made.items() if key != "how"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "x"}, "seed: input should be a valid integer"),
        ({"sed": 1}, "sed: extra inputs are not permitted"),
        ({"iterations": 10_000}, "iterations: input should be less than or equal to 500"),
        ({"loudness": {"text": "swell", "weight": float("nan")}}, "loudness weight: input"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"tags": "genre"}, "cannot read the tag"),
        ({"loudness": {"text": "swell", "during": "now"}}, "when the loudness counts"),
    ],
)
def test_a_wrong_wish_is_one_line(values: dict, message: str, model: MusicModel) -> None:
    with pytest.raises(DittoError, match=message) as error:
        read_wish(Generate, values).request(model.spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("loudness", "/etc/curve.csv"),
        ("brightness", "curve.CSV"),
        ("melody", "/etc/tune.mid"),
        ("melody", "song.wav"),
        ("loudness", "song.wav"),
        ("loudness", "song.wav/"),
        ("loudness", "levels.txt"),
        ("brightness", "/etc/levels.TSV"),
        ("structure", "song.Flac"),
        ("structure", "song.Flac/."),
        ("brightness", "/etc/song.m4a"),
        ("beats", "drums.mid"),
        ("beats", "drums.mid/"),
        ("beats", "song.wav"),
    ],
)
def test_no_text_names_a_file_of_the_server(
    word: str, text: str, model: MusicModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("song.wav", "song.Flac"):  # which are there, and could be read
        soundfile.write(name, 0.1 * np.random.default_rng(0).standard_normal(9600), 8000)
    Path("levels.txt").write_text("0 -30\n1 -20\n")
    wish = read_wish(Generate, {word: {"text": text}})
    with pytest.raises(
        ControlError, match=r"not the name of a file|cannot read '.*' in the melody"
    ):
        wish.request(model.spec)


def test_what_an_edit_lacks_is_said(model: MusicModel) -> None:
    for values, message in (
        ({"kind": "inpaint"}, "give a recording first"),
        ({"kind": "loop"}, "give the loop's length"),
        ({"kind": "loop", "bars": 2}, "give bars together with bpm"),
    ):
        with pytest.raises(RequestError, match=message):
            read_wish(EditWish, values).edit(model, None, lambda *_: None, lambda _: False)
