"""Rows × variants: claims have the paper's sign, counts are kept, processes share the work."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.cache import ResultCache
from benchmarks.measures import (
    ACCURACY,
    CLAP_SCORE,
    FAD,
    MSE,
    OWN_CLAP_SCORE,
    TIME,
    Measure,
    RowResult,
)
from benchmarks.report import verdicts
from benchmarks.runner import Versus, orderings, run_table
from benchmarks.tables_ditto2 import adherence
from benchmarks.tasks import Bench
from benchmarks.variants import CHAIN, DITTO, FREEDOM

from benchmarks import tables_ditto, tables_ditto2
from ditto.errors import DittoError


def row(judge, measure, values):
    tensors = {measure.name: torch.tensor(values, dtype=torch.float64)}
    return RowResult({**tensors, "seconds": torch.ones(len(values))}, judge)


RNG = np.random.default_rng(0)
LOW, HIGH = RNG.uniform(1, 2, 20).tolist(), RNG.uniform(5, 9, 20).tolist()


@pytest.mark.parametrize(
    ("group", "measure", "ditto", "freedom", "verdict"),
    [
        ("intensity", MSE, LOW, HIGH, "reproduced"),
        ("intensity", MSE, HIGH, LOW, "not reproduced"),
        ("intensity", MSE, LOW, LOW[::-1], "undecided"),
        ("intensity", MSE, LOW[:5], HIGH[:5], "undecided"),
        ("melody", ACCURACY, [90 + v for v in LOW], [30 + v for v in HIGH], "reproduced"),
        ("melody", ACCURACY, [30 + v for v in LOW], [90 + v for v in LOW], "not reproduced"),
    ],
)
def test_claims_have_the_sign_of_the_paper(judge, group, measure, ditto, freedom, verdict):
    """Table 3: intensity DITTO 4.758, FreeDoM 23.292; melody 82.625 against 31.544."""
    values = {"DITTO": ditto, "FreeDoM": freedom}
    results = {
        replace(entry, measures=(measure,)): row(judge, measure, values[entry.variant.name])
        for entry in tables_ditto.TABLE_3.entries
        if entry.group == group and entry.variant in (DITTO, FREEDOM)
    }
    claims = orderings("DITTO", results)
    assert verdicts(claims) == [verdict]
    assert claims[0].count == len(ditto)


def test_rows_are_compared_over_the_clips_that_both_have(judge):
    rows = {"a": row(judge, MSE, HIGH), "b": row(judge, MSE, LOW[:9]), "c": "no weights"}
    (claim,) = Versus("a is worse", "a", "b", MSE, least=2.0)(rows)
    assert (claim.count, claim.border, claim.side) == (9, 2.0, "above")
    assert claim.ratio == pytest.approx(np.mean(HIGH[:9]) / np.mean(LOW[:9]))
    assert Versus("", "a", "c", MSE)(rows) == Versus("", "a", "d", MSE)(rows) == []
    (claim,) = Versus("b is small", "b", None, MSE, most=3.0)(rows)
    assert verdicts([claim]) == ["reproduced"]


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "reproduced"), (0.2, "not reproduced")])
def test_a_gain_that_another_clap_does_not_hear_is_reward_hacking(
    monkeypatch, judge, share, verdict
):
    rng = np.random.default_rng(0)
    before = rng.normal(0.5, 0.02, 40)
    own = before + rng.normal(0, 0.01, 40)
    scores = {"Base TTM (tags)": (before, own), "U-DITTO-2": (before + 0.3 * share, own + 0.3)}
    rows = {name: row(replace(judge, clap=SimpleNamespace()), MSE, LOW * 2) for name in scores}
    for place, measure in enumerate((CLAP_SCORE, OWN_CLAP_SCORE)):
        by_size = {id(rows[name].judge): value[place] for name, value in scores.items()}
        compute = lambda found, by_size=by_size: by_size[id(found.judge)]  # noqa: E731
        monkeypatch.setitem(vars(measure), "compute", compute)
    better, shared = claims = adherence(rows)
    assert verdicts(claims) == ["reproduced", verdict]
    assert shared.ratio == pytest.approx(share, rel=0.05)
    assert better.ratio > 1
    rows["Base TTM (tags)"] = row(judge, MSE, LOW)
    assert adherence(rows) == []


def test_another_embedding_is_claimed_to_have_the_papers_order(judge):
    """FADs of Table 3: DITTO 0.682, no control 0.707."""
    foreign = Measure("distance in another embedding", like=FAD)
    values = {"DITTO": LOW, "Default TTM": HIGH}
    results = {
        replace(entry, measures=(foreign,)): row(judge, foreign, values[entry.variant.name])
        for entry in tables_ditto.TABLE_3.entries
        if entry.group == "intensity" and entry.variant in (DITTO, CHAIN)
    }
    (claim,) = orderings("DITTO", results)
    assert claim.claim == (
        "intensity: distance in another embedding of DITTO is better than that of Default TTM "
        "(the paper: 0.682 against 0.707)"
    )
    assert verdicts([claim]) == ["reproduced"]


def test_distances_are_of_equally_many_clips_and_errors_of_all(bench, judge):
    table = tables_ditto.TABLE_3.only(["intensity, Default TTM, own", "intensity, DOODL"])
    table = replace(table, claims=())
    ours = replace(judge, fewest=2)
    counts = {"count": 4, "slow_count": 2}
    report = run_table(table, bench, ours, **counts, command="")
    found = {(r.row.partition(", ")[2], r.column): r.count for r in report.rows}
    own = "Default TTM, own sampler"
    assert found[own, "frechet_distance"] == found["DOODL", "frechet_distance"] == 2
    assert (found[own, MSE.name], found["DOODL", MSE.name]) == (4, 2)
    report = run_table(table, bench, replace(judge, fewest=3), **counts, command="")
    told = {r.row.partition(", ")[2]: r for r in report.rows if r.column == "frechet_distance"}
    assert told[own].count == 4
    assert told["DOODL"].error == "a Fréchet distance needs 3 clips or more"


def test_times_have_counts_of_their_own(bench, judge, tmp_path):
    names = ("FreeDoM", "DITTO")
    table = tables_ditto.TABLE_11.only(names)
    claim = Versus("FreeDoM takes less", "DITTO", "FreeDoM", TIME)
    table = replace(table, claims=(claim,), pivot=None)
    cache = ResultCache(tmp_path)
    run_table(table, replace(bench, cache=cache), judge, count=4, command="")
    timing = replace(bench, cache=ResultCache(tmp_path), timed=3)
    report = run_table(table, timing, judge, count=4, command="")
    found = {(row.row, row.column): row.count for row in report.rows}
    for name in names:
        assert (found[name, TIME.name], found[name, MSE.name]) == (3, 4)
    assert [claim.count for claim in report.claims] == [3]
    assert report.settings["timed"] == 3


def test_nothing_is_made_again_for_a_row_without_a_time(bench, judge, monkeypatch):
    table = replace(tables_ditto.TABLE_8.only(["intensity"]), claims=())
    run_table(table, bench, judge, count=1, command="")
    monkeypatch.setattr(Bench, "_make", None)
    report = run_table(table, replace(bench, timed=1), judge, count=1, command="")
    assert report.value("intensity, DDIM", MSE.name) is not None


def test_times_are_compared_over_the_clips_that_are_timed_in_both(judge):
    seconds = np.arange(1.0, 21.0).tolist()
    slow, fast = row(judge, TIME, [10 * s for s in seconds]), row(judge, TIME, seconds)
    slow.tensors["timed"] = torch.tensor([1.0] * 12 + [0.0] * 8)
    fast.tensors["timed"] = torch.tensor([0.0] * 4 + [1.0] * 16)
    (claim,) = Versus("ten times as fast", "slow", "fast", TIME, least=9.0)(
        {"slow": slow, "fast": fast}
    )
    assert claim.count == 8
    assert claim.ratio == pytest.approx(10)
    (claim,) = Versus("", "fast", None, TIME)({"fast": fast})
    assert (claim.count, claim.ratio) == (16, pytest.approx(np.mean(seconds[4:])))
    fast.tensors["timed"] = 1 - slow.tensors["timed"]
    assert Versus("", "slow", "fast", TIME)({"slow": slow, "fast": fast}) == []


ENOUGH = SimpleNamespace(targets=SimpleNamespace(real=lambda: SimpleNamespace(count=128)))


def test_rows_have_the_clips_that_their_methods_have_time_for(bench):
    table = tables_ditto.TABLE_3.only(["intensity"])

    def counts(*given):
        return {e.variant.name: n for e, n in table.counts(ENOUGH, *given).items()}  # pyright: ignore[reportArgumentType]

    others = ("Default TTM", "ControlNet", "FreeDoM", "Default TTM, own sampler")
    others += ("no control, student", "DITTO-2 CTM")
    for given, most, ditto, doodl in (
        ((), 64, 16, 8),
        ((12,), 12, 12, 8),
        ((3, 1), 3, 1, 1),
        ((100, 32), 100, 32, 32),
        ((4, 32), 4, 4, 4),
        ((None, 0), 64, 0, 0),
        ((1000,), 128, 16, 8),  # all that there are
    ):
        assert counts(*given) == {**dict.fromkeys(others, most), "DITTO": ditto, "DOODL": doodl}
    assert set(table.counts(bench).values()) == {6}


def test_some_rows_can_be_chosen():
    with pytest.raises(DittoError, match="no row of d1-table3 contains dance: it has"):
        tables_ditto.TABLE_3.only(["dance"])


def test_a_row_is_chosen_by_its_whole_name() -> None:
    table = tables_ditto.TABLE_3.only(["=intensity, DITTO", "structure, DOODL"])
    assert [entry.name for entry in table.entries] == ["intensity, DITTO", "structure, DOODL"]
    assert len(tables_ditto.TABLE_3.only(["intensity, DITTO"]).entries) > 1


def test_no_clips_are_one_line(bench, judge):
    table = tables_ditto.TABLE_3.only(["intensity, DOODL"])
    report = run_table(table, bench, judge, count=2, slow_count=0, command="")
    assert {r.error for r in report.rows} == {"no clips were asked for"}


def test_rows_have_intervals_and_the_papers_figures(bench, judge):
    table = tables_ditto.TABLE_3.only(["intensity, Default", "intensity, DITTO"])
    published = [e for e in table.entries if e.variant not in tables_ditto.OWN_ROWS]
    table = replace(table, entries=tuple(published), claims=())
    report = run_table(table, bench, replace(judge, fewest=3), count=4, command="a command")
    assert report.settings["iterations"] == 2
    assert report.embedding == judge.name
    for name in ("intensity_mse_db2", "frechet_distance"):
        rows = [r for r in report.rows if r.column == name]
        assert [r.paper for r in rows] == ([40.843, 4.758] if "mse" in name else [0.707, 0.682])
        assert all(r.low <= r.value <= r.high for r in rows)
    assert len(report.claims) == 2  # there is no CLAP
    assert {claim.count for claim in report.claims} == {4}


def test_budgets_are_the_papers():
    names = ["CTM-1/1", "CTM-1/2", "CTM-1/4", "CTM-1/8", "CTM-2/2", "CTM-2/4", "CTM-*/4"]
    corrected = ["CTM-1/2 corrected", "CTM-1/4 corrected", "best of N, equal time"]
    rows = [entry.name for entry in tables_ditto2.TABLE_2.entries]
    assert [row for row in rows if not row.startswith("w=3, ")] == names + corrected
    guided = {row.removeprefix("w=3, ") for row in rows if row.startswith("w=3, ")}
    assert guided == {"CTM-1/1", "CTM-1/2", "CTM-1/4", "CTM-*/4", *corrected[:2]}
    claims = [claim for claim in tables_ditto2.TABLE_2.claims if "w = 3" in claim.claim]
    assert len(claims) == 4
    rows = {entry.name for entry in tables_ditto2.FIG_5.entries}
    assert rows >= {f"{kind}-1/{n}" for kind in ("CTM", "CM") for n in (1, 2, 4, 8)} | {
        "DM-20/20",
        "DM-20/20 helped",
    }
    assert not {"CTM-2/2", "CTM-*/4", "DM-8/20"} & rows
