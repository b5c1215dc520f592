"""Differentiable audio features: STFT power, log-mel, loudness in dB and its 1 s smoothing.

Conventions: audio is ``(B, samples)``, in [-1, 1] at full scale. A feature has ``samples // hop``
frames, frame ``i`` centred on sample ``i * hop``. Every function is batched, differentiable, and
keeps the device of its input. It computes in float32 or, for float64 input, in float64:
half-precision input is widened and autocast switched off, because powers and logarithms need the
range. Levels are in dB: 0 dB is a full-scale sine in a spectrogram, and a mean square of 1 in
`rms_db` (where a full-scale sine has -3.01 dB).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Concatenate, ParamSpec

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, conv1d, pad

from ditto.audio.spec import AudioSpec
from ditto.tables import table

P = ParamSpec("P")

MEAN_SQUARE_FLOOR = 1e-10
"""Added to a mean square before its logarithm: digital silence is at -100 dB."""
PIECE_SAMPLES = 2**17
"""Of which a spectrogram is computed at once: the embedded model's window."""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off; "meta", the device without values, has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def full_precision(
    feature: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Make `feature` run in float32 or float64, whatever its input's type and autocast."""

    @wraps(feature)
    def wrapped(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        with without_autocast(x.device):
            return feature(x if x.dtype == torch.float64 else x.float(), *args, **kwargs)

    return wrapped


@full_precision
def stft_power(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute a power spectrogram in which a full-scale sine on a bin's frequency has power 1.

    Uses a periodic Hann window divided by half its sum; frames are centred, the ends reflected.

    Args:
        audio: shape (B, samples), where samples > n_fft / 2.
        spec: rates and sizes.

    Returns:
        Shape (B, n_fft // 2 + 1, samples // hop).

    Raises:
        ValueError: the audio is too short.
    """
    samples = audio.shape[-1]
    if samples <= spec.n_fft // 2:
        raise ValueError(f"a spectrogram needs more than {spec.n_fft // 2} samples, got {samples}")
    spectrum = torch.stft(
        audio,
        spec.n_fft,
        spec.hop,
        window=_window(spec, audio.dtype, audio.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )[..., : samples // spec.hop]
    # not abs().square(): this has a finite gradient at zero
    return spectrum.real.square() + spectrum.imag.square()


def of_spectrogram(feature: Callable[[Tensor], Tensor], audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute a feature of each frame's power spectrum, of long audio piece by piece.

    A spectrogram is many times as large as its audio: so the memory does not grow with the length.

    Args:
        feature: ``power (B, n_fft // 2 + 1, frames) -> (…, frames)``, every frame by itself.
        audio: shape (B, samples), where samples > n_fft / 2.
        spec: rates and sizes.

    Returns:
        `feature` of `stft_power`, (…, samples // hop).

    Raises:
        ValueError: the audio is too short.
    """
    frames, margin = audio.shape[-1] // spec.hop, spec.margin_frames
    piece = PIECE_SAMPLES // spec.hop
    if frames <= piece:
        return feature(stft_power(audio, spec))
    values = []
    for first in range(0, frames, piece):
        last, begin = min(first + piece, frames), max(first - margin, 0)
        end = (last + margin) * spec.hop if last + margin < frames else audio.shape[-1]
        power = stft_power(audio[:, begin * spec.hop : end], spec)
        values.append(feature(power[..., first - begin : last - begin]))
    return torch.cat(values, dim=-1)


def mel_filterbank(
    spec: AudioSpec, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Return triangular filters with peak 1 on Slaney's mel scale, from 0 Hz to half the rate.

    Equal to ``librosa.filters.mel(norm=None, htk=False)``. Neighbouring triangles add up to 1 at
    every frequency between the first and the last centre.

    Returns:
        Shape (n_mels, n_fft // 2 + 1), in [0, 1], computed in float64.

    Raises:
        ValueError: a filter contains no bin: `n_mels` is too large for `n_fft`.
    """
    return _filterbank(spec, dtype, torch.device(device)).clone()


@full_precision
def log_mel(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the log-mel x_0 in model space: [-dynamic_range_db, 0] dB is mapped to [-1, 1].

    The floor is added to the mel power, not clamped, so no gradient is cut. Values are not limited
    at the top: a full-scale sine reaches up to 1.76 dB (1.022) where a wide filter covers the whole
    main lobe of the Hann window.

    Args:
        audio: shape (B, samples), where samples > n_fft / 2.
        spec: rates and sizes.

    Returns:
        Shape (B, n_mels, samples // hop).

    Raises:
        ValueError: the audio is too short.
    """
    filters = _filterbank(spec, audio.dtype, audio.device)
    mel = of_spectrogram(partial(torch.matmul, filters), audio, spec)
    decibels = 10 * torch.log10(mel + 10 ** (-spec.dynamic_range_db / 10))
    return decibels * (2 / spec.dynamic_range_db) + 1


@full_precision
def mel_db(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Convert a log-mel from model space back to dB, any shape; see `log_mel`."""
    return (x_0 - 1) * (spec.dynamic_range_db / 2)


@full_precision
def rms_db(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the loudness of every frame, 20·log10 RMS over `n_fft` samples.

    The mean square is that of ``librosa.feature.rms`` (rectangular window, centred, zeros beyond
    the ends). The floor of -100 dB is added, not clamped, so quiet sound keeps its gradient; in
    digital silence the gradient is 0.

    Args:
        audio: shape (B, samples), where samples >= hop.
        spec: rates and sizes.

    Returns:
        Shape (B, samples // hop), in dB, at least -100.
    """
    mean_square = _frame_mean(audio.square(), spec)
    return 10 * torch.log10(mean_square + MEAN_SQUARE_FLOOR)


def smoothing_window(spec: AudioSpec, seconds: float = 1.0) -> int:
    """Return the odd number of frames nearest to `seconds` (default spec: 87), at least 1."""
    return max(1, 2 * round((seconds * spec.frame_rate - 1) / 2) + 1)


@full_precision
def savgol(curve: Tensor, window: int, polyorder: int) -> Tensor:
    """Smooth a curve by local polynomial fits (Savitzky & Golay 1964).

    Equals ``scipy.signal.savgol_filter(curve, window, polyorder, mode="interp")``: the ends are
    read from the polynomials fitted to the first and the last window.

    Args:
        curve: shape (B, frames).
        window: odd number of frames, at most `frames`.
        polyorder: degree of the polynomials, below `window`.

    Returns:
        Shape (B, frames).

    Raises:
        ValueError: the window is even or longer than the curve, or the degree is too high.
    """
    if window % 2 == 0 or not 0 < window <= curve.shape[-1]:
        raise ValueError(
            f"the window must be odd and at most {curve.shape[-1]} frames long, got {window}"
        )
    if not 0 <= polyorder < window:
        raise ValueError(f"the polynomial's degree must be from 0 to {window - 1}, got {polyorder}")
    fit, half = _polynomial_fit(window, polyorder, curve.dtype, curve.device), window // 2
    middle = conv1d(curve.unsqueeze(1), fit[half].view(1, 1, -1)).squeeze(1)
    first, last = curve[:, :window] @ fit[:half].T, curve[:, -window:] @ fit[half + 1 :].T
    return torch.cat([first, middle, last], dim=-1)


def smooth(curve: Tensor, spec: AudioSpec, seconds: float = 1.0, polyorder: int = 3) -> Tensor:
    """Smooth a curve of frames, shape (B, frames), with a Savitzky-Golay filter of `seconds`.

    For a curve shorter than the filter, window and degree shrink to what fits.
    """
    frames = curve.shape[-1]
    window = min(smoothing_window(spec, seconds), frames - 1 + frames % 2)
    return savgol(curve, window, min(polyorder, window - 1))


def intensity(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Compute the intensity feature of DITTO section 4 (Music ControlNet's dynamics).

    It is `rms_db`, smoothed over 1 s.

    Args:
        audio: shape (B, samples), where samples >= hop.
        spec: rates and sizes.

    Returns:
        Shape (B, samples // hop), in dB.
    """
    return smooth(rms_db(audio, spec), spec)


@full_precision
def mel_rms_db(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Estimate `rms_db` from a log-mel, without a vocoder.

    By Parseval's theorem the power summed over the bins is 3 times the mean square under the
    squared Hann window; the mel filters add up to 1 between the first and the last centre (21 Hz
    and 10.6 kHz by default), and sound outside is missed. Errors per frame and smoothed, by test:
    tones from 55 Hz to 10.5 kHz 0.2 and 0.05 dB, a 30 Hz tone 1.5 and 0.4 dB, white noise 0.6 and
    0.1 dB. At sudden onsets single frames differ by many dB, since the Hann window reacts faster.

    Args:
        x_0: log-mel in model space, shape (B, n_mels, frames).
        spec: rates and sizes.

    Returns:
        Shape (B, frames), in dB.
    """
    power = torch.pow(10.0, mel_db(x_0, spec) / 10).sum(dim=1)
    return 10 * torch.log10(power / 3 * _coverage(power, spec) + MEAN_SQUARE_FLOOR)


def _frame_mean(x: Tensor, spec: AudioSpec) -> Tensor:
    """Average `n_fft` samples around each frame's centre: (B, samples) → (B, frames)."""
    frames = x.shape[-1] // spec.hop
    blocks, rest = divmod(spec.n_fft, spec.hop)
    if rest or blocks % 2:
        pooled = avg_pool1d(x.unsqueeze(1), spec.n_fft, spec.hop, padding=spec.n_fft // 2)
        return pooled.squeeze(1)[:, :frames]
    # windows overlap, so adding up whole hops first saves most of the work
    padded = pad(x, (0, -x.shape[-1] % spec.hop)).unsqueeze(1)
    pooled = avg_pool1d(avg_pool1d(padded, spec.hop), blocks, 1, padding=blocks // 2)
    return pooled.squeeze(1)[:, :frames]


def _coverage(frames: Tensor, spec: AudioSpec) -> Tensor:
    """Return the share of each frame's window inside the clip: (B, frames) → (frames,)."""
    before = torch.arange(frames.shape[-1], device=frames.device) * spec.hop
    after = frames.shape[-1] * spec.hop - before
    half = spec.n_fft // 2
    return ((before.clamp(max=half) + after.clamp(max=half)) / spec.n_fft).to(frames.dtype)


@table()
def _window(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    window = torch.hann_window(spec.n_fft, periodic=True, dtype=torch.float64)
    return (window / (window.sum() / 2)).to(dtype).to(device)


@table()
def _filterbank(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Not transformers.audio_utils.mel_filter_bank: every vocoder needs this when it is loaded, and
    # importing transformers takes as long as importing PyTorch.
    edges = slaney_edges(0.0, spec.sample_rate / 2, spec.n_mels)
    filters = triangles(edges, spec.n_fft, spec.sample_rate)
    if not filters.any(axis=1).all():
        raise ValueError(
            f"{spec.n_mels} mels are too many for n_fft = {spec.n_fft}: a filter has no bin"
        )
    return torch.tensor(filters, dtype=dtype).to(device)


def slaney_edges(low: float, high: float, bands: int) -> np.ndarray:
    """Return where bands of Slaney's mel scale begin, are highest and end, in Hz: bands + 2."""
    return _mel_to_hz(np.linspace(_hz_to_mel(low), _hz_to_mel(high), bands + 2))


def triangles(edges: np.ndarray, n_fft: int, sample_rate: int) -> np.ndarray:
    """Return triangular filters of height 1 between edges in Hz: (edges - 2, n_fft // 2 + 1)."""
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


@table()
def _polynomial_fit(
    window: int, polyorder: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the projection of a window onto polynomials, shape (window, window).

    Row i gives the fitted value at frame i.
    """
    basis, _ = np.linalg.qr(np.vander(np.linspace(-1.0, 1.0, window), polyorder + 1))
    return torch.tensor(basis @ basis.T, dtype=dtype).to(device)


# Slaney's mel scale (Auditory Toolbox): 3 mels to 200 Hz up to 1 kHz, then 27 mels to each factor
# of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HZ:
        return hertz / _LINEAR_HZ_PER_MEL
    return _BREAK_MEL + float(np.log(hertz / _BREAK_HZ)) / _LOG_STEP


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ_PER_MEL, above)
