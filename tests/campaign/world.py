"""A folder of small inputs in which commands run: in this process, or in one of its children."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import mido
import numpy as np
import soundfile
import torch
from tests.conftest import SPEC, VOCABULARY, make_network, make_vocoder
from tests.tiny_soundfont import make_tiny_soundfont

import ditto
from ditto import cli, paths
from ditto.audio.io import read
from ditto.composer.corpus import compose_dataset
from ditto.data.dataset import vocabulary_of
from ditto.latents import Latent
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.training.denoising import BaseConfig

RATE = 8000
TINY = BaseConfig(
    network={"n_mels": 160, "patch": 8, "width": 16, "depth": 1, "heads": 2},
    frames=64,
    steps=6,
    batch_size=2,
    warmup=1,
    log_every=1,
    checkpoint_every=2,
    evaluate_every=100,
)
SCORE = """<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="3.1"><part-list><score-part id="P1"><part-name>a</part-name></score-part>
</part-list><part id="P1"><measure number="1"><attributes><divisions>2</divisions><key>
<fifths>0</fifths></key><time><beats>4</beats><beat-type>4</beat-type></time><transpose>
<diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>
<barline location="left"><repeat direction="forward"/></barline>
<direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>92</per-minute>
</metronome></direction-type><sound tempo="92"/></direction>
<note><pitch><step>C</step><octave>5</octave></pitch><duration>4</duration><type>half</type></note>
<note><rest/><duration>2</duration><type>quarter</type></note>
<note><pitch><step>B</step><alter>-1</alter><octave>4</octave></pitch><duration>1</duration></note>
<note><chord/><pitch><step>D</step><octave>5</octave></pitch><duration>1</duration></note>
<note><pitch><step>E</step><octave>5</octave></pitch><duration>1</duration></note>
<barline location="right"><repeat direction="backward"/></barline></measure></part>
</score-partwise>"""

_QUICK = {"iterations": 6, "steps": 2}
REQUESTS: tuple[dict[str, Any], ...] = (
    {"loudness": "swell", "seed": 1, **_QUICK},
    {"command": "inpaint", "recording": "song.wav", "from": 0.3, "to": 0.5, "overlap": 0.1}
    | _QUICK,
    {"loudness": "dip", "count": 3, "name": "three", **_QUICK},
    {"command": "vary", "latent": "made.latent", "count": 2, "steps": 2, "name": "varied.flac"},
)
"""Lines of a batch."""


@dataclass(frozen=True)
class Ran:
    """What a command came to.

    Attributes:
        code: its exit code, negative for a signal that ended it.
        err: standard error.
        seconds: processor time.
        memory: peak in MiB, if it ran in a process of its own.
    """

    code: int
    err: str
    seconds: float
    memory: float = 0.0


@dataclass
class World:
    """A folder with a tiny model and an input of every kind.

    Attributes:
        root: the folder.
        model: the tiny model.
        inputs: contents of the input files, by name.
        running: children that were not waited for yet.
    """

    root: Path
    model: MusicModel
    inputs: dict[str, bytes] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)

    @classmethod
    def make(cls, root: Path) -> "World":
        """Make all inputs."""
        root.mkdir(parents=True, exist_ok=True)
        model = MusicModel(
            make_network(), make_vocoder(), SPEC, VOCABULARY, guidance=1.5, shift=0.5, name="tiny"
        )
        world = cls(root, model)
        model.save(world.folder("model"))
        world.model = load(world.folder("model"))
        soundfont = make_tiny_soundfont(root / "tiny.sf2")
        compose_dataset(world.folder("data"), count=2, soundfonts=[soundfont])
        sizes = list(vocabulary_of(world.folder("data")).sizes)
        recipe = asdict(TINY) | {"network": TINY.network | {"tag_sizes": sizes}}
        world._write_inputs(json.dumps(recipe))
        return world

    def folder(self, name: str) -> Path:
        """Return the place of the model, of the data, or of the folder in which commands run."""
        return self.root / name

    @property
    def here(self) -> Path:
        """The folder in which commands run."""
        return self.folder("here")

    def _write_inputs(self, recipe: str) -> None:
        self.here.mkdir()
        rng = np.random.default_rng(0)
        samples = 0.1 * rng.standard_normal((9600, 2))
        for ending in (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff"):
            form: dict[str, Any] = {}
            if ending == ".opus":
                form = {"format": "OGG", "subtype": "OPUS"}
            soundfile.write(self.here / f"song{ending}", samples, RATE, **form)
        music = self.here / "music"
        music.mkdir()
        soundfile.write(music / "a.wav", 0.1 * rng.standard_normal((52_000, 1)), RATE)
        soundfile.write(music / "b.flac", 0.1 * rng.standard_normal((60_000, 1)), RATE)
        (self.here / "tags.csv").write_text(
            "file,genre,mood,tempo\nmusic/a.wav,polka,happy,92.5\nmusic/b.flac,,sad,\n"
        )
        (self.here / "curve.csv").write_text("seconds,dB\n0,-30.5\n0.2,-25\n0.3,-20\n")
        (self.here / "requests.jsonl").write_text("".join(map(_line, REQUESTS)))
        (self.here / "broken.jsonl").write_text(_line(REQUESTS[0]) + '{"steps": -1}\n{\n[]\n')
        (self.here / "score.musicxml").write_text(SCORE)
        (self.here / "recipe.json").write_text(recipe)
        _save_midi(self.here / "tune.mid")
        generator = torch.Generator().manual_seed(0)
        request = ditto.Request(controls=ditto.Intensity("swell"), tags="genre=jazz", seed=3)
        made = ditto.generate(
            self.model, request.controls[0], tags="genre=jazz", iterations=1, seed=3
        )
        made.save(self.here / "clip.wav")
        made.latent().save(self.here / "made.latent")
        Latent(self.model.noise((1, 1, 16, 64), generator), "", {}).save(self.here / "x.latent")
        self.inputs = self._contents()

    def _contents(self) -> dict[str, bytes]:
        files = (path for path in self.here.rglob("*") if path.is_file())
        return {str(path.relative_to(self.here)): path.read_bytes() for path in files}

    def clear(self) -> None:
        """End children, and take away everything but the inputs, which are then as at first."""
        while self.running:
            process = self.running.pop()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        for path in sorted(self.here.rglob("*"), reverse=True):
            name = str(path.relative_to(self.here))
            if path.is_symlink() or (path.is_file() and name not in self.inputs):
                path.unlink()
            elif path.is_dir() and not any(key.startswith(f"{name}/") for key in self.inputs):
                shutil.rmtree(path, ignore_errors=True)
        for name, content in self.inputs.items():
            path = self.here / name
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    def check_inputs(self) -> None:
        """Fail if an input is not as it was."""
        now = self._contents()
        changed = [name for name, content in self.inputs.items() if now.get(name) != content]
        assert not changed, f"inputs changed: {changed}"

    def check_no_debris(self, folder: Path | None = None) -> None:
        """Fail if a temporary file is left."""
        left = sorted(path.name for path in (folder or self.here).rglob(f"{paths.TEMPORARY}*"))
        assert not left, f"left behind: {left}"

    def run(self, words: Sequence[str]) -> Ran:
        """Run a command in this process; what it prints comes back."""
        return command(words, self.here)

    def start(self, words: Sequence[str], log: Path, before: "Before | None" = None) -> int:
        """Run a command in a child that has all modules already; return its process.

        Args:
            words: of the command line.
            log: receives its standard error.
            before: what the child does first.
        """
        process = os.fork()
        if process:
            self.running.add(process)
            return process
        code = 70
        try:
            signal.alarm(0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with log.open("w", encoding="utf-8", errors="backslashreplace") as file:
                sys.stdout = sys.stderr = file
                try:
                    if before is not None:
                        before.act()
                    os.chdir(self.here)
                    sys.argv = ["ditto-music", *words]
                    cli.main()
                    code = 0
                except SystemExit as stop:
                    code = int(stop.code or 0)
                except BaseException:
                    traceback.print_exc()
                    code = 71
                file.flush()
        finally:
            os._exit(code)

    def wait(self, process: int, log: Path) -> Ran:
        """Wait for a child."""
        _, status, usage = os.wait4(process, 0)
        self.running.remove(process)
        code = os.waitstatus_to_exitcode(status)
        seconds = usage.ru_utime + usage.ru_stime
        err = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return Ran(code, err, seconds, usage.ru_maxrss / 1024)

    def child(self, words: Sequence[str], before: "Before | None" = None) -> Ran:
        """Run a command in a child, and wait for it."""
        log = self.root / "err"
        log.unlink(missing_ok=True)
        return self.wait(self.start(words, log, before), log)


def command(words: Sequence[str], here: Path) -> Ran:
    """Run a command in this process and in a folder; what it prints comes back."""
    begun, out, err = time.process_time(), io.StringIO(), io.StringIO()
    argv, before = sys.argv, Path.cwd()
    os.chdir(here)
    sys.argv = ["ditto-music", *words]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os.chdir(before)
        sys.argv = argv
    return Ran(code, err.getvalue(), time.process_time() - begun)


class Before:
    """What a child does before its command."""

    def act(self) -> None:
        """Do it."""


@dataclass(frozen=True)
class Killed(Before):
    """A signal that the child gets after some processor time."""

    number: signal.Signals
    seconds: float

    def act(self) -> None:
        """Set the clock."""

        def kill(number: int, frame: object) -> None:
            os.kill(os.getpid(), self.number)

        signal.signal(signal.SIGPROF, kill)
        signal.setitimer(signal.ITIMER_PROF, max(self.seconds, 1e-4))


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _save_midi(path: Path) -> None:
    midi = mido.MidiFile()
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])
    track += [mido.MetaMessage("key_signature", key="Bb"), mido.Message("program_change")]
    for note in (60, 64, 67):
        track += [mido.Message("note_on", note=note, time=0)]
        track += [mido.Message("note_off", note=note, time=96)]
    midi.tracks.append(track)
    midi.save(path)


def preload() -> None:
    """Import all that commands import, and draw once, so that children have it."""
    for name in ("generate", "edit", "again", "train", "data", "models", "batch"):
        import_module(f"ditto.cli.{name}")
    for name in ("base", "loop", "run", "pack"):
        import_module(f"ditto.training.{name}")
    for name in ("ditto.data.prepare", "ditto.plots", "ditto.edit.song", "music21"):
        import_module(name)
    import_module("torch.utils.tensorboard")


def check_whole(path: Path) -> None:
    """Fail if a finished file is not whole: by its own reader, where it has one."""
    if path.suffix in (".wav", ".flac", ".ogg", ".mp3"):
        assert np.isfinite(read(path).samples).all()
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".jsonl":
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    elif path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".latent":
        Latent.load(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118


def new_files(world: World, folder: Path | None = None) -> list[Path]:
    """Return the files that commands made, less their temporaries."""
    folder = folder or world.here
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and str(path.relative_to(world.here if folder == world.here else folder))
        not in (world.inputs if folder == world.here else ())
        and not any(part.startswith(paths.TEMPORARY) for part in path.parts)
    ]


def digest(files: Sequence[Path]) -> dict[str, str]:
    """Return what is to be equal when a command is run again: samples and weights by name.

    Of a training these are the newest weights: a stopped one keeps those that it stopped with, too.
    """
    found = {}
    steps = sorted(path.parent.name for path in files if path.parent.name.startswith("step-"))
    for path in files:
        if path.suffix in (".wav", ".flac", ".ogg", ".mp3"):
            found[path.name] = hashlib.sha256(soundfile.read(path)[0].tobytes()).hexdigest()
        elif path.suffix == ".safetensors" and path.parent.name in steps[-1:]:
            found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """End what hangs."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
