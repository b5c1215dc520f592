"""Songs of 90 s by the command line: errors, seams and memory beside those of shorter music.

A loudness curve and a tune of a song's length are followed over all windows. Beside each song:
clips of one window that cover the same curve and tune. Beside all: 12 s of music, for the memory;
and the jumps of the spectrum in held-out recordings, for the seams.

Whole notes are missed or none, and most of them in a few windows of some songs, so that one song or
a few clips say little of the share of frames that are missed: it is the mean over several songs,
and there are as many clips as windows.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
import numpy as np
import psutil
import torch

from benchmarks.report import Report, Row
from ditto.audio.io import read_mono
from ditto.audio.spec import AudioSpec
from ditto.errors import AudioFileError, DataError
from ditto.eval.bootstrap import mean_interval
from ditto.eval.seams import typical_jumps
from ditto.models.hub import load

NAME = "song"
TEMPO = 100
LOOK_SECONDS = 0.05
"""Between two looks at a process's memory."""
REAL = 64
"""Real recordings that are heard for the jumps in music, where there are so many."""
SEEDS = 100
"""From one song's seed to the next: no two share a window's noise."""
SCALE = (60, 62, 64, 65, 67, 69, 71, 72, 74, 76)
"""C major from middle C on, where the melody control hears."""


@dataclass(frozen=True)
class Settings:
    """How much is made.

    Attributes:
        seconds: of a song.
        short: of the music whose memory a song's is compared with.
        songs: of as many tunes.
        clips: of one window, beside each song; None is as many as it has windows.
        words: more of the command line.
    """

    seconds: float = 90.0
    short: float = 12.0
    songs: int = 3
    clips: int | None = None
    words: tuple[str, ...] = ()


def curve(seconds: float) -> list[tuple[float, float]]:
    """Return the loudness asked for: up and down again, (seconds, dB)."""
    return [(0.0, -40.0), (seconds / 2, -14.0), (seconds, -40.0)]


def piece(points: Sequence[tuple[float, float]], start: float, seconds: float) -> str:
    """Return a part of a curve as text, in the part's own time."""
    times, levels = zip(*points, strict=True)
    inside = (t for t in times if start < t < start + seconds)
    return " ".join(
        f"{t - start:.4f}:{np.interp(t, times, levels):.3f}"
        for t in (start, *inside, start + seconds)
    )


def tune(seed: int, seconds: float) -> list[int]:
    """Return a walk on the scale, a note a beat."""
    rng = np.random.default_rng(seed)
    beats = int(np.ceil(seconds * TEMPO / 60))
    place, found = len(SCALE) // 2, []
    for step in rng.integers(-2, 3, beats):
        place = int(np.clip(place + step, 0, len(SCALE) - 1))
        found.append(SCALE[place])
    return found


def write_tune(path: Path, notes: Sequence[int], start: float = 0.0) -> None:
    """Write a tune as MIDI, without what is before `start` seconds."""
    file = mido.MidiFile()
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(TEMPO))])
    beat = file.ticks_per_beat
    first = round(start * TEMPO / 60 * beat)
    for i, note in enumerate(notes):
        begin, end = max(i * beat - first, 0), (i + 1) * beat - first
        if end > 0:
            track.append(mido.Message("note_on", note=note, time=0))
            track.append(mido.Message("note_off", note=note, time=end - begin))
    file.tracks.append(track)
    file.save(path)


def places(seconds: float, window: float, count: int) -> list[float]:
    """Return where clips of a window begin that are spread over a song, in seconds.

    That is on bars, where a clip's own beats begin.
    """
    bar = 4 * 60 / TEMPO
    return (bar * (np.linspace(0, seconds - window, count) // bar)).tolist()


@dataclass(frozen=True)
class Made:
    """What a command came to: its report, its peak of memory in MiB, and its seconds."""

    report: dict[str, Any]
    memory: float
    seconds: float


def generate(folder: Path, name: str, words: Sequence[str]) -> Made:
    """Run ``ditto-music generate`` in a process of its own.

    Raises:
        DataError: it failed.
    """
    sound = folder / f"{name}.wav"
    begun = time.perf_counter()
    command = [sys.executable, "-m", "ditto", "generate", *words, "-o", str(sound), "--force"]
    process = subprocess.Popen(command)
    most = 0.0
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise DataError(f"generate {' '.join(words)} failed: it said why above")
    report = json.loads(sound.with_suffix(".json").read_text(encoding="utf-8"))
    return Made(report, most, time.perf_counter() - begun)


def peak_memory(process: int) -> float:
    """Return the peak of a process's memory up to now in MiB.

    On Linux it is the kernel's own figure, ``VmHWM``. What ``wait`` says of a process, its
    ``ru_maxrss``, begins with the size of the process that started it, which would hide growth.
    Elsewhere it is what the process has at the moment; 0 where it has ended.
    """
    status = Path(f"/proc/{process}/status")
    try:
        if not status.parent.parent.joinpath("self").exists():
            return psutil.Process(process).memory_info().rss / 2**20
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except (OSError, psutil.Error):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def real_jumps(folder: Path, spec: AudioSpec) -> np.ndarray:
    """Return the jumps in dB at all places of the recordings in a folder.

    Raises:
        DataError: there are none.
    """
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    found: list[np.ndarray] = []
    for path in files:
        try:
            found.append(typical_jumps(torch.from_numpy(read_mono(path, spec)), spec))
        except AudioFileError:
            continue
        if len(found) == REAL:
            break
    if not found:
        raise DataError(f"{folder} holds no recordings: give --held-out a folder of some")
    return np.concatenate(found)


def measured(
    real: Path, settings: Settings | None = None, *, seed: int, model: str | None, command: str
) -> Report:
    """Make the songs and what they are compared with.

    Args:
        real: a folder of held-out recordings.
        settings: how much is made.
        seed: of the first tune and song; see `SEEDS`.
        model: a folder or Hub id; None is the embedded one.
        command: to say how this was made.
    """
    settings = settings or Settings()
    loaded, begun = load(model), time.perf_counter()
    spec = loaded.spec
    window, seconds = spec.seconds(loaded.shape()[-1]), settings.seconds
    points = curve(seconds)
    border = float(np.percentile(real_jumps(real, spec), 95))
    long: list[Made] = []
    clips: list[Made] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def made(notes: Sequence[int], start: float, length: float | None, drawn: int) -> Made:
            write_tune(folder / "tune.mid", notes, start)
            words = ["--intensity", piece(points, start, length or window), "--melody"]
            words += [str(folder / "tune.mid"), "--tags", f"tempo={TEMPO}"]
            words += ["--seed", str(drawn), "--no-compare", *settings.words]
            words += [] if length is None else ["--seconds", str(length)]
            return generate(folder, "made", words + ([] if model is None else ["--model", model]))

        short = made(tune(seed, seconds), 0.0, settings.short, seed)
        for first in range(seed, seed + SEEDS * settings.songs, SEEDS):
            notes = tune(first, seconds)
            long.append(made(notes, 0.0, seconds, first))
            starts = places(seconds, window, settings.clips or len(long[-1].report["parts"]))
            clips += [made(notes, at, None, first + i) for i, at in enumerate(starts)]
    most, rows = max(song.memory for song in long), [*_error_rows(long, clips)]
    rows += _seam_rows(long, border)
    rows += [
        Row("song", "peak memory", "MiB", most),
        Row(f"{settings.short:g} s", "peak memory", "MiB", short.memory),
        Row("song", f"peak memory over that of {settings.short:g} s", "", most / short.memory),
        Row("song", "time", "s", float(np.mean([song.seconds for song in long]))),
    ]
    return Report(
        name=NAME,
        command=command,
        model={"name": loaded.name, "sha256": loaded.sha256},
        embedding="none",
        count=len(clips),
        seed=seed,
        seconds=time.perf_counter() - begun,
        settings={"songs": settings.songs, "seconds": seconds, "tempo": TEMPO, "curve": points},
        rows=tuple(rows),
        claims=(),
    )


def _error_rows(songs: Sequence[Made], clips: Sequence[Made]) -> list[Row]:
    rows = []
    for name in songs[0].report["errors"]:
        long, single = _known(songs, name), _known(clips, name)
        if not long or not single:
            continue
        ours, theirs = mean_interval(long), mean_interval(single)
        rows.append(Row.of("song", name, "", ours, count=len(long)))
        rows += [Row(f"song {i}", name, "", value) for i, value in enumerate(long, start=1)]
        rows.append(Row.of("one window", name, "", theirs, count=len(single)))
        # Of what is better the larger it is, what lacks to all of it is the error.
        lack = name.endswith("_percent")
        above, below = (
            (100 - ours.value, 100 - theirs.value) if lack else (ours.value, theirs.value)
        )
        if below > 0 and not name.endswith("_rho"):
            label = f"{name}: {'lack' if lack else 'error'} over that of one window"
            rows.append(Row("song", label, "", above / below))
    return rows


def _known(made: Sequence[Made], name: str) -> list[float]:
    """Return an error of all that have it."""
    values = (one.report["errors"].get(name) for one in made)
    return [value for value in values if value is not None]


def _seam_rows(songs: Sequence[Made], border: float) -> list[Row]:
    jumps = [[seam["jump_db"] for seam in song.report["seams"]] for song in songs]
    every = [jump for song in jumps for jump in song]
    return [
        Row("held-out recordings", "95th percentile of jumps", "dB", border),
        *(
            Row(f"song {i}, seam {j}", "jump", "dB", jump)
            for i, song in enumerate(jumps, start=1)
            for j, jump in enumerate(song, start=1)
        ),
        Row("song", "largest jump of a seam", "dB", max(every)),
        Row("song", "seams", "", float(len(every))),
        Row("song", "seams beyond it", "", float(sum(jump > border for jump in every))),
    ]
