"""The picture of DITTO-2's Fig. 4 and Fig. 5: time, error and distance of every budget."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report import Report

COLOURS = {"DM": "tab:orange", "CM": "tab:green", "CTM": "tab:blue"}


def scatter(report: Report, clip_seconds: float) -> Figure:
    """Seconds against MSE with the Fréchet distance as the points' size, and both against the
    decoding steps.
    """
    figure = Figure(figsize=(14, 5), layout="constrained")
    FigureCanvasAgg(figure)
    wide, upper, lower = figure.subplot_mosaic([["a", "a", "b"], ["a", "a", "c"]]).values()
    points = {row: _values(report, row) for row in dict.fromkeys(r.row for r in report.rows)}
    for row, found in points.items():
        if found is not None:
            seconds, mse, distance = found
            wide.scatter(
                seconds, mse, s=4 * distance, color=COLOURS[row.partition("-")[0]], alpha=0.5
            )
            wide.annotate(row, (seconds, mse), fontsize=9)
    wide.axvline(clip_seconds, linestyle="--", color="gray", label="as long as the clip lasts")
    wide.set(
        xscale="log",
        yscale="log",
        xlabel="seconds a clip",
        ylabel="intensity MSE, dB²",
        title="time and error",
    )
    wide.legend()
    for axes, place, label in ((upper, 2, "Fréchet distance"), (lower, 1, "MSE, dB²")):
        _over_steps(axes, points, place, label)
    return figure


def _over_steps(
    axes: Axes, points: dict[str, tuple[float, float, float] | None], place: int, label: str
) -> None:
    """One-step optimisation: a figure over the number of decoding steps, with DITTO's as a line."""
    for kind in ("CM", "CTM"):
        line = [
            (int(row.rpartition("/")[2]), found[place])
            for row, found in points.items()
            if found is not None and row.startswith(f"{kind}-1/") and row[-1].isdecimal()
        ]
        if line:
            axes.plot(*zip(*line, strict=True), "o-", color=COLOURS[kind], label=kind)
    base = points.get("DM-20/20")
    if base is not None:
        axes.axhline(base[place], color=COLOURS["DM"], label="DM-20/20")
    axes.set(xlabel="decoding steps T'", ylabel=label)
    if axes.has_data():
        axes.legend(fontsize=8)


def _values(report: Report, row: str) -> tuple[float, float, float] | None:
    """Seconds, MSE and distance of a row, if it has them all."""
    found = [
        report.value(row, column)
        for column in ("seconds_per_clip", "intensity_mse", "frechet_distance")
    ]
    return (found[0], found[1], found[2]) if all(v is not None for v in found) else None  # pyright: ignore[reportReturnType]
