"""Chroma, the feature C of the melody control (DITTO section 4; Music ControlNet).

Energy of each pitch class in high-passed audio. Conventions as in `ditto.audio.features`: batched,
differentiable, float32 or float64, one frame every `hop` samples.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from ditto.audio.features import full_precision, mel_db, mel_filterbank, of_spectrogram
from ditto.audio.spec import AudioSpec
from ditto.tables import table

Weights = Callable[[AudioSpec, torch.dtype, torch.device], Tensor]
"""Weight of every bin of the long STFT in each class or pitch."""

CLASSES = 12
"""Pitch classes C, C♯, … B, numbered 0 to 11 (the papers count from 1)."""

HIGH_PASS_HZ = 261.2
"""Cut-off of the second-order Butterworth high-pass: near middle C, so that a bass line is not
taken for the melody."""

POWER_FLOOR = 1e-10
"""Added to the power of every class, so that silence gives equal shares to all."""

C0_HZ = 440.0 * 2 ** (-57 / 12)
MIDI_OF_C0, A4, PITCHES = 12, 69, 128
TONE_UPDATES = 8
"""Of `mel_semitone_power`: of eight clips of the embedded model the chords' chroma is then off by
0.012 nats, and the best chord is the sound's in 87 % of the time; by one product 0.045 and 72 %."""
WEIGHT_CENTRE, WEIGHT_WIDTH = 5.0, 2.0
"""Gaussian weight of the octaves: centre (octaves above A0) and width (octaves)."""


@full_precision
def chroma_power(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the power of each pitch class above middle C.

    Windows are twice as long as the log-mel's, which resolves semitones near middle C (15 Hz
    apart). They overlap by three quarters and are `stride` frames apart; frames in between are
    interpolated. The high-pass is applied to the power spectrum. At every `stride`-th frame the
    result equals ``librosa.feature.chroma_stft(norm=None, tuning=0)``.

    Args:
        audio: shape (B, samples), where samples > n_fft.
        spec: rates and sizes.

    Returns:
        Shape (B, 12, samples // hop).

    Raises:
        ValueError: the audio is too short.
    """
    classes = _weights(spec, audio.dtype, audio.device)
    coarse = of_spectrogram(partial(torch.matmul, classes), audio, _coarse(spec))
    return _interpolate(coarse, stride(spec), audio.shape[-1] // spec.hop)


@full_precision
def octave_power(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the power of every semitone: a chroma in which octaves are kept apart.

    Windows and frames are those of `chroma_power`, without its high-pass and its weight of octaves.

    Args:
        audio: shape (B, samples), where samples > n_fft.
        spec: rates and sizes.

    Returns:
        Shape (B, 128, samples // hop), by MIDI pitch.

    Raises:
        ValueError: the audio is too short.
    """
    bands = _octave_weights(spec, audio.dtype, audio.device)
    coarse = of_spectrogram(partial(torch.matmul, bands), audio, _coarse(spec))
    return _interpolate(coarse, stride(spec), audio.shape[-1] // spec.hop)


@full_precision
def log_chroma(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute ln C, each class's share of its frame's power: (B, samples) → (B, 12, frames)."""
    power = chroma_power(audio, spec) + POWER_FLOOR
    return power.log() - power.sum(dim=1, keepdim=True).log()


@full_precision
def mel_log_chroma(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Estimate `log_chroma` from a log-mel, without a vocoder.

    Every band's power counts as that of a tone at the band's centre, so pitch is read off the
    shares of neighbouring bands, and its gradient goes through them. By default bands are 21 Hz
    apart below 1 kHz, where semitones from middle C up are 15 to 60 Hz apart.

    Args:
        x_0: log-mel in model space, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, 12, frames), float32.
    """
    power = _of_mel(x_0, spec, _weights) + POWER_FLOOR
    return power.log() - power.sum(dim=1, keepdim=True).log()


@full_precision
def mel_octave_power(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Estimate `octave_power` from a log-mel as `mel_log_chroma` does: (B, 128, frames)."""
    return _of_mel(x_0, spec, _octave_weights)


@full_precision
def mel_semitone_power(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Estimate `octave_power` from a log-mel as that of tones on the semitones that have this mel.

    Below middle C a band holds two or three semitones, and a tone between two centres is in both
    bands. So the tones' powers are found by Richardson's and Lucy's updates (1972, 1974), whose
    gradient is that of what they compute; `mel_octave_power` is one product.

    Args:
        x_0: log-mel in model space, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, 128, frames), by MIDI pitch, float32.
    """
    mel = _coarse_mel(x_0, spec)
    bands, pitches = _semitones(spec, mel.dtype, mel.device)
    total = bands.sum(dim=0)[:, None]
    power = bands.mT @ mel / total
    for _ in range(TONE_UPDATES):
        # High up a band may lie between two semitones, and no tone reach it.
        power = power * (bands.mT @ (mel / (bands @ power + POWER_FLOOR))) / total
    return _interpolate(pitches @ power, stride(spec), x_0.shape[-1])


def _of_mel(x_0: Tensor, spec: AudioSpec, weights: Weights) -> Tensor:
    """Return power by class or pitch at all frames, of tones at the bands' centres."""
    mel = _coarse_mel(x_0, spec)
    tones = _tones(spec, weights, mel.dtype, mel.device)
    return _interpolate(tones @ mel, stride(spec), x_0.shape[-1])


def _coarse_mel(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Return the mean power of the bands around every `stride`-th frame."""
    power, step = torch.pow(10.0, mel_db(x_0, spec) / 10), stride(spec)
    around = torch.hann_window(2 * step + 3, periodic=False)[1:-1].to(power)
    padded = pad(power, (step, step), mode="reflect" if power.shape[-1] > step else "replicate")
    kernel = (around / around.sum()).expand(power.shape[1], 1, -1)
    return conv1d(padded, kernel, stride=step, groups=power.shape[1])


def chroma_filterbank(sample_rate: int, n_fft: int) -> np.ndarray:
    """Return the weight of every STFT bin in each pitch class, tuned to A = 440 Hz.

    Each bin spreads over the classes as a Gaussian as wide as the distance of neighbouring bins (at
    least a semitone), normalised to length 1 and weighted by octave. Equal to
    ``librosa.filters.chroma(tuning=0)``.

    Returns:
        Shape (12, n_fft // 2 + 1), float64.
    """
    pitch, _, bells = _bells(sample_rate, n_fft)
    above_a0 = (pitch - 9) / CLASSES
    weights = np.exp(-0.5 * ((above_a0 - WEIGHT_CENTRE) / WEIGHT_WIDTH) ** 2)
    return (bells * weights)[:, : n_fft // 2 + 1]


def octave_filterbank(sample_rate: int, n_fft: int) -> np.ndarray:
    """Return the weight of every STFT bin in each semitone, by MIDI pitch.

    A bin's weight in a class (see `chroma_filterbank`, without the weight of octaves) goes to that
    pitch of the class which is nearest, so that the sum over octaves is the weight in the class.

    Returns:
        Shape (128, n_fft // 2 + 1), float64.
    """
    pitch, distance, bells = _bells(sample_rate, n_fft)
    nearest = np.round(pitch - distance).astype(int) + MIDI_OF_C0
    bands = np.zeros((PITCHES, bells.shape[1]))
    columns = np.broadcast_to(np.arange(bells.shape[1]), bells.shape)
    known = (nearest >= 0) & (nearest < PITCHES)
    bands[nearest[known], columns[known]] = bells[known]
    return bands[:, : n_fft // 2 + 1]


def _bells(sample_rate: int, n_fft: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each bin's pitch above C0, its distance from the classes, and its weight in them."""
    hertz = np.arange(1, n_fft) * (sample_rate / n_fft)
    pitch = CLASSES * np.log2(hertz / C0_HZ)
    # Bin 0 has no pitch: like librosa, put it an octave and a half below bin 1.
    pitch = np.concatenate([[pitch[0] - 1.5 * CLASSES], pitch])
    width = np.concatenate([np.maximum(np.diff(pitch), 1.0), [1.0]])
    distance = pitch - np.arange(CLASSES)[:, None]
    distance = np.remainder(distance + CLASSES / 2 + 10 * CLASSES, CLASSES) - CLASSES / 2
    bells = np.exp(-0.5 * (2 * distance / width) ** 2)
    return pitch, distance, bells / np.linalg.norm(bells, axis=0, keepdims=True)


def stride(spec: AudioSpec) -> int:
    """Return the distance of two chroma windows in frames: a quarter window, at least 1."""
    return max(1, spec.n_fft // (2 * spec.hop))


def _coarse(spec: AudioSpec) -> AudioSpec:
    return replace(spec, n_fft=2 * spec.n_fft, hop=stride(spec) * spec.hop)


def _interpolate(coarse: Tensor, step: int, frames: int) -> Tensor:
    """Interpolate linearly from every `step`-th frame to all; hold the last value to the end."""
    ends = torch.cat([coarse, coarse[..., -1:]], dim=-1)
    share = torch.arange(step, dtype=coarse.dtype, device=coarse.device) / step
    filled = ends[..., :-1, None] + share * (ends[..., 1:] - ends[..., :-1])[..., None]
    held = ends[..., -1:].expand(*ends.shape[:-1], step)
    return torch.cat([filled.flatten(-2), held], dim=-1)[..., :frames]


@table()
def _tones(spec: AudioSpec, weights: Weights, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the power by class of a tone of power 1 at the centre of each mel band."""
    filters = mel_filterbank(spec, dtype=torch.float64)
    bins = torch.arange(filters.shape[1], dtype=torch.float64)
    centres = (filters @ bins) / filters.sum(dim=1)
    # Bins of a window of twice the length are half as far apart.
    lobe = _hann_power(torch.arange(2 * len(bins) - 1) - 2 * centres[:, None])
    tones = weights(spec, torch.float64, torch.device("cpu")) @ lobe.T
    # A mel's power is the sum over the main lobe, 3/2 of its highest bin's.
    return (tones / 1.5).to(dtype).to(device)


@table()
def _semitones(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a mel's bands and `octave_power` of a tone of power 1 on each semitone.

    Returns:
        Shapes (n_mels, semitones) and (128, semitones); of the semitones below half the rate.
    """
    hertz = 440 * 2 ** ((torch.arange(PITCHES, dtype=torch.float64) - A4) / CLASSES)
    hertz = hertz[hertz < spec.sample_rate / 2]
    filters = mel_filterbank(spec, dtype=torch.float64)
    weights = _octave_weights(spec, torch.float64, torch.device("cpu"))
    found = []
    for of_bins, n_fft in ((filters, spec.n_fft), (weights, _coarse(spec).n_fft)):
        bins = torch.arange(of_bins.shape[1], dtype=torch.float64)
        lobe = _hann_power(bins[:, None] - hertz * n_fft / spec.sample_rate)
        found.append((of_bins @ lobe).to(dtype).to(device))
    return found[0], found[1]


def _hann_power(distance: Tensor) -> Tensor:
    """Return the power of a tone of power 1, so many bins away, by a Hann window."""
    lobe = torch.sinc(distance) + (torch.sinc(distance - 1) + torch.sinc(distance + 1)) / 2
    return lobe.square()


@table()
def _weights(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    n_fft = _coarse(spec).n_fft
    hertz = np.arange(n_fft // 2 + 1) * (spec.sample_rate / n_fft)
    # |H|² of a bilinear second-order Butterworth high-pass; importing scipy.signal takes 0.5 s
    cutoff, angles = (np.pi * f / spec.sample_rate for f in (HIGH_PASS_HZ, hertz[1:]))
    response = np.concatenate([[0.0], 1 / (1 + (np.tan(cutoff) / np.tan(angles)) ** 4)])
    weights = chroma_filterbank(spec.sample_rate, n_fft) * response
    return torch.tensor(weights, dtype=dtype).to(device)


@table()
def _octave_weights(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    bands = octave_filterbank(spec.sample_rate, _coarse(spec).n_fft)
    return torch.tensor(bands, dtype=dtype).to(device)
