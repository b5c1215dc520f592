"""What a benchmark found, as one JSON object, and the one page of claims made from all of them.

A report is a list of rows (figures with their confidence intervals) and of claims with verdicts. A
row that could not run says why in `error`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from scipy import stats

from benchmarks.cache import git_commit, machine
from ditto.errors import DataError, OutputError
from ditto.eval.bootstrap import Interval
from ditto.paths import atomic_file, printable

ROOT = Path(__file__).parents[1]
"""The checkout."""
RESULTS = ROOT / "docs" / "results"
FEWEST = 8
"""Clips below which nothing is decided (METHOD §9), and no Fréchet distance is taken."""
LEVEL = 0.025
"""Of Holm's correction over a table. Half of the usual, for bootstraps of few clips are too narrow:
with it either wrong verdict is had in less than 2.5 % of tables without a difference, even of
errors whose logarithm has a standard deviation of 1."""
SIDE = stats.norm.ppf(0.975)
"""A side of a 95 % interval in standard errors."""

Verdict = Literal["reproduced", "not reproduced", "undecided"]


@cache
def _papers() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


def paper(table: str, row: str, column: str) -> float | None:
    """Return one published figure; None where the paper has a dash.

    Raises:
        KeyError: there is no such table, row or column.
    """
    found = _papers()[table]
    if column not in found["columns"]:
        raise KeyError((table, column))
    return found["rows"][row][found["columns"].index(column)]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        row: what was measured, e.g. a method.
        column: name of the measure.
        unit: "" for a pure number.
        value, low, high: the figure and its 95 % confidence interval; None where there is none.
        paper: what the paper reports.
        error: why there is no value.
        count: clips that the figure is of.
    """

    row: str
    column: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    error: str | None = None
    count: int | None = None

    @classmethod
    def of(
        cls,
        row: str,
        column: str,
        unit: str,
        figure: Interval | float,
        paper: float | None = None,
        count: int | None = None,
    ) -> "Row":
        """Return a row of an interval or a number; one that is not finite becomes an error."""
        value, low, high = figure if isinstance(figure, Interval) else (figure, None, None)
        if not math.isfinite(value):
            return cls(row, column, unit, paper=paper, error=f"the result is {value}")
        bounds = (b if b is not None and math.isfinite(b) else None for b in (low, high))
        return cls(row, column, unit, value, *bounds, paper=paper, count=count)


@dataclass(frozen=True)
class Claim:
    """A statement that is tested by a ratio (or a figure) lying on one side of a border.

    Attributes:
        claim: the statement.
        ratio, low, high: what it turns on, with its 95 % interval.
        count: clips, batches or ratings that the interval is over.
        border: what the ratio is compared with.
        side: where the ratio lies if the claim holds.
    """

    claim: str
    ratio: float
    low: float
    high: float
    count: int
    border: float = 1.0
    side: Literal["above", "below"] = "above"

    def __post_init__(self) -> None:
        """Check the types, which a file may have wrong.

        Raises:
            TypeError: one is wrong.
        """
        numbers = self.ratio, self.low, self.high, self.count, self.border
        fine = isinstance(self.claim, str) and self.side in ("above", "below")
        if not fine or not all(isinstance(number, Real) for number in numbers):
            raise TypeError(f"a claim needs a sentence and numbers, not {self}")

    @property
    def holds(self) -> bool | None:
        """True if the whole interval is strictly on the claim's side, False if on the other."""
        if self.low > self.border:
            return self.side == "above"
        return self.side == "below" if self.high < self.border else None

    @property
    def p_value(self) -> float:
        """Two-sided chance of so large a distance from the border, by Student's t of the logarithm.

        The standard error is that of the interval's longer side; a bootstrap over n clips is too
        narrow by √((n − 1) / n).
        """
        if self.count < 2:
            return 1.0
        figures = [self.ratio, self.low, self.high, self.border]
        if min(figures) > 0:
            figures = [math.log(figure) for figure in figures]
        ratio, low, high, border = figures
        side = max(high - ratio, ratio - low)
        error = side / SIDE * math.sqrt(self.count / (self.count - 1))
        if error == 0:
            return 1.0  # clips that are all alike say nothing of others
        return float(2 * stats.t.sf(abs(ratio - border) / error, self.count - 1))


def verdicts(claims: Sequence[Claim]) -> list[Verdict]:
    """Return the verdicts of one table's claims (METHOD §9).

    A claim is decided if its interval lies strictly on one side of the border, it is over
    `FEWEST` clips or more, and its p-value passes Holm's correction among those that are.
    """
    tested = [claim for claim in claims if claim.count >= FEWEST]
    order = sorted(tested, key=lambda claim: claim.p_value)
    passed: set[int] = set()
    for rank, claim in enumerate(order):
        if claim.p_value > LEVEL / (len(order) - rank):
            break
        passed.add(id(claim))

    def verdict(claim: Claim) -> Verdict:
        if id(claim) not in passed or claim.holds is None:
            return "undecided"
        return "reproduced" if claim.holds else "not reproduced"

    return [verdict(claim) for claim in claims]


@dataclass(frozen=True)
class Report:
    """The one object of a result's JSON.

    Attributes:
        name: of the result, and of its files.
        command: what to run to get it again.
        model: name and sha256.
        embedding: the space of Fréchet distances and CLAP scores, or "none".
        count: clips a row.
        seed: of the first clip.
        seconds: that making the clips took, summed over resumed runs.
        settings: everything else that determines the figures.
        rows, claims: what was found.
        date, ditto_version, git_commit, machine: where and when.
    """

    name: str
    command: str
    model: dict[str, str]
    embedding: str
    count: int
    seed: int
    seconds: float
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ditto_version: str = field(default_factory=lambda: version("ditto-music"))
    git_commit: str | None = field(default_factory=git_commit)
    machine: dict[str, Any] = field(default_factory=machine)

    def value(self, row: str, column: str) -> float | None:
        """Return the value of one figure.

        Raises:
            KeyError: the report has no such figure.
        """
        for figure in self.rows:
            if (figure.row, figure.column) == (row, column):
                return figure.value
        raise KeyError((row, column))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON; what a row or a claim does not have is left out."""
        whole = asdict(self)
        rows = [_without_none(row) for row in whole.pop("rows")]
        claims = [
            _claim_json(claim, verdict)
            for claim, verdict in zip(self.claims, verdicts(self.claims), strict=True)
        ]
        del whole["claims"]
        first = ("name", "command", "date", "ditto_version", "git_commit", "model", "machine")
        ordered = {key: whole.pop(key) for key in first} | whole
        ordered["seconds"] = round(self.seconds, 1)
        return {**ordered, "rows": rows, "claims": claims}

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read a result's JSON.

        Raises:
            DataError: the file is not a result.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(Row(**row) for row in values.pop("rows"))
            told = [{k: v for k, v in c.items() if k != "verdict"} for c in values.pop("claims")]
            return cls(**values, rows=rows, claims=tuple(Claim(**claim) for claim in told))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{printable(path)} is not a benchmark's result: {reason}") from None

    def write(self, out: Path) -> Path:
        """Write NAME.json into the folder `out`.

        Raises:
            OutputError: it cannot be written.
        """
        make_folder(out)
        path = out / f"{self.name}.json"
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        with atomic_file(path, force=True) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return path


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {printable(path)}: {error.strerror}") from None


def write_claims(out: Path) -> Path:
    """Write the page of all claims, README.md, from the results in the folder `out`.

    Raises:
        DataError: a JSON file there is not a result.
        OutputError: the page cannot be written.
    """
    paths = sorted(out.glob("*.json"), key=lambda path: path.stem)
    reports = [Report.load(path) for path in paths]
    made: list[tuple[Report, Claim, Verdict]] = [
        (r, c, v) for r in reports for c, v in zip(r.claims, verdicts(r.claims), strict=True)
    ]
    verdict_names: tuple[Verdict, ...] = ("reproduced", "not reproduced", "undecided")
    told_of: dict[str, dict[tuple[str, float], Verdict]] = {}
    for report, claim, verdict in sorted(made, key=lambda each: each[0].date, reverse=True):
        # Tables that share rows share claims.
        told_of.setdefault(_model(report), {}).setdefault((claim.claim, claim.ratio), verdict)
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks claims`. A claim is decided if the whole 95 % interval of"
        f" its ratio (bootstrap over n clips) lies strictly on one side of 1, n is {FEWEST} or"
        " more, and it passes Holm's correction within its table. Where a claim names another"
        " border, the figure is compared with that.",
        "",
        "Claims by model, the newest first, each counted once though several tables have it:",
        "",
        _row("model (SHA-256)", *verdict_names),
        "|---|---|---|---|",
        *(_row(model, *_counts(found.values(), verdict_names)) for model, found in told_of.items()),
        "",
        _row("result", "model", *verdict_names),
        "|---|---|---|---|---|",
    ]
    for report in filter(lambda report: report.claims, reports):
        counts = _counts((v for r, _, v in made if r is report), verdict_names)
        lines.append(_row(_link(report, out), _model(report), *counts))
    for title, names in {"Decided": verdict_names[:2], "Undecided": verdict_names[2:]}.items():
        lines += ["", f"## {title}", ""]
        lines += [
            _row("claim", "ratio and interval", "n", "verdict", "result"),
            "|---|---|---|---|---|",
        ]
        lines += [
            _row(claim.claim, _interval(claim), str(claim.count), verdict, _file(report))
            for report, claim, verdict in made
            if verdict in names
        ]
    silent = [_link(report, out) for report in reports if not report.claims]
    lines += ["", f"Without claims: {', '.join(silent)}."] if silent else []
    with atomic_file(page := out / "README.md", force=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _counts(found: Iterable[Verdict], names: Sequence[Verdict]) -> list[str]:
    """Return how many verdicts have each name."""
    count = Counter(found)
    return [str(count[name]) for name in names]


def _model(report: Report) -> str:
    """Return the first digits of the model's hash, or its name where it has none."""
    return report.model["sha256"][:7] or report.model["name"]


def _file(report: Report) -> str:
    return f"[{report.name}]({report.name}.json)"


def _link(report: Report, out: Path) -> str:
    picture = f" · [picture]({report.name}.png)"
    has_picture = (out / f"{report.name}.png").is_file()
    return _file(report) + (picture if has_picture else "")


def _interval(claim: Claim) -> str:
    border = "" if claim.border == 1 else f", against {claim.border:g}"
    return f"{claim.ratio:.4g} ({claim.low:.4g} – {claim.high:.4g}){border}"


def _claim_json(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    values = _without_none(asdict(claim))
    if claim.border == 1:
        del values["border"]
    if claim.side == "above":
        del values["side"]
    return {"claim": values.pop("claim"), "verdict": verdict, **values}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that there are, numbers rounded to six digits."""
    return {key: _rounded(value) for key, value in values.items() if value is not None}


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value
