"""Makes the clips of a table and writes what they came to: figures with intervals, the paper's
beside them, and claims.

A claim is one comparison of the paper's: its pivot against another method of the same group, in one
figure. It holds here if the ratio of the two distances from the best (of an error from 0, of an
accuracy from 100 %) lies on the same side of 1 as in the paper, with the whole of its interval.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import charts
from benchmarks.ear import CLAP, FAD, FEWEST, Array, Ear, Found
from benchmarks.paper import paper
from benchmarks.report import Claim, Report, Row
from benchmarks.setups import Bench
from benchmarks.tables import MEASURES, Entry, Table
from ditto.errors import DittoError
from ditto.eval.bootstrap import Interval, ratio_interval, statistic_interval
from ditto.eval.frechet import Reference


def tabulated(
    table: Table,
    ear: Ear,
    *,
    count: int,
    few: int | None = None,
    out: Path = Path("docs/results"),
    command: str | None = None,
) -> Report:
    """Make what a table lacks, and write NAME.json, NAME.md and NAME.png into `out`.

    Args:
        table: see `benchmarks.tables`.
        ear: hears the clips of its bench.
        count: clips a row.
        few: clips of the rows that take minutes each; all if not given. Claims compare the clips
            that both rows have.
        out: folder of the results.
        command: what the report says it was run by.

    Raises:
        DataError: the held-out folder cannot be used.
        OutputError: the results cannot be written.
    """
    bench = ear.bench
    found = {
        entry: _found(entry, ear, number)
        for entry, number in numbers(table, bench, count, few).items()
    }
    count = min(count, bench.real.count)
    rows = [row for entry in table.entries for row in _rows(table, entry, found[entry])]
    claims = table.claims(found) if table.claims else orderings(table, found)
    claims += table.further(found) if table.further else []
    hears = any(measure in (FAD, CLAP) for entry in table.entries for measure in entry.columns)
    seconds = sum(f.tensors["seconds"].sum().item() for f in found.values() if isinstance(f, Found))
    settings: dict[str, Any] = {
        "title": table.title,
        "few": few if few is not None else count,
        **bench.overrides,
        "guidance": bench.model.guidance,
    }
    settings |= {} if bench.threads is None else {"threads_per_clip": bench.threads}
    report = Report(
        table.name,
        command or f"ditto-music bench {table.name} --count {count}",
        bench.model.describe(),
        ear.name if hears else "none",
        count,
        bench.seed,
        seconds,
        settings,
        (*rows, *table.given),
        tuple(claims),
    )
    report.write(out, (table.picture or charts.table)(report))
    return report


def numbers(table: Table, bench: Bench, count: int, few: int | None) -> dict[Entry, int]:
    """How many clips each row gets."""
    count = min(count, bench.real.count)
    few = count if few is None else min(few, count)
    return {entry: few if entry.setup.few else count for entry in table.entries}


def _found(entry: Entry, ear: Ear, count: int) -> Found | str:
    """A row's clips, or why there are none."""
    try:
        return Found(ear.bench.gathered(entry.task, entry.setup, count), ear)
    except DittoError as error:
        return str(error)


def papers(table: Table, entry: Entry, measure: str) -> float | None:
    """What the paper has for a figure, in our unit."""
    if table.paper is None or entry.row is None or measure not in entry.papers:
        return entry.figures.get(measure)
    value = paper(table.paper, entry.row, entry.papers[measure])
    return None if value is None else value * entry.scale.get(measure, 1.0)


def _rows(table: Table, entry: Entry, found: Found | str) -> list[Row]:
    rows = []
    for measure in entry.columns:
        unit, published = MEASURES[measure].unit, papers(table, entry, measure)
        try:
            if isinstance(found, str):
                raise DittoError(found)
            rows.append(Row.of(entry.name, measure, unit, found.interval(measure), published))
        except DittoError as error:
            rows.append(Row(entry.name, measure, unit, paper=published, error=str(error)))
    return rows


def orderings(table: Table, found: Mapping[Entry, Found | str]) -> list[Claim]:
    """The pivot of every group against the group's others, in every figure that the paper has of
    both.
    """
    claims = []
    for mine in (entry for entry in found if entry.setup.name == table.pivot):
        for other in (
            entry
            for entry in found
            if entry.group == mine.group and entry.setup.name != table.pivot
        ):
            claims += [
                claim
                for measure in mine.columns
                if measure in other.columns
                if (claim := _claim(table, measure, mine, other, found)) is not None
            ]
    return claims


def _claim(
    table: Table, measure: str, mine: Entry, other: Entry, found: Mapping[Entry, Found | str]
) -> Claim | None:
    ours, theirs = found[mine], found[other]
    published = [papers(table, entry, measure) for entry in (mine, other)]
    best = MEASURES[measure].best
    if best is None or isinstance(ours, str) or isinstance(theirs, str) or None in published:
        return None
    a, b = (abs((value or 0.0) - best) for value in published)
    if a == b:
        return None
    rows = (mine, ours, published[0]), (other, theirs, published[1])
    nearer, further = rows if a < b else rows[::-1]
    words = (
        f"{mine.group + ': ' if mine.group else ''}{measure} of {nearer[0].setup.name} is better than that of "
        f"{further[0].setup.name} (the paper: {nearer[2]:g} against {further[2]:g})"
    )
    try:
        ratio = _ratio(measure, further[1], nearer[1], best)
    except DittoError:
        return None
    if min(len(row.tensors["seconds"]) for row in (ours, theirs)) == 1:
        return Claim(f"{words}, one clip", "undecided", *ratio)
    return Claim.at_least(words, ratio, 1.0)


def _ratio(measure: str, above: Found, below: Found, best: float) -> Interval:
    """Ratio of two rows' distances from the best, over the clips that both have."""
    a, b = above.values(measure), below.values(measure)
    size = min(len(a), len(b))
    if measure == FAD:
        return distance_ratio(above.ear.reference, a[:size], b[:size])
    return ratio_interval(np.abs(a[:size] - best), np.abs(b[:size] - best), paired=True)


def distance_ratio(reference: Reference, above: Array, below: Array) -> Interval:
    """Ratio of the Fréchet distances of two sets of embeddings (N, D) of the same clips, which are
    drawn together.
    """
    if len(above) < FEWEST:
        raise DittoError(f"a Fréchet distance needs {FEWEST} clips or more")
    tiny = np.finfo(np.float64).tiny

    def ratio(pair: Array) -> float:
        return reference.distance(pair[:, 0]) / max(reference.distance(pair[:, 1]), tiny)

    return statistic_interval(ratio, np.stack([above, below], axis=1))
