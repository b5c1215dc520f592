"""The command: a table from weights on disk, alone and by two processes, and mistakes."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks.report import ROOT

from benchmarks import __main__ as command


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run ``python -m benchmarks`` in an empty folder: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
        try:
            command.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def common(model, classifier, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    model.save(root / "model")
    classifier.save_pretrained(root / "classifier")
    weights = ("--model", root / "model", "--classifier", root / "classifier")
    return (*weights, "--held-out", data, "-K", 1, "--guidance", 1, "--quiet")


def figures(folder: Path, name: str):
    rows = json.loads((folder / f"{name}.json").read_text())["rows"]
    return [row for row in rows if not row["column"].startswith(("seconds", "clap"))]


def test_a_table_is_written_and_workers_make_the_same(call, common, tmp_path):
    name = "d1-table6"
    rows = ("--rows", "DITTO")
    for folder, workers in (("alone", 1), ("together", 2)):
        out = ("--out", tmp_path / folder, "--cache", tmp_path / f"{folder}-clips")
        code, told, error = call(name, *common, *rows, *out, "--count", 2, "--workers", workers)
        assert code == 0, error
        # Of 2 clips there is no distance, and they are too short for foreign ears.
        assert f"{name}.json: 14 figures, 8 of them missing" in told
    assert figures(tmp_path / "alone", name) == figures(tmp_path / "together", name)
    report = json.loads((tmp_path / "alone" / f"{name}.json").read_text())
    assert report["command"].startswith("python -m benchmarks d1-table6 --model")
    assert report["settings"]["iterations"] == 1
    assert (tmp_path / "alone" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    code, told, _ = call("claims", "--out", tmp_path / "alone")
    assert code == 0
    assert "| 0 | 0 | 3 |" in Path(told.strip()).read_text()


def test_a_table_that_is_there_gets_its_times(call, common, tmp_path):
    name, out = "d1-table11", ("--out", tmp_path / "out", "--cache", tmp_path / "clips")
    row = ("--rows", "FreeDoM", "--count", 3, "--batch", 2)
    counts = []
    for timed in ((), ("--timed", 2), ()):
        code, _, error = call(name, *common, *row, *out, *timed)
        assert code == 0, error
        report = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        columns = {figure["column"]: figure.get("count") for figure in report["rows"]}
        counts.append((columns["seconds_per_clip"], columns["intensity_mse_db2"]))
        assert report["settings"].get("timed") == (2 if timed else None)
    assert counts == [(3, 3), (2, 3), (None, 3)]


def test_mistakes_are_one_line(call, common, tmp_path):
    out = ("--out", tmp_path / "out", "--cache", tmp_path / "clips")
    for arguments, words in (
        (("d1-table99",), "there is no benchmark 'd1-table99': choose of d1-table1"),
        (("d1-table6", *common, *out, "--long", "no-such-folder"), "no-such-folder"),
        (("d1-table6", *common, *out, "--rows", "dance"), "no row of d1-table6 contains dance"),
        (
            ("d1-table6", *common, *out, "--config", "paper"),
            "--config is for speed alone, and for one worker",
        ),
        (("d1-table4", "no-such.csv", *common, *out), "no-such.csv holds no ratings"),
        (("controls", "--held-out", "nothing", *common[:4], *out), "nothing"),
    ):
        code, _, error = call(*arguments)
        assert code == 2
        assert error.count("\n") == 1
        assert words in error


def test_defaults_are_of_the_checkout_and_of_the_embedded_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.shipped(None, None, "no-such-weights") is None
    assert command.shipped(None, Path("mine"), "cm") == Path("mine")
    assert command.shipped("another-model", None, "cm") is None
    if (ROOT / "weights" / "cm").is_dir():
        assert command.shipped(None, None, "cm") == ROOT / "weights" / "cm"
    assert command.RESULTS == ROOT / "docs" / "results"


def test_all_is_every_table_of_the_papers():
    assert {table.name for table in command.chosen("all")} == {
        *(f"d1-table{n}" for n in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11)),
        "d1-fig10",
        *(f"d2-{name}" for name in ("table1", "table2", "table3", "fig4", "fig5")),
    }


def test_a_page_of_spectrograms_beside_another_model(call, common, tmp_path):
    page, old = tmp_path / "page.png", ("--old", common[1])
    to = ("--cache", tmp_path / "clips", "--spectrograms", page)
    code, told, error = call("music", *common, *to, *old)
    assert code == 0, error
    assert told.strip() == str(page)
    assert page.read_bytes().startswith(b"\x89PNG")
    assert page.stat().st_size <= 300_000
    for name, options in (("quality", to), ("music", old)):
        code, _, error = call(name, *common, *options)
        assert code == 2
        assert error.startswith("error: --spectrograms is for music alone")
