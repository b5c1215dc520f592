"""Pictures of results, drawn from a report alone with matplotlib's object interface."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Report, Row
from ditto.paths import atomic_file

LARGEST = 300_000
"""Bytes of a picture, at most."""
LARGEST_DOT = 150.0
"""Square points."""
COLOURS = {"DM": "tab:orange", "CM": "tab:green", "CTM": "tab:blue"}


def draw(report: Report, out: Path) -> Path:
    """Write NAME.png of a result into the folder `out`.

    Raises:
        OutputError: it cannot be written.
    """
    budgets = report.name in ("d2-table2", "d2-fig4", "d2-fig5")
    if report.name.startswith("tradeoff"):
        figure = curves(report)
    else:
        figure = scatter(report) if budgets else bars(report)
    path = out / f"{report.name}.png"
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(_png(figure))
    return path


def _png(figure: Figure, colours: int | None = None) -> bytes:
    """Return a PNG at the largest resolution that fits the limit, of so many colours or all."""
    data = b""
    for dpi in (80, 60, 45, 30):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        if colours is not None:
            image = Image.open(buffer).convert("RGB").quantize(colours)
            image.save(buffer := io.BytesIO(), format="png", optimize=True)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    return data


def spectrograms(
    columns: Mapping[str, NDArray[np.floating]], rows: Sequence[str], path: Path
) -> Path:
    """Draw log-mels side by side, all on one scale of 60 dB below each clip's loudest.

    Args:
        columns: levels in dB (rows, n_mels, frames), by title.
        rows: names.
        path: of the PNG.

    Raises:
        OutputError: it cannot be written.
    """
    figure = _figure(1 + 3.2 * len(columns), 0.4 + 1.4 * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for across, (title, levels) in enumerate(columns.items()):
        for down, clip in enumerate(levels):
            axes, top = grid[down][across], float(clip.max())
            axes.imshow(clip, origin="lower", aspect="auto", vmin=top - 60, vmax=top, cmap="magma")
            axes.set(xticks=[], yticks=[])
            if down == 0:
                axes.set_title(title, fontsize=11)
            if across == 0:
                axes.set_ylabel(rows[down], fontsize=11)
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(_png(figure, colours=64))
    return path


def bars(report: Report) -> Figure:
    """Draw every column as bars over the rows that have it, with intervals; crosses: the paper."""
    columns = dict.fromkeys(row.column for row in report.rows)
    panels = [[row for row in report.rows if row.column == column] for column in columns]
    names = [[row.row for row in panel] for panel in panels]
    alike = all(each == names[0] for each in names)
    if not alike:
        panels.sort(key=len, reverse=True)
    across = len(panels) if alike else 3
    heights = [1.0 + 0.24 * len(panels[i]) for i in range(0, len(panels), across or 1)] or [1.0]
    figure = _figure(2.5 + 3.2 * across if alike else 18.0, sum(heights))
    grid = figure.add_gridspec(len(heights), across or 1, height_ratios=heights)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(place, across)])
        _bars(axes, panel, named=not alike or place == 0)
    return figure


def _bars(axes: Axes, rows: Sequence[Row], *, named: bool) -> None:
    known = [(place, row.value, row) for place, row in enumerate(rows) if row.value is not None]
    if known:
        places, lengths, _ = zip(*known, strict=True)
        below = [value - (value if row.low is None else row.low) for _, value, row in known]
        above = [(value if row.high is None else row.high) - value for _, value, row in known]
        sides = np.maximum([below, above], 0.0)
        axes.barh(places, lengths, 0.7, xerr=sides, color="tab:blue", alpha=0.7)
    published = [(row.paper, place) for place, row in enumerate(rows) if row.paper is not None]
    if published:
        axes.plot(*zip(*published, strict=True), "x", color="tab:red")
    values = [abs(row.value) for row in rows if row.value is not None]
    if values and min(values) > 0 and max(values) > 50 * min(values):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)
    unit = f", {rows[0].unit}" if rows[0].unit else ""
    axes.set_title(rows[0].column.replace("_", " ") + unit, fontsize=9)
    axes.set_yticks(range(len(rows)), [row.row if named else "" for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)


def curves(report: Report) -> Figure:
    """Draw each control's error over each of its costs, rows of one line joined.

    A row is ``control, line, point``; a report's first column is its control's error.
    """
    values = {(row.row, row.column): row.value for row in report.rows}
    errors = {row.row: row.column for row in reversed(report.rows)}  # the first column stays
    kinds = list(dict.fromkeys(row.row.partition(", ")[0] for row in report.rows))
    costs = [c for c in dict.fromkeys(r.column for r in report.rows) if c not in errors.values()]
    figure = _figure(1 + 3.4 * max(len(costs), 1), 0.6 + 2.8 * max(len(kinds), 1))
    grid = figure.subplots(max(len(kinds), 1), max(len(costs), 1), squeeze=False)
    for down, kind in enumerate(kinds):
        lines: dict[str, list[str]] = {}
        for row in errors:
            if row.partition(", ")[0] == kind:
                lines.setdefault(row.split(", ")[1], []).append(row)
        for across, cost in enumerate(costs):
            axes = grid[down][across]
            for line in sorted(lines):
                points = [(values.get((r, cost)), values.get((r, errors[r]))) for r in lines[line]]
                known = sorted((x, y) for x, y in points if x is not None and y is not None)
                if known:
                    axes.plot(*zip(*known, strict=True), "o-", ms=3, lw=0.8, label=line)
            axes.set_xlabel(cost.replace("_", " "), fontsize=8)
            axes.set_ylabel(f"{kind}: {errors[next(iter(lines.values()))[0]]}", fontsize=7)
            axes.tick_params(labelsize=7)
            if across == 0 and axes.has_data():
                axes.legend(fontsize=5)
    return figure


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
    largest = max((distance for *_, distance in points.values() if distance), default=1.0)
    places: dict[str, tuple[float, float]] = {}
    for row, (seconds, error, distance) in points.items():
        if seconds is not None and error is not None:
            group, _, name = row.rpartition(", ")
            colour = COLOURS.get(name.partition("-")[0], "tab:gray")
            size = LARGEST_DOT * (0.5 if distance is None else distance / largest)
            filled = "none" if group else colour  # of other settings than the papers'
            wide.scatter(seconds, error, s=size, facecolor=filled, edgecolor=colour, alpha=0.6)
            places[row] = (seconds, error)
    if places:
        wide.set(xscale="log", yscale="log")
        plain = StrMethodFormatter("{x:g}")
        for axis in (wide.xaxis, wide.yaxis):
            axis.set_major_formatter(plain)
        wide.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        wide.xaxis.set_minor_formatter(plain)
    wide.set(xlabel="seconds a clip", ylabel="intensity MSE, dB²", title="time and error")
    _over_steps(upper, points, 2, "Fréchet distance")
    _over_steps(lower, points, 1, "MSE, dB²")
    wide.margins(x=0.15)
    _named(wide, places)
    return figure


def _named(axes: Axes, places: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points, each on the side where there is room and above those it meets."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # where things are is known from here on
    figure.set_layout_engine("none")
    taken: list[Bbox] = []
    for name, place in sorted(places.items(), key=lambda item: item[1][1]):
        right = axes.transAxes.inverted().transform(axes.transData.transform(place))[0] < 0.5
        label = axes.annotate(
            name,
            place,
            (9 if right else -9, 0),
            textcoords="offset points",
            fontsize=8,
            ha="left" if right else "right",
            va="center",
        )
        while any(label.get_window_extent().overlaps(other) for other in taken):
            x, y = label.get_position()
            label.set_position((x, y + 1))
        taken.append(label.get_window_extent())
        line = {"arrowstyle": "-", "lw": 0.4, "color": "gray"}
        at = label.get_position()
        axes.annotate("", place, at, textcoords="offset points", arrowprops=line)


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
