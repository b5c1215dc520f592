"""Names and prompts as people have them: any bytes, scripts, markup, either Unicode form."""

import json
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
from tests.conftest import Command

import ditto
from ditto import paths, plots
from ditto.audio.io import read_tags
from ditto.cli.progress import say
from ditto.data.prepare import read_tags_csv
from ditto.errors import OutputError
from ditto.models.model import MusicModel

RATE = 8000


@pytest.fixture
def run(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    """A command on the tiny model, beside a recording ``song.wav`` of 1.2 s in stereo."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (9600, 2))
    soundfile.write(tmp_path / "song.wav", samples, RATE)
    return lambda *words: ditto_music(*words, "--model", model_folder, "-K", 2, "-T", 2)


NAMES = (
    "caf\udce9.wav",
    "Ba$$in.wav",
    "夜曲 [remix].wav",
    "[b].wav",
    "x[/b].wav",
    "[/x [/b] a].wav",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_other_bytes_and_scripts_with_dollars_and_markup(run: Command, name: str) -> None:
    out = str(Path(name).with_stem(f"o{Path(name).stem}"))
    Path(name).parent.mkdir(parents=True, exist_ok=True)  # "[/b]" is a folder's end too
    Path("song.wav").rename(name)
    words = "--from", 0.5, "--to", 0.6, "--overlap", 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, _, err = run("inpaint", name, *words, "-o", out)
    assert code == 0, err
    assert paths.printable(out) in err
    recording = json.loads(Path(out).with_suffix(".json").read_text())["recording"]
    assert recording == paths.printable(Path(name).name)
    code, _, err = run("inpaint", name, *words, "-o", out)
    assert (code, err.count("\n")) == (2, 1)
    assert paths.printable(out) in err


@pytest.mark.parametrize("line", ["[/b] [remix]", "[bold]a[/bold] [/]", "error: [red]x[/b].wav"])
@pytest.mark.parametrize("style", [None, "bold red"])
def test_lines_are_said_verbatim(
    capfd: pytest.CaptureFixture[str], line: str, style: str | None
) -> None:
    say(line, style=style)
    assert capfd.readouterr().err == f"{line}\n"


def test_prompts_of_any_length_and_kind_go_into_tags(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    made = ditto.generate(tiny_model, method=ditto.Uncontrolled(steps=1))
    for prompt in ("$x_1$ and $$", "é" * 3000, "\udce9 \\frac{1}"):
        object.__setattr__(made.request.tags, "prompt", prompt)
        made.save(tmp_path / "a.wav", force=True)
        assert len(read_tags(tmp_path / "a.wav")["title"].encode()) <= 2000


def test_titles_are_not_mathematics(tmp_path: Path) -> None:
    figure = plots._figure(2, 2)
    figure.suptitle("$\\undefined{ 夜")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots._save(figure, tmp_path / "a.png", force=False)


# An accented letter is one character or two (NFC, NFD): a Mac's files and keyboards differ.


FORMS = pytest.mark.parametrize(("typed", "kept"), [("NFC", "NFD"), ("NFD", "NFC")])


def named(form: Any, ending: str) -> Path:
    return Path(unicodedata.normalize(form, f"ö/Frédéric{ending}"))


def midi(path: Path) -> None:
    file = mido.MidiFile()
    notes = [mido.Message(kind, note=67, time=480) for kind in ("note_on", "note_off")]
    file.tracks.append(mido.MidiTrack(notes))
    file.save(path)


def score(path: Path) -> None:
    path.write_text(
        '<score-partwise version="3.1"><part-list><score-part id="P1"><part-name>a</part-name>'
        '</score-part></part-list><part id="P1"><measure number="1"><attributes><divisions>1'
        "</divisions></attributes><note><pitch><step>G</step><octave>4</octave></pitch><duration>4"
        "</duration><type>whole</type></note></measure></part></score-partwise>"
    )


def table(path: Path) -> None:
    path.write_text("0,-30\n0.4,-20\n")


@FORMS
@pytest.mark.parametrize(
    ("option", "ending", "write"),
    [
        ("--melody", ".mid", midi),
        ("--melody", ".song", midi),  # which is known by what it holds
        ("--melody", ".musicxml", score),
        ("--melody", ".tune", score),
        ("--loudness", ".csv", table),
        ("--loudness", ".txt", table),
    ],
)
def test_scores_midi_and_tables_are_found_in_the_other_form(
    run: Command, option: str, ending: str, write: Callable[[Path], None], typed: str, kept: str
) -> None:
    named(kept, ending).parent.mkdir()
    write(named(kept, ending))
    assert not named(typed, ending).exists()
    code, _, err = run("generate", option, named(typed, ending), "-o", "a.wav")
    assert code == 0, err
    (control,) = json.loads(Path("a.json").read_text())["request"]["controls"]
    if option == "--melody":
        assert [pitch for _, _, pitch in control["notes"]] == [67]
    else:
        assert [point[0] for point in control["points"]] == [0, 0.4]


@FORMS
def test_latents_reports_and_requests_are_found_in_the_other_form(
    run: Command, ditto_music: Command, model_folder: Path, typed: str, kept: str
) -> None:
    named(kept, "").parent.mkdir()
    sound, latent = named(kept, ".wav"), named(kept, ".latent")
    assert run("generate", "--loudness", "swell", "--latent", latent, "-o", sound)[0] == 0
    named(kept, ".jsonl").write_text('{"loudness": "swell", "steps": 2, "iterations": 2}')
    code, _, err = run("generate", "--start", named(typed, ".latent"), "-o", "a.wav")
    assert code == 0, err
    for words in (
        ("again", named(typed, ".wav")),
        ("again", named(typed, ".json")),
        ("vary", named(typed, ".latent"), "--count", 1, "-T", 2, "-o", "v"),
        ("batch", named(typed, ".jsonl"), "--out", "clips"),
    ):
        code, _, err = ditto_music(*words, "--model", model_folder)
        assert code == 0, err


@FORMS
def test_tags_name_recordings_in_either_form(tmp_path: Path, typed: str, kept: str) -> None:
    (tmp_path / named(kept, ".wav")).parent.mkdir()
    (tmp_path / named(kept, ".wav")).touch()
    table = tmp_path / named(kept, ".csv")
    table.write_text(f"file,mood\n{named(typed, '.wav').as_posix()},happy\n")
    rows = read_tags_csv(tmp_path / named(typed, ".csv"), tmp_path)
    assert list(rows) == [named(kept, ".wav").as_posix()]


@FORMS
@pytest.mark.parametrize("out", ["NFC", "NFD"])
def test_a_recording_named_in_another_form_is_not_replaced_by_its_edit(
    run: Command, tiny_model: MusicModel, typed: str, kept: str, out: str
) -> None:
    song = Path("song.wav").rename(named(kept, ".wav").name)
    before = song.read_bytes()
    words = "--from", 0.5, "--to", 0.6, "--overlap", 0.2, "--force"
    code, _, err = run("inpaint", named(typed, ".wav").name, *words, "-o", named(out, ".wav").name)
    assert (code, err.count("\n")) == (2, 1), err
    assert song.read_bytes() == before
    quick = ditto.Request(iterations=1, method=ditto.Ditto(steps=1))
    edit = ditto.inpaint(tiny_model, named(typed, ".wav").name, [(0.5, 0.6)], quick, overlap=0.2)
    with pytest.raises(OutputError, match="reads it, choose another name"):
        edit.save(named(out, ".wav").name, force=True)
    assert song.read_bytes() == before
