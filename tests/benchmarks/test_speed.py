"""The speed table: phases, operations, and an untrained network."""

from dataclasses import replace

import pytest
import torch
from benchmarks.measures import Judge
from benchmarks.runner import run_table
from benchmarks.targets import Targets
from benchmarks.tasks import Bench

from benchmarks import speed
from ditto.errors import DataError

PHASES = [
    "denoiser forward",
    "vocoder forward",
    "features forward",
    "features backward",
    "vocoder backward",
    "denoiser backward",
    "optimiser",
]


def test_phases_and_operations(bench: Bench):
    heard, proxied = (speed.Iteration.of(bench, v) for v in (speed.PUBLISHED, speed.DEFAULT))
    assert list(heard.phases(1)) == PHASES
    assert list(proxied.phases(1)) == [name for name in PHASES if "vocoder" not in name]
    # One linear layer's forward pass is 2·m·n·k; the network alone has many of them.
    assert heard.flops() > proxied.flops() > 2 * 2 * (heard.run.x_T.shape[-1] // 4) * 640 * 32
    one, two = (speed.Iteration.of(bench, speed.SLOW, steps).flops() for steps in (1, 2))
    assert one < two < 2 * one


def test_the_table_runs(bench: Bench, judge: Judge):
    table = speed.table()
    table = replace(table, extra=lambda bench, *_: speed.costs(bench, repeats=1))
    report = run_table(table, bench, judge, count=2, slow_count=1, command="a command")
    assert all(row.value is not None for row in report.rows)
    whole = report.value("iteration of CTM-1/2: whole", "seconds")
    parts = [
        report.value(f"iteration of CTM-1/2: {phase}", "seconds") for phase in (*PHASES, "overhead")
    ]
    assert sum(part or 0.0 for part in parts) == pytest.approx(whole)
    small, large = (
        report.value(name, "gflop_per_iteration") for name in ("CTM-1/2 corrected", "DM-20/20")
    )
    assert small is not None
    assert large is not None
    assert small < large
    assert [claim.count for claim in report.claims] == [1, 1, 1, 1, 2]


def test_an_untrained_network_is_timed(bench: Bench, data):
    config = replace(speed.recipe("base"), frames=96, network={"width": 32, "depth": 1, "heads": 2})
    models = speed.untrained(config, "tiny", "cpu")
    assert models.model.name == "tiny, random weights"
    assert models.model.distilled is not None
    fresh = replace(
        bench, models=models, targets=Targets(models.model, data), overrides={"iterations": 1}
    )
    clips = fresh.clips(speed.CONTROLS["loudness"], speed.PUBLISHED, 1)
    assert torch.isfinite(clips["seconds_per_clip"]).all()
    table = speed.table("speed-tiny", trained=False)
    assert {m.name for e in table.entries for m in e.measures} == {
        "seconds_per_clip",
        "seconds_per_step",
    }


def test_configs_have_names():
    assert speed.recipe("paper") == speed.recipe("base-paper")
    with pytest.raises(DataError, match="there is no config 'nothing'"):
        speed.recipe("nothing")
