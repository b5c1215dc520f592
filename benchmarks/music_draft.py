"""Real, vocoded and generated clips as the foreign ears hear them: a draft of the table "music".

    python -m benchmarks.music_draft --heldout data/heldout --count 32

The held-out pieces are parted by genre: of the first half come the probe's training clips and the
reference of the Fréchet distances; of the second half the real clips that are judged, one a piece,
and others for the floor. Vocoded and generated clips have the tags of the real ones.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ditto
from ditto.audio.io import read_mono
from ditto.audio.spec import AudioSpec
from ditto.data.dataset import read_labels, tags_of_label
from ditto.eval.bootstrap import mean_interval
from ditto.eval.ears import Ears, hear, load_ears
from ditto.eval.ears.distance import WhitenedReference
from ditto.eval.ears.genre import fit_probe, per_clip
from ditto.eval.ears.tempo import tempo_hits

Heard = dict[str, NDArray[Any]]
Piece = dict[str, Any]
EMBEDDINGS = ("msd", "mtt")
COLUMNS = (
    "clips",
    *("genre by msd", "by mtt", "by both (95 %)"),
    *("Fréchet ÷ floor msd", "mtt"),
    *("notes a second", "onset peak", "contrast dB (off by)", "peaks dB (off by)"),
    *("tempo", "with octaves", "by chance"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", type=Path, default=Path("data/heldout"))
    parser.add_argument("--model", help="folder of a model; the embedded one by default")
    parser.add_argument("--count", type=int, default=32, help="clips a row")
    parser.add_argument("--clips", type=int, default=2, help="clips of each reference piece")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    model, ears = ditto.load(options.model), load_ears()
    spec, rate = model.spec, model.spec.sample_rate
    reference, judged = halves(read_labels(options.heldout))
    real_pieces, rest = judged[: options.count], judged[options.count :]

    began = time.perf_counter()
    of_reference = hear_pieces(options.heldout, reference, spec, ears, clips=options.clips)
    genres = [piece["genre"] for piece in reference for _ in range(options.clips)]
    of_rest = hear_pieces(options.heldout, rest, spec, ears)
    real_audio = torch.cat([clip_of(options.heldout, piece, spec, 0) for piece in real_pieces])
    rows = {"real": hear(real_audio, rate, ears)}
    seconds = (time.perf_counter() - began) / (len(genres) + len(rest) + len(real_audio))
    with torch.no_grad():
        vocoded = torch.cat([model.to_audio(model.encode(clip)) for clip in real_audio.split(1)])
    rows["real, vocoded"] = hear(vocoded, rate, ears)
    made = torch.cat(list(generated(model, real_pieces, options.steps)))
    rows[f"generated, T={options.steps}"] = hear(made, rate, ears)

    print(f"{len(real_pieces)} clips a row; {seconds:.2f} s to hear one; the reference is")
    print(f"{len(genres)} clips of {len(reference)} pieces, the floor {len(rest)} others\n")
    print_table(rows, of_reference, genres, of_rest, real_pieces)


def print_table(
    rows: dict[str, Heard], reference: Heard, genres: list[str], rest: Heard, pieces: list[Piece]
) -> None:
    """Print a row for each kind of clips, as Markdown."""
    labels = [piece["genre"] for piece in pieces]
    asked = np.array([piece["tempo"] for piece in pieces])
    probes = {name: fit_probe(reference[name], genres) for name in EMBEDDINGS}
    both = fit_probe(joined(reference), genres)
    wholes = {name: WhitenedReference(reference[name]) for name in EMBEDDINGS}
    floors = {name: floor(wholes[name], rest[name], len(pieces)) for name in EMBEDDINGS}
    print("floors: " + ", ".join(f"{name} {value:.2f}" for name, value in floors.items()))
    shuffled = np.random.default_rng(0).permutation(asked)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for name, heard in rows.items():
        hits = both.hits(joined(heard), labels)
        interval = mean_interval(hits)
        tempi, chance = (tempo_hits(heard["tempo"], tempo) for tempo in (asked, shuffled))
        cells = [
            name,
            *(f"{probes[e].hits(heard[e], labels).mean():.2f}" for e in EMBEDDINGS),
            f"{interval.value:.2f} ({interval.low:.2f}–{interval.high:.2f})",
            *(f"{wholes[e].distance(heard[e]) / floors[e]:.2f}" for e in EMBEDDINGS),
            f"{heard['notes_per_second'].mean():.2f}",
            f"{heard['onset_peak'].mean():.3f}",
            *(
                f"{heard[key].mean():.2f} ({heard[key].mean() - rows['real'][key].mean():+.2f})"
                for key in ("contrast_db", "peaks_db")
            ),
            f"{tempi.exact.mean():.2f}",
            f"{tempi.with_octaves.mean():.2f}",
            f"{chance.with_octaves.mean():.2f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print("\n| genre heard right (both) | " + " | ".join(both.classes) + " |")
    print("|---" * (1 + len(both.classes)) + "|")
    for name, heard in rows.items():
        hits = both.hits(joined(heard), labels)
        shares = [hits[[label == genre for label in labels]].mean() for genre in both.classes]
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")


def floor(reference: WhitenedReference, embeddings: NDArray[Any], count: int) -> float:
    """Mean distance of sets of `count` real clips that share none."""
    sets = [embeddings[i : i + count] for i in range(0, len(embeddings) - count + 1, count)]
    return float(np.mean([reference.distance(part) for part in sets]))


def halves(pieces: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Part the pieces into two halves, the genres in turn in each."""
    by_genre: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_genre.setdefault(piece["genre"], []).append(piece)
    fewest = min(map(len, by_genre.values()))
    turns = [[group[i] for group in by_genre.values()] for i in range(fewest)]
    first, second = turns[: fewest // 2], turns[fewest // 2 :]
    return [p for turn in first for p in turn], [p for turn in second for p in turn]


def joined(heard: Heard) -> NDArray[np.float64]:
    """Both embeddings of each clip, (N, 400)."""
    return np.concatenate([per_clip(heard[name]) for name in EMBEDDINGS], axis=1)


def hear_pieces(
    root: Path, pieces: list[Piece], spec: AudioSpec, ears: Ears, *, clips: int = 1
) -> Heard:
    """Hear the first clips of each piece."""
    heard = []
    for piece in pieces:
        audio = torch.cat([clip_of(root, piece, spec, i) for i in range(clips)])
        heard.append(hear(audio, spec.sample_rate, ears))
    return {key: np.concatenate([h[key] for h in heard]) for key in heard[0]}


def clip_of(root: Path, piece: Piece, spec: AudioSpec, slot: int) -> torch.Tensor:
    """Read a clip of a piece, (1, samples); the slots do not overlap."""
    size = spec.samples(spec.clip_frames)
    samples = read_mono(root / piece["file"], spec, require_sound=False)
    return torch.from_numpy(samples[slot * size : (slot + 1) * size])[None]


def generated(model: ditto.MusicModel, pieces: list[Piece], steps: int) -> Iterator[torch.Tensor]:
    """Generate a clip with the tags of each piece."""
    for seed, piece in enumerate(pieces):
        tags = tags_of_label(piece)
        yield ditto.generate(model, method="none", tags=tags, seed=seed, steps=steps).audio


if __name__ == "__main__":
    main()
