"""Sound files as they are read."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from tests.audio.files import ENDINGS, LAST_BIT, fifo, only_line, sine, write_raw

from ditto.audio import io, reading
from ditto.audio.spec import AudioSpec
from ditto.errors import AudioFileError
from ditto.paths import printable

SPEC = AudioSpec()


# --- reading what is odd but good


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_of_any_rate_and_depth_is_read(tmp_path, rate, subtype):
    expected = sine(rate, 0.2, channels=2)
    audio = io.read(write_raw(tmp_path / "a.wav", expected, rate, subtype))
    assert (audio.sample_rate, audio.samples.dtype, audio.samples.shape) == (
        rate,
        np.float32,
        expected.shape,
    )
    np.testing.assert_allclose(audio.samples, expected, atol=LAST_BIT.get(subtype, 1e-7))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_of_any_depth_is_read(tmp_path, subtype):
    expected = sine(channels=2)
    audio = io.read(write_raw(tmp_path / "a.flac", expected, subtype=subtype))
    np.testing.assert_allclose(audio.samples, expected, atol=LAST_BIT[subtype])


@pytest.mark.parametrize("channels", range(1, 7))
@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg"])
def test_mono_is_the_mean_of_up_to_six_channels(tmp_path, channels, ending):
    samples = sine(channels=channels)
    path = write_raw(tmp_path / f"a{ending}", samples)
    assert io.info(path).channels == channels
    mono = io.read_mono(path, SPEC)
    assert (mono.shape, mono.dtype) == ((22_050,), np.float32)
    np.testing.assert_allclose(mono[500:-500], samples.mean(axis=0)[500:-500], atol=0.02)


@pytest.mark.parametrize("ending", [".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_lossy_files_keep_time_and_level(tmp_path, ending, rate):
    expected = sine(rate, channels=2)
    audio = io.read(write_raw(tmp_path / f"a{ending}", expected, rate))
    assert audio.sample_rate == rate
    assert abs(audio.seconds - 1) < 0.01
    middle = slice(rate // 4, rate * 3 // 4)
    np.testing.assert_allclose(
        audio.samples[:, middle], expected[:, middle], atol=0.06
    )  # mp3 at 8 kHz; 0.01 above


def test_read_mono_resamples_to_the_rate_of_the_spec(tmp_path):
    path = write_raw(tmp_path / "a.wav", sine(48_000, 0.5), 48_000, "FLOAT")
    mono = io.read_mono(path, SPEC)
    assert mono.shape == (11_025,)
    np.testing.assert_allclose(mono[200:-200], sine(22_050, 0.5)[0, 200:-200], atol=1e-4)


def test_resample_is_soxr_on_each_channel():
    audio = io.Audio(sine(44_100, 0.3, channels=2), 44_100)
    resampled = audio.resample(22_050)
    assert (resampled.samples.dtype, resampled.sample_rate) == (np.float32, 22_050)
    for got, channel in zip(resampled.samples, audio.samples, strict=True):
        np.testing.assert_allclose(
            got, soxr.resample(channel, 44_100, 22_050, quality="VHQ"), atol=1e-6
        )
    assert audio.resample(44_100) is audio


def test_mono_keeps_one_channel_in_audio():
    audio = io.Audio(sine(channels=2), 22_050).mono()
    np.testing.assert_allclose(
        audio.samples, sine(channels=2).mean(axis=0, keepdims=True), atol=1e-7
    )
    assert audio.seconds == 1.0


def test_levels_over_full_scale_are_kept(tmp_path):
    path = write_raw(tmp_path / "loud.wav", 3 * sine(), subtype="FLOAT")
    np.testing.assert_array_equal(io.read(path).samples, 3 * sine())


def test_weird_names_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-rf.wav", "música 音楽.wav", "line\nbreak.wav", "x.raw", "no ending"):
        soundfile.write(name, sine()[0], 22_050, format="WAV")
        assert io.read(name).samples.shape == (1, 22_050)


def test_info_tells_what_the_header_says(tmp_path):
    found = io.info(write_raw(tmp_path / "a.wav", sine(8_000, 2.5, channels=3), 8_000, "PCM_24"))
    assert found == io.AudioInfo(8_000, 3, 20_000, "WAV", "PCM_24")
    assert found.seconds == 2.5


# --- reading a part


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_part_equals_that_part_of_the_whole(tmp_path, ending):
    chirp = 0.5 * np.sin(np.linspace(0, 300, 70 * 22_050) ** 2)
    path = write_raw(tmp_path / f"a{ending}", chirp[None].astype(np.float32))
    whole = io.read(path).samples
    np.testing.assert_allclose(whole[0], soundfile.read(path)[0], atol=1e-6)
    for start in (0.0, 0.013, 0.5, 4.7, 9.2, 31.4, 50.1, 69.4):
        part = io.read(path, start=start, seconds=0.5)
        first = round(start * 22_050)
        assert part.samples.shape == (1, 11_025)
        np.testing.assert_allclose(part.samples, whole[:, first : first + 11_025], atol=1e-6)


def test_a_part_may_run_into_the_end(tmp_path):
    path = write_raw(tmp_path / "a.wav", sine())
    assert io.read(path, start=0.75, seconds=10).seconds == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_of_two_hours_only_the_part_is_decoded(tmp_path, ending, monkeypatch):
    path = tmp_path / f"long{ending}"
    minute = np.random.default_rng(0).normal(0, 0.1, 8_000 * 60).astype(np.float32)
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(120):
            file.write(minute)
    decoded = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda *a, **k: decoded.append(original(*a, **k)) or decoded[-1],
    )
    part = io.read(path, start=7_000.0, seconds=6.0)
    assert sum(len(block) for block in decoded) == 48_000
    np.testing.assert_allclose(part.samples[0], minute[40 * 8_000 : 46 * 8_000], atol=2**-15)


def test_a_part_beyond_all_numbers_of_samples_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    io.write(path, np.full(8000, 0.1, np.float32), 8000)
    with pytest.raises(AudioFileError, match="it lasts 1 s"):
        io.read(path, start=1e305)
    assert io.read(path, seconds=1e305).seconds == 1


def test_a_file_longer_than_the_limit_is_refused(tmp_path):
    path = write_raw(tmp_path / "a.wav", sine())
    with pytest.raises(AudioFileError, match=r"longer than 0\.5 s: choose a part") as error:
        io.read(path, max_seconds=0.5)
    only_line(error)
    assert io.read(path, max_seconds=1.0).seconds == 1.0


def test_a_small_file_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_VALUES", 100_000)
    path = write_raw(tmp_path / "a.flac", np.zeros((6, 44_100), np.float32))
    with pytest.raises(AudioFileError, match="too much sound to read at once"):
        io.read(path)
    assert io.read_mono(path, SPEC, require_sound=False).shape == (44_100,)


# --- bad files


def cut(path: Path, samples: np.ndarray) -> Path:
    data = write_raw(path, samples).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def corrupt(path: Path, samples: np.ndarray) -> Path:
    data = bytearray(write_raw(path, samples).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2_000] = np.random.default_rng(0).bytes(2_000)
    path.write_bytes(data)
    return path


def with_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_value(path: Path, value: float) -> Path:
    samples = sine()
    samples[0, 11_111] = value
    return write_raw(path, samples, subtype="FLOAT")


def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (1, 66_150)).astype(np.float32)


BAD = {
    "missing": (lambda d: d / "none.wav", "No such file"),
    "folder": (lambda d: d, "a folder, not a sound file"),
    "in a file": (lambda d: write_raw(d / "a.wav", sine()) / "b.wav", "Not a directory"),
    "device": (lambda d: Path("/dev/zero"), "a device or a pipe"),
    "pipe": (lambda d: fifo(d / "pipe.wav"), "a device or a pipe"),
    "null in name": (lambda d: d / "a\0.wav", "null character"),
    "name too long": (lambda d: d / ("a" * 300 + ".wav"), "File name too long"),
    "empty": (lambda d: with_bytes(d / "a.wav", b""), "empty"),
    "text as wav": (
        lambda d: with_bytes(d / "a.wav", b"hello, not sound\n" * 999),
        "no sound file",
    ),
    "text as mp3": (
        lambda d: with_bytes(d / "a.mp3", b"hello, not sound\n" * 999),
        "no sound file",
    ),
    "bytes as mp3": (
        lambda d: with_bytes(d / "a.mp3", np.random.default_rng(0).bytes(9_999)),
        "no sound file",
    ),
    "header only": (
        lambda d: with_bytes(d / "a.wav", write_raw(d / "b.wav", sine()).read_bytes()[:40]),
        "damaged",
    ),
    "no samples": (lambda d: write_raw(d / "a.wav", np.zeros((1, 0))), "lasts 0 s"),
    "one sample": (
        lambda d: write_raw(d / "a.wav", np.full((1, 1), 0.5)),
        "too short: 1 sample .* at least 0.05 s",
    ),
    "half a flac": (lambda d: cut(d / "a.flac", noise()), "damaged"),
    "start of an ogg": (
        lambda d: with_bytes(d / "a.ogg", write_raw(d / "b.ogg", sine()).read_bytes()[:90]),
        "damaged",
    ),
    "damaged flac": (lambda d: corrupt(d / "a.flac", noise()), "damaged"),
    "NaN": (lambda d: with_value(d / "a.wav", np.nan), "not finite"),
    "infinity": (lambda d: with_value(d / "a.wav", -np.inf), "not finite"),
    "absurd level": (
        lambda d: with_value(d / "a.wav", 32_767.0),
        "values up to 3.28e\\+04, full scale is 1",
    ),
    "silence": (lambda d: write_raw(d / "a.wav", np.zeros((2, 22_050))), "is silent"),
    "channels cancel": (
        lambda d: write_raw(d / "a.wav", sine()[0] * [[1], [-1]], subtype="FLOAT"),
        "is silent",
    ),
    "rate too low": (lambda d: write_raw(d / "a.wav", sine(), 10), "sample rate is 10 Hz"),
    "rate too high": (
        lambda d: write_raw(d / "a.wav", sine(), 3_000_000),
        "sample rate is 3000000 Hz",
    ),
    "too many channels": (
        lambda d: write_raw(d / "a.wav", np.zeros((65, 9_999))),
        "65 channels, at most 64",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(tmp_path, name):
    make, message = BAD[name]
    path = make(tmp_path)
    with pytest.raises(AudioFileError, match=message) as error:
        io.read_mono(path, SPEC)
    assert printable(path) in only_line(error)


@pytest.mark.parametrize(
    "name", ["line\nbreak\r\x1b[2J.wav", "paragraph\u2029.wav", "bytes\udcff.wav"]
)
def test_names_cannot_break_the_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"text")
    for read in (io.info, io.read, io.read_tags):
        with pytest.raises(AudioFileError) as error:
            read(tmp_path / name)
        only_line(error)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refuse)  # not chmod: root may read everything
    with pytest.raises(AudioFileError, match=r"cannot read .*a.wav: Permission denied$"):
        io.read(tmp_path / "a.wav")
