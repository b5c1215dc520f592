"""A recording while it is edited: its samples, which of them are known, and filling the rest.

All positions are samples at the recording's own rate. Known samples are never changed, but for a
short cross-fade next to new ones. A recording may be long, so it is held once: what is overwritten
is kept besides, and nothing else grows with its length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from ditto.audio.io import check_format, holds_peaks, info, kept_subtype, read, read_tags
from ditto.audio.layout import Layout
from ditto.audio.limiter import CEILING, limited
from ditto.audio.spec import AudioSpec
from ditto.models.model import MusicModel
from ditto.paths import StrPath, printable

FADE_SECONDS = 0.1
"""Length of a cross-fade."""
SHORT_SECONDS = 0.5

Patch = tuple[int, np.ndarray]
"""Where samples lie that were overwritten, and what they were, shape (channels, n)."""

_DOUBLE = ("PCM_32", "DOUBLE")
"""Encodings that float32 cannot hold bit for bit."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Sound with gaps; `forget` and `fill` change it in place, since a recording may be long.

    Attributes:
        samples: shape (channels, n), ±1 at full scale; float64 where float32 would lose bits.
        known: given by the user, or filled already; an array (n,), bool, is taken too.
        sample_rate: in Hz.
        subtype: encoding of the file, as libsndfile names it; "" if there is no file.
        origin: where the recording itself begins, which beats are counted from.
        name: of the file.
        layout: what the file has besides its samples.
        path: of the file, absolute; "" if there is none.
        skipped: samples of the recording after `origin` that were left out.
        own: samples of the recording itself, from there on; -1 is all.
        overwritten: what was there of the recording before, in the order of writing.
        loudest: peak of the recording as it was read, by which it was said what becomes of it.
    """

    samples: np.ndarray
    known: "Known"
    sample_rate: int
    subtype: str = ""
    origin: int = 0
    name: str = ""
    layout: Layout = field(default_factory=Layout)
    path: str = ""
    skipped: int = 0
    own: int = -1
    overwritten: list[Patch] = field(default_factory=list)
    loudest: float = 0.0

    def __post_init__(self) -> None:
        """Keep what is known as spans."""
        if not isinstance(self.known, Known):
            object.__setattr__(self, "known", Known.of(self.known))
        if self.own < 0:
            object.__setattr__(self, "own", self.samples.shape[1])

    @classmethod
    def read(cls, path: StrPath) -> "Timeline":
        """Read a sound file, all of it known.

        Raises:
            AudioFileError: it cannot be read, or is silent.
        """
        about = info(path)
        audio = read(path, require_sound=True, double=about.subtype in _DOUBLE)
        return cls(
            audio.samples,
            Known(audio.samples.shape[1]),
            audio.sample_rate,
            about.subtype,
            name=Path(path).name,
            layout=Layout.of(path, read_tags(path)),
            path=str(Path(path).absolute()),
            loudest=_peak(audio.samples),
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

    @property
    def peak(self) -> float:
        """Largest magnitude of a sample, or of one of the recording that was read."""
        return max(self.loudest, _peak(self.samples))

    def block(self, start: int, end: int) -> np.ndarray:
        """Return the samples from `start` to `end`, as far as there are some; a view."""
        return self.samples[:, max(start, 0) : end]

    def extended(self, before: int, after: int) -> "Timeline":
        """Return the recording with that many unknown samples at its ends."""
        return replace(
            self,
            samples=np.pad(self.samples, ((0, 0), (before, after))),
            known=self.known.extended(before, after),
            origin=self.origin + before,
            overwritten=[(first + before, old) for first, old in self.overwritten],
        )

    def between(self, start: int, end: int) -> "Timeline":
        """Return a part of the recording, which shares its samples."""
        return replace(
            self,
            samples=self.samples[:, start:end],
            known=self.known.between(start, end),
            origin=self.origin - start,
            overwritten=[(first - start, old) for first, old in self.overwritten],
        )

    def forget(self, spans: Sequence[tuple[int, int]]) -> None:
        """Make some spans unknown, in place; their samples stay until they are filled."""
        for start, end in spans:
            self.known[start:end] = False

    def put(self, first: int, new: np.ndarray) -> None:
        """Overwrite samples from `first` on with new ones (channels, n); keep the recording's."""
        last = first + new.shape[1]
        start = self.origin + self.skipped
        low, high = max(first, start), min(last, start + self.own)
        if low < high:
            self.overwritten.append((low, self.samples[:, low:high].copy()))
        self.samples[:, first:last] = new

    @property
    def original(self) -> "Original":
        """The recording as it was."""
        return Original(self, self.origin + self.skipped, self.own)

    def restore(self, gaps: Sequence[tuple[int, int]], unfilled: Sequence[tuple[int, int]]) -> None:
        """Take back what was not filled of some gaps, in place, and fade into it from what was."""
        source = Original(self, 0, self.length)
        for start, end in unfilled:
            self.known[start:end] = True
            fade = min(self.at(FADE_SECONDS), end - start)
            for gap_start, gap_end in gaps:
                if gap_start < start < gap_end:
                    first = max(start - fade, gap_start)
                    new, old = self.samples[:, first:start], source.block(first, start)
                    self.put(first, crossfaded(new, old))
                if gap_start < end < gap_end:
                    last = min(end + fade, gap_end)
                    new, old = self.samples[:, end:last], source.block(end, last)
                    self.put(end, crossfaded(old, new))

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
        begin, end = max(first, 0), max(min(first + count, self.length), 0)
        mono = np.zeros(count, np.float32)
        if begin < end:
            known = self.known[begin:end]
            mono[begin - first : end - first] = self.samples[:, begin:end].mean(axis=0) * known
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
        return replace(
            self,
            samples=self.samples.copy(),
            known=self.known.copy(),
            overwritten=list(self.overwritten),
        )

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
        left = _run(known[max(first - fade, 0) : first][::-1], fade)
        right = _run(known[last : last + fade], fade)
        new = clip[:, first - left - start : last + right - start].astype(samples.dtype)
        if left:
            new[:, :left] = crossfaded(samples[:, first - left : first], new[:, :left])
        if right:
            new[:, -right:] = crossfaded(new[:, -right:], samples[:, last : last + right])
        self.put(first - left, limited(torch.from_numpy(new)).numpy())
        known[first:last] = True

    def spread(self, clip: np.ndarray, start: int) -> np.ndarray:
        """Return a clip (any channels, n) in the recording's channels, panned as it is there."""
        channels = len(self.samples)
        if len(clip) == channels:
            return clip
        mono = clip.mean(axis=0, keepdims=True)
        around = slice(max(start, 0), min(max(start + clip.shape[1], 0), self.length))
        there = self.samples[:, around][:, self.known[around]].astype(np.float64)
        if not there.size:
            return np.repeat(mono, channels, axis=0)
        loudness = np.sqrt((there**2).mean(axis=1))
        whole = np.sqrt((there.mean(axis=0) ** 2).mean())
        gains = np.clip(loudness / whole, 0, 2) if whole > 1e-6 else np.ones(channels)
        return (mono * gains[:, None]).astype(np.float32)

    def subtype_for(self, path: StrPath) -> str | None:
        """Return the encoding in which `path` keeps the samples best; None is its default."""
        return kept_subtype(path, self.subtype, self.peak)

    def gain_for(self, path: StrPath) -> float:
        """Return the gain by which `path` must hold all samples, since it holds none beyond ±1."""
        peak = self.peak
        return 1.0 if peak <= 1 or holds_peaks(path, self.subtype_for(path)) else CEILING / peak

    def notes_for(self, path: StrPath) -> list[str]:
        """Return what becomes of the recording's samples in the output, before any work.

        Raises:
            OutputError: `path` cannot hold sound of this rate and these channels.
        """
        check_format(path, len(self.samples), self.sample_rate, self.subtype_for(path))
        gain = self.gain_for(path)
        if gain == 1:
            return []
        return [
            f"{printable(self.name)} has a peak of {self.peak:.3g}, which "
            f"{Path(path).suffix.lower()} cannot hold: all of it becomes "
            f"{-20 * np.log10(gain):.1f} dB quieter; a .wav would keep it"
        ]


def _peak(samples: np.ndarray) -> float:
    return float(max(samples.max(initial=0), -samples.min(initial=0)))


@dataclass(frozen=True, eq=False)
class Original:
    """A recording as it was before it was edited, read out of the edited one.

    Attributes:
        edited: whose overwritten samples are put back.
        first: where the recording begins in it.
        length: number of samples.
    """

    edited: Timeline
    first: int
    length: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.edited.name

    @property
    def path(self) -> str:
        """Path of the file."""
        return self.edited.path

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.edited.sample_rate

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.length / self.sample_rate

    @property
    def samples(self) -> np.ndarray:
        """All samples, shape (channels, n): a copy."""
        return self.block(0, self.length)

    def block(self, start: int, end: int) -> np.ndarray:
        """Return the samples from `start` to `end`, shape (channels, n): a copy."""
        start, end = max(start, 0) + self.first, min(end, self.length) + self.first
        block = self.edited.samples[:, start:end].copy()
        for first, old in reversed(self.edited.overwritten):
            low, high = max(first, start), min(first + old.shape[1], end)
            if low < high:
                block[:, low - start : high - start] = old[:, low - first : high - first]
        return block


class Known:
    """Which samples of a recording are known, as the spans that are not.

    Read and set by slices like an array of bool, of which a long recording would need too much.
    """

    def __init__(self, length: int, unknown: Iterable[tuple[int, int]] = ()) -> None:
        self.length, self.unknown = length, sorted(unknown)

    @classmethod
    def of(cls, known: np.ndarray) -> "Known":
        """Return the spans of an array (n,), bool."""
        edges = np.flatnonzero(np.diff(np.concatenate([[1], known.astype(np.int8), [1]]))).tolist()
        return cls(len(known), zip(edges[::2], edges[1::2], strict=True))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, which: slice) -> np.ndarray:
        start, end, _ = which.indices(self.length)
        found = np.ones(max(end - start, 0), bool)
        for first, last in self.unknown:
            found[max(first - start, 0) : max(last - start, 0)] = False
        return found

    def __setitem__(self, which: slice, value: bool) -> None:
        start, end, _ = which.indices(self.length)
        left = [(a, min(b, start)) for a, b in self.unknown if a < start]
        right = [(max(a, end), b) for a, b in self.unknown if b > end]
        new = [(start, end)] if not value and start < end else []
        self.unknown = sorted([*left, *new, *right])

    def sum(self) -> int:
        """Count the known samples."""
        return self.length - sum(last - first for first, last in self.unknown)

    def any(self) -> bool:
        """Tell whether anything is known."""
        return self.sum() > 0

    def all(self) -> bool:
        """Tell whether everything is known."""
        return not self.unknown

    def copy(self) -> "Known":
        """Return a copy."""
        return Known(self.length, self.unknown)

    def extended(self, before: int, after: int) -> "Known":
        """Return the same with that many unknown samples at the ends."""
        moved = [(a + before, b + before) for a, b in self.unknown]
        ends = [(0, before)] * (before > 0)
        ends += [(self.length + before, self.length + before + after)] * (after > 0)
        return Known(self.length + before + after, [*moved, *ends])

    def between(self, start: int, end: int) -> "Known":
        """Return what is known of a part."""
        return Known.of(self[start:end])


def silence(model: MusicModel, seconds: float) -> Timeline:
    """Return a timeline of the model's rate and channels of which nothing is known."""
    length = round(seconds * model.spec.sample_rate)
    least = min(SHORT_SECONDS, model.spec.seconds(model.shape(None)[-1]))
    with torch.no_grad():
        short = torch.zeros(1, *model.shape(least), device=model.device)
        channels = model.to_sound(short).shape[1]
    return Timeline(
        np.zeros((channels, length), np.float32),
        Known(length, [(0, length)]),
        model.spec.sample_rate,
        own=0,
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
