"""What an edit keeps of a recording besides its samples: container, loudspeakers, tags."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.audio.layout import Layout
from ditto.edit.edits import inpaint
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel

SURROUND = 0x3F
"""Front left, right, centre, low frequency, back left, right: the mask of a 5.1 wav."""


def channel_mask(path: Path) -> int:
    """The mask in a WAVE_FORMAT_EXTENSIBLE header, where Microsoft's layout has it."""
    data = path.read_bytes()
    at = data.index(b"fmt ") + 8
    assert struct.unpack("<H", data[at : at + 2])[0] == 0xFFFE
    return struct.unpack("<I", data[at + 20 : at + 24])[0]


def recording(path: Path, channels: int, container: str) -> Path:
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, channels))
    with soundfile.SoundFile(path, "w", 8000, channels, "PCM_24", format=container) as file:
        file.artist, file.album, file.date, file.title = "Björk", "An album", "1997", "A song"
        file.write(samples)
    if container == "WAVEX":
        data = bytearray(path.read_bytes())
        at = data.index(b"fmt ") + 8
        data[at + 20 : at + 24] = struct.pack("<I", SURROUND if channels == 6 else 3)
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("container", "channels"), [("WAVEX", 6), ("RF64", 2), ("WAVEX", 2), ("WAV", 2), ("FLAC", 2)]
)
def test_an_edit_keeps_container_loudspeakers_and_tags(
    tiny_model: MusicModel, tmp_path: Path, container: str, channels: int
) -> None:
    ending = ".flac" if container == "FLAC" else ".wav"
    song = recording(tmp_path / f"song{ending}", channels, container)
    edit = inpaint(tiny_model, song, [(0.3, 0.5)], overlap=0.1, iterations=1, method=Ditto(steps=2))
    out = tmp_path / f"out{ending}"
    edit.save(out)
    with soundfile.SoundFile(out) as file:
        assert (file.format, file.subtype, file.channels) == (container, "PCM_24", channels)
        assert (file.artist, file.album, file.date) == ("Björk", "An album", "1997")
        assert "inpaint" in file.title
    if container == "WAVEX":
        assert channel_mask(out) == channel_mask(song)
    kept = soundfile.read(out, dtype="int32")[0][:1000]
    np.testing.assert_array_equal(kept, soundfile.read(song, dtype="int32")[0][:1000])


def test_a_container_is_kept_where_the_output_is_a_wav(tmp_path: Path) -> None:
    layout = Layout.of(recording(tmp_path / "a.wav", 6, "WAVEX"), {"artist": "A", "title": "B"})
    assert layout.container == "WAVEX"
    assert len(layout.channels) == 6
    assert layout.tags == {"artist": "A"}
    assert layout.format_for("WAV") == "WAVEX"
    assert layout.format_for("FLAC") == "FLAC"
    assert Layout().format_for("WAV") == "WAV"
