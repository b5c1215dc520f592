"""A seeded fuzzer: random command lines from the real option table, mutated files, kills.

`make test` runs a slice of it; ``make campaign`` runs ``CAMPAIGN`` times as many rounds, from
``CAMPAIGN_SEED`` on. A failure names its seed. What must hold, whatever is given: no traceback, one
line for a mistake and exit code 2, no input changed, no temporary file left behind.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile
import torch
import typer
from tests.conftest import Command

from ditto import cli, paths
from ditto.audio.io import read
from ditto.errors import DittoError
from ditto.latents import Latent
from ditto.models.hub import load
from ditto.models.model import MusicModel

ROUNDS = int(os.environ.get("CAMPAIGN", "1"))
FIRST_SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))
COMMANDS = ("generate", "inpaint", "outpaint", "loop", "invert", "vary", "again")
WORDS = (
    *("", "0", "-1", "1", "2", "0.3", "1e9", "nan", "inf", "-inf", "²", "٣", "true", "$x$", "[/b]"),
    *("crescendo", "0:-30 0.3:-20", "C4:1 E4:1", "ABA", "song.wav", "none.wav", ".", "a\nb", "é"),
    *("genre=jazz", "genre=", "tempo=100", "0.1-0.3", "3-1", "x.latent", "tune.mid", "curve.csv"),
    *("ditto", "none", "freedom", "adaptive", "ddim", "\udce9", "--", "9" * 400),
)


def seeds(count: int) -> range:
    return range(FIRST_SEED, FIRST_SEED + count * ROUNDS)


@pytest.fixture
def folder(ditto_music: Command, tiny_model: MusicModel, tmp_path: Path) -> Path:
    """A folder of small inputs, in which the command runs."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    for ending in (".wav", ".flac", ".ogg", ".mp3"):
        soundfile.write(tmp_path / f"song{ending}", samples, 8000)
    Latent(tiny_model.noise((1, 1, 16, 64), _generator()), "", {}).save(tmp_path / "x.latent")
    (tmp_path / "curve.csv").write_text("seconds,dB\n0,-30\n0.3,-20\n")
    (tmp_path / "report.json").write_text('{"model": {}, "request": {"seed": 1}}')
    midi = mido.MidiFile()
    track = [mido.Message(kind, note=60, time=240) for kind in ("note_on", "note_off")]
    midi.tracks.append(mido.MidiTrack(track))
    midi.save(tmp_path / "tune.mid")
    return tmp_path


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def command_line(rng: random.Random, name: str, model: Path) -> list[str]:
    """Draw a command line from the options that the command really has."""
    app = typer.main.get_group(import_module(f"ditto.cli.{cli.COMMANDS[name][0]}").app)
    command = app.commands[name]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    inputs = {"vary": "x.latent", "again": "report.json"}
    words = [name] if name == "generate" else [name, inputs.get(name, "song.wav")]
    given = {"output": rng.choice(["out.wav", "out.flac", "out.mp3", "out.latent", "out"])}
    if name in ("inpaint",):
        given |= {"start": "0.3", "end": "0.5"}
    if name == "outpaint":
        given["seconds"] = "1.4"
    for option in rng.sample(options, k=min(len(options), rng.randrange(5))):
        given[str(option.name)] = rng.choice(WORDS)
    given |= {"model": str(model), "device": "cpu"}
    for option in options:
        value = given.get(str(option.name))
        if value is not None:
            words += [option.opts[0]] if option.is_flag else [option.opts[0], value]
    names = {option.name for option in options}
    quick = {"iterations": "1", "steps": "1"}
    for option, value in quick.items():
        if option in names and option not in given:
            words += [f"--{option}", value]
    return words


@pytest.mark.parametrize("seed", seeds(25))
def test_random_command_lines(
    ditto_music: Command, folder: Path, model_folder: Path, seed: int
) -> None:
    rng = random.Random(seed)
    words = command_line(rng, rng.choice(COMMANDS), model_folder)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, out, err = ditto_music(*words)
    assert "Traceback" not in out + err, words
    assert code in (0, 1, 2, 130), (words, err)
    if code == 2 and not err.startswith(("Usage", "\n")):
        assert err.splitlines()[-1].startswith("error: "), (words, err)
    for path, content in before.items():
        assert path.read_bytes() == content, words
    assert not list(folder.rglob(f"{paths.TEMPORARY}*")), words


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Return a file with some bytes changed, cut, doubled or put in front."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(max(len(data), 1))
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(64)]
        elif kind == 3:
            head = rng.randrange(min(64, max(len(data), 1)))
            data[head : head + 4] = rng.randbytes(4)
        else:
            data[0:0] = rng.randbytes(rng.randrange(16))
    return bytes(data)


@pytest.mark.parametrize("seed", seeds(40))
def test_mutated_files_are_read_or_refused_in_one_line(
    folder: Path, model_folder: Path, seed: int
) -> None:
    rng = random.Random(seed)
    files = sorted(path for path in folder.iterdir() if path.suffix != ".json")
    for file in files:
        broken = folder / f"broken{file.suffix}"
        broken.write_bytes(mutated(rng, file.read_bytes()))
        with one_line(broken, seed):
            if file.suffix == ".latent":
                Latent.load(broken)
            elif file.suffix == ".mid":
                import_module("ditto").Melody.from_midi(broken)
            elif file.suffix == ".csv":
                import_module("ditto").Intensity(str(broken))
            else:
                assert np.isfinite(read(broken).samples).all()


@pytest.mark.parametrize("seed", seeds(10))
def test_mutated_models_are_loaded_or_refused_in_one_line(
    model_folder: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    files = sorted(path for path in model_folder.rglob("*") if path.is_file())
    chosen = rng.choice(files)
    for file in files:
        copy = tmp_path / "model" / file.relative_to(model_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        copy.write_bytes(mutated(rng, content) if file == chosen else content)
    with one_line(tmp_path / "model", seed):
        load(tmp_path / "model")


@contextlib.contextmanager
def one_line(path: Path, seed: int) -> Iterator[None]:
    """Allow a `DittoError` of one line, and nothing else."""
    said = ""
    with contextlib.suppress(DittoError):
        try:
            yield
        except DittoError as error:
            said = str(error)
            raise
    assert len(said.splitlines()) <= 1, (path, seed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seed", seeds(1))
def test_kills_leave_inputs_and_whole_outputs(
    folder: Path, model_folder: Path, number: signal.Signals, seed: int
) -> None:
    rng = random.Random(seed)
    song = (folder / "song.wav").read_bytes()
    words = ["outpaint", "song.wav", "--seconds", "8", "--overlap", "0.1", "-K", "20", "-T", "4"]
    words += ["-o", "out.wav", "--force"]
    program = "import sys; from ditto.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--model", str(model_folder)],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(rng.uniform(3, 8))
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert (folder / "song.wav").read_bytes() == song
    if (folder / "out.wav").exists():
        assert soundfile.info(folder / "out.wav").frames > 9600
    if number != signal.SIGKILL:
        assert not list(folder.glob(f"{paths.TEMPORARY}*"))
