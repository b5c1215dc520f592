"""The intensity bench on a tiny model: curves, tags, the claim, and resuming."""

import json

import numpy as np
import pytest
import torch
from benchmarks.intensity import HIGHEST_DB, LOWEST_DB, random_curve, random_tags, run_intensity

from benchmarks import intensity as bench
from ditto.audio.features import intensity
from ditto.controls.curves import smoothed
from ditto.request import Request, run


@pytest.fixture(scope="module")
def report(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return run_again(model, folder), folder


def run_again(model, folder, **options):
    settings = {"count": 3, "batch": 2, "steps": 2, "iterations": 3, "lr": 0.1, "show": False}
    return run_intensity(
        model, out=folder / "results", cache=folder / "cache", **(settings | options)
    )


def test_curves_are_many_in_range_and_fit_the_clip(model):
    seconds = model.spec.clip_seconds
    curves = [random_curve(np.random.default_rng(i), seconds) for i in range(300)]
    assert len({c.points for c in curves}) == 300
    assert {len(c.points) for c in curves if not c.relative} == {2, 3, 4, 5}
    levels = np.array([level for c in curves for _, level in c.points])
    assert levels.min() >= LOWEST_DB
    assert levels.max() <= HIGHEST_DB
    assert levels.min() < -38
    assert levels.max() > -16
    assert all(c.last <= seconds for c in curves)


def test_tags_are_never_null_and_cover_the_vocabulary(model):
    drawn = torch.stack(
        [random_tags(np.random.default_rng(i), model.vocabulary) for i in range(300)]
    )
    assert drawn[:, :3].amin(dim=0).tolist() == [1, 1, 1]
    assert drawn[:, :3].amax(dim=0).tolist() == [size - 1 for size in model.vocabulary.sizes]
    assert drawn[:, 3].amin() >= 600
    assert not drawn[:, 4].any()


def test_ditto_is_better_than_no_control(report):
    found, _ = report
    assert found.value("DITTO", "intensity_mse") < found.value("no control", "intensity_mse")
    assert found.claims[0].ratio == pytest.approx(
        found.value("no control", "intensity_mse") / found.value("DITTO", "intensity_mse")
    )


def test_no_control_rows_are_those_of_a_plain_request(report, model):
    found, _folder = report
    errors = []
    for seed in range(3):
        rng = np.random.default_rng([seed, 2])
        curve = random_curve(rng, model.spec.clip_seconds)
        tags = model.vocabulary.decode(random_tags(rng, model.vocabulary).tolist())
        audio = run(Request(tags=tags, seed=seed, method="none", steps=2), model).audio
        achieved = intensity(audio, model.spec)[0]
        errors.append((achieved - smoothed(curve, 96, model.spec)).square().mean().item())
    assert found.value("no control", "intensity_mse") == pytest.approx(np.mean(errors), rel=1e-3)


def test_files_hold_the_paper_beside_the_figures(report):
    found, folder = report
    rows = json.loads((folder / "results" / "intensity.json").read_text())["rows"]
    assert {r["row"]: r.get("paper") for r in rows if r["column"] == "intensity_mse"} == {
        "no control": 40.843,
        "DITTO": 4.758,
    }
    assert (folder / "results" / "intensity.png").read_bytes().startswith(b"\x89PNG")
    assert found.settings["iterations"] == 3


def test_finished_batches_are_not_made_again(report, model, monkeypatch):
    found, folder = report
    made = []
    original = bench._measure
    monkeypatch.setattr(bench, "_measure", lambda *args: made.append(args[2:]) or original(*args))
    assert run_again(model, folder).rows == found.rows
    assert made == []
    next((folder / "cache").rglob("clips-0002-0003.safetensors")).unlink()
    run_again(model, folder)
    assert made == [(2, 3)]


def test_a_batch_finds_what_its_items_find_alone(report, model, tmp_path):
    found, _ = report
    alone = run_again(model, tmp_path, batch=1)
    assert alone.value("DITTO", "intensity_mse") == pytest.approx(
        found.value("DITTO", "intensity_mse"), rel=0.02
    )
