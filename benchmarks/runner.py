"""Makes the clips of a table's rows, measures them, and compares the rows.

A table is data: rows (a task by a variant, with measures and the paper's figures) and claims. With
a pivot, every comparison of the paper's between the pivot and another method of the same group is a
claim: the ratio of the two distances from the ideal lies on the paper's side of 1.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.cache import ResultCache
from benchmarks.measures import (
    CLAP_SCORE,
    FAD,
    FrechetMeasure,
    Judge,
    Measure,
    RowResult,
    TimedMeasure,
)
from benchmarks.report import Claim, Report, Row, paper
from benchmarks.targets import REFERENCE, Targets
from benchmarks.tasks import Bench, Task
from benchmarks.variants import Variant, Weights
from ditto.errors import DittoError
from ditto.eval.bootstrap import mean_interval
from ditto.workers import importing, work


@dataclass(frozen=True, eq=False)
class Entry:
    """One row: a task by a variant.

    Attributes:
        group: rows that are compared with each other share it; the row's first words.
        task, variant: what is made.
        measures: columns.
        papers: the paper's figures in our units, by measure.
    """

    group: str
    task: Task
    variant: Variant
    measures: tuple[Measure, ...]
    papers: Mapping[Measure, float | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.group}, {self.variant.name}" if self.group else self.variant.name


def figures(
    table: str, row: str, columns: Mapping[Measure, str], scale: float = 1.0
) -> dict[Measure, float | None]:
    """Return a row's figures from ``paper.json``, by measure.

    Args:
        table: of ``paper.json``.
        row: of the table.
        columns: the paper's column of each measure.
        scale: factor from the paper's unit to ours.
    """
    found = {measure: paper(table, row, column) for measure, column in columns.items()}
    return {m: None if value is None else value * scale for m, value in found.items()}


@dataclass(frozen=True)
class Versus:
    """A claim on the ratio of two rows' distances from a measure's ideal, or on one row's figure.

    Attributes:
        claim: the statement.
        above, below: names of the rows; without `below` the figure of `above` itself is tested.
        measure: what is compared.
        least: what the ratio or figure exceeds.
        most: what it stays below, in place of `least`.
        paired: the rows' clips have the same targets and noise.
    """

    claim: str
    above: str
    below: str | None
    measure: Measure
    least: float = 1.0
    most: float | None = None
    paired: bool = True

    def __call__(self, rows: "Results") -> list[Claim]:
        """Return the claim, if the rows have the figure."""
        names = [self.above] if self.below is None else [self.above, self.below]
        found = [row for name in names if isinstance(row := rows.get(name), RowResult)]
        if len(found) < len(names):
            return []
        fewest = min(row.count for row in found)
        found = [row.first(fewest) for row in found]
        try:
            if self.below is None:
                figure = mean_interval(self.measure.values(found[0]))
            else:
                figure = self.measure.ratio(found[0], found[1], paired=self.paired)
            count = self.measure.count(*found)
        except DittoError:
            return []
        if self.most is not None:
            return [Claim(self.claim, *figure, count=count, border=self.most, side="below")]
        return [Claim(self.claim, *figure, count=count, border=self.least)]


Results = Mapping[str, RowResult | str]
"""By the row's name: its clips, or why there are none."""
Extra = Callable[[Bench, Judge, int], list[Row]]


@dataclass(frozen=True, eq=False)
class Table:
    """A table or figure of a paper.

    Attributes:
        name: of the result.
        title: what it shows.
        entries: rows.
        pivot: the variant that the paper compares the others with, if each of these comparisons
            is a claim.
        claims: further claims, each made of the rows' results.
        given: rows that are not measured.
        extra: makes rows that are not of clips; the last argument is clips a row.
        fresh: times are the point, so no clip of an earlier run is used.
        count: clips a row by default, but of variants with a number of their own.
        seed: of the first clip by default, and the least.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    pivot: str | None = None
    claims: tuple[Callable[[Results], list[Claim]], ...] = ()
    given: tuple[Row, ...] = ()
    extra: Extra | None = None
    fresh: bool = False
    count: int = 64
    seed: int = 0

    def only(self, words: Sequence[str]) -> "Table":
        """Return the table with the rows alone whose name contains one of these words, or is what
        follows their "=".

        Raises:
            DittoError: there are none.
        """
        if not words:
            return self
        whole = {word[1:] for word in words if word.startswith("=")}
        rows = tuple(
            entry
            for entry in self.entries
            if entry.name in whole or any(word in entry.name for word in words)
        )
        if not rows:
            names = "; ".join(entry.name for entry in self.entries)
            raise DittoError(f"no row of {self.name} contains {' or '.join(words)}: it has {names}")
        return replace(self, entries=rows, given=(), extra=None)

    def counts(
        self, bench: Bench, count: int | None = None, slow_count: int | None = None
    ) -> dict[Entry, int]:
        """Return how many clips each row gets.

        Args:
            bench: whose held-out clips are the most that there are.
            count: in place of the table's.
            slow_count: in place of the variants' own; a row never gets more than `count`.
        """
        most = min(count or self.count, bench.targets.real().count)

        def of(variant: Variant) -> int:
            own = variant.clips if slow_count is None else slow_count
            return most if variant.clips is None or own is None else min(own, most)

        return {entry: of(entry.variant) for entry in self.entries}


@dataclass(frozen=True)
class Setup:
    """Everything that a process needs to make clips.

    Attributes:
        weights: what to load.
        held_out: data folder of real clips.
        cache: folder of finished clips.
        seed: of the first clip.
        resume: use clips of earlier runs.
        real: real clips in a half, at most.
        overrides: of every request.
        batch: clips made at once.
        threads: of each process, if not torch's own.
        show: progress.
        timed: clips a row that are timed again, by one process (see `Bench`).
    """

    weights: Weights
    held_out: Path
    cache: Path
    seed: int = 0
    resume: bool = True
    real: int = REFERENCE
    overrides: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    threads: int | None = None
    show: bool = True
    timed: int = 0

    def bench(self) -> Bench:
        """Load everything.

        Raises:
            ModelError: weights that are named cannot be loaded.
        """
        models = self.weights.load()
        return Bench(
            models,
            Targets(models.model, self.held_out, self.seed, self.real),
            ResultCache(self.cache, resume=self.resume),
            overrides=self.overrides,
            batch=self.batch,
            threads=self.threads,
            show=self.show,
            timed=self.timed,
        )


def run_table(
    table: Table,
    bench: Bench,
    judge: Judge,
    *,
    count: int | None = None,
    slow_count: int | None = None,
    command: str,
    name: str | None = None,
) -> Report:
    """Make what a table lacks, and measure it.

    Args:
        table: what to make.
        bench: makes the clips.
        judge: hears them.
        count: clips a row, by default the table's.
        slow_count: clips of the rows that take minutes each, by default their variants'. Claims
            compare the clips that both rows have.
        command: what the report says it was run by.
        name: of the result; the table's by default.

    Raises:
        DataError: the held-out folder cannot be used.
    """
    counts = table.counts(bench, count, slow_count)
    most = max(counts.values(), default=0)
    extra = table.extra(bench, judge, most) if table.extra else []  # first: times the first call
    results = {entry: _result(entry, bench, judge, number) for entry, number in counts.items()}
    compared = _compared(results.values(), judge)
    rows = [row for entry, result in results.items() for row in _rows(entry, result, compared)]
    by_name = {entry.name: results[entry] for entry in reversed(table.entries)}
    claims = [claim for test in table.claims for claim in test(by_name)]
    if table.pivot is not None:
        claims = orderings(table.pivot, results) + claims
    heard = any(m in (FAD, CLAP_SCORE) for entry in table.entries for m in entry.measures)
    made = [result for result in results.values() if isinstance(result, RowResult)]
    settings: dict[str, Any] = {"title": table.title, "guidance": bench.models.model.guidance}
    settings |= {"slow_count": slow_count} if slow_count is not None else {}
    settings |= {"batch": bench.batch} if bench.batch > 1 else {}
    settings |= {"threads_per_clip": bench.threads} if bench.threads else {}
    settings |= {"timed": bench.timed} if bench.timed else {}
    return Report(
        name=name or table.name,
        command=command,
        model=bench.models.model.describe(),
        embedding=judge.name if heard else "none",
        count=most,
        seed=bench.targets.seed,
        seconds=sum(result.tensors["seconds"].sum().item() for result in made),
        settings={**settings, **bench.overrides},
        rows=(*rows, *table.given, *extra),
        claims=tuple(claims),
    )


def _result(entry: Entry, bench: Bench, judge: Judge, count: int) -> RowResult | str:
    """Return a row's clips, or why there are none."""
    if count < 1:
        return "no clips were asked for"
    if not any(isinstance(measure, TimedMeasure) for measure in entry.measures):
        bench = replace(bench, timed=0)
    try:
        clips = bench.clips(entry.task, entry.variant, count)
        return RowResult(clips, judge, partial(entry.task.tags, bench.targets))
    except DittoError as error:
        return str(error)


def _compared(results: Iterable[RowResult | str], judge: Judge) -> int:
    """Return of how many clips the Fréchet distances are: as many as all rows with enough have."""
    counts = [result.count for result in results if isinstance(result, RowResult)]
    return min((count for count in counts if count >= judge.fewest), default=0)


def _rows(entry: Entry, result: RowResult | str, compared: int) -> list[Row]:
    """Return a row's figures; Fréchet distances are of the first `compared` clips."""
    rows = []
    for measure in entry.measures:
        published = entry.papers.get(measure)
        head = (entry.name, measure.name, measure.unit)
        try:
            if isinstance(result, str):
                raise DittoError(result)
            few = isinstance(measure, FrechetMeasure) and result.count > compared > 0
            of = result.first(compared) if few else result
            rows.append(Row.of(*head, measure.interval(of), published, measure.count(of)))
        except DittoError as error:
            rows.append(Row(*head, paper=published, error=str(error)))
    return rows


def orderings(pivot: str, results: Mapping[Entry, RowResult | str]) -> list[Claim]:
    """Compare the pivot of every group with the group's others, as the paper's figures do."""
    return [
        claim
        for mine in results
        if mine.variant.name == pivot
        for other in results
        if other.group == mine.group and other.variant.name != pivot
        for measure in mine.measures
        if measure in other.measures
        for claim in _ordering(measure, mine, other, results)
    ]


def _ordering(
    measure: Measure, mine: Entry, other: Entry, results: Mapping[Entry, RowResult | str]
) -> list[Claim]:
    told = measure.like or measure
    published = [entry.papers.get(told) for entry in (mine, other)]
    if measure.ideal is None or None in published:
        return []
    a, b = (abs((value or 0.0) - measure.ideal) for value in published)
    if a == b:
        return []
    better, worse = (mine, other) if a < b else (other, mine)
    words = (
        f"{mine.group + ': ' if mine.group else ''}{measure.name} of {better.variant.name} is "
        f"better than that of {worse.variant.name} (the paper: {better.papers[told]:g} against "
        f"{worse.papers[told]:g})"
    )
    rows = {"worse": results[worse], "better": results[better]}
    return Versus(words, "worse", "better", measure)(rows)


def make_clips(
    setup: Setup, rows: Sequence[tuple[Task, Variant, int]], workers: int, ray: str | None = None
) -> None:
    """Make and keep the clips of rows, the first of all rows first, in processes side by side.

    What cannot be made is left out: the table that asks for it says why.

    Args:
        setup: what every process loads.
        rows: (task, variant, clips).
        workers: processes; on a cluster 0 is as many as it has cores, or GPUs.
        ray: address of a Ray cluster, or "auto". Its machines see this process's folder and the
            files of `setup`, and are of one kind: clips of another would be made again here.

    Raises:
        WorkerError: there is no such cluster, or processes die before they have begun.
    """
    longest = max((count for *_, count in rows), default=0)
    jobs: list[tuple[Task, Variant, list[int]]] = []
    for first in range(0, longest, setup.batch):
        for task, variant, count in rows:
            numbers = list(range(first, min(first + setup.batch, count)))
            if numbers and (task, variant, numbers) not in jobs:
                jobs.append((task, variant, numbers))
    console, hidden = Console(stderr=True), not setup.show
    gpu = setup.weights.device.startswith("cuda")
    begin = importing(Path(__file__).parents[1], partial(_begin, setup, Path.cwd()))
    done = work(jobs, begin, workers=workers, ray=ray, gpu=gpu)
    for _ in track(done, "clips", total=len(jobs), disable=hidden, transient=True, console=console):
        pass


def _begin(setup: Setup, here: Path) -> Callable[[tuple[Task, Variant, list[int]]], None]:
    """Load everything; the process is ours, and so are its number of threads and its folder."""
    os.chdir(here)  # names of files may be relative, and a process of Ray's begins elsewhere
    torch.set_num_threads(setup.threads or 1)
    return partial(_make, replace(setup, show=False, timed=0).bench())


def _make(bench: Bench, job: tuple[Task, Variant, list[int]]) -> None:
    task, variant, numbers = job
    try:
        bench.some(task, variant, numbers)
    except DittoError:
        return
