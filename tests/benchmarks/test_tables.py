"""The papers' tables on a tiny model: rows run or say what they lack."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.measures import CANDIDATES, Judge
from benchmarks.plots import draw
from benchmarks.runner import Table, Versus, run_table
from benchmarks.tasks import Bench

from benchmarks import (
    ablation,
    controls,
    measures,
    music,
    quality,
    questions,
    tables_ditto,
    tables_ditto2,
)
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.doodl import Doodl

TABLES = {
    table.name: table
    for table in (
        *tables_ditto.TABLES,
        *tables_ditto2.TABLES,
        ablation.TABLE,
        controls.TABLE,
        quality.TABLE,
        *questions.TABLES,
    )
}
DRAWN = ("d1-table1", "d2-fig4")
"""A table of bars and one of points; curves are drawn in the tests of `tradeoff`."""
MISSING = ("structure, ControlNet", "24s", "U-", "MusicGen", "CM-", "CM in", "DITTO-2 CM")


def ends(table: Table) -> Table:
    """Of its groups the first and the last."""
    groups = [entry.group for entry in table.entries]
    kept = tuple(e for e in table.entries if e.group in (groups[0], groups[-1]))
    return replace(table, entries=kept)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_runs_and_says_what_it_lacks(
    bench: Bench, judge: Judge, name: str, tmp_path: Path
) -> None:
    table = ends(TABLES[name])
    report = run_table(table, bench, judge, count=1, command="a command")
    measured = {(entry.name, m.name) for entry in table.entries for m in entry.measures}
    given = {(row.row, row.column) for row in table.given}
    assert {(row.row, row.column) for row in report.rows} == measured | given
    for row in report.rows:
        if (row.row, row.column) in given:
            continue
        lacks = any(word in row.row for word in MISSING) and "DITTO-2 CTM" not in row.row
        lacks &= not row.row.startswith("CTM") and "CTM in" not in row.row
        lacks |= name == "d2-table3" and not row.row.startswith("Base")
        if lacks or row.column.startswith("clap_score"):
            assert "no weights" in (row.error or ""), row
        elif row.column.startswith("frechet_"):
            assert row.error == "a Fréchet distance needs 32 clips or more"
        elif "needs foreign ears" in (row.error or ""):
            assert row.column.startswith(("notes_", "onset_", "tune_")), row
        else:
            assert row.value is not None, row
    path = report.write(tmp_path)
    written = json.loads(path.read_text())
    assert all(row.get("error") or np.isfinite(row["value"]) for row in written["rows"])
    if name in DRAWN:
        assert draw(report, tmp_path).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.png").stat().st_size <= 300_000


MORE = ("melody", "structure")
NOT_HEARD = {
    measures.MEMORY.name,  # of a few iterations
    measures.INVERT.name,  # of a clip that is made again
    measures.REUSE.name,  # of ten clips, which are not kept
    *(variance.name for variance in measures.VARIANCES),
}


@pytest.mark.parametrize("name", sorted({*TABLES} - {"controls", "quality"}))
def test_beside_every_error_is_what_happened_to_the_music(name: str) -> None:
    for entry in TABLES[name].entries:
        if entry.measures[0].name not in NOT_HEARD:
            assert set(music.BESIDE) <= set(entry.measures), entry.name


def test_claims_are_of_rows_that_there_are() -> None:
    for name, table in TABLES.items():
        # The budgets' claims are one list, of which Fig. 4 has all rows.
        of = tables_ditto2.FIG_4 if name in ("d2-table2", "d2-fig5") else table
        rows = {entry.name for entry in (*of.entries, *table.entries)}
        for claim in table.claims:
            if isinstance(claim, Versus):
                assert {claim.above, claim.below or claim.above} <= rows, claim.claim


def test_schedules_and_what_is_heard_differ_in_nothing_else() -> None:
    heard, budgets = ({e.name: e.variant.method for e in t.entries} for t in questions.TABLES)
    assert all(
        heard[f"melody, {ear}"] == Ditto2(hear=ear) for ear in ("estimate", "draft", "sound")
    )
    assert all(budgets[f"{name}, CTM-1/4 corrected"] == Ditto2(decode_steps=4) for name in MORE)
    for name in MORE:
        for steps in (1, 2, "adaptive"):
            row = f"{name}, CTM-{'*' if steps == 'adaptive' else steps}/4"
            fixed = Ditto2(surrogate_steps=steps, decode_steps=4, corrections=0)
            assert budgets[row] == fixed


def test_no_row_of_the_papers_tables_is_of_too_few_clips() -> None:
    """METHOD §9: 8 clips decide; distances of the quick methods need many more."""
    for name, table in TABLES.items():
        for entry in table.entries if name[0] == "d" else ():
            method, clips = entry.variant.method, entry.variant.clips or table.count
            reused = entry.measures[0] is measures.REUSE
            quick = not isinstance(method, (Ditto, Doodl)) and not reused
            assert clips == 64 if quick else clips in (8, 16), (name, entry.name)


def test_a_search_over_seeds_stands_beside_the_methods_that_optimise() -> None:
    from benchmarks.controls import SEARCHED, TABLE

    rows = {entry.name for entry in TABLE.entries}
    assert {f"{name}, best of 64" for name in SEARCHED} <= rows
    assert "inversion, best of 64" not in rows


def test_every_table_of_ditto_2_has_a_search_that_takes_as_long() -> None:
    for table in tables_ditto2.TABLES:
        searched = [entry for entry in table.entries if entry.variant.as_long_as]
        assert len(searched) == (5 if table.name == "d2-table1" else 1)
        for entry in searched:
            assert CANDIDATES in entry.measures
            assert entry.variant.as_long_as.method.optimises
