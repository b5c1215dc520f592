"""Ditto's own models are read from their folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from ditto.audio.bands import Bands
from ditto.audio.spec import AudioSpec
from ditto.diffusion.schedule import GridName
from ditto.errors import DataError, ModelError, one_line
from ditto.models.conditioning import TagVocabulary
from ditto.models.folder import EMBEDDED, INDEX, PARTS, hash_of_parts, load_part, read_index
from ditto.models.heads import HEADS, HeadsFile
from ditto.models.model import MusicModel
from ditto.models.student import load_student
from ditto.paths import printable

SAMPLERS = "ddim", "dpm++"
"""What an index may name."""


def load_own(folder: Path = EMBEDDED) -> MusicModel:
    """Load a folder that `MusicModel.save` wrote: float32, frozen, on the CPU, no adapter.

    Raises:
        ModelError: the folder is missing or incomplete, names an unknown class, or a weight file's
            hash is not the one that the index promises.
    """
    index = read_index(folder, ("MusicModel",), "Ditto's own")
    denoiser, vocoder = (load_part(folder, part, index.get(part), index) for part in PARTS)
    student = load_student(folder, index) if "student" in index else None
    try:
        names = index["vocabulary"]
        lists = {key: tuple(names[key]) for key in ("genres", "moods")}
        hashes, bands = dict(index["sha256"]), Bands.of(index.get("bands"))
        if hashes.get("bands") != (bands.sha256 if bands else None):
            raise ValueError("the bands' hash is not the one promised")
        spec, vocabulary = AudioSpec(**index["spec"]), TagVocabulary(**(names | lists))
        guidance, shift = float(index["guidance"]), float(index["shift"])
        spacing, sampler = index.get("spacing"), index.get("sampler", "ddim")
        _check_index(denoiser, spec, vocabulary, (guidance, shift))
        _check_sampling(spacing, sampler)
        return MusicModel(
            network=denoiser,
            vocoder=vocoder,
            spec=spec,
            vocabulary=vocabulary,
            guidance=guidance,
            shift=shift,
            spacing=spacing,
            sampler=sampler,
            name="embedded" if folder == EMBEDDED else folder.name,
            sha256=hash_of_parts(hashes),
            distilled=student,
            base_sha256=hash_of_parts({p: h for p, h in hashes.items() if p != "student"}),
            bands=bands,
            readers=HeadsFile.of(folder, index) if HEADS in index else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        raise ModelError(
            f"{printable(folder / INDEX)} is not a Ditto model's index: {one_line(error)}"
        ) from None


def _check_index(
    network: nn.Module, spec: AudioSpec, vocabulary: TagVocabulary, numbers: tuple[float, ...]
) -> None:
    """Compare an index with the network that it describes.

    Raises:
        ValueError: they do not fit.
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    if list(config.get("tag_sizes", vocabulary.sizes)) != list(vocabulary.sizes):
        raise ValueError("its vocabulary has another size than its network")
    if config.get("n_mels", spec.n_mels) != spec.n_mels:
        raise ValueError("its spectrogram has another number of bands than its network")
    if not all(isinstance(word, str) for word in (*vocabulary.genres, *vocabulary.moods)):
        raise ValueError("its genres and moods are not all words")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("its guidance or shift is not finite")


def _check_sampling(spacing: object, sampler: object) -> None:
    """Check what an index says of sampling.

    Raises:
        ValueError: there is no such grid, or sampler.
    """
    if spacing is not None and spacing not in get_args(GridName):
        raise ValueError(f"its spacing is none of {', '.join(get_args(GridName))}")
    if sampler not in SAMPLERS:
        raise ValueError(f"its sampler is none of {', '.join(SAMPLERS)}")
