"""A differentiable, batched replacement for `transformers.ClapFeatureExtractor`.

The extractor works on numpy arrays one by one and crops long sounds at random. Here everything is
torch, batched and deterministic: a sound that is longer than CLAP's window is cut into evenly
spaced windows that cover it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from ditto.audio.features import mel_db, mel_filterbank, slaney_edges, triangles, without_autocast
from ditto.audio.spec import SPEC_LIMITS, AudioSpec
from ditto.tables import table, widened

Padding = Literal["repeatpad", "repeat", "pad"]
FLOOR = 1e-10
"""Mel powers are raised to this: -100 dB."""
LONGEST = 600
"""Seconds of the longest window; published ones have 10."""


@dataclass(frozen=True)
class ClapFrontEnd:
    """The settings of a `ClapFeatureExtractor`, as a function of audio.

    Attributes:
        sample_rate: CLAP's own rate in Hz; other rates are resampled.
        n_fft, hop: STFT window and step in samples.
        n_mels: mel bands from `low_hz` to `high_hz`.
        seconds: length of CLAP's window.
        fusion: whether the extractor's truncation is "fusion" (four equal channels and HTK's mel
            scale) or "rand_trunc" (one channel, Slaney's).
        padding: how a shorter sound fills the window, on which the embedding depends: "repeatpad"
            (whole repeats, then silence), "repeat" (repeats, the last one cut) or "pad" (silence).
    """

    sample_rate: int = 48_000
    n_fft: int = 1024
    hop: int = 480
    n_mels: int = 64
    low_hz: float = 0.0
    high_hz: float = 14_000.0
    seconds: int = 10
    fusion: bool = False
    padding: Padding = "repeatpad"

    def __post_init__(self) -> None:
        """Check rates and sizes: a folder may say anything.

        Raises:
            ValueError: one is no number, or out of range.
        """
        limits = {name: SPEC_LIMITS[name] for name in ("sample_rate", "n_fft", "hop", "n_mels")}
        for name, (low, high) in (limits | {"seconds": (1, LONGEST)}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}: {value!r}")
        if not 0 <= self.low_hz < self.high_hz < math.inf:
            raise ValueError(f"there are no bands from {self.low_hz} to {self.high_hz} Hz")
        if self.hop > self.n_fft or self.n_mels > self.n_fft or self.n_fft >= 2 * self.samples:
            raise ValueError("hop and n_mels must be at most n_fft, and half of that the window")
        if self.padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {', '.join(get_args(Padding))}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "ClapFrontEnd":
        """Make one from a ``preprocessor_config.json``, with the extractor's defaults.

        Raises:
            ValueError, TypeError, AttributeError: there is none of these settings.
        """
        names = {
            "sample_rate": "sampling_rate",
            "n_fft": "fft_window_size",
            "hop": "hop_length",
            "n_mels": "feature_size",
            "low_hz": "frequency_min",
            "high_hz": "frequency_max",
            "seconds": "max_length_s",
            "padding": "padding",
        }
        fields = {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
        return cls(**fields, fusion=settings.get("truncation", "fusion") == "fusion")

    @property
    def samples(self) -> int:
        """Length of the window in samples."""
        return self.seconds * self.sample_rate

    @property
    def frames(self) -> int:
        """Length of the window in frames."""
        return self.samples // self.hop + 1

    def __call__(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Compute the log-mels in dB of the windows that cover the audio.

        Args:
            audio: shape (B, samples), ±1 at full scale.
            sample_rate: of the audio, in Hz.

        Returns:
            Shape (B, windows, channels, frames, n_mels), float32 (float64 for float64 audio), at
            least -100 dB.
        """
        with without_autocast(audio.device):
            wide = audio if audio.dtype == torch.float64 else audio.float()
            return self.decibels(self.windows(resample(wide, sample_rate, self.sample_rate)))

    def windows(self, audio: Tensor) -> Tensor:
        """Cut audio (B, n) at CLAP's rate into windows (B, windows, samples), padded if short."""
        length = audio.shape[-1]
        if length <= self.samples:
            return self._filled(audio)[:, None]
        starts = (
            np.linspace(0, length - self.samples, math.ceil(length / self.samples))
            .round()
            .astype(int)
        )
        return torch.stack([audio[:, start : start + self.samples] for start in starts], dim=1)

    def decibels(self, audio: Tensor) -> Tensor:
        """Compute log-mels (..., channels, frames, n_mels) of audio (..., n) at CLAP's rate.

        n must be above n_fft / 2.
        """
        flat = audio.reshape(-1, audio.shape[-1])
        # Within a float32 FFT, loud tones leave more than the floor in all other bins.
        wide = widened(flat)
        spectrum = torch.stft(
            wide,
            self.n_fft,
            self.hop,
            window=_window(self.n_fft, wide.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        # not abs().square(): this has a finite gradient at zero
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.mT @ _filters(self, wide.device)
        levels = (10 * torch.log10(mel.clamp(min=FLOOR))).to(audio.dtype).to(audio.device)
        return levels.unflatten(0, audio.shape[:-1])[..., None, :, :].expand(
            *audio.shape[:-1], 4 if self.fusion else 1, *levels.shape[-2:]
        )

    def of_mel(self, mel: Tensor, spec: AudioSpec) -> Tensor:
        """Estimate the log-mels of the sound of another log-mel, without a vocoder.

        Powers of the other's bands are taken as at their centres, and interpolated in time; a
        longer window than CLAP's own smears onsets.

        Args:
            mel: in model space, shape (B, n_mels, frames).
            spec: of the mel.

        Returns:
            As `__call__` of the sound, of the mel's dtype.
        """
        power = torch.pow(10.0, mel_db(mel, spec) / 10).mT @ _bands(self, spec, mel.device)
        frame, share, sounds = _frames(self, spec, mel.shape[-1], mel.device)
        # A clip of one frame is held.
        later = (frame + 1).clamp(max=mel.shape[-1] - 1)
        between = power[:, frame] * (1 - share) + power[:, later] * share
        levels = 10 * torch.log10((between * sounds).clamp(min=FLOOR))
        channels = 4 if self.fusion else 1
        return levels[:, :, None].expand(-1, -1, channels, -1, -1).to(mel.dtype)

    def _filled(self, audio: Tensor) -> Tensor:
        repeats = self.samples // audio.shape[-1]
        if self.padding == "repeat":
            return audio.repeat(1, repeats + 1)[:, : self.samples]
        if self.padding == "repeatpad":
            audio = audio.repeat(1, repeats)
        return pad(audio, (0, self.samples - audio.shape[-1]))


def resample(audio: Tensor, source: int, target: int) -> Tensor:
    """Resample (B, n) from `source` to `target` Hz, differentiably: (B, ceil(n·target / source)).

    A polyphase filter as one strided convolution, equal to ``scipy.signal.resample_poly(audio,
    target, source)``.
    """
    if source == target:
        return audio
    common = math.gcd(source, target)
    up, down = target // common, source // common
    kernel, margin = _polyphase(up, down, audio.dtype, audio.device)
    length = -(-audio.shape[-1] * up // down)
    blocks = -(-length // up)
    needed = (blocks - 1) * down + kernel.shape[-1]
    padded = pad(audio, (margin, max(0, needed - margin - audio.shape[-1])))
    phases = conv1d(padded[:, None, :needed], kernel, stride=down)
    return phases.mT.flatten(1)[:, :length]


@table(maxsize=8)
def _window(n_fft: int, device: torch.device) -> Tensor:
    """Return the Hann window, float64."""
    return torch.hann_window(n_fft, dtype=torch.float64).to(device)


@table(maxsize=8)
def _polyphase(up: int, down: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Return the kernel (up, 1, taps), a row per output phase, and the samples it reaches back."""
    # scipy's firwin by numpy alone: scipy.signal is slow to import.
    half = 10 * max(up, down)
    taps = np.kaiser(2 * half + 1, 5.0) * np.sinc(np.arange(-half, half + 1) / max(up, down))
    taps *= up / taps.sum()
    margin = math.ceil(half / up)
    outputs, inputs = np.arange(up)[:, None], np.arange(-margin, down + margin + 1)
    index = outputs * down - inputs * up + half
    inside = (index >= 0) & (index <= 2 * half)
    kernel = np.where(inside, taps[index.clip(0, 2 * half)], 0.0)
    return torch.tensor(kernel[:, None], dtype=dtype).to(device), margin


@table(maxsize=8)
def _filters(front_end: ClapFrontEnd, device: torch.device) -> Tensor:
    """Return the extractor's own mel filters (n_fft // 2 + 1, n_mels), float64.

    They are those of transformers' ``mel_filter_bank``, which is slow to import.
    """
    bands, low, high = front_end.n_mels, front_end.low_hz, front_end.high_hz
    if front_end.fusion:
        lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (low, high))
        mels = np.linspace(lowest, highest, bands + 2)
        edges = 700 * (10 ** (mels / 2595) - 1)
    else:
        edges = slaney_edges(low, high, bands)
    filters = triangles(edges, front_end.n_fft, front_end.sample_rate)
    if not front_end.fusion:  # of equal area
        filters *= 2 / (edges[2:] - edges[:-2])[:, None]
    return torch.tensor(filters.T, dtype=torch.float64).to(device)


@table()
def _bands(front_end: ClapFrontEnd, spec: AudioSpec, device: torch.device) -> Tensor:
    """Return the power in each of CLAP's bands of a tone at the centre of each other band.

    Shape (spec.n_mels, n_mels), float32. A full-scale tone has power 1 in a bin of a log-mel, and
    the square of half the window's sum in CLAP's.
    """
    filters = mel_filterbank(spec, dtype=torch.float64)
    bins = torch.arange(filters.shape[1], dtype=torch.float64) * (spec.sample_rate / spec.n_fft)
    centres = ((filters @ bins) / filters.sum(dim=1)).numpy()
    own = np.arange(front_end.n_fft // 2 + 1) * (front_end.sample_rate / front_end.n_fft)
    theirs = _filters(front_end, torch.device("cpu")).numpy().T
    weights = np.stack([np.interp(centres, own, band, right=0.0) for band in theirs], axis=1)
    return torch.tensor(weights * (front_end.n_fft / 4) ** 2).float().to(device)


@table()
def _frames(
    front_end: ClapFrontEnd, spec: AudioSpec, frames: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where CLAP's frames lie among a mel's: frame before, share of the next, any sound.

    Shapes (windows, frames), (windows, frames, 1) and (windows, frames, 1). Padding is told by what
    the front end does to a sound that counts its own samples.
    """
    length = -(-spec.samples(frames) * front_end.sample_rate // spec.sample_rate)
    counted = torch.arange(1, length + 1, dtype=torch.float64)[None]
    windows = front_end.windows(counted)[0]
    windows = torch.cat([windows, windows[:, -1:]], dim=1)
    centre = windows[:, :: front_end.hop][:, : front_end.frames]
    place = (centre - 1) * (spec.sample_rate / (front_end.sample_rate * spec.hop))
    place = place.clamp(0, frames - 1)
    before = place.floor().long()
    share, sounds = (place - before)[..., None].float(), (centre > 0)[..., None].float()
    return before.to(device), share.to(device), sounds.to(device)
