"""Quality of a CLAP on held-out pieces: retrieval, zero-shot tags, unrelated captions.

- ``recall_at_k_text`` (k = 1, 10): share of captions whose own clip is among the k clips of highest
  cosine (chance: k / pairs); ``recall_at_k_audio``: the same from clips to captions.
- ``genre_accuracy``, ``mood_accuracy``: share of clips whose nearest text "a [tag] song" names
  their tag.
- ``unrelated_cosine``, ``unrelated_cosine_max``: mean and highest cosine of two captions that
  differ in genre and mood.

What no pair tells of is left out: of music without tags the last two lines.
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
from ditto.data.files import read_errors
from ditto.errors import DataError
from ditto.models.clap import Clap

Tag = str | None


@dataclass(frozen=True, eq=False)
class Pairs:
    """Hold clips and their captions.

    Attributes:
        audio: (N, samples) float32.
        sample_rate: of the audio, in Hz.
        captions: N texts with all facts of their clips.
        genres, moods: N tags.
    """

    audio: Tensor
    sample_rate: int
    captions: list[str]
    genres: list[Tag]
    moods: list[Tag]


def held_out_pairs(root: Path, *, seconds: float, count: int = 200, seed: int = 0) -> Pairs:
    """Cut a clip of `seconds` at random from each of the first `count` pieces of a data folder.

    Raises:
        DataError: the folder is not a data set, or a piece is shorter than a clip.
    """
    pieces = read_labels(root)[:count]
    for piece in pieces:
        if piece["seconds"] < seconds + 0.1:
            raise DataError(
                f"{root / piece['file']} is shorter than a clip of {seconds:.2f} s: leave it out"
            )
    rng = np.random.default_rng(seed)
    starts = [float(rng.uniform(0, piece["seconds"] - seconds - 0.05)) for piece in pieces]
    places = list(zip(pieces, starts, strict=True))
    clips = [_clip(root, piece, start, seconds) for piece, start in places]
    return Pairs(
        audio=torch.stack([audio for audio, _ in clips]),
        sample_rate=clips[0][1],
        captions=[caption(piece, start, seconds, rng) for piece, start in places],
        genres=[piece.get("genre") for piece in pieces],
        moods=[piece.get("mood") for piece in pieces],
    )


@torch.no_grad()
def scores(clap: Clap, pairs: Pairs, batch_size: int = 16) -> dict[str, float]:
    """Compute the module's measures, and ``pairs``, their number."""
    audio = torch.cat(
        [clap.embed_audio(part, pairs.sample_rate) for part in pairs.audio.split(batch_size)]
    )
    text = clap.embed_text(pairs.captions)
    cosines = text @ audio.mT
    unrelated = _unrelated(text, pairs)
    tags = {"genre": pairs.genres, "mood": pairs.moods}
    found = {
        f"{kind}_accuracy": zero_shot(clap, audio, names, kind)
        for kind, names in tags.items()
        if any(names)
    }
    if len(unrelated):
        found |= {
            "unrelated_cosine": unrelated.mean().item(),
            "unrelated_cosine_max": unrelated.max().item(),
        }
    return {
        **{f"recall_at_{k}_text": recall(cosines, k) for k in (1, 10)},
        **{f"recall_at_{k}_audio": recall(cosines.mT, k) for k in (1, 10)},
        **found,
        "pairs": float(len(pairs.captions)),
    }


def recall(cosines: Tensor, k: int) -> float:
    """Return the share of rows (N, N) with the diagonal among the k highest; ties rank it last."""
    higher = (cosines >= cosines.diagonal()[:, None]).sum(dim=1) - 1
    return (higher < k).double().mean().item()


def zero_shot(clap: Clap, audio: Tensor, tags: list[Tag], kind: str) -> float:
    """Return the share of clips (N, D) whose tag is that of the nearest text "a [tag] song".

    Args:
        clap: embeds the texts.
        audio: embeddings of the clips, (N, D).
        tags: N tags; clips without one are not counted.
        kind: "genre" or "mood".
    """
    names = sorted({tag for tag in tags if tag})
    texts = [
        template(name, None, None) if kind == "genre" else template(None, name, None)
        for name in names
    ]
    nearest = (audio @ clap.embed_text(texts).mT).argmax(dim=1).tolist()
    return float(np.mean([names[i] == tag for i, tag in zip(nearest, tags, strict=True) if tag]))


def _unrelated(text: Tensor, pairs: Pairs) -> Tensor:
    """Compute the cosines of captions whose pieces share neither genre nor mood."""
    genres, moods = (np.array(tags, dtype=object) for tags in (pairs.genres, pairs.moods))
    unrelated = (genres[:, None] != genres) & (moods[:, None] != moods)
    return (text @ text.mT)[torch.from_numpy(unrelated)]


def _clip(root: Path, piece: dict[str, Any], start: float, seconds: float) -> tuple[Tensor, int]:
    sound = root / piece["file"]
    with read_errors(sound), soundfile.SoundFile(sound) as file:
        file.seek(int(start * file.samplerate))
        samples = file.read(round(seconds * file.samplerate), dtype="float32")
        return torch.from_numpy(samples), file.samplerate
