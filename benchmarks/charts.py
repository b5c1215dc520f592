"""The pictures of the benches, drawn with matplotlib's object interface only."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.report import Report, Row, Tensors
from ditto.audio.features import mel_db
from ditto.audio.spec import AudioSpec

ACCURACIES = ("genre_accuracy", "mood_accuracy", "tempo_accuracy", "tempo_within_1_bin")
CURVES_SHOWN = 6


def quality(report: Report, made: Tensor, real: Tensor, spec: AudioSpec) -> Figure:
    """Accuracies and distances as bars, above generated and real spectrograms, each (n, 1, n_mels,
    frames).
    """
    figure = _figure(14, 10)
    grid = figure.add_gridspec(3, 4, height_ratios=[1.5, 1, 1])
    _accuracy_bars(figure.add_subplot(grid[0, :2]), report.rows)
    _distance_bars(
        figure.add_subplot(grid[0, 2:]), [r for r in report.rows if r.column == "frechet_distance"]
    )
    for line, (name, clips) in enumerate((("generated", made), ("real", real)), start=1):
        for i, clip in enumerate(clips[:4]):
            axes = figure.add_subplot(grid[line, i])
            axes.imshow(
                mel_db(clip[0], spec).numpy(),
                origin="lower",
                aspect="auto",
                vmin=-100,
                vmax=-10,
                cmap="magma",
            )
            axes.set_axis_off()
            axes.set_title(f"{name} {i}", fontsize=9)
    return figure


def intensity(found: Tensors, spec: AudioSpec) -> Figure:
    """Targets and achieved curves of the first clips, the errors' distributions, and the losses."""
    shown = min(CURVES_SHOWN, len(found["target"]))
    figure = _figure(14, 10)
    grid = figure.add_gridspec(3, 6)
    for i in range(shown):
        axes = figure.add_subplot(grid[i // 3, 2 * (i % 3) : 2 * (i % 3) + 2])
        _curves(axes, found, i, spec)
    _distribution(figure.add_subplot(grid[2, :3]), found)
    _losses(figure.add_subplot(grid[2, 3:]), found["losses"].numpy())
    return figure


def shares(groups: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """Bars of a share for every method of every group, on a logarithmic axis with a line at 1."""
    figure = _figure(12, 1.2 + 0.5 * len(groups))
    axes = figure.add_subplot()
    methods = list(dict.fromkeys(method for group in groups.values() for method in group))
    height = 0.8 / max(len(methods), 1)
    for i, method in enumerate(methods):
        at = [
            (row + i * height, group[method])
            for row, group in enumerate(groups.values())
            if method in group
        ]
        axes.barh(
            [place for place, _ in at], [max(value, 1e-4) for _, value in at], height, label=method
        )
    axes.set_yticks(np.arange(len(groups)) + 0.4 - height / 2, list(groups), fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xscale="log", xlabel=label)
    axes.invert_yaxis()
    if methods:
        axes.legend(fontsize=8)
    return figure


def table(report: Report) -> Figure:
    """Every column of a table as bars over its rows, with intervals, and what the paper has as
    crosses.
    """
    columns = list(dict.fromkeys(row.column for row in report.rows))
    names = list(dict.fromkeys(row.row for row in report.rows))
    figure = _figure(2.5 + 3.2 * len(columns), 1.5 + 0.28 * len(names))
    grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(grid, columns, strict=True):
        rows = {row.row: row for row in report.rows if row.column == column}
        _bars(axes, [rows.get(name) for name in names])
        unit = next(row.unit for row in rows.values())
        axes.set_title(column.replace("_", " ") + (f", {unit}" if unit else ""), fontsize=9)
    grid[0].set_yticks(range(len(names)), names, fontsize=8)
    grid[0].invert_yaxis()
    return figure


def _bars(axes: Axes, rows: Sequence[Row | None]) -> None:
    """One bar a row that has a value; a cross where the paper has one."""
    for place, row in enumerate(rows):
        if row is None:
            continue
        if row.value is not None:
            sides = [
                [max(row.value - (row.low if row.low is not None else row.value), 0.0)],
                [max((row.high if row.high is not None else row.value) - row.value, 0.0)],
            ]
            axes.barh(place, row.value, 0.7, xerr=sides, color="tab:blue", alpha=0.7)
        if row.paper is not None:
            axes.plot(row.paper, place, "x", color="tab:red")
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=5)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _accuracy_bars(axes: Axes, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(r.row for r in rows if r.column in ACCURACIES))
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        found = [_value(rows, name, column) for column in ACCURACIES]
        axes.bar(np.arange(len(ACCURACIES)) + i * width, found, width, label=name)
    axes.set_xticks(
        np.arange(len(ACCURACIES)) + 0.4 - width / 2,
        [c.replace("_", " ") for c in ACCURACIES],
        fontsize=8,
    )
    axes.set(ylim=(0, 1.25), title="share of tags recognised by the classifier")
    axes.legend(fontsize=7, ncols=2, loc="upper center")


def _value(rows: Sequence[Row], name: str, column: str) -> float:
    return next(
        (r.value for r in rows if (r.row, r.column) == (name, column) and r.value is not None), 0.0
    )


def _distance_bars(axes: Axes, rows: Sequence[Row]) -> None:
    kept = [r for r in rows if r.value is not None]
    values = np.array([r.value for r in kept], dtype=np.float64)
    spread = np.abs(
        np.array([[r.low or r.value, r.high or r.value] for r in kept], dtype=np.float64).T - values
    )
    axes.barh([r.row for r in kept], values, xerr=spread, color="tab:gray")
    axes.set(xscale="log", title="Fréchet distance to real held-out clips")
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)


def _curves(axes: Axes, found: Tensors, item: int, spec: AudioSpec) -> None:
    target = found["target"][item].numpy()
    seconds = np.arange(len(target)) * spec.hop / spec.sample_rate
    axes.plot(seconds, target, "k--", label="target")
    axes.plot(seconds, found["none.curve"][item].numpy(), color="tab:gray", label="no control")
    axes.plot(seconds, found["ditto.curve"][item].numpy(), color="tab:red", label="DITTO")
    errors = [found[f"{key}.mse"][item].item() for key in ("none", "ditto")]
    axes.set(
        title=f"clip {item}: {errors[0]:.3g} → {errors[1]:.3g} dB²", xlabel="seconds", ylabel="dB"
    )
    axes.grid(alpha=0.3)
    if item == 0:
        axes.legend(fontsize=8)


def _distribution(axes: Axes, found: Tensors) -> None:
    for key, name, colour in (("none", "no control", "tab:gray"), ("ditto", "DITTO", "tab:red")):
        axes.ecdf(found[f"{key}.mse"].numpy(), label=name, color=colour)
    axes.set(
        xscale="log", xlabel="MSE, dB²", ylabel="share of clips", title="distribution of the errors"
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def _losses(axes: Axes, losses: np.ndarray) -> None:
    axes.plot(
        np.arange(1, losses.shape[1] + 1), losses.T, color="tab:blue", alpha=0.3, linewidth=0.8
    )
    axes.plot(
        np.arange(1, losses.shape[1] + 1), np.median(losses, axis=0), color="black", label="median"
    )
    axes.set(yscale="log", xlabel="iteration", ylabel="loss, dB²", title="optimisation")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
