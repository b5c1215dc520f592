"""Onsets: where sounds begin, how strongly, and the beats that a listener would tap to them.

An envelope of onset strengths is differentiable, for controls; what is picked from it, onsets and
beats, is for counting and for errors. Times are in seconds.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ditto.audio.features import log_mel
from ditto.audio.similarity import onset_strength
from ditto.audio.spec import AudioSpec
from ditto.tables import has_values

Array = NDArray[np.float64]

STANDS_OUT_DB = 0.75
"""By how much an onset's strength exceeds the mean around it, in dB over all bands."""
LOCAL_MAX, LOCAL_MEAN, APART = 0.03, 0.1, 0.03
"""Seconds: an onset is the strongest within the first before it, stands out of the mean within the
second on either side, and comes this much after the last one (librosa's `onset_detect`)."""
BEAT_WINDOW, ONSET_WINDOW = 0.07, 0.05
"""Seconds within which a beat, or an onset, counts as hit (mir_eval's)."""
TIGHTNESS = 100.0
"""How closely tapped beats keep to the tempo (librosa's)."""


def onset_activity(strength: Tensor, section: Tensor) -> Tensor:
    """Return the mean over each section of max(0, o − the section's mean of o), in dB.

    It is large where onsets stand out, and small in a held chord, where nothing rises, as in noise,
    where all frames rise alike: half the mean absolute deviation of the onset strength.

    Args:
        strength: onset strength o, shape (B, frames).
        section: which section each frame is of, shape (frames,), rising.

    Returns:
        Shape (B, sections), of sections that have a frame. Where tensors have no values, and so no
        sections, that of all frames as one.
    """
    parts = [strength]
    if has_values(strength):
        parts = [strength[:, section == one] for one in section.unique().tolist()]
    above = [(part - part.mean(dim=1, keepdim=True)).clamp(min=0).mean(dim=1) for part in parts]
    return torch.stack(above, dim=1)


def onset_envelope(mel: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the onset strength at the time of the onset, differentiably.

    A window of the STFT begins to rise when its end reaches the sound, half a window before its
    centre does, so `onset_strength` is put off: by a quarter of a window, after which the plucked
    tones of the test lie within 15 ms of their onsets. (librosa, which thinks of other windows,
    puts it off by half of one.)

    Args:
        mel: log-mel in model space, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, frames), in dB.
    """
    late = spec.n_fft // (4 * spec.hop)
    return pad(onset_strength(mel, spec), (late, 0))[:, : mel.shape[-1]]


def heard_envelope(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute `onset_envelope` of a sound: (B, samples) → (B, samples // hop), in dB."""
    return onset_envelope(log_mel(audio, spec), spec)


def pick_onsets(envelope: Sequence[float] | Array, frame_rate: float) -> Array:
    """Pick the onsets of an envelope (frames,) in dB; return their times in seconds, rising.

    Böck, Krebs & Schedl (2012), as ``librosa.util.peak_pick`` has it: a frame is one if it is the
    largest around it, exceeds the mean around it by `STANDS_OUT_DB`, and is not next to the last.
    """
    x = np.asarray(envelope, dtype=np.float64)
    reach, around = math.ceil(LOCAL_MAX * frame_rate), math.ceil(LOCAL_MEAN * frame_rate)
    apart = math.ceil(APART * frame_rate)
    found: list[int] = []
    for n, value in enumerate(x):
        if found and n - found[-1] <= apart:
            continue
        if value < x[max(0, n - reach) : n + 1].max():
            continue
        if value >= x[max(0, n - around) : n + around + 1].mean() + STANDS_OUT_DB:
            found.append(n)
    return np.array(found, dtype=np.float64) / frame_rate


def tap_beats(envelope: Sequence[float] | Array, frame_rate: float, bpm: float) -> Array:
    """Return where a listener who knows the tempo would tap: beats in seconds, rising.

    Ellis (2007), "Beat tracking by dynamic programming": beats on strong onsets, apart by about
    60 / bpm seconds. Equal to ``librosa.beat.beat_track(onset_envelope=…, bpm=bpm, trim=False)``.

    Args:
        envelope: onset strengths, shape (frames,).
        frame_rate: of the envelope, per second.
        bpm: beats per minute.
    """
    x = np.asarray(envelope, dtype=np.float64)
    spread = x.std(ddof=1) if len(x) > 1 else 0.0
    if spread == 0:
        return np.zeros(0)
    period = max(1, round(frame_rate * 60 / bpm))
    bell = np.exp(-0.5 * (np.arange(-period, period + 1) * 32 / period) ** 2)
    score = np.convolve(x / spread, bell)[period : period + len(x)]
    before, total = _best_paths(score, period)
    beats, n = [], _last_beat(total)
    while n >= 0:
        beats.append(n)
        n = before[n]
    sounding = [n for n in beats[::-1] if score[n] > 0]
    return np.array(sounding, dtype=np.float64) / frame_rate


def _best_paths(score: Array, period: int) -> tuple[list[int], Array]:
    """Return each frame's best beat before it (−1: none), and the score of the path to it."""
    steps = np.arange(round(period / 2), 2 * period + 1)
    steps = steps[steps > 0]
    strain = TIGHTNESS * np.log(steps / period) ** 2
    total, before, begun = score.copy(), [-1] * len(score), False
    for i in range(len(score)):
        possible = steps <= i
        if possible.any():
            paths = total[i - steps[possible]] - strain[possible]
            best = int(paths.argmax())
            total[i] += paths[best]
            begun = begun or score[i] >= 0.01 * score.max()
            before[i] = i - int(steps[best]) if begun else -1
        else:
            begun = begun or score[i] >= 0.01 * score.max()
    return before, total


def _last_beat(total: Array) -> int:
    """Return the last peak of the paths' scores that has half of the peaks' median or more."""
    left, right = np.pad(total, 1, mode="edge")[:-2], np.append(total[1:], total[-1])
    peaks = np.flatnonzero((total > left) & (total >= right))
    if not len(peaks):
        return len(total) - 1
    return int(peaks[total[peaks] >= 0.5 * np.median(total[peaks])][-1])


def f_measure(asked: Array, heard: Array, window: float) -> float:
    """Return the F-measure of two rising lists of times, in [0, 1]; 0 if one is empty.

    Each time is matched with at most one of the other list, within `window` seconds, so that as
    many as possible are. Equal to ``mir_eval.beat.f_measure`` and ``mir_eval.onset.f_measure``.
    """
    if not len(asked) or not len(heard):
        return 0.0
    i = j = hits = 0
    # In order, the earliest pair that fits never stands in the way of a better matching.
    while i < len(asked) and j < len(heard):
        if abs(asked[i] - heard[j]) <= window:
            i, j, hits = i + 1, j + 1, hits + 1
        elif asked[i] < heard[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(asked) + len(heard))
