"""Pictures of results, drawn from a report alone with matplotlib's object interface."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report import Report, Row
from ditto.paths import atomic_file

LARGEST = 300_000
"""Bytes of a picture, at most."""
COLOURS = {"DM": "tab:orange", "CM": "tab:green", "CTM": "tab:blue"}


def draw(report: Report, out: Path) -> Path:
    """Write NAME.png of a result into the folder `out`.

    Raises:
        OutputError: it cannot be written.
    """
    budgets = report.name in ("d2-table2", "d2-fig4", "d2-fig5")
    figure = scatter(report) if budgets else bars(report)
    path = out / f"{report.name}.png"
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(_png(figure))
    return path


def _png(figure: Figure) -> bytes:
    """Return a PNG at the largest resolution that fits the limit."""
    data = b""
    for dpi in (80, 60, 45, 30):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    return data


def bars(report: Report) -> Figure:
    """Draw every column as bars over the rows, with intervals, and the paper's as crosses."""
    columns = list(dict.fromkeys(row.column for row in report.rows))
    names = list(dict.fromkeys(row.row for row in report.rows))
    figure = _figure(2.5 + 3.2 * max(len(columns), 1), 1.5 + 0.28 * len(names))
    if not columns:
        return figure
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(grid, columns, strict=True):
        rows = {row.row: row for row in report.rows if row.column == column}
        _bars(axes, [rows.get(name) for name in names])
        unit = next(iter(rows.values())).unit
        axes.set_title(column.replace("_", " ") + (f", {unit}" if unit else ""), fontsize=9)
    grid[0].set_yticks(range(len(names)), names, fontsize=8)
    grid[0].invert_yaxis()
    return figure


def _bars(axes: Axes, rows: Sequence[Row | None]) -> None:
    for place, row in enumerate(rows):
        if row is None:
            continue
        if row.value is not None:
            low = row.value if row.low is None else row.low
            high = row.value if row.high is None else row.high
            sides = [[max(row.value - low, 0.0)], [max(high - row.value, 0.0)]]
            axes.barh(place, row.value, 0.7, xerr=sides, color="tab:blue", alpha=0.7)
        if row.paper is not None:
            axes.plot(row.paper, place, "x", color="tab:red")
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=5)


def scatter(report: Report) -> Figure:
    """Draw time against error, with the Fréchet distance as size, and both over decoding steps."""
    figure = _figure(14, 5)
    wide, upper, lower = figure.subplot_mosaic([["a", "a", "b"], ["a", "a", "c"]]).values()
    columns = ("seconds_per_clip", "intensity_mse_db2", "frechet_distance")
    values = {(row.row, row.column): row.value for row in report.rows}
    points = {
        row: [values.get((row, column)) for column in columns]
        for row in dict.fromkeys(row.row for row in report.rows)
    }
    for row, (seconds, error, distance) in points.items():
        if seconds is not None and error is not None:
            colour = COLOURS[row.partition("-")[0]]
            size = 60 if distance is None else min(4 * distance, 400)
            wide.scatter(seconds, error, s=size, color=colour, alpha=0.5)
            wide.annotate(row, (seconds, error), fontsize=9)
    if wide.collections:
        wide.set(xscale="log", yscale="log")
    wide.set(xlabel="seconds a clip", ylabel="intensity MSE, dB²", title="time and error")
    _over_steps(upper, points, 2, "Fréchet distance")
    _over_steps(lower, points, 1, "MSE, dB²")
    return figure


def _over_steps(axes: Axes, points: dict[str, list[float | None]], place: int, label: str) -> None:
    """Draw a figure of one-step optimisation over the decoding steps, with DITTO's as a line."""
    for kind in ("CM", "CTM"):
        line = [
            (int(row.rpartition("/")[2]), found[place])
            for row, found in points.items()
            if row.startswith(f"{kind}-1/") and row[-1].isdecimal() and found[place] is not None
        ]
        if line:
            axes.plot(*zip(*line, strict=True), "o-", color=COLOURS[kind], label=kind)
    base = points.get("DM-20/20", [None] * 3)[place]
    if base is not None:
        axes.axhline(base, color=COLOURS["DM"], label="DM-20/20")
    axes.set(xlabel="decoding steps T'", ylabel=label)
    if axes.has_data():
        axes.legend(fontsize=8)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
