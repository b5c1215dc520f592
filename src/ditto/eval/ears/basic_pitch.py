"""Hear notes by basic-pitch (Bittner et al. 2022), through onnxruntime.

The network gives, for each frame of 256 samples at 22 050 Hz and each of a piano's 88 keys, how
likely a note sounds and how likely one begins. Its weights come from the wheel (Apache-2.0), whose
package needs TensorFlow and is not imported. Notes are made of the activations by the package's own
rules at its own settings, written anew (`find_notes`).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import argrelmax

from ditto.eval.ears.wheels import onnx_session, wheel_file

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SAMPLE_RATE, HOP = 22_050, 256
FRAME_RATE = SAMPLE_RATE / HOP
"""Frames a second (86.13), those of our own spectrograms: frame i is centred on sample i · 256."""
LOWEST, KEYS = 21, 88
"""MIDI pitch of the first key (A0), and the number of keys."""

ONSET_THRESHOLD = 0.5
"""Activation from which a peak of the onsets begins a note."""
NOTE_THRESHOLD = 0.3
"""Activation below which a note does not sound."""
MIN_FRAMES = 11
"""A note is longer than this, 128 ms."""
GAP_FRAMES = 11
"""A note has ended when it has not sounded for so many frames."""

_WINDOW, _FRAMES = 43_844, 172  # samples that the network takes, frames that it gives
_MARGIN = 15  # frames at either end of a window that are not used
_STRONGEST = 0.1  # share of frames that `onset_peak` looks at

Array = NDArray[np.float32]


class Activations(NamedTuple):
    """What the network hears in one clip; both (frames, 88), 0 to 1, the lowest key first."""

    onset: Array
    note: Array


class Note(NamedTuple):
    """A note that was heard: frames from `start` to before `end`, and its MIDI pitch."""

    start: int
    end: int
    pitch: int


def load_basic_pitch(threads: int = 1) -> "InferenceSession":
    """Load the network from the installed wheel.

    Raises:
        ModelError: basic-pitch or onnxruntime is not installed, or the file is damaged.
    """
    return onnx_session(wheel_file("basic-pitch", "nmp.onnx"), threads=threads)


def activations(audio: NDArray[np.floating], network: "InferenceSession") -> Activations:
    """Hear one clip.

    The windows of 2 s overlap by 30 frames and begin a whole number of frames apart (the package's
    do not, so that its frames drift by 5 ms a second and more).

    Args:
        audio: (samples,) at 22 050 Hz.
        network: from `load_basic_pitch`.

    Returns:
        Onsets and notes, samples // 256 frames each.
    """
    frames, kept = len(audio) // HOP, _FRAMES - 2 * _MARGIN
    count = -(-frames // kept)
    padded = np.zeros((count - 1) * kept * HOP + _WINDOW, dtype=np.float32)
    end = min(len(audio), len(padded) - _MARGIN * HOP)
    padded[_MARGIN * HOP :][:end] = audio[:end]
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:: kept * HOP]
    heard = network.run(None, {network.get_inputs()[0].name: windows[..., None]})
    onset, note = (np.asarray(x)[:, _MARGIN:-_MARGIN].reshape(-1, KEYS)[:frames] for x in heard[:2])
    return Activations(onset, note)


def find_notes(heard: Activations) -> list[Note]:
    """Make notes of activations, by the rules of basic-pitch's ``output_to_notes_polyphonic``.

    1. Onsets are the greater of the onset activation and the rise of the note activation (over one
       frame or two, the smaller; scaled to the same maximum).
    2. From the last peak of the onsets that is 0.5 or more to the first: its note sounds until the
       note activation has been below 0.3 for 11 frames. If it is longer than 11 frames it counts,
       and is taken out of the activation, with the keys beside it.
    3. What is left above 0.3 has no onset: from the greatest value on, a note is followed both
       ways in the same manner, taken out, and counts if it is longer than 11 frames.

    Returns:
        Notes in the order in which they were found.
    """
    frames = len(heard.note)
    if not frames:
        return []
    onset, left = _with_rises(heard), heard.note.astype(np.float64)
    peaks = np.zeros(onset.shape, dtype=bool)
    peaks[argrelmax(onset, axis=0)] = True
    notes: list[Note] = []
    for start, key in np.argwhere(peaks & (onset >= ONSET_THRESHOLD))[::-1].tolist():
        if start >= frames - 1:
            continue
        heard_on, quiet = _followed(left[start + 1 : frames - 1, key])
        end = start + 1 + heard_on - quiet
        if end - start > MIN_FRAMES:
            left[start:end, max(0, key - 1) : key + 2] = 0
            notes.append(Note(start, end, key + LOWEST))
    return notes + list(_without_onset(left))


def class_activations(heard: Activations) -> Array:
    """Return the strongest note activation of each pitch class (0 is C), (frames, 12)."""
    of_key = (np.arange(KEYS) + LOWEST) % 12
    return np.stack([heard.note[:, of_key == c].max(axis=1) for c in range(12)], axis=1)


def notes_per_second(heard: Activations) -> float:
    """Count the notes of `find_notes` in a second of music."""
    return len(find_notes(heard)) * FRAME_RATE / max(1, len(heard.note))


def onset_peak(heard: Activations) -> float:
    """Average the strongest tenth of the frames' onsets, each at its most likely key: 0 to 1.

    Clear attacks are near 0.8; smeared ones are lower, however many there are.
    """
    strongest = np.sort(heard.onset.max(axis=1))[::-1]
    return float(strongest[: max(1, round(_STRONGEST * len(strongest)))].mean())


def _with_rises(heard: Activations) -> NDArray[np.float64]:
    """Return the onsets, or how much the note activation rises where that is more."""
    onset, note = (x.astype(np.float64) for x in heard)
    before = np.concatenate([np.zeros((2, note.shape[1])), note])
    rise = np.maximum(np.minimum(note - before[1:-1], note - before[:-2]), 0)
    rise[:2] = 0
    greatest = rise.max()
    return np.maximum(onset, rise * (onset.max() / greatest)) if greatest > 0 else onset


def _without_onset(left: NDArray[np.float64]) -> Iterator[Note]:
    """Find notes in what the onsets have left over, which is emptied."""
    frames = len(left)
    while left.max() > NOTE_THRESHOLD:
        middle, key = (int(i) for i in np.unravel_index(left.argmax(), left.shape))
        left[middle, key] = 0
        after, quiet_after = _followed(left[middle + 1 : frames - 1, key])
        before, quiet_before = _followed(left[1:middle, key][::-1])
        around = slice(max(0, key - 1), key + 2)
        left[middle + 1 : middle + 1 + after, around] = 0
        left[middle - before : middle, around] = 0
        start, end = middle - before + quiet_before, middle + after - quiet_after
        if end - start > MIN_FRAMES:
            yield Note(start, end, key + LOWEST)


def _followed(levels: NDArray[np.float64]) -> tuple[int, int]:
    """Count the frames that a note is followed, and the quiet ones at the end of them."""
    quiet = 0
    for i, level in enumerate(levels.tolist()):
        quiet = quiet + 1 if level < NOTE_THRESHOLD else 0
        if quiet == GAP_FRAMES:
            return i + 1, quiet
    return len(levels), quiet
