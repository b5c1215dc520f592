"""What a melody's text may be, and where in a recording a control begins."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.audio.spec import AudioSpec
from ditto.controls import Intensity, Melody, Structure, StructureLike
from ditto.controls.base import ParseContext
from ditto.controls.notes import parse_notes
from ditto.controls.tunes import parse_melody
from ditto.errors import AudioFileError, ControlError

SPEC = AudioSpec()


def sine(hertz: float, seconds: float, rate: int = 22_050) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def late(tmp_path: Path) -> Path:
    """Six seconds of silence, then C5 and A4."""
    audio = np.concatenate([np.zeros(6 * 22_050), sine(523.25, 2), sine(440, 2)])
    soundfile.write(tmp_path / "late.wav", audio, 22_050)
    return tmp_path / "late.wav"


@pytest.mark.parametrize(
    ("text", "beats", "pitches"),
    [
        ("C4/4 D4/8 E4/8", [1, 0.5, 0.5], [60, 62, 64]),
        ("F##4 Bbb3 Fx4 Cb4 B#3", [1] * 5, [67, 57, 67, 59, 60]),
        ("C4:1/2 D4:3/4 R/2. E4/4.", [0.5, 0.75, 1.5], [60, 62, 64]),
        ("bb:2 b", [2, 1], [70, 71]),
    ],
)
def test_note_values_fractions_and_double_accidentals(
    text: str, beats: list[float], pitches: list[int]
) -> None:
    notes = parse_notes(text, bpm=60).notes
    assert [n.pitch for n in notes] == pitches
    assert [n.duration for n in notes] == pytest.approx(beats)


@pytest.mark.parametrize("text", ["C4:1/0", "C4/0", "C4/", "C4/4...", "C###4", "R/0"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ControlError, match="write notes such as"):
        parse_notes(text)


@pytest.mark.parametrize("text", ["C4:1 E4:1 G4:0.5", "C4 E4/8", "C4:.5"])
def test_written_notes_have_the_tags_tempo_however_they_end(text: str) -> None:
    tune = Melody.parse(text, ParseContext(lambda: SPEC, tempo=90.0)).tune
    assert tune == parse_notes(text, bpm=90)
    assert tune.about.endswith("90 BPM from the tags")
    given = Melody.parse(text, ParseContext(lambda: SPEC, tempo=90.0, options={"bpm": 60.0})).tune
    assert given == parse_notes(text, bpm=60)


@pytest.mark.parametrize(
    ("name", "kind", "subtype"),
    [("hum.opus", "OGG", "OPUS"), ("hum.aiff", "AIFF", "PCM_16"), ("hum.au", "AU", "PCM_16")],
)
def test_recordings_of_other_kinds_are_heard(
    tmp_path: Path, name: str, kind: str, subtype: str
) -> None:
    soundfile.write(tmp_path / name, sine(440, 2, 48_000), 48_000, format=kind, subtype=subtype)
    tune = parse_melody(str(tmp_path / name), SPEC)
    assert (tune.classes(150, SPEC)[5:140] == 9).all()
    assert f"heard in {name}, 0.00 to 2.00 s" in tune.about


def test_a_recording_may_begin_at_its_first_sound(late: Path) -> None:
    with pytest.raises(AudioFileError, match=r"first sound comes at 5\.9\d s: begin there"):
        parse_melody(str(late), SPEC)
    for begin in (6.0, "auto"):
        tune = Melody.of_recording(late, SPEC, begin=begin).tune  # pyright: ignore[reportArgumentType]
        classes = tune.classes(300, SPEC)
        assert (classes[10:160] == 0).all()
        assert (classes[190:330] == 9).all()
        loudness = Intensity.of_recording(late, SPEC, begin=begin)  # pyright: ignore[reportArgumentType]
        assert np.interp(1.0, *loudness.curve.corners()) == pytest.approx(
            20 * np.log10(0.3 / 2**0.5), abs=0.2
        )
    shape = StructureLike.of_recording(late, SPEC, begin="auto").reference.shape
    assert shape[1] == pytest.approx(4 * SPEC.frame_rate, abs=8)


def test_a_tune_that_is_heard_as_silence_at_the_beginning_says_where_it_begins(late: Path) -> None:
    context = ParseContext(lambda: SPEC, options={"like_from": "auto", "melody_from": "6"})
    for control in (
        Intensity.parse(str(late), context),
        Structure.parse(str(late), context),
        Melody.parse(str(late), context),
    ):
        (line,) = control.understood()
        assert "late.wav, " in line
        assert control.to_dict()["understood"] == line
        assert control.during((0.0, 1.0)).understood() == [line]


def test_without_a_model_a_recording_serves_windows_of_any_length(tmp_path: Path) -> None:
    ramp = np.linspace(0.01, 0.5, 22_050 * 20) * np.sign(sine(440, 20))
    soundfile.write(tmp_path / "long.wav", ramp, 22_050)
    curve = Intensity.of_recording(tmp_path / "long.wav").curve
    levels = curve.levels(1600, SPEC)
    expected = 20 * np.log10(np.interp(15.0, [0, 20], [0.01, 0.5]))
    assert levels[round(15 * SPEC.frame_rate)].item() == pytest.approx(expected, abs=0.1)
    assert StructureLike.of_recording(tmp_path / "long.wav").reference.shape[1] > 1700
    assert Melody.of_recording(tmp_path / "long.wav").tune.seconds > 19


def test_a_recording_shorter_than_the_clip_is_said(tmp_path: Path, tiny_model) -> None:
    soundfile.write(tmp_path / "short.wav", sine(440, 0.2, 8000), 8000)
    control = Intensity.of_recording(tmp_path / "short.wav", tiny_model.spec)
    control.check(tiny_model, 64)
    (warning,) = control.warnings(tiny_model, 64)
    assert "ends at 0.19 s" in warning


def test_brightness_says_that_it_takes_no_recording(tmp_path: Path) -> None:
    from ditto.controls import Brightness

    with pytest.raises(ControlError, match="cannot be taken from a recording"):
        Brightness("song.wav")
    with pytest.raises(ControlError, match=r"--intensity-like, or Intensity\.of_recording"):
        Intensity("song.wav")
