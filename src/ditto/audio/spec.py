"""Rates and sizes of audio and its log-mel spectrogram (DITTO, appendix K)."""

from dataclasses import dataclass


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
