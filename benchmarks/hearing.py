"""What foreign ears hear in clips, each heard once, and the real clips that it is compared with.

Held-out pieces have one role each: rows (see `RealClips`), or one of `ROLES`.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ditto.audio.features
import ditto.eval.ears
from benchmarks.cache import ResultCache
from benchmarks.targets import Targets
from benchmarks.tasks import pcm, sound
from ditto.errors import DataError
from ditto.eval.bootstrap import Interval, statistic_interval
from ditto.eval.ears import Ears, hear, load_ears
from ditto.eval.ears.distance import DIRECTIONS, WhitenedReference
from ditto.eval.ears.genre import Probe, fit_probe, per_clip

PROBE, REFERENCE, FLOOR = "probe", "reference", "floor"
ROLES = (PROBE, FLOOR, REFERENCE, PROBE, FLOOR, REFERENCE, PROBE, FLOOR)
"""What the pieces that give no rows are for, in turn: training the genre probe, the reference of
Fréchet distances, and the distance of other real clips to it."""
SETS = 4
"""Sets of real clips whose distances make the floor, each as large as a row. They share clips only
if there are too few."""
EARS = ("msd", "mtt")
"""musicnn's embeddings, of the Million Song Dataset and of MagnaTagATune."""

Heard = dict[str, NDArray[Any]]
Hear = Callable[[Tensor, int], Heard]


@cache
def _ears() -> Ears:
    return load_ears()


def foreign(audio: Tensor, sample_rate: int) -> Heard:
    """Hear clips with the ears of the extra ``ears``, loaded when first needed.

    Raises:
        ModelError: one is not installed.
    """
    return hear(audio, sample_rate, _ears())


class Hearing:
    """What the ears hear.

    Attributes:
        targets: held-out clips.
        sample_rate: of all clips, in Hz.
        cache: keeps what was heard.
        hear: the ears, see `ditto.eval.ears.hear`.
        directions: of the whitened embeddings that Fréchet distances are in.
    """

    def __init__(
        self,
        targets: Targets,
        sample_rate: int,
        cache: ResultCache,
        hear: Hear = foreign,
        directions: int = DIRECTIONS,
    ) -> None:
        self.targets, self.sample_rate, self.cache = targets, sample_rate, cache
        self.hear, self.directions = hear, directions
        self._roles: dict[tuple[str, int | None], tuple[Heard, list[str]]] = {}
        self._floors: dict[tuple[str, int], Interval] = {}

    def heard(self, audio: Tensor) -> Heard:
        """Hear clips (N, samples), or read what was heard in the same sound before.

        Raises:
            ModelError: an ear is not installed.
            DataError: the clips are too short for one.
        """
        clips = [self._heard(clip) for clip in pcm(audio)]
        return {name: torch.cat([clip[name] for clip in clips]).numpy() for name in clips[0]}

    def _heard(self, clip: Tensor) -> dict[str, Tensor]:
        identity = {
            "sound": hashlib.sha256(clip.numpy().tobytes()).hexdigest(),
            "sample_rate": self.sample_rate,
            "ears": _source(),
        }
        path = self.cache.path("heard", identity)
        found = self.cache.read(path)
        if found is None:
            try:
                made = self.hear(sound(clip[None]), self.sample_rate)
            except ValueError as error:
                raise DataError(str(error)) from None
            found = {name: torch.from_numpy(np.array(value)) for name, value in made.items()}
            self.cache.write(path, found)
        return found

    def real(self, count: int) -> Heard:
        """Hear the first real clips that give rows."""
        return self.heard(self.targets.real().audio[:count])

    def role(self, role: str, count: int | None = None) -> tuple[Heard, list[str]]:
        """Hear the first `count` clips of a role, by default all, and tell their genres."""
        key = (role, count)
        if key not in self._roles:
            clips = self.targets.role(ROLES, role)
            self._roles[key] = self.heard(clips.audio[:count]), clips.genres[:count]
        return self._roles[key]

    def others(self, count: int) -> tuple[Heard, list[str]]:
        """Hear the floor's clips for rows of `count`, at most `SETS` times as many."""
        return self.role(FLOOR, SETS * count)

    @cached_property
    def probe(self) -> Probe:
        """Tells the genre by both embeddings.

        Raises:
            DataError: the clips to train it have one genre only.
        """
        heard, genres = self.role(PROBE)
        try:
            return fit_probe(joined(heard), genres)
        except ValueError as error:
            raise DataError(f"too few held-out clips: {error}") from None

    @cached_property
    def references(self) -> dict[str, WhitenedReference]:
        """What Fréchet distances are taken to, by embedding.

        Raises:
            DataError: there are too few clips.
        """
        heard, _ = self.role(REFERENCE)
        try:
            return {ear: WhitenedReference(heard[ear], directions=self.directions) for ear in EARS}
        except ValueError as error:
            raise DataError(f"too few held-out clips: {error}") from None

    def floor(self, ear: str, count: int) -> Interval:
        """Return the mean distance of `SETS` sets of other real clips.

        Args:
            ear: whose embedding.
            count: clips of a set.

        Raises:
            DataError: there are fewer clips.
        """
        key = (ear, count)
        if key not in self._floors:
            distance = self.references[ear].distance
            sets = list(self._sets(ear, count))
            self._floors[key] = statistic_interval(
                lambda *drawn: float(np.mean([distance(x) for x in drawn])), *sets
            )
        return self._floors[key]

    def _sets(self, ear: str, count: int) -> Iterator[NDArray[Any]]:
        clips = self.others(count)[0][ear]
        if len(clips) < count:
            raise DataError(
                f"too few held-out clips: the floor for {count} clips a row needs as many others, "
                f"not {len(clips)}"
            )
        for first in range(0, SETS * count, count):
            yield clips[np.arange(first, first + count) % len(clips)]


def joined(heard: Heard) -> NDArray[np.float64]:
    """Return both embeddings of each clip, side by side."""
    return np.concatenate([per_clip(heard[ear]) for ear in EARS], axis=1)


@cache
def _source() -> str:
    """Hash the code of the ears and of their features: what other code heard is heard anew."""
    folders = (
        Path(str(module.__file__)).parent for module in (ditto.audio.features, ditto.eval.ears)
    )
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
