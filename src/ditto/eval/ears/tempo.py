"""Hear the tempo by librosa's estimator (ISC), written anew in numpy: it is the same to a digit.

The autocorrelation of onset strengths, with a preference for tempi around 120 beats per minute. A
tempo and its double or half are often both true, so octaves count too (`tempo_hits`); by chance
some are hit as well, so a table also shows the hits at shuffled tempi.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE, N_FFT, HOP, N_MELS = 22_050, 2048, 256, 128
FRAME_RATE = SAMPLE_RATE / HOP
WINDOW = int(8.0 * FRAME_RATE)
"""Frames of one autocorrelation, 8 s: the slowest tempo is as long."""
FASTEST = 320.0
"""Beats per minute."""
USUAL, OCTAVES = 120.0, 1.0
"""Centre in beats per minute and standard deviation in octaves of the preference."""
MULTIPLES = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)
"""Tempi that count as the asked one "with octaves"."""
TOLERANCE = 0.04
"""Relative error up to which a tempo is hit (Gouyon et al. 2006)."""


class Hits(NamedTuple):
    """Whether tempi were heard as asked for, (N,) of 1 or 0: exactly, and with octaves."""

    exact: NDArray[np.float64]
    with_octaves: NDArray[np.float64]


def tempo(audio: NDArray[np.floating]) -> float:
    """Estimate the tempo of a clip in beats per minute.

    Equal to ``librosa.feature.tempo`` with a hop of 256 samples (its default of 512 knows only
    117.5 and 123 around 120).

    Args:
        audio: (samples,) at 22 050 Hz.
    """
    strengths = onset_strengths(torch.as_tensor(np.asarray(audio, dtype=np.float32)))
    half = WINDOW // 2
    padded = np.pad(strengths, half, mode="linear_ramp", end_values=0)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(strengths)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    size = 2 * WINDOW
    power = np.abs(np.fft.rfft(frames * hann, size, axis=1)) ** 2
    correlation = np.fft.irfft(power, size, axis=1)[:, :WINDOW]
    greatest = np.abs(correlation).max(axis=1, keepdims=True)
    mean = (correlation / np.where(greatest > np.finfo(np.float32).tiny, greatest, 1.0)).mean(
        axis=0
    )
    bpm = 60 * FRAME_RATE / np.arange(1, WINDOW)
    likely = -0.5 * ((np.log2(bpm) - np.log2(USUAL)) / OCTAVES) ** 2
    score = np.log1p(1e6 * mean[1:]) + np.where(bpm < FASTEST, likely, -np.inf)
    return float(bpm[np.argmax(score)])


def onset_strengths(audio: Tensor) -> NDArray[np.float32]:
    """Compute the rises of the mel levels in dB, averaged over 128 bands: (1 + samples // 256,)."""
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(
        audio, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True
    )
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=N_MELS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    power = torch.tensor(filters.T, dtype=torch.float32) @ spectrum.abs().square()
    levels = 10 * torch.log10(power.clamp(min=1e-10))
    levels = levels.maximum(levels.max() - 80)
    rises = levels.diff(dim=1).clamp(min=0).mean(dim=0).numpy()
    delay = 1 + N_FFT // (2 * HOP)  # of a frame's start behind its centre
    return np.pad(rises, (delay, 0))[: spectrum.shape[1]]


def tempo_hits(heard: NDArray[np.floating], asked: NDArray[np.floating]) -> Hits:
    """Compare tempi (N,) with those that were asked for, in beats per minute, within 4 %."""
    ratios = np.asarray(heard, dtype=np.float64)[:, None] / np.asarray(asked)[:, None]
    hits = np.abs(ratios / np.array(MULTIPLES) - 1) <= TOLERANCE
    return Hits(hits[:, 0].astype(np.float64), hits.max(axis=1).astype(np.float64))
