"""Sound files that libsndfile alone does not open, and where recordings begin."""

import importlib.util
import re
import struct
import subprocess
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from ditto.audio import io
from ditto.audio.excerpt import first_sound
from ditto.errors import AudioFileError
from ditto.paths import found_path

RATE = 44_100


def sine(seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def ape_tag() -> bytes:
    """An APEv2 tag of one item, with header and footer, as its specification lays it out."""
    item = b"\3\0\0\0\0\0\0\0A\0xyz"
    size = (len(item) + 32).to_bytes(4, "little")

    def frame(flags: int) -> bytes:
        version, count = (2000).to_bytes(4, "little"), (1).to_bytes(4, "little")
        return b"APETAGEX" + version + size + count + flags.to_bytes(4, "little") + b"\0" * 8

    return frame(0xA000_0000) + item + frame(0x8000_0000)


@pytest.mark.parametrize(
    "leading",
    [b"\0", b"\0" * 5000, ape_tag(), ape_tag() + b"\0" * 300, b"\0" * 9 + b"ID3\4\0\0\0\0\0\4abcd"],
    ids=["a zero", "zeros", "ape", "ape and zeros", "zeros and id3"],
)
def test_an_mp3_behind_zeros_or_tags_is_read(tmp_path: Path, leading: bytes) -> None:
    soundfile.write(tmp_path / "plain.mp3", sine(), RATE)
    expected = io.read(tmp_path / "plain.mp3")
    (tmp_path / "odd.mp3").write_bytes(leading + (tmp_path / "plain.mp3").read_bytes())
    np.testing.assert_array_equal(io.read(tmp_path / "odd.mp3").samples, expected.samples)
    part = io.read(tmp_path / "odd.mp3", start=0.5, seconds=0.2).samples
    np.testing.assert_array_equal(
        part, io.read(tmp_path / "plain.mp3", start=0.5, seconds=0.2).samples
    )


@pytest.mark.parametrize(
    "content", [b"\0" * 4000, b"\0\0\xff", ape_tag(), b"APETAGEX" + b"\xff" * 40]
)
def test_what_is_no_mp3_after_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.mp3").write_bytes(content)
    with pytest.raises(AudioFileError, match="damaged or no sound file") as caught:
        io.read(tmp_path / "odd.mp3")
    assert len(str(caught.value).splitlines()) == 1


def test_tags_without_an_end_are_not_followed_for_ever(tmp_path: Path) -> None:
    """One of no length, and hundreds of thousands of them: each was a hang."""
    (tmp_path / "ape.mp3").write_bytes(b"APETAGEX" + b"\0" * 24)
    (tmp_path / "id3.mp3").write_bytes((b"\0" + b"ID3\4" + b"\0" * 6) * 400_000)
    code = (
        "import sys\nfrom ditto.audio.io import info\nfrom ditto.errors import AudioFileError\n"
        "for name in sys.argv[1:]:\n  try: info(name)\n  except AudioFileError: print(name)"
    )
    names = [str(tmp_path / name) for name in ("ape.mp3", "id3.mp3")]
    command = [sys.executable, "-c", code, *names]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.splitlines() == names


def encoded(path: Path) -> Path:
    """A stereo AAC file of two seconds, its right channel half as loud."""
    av = pytest.importorskip("av")
    sound = sine(2.0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        container.metadata["title"] = "A title"
        for first in range(0, len(sound), 1024):
            block = sound[first : first + 1024]
            frame = av.AudioFrame.from_ndarray(
                np.stack([block, block / 2]), format="fltp", layout="stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.mov", "named.wav"])
def test_aac_is_read_by_pyav(tmp_path: Path, name: str) -> None:
    path = encoded(tmp_path / ("a.m4a" if name == "named.wav" else name)).rename(tmp_path / name)
    audio = io.read(path)
    assert audio.sample_rate == RATE
    assert audio.samples.shape[1] == pytest.approx(2 * RATE, abs=1100)
    inside = slice(3000, 80_000)
    np.testing.assert_allclose(audio.samples[0, inside], sine(2.0)[inside], atol=0.05)
    np.testing.assert_allclose(audio.samples[1, inside], sine(2.0)[inside] / 2, atol=0.05)
    part = io.read(path, start=1.0, seconds=0.25)
    np.testing.assert_array_equal(part.samples, audio.samples[:, RATE : RATE + RATE // 4])
    assert io.read_tags(path)["title"] == "A title"


def test_without_pyav_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + b"\0" * 100)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "av" else found(name, *rest),
    )
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioFileError, match=r"needs PyAV: pip install 'ditto-music\[media\]'"):
        io.read(tmp_path / "a.m4a")


def test_a_video_without_sound_is_one_line(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(AudioFileError, match="no sound in it"):
        io.read(tmp_path / "a.mp4")


@pytest.mark.parametrize(("typed", "kept"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_typed_in_the_other_unicode_form_is_found(
    tmp_path: Path, typed: str, kept: str
) -> None:
    def name(form: str) -> Path:
        return (
            tmp_path
            / unicodedata.normalize(form, "Frédéric")
            / unicodedata.normalize(form, "ö.wav")
        )

    name(kept).parent.mkdir()
    soundfile.write(name(kept), sine(), RATE)
    assert not name(typed).exists()
    assert io.read(name(typed)).samples.shape == (1, RATE)
    assert Path(found_path(name(typed))).samefile(name(kept))
    assert found_path(tmp_path / "fehlt-ö.wav") == tmp_path / "fehlt-ö.wav"


@pytest.mark.parametrize("silence", [0.0, 0.4, 3.0])
def test_the_first_sound_is_where_librosa_trims_to(tmp_path: Path, silence: float) -> None:
    rng = np.random.default_rng(0)
    quiet = 1e-4 * rng.standard_normal(round(silence * RATE)).astype("f4")
    audio = np.concatenate([quiet, sine(2.0)])
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    _, (start, _) = librosa.effects.trim(audio, top_db=40)
    assert first_sound(tmp_path / "a.wav") == pytest.approx(start / RATE, abs=1e-9)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC"])
def test_a_recording_that_was_cut_is_no_shorter_one(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("a.flac" if form == "FLAC" else "a.wav")
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (16_000, 2))
    soundfile.write(path, samples, 8000, format=form, subtype="PCM_16")
    whole = path.read_bytes()
    np.testing.assert_allclose(io.read(path).samples.T, samples, atol=1e-4)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioFileError, match=r"damaged") as error:
        io.read(path)
    assert len(str(error.value).splitlines()) == 1
    if form != "FLAC":  # whose decoder says so itself
        told = re.findall(r"(\d\.\d+) s", str(error.value))
        assert list(map(float, told)) == pytest.approx([1.0, 2.0], abs=0.01)
        part = io.read(path, start=0.2, seconds=0.5).samples.T
        np.testing.assert_allclose(part, samples[1600:5600], atol=1e-4)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 32_044])
def test_a_size_that_was_not_known_promises_nothing(tmp_path: Path, size: int) -> None:
    """What FFmpeg, SoX and recorders write into a pipe; and a size that is off by the header's."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 16_000)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = struct.pack("<I", size)
    if size > 2**20:
        at = data.index(b"data") + 4
        data[at : at + 4] = struct.pack("<I", min(size, 0xFFFFFFFF))
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_allclose(io.read(tmp_path / "a.wav").samples[0], samples, atol=1e-4)
