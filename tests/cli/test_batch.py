"""``ditto-music batch``: lines of options and reports, each faulty one said before the work."""

import io
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from rich.console import Console
from tests.conftest import Command

import ditto
from ditto import paths
from ditto.cli import edit, generate
from ditto.cli.batch import _Count, load_model
from ditto.cli.lines import COMMANDS, Lines, job_of
from ditto.errors import RequestError
from ditto.fleet.making import Entry, Maker, Outcome
from ditto.latents import Latent, draw_x_T
from ditto.models.model import MusicModel

QUICK = {"iterations": 2, "steps": 2}


@pytest.fixture
def batch(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    soundfile.write(tmp_path / "song.wav", samples, 8000)

    def call(*words: Any) -> tuple[int, str, str]:
        more = () if words[0] != "batch" else ("--no-pictures", "--no-compare")
        return ditto_music(*words, *more, "--model", model_folder)

    return call


def write(*lines: dict[str, Any] | str) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    Path("r.jsonl").write_text(text + "\n", encoding="utf-8")


def sound(path: str) -> np.ndarray:
    return soundfile.read(path)[0]


def test_lines_are_what_the_commands_make(batch: Command) -> None:
    quick = ("-K", 2, "-T", 2)
    commands = (
        ("generate", "--loudness", "swell", "--tags", "genre=jazz", "--seed", 3),
        ("generate", "--method", "none", "--seconds", 1.2, "--fade", 0.2),
        ("inpaint", "song.wav", "--from", 0.4, "--to", 0.6, "--overlap", 0.2),
        ("outpaint", "song.wav", "--seconds", 1.5, "--overlap", 0.2, "--backwards"),
        ("loop", "song.wav", "--overlap", 0.1, "--repeats", 2),
        ("loop", "--bpm", 480 / 1.2, "--bars", 1, "--overlap", 0.1, "--tags", "tempo=100"),
    )
    for i, words in enumerate(commands):
        options = quick[2:] if "none" in words else quick
        assert batch(*words, *options, "-o", f"{i}.wav")[0] == 0
    song = {"recording": "song.wav", **QUICK}
    write(
        {"intensity": "swell", "tags": {"genre": "jazz"}, "seed": 3, **QUICK},
        {"method": "none", "seconds": 1.2, "fade": 0.2, "steps": 2},
        {"command": "inpaint", "from": 0.4, "to": [0.6], "overlap": 0.2, **song},
        {"command": "outpaint", "seconds": 1.5, "overlap": 0.2, "backwards": True, **song},
        "",
        {"command": "loop", "overlap": 0.1, "repeats": 2, **song, "name": "loop"},
        {"command": "loop", "bpm": 400, "bars": 1, "overlap": 0.1, "tags": "tempo=100", **QUICK},
    )
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert code == 0, err
    assert "6 clips made" in err
    names = ("00001", "00002", "00003", "00004", "loop", "00007")
    for i, name in enumerate(names):
        assert np.array_equal(sound(f"{i}.wav"), sound(f"clips/{name}.wav")), name
    rows = [json.loads(line) for line in Path("clips/index.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"{name}.wav" for name in names]
    assert rows[0]["tags"]["genre"] == "jazz"
    assert rows[0]["errors"]["intensity_mse_db2"] > 0
    assert "0 clips made, 6 were there" in batch("batch", "r.jsonl", "--out", "clips")[2]


def test_reports_counts_and_variations(batch: Command) -> None:
    words = "generate", "--loudness", "swell", "-K", 2, "-T", 2, "--count", 3, "--seed", 5
    assert batch(*words, "-o", "a.wav")[0] == 0
    assert batch(*words[:-4], "--latent", "x.latent", "-o", "x.wav")[0] == 0
    assert batch("vary", "x.latent", "--count", 2, "--seed", 4, "-T", 3, "-o", "v")[0] == 0
    assert batch("batch", "a-1.json", "--out", "again")[0] == 0
    assert np.array_equal(sound("a-1.wav"), sound("again/a-1.wav"))
    report = json.loads(Path("a-2.json").read_text())
    varied = json.loads(Path("v/001.json").read_text())
    write(
        {"request": report["request"], "name": "of-request.flac"},
        {"loudness": "swell", "count": 3, "seed": 5, **QUICK, "name": "three"},
        {"command": "vary", "latent": "x.latent", "count": 2, "seed": 4, "steps": 3, "name": "v"},
        varied | {"name": "varied"},
    )
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert code == 0, err
    for one, other in (
        ("a-0", "three-0"),
        ("a-1", "three-1"),
        ("a-2", "three-2"),
        ("v/000", "v-0"),
        ("v/001", "v-1"),
        ("v/001", "varied"),
    ):
        assert np.array_equal(sound(f"{one}.wav"), sound(f"clips/{other}.wav")), other
    assert Path("clips/of-request.flac").is_file()


def test_every_faulty_line_is_one_line_before_any_work(batch: Command) -> None:
    good = {"loudness": "swell", **QUICK}
    lines: list[dict[str, Any] | str] = [{**good, "seed": seed} for seed in range(36)]
    faults = {
        "{": "no JSON object",
        "[1]": "no JSON object",
        '{"loudness": "swell", "louder": 1}': "generate has no option louder",
        '{"seed": "three"}': "seed must be a whole number, not three",
        '{"seed": 1.5}': "seed must be a whole number",
        '{"compare": 1}': "compare must be true or false",
        '{"tags": "genre=polka"}': "polka",
        '{"command": "remix"}': "unknown command remix",
        '{"loudness": "sideways"}': "cannot read the loudness curve",
        '{"loudness-like": "none.wav"}': "none.wav",
        '{"command": "inpaint", "recording": "none.wav", "from": 1, "to": 2}': "none.wav",
        '{"command": "inpaint", "recording": "song.wav", "from": 1, "to": 9}': "is not within",
        '{"command": "outpaint", "seconds": 3}': "needs its recording",
        '{"command": "loop"}': "give the loop's length",
        '{"command": "vary", "latent": "none.latent"}': "none.latent",
        '{"request": {"seed": "x"}}': "seed must be a whole number from 0",
        '{"name": "00001.wav"}': "is that of r.jsonl line 1",
        '{"name": "../up.wav"}': "no name for a clip",
        '{"start": "none.latent"}': "none.latent",
    }
    write(*lines, *faults)
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert code == 2
    said = err.splitlines()
    assert len(said) == len(faults)
    for i, (words, line) in enumerate(zip(faults.values(), said, strict=True)):
        assert line.startswith(f"error: r.jsonl line {37 + i}: "), line
        assert words in line
    assert not Path("clips").exists()


def test_variations_have_the_steps_that_are_asked_for(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    x_T = draw_x_T(tiny_model.shape(None), 0, 1)
    for i, method in enumerate((ditto.Ditto2(), ditto.Ditto(steps=9), None)):
        made = ditto.Request(method=method).to_dict()
        file = Latent(x_T, tiny_model.sha256, made).save(tmp_path / f"{i}.latent")
        line = {"command": "vary", "latent": str(file)}
        job = job_of(line | {"steps": 3}, "r.jsonl", tiny_model)
        assert getattr(job.request.method, "steps", None) == 3, method
        job.check(tiny_model)
        with pytest.raises(RequestError, match="steps must be a whole number"):
            job_of(line | {"steps": 0}, "r.jsonl", tiny_model)


def test_what_is_no_name_number_or_file_is_one_line(batch: Command) -> None:
    faults = {
        '{"name": ""}': "name must be that of a sound file, not empty",
        '{"name": "/"}': "name must be that of a sound file, not /",
        '{"name": ["x"]}': "name must be that of a sound file",
        '{"name": "a\\u0000b"}': "name must be that of a sound file",
        '{"seed": NaN}': "seed must be a whole number, not nan",
        '{"seed": Infinity}': "seed must be a whole number, not inf",
        '{"seconds": 1' + "0" * 400 + "}": "seconds must be a number, not 1000",
        '{"command": ["generate"]}': "unknown command",
        '{"request": {"start": "a/b"}}': "began from the latent a/b: give it",
        '{"request": {"start": ""}}': "began from the latent",
        '{"request": {}, "batch": {"seed": 1, "count": 2, "item": "x"}}': "item must be",
        '{"request": {}, "edit": "song", "asked": {"seconds": "x"}}': "seconds must be a number",
    }
    write(*faults)
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    said = err.splitlines()
    assert (code, len(said)) == (2, len(faults)), err
    for i, (words, line) in enumerate(zip(faults.values(), said, strict=True)):
        assert line.startswith(f"error: r.jsonl line {i + 1}: "), line
        assert words in line
    assert not Path("clips").exists()


def test_a_count_of_a_table_s_is_as_many_clips(batch: Command) -> None:
    """Programs that keep numbers as floats write 2.0: one clip of the two was made."""
    write('{"method": "none", "steps": 1, "seed": 3, "count": 2.0, "name": "a"}')
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert (code, "2 clips made" in err) == (0, True), err
    assert sorted(path.name for path in Path("clips").glob("*.wav")) == ["a-0.wav", "a-1.wav"]


def test_a_recording_that_a_report_reads_is_not_replaced(batch: Command) -> None:
    Path("d").mkdir()
    Path("song.wav").rename("d/song.wav")
    form = "generate", "--structure-like", "d/song.wav", "--method", "none", "-T", 1
    assert batch(*form, "--no-compare", "-o", "d/a.wav")[0] == 0
    request = json.loads(Path("d/a.json").read_text())["request"]
    Path("d/r.jsonl").write_text(json.dumps({"request": request, "name": "song.wav"}))
    before = Path("d/song.wav").read_bytes()
    code, _, err = batch("batch", "d/r.jsonl", "--out", "d", "--force")
    assert (code, "this command reads it" in err) == (2, True), err
    assert Path("d/song.wav").read_bytes() == before


def test_a_clip_of_this_folder_can_be_made_anew(batch: Command) -> None:
    """Its name was taken for a file that is read."""
    for seed in (1, 2):
        write({"method": "none", "steps": 1, "seed": seed, "name": "a.wav"})
        code, _, err = batch("batch", "r.jsonl", "--out", ".", "--force")
        assert (code, "1 clips made" in err) == (0, True), err
    assert json.loads(Path("a.json").read_text())["request"]["seed"] == 2


def test_what_is_wrong_with_the_whole(batch: Command) -> None:
    write({"loudness": "swell", **QUICK})
    Path("empty.jsonl").write_text("\n")
    Path("file").write_text("")
    Path("index").mkdir()
    Path("index/index.jsonl").write_text("not an index\n")
    for words, said in (
        (("none.jsonl", "--out", "clips"), "cannot read none.jsonl"),
        (("empty.jsonl", "--out", "clips"), "holds no requests"),
        (("r.jsonl", "--out", "file"), "cannot make the folder file"),
        (("r.jsonl", "--out", "index"), "no index of clips"),
        (("r.jsonl", "--out", "clips", "--device", "warp"), "unknown device"),
    ):
        code, _, err = batch("batch", *words)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err
    assert Path("index/index.jsonl").read_text() == "not an index\n"
    assert not Path("clips").exists()
    # A file that is read is never replaced, with --force too.
    Path("song.json").write_text(json.dumps({"request": {}}))
    code, _, err = batch("batch", "song.json", "--out", ".", "--force")
    assert (code, "this command reads it" in err) == (2, True), err


def test_ctrl_c_finishes_what_runs(batch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = ditto.runner.run, []  # pyright: ignore[reportAttributeAccessIssue]

    def run(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **more)

    monkeypatch.setattr("ditto.jobs.run", run)
    write(*({"loudness": "swell", "seed": seed, **QUICK} for seed in range(4)))
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert code == 130
    assert "stopped: the same command makes the 2 that are missing" in err
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert (code, len(calls)) == (0, 4)
    rows = Path("clips/index.jsonl").read_text().splitlines()
    assert [json.loads(row)["name"] for row in rows] == [f"{i:05d}.wav" for i in range(1, 5)]


def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even root writes to these, so that the test says as much to any user."""
    loaded = []
    monkeypatch.setattr("ditto.cli.options.load", lambda *words, **more: loaded.append(words))
    write({"loudness": "swell", **QUICK})
    for folder in ("/sys", "/proc"):
        if Path(folder).is_dir():
            code, _, err = batch("batch", "r.jsonl", "--out", folder)
            assert (code, err.count("\n")) == (2, 1), err
            assert err.startswith(f"error: cannot write {folder}: ")
    assert not loaded


class Room:
    """A disk that holds so many more files, and then is full."""

    def __init__(self, files: int) -> None:
        self.files = files

    def __call__(self, path: Path) -> None:
        """Stand for `ditto.paths._sync`, which each file passes before it is there."""
        self.files -= 1
        if self.files < 0:
            raise OSError(28, "No space left on device")


def load_with_little_room(values: dict[str, Any]) -> MusicModel:
    """Load the model in a process that has room for one clip."""
    setattr(paths, "_sync", Room(2))  # noqa: B010
    return load_model(values)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_one_line_and_nothing_is_lost(
    batch: Command, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    write(*({"loudness": "swell", "seed": seed, **QUICK} for seed in range(4)))
    with monkeypatch.context() as patched:
        if workers:
            patched.setattr("ditto.cli.batch.load_model", load_with_little_room)
        else:
            patched.setattr("ditto.paths._sync", Room(2))
        code, _, err = batch("batch", "r.jsonl", "--out", "clips", "--workers", workers)
    folder = Path("clips").absolute()
    words = "No space left on device: what is made is kept, run it again later"
    assert err == f"error: cannot write {folder}/00002.wav: {words}\n"
    assert code == 2
    kept = {path.name: path.read_bytes() for path in Path("clips").iterdir()}
    assert sorted(kept) == ["00001.json", "00001.wav", "index.jsonl"]
    (row,) = map(json.loads, kept["index.jsonl"].splitlines())
    assert row["name"] == "00001.wav"
    code, _, err = batch("batch", "r.jsonl", "--out", "clips")
    assert (code, "3 clips made" in err, "1 were there" in err) == (0, True, True), err
    assert Path("clips/00001.wav").read_bytes() == kept["00001.wav"]
    rows = [json.loads(line) for line in Path("clips/index.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"{i:05d}.wav" for i in range(1, 5)]


def load_and_tell(values: dict[str, Any]) -> MusicModel:
    """Load the model in a process that leaves a file for every clip that it begins."""
    real = Maker._one

    def tell(maker: Maker, entry: Entry) -> Outcome:
        Path("begun", entry.name).touch()
        time.sleep(0.1)  # most of it is then spent within a clip, also on a machine that is busy
        return real(maker, entry)

    setattr(Maker, "_one", tell)  # noqa: B010
    return load_model(values)


def test_ctrl_c_finishes_what_processes_make(
    batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal's: all processes get it. Speed and time left are told meanwhile."""
    write(*({"loudness": "swell", "seed": seed, **QUICK} for seed in range(60)))
    begun, real = Path("begun"), _Count.add
    begun.mkdir()
    stopped: list[set[str]] = []

    def add(count: _Count, made: Any, update: Any) -> None:
        real(count, made, update)
        names = {path.name for path in begun.iterdir()}
        if len(names) > count.made and not stopped:  # another is being made
            stopped.append(names)
            for process in (os.getpid(), *(p.pid for p in multiprocessing.active_children())):
                os.kill(process or 0, signal.SIGINT)

    monkeypatch.setattr(_Count, "add", add)
    monkeypatch.setattr("ditto.cli.batch.load_model", load_and_tell)
    monkeypatch.setattr("ditto.cli.batch.TELL_SECONDS", 0.0)
    code, _, err = batch("batch", "r.jsonl", "--out", "clips", "--workers", 2)
    assert code == 130, err
    (names,) = stopped
    assert {path.name for path in begun.iterdir()} == names
    rows = [json.loads(line) for line in Path("clips/index.jsonl").read_text().splitlines()]
    assert len(rows) == len(names)
    assert {row["name"] for row in rows} == names
    assert all(row["errors"] and "error" not in row for row in rows)
    whole = {f"{name[:-4]}{ending}" for name in names for ending in (".wav", ".json")}
    assert {path.name for path in Path("clips").iterdir()} == {"index.jsonl", *whole}
    assert all(len(sound(f"clips/{name}")) == 4096 for name in names)
    *told, last, note = err.splitlines()
    assert len(told) == len(names)
    for i, line in enumerate(told, start=1):
        assert re.fullmatch(rf"{i} of 60, \d+ clips an hour, \d:\d\d:\d\d left", line), line
    assert re.fullmatch(rf"clips/  {len(names)} clips made, \d+ clips an hour", last)
    assert note == f"note: stopped: the same command makes the {60 - len(names)} that are missing"


def test_a_terminal_shows_speed_and_time_left(
    batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=160)
    for module in ("progress", "batch"):
        monkeypatch.setattr(f"ditto.cli.{module}.console", shown)
    write(*({"loudness": "swell", "seed": seed, **QUICK} for seed in range(3)))
    assert batch("batch", "r.jsonl", "--out", "clips")[0] == 0
    found = shown.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found)
    assert re.search(r"batch \d+ clips an hour .* 3/3 +\d:\d\d:\d\d 0:00:00", plain), plain


def test_processes_make_the_same_and_a_failure_is_a_row(batch: Command) -> None:
    write(
        *({"loudness": "swell", "seed": seed, **QUICK} for seed in range(3)),
        {"command": "outpaint", "recording": "song.wav", "seconds": 0.5, "name": "short", **QUICK},
    )
    assert batch("batch", "r.jsonl", "--out", "one")[0] == 1
    code, _, err = batch("batch", "r.jsonl", "--out", "two", "--workers", 1)
    assert code == 1
    assert "warning: short.wav: seconds, the length of the whole, must be above" in err
    assert "1 failed, see two/index.jsonl" in err
    for i in range(1, 4):
        assert np.array_equal(sound(f"one/{i:05d}.wav"), sound(f"two/{i:05d}.wav"))
    rows = [json.loads(line) for line in Path("two/index.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, False, False, True]


def test_an_entry_is_read_again_where_it_stands(tmp_path: Path, tiny_model: MusicModel) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"seed": 1}\n\n{"seed": 20, "count": 2, "tags": "mood=happy"}\n{"seed": 3}')
    lines = Lines(path)
    entries = list(lines)
    assert [entry.name for _, entry in entries] == [
        "00001.wav",
        "00003-0.wav",
        "00003-1.wav",
        "00004.wav",
    ]
    for position, entry in entries:
        again = lines.entry(position)
        assert (again.name, again.text) == (entry.name, entry.text)
        assert again.read(tiny_model).request == entry.read(tiny_model).request
    assert [entry.read(tiny_model).request.seed for _, entry in entries] == [1, 20, 21, 3]


def test_lines_have_the_options_of_the_commands() -> None:
    for name, module in (("generate", generate), *((n, edit) for n in COMMANDS if n != "generate")):
        command = typer.main.get_group(module.app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
        theirs = {parameter.name for parameter in command.params}
        ours = {parameter.name for parameter in COMMANDS[name]}
        renamed = {"recording": "song"}
        assert {renamed.get(each, each) for each in ours} <= theirs
        ways = {"output", "force", "model", "student", "controlnet", "device", "precision"}
        ways |= {"decoder_precision", "low_memory", "heads", "latent", "random_tags", "help"}
        assert theirs - {renamed.get(each, each) for each in ours} <= ways
