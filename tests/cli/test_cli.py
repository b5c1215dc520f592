"""The command line: what it makes, and that every mistake is one clear line, exit code 2 and no
file."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from tests.conftest import Command

from ditto import cli
from ditto.audio.io import read, read_tags
from ditto.models.folder import INDEX
from ditto.models.model import MusicModel


@pytest.fixture
def generate(ditto_music: Command, model_folder: Path) -> Command:
    """``ditto-music generate`` on the tiny model, quickly."""

    def run(*arguments: object) -> tuple[int, str, str]:
        steps = [] if "ditto2" in arguments else ["-T", 2]
        return ditto_music("generate", "--model", model_folder, "-K", 2, *steps, *arguments)

    return run


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_the_line_says_how_much_is_kept_and_need_not(generate: Command) -> None:
    code, _, err = generate("--loudness", "swell", "-o", "a.wav")
    assert code == 0
    assert "the clip without control" in err
    report = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert report["kept"]["words"] in err
    code, _, err = generate("--loudness", "swell", "--no-compare", "-o", "b.wav")
    assert code == 0
    assert "without control" not in err
    assert "kept" not in json.loads(Path("b.json").read_text(encoding="utf-8"))
    assert read("a.wav").samples.tolist() == read("b.wav").samples.tolist()


def test_generate_makes_a_sound_a_picture_and_a_report(generate: Command) -> None:
    code, out, err = generate(
        "--tags",
        "genre=jazz mood=calm tempo=110",
        "--intensity",
        "0:-30 0.4:-20",
        "--seed",
        7,
        "-o",
        "out.wav",
    )
    assert (code, out) == (0, "")
    assert re.search(r"out\.wav  0\.51 s, intensity_mse_db2 [\d.e+]+", err)
    assert files() == ["out.json", "out.png", "out.wav"]
    assert read("out.wav").samples.shape == (1, 4096)
    kept = json.loads(read_tags("out.wav")["comment"])["request"]
    assert kept["tags"] == {"genre": "jazz", "mood": "calm", "tempo": 110.0}
    assert kept["controls"][0]["points"] == [[0.0, -30.0], [0.4, -20.0]]
    assert (kept["seed"], kept["iterations"], kept["method"]["steps"]) == (7, 2, 2)
    assert len(json.loads(Path("out.json").read_text())["loss"]) == 2


def test_one_seed_gives_one_clip_and_items_are_numbered(generate: Command) -> None:
    assert generate("--seed", 1, "-o", "one.wav")[0] == 0
    assert generate("--seed", 0, "--count", 2, "-o", "two.wav")[0] == 0
    assert {"two-0.wav", "two-1.wav", "two-1.png", "two-1.json"} <= set(files())
    assert np.abs(read("one.wav").samples - read("two-1.wav").samples).max() < 1e-3


def test_a_recording_is_followed_up_to_the_clips_end(generate: Command) -> None:
    soundfile.write("song.wav", 0.1 * np.random.default_rng(0).standard_normal(44_100), 22_050)
    code, _, err = generate(
        "--intensity-like", "song.wav", "--seconds", 0.3, "--correlation", "-o", "out.flac"
    )
    assert code == 0, err
    assert (
        json.loads(Path("out.json").read_text())["request"]["controls"][0]["measure"]
        == "correlation"
    )


def test_a_model_with_a_student_takes_ditto2(
    ditto_music: Command, student_model: MusicModel, tmp_path: Path
) -> None:
    student_model.save(tmp_path / "model")
    assert student_model.distilled is not None
    student_model.distilled.save(tmp_path / "alone")
    curve = ["--intensity", "0:-30 0.4:-20", "-K", 2, "--model", "model"]
    code, _, err = ditto_music(
        "generate", *curve, "-M", "adaptive", "--decode-steps", 4, "-o", "out.wav"
    )
    assert code == 0, err
    report = json.loads(Path("out.json").read_text())["request"]
    method = report["method"]
    assert (method["name"], method["surrogate_steps"]) == ("ditto2", "adaptive")
    assert method["decode_steps"] == 4
    assert 0 < method["gamma"] < 1
    assert ditto_music("generate", *curve, "--method", "ditto", "-T", 2, "-o", "whole.wav")[0] == 0
    assert json.loads(Path("whole.json").read_text())["request"]["method"]["name"] == "ditto"
    assert (
        ditto_music("generate", *curve, "--student", "alone", "--patience", 1, "-o", "joined.wav")[
            0
        ]
        == 0
    )
    code, _, err = ditto_music("generate", *curve, "--student", "model", "-o", "none.wav")
    assert code == 2
    assert "another kind of model than a student alone" in err
    assert "student" in ditto_music("models", "--model", "model")[1]


def test_distilling_with_a_config_of_the_other_kind_is_one_line(ditto_music: Command) -> None:
    Path("config.json").write_text('{"kind": "cm"}')
    code, _, err = ditto_music(
        "distill", "ctm", "--config", "config.json", "--data", "none", "--out", "run"
    )
    assert code == 2
    assert "'config.json' is a config of kind 'cm': give it to `distill cm`" in err
    assert err.count("\n") == 1
    assert files() == ["config.json"]


def test_outputs_are_replaced_only_with_force(generate: Command) -> None:
    assert generate("-o", "out.wav", "--method", "none")[0] == 0
    before = Path("out.wav").read_bytes()
    code, _, err = generate("-o", "out.wav", "--method", "none", "--seed", 1)
    assert code == 2
    assert "--force" in err
    assert Path("out.wav").read_bytes() == before
    assert generate("-o", "out.wav", "--method", "none", "--seed", 1, "--force")[0] == 0
    assert Path("out.wav").read_bytes() != before


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown tag": (
        ["--tags", "genre=polka"],
        "unknown genre 'polka'; this model knows jazz, rock, folk",
    ),
    "unknown kind of tag": (["--tags", "style=jazz"], "style=jazz"),
    "tempo out of range": (["--tags", "tempo=500"], "60 to 180"),
    "tempo not a number": (["--tags", "tempo=fast"], "'fast'"),
    "curve out of order": (["--intensity", "0:-30 0.3:-20 0.1:-10"], "must rise"),
    "curve out of range": (["--intensity", "0:-300"], "out of range"),
    "curve not a number": (["--intensity", "0:loud"], "needs numbers"),
    "curve not finite": (["--intensity", "0:nan"], "finite"),
    "curve beyond the end": (["--intensity", "0:-30 9:-20"], "the clip ends at 0.51 s"),
    "no such curve": (["--intensity", "missing.csv"], "No such file"),
    "curve is a folder": (["--intensity", "folder.csv"], "regular file"),
    "curve is binary": (["--intensity", "binary.csv"], "not a CSV file"),
    "curve is empty": (["--intensity", "empty.csv"], "it is empty"),
    "no such recording": (["--intensity-like", "missing.wav"], "missing.wav"),
    "recording is text": (["--intensity-like", "text.wav"], "text.wav"),
    "recording is empty": (["--intensity-like", "empty.wav"], "empty.wav"),
    "recording is a device": (["--intensity-like", "/dev/zero"], "/dev/zero"),
    "recording is a folder": (["--intensity-like", "folder.csv"], "folder.csv"),
    "recording is silent": (["--intensity-like", "silent.wav"], "silen"),
    "recording is one sample": (["--intensity-like", "short.wav"], "short.wav"),
    "recording holds NaN": (["--intensity-like", "nan.wav"], "NaN"),
    "two curves": (["--intensity", "swell", "--intensity-like", "text.wav"], "not both"),
    "correlation with a level curve": (["--intensity", "flat", "--correlation"], "no shape"),
    "no student": (
        ["--method", "ditto2", "--intensity", "flat"],
        "has no student, which ditto2 needs",
    ),
    "no such budget": (
        ["--method", "ditto2", "-M", "many"],
        'surrogate_steps must be a whole number from 1 to 20, or "adaptive"',
    ),
    "a setting of another method": (
        ["--method", "freedom", "--decode-steps", "4"],
        "the method freedom has no setting decode_steps: it has steps, sampler",
    ),
    "gamma": (["--gamma", "2"], "gamma"),
    "no such student": (["--student", "missing"], "no model folder"),
    "unknown method": (["--method", "magic"], "unknown method 'magic'"),
    "unknown sampler": (["--sampler", "euler"], "does not sample by euler: choose ddim or dpm++"),
    "no clip": (["--count", "0"], "count"),
    # First of all: a name for each of them took minutes and the memory.
    "too many clips": (["-o", "many.wav", "--count", "300"], "count must be a whole number"),
    "seed below zero": (["--seed", "-1"], "seed"),
    "no step": (["-T", "0"], "steps"),
    "too many steps": (["-T", "1001"], "steps"),
    "no length": (["--seconds", "0"], "seconds"),
    "too long": (["--seconds", "4000"], "to 3600"),
    "not a number of seconds": (["--seconds", "nan"], "seconds"),
    "for ever": (["--seconds", "inf"], "to 3600"),
    "lr": (["--lr", "-1"], "lr"),
    "guidance": (["--guidance", "inf"], "guidance"),
    "no such folder": (["-o", "no/out.wav"], "its folder does not exist"),
    "folder that is a file": (["-o", "text.wav/out.wav"], "folder"),
    "output is a folder": (["-o", "folder.wav"], "regular file"),
    "output is a device": (["-o", "/dev/null.wav/x.wav"], "folder"),
    "unwritable folder": (["-o", "/proc/out.wav"], "/proc/out.wav"),
    "bad ending": (["-o", "out.xyz"], "must end in .wav"),
    "picture as output": (["-o", "out.png"], "must end in .wav"),
    "no name": (["-o", "."], "must end in .wav"),
    "exists": (["-o", "text.wav"], "exists already"),
    "picture exists": (["-o", "pictured.wav"], "pictured.png exists already"),
    "one of many exists": (["-o", "many.wav", "--count", "3"], "many-1.wav exists already"),
    "no such model": (["--model", "missing"], "no model folder"),
    "model is a file": (["--model", "text.wav"], "no model folder"),
    "model is of another kind": (["--model", "pipeline"], "another kind of model"),
}


@pytest.fixture
def bad_files(tmp_path: Path) -> None:
    """What the mistakes refer to."""
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "many-1.wav").write_text("")
    (tmp_path / "pictured.png").write_text("")
    for name in ("empty.wav", "empty.csv"):
        (tmp_path / name).touch()
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    for name in ("folder.csv", "folder.wav", "pipeline"):
        (tmp_path / name).mkdir()
    (tmp_path / "pipeline" / INDEX).write_text('{"_class_name": "StableDiffusionPipeline"}')
    soundfile.write(tmp_path / "silent.wav", np.zeros(22_050), 22_050)
    soundfile.write(tmp_path / "short.wav", np.ones(1) * 0.1, 22_050)
    soundfile.write(tmp_path / "nan.wav", np.full(22_050, np.nan), 22_050, subtype="FLOAT")


@pytest.mark.usefixtures("bad_files")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_no_file(generate: Command, mistake: str) -> None:
    arguments, message = MISTAKES[mistake]
    before = files()
    output = [] if "-o" in arguments else ["-o", "out.wav"]
    code, out, err = generate(*output, *arguments)
    assert code == 2, err
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert files() == before


def test_a_strange_name_cannot_break_the_line_or_the_colours(generate: Command) -> None:
    code, _, err = generate("--intensity-like", "[red]a\nb\x1b[1m.wav", "-o", "out.wav")
    assert code == 2
    assert err.count("\n") == 1
    assert "[red]a" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing option '--output'"),
        (["generate", "-o", "out.wav", "--tempo", "100"], "No such option"),
        (["generate", "-o", "out.wav", "--count", "many"], "Invalid value for '--count'"),
        (["generat"], "No such command 'generat'"),
    ],
)
def test_a_mistyped_command_says_so_with_exit_code_2(
    ditto_music: Command, arguments: list[str], message: str
) -> None:
    code, out, err = ditto_music(*arguments)
    assert code == 2
    assert message in err
    assert "Usage: ditto-music" in err
    assert "Traceback" not in out + err
    assert files() == []


def commands() -> list[list[str]]:
    """Every command, as its words."""
    found = []
    for name, (module, _) in cli.COMMANDS.items():
        whole = module if "." in module else f"ditto.cli.{module}"
        command = typer.main.get_group(import_module(whole).app).commands[name]
        found += [[name, inner] for inner in getattr(command, "commands", {})] or [[name]]
    return [words for words in found if words != ["bench"]]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_shows_an_example(ditto_music: Command, command: list[str]) -> None:
    code, out, _ = ditto_music(*command, "--help")
    assert code == 0
    assert f"Usage: ditto-music {' '.join(command)}" in out
    assert out.count(f"ditto-music {' '.join(command)}") >= 2


def test_models_shows_what_a_model_is(ditto_music: Command, model_folder: Path) -> None:
    code, out, _ = ditto_music("models", "--model", model_folder)
    assert code == 0
    assert "jazz, rock, folk" in out
    assert re.search(r"sha256 +[0-9a-f]{64}", out)
    assert "0.51 s at 8000 Hz" in out


def test_training_on_what_is_no_data_folder_is_one_line(
    ditto_music: Command, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')
    for arguments, message in (
        (
            ["--config", "config.json"],
            "the config config.json does not fit: learning_rate: Unexpected",
        ),
        (["--config", "missing.json"], "no config file missing.json"),
    ):
        code, _, err = ditto_music("train", "base", *arguments, "--data", "none", "--out", "run")
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    assert files() == ["config.json"]


def test_an_interrupt_ends_with_one_line(
    ditto_music: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(prog_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    code, _, err = ditto_music("generate")
    assert code == 130
    assert err.count("\n") == 1


def test_the_help_names_the_default_of_corrections(ditto_music: Command) -> None:
    from ditto.methods.ditto2 import CORRECTIONS

    code, out, _ = ditto_music("generate", "--help")
    assert code == 0
    assert f"0 is the paper's algorithm. Default: {CORRECTIONS}." in " ".join(
        out.replace("│", " ").split()
    )


def test_a_training_without_its_extra_says_what_to_install(
    ditto_music: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The attribute too: what is imported here must not stay as the package's `training`.
    monkeypatch.delattr("ditto.training", raising=False)
    for name in [name for name in sys.modules if name.startswith("ditto.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    code, out, err = ditto_music("train", "speed")
    assert (code, out) == (2, "")
    assert "needs accelerate: pip install 'ditto-music[train]'" in err
    assert files() == []
