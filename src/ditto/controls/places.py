"""Which frames are on each beat of a rhythm, and which are around it.

A short clip's weights are one matrix, (beats, frames). Over a long song they are in blocks of a few
beats and the frames near them, so that memory grows with the length and not with its square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ditto.audio.spec import AudioSpec

NEAR, FAR = 0.02, 0.07
"""Seconds from a beat: the width of the bell in which its onset is heard, and where the frames
begin that it is compared with, as far as half-way to the next."""
BELL = 15 * NEAR
"""Seconds from a beat beyond which its bell is nothing in float32."""
WHOLE = 1 << 20
"""Most weights that are one matrix."""
BEATS = 16
"""Beats of a block otherwise."""
Rhythm = tuple[tuple[float, float], ...]
"""Beats, (seconds, strength)."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of some beats.

    Attributes:
        beats, frames: which, as slices.
        near: of the frames on each beat, (beats, frames), adding up to 1.
        around: of those around it, adding up to 1 with `rest`.
        rest: (beats,) what the clip's every frame counts besides, for a beat that is compared with
            the whole clip.
    """

    beats: slice
    frames: slice
    near: Tensor
    around: Tensor
    rest: Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """Where a rhythm's beats are in a clip.

    Attributes:
        blocks: the weights, of all beats in turn.
        frames: of the clip.
        strength: (beats,).
        centre: frame of each beat, (beats,).
    """

    blocks: tuple[Block, ...]
    frames: int
    strength: Tensor
    centre: Tensor

    def heights(self, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of an envelope (B, frames) on each beat and around it, (B, beats)."""
        near, around = [], []
        whole = envelope.sum(dim=1, keepdim=True) if len(self.blocks) > 1 else None
        for block in self.blocks:
            part = envelope[:, block.frames]
            near.append(part @ block.near.T.to(envelope))
            mean = part @ block.around.T.to(envelope)
            around.append(mean if whole is None else mean + whole * block.rest.to(envelope))
        return torch.cat(near, dim=1), torch.cat(around, dim=1)

    def bells(self) -> Tensor:
        """Return bells at the beats as high as they are strong, shape (frames,)."""
        found = torch.zeros(self.frames)
        for block in self.blocks:
            peak = block.near.amax(dim=1, keepdim=True).clamp(min=1e-9)
            bells = (block.near / peak * self.strength[block.beats, None]).amax(dim=0)
            found[block.frames] = torch.maximum(found[block.frames], bells)
        return found


def places(hits: Rhythm, frames: int, spec: AudioSpec) -> Places:
    """Return where the beats are in a clip of `frames` frames; there is at least one beat."""
    if len(hits) * frames <= WHOLE:
        return _kept(hits, frames, spec)
    return _places(hits, frames, spec, len(hits) * frames)


@lru_cache(maxsize=64)
def _kept(hits: Rhythm, frames: int, spec: AudioSpec) -> Places:
    return _places(hits, frames, spec, 0)


def _places(hits: Rhythm, frames: int, spec: AudioSpec, weights: int) -> Places:
    times = np.array([time for time, _ in hits])
    strengths = np.array([strength for _, strength in hits])
    lone = spec.seconds(frames)
    gaps = np.diff(times) if len(times) > 1 else np.zeros(0)
    before, after = (np.concatenate(ends) / 2 for ends in (([lone], gaps), (gaps, [lone])))
    centre = np.round(times * spec.frame_rate).astype(int).clip(0, frames - 1)
    # What a beat reaches; the first and the last reach far, and so are blocks of their own.
    low = np.floor((times - np.maximum(before, BELL)) * spec.frame_rate).astype(int) - 1
    high = np.ceil((times + np.maximum(after, BELL)) * spec.frame_rate).astype(int) + 2
    with torch.inference_mode(False):
        blocks = []
        for beats in _parts(len(times)) if weights > WHOLE else [slice(0, len(times))]:
            span = slice(0, frames)
            if weights > WHOLE:
                first, last = int(low[beats].min()), int(high[beats].max())
                span = slice(min(max(first, 0), frames - 1), min(max(last, 1), frames))
            at = np.arange(span.start, span.stop) / spec.frame_rate
            away = at - times[beats, None]
            parts = _weights(away, before[beats, None], after[beats, None], frames)
            blocks.append(Block(beats, span, *(torch.from_numpy(part) for part in parts)))
        strength = torch.tensor(strengths, dtype=torch.float32)
        return Places(tuple(blocks), frames, strength, torch.from_numpy(centre))


def _parts(count: int) -> Iterator[slice]:
    """Yield the beats of each block."""
    edges = [0, *range(1, count - 1, BEATS), count - 1, count]
    yield from (slice(a, b) for a, b in pairwise(edges) if a < b)


def _weights(
    away: np.ndarray, before: np.ndarray, after: np.ndarray, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `near`, `around` and `rest` of a block.

    Args:
        away: seconds of its frames from each beat, (beats, frames).
        before: seconds that each beat reaches back, (beats, 1).
        after: seconds that it reaches ahead, (beats, 1).
        frames: of the clip.
    """
    near = np.exp(-0.5 * (away / NEAR) ** 2)
    near /= near.sum(axis=1, keepdims=True).clip(min=1e-12)
    inside = np.where(away < 0, -away <= before, away <= after)
    free = (np.abs(away) > FAR) & inside
    # Hits in quick succession have nothing between them: they are compared with the whole clip.
    lone = ~free.any(axis=1, keepdims=True)
    bell = np.abs(away) <= NEAR
    if away.shape[1] == frames:
        free = np.where(lone, ~bell, free)
        around, rest = free / free.sum(axis=1, keepdims=True).clip(min=1), np.zeros((len(away), 1))
    else:
        count = np.where(lone, frames - bell.sum(axis=1, keepdims=True), free.sum(axis=1)[:, None])
        around = np.where(lone, -1.0 * bell, free) / count.clip(min=1)
        rest = lone / count.clip(min=1)
    return near.astype(np.float32), around.astype(np.float32), rest[:, 0].astype(np.float32)
