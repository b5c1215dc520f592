"""How well a CLAP tells music and texts apart, on held-out pieces: retrieval, zero-shot tags,
unrelated captions.

- ``recall_at_10_text``: share of captions whose own clip is among the 10 clips of highest cosine
  (chance: 10 / pairs); ``recall_at_10_audio`` the same for clips and captions; ``recall_at_1_*``
  likewise.
- ``genre_accuracy``, ``mood_accuracy``: share of clips whose nearest text of "a [tag] song" is
their own tag's.
- ``unrelated_cosine``, ``unrelated_cosine_max``: mean and highest cosine of two captions of other
genre and mood.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from ditto.data.captions import caption, template
from ditto.data.dataset import read_labels
from ditto.errors import DataError
from ditto.models.clap import Clap

Tag = str | None


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clips and their captions.

    Attributes:
        audio: (N, samples) float32.
        sample_rate: of the audio.
        captions: N texts, each telling all that is known of its clip.
        genres, moods: N tags.
    """

    audio: Tensor
    sample_rate: int
    captions: list[str]
    genres: list[Tag]
    moods: list[Tag]


def held_out_pairs(root: Path, *, seconds: float, count: int = 200, seed: int = 0) -> Pairs:
    """One clip from a random place of each of the first `count` pieces of a data folder.

    Raises:
        DataError: it is no data folder, or a piece is shorter than a clip.
    """
    pieces = read_labels(root)[:count]
    short = [piece["file"] for piece in pieces if piece["seconds"] < seconds + 0.1]
    if short:
        raise DataError(
            f"{root / short[0]} is shorter than a clip of {seconds:.2f} s: leave it out"
        )
    rng = np.random.default_rng(seed)
    starts = [float(rng.uniform(0, piece["seconds"] - seconds - 0.05)) for piece in pieces]
    sounds = [
        _clip(root, piece, start, seconds) for piece, start in zip(pieces, starts, strict=True)
    ]
    captions = [
        caption(piece, start, seconds, rng) for piece, start in zip(pieces, starts, strict=True)
    ]
    return Pairs(
        torch.stack([sound for sound, _ in sounds]),
        sounds[0][1],
        captions,
        [piece.get("genre") for piece in pieces],
        [piece.get("mood") for piece in pieces],
    )


@torch.no_grad()
def scores(clap: Clap, pairs: Pairs, batch_size: int = 16) -> dict[str, float]:
    """The measures above, and the number of pairs."""
    audio = torch.cat(
        [clap.embed_audio(part, pairs.sample_rate) for part in pairs.audio.split(batch_size)]
    )
    text = clap.embed_text(pairs.captions)
    cosines = text @ audio.mT
    found = {
        f"recall_at_{k}_{name}": recall(matrix, k)
        for name, matrix in (("text", cosines), ("audio", cosines.mT))
        for k in (1, 10)
    }
    found["genre_accuracy"] = zero_shot(clap, audio, pairs.genres, "genre")
    found["mood_accuracy"] = zero_shot(clap, audio, pairs.moods, "mood")
    unrelated = _unrelated(text, pairs)
    found["unrelated_cosine"] = unrelated.mean().item()
    found["unrelated_cosine_max"] = unrelated.max().item()
    return found | {"pairs": float(len(pairs.captions))}


def recall(cosines: Tensor, k: int) -> float:
    """Share of rows (N, N) whose diagonal entry is among their k highest; ties count against it."""
    own = cosines.diagonal()[:, None]
    others = (cosines >= own).sum(dim=1) - 1
    return (others < k).double().mean().item()


def zero_shot(clap: Clap, audio: Tensor, tags: list[Tag], kind: str) -> float:
    """Share of clips (N, D) whose tag, "genre" or "mood", is that of the nearest text "a [tag]
    song".
    """
    names = sorted({tag for tag in tags if tag})
    texts = [
        template(name, None, None) if kind == "genre" else template(None, name, None)
        for name in names
    ]
    nearest = (audio @ clap.embed_text(texts).mT).argmax(dim=1).tolist()
    return float(np.mean([names[i] == tag for i, tag in zip(nearest, tags, strict=True) if tag]))


def _unrelated(text: Tensor, pairs: Pairs) -> Tensor:
    """Cosines of captions whose pieces share neither genre nor mood."""
    genres, moods = (np.array(tags, dtype=object) for tags in (pairs.genres, pairs.moods))
    apart = (genres[:, None] != genres) & (moods[:, None] != moods)
    return (text @ text.mT)[torch.from_numpy(apart)]


def _clip(root: Path, piece: dict[str, Any], start: float, seconds: float) -> tuple[Tensor, int]:
    with soundfile.SoundFile(root / piece["file"]) as file:
        file.seek(int(start * file.samplerate))
        return torch.from_numpy(
            file.read(round(seconds * file.samplerate), dtype="float32")
        ), file.samplerate
