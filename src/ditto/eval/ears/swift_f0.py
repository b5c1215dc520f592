"""Hear the pitch of the leading voice by SwiftF0 (Nieradzik 2025; MIT), through onnxruntime."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ditto.eval.ears.wheels import missing

if TYPE_CHECKING:
    from swift_f0 import SwiftF0

SAMPLE_RATE, HOP = 16_000, 256
FRAME_RATE = SAMPLE_RATE / HOP
"""Frames a second (62.5)."""


class Pitch(NamedTuple):
    """What SwiftF0 hears in one clip; both (frames,)."""

    hertz: NDArray[np.float64]
    """From 46.875 to 2093.75 Hz, a guess where nothing is pitched."""
    confidence: NDArray[np.float64]
    """From 0 to 1: pitched from 0.5 on, 0 at digital silence."""


def load_swift_f0(threads: int = 1) -> "SwiftF0":
    """Load the network of the installed package.

    Raises:
        ModelError: swift-f0 or onnxruntime is not installed.
    """
    try:
        from swift_f0 import SwiftF0
    except ImportError:
        raise missing("swift-f0") from None
    return SwiftF0(threads=threads)


def pitch(audio: NDArray[np.floating], network: "SwiftF0") -> Pitch:
    """Hear one clip, (samples,) at 16 kHz: a frame for every 256 samples."""
    heard = network.detect(np.asarray(audio, dtype=np.float32), SAMPLE_RATE)
    return Pitch(heard.pitch_hz, heard.confidence)
