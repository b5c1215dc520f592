"""Pictures beside every sound: spectrograms, target curves against achieved ones, losses.

Only matplotlib's object interface is used, so no process-wide state (backend, rcParams, current figure) is touched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ditto.audio.io import atomic_path
from ditto.audio.spec import AudioSpec


@dataclass(frozen=True)
class Trace:
    """A control's target against what was achieved, both (frames,), in `unit`."""

    title: str
    unit: str
    target: np.ndarray
    achieved: np.ndarray


def clip_picture(
    path: Path, mel: Tensor, spec: AudioSpec, traces: Sequence[Trace], losses: Sequence[float], title: str,
    force: bool = False,
) -> None:  # fmt: skip
    """Save one clip's picture as PNG: log-mel (n_mels, frames), a panel for each trace, and the loss curve.

    Raises:
        OutputError: if the file exists (without `force`) or cannot be written.
    """
    panels = 1 + len(traces) + bool(losses)
    figure = _figure(10, 3.4 + 2.2 * (panels - 1))
    axes = figure.subplots(panels, 1, squeeze=False, gridspec_kw={"height_ratios": [3.4] + [2.2] * (panels - 1)})[:, 0]
    figure.suptitle(title, fontsize=10)
    _spectrogram(axes[0], mel, spec)
    for panel, trace in zip(axes[1:], traces, strict=False):
        _trace(panel, trace, spec)
    if losses:
        _losses(axes[-1], losses)
    _save(figure, path, force)


def mel_grid(path: Path, mels: Sequence[Tensor], columns: int = 4, titles: Sequence[str] = ()) -> None:
    """Save log-mels, each (1, n_mels, frames) in [−1, 1], as one PNG of `columns` columns, replacing an older one."""
    rows = math.ceil(len(mels) / columns)
    figure = _figure(4 * columns, 2.4 * rows)
    for i, mel in enumerate(mels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(mel[0].float().cpu().numpy(), origin="lower", aspect="auto", vmin=-0.6, vmax=0.9, cmap="magma")
        axes.set_axis_off()
        if i < len(titles):
            axes.set_title(titles[i], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path, force=True)


def loss_picture(path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str) -> None:
    """Save training curves, ``name -> (steps, values)``, on a logarithmic axis, replacing an older file."""
    figure = _figure(8, 4)
    axes = figure.add_subplot()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, linewidth=1)
    axes.set(title=title, xlabel="step", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    _save(figure, path, force=True)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path, force: bool) -> None:
    with atomic_path(path, force=force) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def _spectrogram(axes: Axes, mel: Tensor, spec: AudioSpec) -> None:
    level = (mel.float().cpu().numpy() - 1) * (spec.dynamic_range_db / 2)
    extent = (0.0, spec.seconds(mel.shape[-1]), 0.0, float(spec.n_mels))
    image = axes.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-110, vmax=-10, cmap="magma")
    axes.set(xlabel="seconds", ylabel="mel band")
    axes.figure.colorbar(image, ax=axes, label="dB", pad=0.01)


def _trace(axes: Axes, trace: Trace, spec: AudioSpec) -> None:
    seconds = np.arange(len(trace.target)) * spec.hop / spec.sample_rate
    axes.plot(seconds, trace.target, color="black", linestyle="--", label="target")
    axes.plot(seconds, trace.achieved, color="tab:red", label="achieved")
    axes.set(xlabel="seconds", ylabel=trace.unit, title=trace.title, xlim=(0, seconds[-1]))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)


def _losses(axes: Axes, losses: Sequence[float]) -> None:
    axes.plot(range(1, len(losses) + 1), losses, color="tab:blue")
    positive = min(losses) > 0
    axes.set(xlabel="iteration", ylabel="loss", yscale="log" if positive else "linear")
    axes.grid(alpha=0.3, which="both")
