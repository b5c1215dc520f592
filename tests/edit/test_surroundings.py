"""What is said of new music that has less than what is around it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.edit.edits import outpaint
from ditto.edit.surroundings import lacking, share_above, width
from ditto.edit.timeline import Known, Timeline
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel

RATE = 44_100


def sound(samples: np.ndarray) -> Timeline:
    return Timeline(samples, Known(samples.shape[1]), RATE)


def noise(seed: int, channels: int = 2) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, RATE))


def test_shares_of_power() -> None:
    time = np.arange(RATE) / RATE
    tones = np.sin(2 * np.pi * 1000 * time) + 0.5 * np.sin(2 * np.pi * 15_000 * time)
    assert share_above(sound(tones[None]), RATE, 11_025) == pytest.approx(0.2, abs=1e-3)
    assert share_above(sound(np.zeros((1, RATE))), RATE, 11_025) == 0
    left, right = noise(1)
    assert width(sound(np.stack([left, 0.3 * left]))) == pytest.approx(0, abs=1e-9)
    assert width(sound(np.stack([left, right]))) == pytest.approx(0.5, abs=0.02)


def test_only_what_the_recording_has_can_be_lacking() -> None:
    mono, wide = sound(np.repeat(noise(0, 1), 2, axis=0)), sound(noise(1))
    assert lacking(wide, sound(noise(2)), RATE, 22_050, "a.wav") == []
    assert lacking(mono, mono, RATE, 22_050, "a.wav") == []
    (line,) = lacking(mono, wide, RATE, 22_050, "a.wav")
    assert "is mono" in line


def test_an_edit_says_what_its_model_has_not(tiny_model: MusicModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", noise(3).T, RATE)
    edit = outpaint(
        tiny_model, tmp_path / "song.wav", 1.2, overlap=0.2, iterations=1, method=Ditto(steps=2)
    )
    bandwidth, mono = edit.report()["notes"]
    assert bandwidth == (
        "what is new has nothing above 4.0 kHz, where the model ends; song.wav goes on above it"
    )
    assert mono.startswith("what is new is mono, placed between the loudspeakers as song.wav")
    assert edit.notes == ()
