"""Renders a composed piece to audio with a SoundFont, through tinysoundfont.

Tracks are synthesised at twice the target rate and resampled, because the synthesiser's linear
interpolation would fold everything above half the rate back into the sound. Then come room, tone,
level and the mix automation.
"""

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from scipy import fft

from ditto.composer.dynamics import gain_db
from ditto.composer.piece import Piece, Track
from ditto.errors import DataError

FloatArray = npt.NDArray[np.float32]

DEFAULT_SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
OVERSAMPLING = 2
PEAK = 10 ** (-1.0 / 20)
DRUM_CHANNEL = 9
HEADROOM_DB = -12.0
DARKEST_DB = -20.0
"""Automation at which the slope is steeper by all of the mix's `soft_tilt_db`."""


class Renderer:
    """A loaded SoundFont; load once per process (a large one takes a while) and render many pieces.

    Args:
        soundfont: an .sf2 file; None is Debian's FluidR3 GM.
        sample_rate: rate of the audio in Hz.

    Raises:
        DataError: tinysoundfont is not installed, or the SoundFont is missing or not one.
    """

    def __init__(self, soundfont: Path | None = None, sample_rate: int = 22_050) -> None:
        self.path = find_soundfont(soundfont)
        self.sample_rate = sample_rate
        synth_class = _synth_class()
        self._synth = synth_class(gain=HEADROOM_DB, samplerate=OVERSAMPLING * sample_rate)
        try:
            self._bank = self._synth.sfload(str(self.path))
        except RuntimeError as error:
            raise DataError(
                f"{self.path} is not a SoundFont that can be read: give an .sf2 file"
            ) from error

    def render(self, piece: Piece) -> FloatArray:
        """Render `piece`: mono float32, shape (round(seconds · sample_rate),), |x| ≤ −1 dBFS."""
        dry = self.dry(piece)
        return _automate(_room_and_tone(dry, piece, self.sample_rate), piece, self.sample_rate)

    def dry(self, piece: Piece) -> FloatArray:
        """Mix the tracks at their levels, before room, tone and automation."""
        length = round(piece.seconds * self.sample_rate)
        high = np.zeros(length * OVERSAMPLING, np.float32)
        pump = (
            _pump(piece, len(high), OVERSAMPLING * self.sample_rate) if piece.mix.pump_db else None
        )
        for track in piece.tracks:
            alone = self._play(track, len(high))
            if pump is not None and not track.is_drums:
                alone = alone * pump
            # Instruments of one SoundFont differ widely at one velocity, so each part is brought to
            # its level.
            high += alone * (10 ** (track.gain_db / 20) * 0.1 / max(_playing_rms(alone), 1e-5))
        audio = soxr.resample(high, OVERSAMPLING * self.sample_rate, self.sample_rate, quality="HQ")
        return np.asarray(audio[:length], np.float32)

    def _reset(self) -> None:
        """Back to silence and default channels, so that a part sounds the same whatever was played
        before.
        """
        self._synth.soundfonts[self._bank].reset()
        self._synth.generate_simple(OVERSAMPLING * self.sample_rate // 10)

    def _play(self, track: Track, length: int) -> FloatArray:
        """One track alone: mono, at the oversampled rate, shape (length,)."""
        self._reset()
        channel = DRUM_CHANNEL if track.is_drums else 0
        self._synth.program_select(channel, self._bank, 0, track.program, is_drums=track.is_drums)
        stereo = np.zeros((length, 2), np.float32)
        buffer = memoryview(stereo.data).cast("B")
        frame = stereo.itemsize * 2
        at = 0
        for sample, _, pitch, velocity in _events(track, OVERSAMPLING * self.sample_rate):
            sample = min(sample, length)
            if sample > at:
                self._synth.generate_simple(sample - at, buffer[at * frame : sample * frame])
                at = sample
            if velocity:
                self._synth.noteon(channel, pitch, velocity)
            else:
                self._synth.noteoff(channel, pitch)
        if at < length:
            self._synth.generate_simple(length - at, buffer[at * frame :])
        return (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)


def render(piece: Piece, soundfont: Path | None = None, sample_rate: int = 22_050) -> FloatArray:
    """Audio of one piece, mono float32, shape (samples,); loads the SoundFont anew (see `Renderer`
    for many pieces).

    Raises:
        DataError: as `Renderer`.
    """
    return Renderer(soundfont, sample_rate).render(piece)


def find_soundfont(path: Path | None = None) -> Path:
    """`path`, or the installed default.

    Raises:
        DataError: there is no such file.
    """
    chosen = path or DEFAULT_SOUNDFONT
    if chosen.is_file():
        return chosen
    hint = (
        ""
        if path
        else ": install the package fluid-soundfont-gm, or give an .sf2 file with --soundfont"
    )
    raise DataError(f"no SoundFont at {chosen}{hint}")


@lru_cache(maxsize=8)
def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synth_class() -> Any:
    try:
        from tinysoundfont import Synth
    except ImportError as error:
        message = "rendering needs tinysoundfont: pip install --no-deps tinysoundfont==0.3.7"
        raise DataError(message) from error
    return Synth


def _events(track: Track, rate: int) -> list[tuple[int, int, int, int]]:
    """(sample, on?, pitch, velocity) in playing order: at one sample the notes off come first."""
    events = []
    for n in track.notes:
        events.append((round(n.start * rate), 1, n.pitch, n.velocity))
        events.append((round((n.start + n.duration) * rate), 0, n.pitch, 0))
    return sorted(events)


def _playing_rms(audio: FloatArray, window: int = 4410) -> float:
    """Typical RMS of a part while it plays: the upper quartile of the windows within 40 dB of its
    loudest.
    """
    whole = audio[: len(audio) // window * window].reshape(-1, window)
    rms = np.sqrt(np.mean(whole.astype(np.float64) ** 2, axis=1))
    return float(np.quantile(rms[rms >= 0.01 * rms.max()], 0.75))


def _room_and_tone(dry: FloatArray, piece: Piece, rate: int) -> FloatArray:
    """Add an exponentially decaying diffuse tail and tilt the spectrum, in one pass.

    What is soft by the automation is a mix of that and of a version with a steeper slope.
    """
    mix = piece.mix
    impulse = _impulse(mix.reverb_seconds, rate)
    size = int(fft.next_fast_len(len(dry) + len(impulse) - 1, real=True) or 0)
    response = (1 - mix.wet) + mix.wet * np.asarray(fft.rfft(impulse, size))
    spectrum = (
        np.asarray(fft.rfft(dry.astype(np.float64), size))
        * response
        * _tilt(mix.tilt_db, size, rate)
    )
    bright = np.asarray(fft.irfft(spectrum, size), np.float64)[: len(dry)]
    if not mix.soft_tilt_db:
        return bright.astype(np.float32)
    dark = np.asarray(fft.irfft(spectrum * _tilt(mix.soft_tilt_db, size, rate), size), np.float64)[
        : len(dry)
    ]
    share = np.clip(gain_db(piece.dynamics, np.arange(len(dry)) / rate) / DARKEST_DB, 0.0, 1.0)
    return ((1 - share) * bright + share * dark).astype(np.float32)


def _impulse(seconds: float, rate: int) -> npt.NDArray[np.float64]:
    """Return unit-energy noise that falls by 60 dB in `seconds`, after a gap of 12 ms.

    The noise is the same for every piece.
    """
    count = max(int(seconds * rate), 64)
    noise = np.random.default_rng(0).standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    gap = np.zeros(int(0.012 * rate))
    return np.concatenate([gap, noise / np.linalg.norm(noise)])


def _tilt(db_per_octave: float, size: int, rate: int) -> npt.NDArray[np.float64]:
    """Return the amplitude response of a slope around 800 Hz.

    It is bounded to five octaves below and four above, and takes out DC.
    """
    frequency = np.maximum(fft.rfftfreq(size, 1 / rate), 25.0)
    octaves = np.clip(np.log2(frequency / 800.0), -5.0, 4.0)
    response = 10 ** (db_per_octave * octaves / 20)
    response[0] = 0.0
    return response


def _pump(piece: Piece, count: int, rate: int) -> FloatArray:
    """Return a gain that falls by the mix's `pump_db` on each beat and is back after 70 % of it."""
    beats = (np.arange(count, dtype=np.float64) / rate - piece.beat_offset) * piece.tempo / 60
    left = np.clip(1 - (beats % 1.0) / 0.7, 0.0, 1.0) ** 1.5
    return (10 ** (-piece.mix.pump_db * left / 20)).astype(np.float32)


def _automate(audio: FloatArray, piece: Piece, rate: int) -> FloatArray:
    """Apply level and automation: the loudest second has `mix.level_db` RMS.

    It has less if the peak would pass −1 dBFS.
    """
    times = np.arange(len(audio)) / rate
    shaped = audio * 10 ** (gain_db(piece.dynamics, times) / 20)
    loudest = _loudest_second(shaped, rate)
    if loudest <= 0:
        raise DataError(
            f"piece {piece.index} is silent with this SoundFont: it lacks the instruments of "
            "General MIDI"
        )
    gain = 10 ** (piece.mix.level_db / 20) / loudest
    peak = float(np.max(np.abs(shaped)))
    return (shaped * min(gain, PEAK / peak) * _edges(len(audio), rate)).astype(np.float32)


def _loudest_second(audio: npt.NDArray[np.float64], rate: int) -> float:
    energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    window = min(rate, len(audio))
    return math.sqrt(max(float(np.max(energy[window:] - energy[:-window])), 0.0) / window)


def _edges(count: int, rate: int) -> npt.NDArray[np.float64]:
    """Return fades of 5 ms in and 300 ms out, so that the file neither clicks nor breaks off."""
    t = np.arange(count) / rate
    return np.minimum(1.0, t / 0.005) * np.minimum(1.0, (count / rate - t) / 0.3)
