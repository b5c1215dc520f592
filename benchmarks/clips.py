"""The clips that benches measure: real ones from the held-out split, generated ones from a
model.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import read_mono
from ditto.audio.spec import AudioSpec
from ditto.data.dataset import read_labels, tags_of_label
from ditto.diffusion.samplers import Chain
from ditto.errors import DataError
from ditto.methods.ditto import decode
from ditto.methods.ditto2 import decode2, item_noise
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.paths import printable
from ditto.request import GAMMAS, draw_x_T


@dataclass(frozen=True, eq=False)
class RealClips:
    """Held-out clips in two halves that share no piece.

    Attributes:
        audio: (2 * N, samples) float32; the first N are one half.
        tags: (2 * N, 5) conditions.
        digest: hash over the pieces that they come from.
    """

    audio: Tensor
    tags: Tensor
    digest: str

    @property
    def count(self) -> int:
        """Clips in a half."""
        return len(self.audio) // 2


@dataclass(frozen=True, eq=False)
class Generated:
    """A batch from the model.

    Attributes:
        x_0: (B, 1, n_mels, frames).
        audio: (B, samples), as a user gets it.
    """

    x_0: Tensor
    audio: Tensor


def real_clips(
    root: Path, spec: AudioSpec, vocabulary: TagVocabulary, count: int, seed: int
) -> RealClips:
    """Two halves of `count` clips each, or as many as the split has, of `spec.clip_frames` frames.

    The pieces are shuffled and dealt to the halves; a piece gives its second clip, which does not
    overlap the first, only after every piece of its half has given one.

    Raises:
        DataError: fewer than two pieces are long enough, or a piece lacks a tag.
    """
    pieces = read_labels(root)
    fitting = [i for i, piece in enumerate(pieces) if _slots(piece, spec)]
    if len(fitting) < 2:
        raise DataError(
            f"{printable(root)} has {len(fitting)} pieces of {spec.clip_seconds:.2f} s: two halves need more"
        )
    if any(None in astuple(tags_of_label(piece))[:3] for piece in pieces):
        raise DataError(
            f"every piece of {printable(root)} needs a genre, a mood and a tempo to be judged by"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(fitting)
    halves = [_places(pieces, order[i::2].tolist(), spec, rng) for i in (0, 1)]
    size = min(count, *(len(half) for half in halves))
    chosen = halves[0][:size] + halves[1][:size]
    audio = _audio(root, pieces, chosen, spec)
    labels = [tags_of_label(pieces[i], slot * spec.clip_seconds) for i, slot in chosen]
    tags = torch.stack([vocabulary.encode(label) for label in labels])
    names = json.dumps([(pieces[i]["sha256"], slot) for i, slot in chosen])
    return RealClips(audio, tags, hashlib.sha256(names.encode()).hexdigest())


def drawn_tags(tags: Tensor, count: int, seed: int) -> Tensor:
    """Conditions (count, 5) drawn with replacement from the rows of `tags` (N, 5): their joint
    distribution.
    """
    rows = np.random.default_rng([seed, 1]).integers(len(tags), size=count)
    return tags[torch.from_numpy(rows)]


def chain_for(model: MusicModel, tags: Tensor, steps: int, guidance: float | None = None) -> Chain:
    """A chain of T = `steps` with one condition an item, (B, 5); guidance None is the model's
    default.
    """
    scale = model.guidance if guidance is None else guidance
    return Chain(model.denoiser, model.schedule, model.schedule.timesteps(steps), tags, scale)


@torch.no_grad()
def generated(
    model: MusicModel, tags: Tensor, first_seed: int, steps: int, guidance: float | None = None
) -> Generated:
    """Clips for conditions (B, 5) by DDIM; item i draws its x_T from ``first_seed + i``."""
    x_T = draw_x_T(model.shape(), first_seed, len(tags))
    x_0 = decode(x_T, chain_for(model, tags, steps, guidance))
    return Generated(x_0, model.to_audio(x_0))


@torch.no_grad()
def generated_by_student(model: MusicModel, tags: Tensor, first_seed: int, steps: int) -> Generated:
    """Clips of the same x_T by the model's student, with the γ of its kind and the model's default
    guidance.
    """
    assert model.student is not None
    assert model.distilled is not None
    x_T = draw_x_T(model.shape(), first_seed, len(tags))
    chain = replace(chain_for(model, tags, steps), denoiser=model.student)
    noise = item_noise(x_T.shape[1:], first_seed, len(tags), x_T.device)
    x_0 = decode2(x_T, chain, GAMMAS[model.distilled.kind], noise)
    return Generated(x_0, model.to_audio(x_0))


def weights_digest(model: MusicModel, *, student: bool = True) -> str:
    """The model's hash, or that without its `student`; for one that was never saved, one over its
    weights as they are.

    A model that was never saved has no student here. The digest says so where networks compute in
    less than float32.
    """
    low = "" if model.precision == torch.float32 else f" {model.precision}"
    if model.sha256:
        return (model.sha256 if student else model.base_sha256 or model.sha256) + low
    digest = hashlib.sha256()
    for part in (model.network, model.vocoder):
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest() + low


def _slots(piece: dict[str, Any], spec: AudioSpec) -> int:
    """How many clips a piece holds, one after the other."""
    return int(piece["seconds"] * spec.sample_rate) // spec.samples(spec.clip_frames)


def _places(
    pieces: list[dict[str, Any]], half: list[int], spec: AudioSpec, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(piece, slot) of all clips of the pieces `half`, one of every piece first."""
    orders = {i: rng.permutation(_slots(pieces[i], spec)) for i in half}
    longest = max(len(order) for order in orders.values())
    return [
        (i, int(order[k])) for k in range(longest) for i, order in orders.items() if k < len(order)
    ]


def _audio(
    root: Path, pieces: list[dict[str, Any]], chosen: Sequence[tuple[int, int]], spec: AudioSpec
) -> Tensor:
    """The chosen clips' samples, (N, samples) float32; every piece is decoded once."""
    size = spec.samples(spec.clip_frames)
    clips = torch.zeros(len(chosen), size)
    for i in sorted({piece for piece, _ in chosen}):
        whole = torch.from_numpy(read_mono(root / pieces[i]["file"], spec, require_sound=False))
        for row, (piece, slot) in enumerate(chosen):
            if piece == i:
                clips[row] = whole[slot * size : (slot + 1) * size]
    return clips
