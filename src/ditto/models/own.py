"""Ditto's own models are read from their folder."""

import math
from collections.abc import Mapping
from dataclasses import asdict
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
PREDICTIONS = "sample", "v_prediction", "epsilon"
"""What a network of ours may predict."""


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
        spacing, sampler = index.get("spacing"), index.get("sampler", "ddim")
        _check_sampling(spacing, sampler)
        model = MusicModel(
            network=denoiser,
            vocoder=vocoder,
            spec=AudioSpec(**index["spec"]),
            vocabulary=TagVocabulary(**(names | lists)),
            guidance=float(index["guidance"]),
            shift=float(index["shift"]),
            spacing=spacing,
            sampler=sampler,
            name="embedded" if folder == EMBEDDED else folder.name,
            sha256=hash_of_parts(hashes),
            distilled=student,
            base_sha256=hash_of_parts({p: h for p, h in hashes.items() if p != "student"}),
            bands=bands,
            readers=HeadsFile.of(folder, index) if HEADS in index else None,
        )
        check_whole(model)
        return model
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, DataError) as error:
        raise ModelError(
            f"{printable(folder / INDEX)} is not a Ditto model's index: {one_line(error)}"
        ) from None


def check_whole(model: MusicModel) -> None:
    """Check that a model's parts fit together, and what is said of them.

    Raises:
        ValueError, ArithmeticError: they do not.
    """
    spec, names, network = model.spec, model.vocabulary, model.network
    _check_network(network, "network", model)
    if model.distilled is not None:
        student = model.distilled.network
        _check_network(student, "student", model)
        if type(student) is not type(network) or not _config(student).get("guidance_embedded"):
            raise ValueError("its student is none of its network")
    heard = asdict(getattr(model.vocoder, "spec", spec)) | {"clip_frames": spec.clip_frames}
    if different := [name for name, value in asdict(spec).items() if heard[name] != value]:
        raise ValueError(f"its vocoder has another {different[0]} than its spectrogram")
    if not all(isinstance(word, str) for word in (*names.genres, *names.moods)):
        raise ValueError("its genres and moods are not all words")
    tempi = names.tempo_low, names.tempo_high
    if not all(isinstance(tempo, int | float) and math.isfinite(tempo) for tempo in tempi):
        raise ValueError("its tempi are no numbers")
    if type(names.tempo_bins) is not int or (names.tempo_bins and not 0 < tempi[0] < tempi[1]):
        raise ValueError("its tempi are no range of beats per minute")
    if not all(map(math.isfinite, (model.guidance, model.shift))):
        raise ValueError("its guidance or shift is not finite")
    if model.bands and len(model.bands.mean) != spec.n_mels:
        raise ValueError("its bands are not as many as its spectrogram's")
    if not all(map(math.isfinite, (*model.bands.mean, *model.bands.std))):
        raise ValueError("its bands' statistics are not finite")
    _ = model.schedule  # which not every shift makes


def _check_network(network: nn.Module, part: str, model: MusicModel) -> None:
    """Compare a denoiser or a student with the tags and the spectrogram that it is for.

    Raises:
        ValueError: they do not fit.
    """
    config, spec, sizes = _config(network), model.spec, list(model.vocabulary.sizes)
    if list(config.get("tag_sizes", sizes)) != sizes:
        raise ValueError(f"its vocabulary has another size than its {part}")
    if config.get("n_mels", spec.n_mels) != spec.n_mels:
        raise ValueError(f"its spectrogram has another number of bands than its {part}")
    if config.get("prediction", "sample") not in PREDICTIONS:
        raise ValueError(f"its {part} predicts none of {', '.join(PREDICTIONS)}")
    if multiple := spec.clip_frames % int(getattr(network, "frame_multiple", 1)):
        raise ValueError(f"its clips are {multiple} frames longer than its {part} takes")


def _config(network: nn.Module) -> Mapping[str, Any]:
    return network.config  # pyright: ignore[reportReturnType]


def _check_sampling(spacing: object, sampler: object) -> None:
    """Check what an index says of sampling.

    Raises:
        ValueError: there is no such grid, or sampler.
    """
    if spacing is not None and spacing not in get_args(GridName):
        raise ValueError(f"its spacing is none of {', '.join(get_args(GridName))}")
    if sampler not in SAMPLERS:
        raise ValueError(f"its sampler is none of {', '.join(SAMPLERS)}")
