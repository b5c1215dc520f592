"""Pitch-class energy of the high-passed sound, C of the melody control (DITTO section 4; Music
ControlNet).

The conventions are those of `ditto.audio.features`: batched, differentiable, float32 or float64, a
frame every `hop`.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ditto.audio.features import full_precision, stft_power
from ditto.audio.spec import AudioSpec

CLASSES = 12
"""C, C♯, … B, as classes 0 to 11 (the papers count from 1)."""

HIGH_PASS_HZ = 261.2
"""Cut-off of the second-order Butterworth high-pass: near middle C, so that a bass does not count
as melody."""

POWER_FLOOR = 1e-10
"""Added to every class's power: where nothing sounds, all classes are alike."""

C0_HZ = 440.0 * 2 ** (-57 / 12)
WEIGHT_CENTRE, WEIGHT_WIDTH = 5.0, 2.0
"""Weight of the octaves: a bell around 5 octaves above A0, 2 octaves wide."""


@full_precision
def chroma_power(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Power of each pitch class above middle C: audio (B, samples) → (B, 12, samples // hop).

    Windows are twice as long as the log-mel's, so that semitones near middle C (15 Hz) are told
    apart, and taken every `stride` frames, three quarters overlapping; the frames between are
    interpolated. The high-pass acts on the power spectrum, which differs from filtering the samples
    only at a window's edges. At every `stride`-th frame the classes are those of
    ``librosa.feature.chroma_stft(norm=None, tuning=0)``.

    Raises:
        ValueError: the audio is not longer than `n_fft` samples.
    """
    coarse = _weights(spec, audio.dtype, audio.device) @ stft_power(audio, _coarse(spec))
    return _between(coarse, stride(spec), audio.shape[-1] // spec.hop)


@full_precision
def log_chroma(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Log C: the logarithm of each class's share of a frame's power, (B, 12, frames); exponentials
    add up to 1.
    """
    power = chroma_power(audio, spec) + POWER_FLOOR
    return power.log() - power.sum(dim=1, keepdim=True).log()


def chroma_filterbank(sample_rate: int, n_fft: int) -> np.ndarray:
    """Share of every bin that belongs to each pitch class, (12, n_fft // 2 + 1), float64; A is at
    440 Hz.

    A bin is a bell over the classes as wide as its neighbours are apart (at least a semitone), its
    squares adding up to 1, times the weight of its octave. Equal to
    ``librosa.filters.chroma(tuning=0)``.
    """
    hertz = np.arange(1, n_fft) * (sample_rate / n_fft)
    pitch = CLASSES * np.log2(hertz / C0_HZ)
    # Bin 0 has no pitch: it is put an octave and a half below bin 1, as librosa does.
    pitch = np.concatenate([[pitch[0] - 1.5 * CLASSES], pitch])
    width = np.concatenate([np.maximum(np.diff(pitch), 1.0), [1.0]])
    away = pitch - np.arange(CLASSES)[:, None]
    away = np.remainder(away + CLASSES / 2 + 10 * CLASSES, CLASSES) - CLASSES / 2
    bells = np.exp(-0.5 * (2 * away / width) ** 2)
    bells /= np.linalg.norm(bells, axis=0, keepdims=True)
    above_a0 = (pitch - 9) / CLASSES
    weights = np.exp(-0.5 * ((above_a0 - WEIGHT_CENTRE) / WEIGHT_WIDTH) ** 2)
    return (bells * weights)[:, : n_fft // 2 + 1]


def stride(spec: AudioSpec) -> int:
    """Frames from one window of the chroma to the next: a quarter of a window, or one frame where
    those are long.
    """
    return max(1, spec.n_fft // (2 * spec.hop))


def _coarse(spec: AudioSpec) -> AudioSpec:
    return replace(spec, n_fft=2 * spec.n_fft, hop=stride(spec) * spec.hop)


def _between(coarse: Tensor, step: int, frames: int) -> Tensor:
    """Every frame of what is known at every `step`-th, by linear interpolation; the last value is
    held.
    """
    ends = torch.cat([coarse, coarse[..., -1:]], dim=-1)
    share = torch.arange(step, dtype=coarse.dtype, device=coarse.device) / step
    filled = ends[..., :-1, None] + share * (ends[..., 1:] - ends[..., :-1])[..., None]
    held = ends[..., -1:].expand(*ends.shape[:-1], step)
    return torch.cat([filled.flatten(-2), held], dim=-1)[..., :frames]


@lru_cache(maxsize=32)
def _weights(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    n_fft = _coarse(spec).n_fft
    hertz = np.arange(n_fft // 2 + 1) * (spec.sample_rate / n_fft)
    # |H|² of a bilinear second-order Butterworth high-pass; importing scipy.signal takes 0.5 s
    ratio = np.tan(np.pi * HIGH_PASS_HZ / spec.sample_rate) / np.tan(
        np.pi * hertz[1:] / spec.sample_rate
    )
    response = np.concatenate([[0.0], 1 / (1 + ratio**4)])
    weights = chroma_filterbank(spec.sample_rate, n_fft) * response
    # Left of inference mode, or a tensor first made within it could never take part in autograd.
    with torch.inference_mode(False):
        return torch.tensor(weights, dtype=dtype, device=device)
