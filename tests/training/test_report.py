"""What is kept of a run, and what it is not written over."""

from pathlib import Path

import pytest

from ditto.errors import DataError, OutputError
from ditto.training.report import write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}\n")
    (folder / "log.jsonl").write_text('{"step": 1, "seconds": 0.1, "loss": 0.5}\n')
    return folder


def test_a_report_replaces_an_older_one_and_nothing_else(run: Path, tmp_path: Path) -> None:
    names = ["config.json", "log.jsonl", "loss.png"]
    for _ in range(2):
        assert [path.name for path in write_report(run, tmp_path / "report")] == names
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("mine")
    with pytest.raises(OutputError, match="that are no report: choose another folder"):
        write_report(run, model)
    assert [path.name for path in model.iterdir()] == ["config.json"]
    assert (model / "config.json").read_text() == "mine"


def test_a_run_is_no_folder_for_its_report(run: Path) -> None:
    with pytest.raises(OutputError, match="is the run itself"):
        write_report(run, run)


def test_what_is_no_run_is_said_of_the_run(run: Path, tmp_path: Path) -> None:
    (run / "config.json").unlink()
    with pytest.raises(DataError, match="is not a run that has logged"):
        write_report(run, tmp_path / "report")
    assert not (tmp_path / "report").exists()
