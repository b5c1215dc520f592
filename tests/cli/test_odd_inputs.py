"""What is very short, longer than the embedded model's window, or of another container: the right
value, or one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.audio.test_opening import encoded
from tests.conftest import Command

from ditto.audio.spec import AudioSpec
from ditto.controls.tunes import parse_melody
from ditto.models.model import MusicModel

RATE = 8000
A = 9


def sine(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def run(ditto_music: Command, model_folder: Path) -> Command:
    """A command on the tiny model, quickly, beside 60 ms of an A and 1.2 s of noise."""
    soundfile.write("hum.wav", sine(440, 0.06), RATE)
    soundfile.write("song.wav", 0.1 * np.random.default_rng(0).standard_normal((9600, 2)), RATE)

    def call(command: str, *words: object) -> tuple[int, str, str]:
        plain = ["--no-compare"] if command == "generate" else []
        return ditto_music(command, *words, *plain, "--model", model_folder, "-K", 1, "-T", 1)

    return call


def controls() -> list[dict[str, Any]]:
    return json.loads(Path("out.json").read_text())["request"]["controls"]


def test_a_recording_is_followed_over_the_model_s_own_window(
    ditto_music: Command, tiny_model: MusicModel, tmp_path: Path
) -> None:
    """A model of 24 s hears 24 s of it, though the embedded one's window is 5.94 s."""
    spec = replace(tiny_model.spec, clip_frames=3000)
    assert spec.clip_seconds == 24
    replace(tiny_model, spec=spec).save(tmp_path / "long")
    gain = np.linspace(-40, -10, 25 * RATE)
    ramp = 10 ** (gain / 20) * np.sign(sine(440, 25))
    soundfile.write("ramp.wav", ramp, RATE)
    words = "--loudness-like", "ramp.wav", "--method", "none", "-T", 1, "--no-compare"
    code, _, err = ditto_music("generate", *words, "--model", "long", "-o", "out.wav")
    assert code == 0, err
    assert "ramp.wav, 0.00 to 24." in err
    times, levels = np.array(controls()[0]["points"]).T
    assert times[-1] > 23.5
    inside = (times > 1) & (times < 23)
    np.testing.assert_allclose(levels[inside], -40 + 30 * times[inside] / 25, atol=0.2)


def test_a_clip_shorter_than_a_note_follows_it(run: Command) -> None:
    code, _, err = run("generate", "--melody", "C4:1", "--seconds", 0.05, "-o", "out.wav")
    assert code == 0, err
    assert 400 - 32 <= soundfile.info("out.wav").frames <= 400  # half a frame, which are whole
    assert controls()[0]["notes"] == [[0.0, 0.5, 60]]


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_very_short_hum_is_its_note(run: Command, rate: int) -> None:
    soundfile.write("hum.wav", sine(440, 0.06, rate), rate)
    code, _, err = run("generate", "--melody", "hum.wav", "-o", "out.wav")
    assert code == 0, err
    (control,) = controls()
    lengths = np.zeros(12)
    for _, seconds, pitch in control["notes"]:
        lengths[pitch % 12] += seconds
    assert lengths.argmax() == A
    assert lengths.sum() == pytest.approx(0.06, abs=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate --melody click.wav", "at least 0.05 s is needed"),
        ("generate --loudness-like click.wav", "at least 0.05 s is needed"),
        ("generate --structure-like hum.wav", "give a longer one"),
        ("generate --beats-like hum.wav", "no sound begins in hum.wav"),
        ("generate --melody C4:1 --seconds 0.001", "from 0.05 to 3600"),
        ("inpaint hum.wav --from 0.01 --to 0.02", "at least 0.05 s can be made"),
        ("outpaint hum.wav --seconds 1", "at most the 0.06 s of hum.wav"),
        ("loop song.wav --overlap 3", "at most"),
        ("inpaint song.wav --from 0.3 --to 0.5 --overlap 3", "at most"),
    ],
)
def test_what_is_too_short_is_one_line(run: Command, words: str, message: str) -> None:
    soundfile.write("click.wav", sine(440, 0.001), RATE)
    code, _, err = run(*words.split(), "-o", "out.wav")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not Path("out.wav").exists()


def test_the_hum_of_a_telephone_is_heard(tmp_path: Path) -> None:
    """The sine of `encoded` is an A, in AAC."""
    for name in ("hum.m4a", "hum.mp4"):
        tune = parse_melody(str(encoded(tmp_path / name)), AudioSpec())
        assert (tune.classes(150, AudioSpec())[10:140] == A).all()
        assert f"heard in {name}" in tune.about


def test_a_shell_can_complete_the_commands(
    ditto_music: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_DITTO_MUSIC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ditto-music inp")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert ditto_music()[1].split() == ["inpaint"]
    monkeypatch.setenv("COMP_WORDS", "ditto-music inpaint song.wav --over")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert ditto_music()[1].split() == ["--overlap"]
