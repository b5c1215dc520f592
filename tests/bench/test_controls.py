"""The bench of all controls on a tiny model: targets, rows, claims, and resuming."""

import json

import numpy as np
import pytest

from ditto.bench import controls as bench
from ditto.bench.controls import METHODS, TASKS, run_controls
from ditto.bench.tunes import HIGHEST, LOWEST, TUNES, drawn_tune
from ditto.errors import ModelError
from ditto.request import Request


@pytest.fixture(scope="module")
def report(model, classifier, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return run_again(model, classifier, data, folder), folder


def run_again(model, classifier, data, folder, **options):
    settings = {"count": 1, "iterations": 2, "show": False, "out": folder / "results", "cache": folder / "cache"}
    return run_controls(model, data, classifier, **(settings | options))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(bench, "Request", lambda **settings: Request(**settings, steps=2, lr=0.1))


def test_tunes_are_many_of_six_seconds_and_in_range():
    tunes = [drawn_tune(np.random.default_rng(i), 120.0) for i in range(200)]
    assert {tune.name for tune in tunes} == set(TUNES)
    pitches = [note.pitch for tune in tunes for note in tune.notes]
    assert min(pitches) >= LOWEST - 6
    assert max(pitches) <= HIGHEST
    assert all(tune.seconds >= 5.9 for tune in tunes)
    assert len({tune.notes for tune in tunes}) > 80


def test_every_task_has_rows_without_control_and_by_ditto(report):
    found, _ = report
    for task in TASKS:
        for column in task.units:
            for method in METHODS[:2]:
                assert found.value(f"{task.name}, {method}", column) is not None
            assert found.value(f"{task.name}, DITTO-2 CTM", column) is None
    errors = {row.error for row in found.rows if row.row.endswith("CM") and row.error}
    assert errors == {"there is no CM student: distil one with `ditto-music distill cm`"}


def test_ditto_is_nearer_than_no_control(report):
    found, _ = report
    for task, column in (("looping", "loop_mse"), ("inversion", "invert_mse"), ("outpainting", "outpaint_mse")):
        assert found.value(f"{task}, DITTO", column) < found.value(f"{task}, no control", column)


def test_seams_are_measured_where_there_are_any(report):
    found, _ = report
    seamed = {row.row.split(",")[0] for row in found.rows if row.column == "seams_within_limit"}
    assert seamed == {"outpainting", "inpainting", "looping", "intensity+outpainting"}
    assert all(0 <= row.value <= 1 for row in found.rows if row.column == "seams_within_limit")


def test_files_hold_the_papers_figures(report):
    _, folder = report
    data = json.loads((folder / "results" / "controls.json").read_text())
    papers = {(r["row"], r["column"]): r["paper"] for r in data["rows"] if "paper" in r}
    assert papers["melody, DITTO", "melody_accuracy_percent"] == 82.625
    assert papers["structure, no control", "structure_mse"] == 0.309
    assert (folder / "results" / "controls.png").read_bytes().startswith(b"\x89PNG")
    assert any("melody, DITTO: accuracy" in claim["claim"] for claim in data["claims"])


def test_finished_clips_are_not_made_again(report, model, classifier, data, monkeypatch):
    found, folder = report
    monkeypatch.setattr(bench, "_measured", lambda *_: pytest.fail("made again"))
    again = run_again(model, classifier, data, folder)
    assert [row.value for row in again.rows] == [row.value for row in found.rows]


def test_distances_need_more_than_one_clip(report, model, classifier, data, tmp_path):
    assert not [row for row in report[0].rows if row.column == "frechet_distance"]
    two = run_again(model, classifier, data, tmp_path, count=2, tasks=["looping"])
    assert two.value("looping, DITTO", "frechet_distance") > 0
    assert {row.row.split(",")[0] for row in two.rows} == {"looping"}


def test_an_unknown_task_is_refused(model, classifier, data, tmp_path):
    with pytest.raises(ModelError, match="there is no task 'dance': choose of intensity, melody"):
        run_again(model, classifier, data, tmp_path, tasks=["dance"])
