"""Reports: what the files hold, and the rule of verdicts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.report import FEWEST, Claim, Report, Row, paper, verdicts, write_claims

from ditto.errors import DataError, OutputError
from ditto.eval.bootstrap import Interval, ratio_interval


def a_report(name="speed", rows=(), claims=()):
    return Report(
        name=name,
        command=f"python -m benchmarks {name}",
        model={"name": "tiny", "sha256": "ab" * 32},
        embedding="none",
        count=4,
        seed=7,
        seconds=1.25,
        settings={"steps": 2},
        rows=tuple(rows),
        claims=tuple(claims),
    )


def test_json_has_the_agreed_fields_and_is_read_again(tmp_path):
    rows = [Row.of("DITTO", "mse", "dB^2", Interval(3.1234567891, 2.0, 4.0), paper=4.758)]
    claims = [Claim("it works", 9.0, 8.5, 9.5, count=16, border=8.0)]
    path = a_report(rows=rows, claims=claims).write(tmp_path / "results")
    found = json.loads(path.read_text())
    first = ["name", "command", "date", "ditto_version", "git_commit", "model", "machine"]
    rest = ["embedding", "count", "seed", "seconds", "settings", "rows", "claims"]
    assert list(found) == first + rest
    assert set(found["machine"]) >= {"cpu", "cores", "gpu", "torch"}
    interval = {"value": 3.12346, "low": 2.0, "high": 4.0}
    assert found["rows"] == [
        {"row": "DITTO", "column": "mse", "unit": "dB^2", **interval, "paper": 4.758}
    ]
    verdict = {"claim": "it works", "verdict": "reproduced"}
    assert found["claims"] == [
        {**verdict, "ratio": 9.0, "low": 8.5, "high": 9.5, "count": 16, "border": 8.0}
    ]
    assert Report.load(path).to_json() == found


def claim(low, ratio, high, count=16, **more):
    return Claim("", ratio, low, high, count, **more)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (claim(1.5, 2.0, 2.5), "reproduced"),
        (claim(0.4, 0.5, 0.6), "not reproduced"),
        (claim(0.9, 2.0, 2.5), "undecided"),
        (claim(1.0, 2.0, 2.5), "undecided"),  # a bound of exactly 1
        (claim(1.5, 2.0, 2.5, count=7), "undecided"),
        (claim(2.0, 2.0, 2.0, count=1), "undecided"),
        (claim(2.0, 2.0, 2.0), "undecided"),  # without any variance nothing is known of it
        (claim(8.5, 9.0, 9.5, border=8.0), "reproduced"),
        (claim(8.5, 9.0, 9.5, border=8.0, side="below"), "not reproduced"),
        (claim(0.2, 0.3, 0.4, side="below"), "reproduced"),
        (claim(-0.3, -0.2, -0.1, side="below"), "reproduced"),
    ],
)
def test_verdicts(made, verdict):
    assert verdicts([made]) == [verdict]


def test_verdicts_are_corrected_within_a_table():
    near = claim(1.2, 1.7, 2.4)
    assert verdicts([near]) == ["reproduced"]
    assert verdicts([near] * 5) == ["undecided"] * 5
    # What cannot be decided does not count.
    few, clear = claim(1.2, 1.7, 2.4, count=4), claim(4.0, 5.0, 6.0)
    assert verdicts([few, near, clear, few]) == [
        "undecided",
        "reproduced",
        "reproduced",
        "undecided",
    ]


@pytest.mark.parametrize("count", [2, 4, 7, 8, 16, 32, 64])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_without_a_difference_either_verdict_is_rare(count, shared):
    """Errors of two methods alike, log-normal, with and without what the clips share."""
    rng, found = np.random.default_rng(count), []
    trials = 2000 if count >= FEWEST else 50  # too few clips decide nothing, whatever they say
    for _ in range(trials):
        clip = np.sqrt(shared) * rng.normal(size=count)
        a, b = (np.exp(clip + np.sqrt(1 - shared) * rng.normal(size=count)) for _ in range(2))
        interval = ratio_interval(a, b, paired=True, resamples=300)
        found += verdicts([Claim("", *interval, count=count)])
    for verdict in ("reproduced", "not reproduced"):
        assert found.count(verdict) / trials <= (0.025 if count >= FEWEST else 0)


def test_a_clear_difference_of_eight_clips_is_seen():
    rng = np.random.default_rng(0)
    clip = rng.normal(size=8)
    a, b = np.exp(1 + clip + 0.2 * rng.normal(size=8)), np.exp(clip)
    assert verdicts([Claim("", *ratio_interval(a, b, paired=True), count=8)]) == ["reproduced"]


def test_a_value_that_is_not_finite_becomes_an_error_row(tmp_path):
    row = Row.of("DITTO", "mse", "dB^2", math.nan)
    assert row.value is None
    path = a_report(rows=[row]).write(tmp_path / "results")
    assert json.loads(path.read_text())["rows"][0]["error"] == "the result is nan"


def test_the_page_collects_all_claims(tmp_path):
    a_report("speed", claims=[claim(1.5, 2.0, 2.5)]).write(tmp_path)
    a_report("quality", claims=[Claim("a | b", 0.4, 0.3, 0.5, 16, border=0.9)]).write(tmp_path)
    a_report("silent").write(tmp_path)
    page = write_claims(tmp_path)
    text = page.read_text()
    assert page.name == "README.md"
    assert "| abababa | 1 | 1 | 0 |" in text
    line = (
        "| a \\| b | 0.4 (0.3 – 0.5), against 0.9 | 16 | not reproduced | [quality](quality.json) |"
    )
    assert line in text
    assert "| [quality](quality.json) | abababa | 0 | 1 | 0 |" in text
    assert "Without claims: [silent](silent.json)." in text


def test_the_page_counts_a_claim_of_two_tables_once_and_models_apart(tmp_path):
    one, other = claim(1.5, 2.0, 2.5), claim(1.5, 3.0, 4.5)
    a_report("d2-fig4", claims=[one, other]).write(tmp_path)
    a_report("d2-fig5", claims=[one]).write(tmp_path)
    of_old = {"model": {"name": "old", "sha256": "0123456789"}, "date": "2020-01-01T00:00:00+00:00"}
    replace(a_report("quality", claims=[one]), **of_old).write(tmp_path)
    lines = write_claims(tmp_path).read_text().splitlines()
    assert lines.index("| abababa | 2 | 0 | 0 |") < lines.index("| 0123456 | 1 | 0 | 0 |")


def test_a_stray_json_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"other\.json"):
        write_claims(tmp_path)


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        a_report().write(tmp_path / "file" / "results")


def test_figures_are_found_by_name():
    report = a_report(rows=[Row.of("a", "mse", "", 1.5)])
    assert report.value("a", "mse") == 1.5
    with pytest.raises(KeyError):
        report.value("a", "rho")
    assert paper("d1_table3_controls", "DITTO", "melody acc %") == 82.625
    assert paper("d1_table3_controls", "ControlNet", "structure MSE") is None
    with pytest.raises(KeyError):
        paper("d1_table3_controls", "DITTO", "no such column")


def test_the_committed_results_hold_what_they_say():
    """Verdicts in the files are those of the rule, and no picture is over its limit."""
    from benchmarks.report import RESULTS

    paths = sorted(RESULTS.glob("*.json"))
    assert len(paths) > 15
    for path in paths:
        assert json.loads(path.read_text()) == Report.load(path).to_json(), path.name
        assert path.with_suffix(".png").stat().st_size <= 300_000


@pytest.mark.parametrize(
    ("field", "value"), [("claim", 5), ("ratio", "x"), ("low", []), ("count", "many"), ("side", {})]
)
def test_a_claim_of_a_wrong_type_is_no_result(tmp_path, field, value):
    path = a_report(claims=[claim(1.5, 2.0, 2.5)]).write(tmp_path)
    values = json.loads(path.read_text())
    values["claims"][0][field] = value
    (tmp_path / "broken.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"broken\.json is not a benchmark's result: .*") as caught:
        write_claims(tmp_path)
    assert "\n" not in str(caught.value)
