"""The papers' tables on a tiny model: rows run or say what they lack, claims have the papers' sign,
runs resume."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.ear import CLAP, FAD, OWN_CLAP, Ear, Found
from benchmarks.paper import paper
from benchmarks.report import Report
from benchmarks.setups import CM, CTM, DITTO, DOODL, FREEDOM, TTM, Bench
from benchmarks.tables import MEASURES, TABLES, Entry, Table, _adherence
from benchmarks.tabulate import distance_ratio, papers, tabulated
from benchmarks.tasks import CONTROLS, FIXED, FREE, curve_of, pcm, sound
from tests.conftest import randomised

from benchmarks import tabulate, tasks
from ditto.eval.classifier import ClipClassifier
from ditto.eval.frechet import Reference, frechet_distance
from ditto.models.controlnet import ControlAdapter
from ditto.models.model import MusicModel, Student
from ditto.models.network import hash_weights
from ditto.models.transformer import PatchTransformer
from ditto.request import run

QUICK = {"steps": 2, "iterations": 2, "lr": 0.05, "guidance": 1.0}
MISSING = {"structure, ControlNet", "24s", "U-DITTO-2", "MusicGen", "DITTO-2 CM"}


@pytest.fixture(scope="module")
def whole(model: MusicModel) -> MusicModel:
    """The tiny model with a CTM student and a ControlNet of random weights."""
    network = PatchTransformer(
        width=32, depth=1, heads=2, tag_sizes=(3, 4, 13), guidance_embedded=True
    )
    network.load_state_dict({**network.state_dict(), **model.network.state_dict()})
    student = Student(
        network.requires_grad_(False).eval(), "ctm", (1.0, 5.0), hash_weights(model.network)
    )
    adapter = randomised(ControlAdapter.of(model.network, 1))  # pyright: ignore[reportArgumentType]
    return replace(model, distilled=student, controlnet=adapter)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def bench(whole: MusicModel, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Clips that all of these tests share."""
    return Bench(whole, data, overrides=QUICK, cache=tmp_path_factory.mktemp("clips"), show=False)


@pytest.fixture(scope="module")
def report(
    bench: Bench, classifier: ClipClassifier, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Report, Path]]:
    """A table by its name, of one clip a row; of its groups the first and the last."""
    out = tmp_path_factory.mktemp("results")

    def made(name: str) -> tuple[Report, Path]:
        return tabulated(quick(TABLES[name]), Ear(bench, classifier), count=1, out=out), out

    return made


def quick(table: Table) -> Table:
    groups = [entry.group for entry in table.entries]
    kept = [entry for entry in table.entries if entry.group in (groups[0], groups[-1])]
    few = [
        replace(e, setup=e.setup.but(e.setup.name, steps=3))
        if "steps" in dict(e.setup.settings)
        else e
        for e in kept
    ]
    return replace(table, entries=tuple(few))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BATCH", 2)


def test_every_published_figure_of_a_table_has_its_row() -> None:
    """What the papers print is there in full, once each, but for FAD in another embedding."""
    tables = json.loads(Path(tabulate.__file__).with_name("paper.json").read_text())
    for table in TABLES.values():
        if table.paper is None:
            continue
        found = [
            (e.row, c)
            for e in table.entries
            for m, c in e.papers.items()
            if papers(table, e, m) is not None
        ]
        assert len(set(found)) == len(found)
        published = {
            (row, column)
            for row, values in tables[table.paper]["rows"].items()
            for column, value in zip(tables[table.paper]["columns"], values, strict=True)
            if value is not None and "other backbone" not in column and "GPU hours" not in column
        }
        assert set(found) == published, table.name


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_runs_and_says_what_it_lacks(
    report: Callable[[str], tuple[Report, Path]], name: str
) -> None:
    found, out = report(name)
    table = quick(TABLES[name])
    measured = {(entry.name, column) for entry in table.entries for column in entry.columns}
    given = {(row.row, row.column) for row in table.given}
    assert {(row.row, row.column) for row in found.rows} == measured | given
    for row in found.rows:
        if (row.row, row.column) in given:
            continue
        lacks = any(word in row.row for word in MISSING) or (
            name == "d2-table3" and not row.row.startswith("Base")
        )
        if lacks or row.column in (CLAP, OWN_CLAP):
            assert "no weights" in (row.error or ""), row
        elif row.column == FAD:
            assert row.error == "a Fréchet distance needs 8 clips or more"
        else:
            assert row.value is not None, row
    told = json.loads((out / f"{name}.json").read_text())
    assert told["name"] == name
    assert told["seed"] == 0
    assert all(row.get("error") or np.isfinite(row["value"]) for row in told["rows"])
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert f"# {name}" in (out / f"{name}.md").read_text()


def test_finished_clips_are_shared_and_not_made_again(
    bench: Bench, report: Callable[[str], tuple[Report, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = report("d1-table3")
    again = replace(bench)
    monkeypatch.setattr("benchmarks.tasks.run", lambda *_: pytest.fail("made again"))
    second = tabulated(
        quick(TABLES["d1-table3"]), Ear(again, None), count=1, out=bench.cache / "again"
    )
    kept = {
        (row.row, row.column): row.value for row in second.rows if row.column not in (FAD, CLAP)
    }
    assert kept == {key: first.value(*key) for key in kept}
    # the latency of the same clips is in another table
    latency = tabulated(TABLES["d1-table11"], Ear(again, None), count=1, out=bench.cache / "again")
    assert latency.value("FreeDoM", "seconds_per_clip") == first.value(
        "intensity, FreeDoM", "seconds_per_clip"
    )


def test_other_settings_never_meet_old_clips(bench: Bench) -> None:
    def identity(changed: Bench, task: Any = CONTROLS["intensity"], setup: Any = DITTO) -> str:
        return json.dumps(changed._identity(task, setup), sort_keys=True)

    base = identity(bench)
    for change in (
        {"seed": 1},
        {"overrides": QUICK | {"lr": 0.1}},
        {"overrides": QUICK | {"iterations": 3}},
    ):
        assert identity(replace(bench, **change)) != base
    assert identity(bench, setup=DITTO.but("DITTO", steps=50)) != base
    assert identity(bench, setup=DOODL) != base
    assert identity(bench, task=CONTROLS["melody"]) != base
    assert identity(bench, setup=DITTO.but("a name says nothing of a clip")) == base


def test_a_clip_is_what_a_request_makes(bench: Bench) -> None:
    made = bench.clip(CONTROLS["intensity"], DITTO, 2)
    from ditto.controls.intensity import Intensity

    request = bench.request(2, DITTO, [Intensity(curve_of(bench, 2))])
    assert (request.seed, request.method, request.iterations) == (2, "ditto", 2)
    expected = run(request, bench.model)
    assert made["intensity_mse_db2"].item() == pytest.approx(
        expected.errors["intensity_mse_db2"].item(), rel=1e-4
    )
    torch.testing.assert_close(sound(made["audio"]), expected.audio, atol=2e-4, rtol=0)
    torch.testing.assert_close(sound(pcm(expected.audio)), expected.audio, atol=2e-5, rtol=0)


def test_more_clips_leave_the_first_as_they_are(bench: Bench) -> None:
    two = bench.gathered(CONTROLS["intensity"], TTM, 2)
    three = bench.gathered(CONTROLS["intensity"], TTM, 3)
    assert torch.equal(two["audio"], three["audio"][:2])


def figures(**columns: list[float]) -> dict[str, torch.Tensor]:
    made = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    return made | {"seconds": torch.ones(len(next(iter(columns.values()))))}


def test_claims_have_the_sign_of_the_paper(bench: Bench) -> None:
    """Table 3's intensity: the paper has DITTO 4.758, FreeDoM 23.292, and melodies 82.625 against
    31.544."""
    entries = [
        e
        for e in TABLES["d1-table3"].entries
        if e.group == "intensity" and e.setup in (DITTO, FREEDOM)
    ]
    ear = Ear(bench, None)
    rng = np.random.default_rng(0)
    low, high = rng.uniform(1, 2, 20).tolist(), rng.uniform(5, 9, 20).tolist()

    def verdicts(
        ditto: list[float], freedom: list[float], column: str, entries: list[Entry]
    ) -> list[str]:
        values = {DITTO.name: ditto, FREEDOM.name: freedom}
        found = {
            replace(e, columns=(column,)): Found(figures(**{column: values[e.setup.name]}), ear)
            for e in entries
        }
        claims = tabulate.orderings(TABLES["d1-table3"], found)  # pyright: ignore[reportArgumentType]
        return [claim.verdict for claim in claims]

    mse = "intensity_mse_db2"
    assert verdicts(low, high, mse, entries) == ["reproduced"]
    assert verdicts(high, low, mse, entries) == ["not reproduced"]
    assert verdicts(low, low[::-1], mse, entries) == ["undecided"]
    assert verdicts(low[:1], high[:1], mse, entries) == ["undecided"]  # of one clip
    melody = [
        e
        for e in TABLES["d1-table3"].entries
        if e.group == "melody" and e.setup in (DITTO, FREEDOM)
    ]
    accuracy = "melody_accuracy_percent"
    assert verdicts([90.0 + v for v in low], [30.0 + v for v in high], accuracy, melody) == [
        "reproduced"
    ]
    assert verdicts([30.0 + v for v in low], [90.0 + v for v in low], accuracy, melody) == [
        "not reproduced"
    ]


def test_distances_of_the_same_clips_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    reference = Reference(rng.standard_normal((200, 6)))
    near, far = rng.standard_normal((20, 6)), 2 + rng.standard_normal((20, 6))
    found = distance_ratio(reference, far, near)
    assert found.low > 1
    real = reference.distance(near)
    assert found.value == pytest.approx(reference.distance(far) / real)
    assert distance_ratio(reference, near, near) == (1.0, 1.0, 1.0)


def test_distances_are_in_the_named_embedding(bench: Bench, classifier: ClipClassifier) -> None:
    ear = Ear(bench, classifier)
    assert ear.name == f"classifier {classifier.sha256()[:12]}"
    real = ear.embed(bench.real.audio).double().numpy()
    clips = ear.embed(bench.real.audio[:5]).double().numpy()
    assert ear.reference.distance(clips) == pytest.approx(frechet_distance(clips, real), rel=1e-6)


def test_a_shared_x_T_is_seen_in_the_variance(bench: Bench, tmp_path: Path) -> None:
    report = tabulated(TABLES["d1-fig10"], Ear(bench, None), count=4, out=tmp_path)
    assert [claim.claim.split(" within")[0] for claim in report.claims] == [
        f"fixing x_T reduces the {name}_variance" for name in ("intensity", "melody", "structure")
    ]
    fixed, free = (bench.gathered(task, TTM, 4) for task in (FIXED, FREE))
    # a model that hardly hears its tags makes nearly the same of one x_T
    assert (fixed["intensity_variance"] < free["intensity_variance"]).all()


def test_students_play_only_where_they_are(bench: Bench) -> None:
    assert bench.player(CTM) is bench.model
    with pytest.raises(
        Exception,
        match="no weights: there is no CM student, distil one with `ditto-music distill cm`",
    ):
        bench.player(CM)


def test_units_and_papers(bench: Bench) -> None:
    assert paper("d1_table3_controls", "DITTO", "melody acc %") == 82.625
    assert paper("d1_table3_controls", "ControlNet", "structure MSE") is None
    table: Table = TABLES["d1-table9"]
    entry = next(e for e in table.entries if e.name == "intensity+melody, DITTO")
    assert papers(table, entry, "melody_accuracy_percent") == pytest.approx(43.6)
    with pytest.raises(KeyError):
        paper("d1_table3_controls", "DITTO", "no such column")
    assert {m for t in TABLES.values() for e in t.entries for m in e.columns} <= set(MEASURES)


def test_distances_have_intervals_where_there_are_enough_clips(
    bench: Bench, classifier: ClipClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ear", "tabulate"):
        monkeypatch.setattr(f"benchmarks.{module}.FEWEST", 3)
    table = TABLES["d1-table3"]
    kept = tuple(
        e for e in table.entries if e.group == "intensity" and e.setup in (TTM, DITTO, DOODL)
    )
    found = tabulated(
        replace(table, entries=kept), Ear(bench, classifier), count=4, few=3, out=tmp_path
    )
    rows = [row for row in found.rows if row.column == FAD]
    assert len(rows) == 3
    for row in rows:
        assert row.value is not None
        assert row.low is not None
        assert row.high is not None
        assert 0 < row.low <= row.value <= row.high
    assert found.embedding == f"classifier {classifier.sha256()[:12]}"
    # DITTO against both others, in the error and in the distance; there is no CLAP
    assert len(found.claims) == 4
    assert found.settings["few"] == 3


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "reproduced"), (0.2, "not reproduced")])
def test_a_gain_that_another_clap_does_not_hear_is_reward_hacking(
    share: float, verdict: str
) -> None:
    rng = np.random.default_rng(0)
    entries = {entry.setup.name: entry for entry in TABLES["d2-table3"].entries}
    before = rng.normal(0.5, 0.02, 40)
    plain = {CLAP: before, OWN_CLAP: before + rng.normal(0, 0.01, 40)}
    steered = {CLAP: before + 0.3 * share, OWN_CLAP: plain[OWN_CLAP] + 0.3}
    found: Any = {
        entries[name]: SimpleNamespace(
            values=values.__getitem__, ear=SimpleNamespace(judge="a judge")
        )
        for name, values in (("Base TTM (tags)", plain), ("U-DITTO-2", steered))
    }
    found[entries["U-base, no control"]] = "no weights"
    better, shared = _adherence(found)
    assert better.verdict == "reproduced"
    assert shared.verdict == verdict
    assert shared.ratio == pytest.approx(share, rel=0.05)
    found[entries["Base TTM (tags)"]].ear.judge = None
    assert _adherence(found) == []
