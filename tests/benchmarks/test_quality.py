"""The quality bench on a tiny model: rows, claims, files, and figures that can be checked by
hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.quality import FRECHET, REAL, SOUND, SPECTROGRAM, run_quality

from benchmarks import quality as bench
from ditto.errors import ModelError
from ditto.eval.frechet import frechet_distance


@pytest.fixture(scope="module")
def run(model, data, classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")

    def again(**options):
        settings = {
            "count": 5,
            "steps": 2,
            "batch": 2,
            "vocoder_count": 2,
            "guidances": (1.0,),
            "resamples": 8,
            "show": False,
        }
        paths = {"out": folder / "results", "cache": folder / "cache"}
        return run_quality(model, data, classifier, **(settings | paths | options))

    return again, again(), folder


def test_every_row_has_a_value_within_its_interval(run):
    _, report, _ = run
    assert not [row for row in report.rows if row.error]
    for row in report.rows:
        assert row.value is not None
        assert row.low is not None
        assert row.high is not None
        assert row.low - 1e-9 <= row.value <= row.high + 1e-9, row
    accuracies = [row for row in report.rows if "accuracy" in row.column]
    assert all(0 <= row.value <= 1 for row in accuracies)


def test_rows_cover_both_ways_of_hearing_the_sweep_and_the_vocoders(run):
    _, report, _ = run
    names = {row.row for row in report.rows}
    assert {
        REAL,
        SPECTROGRAM,
        SOUND,
        f"{SOUND}, w=1",
        "vocoder",
        "Griffin-Lim, 32 iterations",
    } <= names
    assert len(report.claims) == 8
    assert report.settings["real_clips_per_half"] == 5


def test_files_are_written_and_the_png_is_one(run):
    _, report, folder = run
    results = folder / "results"
    assert json.loads((results / "quality.json").read_text())["rows"][0]["row"] == REAL
    assert (results / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert "## quality" in (folder / "results.md").read_text()
    assert report.seconds > 0


def test_a_second_run_only_reads(run, monkeypatch):
    again, report, _ = run

    def never(*args, **kwargs):
        raise AssertionError("nothing should be generated anew")

    monkeypatch.setattr(bench, "generated", never)
    assert again().rows == report.rows


def test_identical_sets_are_at_distance_zero_and_noise_is_farther(run, classifier, model):
    _, report, _ = run
    x = torch.rand(6, 1, 160, 96, generator=torch.Generator().manual_seed(1)) - 0.5
    vectors = bench.listen(classifier, x).vectors
    assert bench._distance(vectors, vectors, vectors) == pytest.approx(0, abs=1e-9)
    assert bench._distance(vectors, vectors + 1, vectors) == pytest.approx(vectors.shape[1] / 2)
    assert report.value(bench.NOISE_SPECTROGRAM, FRECHET) > report.value(REAL, FRECHET)


def test_ratio_to_the_floor_uses_equal_counts():
    rng = np.random.default_rng(0)
    clips, first, second = (rng.normal(size=(20, 4)) for _ in range(3))
    floor = frechet_distance(first, second)
    expected = (frechet_distance(clips, first) + frechet_distance(clips, second)) / 2 / floor
    assert bench._over_floor(clips, first, second) == pytest.approx(expected)


def test_a_missing_classifier_is_one_clear_line(model, data, tmp_path):
    with pytest.raises(ModelError, match="train classifier"):
        run_quality(model, data, tmp_path / "nothing", out=tmp_path, cache=tmp_path)


def test_students_make_the_same_clips_in_few_steps_and_leave_the_teachers_parts_alone(
    fast, data, classifier, tmp_path, monkeypatch
):
    paths = {"out": tmp_path / "results", "cache": tmp_path / "cache"}
    settings = {
        "count": 4,
        "steps": 2,
        "batch": 2,
        "vocoder_count": 1,
        "resamples": 8,
        "show": False,
        **paths,
    }
    as_cm = replace(fast, distilled=replace(fast.distilled, kind="cm"), sha256="cm" * 32)
    report = run_quality(fast, data, classifier, cm=as_cm, **settings)
    steps = ("1 step", "2 steps", "4 steps", "8 steps")
    rows = {f"{SOUND}, {kind} in {number}" for kind in ("CTM", "CM") for number in steps}
    assert rows <= {row.row for row in report.rows}
    # from the first timestep a student of either kind jumps to the same place; in two steps γ sets
    # them apart
    assert report.value(f"{SOUND}, CTM in 1 step", FRECHET) == report.value(
        f"{SOUND}, CM in 1 step", FRECHET
    )
    assert report.value(f"{SOUND}, CTM in 2 steps", FRECHET) != report.value(
        f"{SOUND}, CM in 2 steps", FRECHET
    )
    claims = [claim for claim in report.claims if "CTM student" in claim.claim]
    assert [claim.ratio for claim in claims] == [
        pytest.approx(
            report.value(f"{SOUND}, CTM in {n} steps", FRECHET) / report.value(SOUND, FRECHET)
        )
        for n in (2, 4)
    ]
    monkeypatch.setattr(
        bench, "generated", lambda *args, **kwargs: pytest.fail("the teacher should not play again")
    )
    run_quality(replace(fast, sha256="another student" * 4), data, classifier, **settings)
