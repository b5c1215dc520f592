"""What a control shows of itself, as plain data: target against achieved.

Controls return panels, `ditto.plots` draws them, and anything else (a web page, a notebook) may
draw them in its own way. No plotting library is imported here.
"""

from dataclasses import dataclass

import numpy as np

Spans = tuple[tuple[float, float], ...]
"""Stretches of time, (from, to) in seconds."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture's worth of a control.

    Attributes:
        title: what it shows.
        during: spans within which the control counts; empty is all of the clip.
    """

    title: str
    during: Spans = ()


@dataclass(frozen=True, kw_only=True)
class CurvePanel(Panel):
    """A target curve and the achieved one.

    Attributes:
        unit: of both.
        target, achieved: shape (frames,).
    """

    unit: str
    target: np.ndarray
    achieved: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ChromaPanel(Panel):
    """A chroma and the pitch classes it should show.

    Attributes:
        shares: share of each pitch class, shape (12, frames), in [0, 1].
        target: pitch class of each frame, 0 (C) to 11, −1 for none; shape (frames,).
    """

    shares: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MatrixPanel(Panel):
    """Two self-similarity matrices.

    Attributes:
        target, achieved: shape (frames, frames), values in [0, 1].
    """

    target: np.ndarray
    achieved: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RegionPanel(Panel):
    """A spectrogram that parts of the clip should equal.

    Attributes:
        target: log-mel, shape (n_mels, frames).
        spans: frames where it counts, (first, after the last).
    """

    target: np.ndarray
    spans: tuple[tuple[int, int], ...]
