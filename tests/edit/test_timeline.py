"""What a recording keeps while it is edited."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ditto.audio.io import write
from ditto.audio.spec import AudioSpec
from ditto.edit.timeline import Timeline, crossfaded

SPEC = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=16, clip_frames=64)


def timeline(seconds: float = 1.0, rate: int = 8000, channels: int = 2) -> Timeline:
    samples = 0.1 * np.random.default_rng(0).standard_normal(
        (channels, int(seconds * rate))
    ).astype(np.float32)
    return Timeline(samples, np.ones(samples.shape[1], bool), rate)


@pytest.mark.parametrize(
    ("subtype", "dtype"),
    [
        ("PCM_16", "int16"),
        ("PCM_24", "int32"),
        ("PCM_32", "int32"),
        ("FLOAT", "float32"),
        ("DOUBLE", "float64"),
    ],
)
def test_samples_come_back_bit_for_bit_in_every_depth(
    tmp_path: Path, subtype: str, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    if dtype.startswith("int"):
        bits = int(subtype[4:])
        values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (5000, 2))
        samples = (values << (np.dtype(dtype).itemsize * 8 - bits)).astype(dtype)
    else:
        samples = rng.uniform(-1.5, 1.5, (5000, 2)).astype(dtype)
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype=subtype)
    read = Timeline.read(tmp_path / "a.wav")
    write(tmp_path / "b.wav", read.samples, read.sample_rate, subtype=read.subtype_for("b.wav"))
    again, rate = soundfile.read(tmp_path / "b.wav", dtype=dtype)
    assert rate == 44_100
    assert soundfile.info(tmp_path / "b.wav").subtype == subtype
    np.testing.assert_array_equal(again, samples)


def test_what_is_heard_is_the_mono_mix_at_the_models_rate() -> None:
    song = timeline(2.0, 16_000)
    expected = soxr.resample(song.samples.mean(axis=0), 16_000, 8000, quality="VHQ")
    heard = song.heard(8000, 32, 4, SPEC).numpy()
    first = 4000 - 4 * 64
    np.testing.assert_allclose(
        heard[100:-100], expected[first : first + len(heard)][100:-100], atol=2e-3
    )
    assert len(heard) == 40 * 64


def test_beyond_the_ends_and_in_gaps_there_is_silence() -> None:
    song = timeline()
    song.forget([(2000, 3000)])
    assert song.heard(-4000, 32, 4, SPEC).numpy()[: 4000 - 2048 - 300].max(initial=0) == 0
    heard = song.heard(1000, 40, 0, SPEC).numpy()
    assert np.abs(heard[1000:2000]).max() == 0
    np.testing.assert_allclose(heard[:1000], song.samples.mean(axis=0)[1000:2000], atol=1e-6)


def test_known_frames_are_those_whose_window_is_known() -> None:
    song = timeline()
    song.forget([(2000, 3000)])
    for rate_start in (0, 1000, 1500, -300, 7000):
        known = song.known_frames(rate_start, 40, SPEC)
        for i, value in enumerate(known):
            first, last = rate_start + i * 64 - 128, rate_start + i * 64 + 128
            assert value == (first >= 0 and last <= 8000 and bool(song.known[first:last].all()))


def test_filling_changes_the_gap_and_a_fade_beside_it_and_nothing_else() -> None:
    song = timeline()
    song.forget([(2000, 3000)])
    clip = 0.5 * np.ones((2, 4000), np.float32)
    filled = song.copied()
    filled.fill((2000, 3000), clip, 1000, 100)
    assert filled.known.all()
    np.testing.assert_array_equal(filled.samples[:, :1900], song.samples[:, :1900])
    np.testing.assert_array_equal(filled.samples[:, 3100:], song.samples[:, 3100:])
    np.testing.assert_array_equal(filled.samples[:, 2000:3000], 0.5)
    assert np.abs(filled.samples[:, 1999] - 0.5).max() < 0.05
    assert np.abs(filled.samples[:, 1900] - song.samples[:, 1900]).max() < 0.05


def test_what_is_too_loud_is_bent_only_where_it_is_new() -> None:
    song = timeline()
    song.forget([(2000, 3000)])
    song.fill((2000, 3000), np.full((2, 4000), 1.7, np.float32), 1000, 100)
    assert np.abs(song.samples).max() <= 1


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_a_crossfade_keeps_the_power(rho: float) -> None:
    rng = np.random.default_rng(0)
    a, other = rng.standard_normal((2, 1, 200_000))
    b = rho * a + np.sqrt(1 - rho**2) * other
    power = crossfaded(a, b).reshape(100, -1)
    np.testing.assert_allclose((power**2).mean(axis=1), 1, atol=0.12)


def test_equal_sounds_are_left_by_a_crossfade() -> None:
    a = np.random.default_rng(0).standard_normal((2, 500))
    np.testing.assert_allclose(crossfaded(a, a), a, atol=1e-9)


def test_mono_is_put_where_the_recordings_sound_is() -> None:
    left = np.stack([np.ones(1000), 0.25 * np.ones(1000)]).astype(np.float32) * 0.1
    song = Timeline(left, np.ones(1000, bool), 8000)
    spread = song.spread(np.ones((1, 500), np.float32), 200)
    np.testing.assert_allclose(spread[:, 0], [1.6, 0.4], rtol=1e-5)
    assert song.spread(np.ones((1, 500), np.float32), 5000).shape == (2, 500)
