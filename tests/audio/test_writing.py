"""Sound files as they are written."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audio.files import ENDINGS, LAST_BIT, fifo, only_line, sine, write_raw

from ditto.audio import io
from ditto.errors import OutputError
from ditto.paths import printable


@pytest.mark.parametrize("ending", ENDINGS)
def test_tags_survive_in_every_format(tmp_path, ending):
    tags = {
        "title": "Ünïcode 音",
        "comment": "seed 7; " * 200,
        "date": "2026",
        "artist": "-",
        "software": "ditto",
    }
    path = tmp_path / f"a{ending}"
    io.write(path, sine(channels=2), 22_050, tags=tags)
    found = io.read_tags(path)
    if ending != ".mp3":
        # libsndfile adds its name; in mp3 LAME writes its own
        assert found.pop("software").startswith("ditto")
    names = ("title", "comment", "date", "artist")
    assert found.items() >= {name: tags[name] for name in names}.items()
    assert io.read(path).samples.shape == (2, 22_050)


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_tags_at_their_longest_do_no_harm(tmp_path, ending):
    short = {"software": "é" * 50, "date": "2026", "tracknumber": "3"}
    tags = dict.fromkeys(io.TAGS, "é" * 1_000) | short
    path = tmp_path / f"a{ending}"
    io.write(path, sine(), 22_050, tags=tags)
    kept = set(io.TAGS) - {".wav": {"license"}, ".mp3": {"license", "copyright"}}.get(ending, set())
    found = io.read_tags(path)
    assert set(found) == kept
    assert all(found[name] == tags[name] for name in kept - {"software"})
    np.testing.assert_allclose(
        io.read(path).samples[:, 2_000:-2_000], sine()[:, 2_000:-2_000], atol=0.02
    )


def test_a_file_without_tags_has_none(tmp_path):
    assert io.read_tags(write_raw(tmp_path / "a.wav", sine())) == {}


@pytest.mark.parametrize(
    "tags", [{"mood": "dark"}, {"comment": "x" * 2_001}, {"software": "é" * 51}, {"title": "a\0b"}]
)
def test_tags_that_would_be_lost_are_refused(tmp_path, tags):
    with pytest.raises(ValueError, match="tag"):
        io.write(tmp_path / "a.wav", sine(), 22_050, tags=tags)
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(
    rate=st.integers(io.MIN_RATE, 65_535)
    | st.integers(400, 19_200).map(lambda tens: 10 * tens),  # all that flac takes
    channels=st.integers(1, 6),
    encoding=st.sampled_from(
        [(".wav", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE")]
        + [(".flac", s) for s in ("PCM_S8", "PCM_16", "PCM_24")]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read(tmp_path_factory, rate, channels, encoding, seed):
    ending, subtype = encoding
    path = tmp_path_factory.mktemp("round") / f"a{ending}"
    samples = np.random.default_rng(seed).uniform(-1, 1, (channels, rate // 10)).astype(np.float32)
    io.write(path, samples, rate, subtype=subtype)
    audio = io.read(path)
    assert (audio.sample_rate, io.info(path).subtype) == (rate, subtype)
    np.testing.assert_allclose(audio.samples, samples, atol=1.01 * LAST_BIT[subtype])


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [(".wav", "PCM_16"), (".flac", "PCM_24"), (".OGG", "VORBIS"), (".mp3", "MPEG_LAYER_III")],
)
def test_the_ending_chooses_the_encoding(tmp_path, ending, subtype):
    io.write(tmp_path / f"a{ending}", sine()[0], 22_050)
    assert io.info(tmp_path / f"a{ending}").subtype == subtype


def test_full_scale_does_not_wrap_around(tmp_path):
    square = np.sign(sine()) * np.float32(1)
    io.write(tmp_path / "a.wav", square, 22_050)
    np.testing.assert_allclose(io.read(tmp_path / "a.wav").samples, square, atol=2**-14)


def test_a_long_ogg_is_written(tmp_path):
    io.write(tmp_path / "a.ogg", sine(22_050, 90), 22_050)
    assert io.info(tmp_path / "a.ogg").seconds == pytest.approx(90)


BAD_OUTPUT = {
    "clipping": (
        "a.wav",
        1.5 * sine() / 0.5,
        {},
        "it would clip, its peak is 1.5 and may be at most 1",
    ),
    "clipping in ogg": ("a.ogg", 4 * sine(), {}, "it would clip"),
    "NaN": ("a.wav", sine() * np.nan, {"subtype": "FLOAT"}, "not finite"),
    "unknown ending": ("a.aac", sine(), {}, "its name must end in .wav, .flac, .ogg, .mp3"),
    "no ending": ("a", sine(), {}, "its name must end in"),
    "unknown subtype": (
        "a.flac",
        sine(),
        {"subtype": "FLOAT"},
        "FLAC takes PCM_S8, PCM_16, PCM_24",
    ),
    "too wide for mp3": ("a.mp3", sine(channels=3), {}, "cannot write"),
    "no folder": ("none/a.wav", sine(), {}, "its folder does not exist, make it first"),
    "folder is a file": ("file/a.wav", sine(), {}, "its folder does not exist"),
    "exists": (
        "old.wav",
        sine(),
        {},
        "exists already: choose another name, or replace it with --force",
    ),
    "is a folder": ("folder.wav", sine(), {"force": True}, "it is not a regular file"),
    "is a pipe": ("pipe.wav", sine(), {"force": True}, "it is not a regular file"),
    "null in name": ("a\0.wav", sine(), {}, "null character"),
    "name too long": ("a" * 300 + ".wav", sine(), {}, "File name too long"),
    "line break in name": ("none/a\nb.wav", sine(), {}, "its folder does not exist"),
}


@pytest.mark.parametrize("name", BAD_OUTPUT)
def test_bad_output_is_refused_and_leaves_everything_as_it_was(tmp_path, name):
    (tmp_path / "file").write_bytes(b"file")
    (tmp_path / "old.wav").write_bytes(b"old")
    (tmp_path / "folder.wav").mkdir()
    fifo(tmp_path / "pipe.wav")
    before = sorted(tmp_path.iterdir())
    path, samples, settings_, message = BAD_OUTPUT[name]
    with pytest.raises(OutputError, match=message) as error:
        io.write(tmp_path / path, samples, 22_050, **settings_)
    assert printable(tmp_path / path) in only_line(error)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.wav").read_bytes() == b"old"


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 0)), np.zeros((1, 2, 9))])
def test_samples_of_another_shape_are_refused(tmp_path, samples):
    with pytest.raises(ValueError, match="shape"):
        io.write(tmp_path / "a.wav", samples, 22_050)


def test_force_replaces(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    io.write(path, sine(), 22_050, force=True)
    assert io.read(path).seconds == 1.0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_nothing_behind(tmp_path, ending):
    """A real failure of the system's write, through a limit on the size of files in another
    process."""
    program = (
        "import resource, numpy as np\n"
        "from ditto.audio import io; from ditto.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "noise = np.random.default_rng(0).uniform(-1, 1, 900_000)\n"
        "try:\n"
        f"    io.write('a{ending}', noise, 22_050)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write a{ending}: ")
    assert len(done.stdout.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # not chmod: root may write everywhere
    with pytest.raises(OutputError, match=r"cannot write .*a.wav: Permission denied$"):
        io.write(tmp_path / "a.wav", sine(), 22_050)
