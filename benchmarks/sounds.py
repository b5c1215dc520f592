"""The short mp3 of docs/audio and the picture at the top of the README, made by the embedded model.

    python -m benchmarks sounds

Every sound is made by the Python API with default settings; `SOUNDS` names the command line that
asks for the same. `main` also writes docs/audio/README.md, a table of sounds, commands and errors.
"""

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

import ditto
from ditto import cli

DOCS = Path(__file__).parent.parent / "docs"
LIMIT_BYTES, TOTAL_BYTES = 60_000, 600_000
PAIR_BYTES = 30_000
"""Of one sound of a pair."""
TAGS = {"genre": "jazz", "mood": "calm", "tempo": 110}
SEED = 7
TUNE = "C4:1 E4:1 G4:1 E4:1 F4:1 A4:1 G4:2 E4:1 C4:2"
TEXT = "a loud rock song with distorted guitars"
PICTURE = "crescendo"
"""The sound whose picture is the README's."""
COLOURS = 256
"""Of the picture, which is to be small."""


@dataclass(frozen=True)
class Sound:
    """One sound of docs/audio.

    Attributes:
        name: of the file, without its ending.
        what: one line for the table.
        command: the command line that makes the same, without ``ditto-music`` and ``-o``.
        make: the same by the Python API, from a model and a folder that holds the wav files of the
            sounds before it.
    """

    name: str
    what: str
    command: str
    make: Callable[[ditto.MusicModel, Path], Any]


def clip(*controls: ditto.Control, tags: Mapping[str, Any] = TAGS, **settings: Any) -> Callable:
    """Return what makes a clip that follows the controls."""

    def make(model: ditto.MusicModel, folder: Path) -> ditto.Result:
        return ditto.generate(model, controls, tags=tags, seed=SEED, **settings)

    return make


def melody() -> ditto.Melody:
    """Return the tune of the sounds."""
    return ditto.Melody.from_notes(TUNE, bpm=TAGS["tempo"])


def inpaint(model: ditto.MusicModel, folder: Path) -> Any:
    """Make 2 to 4 s of the uncontrolled clip anew."""
    return ditto.inpaint(model, folder / "plain.wav", [(2.0, 4.0)], tags=TAGS, seed=SEED + 1)


def outpaint(model: ditto.MusicModel, folder: Path) -> Any:
    """Make the uncontrolled clip 10 s long."""
    return ditto.outpaint(model, folder / "plain.wav", seconds=9.5, tags=TAGS, seed=SEED + 1)


def loop(model: ditto.MusicModel, folder: Path) -> Any:
    """Make a loop of two bars, written twice."""
    return ditto.loop(model, 4.0, repeats=2, tags=TAGS | {"tempo": 120}, seed=SEED)


def invert(model: ditto.MusicModel, folder: Path) -> ditto.Result:
    """Find the latent of the uncontrolled clip and decode it."""
    return ditto.invert(model, folder / "plain.wav", tags=TAGS)


def vary(model: ditto.MusicModel, folder: Path) -> ditto.Result:
    """Make one other clip from the crescendo's latent."""
    latent = ditto.Latent.load(folder / f"{PICTURE}.latent")
    return ditto.vary(model, latent, count=1, how="ddpm+freedom", seed=SEED)


WORDS = '--tags "genre=jazz mood=calm tempo=110"'
SOUNDS = (
    Sound("plain", "No control", f"generate {WORDS} --method none --seed 7", clip()),
    Sound(
        "crescendo",
        "Loudness: a crescendo from −40 to −20 dB",
        f"generate {WORDS} --loudness crescendo --seed 7",
        clip(ditto.Intensity("crescendo")),
    ),
    Sound("melody", "Melody", f'generate {WORDS} --melody "{TUNE}" --seed 7', clip(melody())),
    Sound(
        "form",
        "Structure: ABA",
        f"generate {WORDS} --structure ABA --seed 7",
        clip(ditto.Structure("ABA")),
    ),
    Sound(
        "text",
        "Text, by the embedded CLAP; no tags",
        f'generate --text "{TEXT}" --seed 7',
        clip(ditto.Text(TEXT), tags={}),
    ),
    Sound(
        "melody-loudness",
        "Two controls: the same melody under a swell",
        f'generate {WORDS} --melody "{TUNE}" --loudness swell --seed 7',
        clip(melody(), ditto.Intensity("swell")),
    ),
    Sound(
        "from-2-to-4",
        "A control for part of the time: the same melody from 2 to 4 s",
        f'generate {WORDS} --melody "{TUNE}" --melody-during 2-4 --seed 7',
        clip(melody().during((2.0, 4.0))),
    ),
    Sound(
        "inpaint",
        "Inpainting: plain.mp3 with 2 to 4 s made anew",
        f"inpaint plain.wav --from 2 --to 4 {WORDS} --seed 8",
        inpaint,
    ),
    Sound(
        "outpaint",
        "Outpainting: plain.mp3 goes on to 9.5 s",
        f"outpaint plain.wav --seconds 9.5 {WORDS} --seed 8",
        outpaint,
    ),
    Sound(
        "loop",
        "A loop from nothing, two bars, played twice",
        'loop --bpm 120 --bars 2 --repeats 2 --tags "genre=jazz mood=calm" --seed 7',
        loop,
    ),
    Sound(
        "invert",
        "Inversion: plain.mp3 made again from a latent",
        f"invert plain.wav {WORDS}",
        invert,
    ),
    Sound(
        "vary",
        "A variation of crescendo.mp3 from its latent, by FreeDoM",
        "vary crescendo.latent --count 1 --how ddpm+freedom --seed 7",
        vary,
    ),
)


@dataclass(frozen=True)
class Pair:
    """A clip without control and with it, of one noise: what the control costs, to be heard.

    Both are decoded by the student, and the first is what the report of the second compares with.

    Attributes:
        name: of the files, before ``-without`` and ``-with``.
        tags: of both.
        options: that ask for the control, on the command line.
        seed: of both.
    """

    name: str
    tags: str
    options: str
    seed: int

    def command(self) -> str:
        """Return the second's command line, without ``ditto-music`` and ``-o``."""
        return self._command(self.options)

    def plain_command(self, report: Mapping[str, Any]) -> str:
        """Return the first's, of the noise that the second began at by its report."""
        chosen = f" --candidate {report['candidate']}" if "candidate" in report else ""
        return self._command(f"--method ditto2{chosen}")

    def _command(self, options: str) -> str:
        return f'generate --tags "{self.tags}" {options} --seed {self.seed}'

    def make(self, folder: Path) -> dict[str, Any]:
        """Make both sounds, NAME-without.wav and NAME-with.wav, and return the second's report."""
        run(self.command(), folder / f"{self.name}-with.wav")
        report = json.loads((folder / f"{self.name}-with.json").read_text(encoding="utf-8"))
        run(self.plain_command(report), folder / f"{self.name}-without.wav")
        return report


def run(command: str, place: Path) -> None:
    """Make a sound file by a command line, given without ``ditto-music`` and ``-o``."""
    cli.app([*shlex.split(command), "-o", str(place)], standalone_mode=False)


TUNES = '--melody "G4:1 A4:1 B4:1 D5:2 B4:1 A4:1 G4:2"', '--melody "A4:1 E4:1 C5:2 B4:2"'
CHORDS = '--chords "C:2 Am:2 F:2 G:2"'
PAIRS = (
    Pair("swell", "genre=rock mood=energetic tempo=120", "--loudness swell", 1),
    Pair("dip", "genre=electronic mood=dark tempo=130", "--loudness dip", 2),
    Pair("tune", "genre=folk mood=happy tempo=100", TUNES[0], 3),
    Pair("slow-tune", "genre=classical mood=sad tempo=90", TUNES[1], 4),
    Pair("aba", "genre=funk mood=energetic tempo=110", "--structure ABA", 5),
    Pair("ab", "genre=ambient mood=dreamy tempo=80", "--structure AB", 6),
    Pair("text", "genre=jazz mood=calm tempo=110", '--text "a calm jazz trio with piano"', 7),
    Pair("darken", "genre=latin mood=happy tempo=120", "--brightness darken", 8),
    Pair("beats", "genre=rock mood=dark tempo=120", "--beats 120", 9),
    Pair("chords", "genre=jazz mood=dreamy tempo=120", CHORDS, 10),
    Pair("tune-swell", "genre=folk mood=calm tempo=100", f"{TUNES[0]} --loudness swell", 11),
    Pair("chords-swell", "genre=latin mood=sad tempo=120", f"{CHORDS} --loudness swell", 12),
)
"""Of every genre, and of every control; the seeds are in order."""


def write_mp3(path: Path, samples: np.ndarray, sample_rate: int, limit: int = LIMIT_BYTES) -> None:
    """Write a sound as mono mp3 of a constant bit rate that keeps it small.

    Args:
        path: the mp3.
        samples: (channels, n) or (n,), ±1 at full scale.
        sample_rate: in Hz.
        limit: bytes at most.

    Raises:
        ValueError: it cannot be made small enough.
    """
    mono = np.atleast_2d(samples).mean(axis=0)
    for compression in (0.75, 0.8, 0.85, 0.9, 0.95):
        soundfile.write(
            path,
            mono,
            sample_rate,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=compression,
        )
        if path.stat().st_size <= limit:
            return
    raise ValueError(f"{path} has {path.stat().st_size} bytes, above {limit}")


def errors_of(made: Any) -> str:
    """Return a clip's or an edit's errors as one line."""
    values = {name: np.mean([float(v) for v in np.ravel(e)]) for name, e in made.errors.items()}
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items()) or "–"


def kept_of(report: Mapping[str, Any]) -> str:
    """Return what a report says is kept of the clip without control."""
    kept = report["kept"]
    percent = kept["onsets_percent"]  # None where there are none without control
    onsets = "–" if percent is None else f"{percent:.0f} %"
    of = f" (candidate {kept['candidate']})" if "candidate" in kept else ""
    return f"{onsets}, {kept['clap_similarity']:.2f}{of}"


def table(
    rows: list[tuple[Sound, str]],
    model: ditto.MusicModel,
    pairs: Sequence[tuple[Pair, Mapping[str, Any]]] = (),
) -> str:
    """Return the page of docs/audio: a table of sounds, and one of pairs with their reports."""
    lines = [
        "# Sounds",
        "",
        "The embedded model with default settings, mono mp3. Made by `python -m benchmarks sounds`",
        f"with the model {model.sha256[:12]}; nothing was chosen by ear, the seeds are what the",
        "commands say.",
        "",
        "| sound | what | `ditto-music …` | error |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| [{sound.name}.mp3]({sound.name}.mp3) | {sound.what} | `{sound.command}` | {errors} |"
        for sound, errors in rows
    ]
    lines += [
        "",
        "## The same noise without and with control",
        "",
        "*Without* is what the student makes of the noise that the other began at:",
        "`--method ditto2` in place of the control, with `--candidate` where a noise was chosen.",
        "*Kept* is how many onsets the clip has in % of the one without control, and how alike",
        "CLAP hears the two (1 is the same sound).",
        "",
        "| without | with | `ditto-music …` | error | kept |",
        "|---|---|---|---|---|",
    ]
    for pair, report in pairs:
        without, controlled = (f"pairs/{pair.name}-{end}.mp3" for end in ("without", "with"))
        errors = ", ".join(f"{name} {value:.3g}" for name, value in report["errors"].items())
        lines.append(
            f"| [without]({without}) | [with]({controlled}) | `{pair.command()}` | {errors} "
            f"| {kept_of(report)} |"
        )
    return "\n".join([*lines, ""])


def main(out: Path = DOCS) -> None:
    """Make all sounds, the table and the README's picture.

    Args:
        out: the docs folder; `out`/audio and `out`/picture.png are written over.

    Raises:
        ValueError: the sounds are larger than `TOTAL_BYTES` together.
    """
    audio = out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    model, rows = ditto.load(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sound in SOUNDS:
            made = sound.make(model, folder)
            made.save(folder / f"{sound.name}.wav", force=True)
            if sound.name == PICTURE:
                made.latent().save(folder / f"{PICTURE}.latent", force=True)
                picture = Image.open(folder / f"{PICTURE}.png").convert("RGB").quantize(COLOURS)
                picture.save(out / "picture.png", optimize=True)
            samples, rate = soundfile.read(folder / f"{sound.name}.wav", always_2d=True)
            write_mp3(audio / f"{sound.name}.mp3", samples.T, rate)
            rows.append((sound, errors_of(made)))
            print(f"{sound.name}.mp3  {rows[-1][1]}", flush=True)
        pairs = [(pair, pair.make(folder)) for pair in PAIRS]
        (audio / "pairs").mkdir(exist_ok=True)
        for place in sorted(folder.glob("*-with*.wav")):
            samples, rate = soundfile.read(place, always_2d=True)
            write_mp3(audio / "pairs" / f"{place.stem}.mp3", samples.T, rate, PAIR_BYTES)
    total = sum(path.stat().st_size for path in audio.glob("*.mp3"))
    if total > TOTAL_BYTES:
        raise ValueError(f"docs/audio holds {total} bytes, above {TOTAL_BYTES}")
    (audio / "README.md").write_text(table(rows, model, pairs), encoding="utf-8")
    print(f"{audio}: {len(rows)} sounds, {total / 1000:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
