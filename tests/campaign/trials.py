"""What is tried, each on one seed: command lines, mutated files, kills, two at once, full disks.

A trial returns what it came to, in a word, and raises where something does not hold: a traceback, a
mistake that is not one line, an input that changed, a file that is not whole, a temporary that
stays.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import typer
from accelerate import Accelerator
from safetensors import safe_open
from tests.campaign.mutations import SENSIBLE, WORDS, mutated
from tests.campaign.world import Before, Killed, Ran, World, at_most, check_whole, digest, new_files

import ditto
from ditto import cli
from ditto.audio.io import read, read_tags
from ditto.controls.scores import read_score
from ditto.data.prepare import read_tags_csv
from ditto.edit.song import Kept as KeptSong
from ditto.edit.song import song
from ditto.edit.timeline import silence
from ditto.edit.windows import GapFiller
from ditto.errors import DittoError
from ditto.latents import Latent
from ditto.models.hub import load
from ditto.repeat import Kept
from ditto.request import Request
from ditto.training.base import started
from ditto.training.denoising import BaseConfig
from ditto.training.loop import load_config
from ditto.training.run import Run

COMMANDS = ("generate", "inpaint", "outpaint", "loop", "invert", "vary", "again", "batch")
PATIENCE = 600
"""Seconds after which a trial hangs."""
Trial = Callable[[World, random.Random], str]


def command_line(rng: random.Random, name: str, model: Path) -> list[str]:
    """Draw a command line from the options that the command really has."""
    app = typer.main.get_group(import_module(f"ditto.cli.{cli.COMMANDS[name][0]}").app)
    options: list[Any] = [
        p for p in app.commands[name].params if p.param_type_name == "option" and p.name != "help"
    ]
    # Processes of their own would each load everything anew.
    options = [option for option in options if option.name not in ("workers", "ray")]
    words = [name, *_input_of(rng, name)]
    given = {"output": rng.choice(["out.wav", "out.flac", "out.mp3", "out.latent", "out"])}
    if name == "batch":
        given["out"] = rng.choice(["out", "music", "out/a", "song.wav"])
    if name in ("inpaint", "outpaint", "loop"):
        given |= {"start": "0.3", "end": "0.5", "seconds": "1.4", "overlap": "0.1"}
    for option in rng.sample(options, k=min(len(options), rng.randrange(5))):
        kind = option.type_descriptor.annotation
        likely = SENSIBLE.get(kind, WORDS) if rng.randrange(4) else WORDS
        given[str(option.name)] = rng.choice(likely)
    given |= {"model": str(model), "device": "cpu"}
    for option in options:
        value = given.get(str(option.name))
        if value is not None:
            words += [option.opts[0]] if option.is_flag else [option.opts[0], value]
    names = {option.name for option in options}
    for option, value in {"iterations": "1", "steps": "1"}.items():
        if option in names and option not in given:
            words += [f"--{option}", value]
    return words


def _input_of(rng: random.Random, name: str) -> list[str]:
    """Draw what a command reads, if it reads something."""
    several = {
        "vary": ["made.latent"],
        "again": ["clip.json"],
        "generate": [],
        "loop": ["", "song.wav"],
        "batch": ["requests.jsonl", "clip.json", "broken.jsonl"],
    }.get(name, ["song.wav"])
    given = rng.choice(several) if several else ""
    if given and rng.randrange(8) == 0:
        return [rng.choice(WORDS)]
    return [given] if given else []


def check_said(ran: Ran, words: Sequence[str], codes: Sequence[int] = (0, 1, 2, 130)) -> None:
    """Fail if a command crashed, or told a mistake in more than a line."""
    assert "Traceback" not in ran.err, (words, ran.err[-2000:])
    assert ran.code in codes, (words, ran.code, ran.err)
    if ran.code == 2 and "Usage" not in ran.err:
        assert ran.err.splitlines()[-1].startswith("error: "), (words, ran.err)


def random_command(world: World, rng: random.Random) -> str:
    """Run a random command line."""
    words = command_line(rng, rng.choice(COMMANDS), world.folder("model"))
    try:
        ran = world.run(words)
        check_said(ran, words)
        world.check_inputs()
        world.check_no_debris()
        if ran.code == 0:
            for path in new_files(world):
                check_whole(path)
        return {0: "done", 1: "done"}.get(ran.code, "refused")
    finally:
        world.clear()


def _part_of(world: World) -> bytes:
    """Return a file of kept windows of a song that was stopped, made once."""
    place = world.root / "song.part"
    if not place.exists():
        song(world.model, 1.2, _asked(), overlap=0.1, keep=place, stop=lambda step: step.i == 0)
    return place.read_bytes()


def _asked() -> Request:
    return Request(
        ditto.Intensity("swell"), "genre=jazz", iterations=1, method=ditto.Ditto(steps=1)
    )


def _restore(world: World, path: Path) -> None:
    timeline, filler = silence(world.model, 1.2), GapFiller("song", world.model, _asked())
    KeptSong(path, _identity(world)).restore(timeline, filler)


def _identity(world: World) -> str:
    with safe_open(world.root / "song.part", framework="numpy") as file:
        return file.metadata()["identity"]


READERS: dict[str, Callable[[World, Path], Any]] = {
    "tune.mid": lambda world, path: ditto.Melody.from_midi(path),
    "score.musicxml": lambda world, path: read_score(path),
    "curve.csv": lambda world, path: ditto.Intensity(str(path)),
    "tags.csv": lambda world, path: read_tags_csv(path, world.here),
    "made.latent": lambda world, path: _vary(world, path),
    "clip.json": lambda world, path: _request(path),
    "clip.wav": lambda world, path: (_request(path), read_tags(path)),
    "recipe.json": lambda world, path: load_config(path, BaseConfig),
    "song.part": _restore,
}


def _vary(world: World, path: Path) -> None:
    latent = Latent.load(path)
    ditto.vary(world.model, latent, count=1, steps=1)


def _request(path: Path) -> None:
    kept = Kept.read(path)
    if "edit" not in kept.report:
        Request.from_dict(kept.report["request"])


def mutated_file(name: str) -> Trial:
    """Return the trial of a changed copy of an input."""
    ending = Path(name).suffix

    def trial(world: World, rng: random.Random) -> str:
        content = _part_of(world) if name == "song.part" else world.inputs[name]
        # A report beside a sound, or what another trial left, would be read in its place.
        alone = world.root / "alone"
        shutil.rmtree(alone, ignore_errors=True)
        alone.mkdir()
        broken = alone / f"broken{ending}"
        broken.write_bytes(mutated(rng, content, ending))
        reader = READERS.get(name, lambda world, path: read(path))
        found = refused(lambda: reader(world, broken))
        if isinstance(found, ditto.Audio):
            assert np.isfinite(found.samples).all()
        return "refused" if found is REFUSED else "read"

    return trial


REFUSED = object()


def refused(call: Callable[[], Any]) -> Any:
    """Return what a call gives, or `REFUSED` after an error of one line that is meant for users."""
    try:
        return call()
    except DittoError as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said
    assert said.strip()
    return REFUSED


def mutated_model(world: World, rng: random.Random) -> str:
    """Load a model with one of its files changed; half of the time its hash is mended."""
    source, copy = world.folder("model"), world.root / "broken-model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    file = rng.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    file.write_bytes(mutated(rng, file.read_bytes(), file.suffix))
    if file.suffix == ".safetensors" and rng.randrange(4):
        index = json.loads((copy / "model_index.json").read_text())
        index["sha256"][file.parent.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        (copy / "model_index.json").write_text(json.dumps(index))

    def use() -> None:
        model = load(copy)
        ditto.generate(model, method=ditto.Uncontrolled(steps=1))

    return "refused" if refused(use) is REFUSED else "read"


def mutated_checkpoint(world: World, rng: random.Random) -> str:
    """Read a training's checkpoint with one of its files changed."""
    source, copy = _run_folder(world), world.root / "broken-run"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    newest = sorted(copy.glob("step-*"))[-1]
    file = rng.choice(sorted(newest.iterdir()))
    file.write_bytes(mutated(rng, file.read_bytes(), file.suffix))
    recipe = load_config(copy / "config.json", BaseConfig)

    def resume() -> None:
        Run(recipe, copy, Accelerator(), started(recipe), averages={"ema": recipe.ema}).log.close()

    return "refused" if refused(resume) is REFUSED else "read"


def _run_folder(world: World) -> Path:
    """Return the folder of a finished training, made once."""
    place = world.root / "run"
    if not place.exists():
        ran = world.child(_training(world, place))
        assert ran.code == 0, ran.err
    return place


def _training(world: World, out: Path) -> list[str]:
    words = ["train", "base", "--config", "recipe.json", "--data", str(world.folder("data"))]
    return [*words, "--out", str(out), "--device", "cpu"]


def jobs(world: World) -> dict[str, list[str]]:
    """Return the commands that are killed, run twice at once and run on full disks."""
    model = ["--model", str(world.folder("model")), "-T", "2"]
    quick = [*model, "-K", "6"]
    edit = [*quick, "--overlap", "0.1"]
    swell = ["--loudness", "swell", *quick]
    near = ["--overlap", "0.2", *quick]
    return {
        "generate": ["generate", *swell, "--count", "2", "--latent", "o.latent", "-o", "o.wav"],
        "song": ["generate", "--seconds", "1.6", *swell, "-o", "o.wav"],
        "flac": ["generate", *swell, "-o", "o.flac"],
        "inpaint": ["inpaint", "song.wav", "--from", "0.3", "--to", "0.5", *edit, "-o", "o.wav"],
        "outpaint": ["outpaint", "song.mp3", "--seconds", "2", *near, "-o", "o.ogg"],
        "loop": ["loop", "song.flac", *near, "-o", "o.wav"],
        "invert": ["invert", "song.wav", *quick, "-o", "o.latent"],
        "vary": ["vary", "made.latent", "--count", "4", *model, "-o", "o"],
        "batch": ["batch", "requests.jsonl", "--out", "o", *model[:2]],
        "prepare": ["data", "prepare", "music", "--held-out", "0", "--out", "o"],
        "train": _training(world, Path("o")),
    }


RESUMED = ("batch", "prepare", "train")
"""Jobs that the same command finishes; the others need ``--force`` over what is there."""


def finished(name: str, path: Path) -> bool:
    """Tell whether a file of a job that did not end is whole: logs and indices grow by lines."""
    return (
        name not in RESUMED or "step-" in str(path) or (name == "batch" and path.suffix != ".jsonl")
    )


def forced(name: str, words: Sequence[str]) -> list[str]:
    """Return the command that makes it again."""
    return [*words] if name in RESUMED else [*words, "--force"]


REFERENCES: dict[str, tuple[float, dict[str, str]]] = {}


def reference(world: World, name: str) -> tuple[float, dict[str, str]]:
    """Return the processor time of a job, and the digest of what it makes; run once."""
    if name not in REFERENCES:
        try:
            ran = world.child(jobs(world)[name])
            assert ran.code == 0, (name, ran.err)
            REFERENCES[name] = ran.seconds, digest(new_files(world))
        finally:
            world.clear()
    return REFERENCES[name]


def killed(world: World, rng: random.Random) -> str:
    """Kill a command anywhere, look at what is there, and run it again to its end.

    The end is to be the same, sample for sample and weight for weight.
    """
    name = rng.choice(sorted(jobs(world)))
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    seconds, expected = reference(world, name)
    # Half of the kills are in the last third, where the files are written.
    at = rng.uniform(0, 1.05) if rng.randrange(2) else rng.uniform(0.67, 1.05)
    words = jobs(world)[name]
    try:
        ran = world.child(words, Killed(number, at * seconds))
        what = (name, number.name, round(at, 3), ran.err[-2000:])
        assert "Traceback" not in ran.err, what
        assert ran.code in (0, 130, -number), (ran.code, what)
        world.check_inputs()
        for path in new_files(world):
            if finished(name, path):
                check_whole(path)
        if number != signal.SIGKILL:
            world.check_no_debris()
        again = world.child(forced(name, words))
        assert again.code == 0, (what, again.err)
        world.check_inputs()
        for path in new_files(world):
            check_whole(path)
        assert digest(new_files(world)) == expected, what
        world.check_no_debris()
        return f"{name} {number.name}"
    finally:
        world.clear()


def two_at_once(world: World, rng: random.Random) -> str:
    """Run a command twice at the same time, on the same output."""
    name = rng.choice(sorted(set(jobs(world)) - {"train"}))
    words = jobs(world)[name]
    words = forced(name, words) if rng.randrange(2) else words
    _, expected = reference(world, name)
    try:
        logs = [world.root / f"err-{i}" for i in range(2)]
        processes = [world.start(words, log) for log in logs]
        both = [world.wait(*each) for each in zip(processes, logs, strict=True)]
        for ran in both:
            check_said(ran, words, (0, 2))
        world.check_inputs()
        world.check_no_debris()
        for path in new_files(world):
            check_whole(path)
        assert any(ran.code == 0 for ran in both), (name, [ran.err for ran in both])
        assert digest(new_files(world)) == expected, (name, [ran.err for ran in both])
        return f"{name}, {sum(ran.code == 0 for ran in both)} done"
    finally:
        world.clear()


def full_disk(world: World, rng: random.Random) -> str:
    """Run a command whose outputs lie on a small disk of its own; without one, in small files."""
    name = rng.choice(sorted(jobs(world)))
    disk = world.here / "disk"
    words = [
        f"disk/{word}" if word == "o" or word.startswith("o.") else word
        for word in jobs(world)[name]
    ]
    disk.mkdir()
    size = int(2 ** rng.uniform(12, 21.5))
    mounted = mount(disk, size)
    try:
        ran = world.child(words, None if mounted else Limited(size))
        check_said(ran, words, (0, 2))
        world.check_inputs()
        world.check_no_debris()
        for path in new_files(world, disk):
            if finished(name, path):
                check_whole(path)
        return "fits" if ran.code == 0 else "refused"
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
        world.clear()


def mount(folder: Path, size: int) -> bool:
    """Mount a disk of some bytes in memory, if that is allowed."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Limited(Before):
    """Files that may not grow beyond some bytes."""

    size: int

    def act(self) -> None:
        """Set the limit."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


TRIALS: dict[str, tuple[Trial, int]] = {
    "wav": (mutated_file("song.wav"), 900),
    "flac": (mutated_file("song.flac"), 700),
    "mp3": (mutated_file("song.mp3"), 700),
    "ogg": (mutated_file("song.ogg"), 700),
    "opus": (mutated_file("song.opus"), 500),
    "aiff": (mutated_file("song.aiff"), 300),
    "midi": (mutated_file("tune.mid"), 1000),
    "musicxml": (mutated_file("score.musicxml"), 500),
    "curve.csv": (mutated_file("curve.csv"), 800),
    "tags.csv": (mutated_file("tags.csv"), 500),
    "latent": (mutated_file("made.latent"), 500),
    "report": (mutated_file("clip.json"), 500),
    "report in a wav": (mutated_file("clip.wav"), 300),
    "recipe": (mutated_file("recipe.json"), 400),
    "kept windows": (mutated_file("song.part"), 200),
    "model folder": (mutated_model, 500),
    "checkpoint": (mutated_checkpoint, 200),
    "full disk": (full_disk, 60),
    "two at once": (two_at_once, 40),
    "kill": (killed, 200),
    "command lines": (random_command, 1000),
}
"""Trials by kind, and how many make the whole campaign; quick ones first."""


def attempt(world: World, kind: str, seed: int) -> str:
    """Make one trial."""
    rng = random.Random(f"{kind} {seed}")
    with at_most(PATIENCE):
        return TRIALS[kind][0](world, rng)
