"""Where the music of a recording ends that fades out."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import chirp

from ditto.edit.edits import outpaint
from ditto.edit.ending import levels, music_end
from ditto.errors import RequestError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel

RATE = 22_050


def song(seconds: float, channels: int = 2) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return np.repeat(0.3 * chirp(time, 200, seconds, 900)[None], channels, axis=0)


def test_levels_are_root_mean_squares() -> None:
    sound = song(1.0)
    assert levels(sound, RATE) == pytest.approx([20 * np.log10(0.3 / np.sqrt(2))] * 10, abs=0.3)


def test_a_fade_out_ends_where_it_is_ten_decibels_down() -> None:
    sound = song(20.0)
    fade = np.linspace(0, -80, 8 * RATE)  # from 12 s on, 10 dB a second
    sound[:, 12 * RATE :] *= 10 ** (fade / 20)
    assert music_end(sound, RATE, 1.0) == pytest.approx(13.0 * RATE, abs=0.2 * RATE)


def test_silence_at_the_end_is_not_gone_on_from() -> None:
    sound = np.concatenate([song(6.0), np.zeros((2, 3 * RATE))], axis=1)
    assert music_end(sound, RATE, 1.0) == pytest.approx(6.0 * RATE, abs=0.1 * RATE)


@pytest.mark.parametrize("overlap", [0.5, 1.0, 3.0])
def test_a_song_that_goes_on_to_its_end_is_left_alone(overlap: float) -> None:
    assert music_end(song(5.0), RATE, overlap) is None
    softer = song(5.0)
    softer[:, 3 * RATE :] *= 10 ** (-12 / 20)
    assert music_end(softer, RATE, overlap) is None


def test_with_too_little_before_the_fade_nothing_changes() -> None:
    sound = song(4.0)
    sound[:, RATE // 2 :] *= 1e-5
    assert music_end(sound, RATE, 1.0) is None
    assert music_end(np.zeros((1, RATE)), RATE, 0.5) is None


@pytest.fixture
def faded(tmp_path: Path) -> Path:
    """3 s at 8 kHz, of which the last second is a fade-out of 80 dB."""
    sound = song(3.0, 1)[0, : 3 * 8000].copy()
    sound[2 * 8000 :] *= 10 ** (np.linspace(0, -80, 8000) / 20)
    soundfile.write(tmp_path / "faded.wav", sound, 8000, subtype="PCM_24")
    return tmp_path / "faded.wav"


QUICK = {"method": Ditto(steps=2), "iterations": 2, "overlap": 0.2}


def test_extending_a_faded_song_goes_on_from_its_music(tiny_model: MusicModel, faded: Path) -> None:
    edit = outpaint(tiny_model, faded, 3.2, **QUICK)
    (start, end), (note,) = edit.gaps[0], edit.notes
    assert end == edit.timeline.length == round(3.2 * 8000)
    assert start / 8000 == pytest.approx(2.1, abs=0.11)
    assert note.startswith(
        "faded.wav ends in a fade-out or silence: what is new joins its music at"
    )
    assert edit.report()["notes"][0] == note
    recording = soundfile.read(faded, dtype="float32")[0]
    kept = start - 800  # less the cross-fade
    np.testing.assert_array_equal(edit.samples[0, :kept], recording[:kept])
    new = edit.samples[0, start : start + 2400]
    assert np.sqrt(np.mean(new**2)) > 1e-3


def test_where_to_go_on_from_can_be_said(tiny_model: MusicModel, faded: Path) -> None:
    edit = outpaint(tiny_model, faded, 3.3, begin=3.0, **QUICK)
    assert edit.gaps == ((3 * 8000, round(3.3 * 8000)),)
    assert edit.notes == ()
    edit = outpaint(tiny_model, faded, 1.4, begin=1.0, **QUICK)
    assert edit.gaps == ((8000, round(1.4 * 8000)),)
    edit = outpaint(tiny_model, faded, 2.3, begin=1.0, direction="backwards", **QUICK)
    assert edit.gaps == ((0, round(0.3 * 8000)),)
    recording = soundfile.read(faded, dtype="float32")[0]
    np.testing.assert_array_equal(edit.samples[0, -8000:], recording[-8000:])
    with pytest.raises(RequestError, match=r"from 0 to the 3.00 s of faded.wav, not from 5 s"):
        outpaint(tiny_model, faded, 9, begin=5.0, **QUICK)
