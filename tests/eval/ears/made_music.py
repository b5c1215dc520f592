"""Sounds with known notes."""

import numpy as np

TUNE = [
    (0.25 + 0.6 * i, 0.5, pitch) for i, pitch in enumerate((60, 64, 67, 69, 67, 65, 62, 64, 72))
]
"""Start in seconds, seconds, MIDI pitch; 5.94 s hold all of it."""
SAMPLES = 131_072


def played(tune: list[tuple[float, float, int]] = TUNE, rate: int = 22_050) -> np.ndarray:
    """Plucked tones of eight harmonics, (samples,) float32 of 5.94 s."""
    audio = np.zeros(round(SAMPLES * rate / 22_050))
    for start, seconds, pitch in tune:
        t = np.arange(round(seconds * rate)) / rate
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        tone = sum(np.sin(2 * np.pi * k * hertz * t) / k**1.5 for k in range(1, 9))
        envelope = np.exp(-3 * t) * np.clip(np.minimum(t, seconds - t) / 0.005, 0, 1)
        first = round(start * rate)
        audio[first : first + len(t)] += 0.3 * tone * envelope
    return audio.astype(np.float32)


def clicks(bpm: float, rate: int = 22_050, seconds: float = 6.0) -> np.ndarray:
    """Short bursts of noise on every beat, over faint noise."""
    rng = np.random.default_rng(0)
    audio = 1e-3 * rng.standard_normal(round(rate * seconds))
    burst = rng.standard_normal(rate // 20) * np.exp(-np.arange(rate // 20) / (rate / 100))
    for beat in np.arange(0.1, seconds - 0.1, 60 / bpm):
        audio[round(beat * rate) :][: len(burst)] += 0.5 * burst
    return audio.astype(np.float32)
