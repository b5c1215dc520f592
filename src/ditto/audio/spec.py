"""Rates and sizes of audio and its log-mel spectrogram (DITTO, appendix K)."""

from dataclasses import dataclass
from math import isfinite

SPEC_LIMITS = {
    "sample_rate": (1000, 768_000),
    "n_fft": (2, 2**20),
    "hop": (1, 2**20),
    "n_mels": (1, 2**16),
    "clip_frames": (1, 2**24),
}
"""Ranges of the whole numbers of a spectrogram."""


@dataclass(frozen=True)
class AudioSpec:
    """Describe the log-mel x_0 of mono audio.

    A log-mel frame is ``10·log10`` of the mel power of a Hann-windowed STFT whose window is scaled
    so that a full-scale sine has power 1 (0 dB); the range ``[-dynamic_range_db, 0]`` dB maps
    linearly to [-1, 1]. Frame ``i`` is centred on sample ``i * hop``.
    """

    sample_rate: int = 22_050
    n_fft: int = 2048
    hop: int = 256
    n_mels: int = 160
    dynamic_range_db: float = 160.0
    clip_frames: int = 512

    def __post_init__(self) -> None:
        """Check rates and sizes: a model folder may say anything.

        Raises:
            ValueError: one is no number, or out of range.
        """
        for name, (low, high) in SPEC_LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}: {value!r}")
        if self.hop > self.n_fft or self.n_mels > self.n_fft:
            raise ValueError("hop and n_mels must be at most n_fft")
        decibels = self.dynamic_range_db
        if not isinstance(decibels, int | float) or not isfinite(decibels) or decibels <= 0:
            raise ValueError(f"dynamic_range_db must be a number above 0: {decibels!r}")

    @property
    def frame_rate(self) -> float:
        """Frames per second (86.13 by default)."""
        return self.sample_rate / self.hop

    @property
    def margin_frames(self) -> int:
        """Frames that half an STFT window reaches over (4 by default), rounded up."""
        return -(-self.n_fft // (2 * self.hop))

    @property
    def clip_seconds(self) -> float:
        """Length of the model's window in seconds (5.944 by default)."""
        return self.seconds(self.clip_frames)

    def frames(self, seconds: float) -> int:
        """Convert seconds to the nearest whole number of frames."""
        return round(seconds * self.frame_rate)

    def samples(self, frames: int) -> int:
        """Convert frames to samples."""
        return frames * self.hop

    def seconds(self, frames: int) -> float:
        """Convert frames to seconds."""
        return frames * self.hop / self.sample_rate
