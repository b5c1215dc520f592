"""Recordings whose peaks are beyond full scale, as mastered mp3s are when they are decoded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.conftest import Command

RATE = 8000
CEILING = 0.999
"""The peak of what was too loud."""
INPAINT = "--from", 0.5, "--to", 0.6, "--overlap", 0.2


@pytest.fixture
def run(ditto_music: Command, model_folder: Path) -> Command:
    return lambda *words: ditto_music(*words, "--model", model_folder, "-K", 2, "-T", 2)


def mastered(path: Path) -> np.ndarray:
    """Write noise that is cut at full scale; return what libsndfile decodes, which is louder."""
    noise = np.random.default_rng(0).standard_normal((int(1.2 * RATE), 2))
    soundfile.write(path, np.clip(noise, -1, 1), RATE)
    with soundfile.SoundFile(path) as file:  # `soundfile.read` seeks, which costs mp3 a last bit
        decoded = file.read(dtype="float32")
    assert np.abs(decoded).max() > 1.1
    return decoded


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_peaks_beyond_full_scale_are_kept_or_all_becomes_quieter_with_a_note(
    run: Command, ending: str
) -> None:
    before = np.random.default_rng(0).uniform(-1.4, 1.4, (9600, 2))
    soundfile.write("loud.wav", before, RATE, subtype="FLOAT")
    code, _, err = run("inpaint", "loud.wav", *INPAINT, "-o", f"out{ending}")
    assert code == 0, err
    after = soundfile.read(f"out{ending}")[0][:3000]
    assert ("all of it becomes" in err) == (ending != ".wav")
    if ending == ".wav":
        np.testing.assert_array_equal(after, before[:3000].astype(np.float32))
    if ending == ".flac":
        np.testing.assert_allclose(after, before[:3000] * (CEILING / 1.4), rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("out", ["out.mp3", "out.ogg", "out.flac"])
@pytest.mark.parametrize("song", ["loud.mp3", "loud.ogg"])
def test_what_becomes_of_a_loud_mp3_or_ogg_is_said_before_the_work(
    run: Command, monkeypatch: pytest.MonkeyPatch, song: str, out: str
) -> None:
    peak = np.abs(mastered(Path(song))).max()

    def loaded(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ditto.cli.options.load", loaded)  # no model is loaded by then
    code, _, err = run("inpaint", song, *INPAINT, "-o", out)
    assert code == 130
    ending = Path(out).suffix
    assert f"note: {song} has a peak of {peak:.3g}, which {ending} cannot hold" in err
    assert f"all of it becomes {20 * np.log10(peak / CEILING):.1f} dB quieter" in err
    assert not Path(out).exists()


@pytest.mark.parametrize("out", ["out.mp3", "out.ogg", "out.flac"])
@pytest.mark.parametrize("song", ["loud.mp3", "loud.ogg"])
def test_what_is_kept_of_a_loud_mp3_or_ogg_is_quieter_by_the_reports_gain(
    run: Command, song: str, out: str
) -> None:
    before = mastered(Path(song))
    code, _, err = run("inpaint", song, *INPAINT, "-o", out)
    assert (code, err.count("all of it becomes")) == (0, 1), err
    gain = json.loads(Path(out).with_suffix(".json").read_text())["gain"]
    assert gain == pytest.approx(CEILING / np.abs(before).max())
    after = soundfile.read(out)[0]
    kept = np.r_[: int(0.4 * RATE), int(0.7 * RATE) : len(before)]
    if out.endswith(".flac"):  # 24 bit: a step is 2^-23
        np.testing.assert_allclose(after[kept], before[kept] * gain, rtol=0, atol=2.0**-23)
        return
    # What is encoded anew is what the encoder makes of that.
    soundfile.write(f"alone{Path(out).suffix}", before * gain, RATE)
    alone = soundfile.read(f"alone{Path(out).suffix}")[0][kept].ravel()
    assert alone @ after[kept].ravel() / (alone @ alone) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("ending", [".flac", ".ogg"])
def test_what_was_said_is_done_where_the_peak_itself_is_made_anew(
    run: Command, ending: str
) -> None:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (9600, 2))
    samples[4400] = 1.4
    soundfile.write("loud.wav", samples, RATE, subtype="FLOAT")
    code, _, err = run("inpaint", "loud.wav", *INPAINT, "-o", f"out{ending}")
    assert code == 0
    assert f"all of it becomes {20 * np.log10(1.4 / CEILING):.1f} dB quieter" in err
    gain = json.loads(Path("out.json").read_text())["gain"]
    assert gain == pytest.approx(CEILING / 1.4)
    if ending == ".flac":
        after = soundfile.read("out.flac")[0]
        np.testing.assert_allclose(after[:3000], samples[:3000] * gain, rtol=0, atol=2.0**-23)


@pytest.mark.parametrize("song", ["loud.mp3", "loud.ogg"])
def test_a_wav_keeps_what_is_beyond_full_scale(run: Command, song: str) -> None:
    before = mastered(Path(song))
    code, _, err = run("inpaint", song, *INPAINT, "-o", "out.wav")
    assert (code, "all of it becomes" in err) == (0, False), err
    assert "gain" not in json.loads(Path("out.json").read_text())
    np.testing.assert_array_equal(soundfile.read("out.wav")[0][:3000], before[:3000])
