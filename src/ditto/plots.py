"""Pictures beside every sound: spectrograms, target curves against achieved ones, losses.

Only matplotlib's object interface is used, so no process-wide state (backend, rcParams, current
figure) is touched.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache, singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter
from torch import Tensor

from ditto.audio.spec import AudioSpec
from ditto.panels import ChromaPanel, CurvePanel, MatrixPanel, Panel, RegionPanel
from ditto.paths import atomic_file

MADE_BY = f"ditto-music {version('ditto-music')}"
"""By this in a picture it is known as Ditto's."""
PITCH_CLASSES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")


def clip_picture(
    path: Path,
    mel: Tensor,
    spec: AudioSpec,
    *,
    panels: Sequence[Panel],
    losses: Sequence[float],
    title: str,
    uncontrolled: Tensor | None = None,
    candidate: int | None = None,
    force: bool = False,
) -> None:
    """Save one clip's picture as PNG: its log-mel, the controls' panels and the loss curve.

    Args:
        path: the PNG.
        mel: log-mel (n_mels, frames) in [−1, 1].
        spec: rates of the mel.
        panels: target against achieved.
        losses: of the optimisation; none draws no curve.
        title: over the picture.
        uncontrolled: log-mel of the clip without control, drawn small beside the clip's.
        candidate: the noise that both are of, where one was chosen.
        force: replace a file that exists.

    Raises:
        OutputError: if the file exists (without `force`) or cannot be written.
    """
    heights = [3.4, *map(_height, panels), *([2.2] if losses else [])]
    beside_width = 0.0 if uncontrolled is None else 3.0
    figure, axes = _rows(10, heights, title, beside_width)
    _spectrogram(axes[0], mel, spec)
    if uncontrolled is not None:
        beside = _beside(axes[0], 10 + MARGIN, beside_width - 2 * MARGIN)
        _image(beside, uncontrolled, spec)
        beside.set_yticks([])
        of = "" if candidate is None else f"candidate {candidate} "
        beside.set_title(f"{of}without control", fontsize=9)
    for place, panel in zip(axes[1:], panels, strict=False):
        draw_panel(panel, place, spec)
    if losses:
        _losses(axes[-1], losses)
    _save(figure, path, force)


def _height(panel: Panel) -> float:
    """Return a panel's height in inches."""
    return 4.4 if isinstance(panel, MatrixPanel) else 2.2


@singledispatch
def draw_panel(panel: Panel, axes: Axes, spec: AudioSpec) -> None:
    """Draw a control's panel into matplotlib axes.

    Raises:
        TypeError: there is no drawing for this kind of panel.
    """
    raise TypeError(f"no drawing for a {type(panel).__name__}")


@draw_panel.register
def _(panel: CurvePanel, axes: Axes, spec: AudioSpec) -> None:
    seconds = np.arange(len(panel.target)) * spec.hop / spec.sample_rate
    axes.plot(seconds, panel.target, color="black", linestyle="--", label="target")
    axes.plot(seconds, panel.achieved, color="tab:red", label="achieved")
    axes.set(xlabel="seconds", ylabel=panel.unit, title=panel.title, xlim=(0, seconds[-1]))
    _shade(axes, panel, spec.seconds(len(panel.target)))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)


@draw_panel.register
def _(panel: ChromaPanel, axes: Axes, spec: AudioSpec) -> None:
    seconds = spec.seconds(len(panel.target))
    extent = (0.0, seconds, -0.5, 11.5)
    axes.imshow(
        panel.shares, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=1, cmap="magma"
    )
    line = np.where(panel.target < 0, np.nan, panel.target)
    at = np.arange(len(line)) * spec.hop / spec.sample_rate
    axes.plot(at, line, color="cyan", linewidth=2, label="target")
    axes.set(xlabel="seconds", title=panel.title, xlim=(0, seconds))
    axes.set(yticks=range(12), yticklabels=PITCH_CLASSES)
    axes.tick_params(axis="y", labelsize=7)
    _shade(axes, panel, seconds)
    axes.legend(loc="upper right", fontsize=8)


@draw_panel.register
def _(panel: MatrixPanel, axes: Axes, spec: AudioSpec) -> None:
    seconds = spec.seconds(len(panel.target))
    for i, (name, matrix) in enumerate((("target", panel.target), ("achieved", panel.achieved))):
        left = 1.1 * i * seconds
        extent = (left, left + seconds, 0.0, seconds)
        axes.imshow(matrix, origin="lower", extent=extent, vmin=0, vmax=1, cmap="viridis")
        axes.text(left + 0.02 * seconds, 0.93 * seconds, name, color="white", fontsize=9)
    axes.set(title=panel.title, xlabel="seconds", ylabel="seconds")
    axes.set(xlim=(0, 2.1 * seconds), ylim=(0, seconds))
    axes.set_xticks([])


@draw_panel.register
def _(panel: RegionPanel, axes: Axes, spec: AudioSpec) -> None:
    level = np.full(panel.target.shape, np.nan)
    for start, end in panel.spans:
        level[:, start:end] = (panel.target[:, start:end] - 1) * (spec.dynamic_range_db / 2)
    extent = (0.0, spec.seconds(panel.target.shape[-1]), 0.0, float(spec.n_mels))
    axes.imshow(
        level, origin="lower", aspect="auto", extent=extent, vmin=-110, vmax=-10, cmap="magma"
    )
    axes.set(xlabel="seconds", ylabel="mel band", title=panel.title)


def _shade(axes: Axes, panel: Panel, seconds: float) -> None:
    """Grey out where the control does not count."""
    if not panel.during:
        return
    now = 0.0
    for start, end in (*sorted(panel.during), (seconds, seconds)):  # they may overlap
        if now < min(start, seconds):
            axes.axvspan(now, min(start, seconds), color="grey", alpha=0.3, linewidth=0)
        now = max(now, end)


def edit_picture(
    path: Path,
    after: Tensor,
    spec: AudioSpec,
    new: Sequence[tuple[float, float]],
    losses: Sequence[Sequence[float]],
    title: str,
    *,
    before: Tensor | None = None,
    panels: Sequence[Panel] = (),
    stride: int = 1,
    force: bool = False,
) -> None:
    """Save an edit's picture as PNG: log-mels before and after, new parts framed, losses.

    Args:
        path: the PNG.
        after: log-mel (n_mels, columns) in [−1, 1].
        spec: rates of the mel.
        new: what is new, (from, to) in seconds.
        losses: of each window.
        title: over the picture.
        before: log-mel of the recording, if there was one.
        panels: target against achieved, over the whole.
        stride: frames per column.
        force: replace a file that exists.

    Raises:
        OutputError: if the file exists (without `force`) or cannot be written.
    """
    losses = [curve for curve in losses if curve]
    heights = [*([2.8] if before is not None else []), 2.8, *map(_height, panels)]
    heights += [2.2] if losses else []
    figure, axes = _rows(10, heights, title)
    if before is not None:
        _spectrogram(axes[0], before, spec, stride)
        axes.pop(0).set_title("before", fontsize=9)
    _spectrogram(axes[0], after, spec, stride)
    if before is not None:
        told = "after; between the lines is new, 0.1 s beside them is faded, the rest is kept"
        axes[0].set_title(told, fontsize=9)
    for start, end in new:
        axes[0].axvline(start, color="cyan", linewidth=1)
        axes[0].axvline(end, color="cyan", linestyle="--", linewidth=1)
    for place, panel in zip(axes[1:], panels, strict=False):
        draw_panel(panel, place, spec)
    for curve in losses:
        _losses(axes[-1], curve)
    _save(figure, path, force)


def mel_grid(
    path: Path, mels: Sequence[Tensor], columns: int = 4, titles: Sequence[str] = ()
) -> None:
    """Save log-mels, each (1, n_mels, frames) in [−1, 1], as one PNG; replaces an older one."""
    rows = math.ceil(len(mels) / columns)
    figure = _figure(3 * columns, 1.6 * rows)
    for i, mel in enumerate(mels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(
            mel[0].float().cpu().numpy(),
            origin="lower",
            aspect="auto",
            vmin=-0.6,
            vmax=0.9,
            cmap="magma",
        )
        axes.set_axis_off()
        if i < len(titles):
            axes.set_title(titles[i], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path, force=True)


def loss_picture(
    path: Path, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str
) -> None:
    """Save training curves, ``name -> (steps, values)``, logarithmic; replaces an older file."""
    figure = _figure(8, 4)
    axes = figure.add_subplot()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, linewidth=1)
    axes.set(title=title, xlabel="step")
    _logarithmic(axes)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, ncols=1 + len(curves) // 20)
    _save(figure, path, force=True)


MARGIN, LEFT, SCALE = 0.1, 0.9, 0.85
"""Inches of a picture: around it; left of axes, for their numbers; right of them, for a scale."""
ABOVE, BELOW = 0.3, 0.5
"""Inches above and below axes, for their title and their numbers."""


def _rows(
    width: float, heights: Sequence[float], title: str, beside: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Make a figure of axes below one another, so that the same moment is at the same place.

    Their places are given in inches: to find them by what is written would mean to draw it twice.

    Args:
        width: in inches.
        heights: in inches, of axes with what is written around them.
        title: over all of them.
        beside: inches more at the right.
    """
    whole = sum(heights) + ABOVE
    figure = Figure(figsize=(width + beside, whole))
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, y=1 - MARGIN / whole, verticalalignment="top")
    axes, top = [], whole - ABOVE
    for height in heights:
        rectangle = (LEFT, top - height + BELOW, width - LEFT - SCALE, height - ABOVE - BELOW)
        axes.append(figure.add_axes(_shares(figure, *rectangle)))
        top -= height
    return figure, axes


def _beside(axes: Axes, left: float, width: float) -> Axes:
    """Make axes as high as others, at some inches from the left."""
    place, (_, height) = axes.get_position(), _size(axes.figure)
    inches = left, place.y0 * height, width, place.height * height
    return axes.figure.add_axes(_shares(axes.figure, *inches))


def _size(figure: Figure | SubFigure) -> tuple[float, float]:
    """Return a figure's width and height in inches."""
    return figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi


def _shares(
    figure: Figure | SubFigure, left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Return a rectangle in inches as shares of a figure."""
    across, up = _size(figure)
    return left / across, bottom / up, width / across, height / up


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path, force: bool) -> None:
    known = _characters()
    for text in figure.findobj(Text):
        # Names and prompts are words, no formulae; what no font here has is shown by its number.
        text.set_parse_math(False)
        text.set_text("".join(_drawable(c, known) for c in text.get_text()))
    with atomic_file(path, force=force) as temporary:
        # Packed a little less than by default, in half of the time.
        packing: dict[str, Any] = {"compress_level": 4}
        about = {"Software": MADE_BY}
        figure.savefig(temporary, format="png", dpi=90, metadata=about, pil_kwargs=packing)


@cache
def _characters() -> frozenset[int]:
    """Return the characters of the font that pictures are written in."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _drawable(character: str, known: frozenset[int]) -> str:
    """Return a character, or its escape where the font lacks it."""
    if character == "\n" or ord(character) in known:
        return character
    return character.encode("unicode_escape").decode()


def _spectrogram(axes: Axes, mel: Tensor, spec: AudioSpec, stride: int = 1) -> None:
    image = _image(axes, mel, spec, stride)
    axes.set(xlabel="seconds", ylabel="mel band")
    place, (width, _) = axes.get_position(), _size(axes.figure)
    beside = _beside(axes, place.x1 * width + MARGIN, 2 * MARGIN)
    axes.figure.colorbar(image, cax=beside)
    beside.set_title("dB", fontsize=9)


def _image(axes: Axes, mel: Tensor, spec: AudioSpec, stride: int = 1) -> AxesImage:
    level = (mel.float().cpu().numpy() - 1) * (spec.dynamic_range_db / 2)
    extent = (0.0, spec.seconds(mel.shape[-1] * stride), 0.0, float(spec.n_mels))
    return axes.imshow(
        level, origin="lower", aspect="auto", extent=extent, vmin=-110, vmax=-10, cmap="magma"
    )


def _logarithmic(axes: Axes) -> None:
    """Make the y-axis logarithmic; its numbers are plain, since no text is read as a formula."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter() if high > 10 * low else "{x:g}")


def _losses(axes: Axes, losses: Sequence[float]) -> None:
    axes.plot(range(1, len(losses) + 1), losses, color="tab:blue")
    axes.set(xlabel="iteration", ylabel="loss")
    if min(losses) > 0:
        _logarithmic(axes)
    axes.grid(alpha=0.3, which="both")
