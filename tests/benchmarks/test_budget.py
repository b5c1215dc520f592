"""The benches of DITTO-2's budgets and of its speed, on a tiny model with a student."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.budget import FIG_4, FIG_5, TABLE_2, Budget, Setting, _claims, made, run_budget
from benchmarks.intensity import drawn_targets
from benchmarks.speed import (
    DEFAULT,
    PAPERS,
    PHASES,
    Iteration,
    iteration_flops,
    matmul_rate,
    run_speed,
)
from tests.models.tiny_clap import make_clap

from ditto.controls.base import Output
from ditto.eval.classifier import ClipClassifier
from ditto.models.model import MusicModel
from ditto.request import Request, run


def test_rows_are_the_papers() -> None:
    papers = ["CTM-1/1", "CTM-1/2", "CTM-1/4", "CTM-1/8", "CTM-2/2", "CTM-2/4", "CTM-*/4"]
    assert [b.row for b in TABLE_2] == [*papers, "CTM-1/2 corrected", "CTM-1/4 corrected"]
    assert [b.row for b in FIG_4] == ["DM-8/20", "DM-20/20"]
    tables = json.loads(Path(__file__).with_name("paper_budget.json").read_text())
    for budget in TABLE_2:
        if budget.paper:
            seconds, _, clap, mse = tables[budget.row]
            assert dict(budget.paper) == {
                "seconds_per_clip": seconds,
                "intensity_mse": mse,
                "clap_score": clap,
            }


def test_a_row_is_what_a_request_makes(fast: MusicModel) -> None:
    setting = Setting(fast, None, None, 3, 4, 5e-3, 1.5, 0.2)
    control, tags, x_T = drawn_targets(fast, 3, 0, 1)
    for budget, method in (
        (Budget("CTM", 2, 4), "ditto2"),
        (Budget("CTM", 2, 4, corrections=2), "ditto2"),
        (Budget("DM", 3, 3), "ditto"),
    ):
        x_0 = made(setting, budget, control, tags, x_T, 0)
        result = run(
            Request(
                (control.controls[0],),
                fast.vocabulary.decode(tags[0].tolist()),
                3,
                iterations=4,
                method=method,
                guidance=1.5,
                steps=3,
                surrogate_steps=2,
                decode_steps=4,
                gamma=0.2,
                corrections=budget.corrections,
            ),
            fast,
        )
        torch.testing.assert_close(x_0, result.x_0, rtol=1e-4, atol=1e-4)


def test_budgets(fast: MusicModel, data: Path, classifier: ClipClassifier, tmp_path: Path) -> None:
    budgets = (
        Budget("CTM", 1, 2),
        Budget("CTM", "adaptive", 4),
        Budget("CTM", 1, 2, corrections=2),
        Budget("DM", 2, 3),
        *FIG_5[:1],
    )
    report = run_budget(
        "d2-table2",
        budgets,
        fast,
        data,
        classifier,
        count=3,
        batch=2,
        iterations=8,
        show=False,
        out=tmp_path / "results",
        cache=tmp_path / "cache",
        guidance=1.0,
        judge=make_clap(),
    )
    score = report.value("CTM-1/2", "clap_score")
    assert score is not None
    assert -1 <= score <= 1
    assert {r.row for r in report.rows} == {
        "CTM-1/2",
        "CTM-1/2 corrected",
        "CTM-*/4",
        "DM-2/3",
        "CM-1/1",
    }
    assert all("no CM student" in (r.error or "") for r in report.rows if r.row == "CM-1/1")
    assert all(
        np.isfinite(r.value) for r in report.rows if r.row != "CM-1/1" and r.value is not None
    )
    assert (tmp_path / "results" / "d2-table2.png").read_bytes().startswith(b"\x89PNG")


def test_corrected_rows_are_held_against_ditto_on_the_same_clips() -> None:
    ditto = {"clip_seconds": torch.tensor([60.0, 80.0]), "mse": torch.tensor([0.1, 0.3])}
    quick = {"clip_seconds": torch.tensor([2.0, 2.0]), "mse": torch.tensor([0.1, 0.4])}
    faster, nearer = _claims({"DM-20/20": ditto, "CTM-1/2 corrected": quick})
    assert faster.ratio == pytest.approx(35)
    assert faster.verdict == "reproduced"
    assert nearer.ratio == pytest.approx(0.8)
    assert nearer.verdict != "reproduced"


def test_mel_surrogate_never_calls_the_vocoder_while_optimising(
    fast: MusicModel, monkeypatch
) -> None:
    setting = Setting(fast, None, None, 0, 2, 5e-3, 1.0, 0.2)
    control, tags, x_T = drawn_targets(fast, 0, 0, 1)
    monkeypatch.setattr(type(fast), "to_audio", lambda *a: pytest.fail("the vocoder was called"))
    losses = [
        s.loss for s in setting.steps(Budget("CTM", 1, 2, surrogate="mel"), control, tags, x_T, 3)
    ]
    assert len(losses) == 3
    with pytest.raises(pytest.fail.Exception):
        list(setting.steps(Budget("CTM", 1, 2), control, tags, x_T, 1))


def test_phases_and_floor(fast: MusicModel) -> None:
    setting = Setting(fast, None, None, 0, 5, 5e-3, 1.0, 0.2)
    vocoder = {"vocoder forward", "vocoder backward"}
    for budget, phases in (
        (PAPERS, PHASES[:-1]),
        (DEFAULT, [name for name in PHASES[:-1] if name not in vocoder]),
    ):
        iteration = Iteration.of(setting, budget, repeats=3)
        assert list(iteration.phases) == list(phases)
        assert all(seconds > 0 for seconds in iteration.phases.values())
        assert iteration.whole > 0
        assert (iteration.correction > 0) == bool(budget.corrections)
        parts = {row.row.split(": ")[-1]: row.value for row in iteration.rows()}
        assert sum(parts[name] for name in (*phases, "overhead")) == pytest.approx(parts["whole"])
    # oracle: one linear layer's forward pass is 2·m·n·k; the network alone has many of them
    control, tags, x_T = drawn_targets(fast, 0, 0, 1)
    network_alone, with_vocoder = (iteration_flops(setting, budget) for budget in (DEFAULT, PAPERS))
    assert with_vocoder > network_alone > 2 * 2 * (x_T.shape[-1] // 4) * 640 * 32
    started = time.perf_counter()
    assert 1e8 < matmul_rate(256, seconds=0.05) < 1e14
    assert time.perf_counter() - started < 5
    assert control.loss(Output(x_T, fast)).shape == (1,)
    assert tags.shape == (1, 5)


def test_speed(fast: MusicModel, tmp_path: Path) -> None:
    fast.save(tmp_path / "model")
    report = run_speed(
        tmp_path / "model",
        count=2,
        slow_count=1,
        iterations=2,
        guidance=1.0,
        show=False,
        out=tmp_path / "results",
        cache=tmp_path / "cache",
    )
    assert report.value("CTM-1/2", "seconds_per_clip") < report.value(
        "DM-20/20", "seconds_per_clip"
    )
    assert {c.claim.split()[0] for c in report.claims} == {
        "DITTO-2",
        "the",
        "DITTO-2's",
        "a",
        "overhead",
    }
    assert report.value("model load", "seconds") > 0
    assert (tmp_path / "results" / "speed.png").exists()


def test_a_bench_afresh_optimises_once_for_rows_that_share_it(
    fast: MusicModel,
    data: Path,
    classifier: ClipClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budgets, made_for = (Budget("CTM", 1, 1), Budget("CTM", 1, 2)), []
    steps = Setting.steps
    monkeypatch.setattr(
        Setting, "steps", lambda self, b, *rest: made_for.append(b.row) or steps(self, b, *rest)
    )
    for resume in (True, True, False):
        run_budget(
            "d2-table2",
            budgets,
            fast,
            data,
            classifier,
            count=2,
            batch=2,
            iterations=2,
            show=False,
            guidance=1.0,
            out=tmp_path / "results",
            cache=tmp_path / "cache",
            resume=resume,
        )
    assert made_for == ["CTM-1/1", "CTM-1/1"]
