"""The bench of all controls on a tiny model: targets, rows, claims, and resuming."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.controls import NONE, SETUPS, TASKS, controls_table
from benchmarks.ear import Ear
from benchmarks.report import Report
from benchmarks.setups import CM, Bench
from benchmarks.tabulate import tabulated

from ditto.errors import ModelError
from ditto.eval.classifier import ClipClassifier
from ditto.models.model import MusicModel

LONG = "outpainting to 30 s"
"""No DITTO there."""
QUICK = {"steps": 2, "lr": 0.1, "iterations": 2}


@pytest.fixture(scope="module")
def bench(model: MusicModel, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(model, data, overrides=QUICK, cache=tmp_path_factory.mktemp("clips"), show=False)


@pytest.fixture(scope="module")
def report(
    bench: Bench, classifier: ClipClassifier, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("bench")
    return tabulated(controls_table(), Ear(bench, classifier), count=1, out=folder), folder


def test_every_task_has_rows_without_control_and_by_ditto(report: tuple[Report, Path]) -> None:
    found, _ = report
    for name, (_, errors, _) in TASKS.items():
        for column in errors:
            for setup in SETUPS[: 1 if name == LONG else 2]:
                assert found.value(f"{name}, {setup.name}", column) is not None
            assert found.value(f"{name}, DITTO-2 CTM", column) is None
    errors = {row.error for row in found.rows if row.row.endswith(CM.name) and row.error}
    assert errors == {
        "no weights: there is no CM student, distil one with `ditto-music distill cm`"
    }


def test_ditto_is_nearer_than_no_control(report: tuple[Report, Path]) -> None:
    found, _ = report
    for task, column in (
        ("looping", "loop_mse"),
        ("inversion", "invert_mse"),
        ("outpainting", "outpaint_mse"),
    ):
        nearer, plain = (
            found.value(f"{task}, DITTO", column),
            found.value(f"{task}, {NONE.name}", column),
        )
        assert nearer is not None
        assert plain is not None
        assert nearer < plain


def test_seams_are_measured_where_there_are_any(report: tuple[Report, Path]) -> None:
    found, _ = report
    seamed = {row.row.split(",")[0] for row in found.rows if row.column == "seams_within_limit"}
    assert seamed == {"outpainting", LONG, "inpainting", "looping", "intensity+outpainting"}
    values = [
        row.value for row in found.rows if row.column == "seams_within_limit" and row.error is None
    ]
    assert all(value is not None and 0 <= value <= 1 for value in values)


def test_files_hold_the_papers_figures(report: tuple[Report, Path]) -> None:
    _, folder = report
    data = json.loads((folder / "controls.json").read_text())
    papers = {(r["row"], r["column"]): r["paper"] for r in data["rows"] if "paper" in r}
    assert papers["melody, DITTO", "melody_accuracy_percent"] == 82.625
    assert papers["structure, no control", "structure_mse"] == 0.309
    assert papers["intensity+structure, DITTO", "intensity_mse_db2"] == 6.802
    assert papers["inversion, DITTO", "invert_mse"] == 0.001
    assert (folder / "controls.png").read_bytes().startswith(b"\x89PNG")
    assert any("melody, DITTO: accuracy" in claim["claim"] for claim in data["claims"])


def test_finished_clips_are_not_made_again(
    report: tuple[Report, Path], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tasks", "controls"):
        monkeypatch.setattr(f"benchmarks.{module}.run", lambda *_: pytest.fail("made again"))
    again = tabulated(
        controls_table(["looping", "intensity"]), Ear(replace(bench), None), count=1, out=tmp_path
    )
    kept = {(row.row, row.column): row.value for row in again.rows if row.error is None}
    assert kept == {key: report[0].value(*key) for key in kept}
    assert {row.row.split(",")[0] for row in again.rows} == {"looping", "intensity"}


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ModelError, match="there is no task 'dance': choose of intensity, melody"):
        controls_table(["dance"])
