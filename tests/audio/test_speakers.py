"""An edit's channels are for the loudspeakers that the recording's were for, in any format.

FFmpeg, by PyAV, tells what each channel is for, of the recording and of the edit.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.audio.test_layout import channel_mask

from ditto.audio.layout import Layout
from ditto.edit.edits import inpaint
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel

RATE, SECONDS = 8000, 1.2
av = pytest.importorskip("av")


def noise(channels: int, rate: int = RATE) -> np.ndarray:
    """Another noise in each channel; deep, since formats keep only that of a subwoofer's."""
    white = np.random.default_rng(0).standard_normal((int(SECONDS * rate), channels))
    deep = np.fft.rfft(white, axis=0)
    deep[int(100 * SECONDS) :] = 0
    sound = np.fft.irfft(deep, len(white), axis=0)
    return 0.5 * sound / np.abs(sound).max(axis=0)


def by_soundfile(path: Path, channels: int) -> Path:
    samples = noise(channels)
    with soundfile.SoundFile(path, "w", RATE, channels) as file:
        for first in range(0, len(samples), 1000):  # libvorbis overflows the stack on long writes
            file.write(samples[first : first + 1000])
    return path


def by_ffmpeg(path: Path, layout: str) -> Path:
    """Encode with channels for the loudspeakers that FFmpeg's name of a layout stands for."""
    rate = 48_000  # which opus always has
    codec = {".flac": "flac", ".opus": "libopus", ".m4a": "aac", ".wav": "pcm_s24le"}[path.suffix]
    options = {"mapping_family": "1"} if codec == "libopus" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=options)
        stream.codec_context.open()
        samples = noise(av.AudioLayout(layout).nb_channels, rate).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            stream.codec_context.format,
            layout,
            rate,
            frame_size=stream.codec_context.frame_size or None,
        )
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    return path


def heard(path: Path) -> dict[str, np.ndarray]:
    """The sound of each loudspeaker, by FFmpeg's name of it."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        names = [channel.name for channel in stream.layout.channels]
        resampler = av.AudioResampler("flt", stream.layout, stream.rate)
        frames = [got for frame in container.decode(stream) for got in resampler.resample(frame)]
        samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    assert len(names) == len(set(names))
    return dict(zip(names, samples.reshape(-1, len(names)).T, strict=True))


def check_edit(model: MusicModel, song: Path, out: Path) -> None:
    """Edit a recording, and compare what each loudspeaker plays of what is kept."""
    edit = inpaint(model, song, [(0.9, 1.0)], overlap=0.1, iterations=1, method=Ditto(steps=1))
    edit.save(out, picture=False)
    before, after = heard(song), heard(out)
    # What vorbis calls "rear" flac may call "side", and has one name for both.
    rename = {"SL": "BL", "SR": "BR"} if len(before) in (5, 6) and out.suffix != ".wav" else {}
    before, after = (
        {rename.get(name, name): sound for name, sound in each.items()} for each in (before, after)
    )
    assert set(after) == set(before)
    kept = int(0.7 * edit.sample_rate)
    for name, sound in before.items():
        fits = {
            other: np.corrcoef(sound[:kept], heard_there[:kept])[0, 1]
            for other, heard_there in after.items()
        }
        assert max(fits, key=lambda other: fits[other]) == name, (name, fits)
        assert fits[name] > 0.98


# The masks that the reference decoder writes: src/flac/decode.c of xiph/flac.
FLAC = {3: 0x0007, 4: 0x0033, 5: 0x0607, 6: 0x060F, 7: 0x070F, 8: 0x063F}
# Vorbis I, 4.3.9: front, centre, rear, side and low frequency in the bits of a wav's mask.
VORBIS = {3: 0x0007, 4: 0x0033, 5: 0x0037, 6: 0x003F, 7: 0x070F, 8: 0x063F}


@pytest.mark.parametrize("channels", range(3, 9))
@pytest.mark.parametrize(("ending", "masks"), [(".flac", FLAC), (".ogg", VORBIS)])
def test_a_wav_of_a_flac_or_ogg_has_its_loudspeakers(
    tiny_model: MusicModel, tmp_path: Path, ending: str, masks: dict[int, int], channels: int
) -> None:
    song, out = by_soundfile(tmp_path / f"song{ending}", channels), tmp_path / "out.wav"
    check_edit(tiny_model, song, out)
    assert channel_mask(out) == masks[channels]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ending", [".flac", ".ogg"])
def test_up_to_two_channels_need_no_mask(tmp_path: Path, ending: str, channels: int) -> None:
    song = by_soundfile(tmp_path / f"song{ending}", channels)
    assert Layout.of(song, {}).format_for("WAV") == "WAV"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *(("song.flac", layout) for layout in ("2.1", "4.0", "5.0", "5.1", "6.1(back)")),
        ("song.opus", "3.0"),
        ("song.opus", "5.1"),
        ("song.m4a", "5.1"),
    ],
)
def test_layouts_that_files_name_are_kept_in_a_wav(
    tiny_model: MusicModel, tmp_path: Path, name: str, layout: str
) -> None:
    check_edit(tiny_model, by_ffmpeg(tmp_path / name, layout), tmp_path / "out.wav")


@pytest.mark.parametrize(
    ("ending", "layout", "out"),
    [
        (".wav", "5.1", ".flac"),
        (".wav", "5.1", ".ogg"),
        (".wav", "5.1(side)", ".ogg"),
        (".wav", "7.1", ".ogg"),
        (".opus", "5.1", ".flac"),
        (".flac", "5.1(side)", ".ogg"),
        (".flac", "6.1", ".ogg"),
    ],
)
def test_channels_are_in_the_order_of_other_formats(
    tiny_model: MusicModel, tmp_path: Path, ending: str, layout: str, out: str
) -> None:
    song = by_ffmpeg(tmp_path / f"song{ending}", layout)
    check_edit(tiny_model, song, tmp_path / f"out{out}")


@pytest.mark.parametrize("ending", [".ogg", ".flac"])
def test_the_same_format_keeps_them_where_they_are(
    tiny_model: MusicModel, tmp_path: Path, ending: str
) -> None:
    check_edit(tiny_model, by_soundfile(tmp_path / f"a{ending}", 6), tmp_path / f"b{ending}")
