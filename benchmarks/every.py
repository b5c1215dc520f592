"""``ditto-music bench TABLE`` and ``bench all``: the weights that there are, and one table after
the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import listening
from benchmarks.budget import FIG_4, FIG_5, TABLE_2, Budget, run_budget
from benchmarks.controls import controls_table
from benchmarks.ear import Ear
from benchmarks.report import Report
from benchmarks.setups import Base, Bench
from benchmarks.side_by_side import jobs_of, make_clips
from benchmarks.tables import TABLES
from benchmarks.tabulate import numbers, tabulated
from ditto.eval.classifier import ClipClassifier
from ditto.eval.musicgen import MusicGen
from ditto.models.clap import EMBEDDED, Clap
from ditto.models.controlnet import with_controlnet
from ditto.models.hub import load

JUDGE = "weights/clap-judge"
BUDGETS: dict[str, tuple[Budget, ...]] = {
    "d2-table2": TABLE_2,
    "d2-fig4": (*TABLE_2, *FIG_5, *FIG_4),
    "d2-fig5": (*(b for b in TABLE_2 if b.optimise == 1), *FIG_5, FIG_4[1]),
}
"""Rows of the benches of `benchmarks.budget`; Fig. 5 shows those with M=1 over T'."""


@dataclass(frozen=True)
class Weights:
    """Where everything is that the tables need; None is the embedded one, or none.

    Attributes:
        model: the base, a folder or Hub id.
        classifier: the folder of the network that hears where there is no CLAP.
        clap: a folder or Hub id: what texts are optimised with.
        judge: a folder or Hub id: the CLAP that hears; the other one if this folder is not there.
        cm: folder of a CM student.
        controlnet: folder of an adapter.
        long: a base of 24 s.
        unconditional: a base without tags, with a student.
        musicgen: a folder or Hub id.
    """

    model: str | None = None
    classifier: Path | None = Path("weights/classifier")
    clap: str | None = None
    judge: str | None = JUDGE
    cm: Path | None = None
    controlnet: Path | None = None
    long: str | None = None
    unconditional: str | None = None
    musicgen: str | None = None

    def bench(self, heldout: Path, **settings: Any) -> Bench:
        """All of it loaded; `settings` are those of `Bench`.

        Raises:
            ModelError: something that was named cannot be loaded.
        """
        model = load(self.model)
        model = model if self.controlnet is None else with_controlnet(model, self.controlnet)
        others: dict[Base, str | None] = {"long": self.long, "unconditional": self.unconditional}
        has_clap = self.clap is not None or (EMBEDDED / "model.safetensors").is_file()
        return Bench(
            model,
            heldout,
            cm=model.with_student(self.cm) if self.cm else None,
            others={base: load(source) for base, source in others.items() if source is not None},
            clap=Clap.load(self.clap) if has_clap else None,
            musicgen=MusicGen.load(self.musicgen) if self.musicgen else None,
            **settings,
        )

    def ear(self, bench: Bench) -> Ear:
        """Who hears: the judge and the classifier, as far as their folders are there.

        Raises:
            ModelError: a folder is damaged, or a judge other than the usual one is not there.
        """
        classifier = (
            self.classifier if self.classifier is not None and self.classifier.is_dir() else None
        )
        return Ear(
            bench, ClipClassifier.load(classifier) if classifier else None, judge_at(self.judge)
        )


def judge_at(source: str | None = JUDGE) -> Clap | None:
    """The CLAP that hears; None if none is named, or the usual one's folder is not there.

    Raises:
        ModelError: another one is not there, or the folder is damaged.
    """
    return (
        None
        if source is None or (source == JUDGE and not Path(JUDGE).is_dir())
        else Clap.load(source)
    )


def run_tables(
    name: str,
    weights: Weights,
    heldout: Path,
    *,
    count: int = 16,
    few: int | None = None,
    seed: int = 0,
    out: Path = Path("docs/results"),
    tasks: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    cache: Path = Path("runs/bench"),
    resume: bool = True,
    show: bool = True,
    command: str | None = None,
    workers: int = 1,
) -> list[Report]:
    """Make one table of `TABLES`, or with "all" every table and figure of both papers, and write
    the results.

    Args:
        name: of the table; "controls"; or "all".
        weights: what to measure, and with what.
        heldout: data folder of real clips.
        count: clips a row.
        few: clips of the rows that take minutes a clip; all if not given.
        seed: of the first clip.
        out: folder of the results.
        tasks: of "controls", some; none named is all.
        overrides: fields of every request, e.g. fewer iterations.
        cache: where finished clips are kept.
        resume: use those.
        show: progress.
        command: what the reports say they were run by.
        workers: processes that make clips side by side, sharing torch's threads; seconds a clip are
            then those with the others running. The budgets' tables are made by one.

    Raises:
        DittoError: a folder cannot be used or written.
    """
    every = {**TABLES, "controls": controls_table(tasks)}
    settings: dict[str, Any] = {
        "seed": seed,
        "overrides": overrides or {},
        "cache": cache,
        "resume": resume,
    }
    settings |= {"show": show} | (
        {} if workers == 1 else {"threads": max(1, torch.get_num_threads() // workers)}
    )
    bench = weights.bench(heldout, **settings)
    tables = list(TABLES.values()) if name == "all" else [every[name]]
    if workers > 1:
        rows = [
            (row.task, row.setup, n)
            for table in tables
            for row, n in numbers(table, bench, count, few).items()
        ]
        make_clips(weights, heldout, settings, jobs_of(rows), workers, show=show)
        bench = replace(bench, resume=True)  # what was to be made afresh now is
    ear = weights.ear(bench)
    reports = [
        tabulated(table, ear, count=count, few=few, out=out, command=command) for table in tables
    ]
    if name == "all":
        listening.export(bench, out, count=count)
        reports += _budgets(ear, weights, count, out, command)
    return reports


def _budgets(
    ear: Ear, weights: Weights, count: int, out: Path, command: str | None
) -> list[Report]:
    """The tables of budgets, whose distances are in the classifier's embedding: without one there
    are none.
    """
    bench, classifier = ear.bench, ear.classifier
    if classifier is None:
        return []
    given = {
        key: value
        for key, value in bench.overrides.items()
        if key in ("iterations", "lr", "guidance")
    }
    return [
        run_budget(
            name,
            budgets,
            bench.model,
            bench.heldout,
            classifier,
            cm=weights.cm,
            judge=ear.clap,
            count=count,
            seed=bench.seed,
            out=out,
            cache=bench.cache,
            resume=bench.resume,
            show=bench.show,
            command=command,
            **given,
        )
        for name, budgets in BUDGETS.items()
    ]
