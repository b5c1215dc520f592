"""The table of what a control costs: its rows, their identity, its picture and its seeds."""

import json
from dataclasses import replace
from pathlib import Path

import benchmarks.__main__ as command
import pytest
from benchmarks.measures import Judge
from benchmarks.plots import draw
from benchmarks.runner import run_table
from benchmarks.tasks import Bench
from benchmarks.tradeoff import ERRORS, TABLE, Steered, done_when_met

from ditto.controls import Intensity, Melody, Structure
from ditto.errors import DittoError

ROWS = ("melody, LatCH, 1", "melody, default, K 10", "melody, one by one, n", "text, LatCH, 1")


def test_rows_run_and_are_drawn(bench: Bench, judge: Judge, tmp_path: Path) -> None:
    table = TABLE.only(ROWS)
    assert [entry.name for entry in table.entries] == [
        "melody, default, K 10",
        "melody, one by one, norm",
        "melody, one by one, near",
        "melody, LatCH, 1",
        "text, LatCH, 1",
    ]
    report = run_table(table, bench, judge, count=2, command="test")
    values = {row.row: row.value for row in report.rows if row.column == ERRORS["melody"].name}
    assert len(values) == 4
    assert all(value is not None and 0 <= value <= 100 for value in values.values())
    path = report.write(tmp_path)
    assert json.loads(path.read_text())["name"] == "tradeoff"
    assert draw(report, tmp_path).stat().st_size > 1000


def test_every_row_asks_for_another_clip(bench: Bench) -> None:
    own, asked = replace(bench, overrides={}), set()
    for entry in TABLE.entries:
        if entry.group == "text":  # as brightness, and needs a CLAP
            continue
        assert isinstance(entry.task, Steered)
        request = entry.task.request(own, entry.variant, 0)
        if "near" not in entry.name:
            asked.add(json.dumps([request.to_dict(), entry.variant.method.to_dict()], default=str))
    names = [e.name for e in TABLE.entries if e.group != "text" and "near" not in e.name]
    alike = [name for name in names if name.endswith(("LatCH, 1", "FreeDoM, 1"))]
    assert len(asked) >= len(names) - len(alike)


def test_what_is_done_when_met() -> None:
    assert done_when_met(Intensity("swell")) == Intensity("swell", dead_zone=1.0)
    assert done_when_met(Structure("ABA", 0.0, 0.0)) == Structure("ABA")
    tune = Melody.from_notes("C4:1").tune
    assert done_when_met(Melody(tune, "nll")) == Melody(tune, "margin")


def test_settings_are_chosen_on_seeds_of_their_own() -> None:
    assert command.first_seed([TABLE], None) == 1000
    assert command.first_seed([command.TABLES["controls"]], None) == 0
    with pytest.raises(DittoError, match="give a --seed of 1000 or more"):
        command.first_seed([TABLE], 7)
