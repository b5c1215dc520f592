"""``python -m tests.campaign.recordings FOLDER``: all edits on recordings that people have.

From the recordings in a folder a piece each is written in another container, rate and number of
channels; the first two stay whole and as they are. Every command that takes a recording is run on
each, with as little computing as can be. What must hold: all end well, outputs are whole, inputs do
not change, and what an edit keeps is what soundfile decodes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from tests.campaign.world import check_whole, command

from ditto import paths
from ditto.audio.opening import ENDINGS

SECONDS = 9.0
AS_THEY_ARE = 2
"""Recordings that are used whole, and not written anew."""
QUICK = ("-K", "1", "-T", "1", "--device", "cpu")


VORBIS_IN_WAV = [0, 2, 1, 5, 3, 4]
"""Places in Vorbis' 5.1 (left, centre, right, rear left, rear right, low: its specification, 4.3.9)
of the channels as wav and flac have them (left, right, centre, low, rear left, rear right)."""


@dataclass(frozen=True)
class Form:
    """How a recording is written: ending, rate in Hz, channels, soundfile's encoding."""

    ending: str
    rate: int
    channels: int
    subtype: str


FORMS = (
    Form("wav", 22_050, 1, "PCM_16"),
    Form("wav", 44_100, 2, "PCM_24"),
    Form("wav", 48_000, 6, "FLOAT"),
    Form("wav", 96_000, 2, "PCM_32"),
    Form("wav", 44_100, 2, "IMA_ADPCM"),
    Form("flac", 22_050, 2, "PCM_16"),
    Form("flac", 44_100, 1, "PCM_24"),
    Form("flac", 48_000, 6, "PCM_24"),
    Form("flac", 96_000, 2, "PCM_24"),
    Form("ogg", 22_050, 1, "VORBIS"),
    Form("ogg", 44_100, 2, "VORBIS"),
    Form("ogg", 48_000, 6, "VORBIS"),
    Form("ogg", 96_000, 2, "VORBIS"),
    Form("opus", 24_000, 1, "OPUS"),
    Form("opus", 48_000, 2, "OPUS"),
    Form("mp3", 22_050, 1, "MPEG_LAYER_III"),
    Form("mp3", 32_000, 2, "MPEG_LAYER_III"),
    Form("mp3", 48_000, 2, "MPEG_LAYER_III"),
)


def decoded(path: Path) -> tuple[np.ndarray, int]:
    """Return a whole recording as soundfile decodes it, shape (n, channels), float64."""
    return soundfile.read(path, always_2d=True)


def written_anew(source: Path, form: Form, folder: Path) -> Path:
    """Write a piece of a recording in another form; 5.1 from left and right."""
    samples, rate = decoded(source)
    first = max(len(samples) // 3 - round(SECONDS * rate / 2), 0)
    piece = samples[first : first + round(SECONDS * rate)]
    piece = soxr.resample(piece, rate, form.rate)
    left, right = piece[:, 0], piece[:, -1]
    middle = (left + right) / 2
    chosen = {
        1: [middle],
        2: [left, right],
        6: [left, right, middle, 0.1 * middle, 0.5 * left, 0.5 * right],
    }[form.channels]
    path = (
        folder / f"{source.stem}-{form.rate}-{form.channels}-{form.subtype.lower()}.{form.ending}"
    )
    container = "OGG" if form.ending == "opus" else form.ending.upper()
    peak = max(1.0, float(np.abs(chosen).max()))
    with soundfile.SoundFile(
        path, "w", form.rate, form.channels, subtype=form.subtype, format=container
    ) as file:
        for block in np.array_split(np.stack(chosen, axis=1) / peak, 16):
            file.write(block)
    return path


def edits(song: Path, seconds: float, more: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the output's ending of every command that takes a recording, and its words.

    Args:
        song: the recording.
        seconds: its length.
        more: words for those that fill a gap.
    """
    name, middle = song.name, seconds / 2
    region = ["--from", f"{middle:.3f}", "--to", f"{middle + 0.5:.3f}", *more]
    yield ".wav", ["inpaint", name, *region]
    yield ".flac", ["inpaint", name, *region]
    yield ".wav", ["outpaint", name, "--seconds", f"{seconds + 1:.3f}", *more]
    yield ".wav", ["loop", name, *more]
    yield ".latent", ["invert", name]
    yield ".wav", ["generate", "--loudness-like", name]
    yield ".wav", ["generate", "--structure-like", name]


def check_kept(song: Path, sound: Path) -> float:
    """Compare what an edit kept with what the recording decodes to; return the greatest distance.

    The distance is in steps of 24 bits. Below one is right: libsndfile rounds down in wav. Of mp3
    its decoder gives by itself up to a step more or less, in blocks and at once.
    """
    report = json.loads(sound.with_suffix(".json").read_text(encoding="utf-8"))
    before, rate = decoded(song)
    after, now = decoded(sound)
    assert (now, after.shape[1]) == (rate, before.shape[1]), "another rate or number of channels"
    if song.suffix == ".ogg" and before.shape[1] == 6 and sound.suffix != ".ogg":
        before = before[:, VORBIS_IN_WAV]
    kept = np.ones(len(after), bool)
    kept[len(before) :] = False
    fade = report["faded_seconds"]
    if report["edit"] == "loop":
        kept[: round(fade * rate) + 1] = False  # its end is faded into its start
    for start, end in report["new"]:
        kept[max(round((start - fade) * rate) - 1, 0) : round((end + fade) * rate) + 1] = False
    assert kept.sum() > 0.2 * len(before), "hardly anything is kept"
    gain = report.get("gain", 1.0)
    where = np.flatnonzero(kept)
    return float(np.abs(after[where] - gain * before[where]).max() * 2**23)


def nearness(steps: float) -> str:
    """Say how near what is kept is to what it was."""
    if steps == 0:
        return "equal to the bit"
    return "within a step of 24 bits" if steps < 1 else "within two steps of 24 bits"


def tried(song: Path, model: Sequence[str], more: Sequence[str], tally: Counter[str]) -> list[str]:
    """Run all commands on a recording; return what failed."""
    about, failures = soundfile.info(song), []
    content = song.read_bytes()
    for ending, words in edits(song, about.duration, more):
        sound = song.parent / f"out-{song.stem}{ending}"
        what = f"{words[0] if words[0] != 'generate' else words[1][2:]} to {ending[1:]}"
        try:
            ran = command([*words, *QUICK, *model, "-o", sound.name], song.parent)
            assert ran.code == 0, (ran.code, ran.err[-1500:])
            made = sorted(song.parent.glob(f"out-{song.stem}*"))
            assert len(made) >= 3
            for path in made:
                check_whole(path)
            if words[0] in ("inpaint", "outpaint", "loop"):
                steps = check_kept(song, sound)
                most = 2 if song.suffix == ".mp3" else 1
                assert steps < most, f"kept samples differ by {steps} steps of 24 bits"
                tally[nearness(steps)] += 1
            tally[f"{what}: well"] += 1
        except Exception as error:
            tally[f"{what}: failed"] += 1
            failures.append(f"{song.name}: {' '.join(words)}: {type(error).__name__}: {error}")
            print(failures[-1], file=sys.stderr, flush=True)
        finally:
            for path in song.parent.glob("out-*"):
                path.unlink()
    assert song.read_bytes() == content, f"{song.name} changed"
    assert not list(song.parent.glob(f"{paths.TEMPORARY}*")), "a temporary is left"
    return failures


def main(words: Sequence[str] | None = None) -> int:
    """Try all recordings of a folder; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.recordings")
    parser.add_argument("folder", type=Path, help="holds recordings; they are only read")
    parser.add_argument("--model", help="a folder; the embedded model by default")
    parser.add_argument("--overlap", help="of old and new in seconds, for small models")
    parser.add_argument("--count", type=int, default=AS_THEY_ARE + len(FORMS))
    parser.add_argument("--log", type=Path, help="receives what came of it as JSON")
    given = parser.parse_args(words)
    sources = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in ENDINGS)
    sources = [p for p in sources if soundfile.info(p).duration >= SECONDS]
    if not sources:
        parser.error(f"{given.folder} holds no recording of {SECONDS:g} s")
    torch.set_num_threads(1)
    model = [] if given.model is None else ["--model", given.model]
    more = [] if given.overlap is None else ["--overlap", given.overlap]
    tally, failures, begun, songs = Counter[str](), [], time.monotonic(), []
    for i in range(given.count):
        # Takes from all of the folder, which is sorted by makers and kinds.
        source = sources[i * len(sources) // given.count]
        with tempfile.TemporaryDirectory() as name:
            if i < AS_THEY_ARE:
                song = Path(name) / source.name
                song.write_bytes(source.read_bytes())
            else:
                song = written_anew(source, FORMS[(i - AS_THEY_ARE) % len(FORMS)], Path(name))
            about = soundfile.info(song)
            songs.append(f"{about.format} {about.subtype}, {about.samplerate} Hz, {about.channels}")
            failures += tried(song, model, more, tally)
        print(
            f"{i + 1}: {songs[-1]}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True
        )
        if given.log is not None:
            told = {"recordings": songs, "outcomes": dict(tally), "failures": failures}
            given.log.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{len(songs)} recordings, {len(failures)} failures: {dict(tally)}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
