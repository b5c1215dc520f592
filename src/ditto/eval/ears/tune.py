"""How much of a tune two ears hear in a clip.

A tune is a sequence of (start in seconds, seconds, MIDI pitch), as in the labels' ``melody``. Only
frames within a note count, and only pitch classes: a melody control leaves the octave open.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ditto.eval.ears.basic_pitch import FRAME_RATE, NOTE_THRESHOLD, Activations, class_activations
from ditto.eval.ears.swift_f0 import FRAME_RATE as PITCH_FRAME_RATE
from ditto.eval.ears.swift_f0 import Pitch

Tune = Sequence[tuple[float, float, float]]


def tune_contrast(heard: Activations, tune: Tune) -> float:
    """Compare how often the tune's pitch class sounds with how often it would in other keys.

    `tune_shares` of the tune, minus the mean of its 11 transpositions. So a clip in which
    everything sounds at once gets 0, as a silent one does.

    Returns:
        From −1 to 1, the tune alone is 1.

    Raises:
        ValueError: no frame of the clip is within the tune.
    """
    shares = tune_shares(class_activations(heard), tune)
    return float(shares[0] - shares[1:].mean())


def tune_shares(sounds: NDArray[np.floating], tune: Tune) -> NDArray[np.float64]:
    """Return the share of the tune's frames in which basic-pitch hears its pitch class sound.

    That is a note activation of 0.3 or more, in any octave, beside whatever else sounds.

    Args:
        sounds: of one clip, (frames, 12), from `class_activations`.
        tune: in seconds and MIDI pitches.

    Returns:
        (12,): of the tune, and of the tune moved up by 1 … 11 semitones.

    Raises:
        ValueError: no frame of the clip is within the tune.
    """
    classes = tune_classes(tune, len(sounds), FRAME_RATE)
    frames = np.flatnonzero(classes >= 0)
    moved = (classes[frames, None] + np.arange(12)) % 12
    return (sounds[frames[:, None], moved] >= NOTE_THRESHOLD).mean(axis=0)


def pitch_share(heard: Pitch, tune: Tune) -> float:
    """Return the share of the tune's frames in which SwiftF0 hears its pitch class, 0 to 1.

    The nearest semitone counts, whether or not the ear is sure (in a full arrangement it seldom
    is), but for digital silence. Chance is 1/12.

    Raises:
        ValueError: no frame of the clip is within the tune.
    """
    classes = tune_classes(tune, len(heard.hertz), PITCH_FRAME_RATE)
    nearest = np.round(69 + 12 * np.log2(heard.hertz / 440)).astype(np.int64) % 12
    hits = (nearest == classes) & (heard.confidence > 0)
    return float(hits[classes >= 0].mean())


def tune_classes(tune: Tune, frames: int, frame_rate: float) -> NDArray[np.int64]:
    """Give the pitch class (0 is C) at the time of each frame, −1 where the tune has a rest.

    Raises:
        ValueError: no frame is within the tune.
    """
    times = np.arange(frames) / frame_rate
    classes = np.full(frames, -1, dtype=np.int64)
    for start, seconds, midi in tune:
        classes[(times >= start) & (times < start + seconds)] = round(midi) % 12
    if not (classes >= 0).any():
        raise ValueError(f"none of {frames} frames is within the tune")
    return classes
