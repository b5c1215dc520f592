"""Estimates of memory against PyTorch's own count of whole runs, and the committed figures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from benchmarks.published import SIZES, Network, Size
from benchmarks.report import RESULTS, ROOT, Report, Row
from tests.benchmarks.test_gpu import ACE, FLOW

from benchmarks import memory, published
from ditto.controls.intensity import Intensity
from ditto.methods.ditto2 import Ditto2
from ditto.models.model import MusicModel
from ditto.models.profile import estimate_cost


def tiny_flow(network: Network) -> MusicModel:
    from tests.models.adapters.tiny_flows import same

    vae = {k: v for k, v in dict(same().config).items() if not k.startswith("_")}
    return published.stable_audio_3(network, **FLOW, vae=vae)


TINY = {"flow": tiny_flow, "ace": partial(published.ace_step, **ACE)}


def small(name: str, own: bool) -> Size:
    """A tiny model of a kind: its own student, or without any."""

    def make(network: Network) -> MusicModel:
        model = TINY[name](network)
        return model if own else replace(model, distilled=None)

    return Size(make, millions=0, seconds=0.4, source="a test")


@pytest.mark.parametrize(("name", "own"), [("flow", True), ("ace", False)])
def test_an_estimate_is_what_models_estimate_says_and_what_is_counted(name: str, own: bool) -> None:
    """For DITTO-2 on a model that is its own student, and for DITTO on one without any."""
    size = small(name, own)
    report = memory.measured({name: size}, command="a command")
    (row,) = {row.row for row in report.rows}
    assert row == f"{name}, 0.4 s, {'ditto2' if own else 'ditto'}"
    assert report.value(row, "estimated_over_counted") == pytest.approx(1.0, rel=0.15)
    cost = estimate_cost(
        size.make(memory.unwritten),
        seconds=size.seconds,
        steps=memory.STEPS,
        iterations=2,
        loss=Intensity("swell"),
    )
    told = {
        "weights": cost.weights,
        "estimated": cost.student_working if own else cost.working,
        "low_memory": cost.low_student_working if own else cost.low_working,
    }
    for column, found in told.items():
        assert found
        expected = Row.of(row, column, "GiB", found / 2**30).value
        assert report.value(row, column) == expected
    if own:
        assert told["low_memory"] < told["estimated"]  # pyright: ignore[reportOperatorIssue]


def test_the_count_sees_what_a_run_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: a run that keeps more than the estimate knows is found out."""
    model, method = tiny_flow(memory.unwritten), Ditto2(decode_steps=1)
    before = memory.counted(model, method, 0.4)
    kept: list[torch.Tensor] = []
    loss = memory.Intensity.loss

    def keeping(self: Any, output: Any) -> torch.Tensor:
        kept.append(torch.zeros(2**18))  # a MiB
        return loss(self, output)

    monkeypatch.setattr(memory.Intensity, "loss", keeping)
    more = memory.counted(model, method, 0.4) - before
    assert 2**20 <= more <= 2**20 * len(kept)


def on_meta(kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return kind(**settings)


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_are_the_published(name: str) -> None:
    network = SIZES[name].make(on_meta).network
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(SIZES[name].millions, rel=1e-3)


def test_the_committed_figures_agree_within_15_percent() -> None:
    report = Report.load(RESULTS / "memory.json")
    ratios = {r.row: r.value for r in report.rows if r.column == "estimated_over_counted"}
    assert {row.split(",")[0] for row in ratios} == SIZES.keys()
    assert list(ratios.values()) == pytest.approx([1.0] * len(SIZES), rel=0.15)


def test_an_estimate_of_today_is_the_committed() -> None:
    name = "Stable Audio 3 small"
    size = SIZES[name]
    told = Report.load(RESULTS / "memory.json").value(f"{name}, 30 s, ditto2", "estimated")
    found = memory.estimated(size.make(memory.unwritten), Ditto2(), size.seconds)
    assert found / 2**30 == pytest.approx(told, rel=0.02)


def test_the_page_has_the_committed_figures() -> None:
    report = Report.load(RESULTS / "memory.json")
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for name, size in SIZES.items():
        columns = "weights", "estimated", "counted", "low_memory"
        (row,) = {figure.row for figure in report.rows if figure.row.startswith(f"{name}, ")}
        figures = " | ".join(f"{report.value(row, column):.2f}" for column in columns)
        assert f"| {row} | {size.millions:.0f} M | {figures} |" in page
