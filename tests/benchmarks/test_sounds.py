"""The sounds of docs/audio: small files, and commands that ask for the same."""

import shlex
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import typer
from benchmarks.sounds import (
    DOCS,
    LIMIT_BYTES,
    PAIR_BYTES,
    PAIRS,
    SOUNDS,
    Pair,
    Sound,
    errors_of,
    kept_of,
    run,
    table,
    write_mp3,
)

from ditto import MusicModel, Result, cli, generate


@pytest.mark.parametrize("seconds", [1.0, 6.0, 9.5])
def test_a_sound_is_small_and_as_long_as_it_was(tmp_path: Path, seconds: float) -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal((2, int(seconds * 22_050)))
    write_mp3(tmp_path / "noise.mp3", noise, 22_050)
    read, rate = soundfile.read(tmp_path / "noise.mp3")
    assert (tmp_path / "noise.mp3").stat().st_size <= LIMIT_BYTES
    assert (read.ndim, rate) == (1, 22_050)
    assert abs(len(read) / rate - seconds) < 0.1


def test_what_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="above 60000"):
        write_mp3(tmp_path / "long.mp3", np.zeros(60 * 22_050), 22_050)


@pytest.mark.parametrize("sound", [pytest.param(sound, id=sound.name) for sound in SOUNDS])
def test_the_commands_are_commands(sound: Sound) -> None:
    with mock.patch.object(typer.core.TyperCommand, "invoke", return_value=None):
        cli.app([*shlex.split(sound.command), "-o", "out"], standalone_mode=False)


def test_the_table_has_a_row_for_every_sound_with_its_errors(tiny_model: MusicModel) -> None:
    clip = generate(tiny_model, count=2)
    assert errors_of(clip) == "–"
    page = table([(sound, "loss 0.1") for sound in SOUNDS], tiny_model)
    assert page.count("loss 0.1") == len(SOUNDS)
    assert tiny_model.sha256[:12] in page


def test_the_committed_page_is_of_these_sounds() -> None:
    page = (DOCS / "audio" / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in (DOCS / "audio").glob("*.mp3")} == {s.name for s in SOUNDS}
    assert all(f"`{sound.command}`" in page for sound in SOUNDS)


@pytest.mark.parametrize("pair", [pytest.param(pair, id=pair.name) for pair in PAIRS])
def test_a_pair_is_one_command_without_and_with_its_control(pair: Pair) -> None:
    commands = pair.command(), pair.plain_command({}), pair.plain_command({"candidate": 5})
    for command in commands:
        with mock.patch.object(typer.core.TyperCommand, "invoke", return_value=None):
            run(command, Path("out"))
    assert pair.options in commands[0]
    assert not any(pair.options in command for command in commands[1:])


def test_the_clip_without_is_the_one_that_the_report_compares_with(
    student_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}

    def load(*given: object, **settings: object) -> MusicModel:
        return student_model

    def keep(result: Result, path: Path, item: int = 0, **how: object) -> list[Path]:
        made[path.stem] = result
        return saved(result, path, item, **how)  # pyright: ignore[reportArgumentType]

    saved = Result.save
    monkeypatch.setattr("ditto.cli.options.load", load)
    monkeypatch.setattr(Result, "save", keep)
    pair = Pair("tune", "genre=jazz", '--melody "C4:1 E4:1" -K 2', 3)
    report = pair.make(tmp_path)
    assert report["candidate"]
    assert kept_of(report).endswith(f"(candidate {report['candidate']})")
    plain = made["tune-with"].uncontrolled()
    np.testing.assert_array_equal(made["tune-without"].samples(), plain)


def test_the_committed_pairs_are_these() -> None:
    page = (DOCS / "audio" / "README.md").read_text(encoding="utf-8")
    files = {path.stem: path for path in (DOCS / "audio" / "pairs").glob("*.mp3")}
    assert len(PAIRS) == 12
    assert set(files) == {f"{pair.name}-{end}" for pair in PAIRS for end in ("without", "with")}
    assert all(path.stat().st_size <= PAIR_BYTES for path in files.values())
    assert all(f"`{pair.command()}`" in page for pair in PAIRS)
