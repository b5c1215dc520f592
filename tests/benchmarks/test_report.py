"""Reports: what the files hold, verdicts, and parts that survive a kill."""

import json
import math

import pytest
import torch
from benchmarks.report import Claim, Partial, Report, Row, write_page

from ditto.errors import DataError, OutputError
from ditto.eval.bootstrap import Interval


def a_report(name="speed", rows=(), claims=()):
    return Report(
        name,
        f"ditto-music bench {name}",
        {"name": "tiny", "sha256": "ab" * 32},
        "none",
        4,
        7,
        1.25,
        {"steps": 2},
        tuple(rows),
        tuple(claims),
    )


def test_json_has_the_agreed_fields_in_order(tmp_path):
    rows = [Row.of("DITTO", "mse", "dB^2", Interval(3.1234567891, 2.0, 4.0), paper=4.758)]
    claims = [Claim.at_least("it works", Interval(9.0, 8.5, 9.5), 8.0)]
    path = a_report(rows=rows, claims=claims).write(tmp_path / "results")
    found = json.loads(path.read_text())
    assert list(found) == [
        "name",
        "command",
        "date",
        "ditto_version",
        "git_commit",
        "model",
        "machine",
        "embedding",
        "count",
        "seed",
        "seconds",
        "settings",
        "rows",
        "claims",
    ]
    assert set(found["machine"]) >= {"cpu", "cores", "gpu", "torch"}
    assert found["rows"] == [
        {
            "row": "DITTO",
            "column": "mse",
            "unit": "dB^2",
            "value": 3.12346,
            "low": 2.0,
            "high": 4.0,
            "paper": 4.758,
        }
    ]
    assert found["claims"][0]["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("interval", "least", "most"),
    [
        (Interval(9, 8, 10), "reproduced", "undecided"),
        (Interval(9, 7, 10), "undecided", "undecided"),
        (Interval(5, 4, 6), "not reproduced", "reproduced"),
        (Interval(12, 11, 13), "reproduced", "not reproduced"),
    ],
)
def test_verdicts(interval, least, most):
    assert Claim.at_least("", interval, 8.0).verdict == least
    assert Claim.at_most("", interval, 8.0).verdict == most


def test_a_value_that_is_not_finite_becomes_an_error_row(tmp_path):
    row = Row.of("DITTO", "mse", "dB^2", math.nan)
    assert row.value is None
    assert row.error is not None
    path = a_report(rows=[row]).write(tmp_path / "results")
    assert "nan" in json.loads(path.read_text())["rows"][0]["error"]
    assert "the result is nan" in (tmp_path / "results" / "speed.md").read_text()


def test_the_page_collects_all_results_and_is_replaced(tmp_path):
    a_report("speed", [Row.of("a | b", "mse", "", 1.0)]).write(tmp_path / "results")
    a_report("quality", [Row.of("c", "mse", "", 2.0)]).write(tmp_path / "results")
    page = (tmp_path / "results.md").read_text()
    assert page.index("## quality") < page.index("## speed")
    assert "a \\| b" in page
    assert "| c | mse | 2 |" in page
    a_report("speed", [Row.of("a", "mse", "", 3.0)]).write(tmp_path / "results")
    assert "a \\| b" not in (tmp_path / "results.md").read_text()
    assert not list(tmp_path.rglob(".ditto-*"))


def test_a_stray_json_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"other\.json"):
        write_page(tmp_path / "results")


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        a_report().write(tmp_path / "file" / "results")


def test_values_are_found_by_name():
    report = a_report(rows=[Row.of("a", "mse", "", 1.5)])
    assert report.value("a", "mse") == 1.5
    with pytest.raises(KeyError):
        report.value("a", "rho")


class Counted:
    def __init__(self, fail_from=None):
        self.calls, self.fail_from = [], fail_from

    def __call__(self, first, last):
        if self.fail_from is not None and first >= self.fail_from:
            raise KeyboardInterrupt
        self.calls.append((first, last))
        return {"x": torch.arange(first, last)}


def parts(folder, settings=None, **options):
    return Partial(folder, "bench", settings or {"seed": 0}, batch=4, show=False, **options)


def test_a_killed_bench_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        parts(tmp_path).gathered("clips", 10, Counted(fail_from=4))
    second = Counted()
    found = parts(tmp_path).gathered("clips", 10, second)
    assert second.calls == [(4, 8), (8, 10)]
    assert found["x"].tolist() == list(range(10))
    assert len(found["seconds"]) == 3


def test_other_settings_and_no_resume_start_afresh(tmp_path):
    parts(tmp_path).gathered("clips", 4, Counted())
    for other in (parts(tmp_path, {"seed": 1}), parts(tmp_path, resume=False)):
        again = Counted()
        other.gathered("clips", 4, again)
        assert again.calls == [(0, 4)]


def test_a_damaged_part_is_named(tmp_path):
    found = parts(tmp_path)
    found.gathered("clips", 4, Counted())
    file = next(found.folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(DataError, match="damaged"):
        parts(tmp_path).gathered("clips", 4, Counted())
