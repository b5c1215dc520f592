"""The command that tries recordings of many makes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.campaign import recordings
from tests.conftest import Command


def test_a_folder_is_tried(model_folder: Path, tmp_path: Path) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((9 * 8000 + 1, 2))
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    words = [str(tmp_path), "--model", str(model_folder), "--overlap", "0.2", "--count", "1"]
    assert recordings.main([*words, "--log", str(tmp_path / "log.json")]) == 0
    told = json.loads((tmp_path / "log.json").read_text())
    assert told["recordings"] == ["WAV PCM_16, 8000 Hz, 2"]
    assert told["outcomes"]["equal to the bit"] == 4
    assert told["failures"] == []


@pytest.mark.parametrize("form", recordings.FORMS)
def test_a_recording_is_written_anew(tmp_path: Path, form: recordings.Form) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    about = soundfile.info(recordings.written_anew(tmp_path / "a.wav", form, tmp_path))
    assert (about.samplerate, about.channels, about.subtype) == (
        form.rate,
        form.channels,
        form.subtype,
    )


def test_what_was_to_be_kept_and_is_not_is_seen(
    ditto_music: Command, model_folder: Path, tmp_path: Path
) -> None:
    song, sound = tmp_path / "a.wav", tmp_path / "o.wav"
    samples = 0.1 * np.random.default_rng(0).standard_normal((16_000, 1))
    soundfile.write(song, samples, 8000)
    words = ["inpaint", "a.wav", "--from", "1", "--to", "1.2", "--overlap", "0.2", "-o", "o.wav"]
    assert ditto_music(*words, *recordings.QUICK, "--model", model_folder)[0] == 0
    assert recordings.check_kept(song, sound) == 0
    changed, rate = soundfile.read(sound, dtype="int16")
    changed[400] += 1
    soundfile.write(sound, changed, rate, subtype="PCM_16")
    assert recordings.check_kept(song, sound) == 256
