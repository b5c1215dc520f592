"""A recording while it is edited: its samples, which of them are known, and filling the rest.

All positions are samples at the recording's own rate. Known samples are never changed, but for a
short cross-fade next to new ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from ditto.audio.io import SUBTYPES, info, read, read_tags
from ditto.audio.layout import Layout
from ditto.audio.limiter import limited
from ditto.audio.spec import AudioSpec
from ditto.models.model import MusicModel
from ditto.paths import StrPath, found_path

FADE_SECONDS = 0.1
"""Length of a cross-fade."""
SHORT_SECONDS = 0.5

_DOUBLE = ("PCM_32", "DOUBLE")
"""Encodings that float32 cannot hold bit for bit."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Sound with gaps; `forget` and `fill` change it in place, since a recording may be long.

    Attributes:
        samples: shape (channels, n), ±1 at full scale; float64 where float32 would lose bits.
        known: shape (n,), bool: given by the user, or filled already.
        sample_rate: in Hz.
        subtype: encoding of the file, as libsndfile names it; "" if there is no file.
        origin: where the recording itself begins, which beats are counted from.
        name: of the file.
        layout: what the file has besides its samples.
    """

    samples: np.ndarray
    known: np.ndarray
    sample_rate: int
    subtype: str = ""
    origin: int = 0
    name: str = ""
    layout: Layout = field(default_factory=Layout)

    @classmethod
    def read(cls, path: StrPath) -> "Timeline":
        """Read a sound file, all of it known.

        Raises:
            AudioFileError: it cannot be read, or is silent.
        """
        about = info(path)
        audio = read(path, require_sound=True)
        samples = audio.samples
        if about.subtype in _DOUBLE:
            whole, _ = soundfile.read(found_path(path), dtype="float64", always_2d=True)
            samples = np.ascontiguousarray(whole.T)
        return cls(
            samples,
            np.ones(samples.shape[1], bool),
            audio.sample_rate,
            about.subtype,
            name=Path(path).name,
            layout=Layout.of(path, read_tags(path)),
        )

    @property
    def length(self) -> int:
        """Number of samples."""
        return self.samples.shape[1]

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.length / self.sample_rate

    def at(self, seconds: float) -> int:
        """Return the sample at a time in seconds."""
        return round(seconds * self.sample_rate)

    def extended(self, before: int, after: int) -> "Timeline":
        """Return the recording with that many unknown samples at its ends."""
        return replace(
            self,
            samples=np.pad(self.samples, ((0, 0), (before, after))),
            known=np.pad(self.known, (before, after)),
            origin=self.origin + before,
        )

    def between(self, start: int, end: int) -> "Timeline":
        """Return a part of the recording, which shares its samples."""
        return replace(
            self,
            samples=self.samples[:, start:end],
            known=self.known[start:end],
            origin=self.origin - start,
        )

    def forget(self, spans: Sequence[tuple[int, int]]) -> None:
        """Make some spans unknown, in place."""
        for start, end in spans:
            self.known[start:end] = False

    def heard(self, start: int, frames: int, margin: int, spec: AudioSpec) -> Tensor:
        """Return the sound around some frames as the model hears it: mono, at its rate.

        Args:
            start: sample where the frames begin.
            frames: of the model.
            margin: frames more, before and after.
            spec: of the model.

        Returns:
            Shape ((frames + 2·margin)·hop,); silence in gaps and beyond the recording's ends.
        """
        ratio = self.sample_rate / spec.sample_rate
        first = start - round(margin * spec.hop * ratio)
        size = spec.samples(frames + 2 * margin)
        # A little more than is needed, since the resampler needs room at its ends.
        count = round(size * ratio) + 64
        indices = np.arange(first, first + count)
        inside = (indices >= 0) & (indices < self.length)
        mono = np.zeros(count, np.float32)
        mono[inside] = self.samples[:, indices[inside]].mean(axis=0) * self.known[indices[inside]]
        there = soxr.resample(mono, self.sample_rate, spec.sample_rate, quality="VHQ")[:size]
        return torch.from_numpy(np.pad(there, (0, size - len(there))).astype(np.float32))

    def known_frames(self, start: int, frames: int, spec: AudioSpec) -> np.ndarray:
        """Return which of `frames` frames from `start` see known samples only, (frames,) bool."""
        ratio = self.sample_rate / spec.sample_rate
        centres = start + np.arange(frames) * spec.hop * ratio
        half = spec.n_fft / 2 * ratio
        first, last = np.floor(centres - half).astype(int), np.ceil(centres + half).astype(int)
        inside = (first >= 0) & (last <= self.length)
        first, last = first.clip(0, self.length), last.clip(0, self.length)
        # Counted near the frames alone: a recording may be long.
        begin = int(first.min(initial=self.length))
        total = np.concatenate([[0], np.cumsum(self.known[begin : int(last.max(initial=0))])])
        return inside & (total[last - begin] - total[first - begin] == last - first)

    def copied(self) -> "Timeline":
        """Return a copy with samples of its own."""
        return replace(self, samples=self.samples.copy(), known=self.known.copy())

    def fade_out(self, seconds: float) -> None:
        """Fade the last seconds out, in place, along half a cosine."""
        count = min(self.at(seconds), self.length)
        ramp = 0.5 + 0.5 * np.cos(np.pi * (np.arange(count) + 1) / max(count, 1))
        self.samples[:, self.length - count :] *= ramp.astype(self.samples.dtype)

    def fill(self, gap: tuple[int, int], clip: np.ndarray, start: int, fade: int) -> None:
        """Fill a gap, in place, from a clip (channels, n) that begins at sample `start`.

        Where the samples next to the gap are known, the clip fades in over the last `fade` samples
        before it and out over the first after it.
        """
        samples, known = self.samples, self.known
        first, last = gap
        left, right = _run(self.known[:first][::-1], fade), _run(self.known[last:], fade)
        new = clip[:, first - left - start : last + right - start].astype(samples.dtype)
        if left:
            new[:, :left] = crossfaded(samples[:, first - left : first], new[:, :left])
        if right:
            new[:, -right:] = crossfaded(new[:, -right:], samples[:, last : last + right])
        samples[:, first - left : last + right] = limited(torch.from_numpy(new)).numpy()
        known[first:last] = True

    def spread(self, clip: np.ndarray, start: int) -> np.ndarray:
        """Return a clip (any channels, n) in the recording's channels, panned as it is there."""
        channels = len(self.samples)
        if len(clip) == channels:
            return clip
        mono = clip.mean(axis=0, keepdims=True)
        around = slice(max(start, 0), max(start + clip.shape[1], 0))
        there = self.samples[:, around][:, self.known[around]].astype(np.float64)
        if not there.size:
            return np.repeat(mono, channels, axis=0)
        loudness = np.sqrt((there**2).mean(axis=1))
        whole = np.sqrt((there.mean(axis=0) ** 2).mean())
        gains = np.clip(loudness / whole, 0, 2) if whole > 1e-6 else np.ones(channels)
        return (mono * gains[:, None]).astype(np.float32)

    def subtype_for(self, path: StrPath) -> str | None:
        """Return the encoding in which `path` keeps the samples best; None is its default."""
        container = SUBTYPES[Path(path).suffix.lower()][0]
        if self.subtype and self.subtype in soundfile.available_subtypes(container):
            return self.subtype
        if (
            container == "WAV"
            and max(self.samples.max(initial=0), -self.samples.min(initial=0)) > 1
        ):
            return "FLOAT"
        return "PCM_24" if container in ("WAV", "FLAC") and self.subtype else None


def silence(model: MusicModel, seconds: float) -> Timeline:
    """Return a timeline of the model's rate and channels of which nothing is known."""
    length = round(seconds * model.spec.sample_rate)
    least = min(SHORT_SECONDS, model.spec.seconds(model.shape(None)[-1]))
    with torch.no_grad():
        short = torch.zeros(1, *model.shape(least), device=model.device)
        channels = model.to_sound(short).shape[1]
    return Timeline(
        np.zeros((channels, length), np.float32), np.zeros(length, bool), model.spec.sample_rate
    )


def _run(known: np.ndarray, longest: int) -> int:
    """Return how many of the first `longest` are known without a break."""
    stretch = known[:longest]
    return len(stretch) if not len(stretch) or stretch.all() else int(np.argmin(stretch))


def crossfaded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Fade from one sound into another, both (channels, n), with constant power.

    Linear ramps would lose up to 3 dB between sounds that have nothing to do with each other, and
    ramps of equal power gain as much between equal ones: so the ramps are scaled by what the
    sounds' correlation makes of them.
    """
    count = before.shape[1]
    ramp = (np.arange(count) + 0.5) / count
    a, b = before.mean(axis=0).astype(np.float64), after.mean(axis=0).astype(np.float64)
    rho = float(np.clip((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum() + 1e-20), 0.0, 1.0))
    scale = 1 / np.sqrt((1 - ramp) ** 2 + ramp**2 + 2 * rho * ramp * (1 - ramp))
    return (before * ((1 - ramp) * scale) + after * (ramp * scale)).astype(before.dtype)


def clip_at_rate(sound: Tensor, model: MusicModel, sample_rate: int) -> np.ndarray:
    """Return a clip (channels, n) or (n,) of the model at another rate: (channels, n'), float32."""
    samples = np.atleast_2d(sound.numpy()).astype(np.float32)
    if sample_rate == model.spec.sample_rate:
        return samples
    resampled = soxr.resample(
        np.ascontiguousarray(samples.T), model.spec.sample_rate, sample_rate, quality="VHQ"
    )
    return np.ascontiguousarray(np.atleast_2d(resampled.T), dtype=np.float32)
