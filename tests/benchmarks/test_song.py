"""The benchmark of long music, on the tiny model."""

import subprocess
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from benchmarks import song
from ditto.controls.midi import read_midi
from ditto.errors import DataError


def test_a_part_of_the_curve_is_that_of_the_whole() -> None:
    points = song.curve(90.0)
    values = [tuple(map(float, word.split(":"))) for word in song.piece(points, 43.0, 6.0).split()]
    assert values == [
        (0, pytest.approx(-40 + 26 * 43 / 45, abs=1e-3)),
        (2, -14),
        (6, pytest.approx(-14 - 26 * 4 / 45, abs=1e-3)),
    ]


def test_the_tune_is_written_a_note_a_beat_and_from_the_middle(tmp_path: Path) -> None:
    notes = song.tune(0, 6.0)
    assert len(notes) == 10
    song.write_tune(tmp_path / "a.mid", notes)
    song.write_tune(tmp_path / "b.mid", notes, 2.4)
    assert mido.MidiFile(tmp_path / "a.mid").length == pytest.approx(6.0)
    read = read_midi(tmp_path / "b.mid").notes
    assert [note.pitch for note in read] == notes[4:]
    assert [note.onset for note in read] == pytest.approx([0.6 * i for i in range(6)], abs=1e-3)


def test_as_many_clips_as_windows_cover_the_song() -> None:
    window = 5.944
    starts = np.array(song.places(90.0, window, 18))
    np.testing.assert_allclose(starts / 2.4, (starts / 2.4).round())
    assert starts[0] == 0
    heard = np.zeros(9000, bool)
    for start in starts:
        heard[round(100 * start) : round(100 * (start + window))] = True
    assert heard.mean() > 0.9


def test_a_song_is_measured_beside_clips_of_one_window(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recordings"):
        song.measured(tmp_path, seed=0, model=str(model_folder), command="")
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "real.wav", samples, 8000)
    (tmp_path / "notes.txt").write_text("no recording")
    words = ("--method", "none", "-T", "1")
    settings = song.Settings(seconds=2.0, short=0.8, songs=2, clips=1, words=words)
    report = song.measured(tmp_path, settings, seed=0, model=str(model_folder), command="")
    error = report.value("song", "intensity_mse_db2")
    alone = report.value("one window", "intensity_mse_db2")
    assert error is not None
    assert alone is not None
    ratio = report.value("song", "intensity_mse_db2: error over that of one window")
    assert ratio == pytest.approx(error / alone)
    both = [report.value(f"song {i}", "intensity_mse_db2") or 0.0 for i in (1, 2)]
    assert both[0] != both[1], "each song has a tune and noise of its own"
    assert error == pytest.approx(sum(both) / 2)
    assert report.count == 2
    assert (report.value("song", "peak memory") or 0) > 50
    assert report.value("song 2, seam 4", "jump") is not None
    assert report.value("song", "seams") == 8


def test_the_peak_is_the_processs_own_whoever_started_it() -> None:
    """And not the starting process's size, as `ru_maxrss` has it."""
    ballast = bytearray(1) * (400 * 2**20)  # written to, so that it counts
    code = "held = bytearray(1) * ({} * 2**20); held = None; print(); input()"
    for size in (0, 100):
        with subprocess.Popen(
            [sys.executable, "-c", code.format(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            # On other systems what has been given back is not seen.
            low = size if Path("/proc/self/status").exists() else 0
            assert low < song.peak_memory(process.pid) < size + 100
            process.communicate(b"\n")
    assert song.peak_memory(process.pid) == 0
    assert len(ballast) == 400 * 2**20
