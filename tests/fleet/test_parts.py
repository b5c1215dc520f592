"""The parts of ``make fleet`` run and say what they measured; their bounds are for full sizes."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.cache import machine
from tests.fleet import __main__ as fleet
from tests.fleet.batches import wishes
from tests.fleet.parts import Bound, Found, memory, overhead, part, processes

from ditto.models.model import MusicModel


def held(found: Found, figure: str) -> dict[str, Any]:
    """The one bound of a part, of this figure."""
    (bound,) = found["bounds"]
    assert bound["figure"] == figure
    assert bound["holds"] is found["holds"]
    return bound


def rows(folder: Path) -> int:
    return len((folder / "index.jsonl").read_text().splitlines())


def test_throughput(tiny_model: MusicModel, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"count": 6, "turns": 1, "few": 0, "many": 1}
    found = processes(tmp_path, **sizes, model=tiny_model, requests=wishes)
    assert {path.name: rows(path) for path in tmp_path.iterdir()} == {"0-0": 6, "1-0": 6}
    assert found["requests"] == 12
    (few,), (many,) = found["clips_a_second"]["0"], found["clips_a_second"]["1"]
    assert min(few, many) > 0
    bound = held(found, "factor")
    assert bound["at least"] == 1.8
    assert bound["measured"] == pytest.approx(many / few, rel=1e-2)


def test_overhead(tiny_model: MusicModel, tmp_path: Path) -> None:
    found = overhead(tmp_path, count=12, model=tiny_model, requests=wishes)
    assert rows(tmp_path / "batch") == found["requests"] == 12
    assert len(list((tmp_path / "loop").glob("*.wav"))) == 12
    batch, loop = found["seconds"]["batch"], found["seconds"]["loop"]
    bound = held(found, "overhead")
    assert bound["below"] == 0.03
    assert bound["measured"] == pytest.approx(batch / loop - 1, abs=0.02 / loop + 1e-3)


def test_memory(tmp_path: Path) -> None:
    found = memory(tmp_path, first=5, last=30, workers=0, every=0.02)
    assert rows(tmp_path / "clips") == found["requests"] == 30
    before, after = found["mebibytes"]["5"], found["mebibytes"]["30"]
    assert before > 50  # Python with torch
    assert found["looks"] > 1
    bound = held(found, "grown")
    assert bound["below"] == 0.03
    assert bound["measured"] == pytest.approx(after / before - 1, abs=1e-3)


def test_bounds() -> None:
    assert [Bound("f", value, at_least=1.8).holds for value in (1.79, 1.8, math.nan)] == [
        False,
        True,
        False,
    ]
    assert [Bound("f", value, below=0.03).holds for value in (0.029, 0.03, math.nan)] == [
        True,
        False,
        False,
    ]


def good(folder: Path, *, count: int) -> Found:
    return part(Bound("f", 2.0, at_least=1.8), requests=count)


def bad(folder: Path, *, count: int) -> Found:
    return part(Bound("f", 1.7, at_least=1.8), Bound("g", 0.0, below=1), requests=count)


def broken(folder: Path, *, count: int) -> Found:
    raise RuntimeError("no cluster")


def test_the_log_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"good": good, "bad": bad, "broken": broken}
    monkeypatch.setattr(fleet, "PARTS", kinds)
    monkeypatch.setattr(fleet, "FULL", {name: {"count": 9} for name in kinds})
    monkeypatch.setattr(fleet, "SMALL", {name: {"count": 3} for name in kinds})
    log = tmp_path / "new" / "fleet.json"

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["fleet", *words, "--log", str(log)])
        return fleet.main(), json.loads(log.read_text())

    code, told = call("good")
    assert (code, told["holds"], told["missing"], told["small"]) == (0, True, [], False)
    bound = {"figure": "f", "measured": 2.0, "holds": True, "at least": 1.8}
    assert told["parts"] == {"good": {"requests": 9, "bounds": [bound], "holds": True}}
    assert told["command"].startswith("python -m tests.fleet good --log")
    assert told["date"].endswith("+00:00")
    assert told["machine"].items() >= machine().items()
    assert told["machine"]["memory_gib"] > 0.5
    assert {"git_commit", "ditto_version"} <= told.keys()
    code, told = call("--small", "bad", "good")
    assert (code, told["holds"], told["small"]) == (1, False, True)
    assert [bound["holds"] for bound in told["parts"]["bad"]["bounds"]] == [False, True]
    assert told["parts"]["good"]["holds"]
    code, told = call("broken", "good")
    assert (code, told["parts"]["broken"]["error"]) == (1, "RuntimeError: no cluster")
    assert told["parts"].keys() == {"broken", "good"}
    assert "RuntimeError: no cluster" in capsys.readouterr().err
