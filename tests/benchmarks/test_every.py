"""All tables in one run, from the weights on disk; and the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.cli import TITLES, shipped, shipped_base
from benchmarks.every import BUDGETS, Weights, run_tables
from benchmarks.report import Row
from benchmarks.setups import DOODL, TTM
from benchmarks.side_by_side import jobs_of
from benchmarks.tables import TABLES

from benchmarks import every
from ditto import cli
from ditto.errors import ModelError
from ditto.eval.classifier import ClipClassifier
from ditto.models.model import MusicModel

QUICK = {"steps": 2, "iterations": 2, "guidance": 1.0}


@pytest.fixture(scope="module")
def folders(
    model: MusicModel, classifier: ClipClassifier, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("weights")
    model.save(root / "model")
    classifier.save_pretrained(root / "classifier")
    return root


def test_there_is_a_command_for_every_table() -> None:
    assert set(TITLES) == {*TABLES, "all"}
    assert set(BUDGETS) == {"d2-table2", "d2-fig4", "d2-fig5"}
    steps = (1, 2, 4, 8)
    assert {b.row for b in BUDGETS["d2-fig5"]} >= {
        f"{kind}-1/{n}" for kind in ("CTM", "CM") for n in steps
    } | {"DM-20/20"}
    assert {b.optimise for b in BUDGETS["d2-fig5"]} == {1, 20}


def test_all_writes_every_result(
    folders: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one table and one budget in place of all, which have tests of their own."""
    monkeypatch.setattr(every, "TABLES", {name: TABLES[name] for name in ("d1-table6",)})
    monkeypatch.setattr(every, "BUDGETS", {"d2-table2": BUDGETS["d2-table2"][:1]})
    weights = Weights(str(folders / "model"), folders / "classifier", judge=None)
    run_tables(
        "all",
        weights,
        data,
        count=2,
        out=tmp_path / "results",
        overrides=QUICK,
        cache=tmp_path / "cache",
        show=False,
    )
    found = sorted(
        path.name for path in (tmp_path / "results").iterdir() if path.suffix in (".json", ".html")
    )
    assert found == ["d1-table4.html", "d1-table6.json", "d2-table2.json"]
    table = json.loads((tmp_path / "results" / "d1-table6.json").read_text())
    assert table["settings"]["iterations"] == 2
    assert table["embedding"].startswith(("classifier", "clap embedded"))
    assert {row["error"] for row in table["rows"] if row["row"] == "intensity, ControlNet"} == {
        "no weights: the model 'model' has no ControlNet: train one with `ditto-music train controlnet`, and give its "
        "folder with --controlnet"
    }
    assert (
        "| intensity, DITTO (rho loss) | intensity_rho |" in (tmp_path / "results.md").read_text()
    )


def test_weights_that_are_named_must_be_there(folders: Path, data: Path, tmp_path: Path) -> None:
    model = str(folders / "model")
    for weights in (
        Weights(model, clap="no-such-folder"),
        Weights(model, long="no-such-folder"),
        Weights(model, controlnet=tmp_path),
        Weights("no-such-folder"),
        Weights(model, cm=tmp_path),
    ):
        with pytest.raises(ModelError):
            weights.bench(data)
    bench = Weights(model, None).bench(data)
    assert bench.others == {}
    assert bench.player(TTM) is bench.model
    assert Weights(model, None, judge=None).ear(bench).classifier is None
    assert Weights(model, tmp_path / "missing").ear(bench).classifier is None


def test_the_command_of_a_table(
    folders: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["ditto-music", "bench", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    common = ("--heldout", data, "--model", folders / "model")
    assert (
        call("d1-table6", *common, "--count", 1, "-K", 1, "--classifier", folders / "classifier")
        == 0
    )
    told = json.loads(Path("docs/results/d1-table6.json").read_text())
    assert told["command"].startswith("ditto-music bench d1-table6 --heldout")
    assert told["count"] == 1
    capsys.readouterr()
    assert call("d1-table6", *common, "--long", "no-such-folder") == 2
    assert call("d1-table4", "no-such.csv", *common) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == error.count("\n") == 2


def test_the_embedded_models_bench_weights_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped(None, None, "cm") is None
    Path("weights/cm").mkdir(parents=True)
    assert shipped(None, None, "cm") == Path("weights/cm")
    assert shipped(None, Path("mine"), "cm") == Path("mine")
    assert shipped("another-model", None, "cm") is None
    assert shipped_base(None, None, "cm") == "weights/cm"
    assert shipped_base(None, "owner/name", "cm") == "owner/name"
    assert shipped_base("another-model", None, "cm") is None


def test_processes_side_by_side_make_the_same_clips(
    folders: Path, data: Path, tmp_path: Path
) -> None:
    weights = Weights(str(folders / "model"), folders / "classifier", judge=None)

    def rows(name: str, **settings: int) -> list[Row]:
        given: dict[str, Any] = {
            "count": 2,
            "few": 1,
            "overrides": QUICK,
            "cache": tmp_path / name,
            "show": False,
        }
        report = run_tables(
            "d1-table8", weights, data, out=tmp_path / name / "out", **given, **settings
        )[0]
        return [row for row in report.rows if not row.column.startswith("seconds")]

    assert rows("alone") == rows("together", workers=2)
    kept = sorted(path.name for path in (tmp_path / "together").glob("clips-*/*.safetensors"))
    assert kept == 4 * ["0000.safetensors"] + 4 * ["0001.safetensors"]


def test_the_first_clips_of_all_rows_come_first() -> None:
    task = TABLES["d1-table8"].entries[0].task
    assert [(job[1].name, job[2]) for job in jobs_of([(task, TTM, 2), (task, DOODL, 1)])] == [
        (TTM.name, 0),
        (DOODL.name, 0),
        (TTM.name, 1),
    ]
