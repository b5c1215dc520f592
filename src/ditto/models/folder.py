"""The format of a model's folder: an index, a folder per network, and hashes over all weights.

It follows the Hub's layout::

    model_index.json  classes, spectrogram, tags, default guidance, SHA-256 of every weight file
    denoiser/         config.json, diffusion_pytorch_model.safetensors
    vocoder/          the same
    student/          the same, optional: the denoiser distilled to few steps
    controlnet/       the same, optional: an adapter for loudness and melody
    heads/            the same, optional: networks that read features off x_0

The index's ``_class_name`` is one of

- ``MusicModel``: all of the above;
- ``MusicHeads``: heads alone, for models of one decoder;
- ``MusicStudent``: a student alone, for the model whose denoiser's `hash_weights` it names;
- ``MusicFineTune``: the weights in which a denoiser differs from the embedded one, in float16, and
  its spectrogram; all else is the embedded model's;
- a diffusers pipeline's class, whose folder may hold a ``student/`` besides.
"""

import copy
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ditto.errors import ModelError, OutputError, one_line
from ditto.models.network import CLASSES, CONFIG, WEIGHTS, build_for, build_network, hash_weights
from ditto.paths import StrPath, atomic_folder, printable

EMBEDDED = Path(__file__).parents[1] / "weights" / "base"
"""Folder of the model that is installed with the package."""

INDEX = "model_index.json"
ANY_FAULT = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError),
    *(AssertionError, RuntimeError, SafetensorError),
)
"""What a network's constructor or loader may raise at a config or weights made up by anybody."""
PARTS = ("denoiser", "vocoder")
CONTROLNET = "controlnet"
PIPELINE_STUDENT = "_ditto_student"
"""Key of a pipeline's index that describes the student; diffusers ignores names with ``_``."""

PIPELINE_HEADS = "_ditto_heads"
"""The same of heads."""

IN_HALF = ("PatchTransformer", "TagUNet", "Vocoder", "ControlAdapter", "Heads")
"""Classes whose weights are stored in float16; others are stored as they are."""


def read_index(
    folder: Path, classes: Container[str], wanted: str, name: str | None = None
) -> dict[str, Any]:
    """Read a model folder's index.

    Args:
        folder: of the model.
        classes: that the index's ``_class_name`` may be.
        wanted: what that is called in the error's message.
        name: of the model in messages; None is the folder's path.

    Raises:
        ModelError: the folder or its index is missing, unreadable or of another class.
    """
    name = printable(folder) if name is None else name
    if not folder.is_dir():
        raise ModelError(
            f"no model folder {printable(folder)}: give a folder that MusicModel.save wrote, or "
            "owner/name of one on the Hub"
        )
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{printable(folder)} has no {INDEX}, so it is not a model folder"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {printable(folder / INDEX)}: {one_line(error)}") from None
    kind = str(index.get("_class_name")) if isinstance(index, dict) else "list"
    if kind not in classes:
        raise ModelError(f"{name} is another kind of model than {wanted}: a {kind}")
    return index


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write a model folder's index."""
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def model_folder(folder: StrPath) -> Iterator[Path]:
    """Yield a temporary folder that replaces the model in `folder` at the end of the block.

    Raises:
        OutputError: `folder` holds something else than a model, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / INDEX).is_file():
        raise OutputError(
            f"{printable(folder)} exists and is not a model folder: choose another name"
        )
    with atomic_folder(folder) as temporary:
        yield temporary


def load_part(folder: Path, part: str, kind: object, index: Mapping[str, Any]) -> Any:
    """Load one network of a model folder: float32, frozen, in evaluation mode.

    Args:
        folder: of the model.
        part: "denoiser", "vocoder" or "student".
        kind: the class's name, or [module, name] as in the index.
        index: holds the SHA-256 of the weights.

    Raises:
        ModelError: the class is unknown, or the part is missing or damaged.
    """
    kind = kind[1] if isinstance(kind, list) and len(kind) == 2 else kind
    if not isinstance(kind, str) or kind not in CLASSES[part]:
        raise ModelError(f"{printable(folder / INDEX)} names the unknown class {kind!r} for {part}")
    file = checked_weights(folder, part, index)
    try:
        # from_pretrained of diffusers' classes would fill weights that a file lacks at random
        config = json.loads((folder / part / CONFIG).read_text(encoding="utf-8"))
        network = build_for(file, config, lambda: build_network(kind, config, part))
        network.load_state_dict(load_file(file))
    except ANY_FAULT as error:
        raise ModelError(
            f"{printable(folder / part)} is damaged: its {CONFIG} does not fit its weights "
            f"({one_line(error)})"
        ) from None
    return network.requires_grad_(False).eval()


def checked_weights(folder: Path, part: str, index: Mapping[str, Any]) -> Path:
    """Return the weight file of a part once its SHA-256 is the index's.

    Raises:
        ModelError: it is missing or damaged.
    """
    file, hashes = folder / part / WEIGHTS, index.get("sha256")
    if not file.is_file():
        raise ModelError(f"{printable(folder)} is incomplete: {part}/{WEIGHTS} is missing")
    if not isinstance(hashes, dict) or hash_file(file) != hashes.get(part):
        raise ModelError(f"{printable(file)} is damaged: its SHA-256 is not the one in {INDEX}")
    return file


def save_part(folder: Path, part: str, network: nn.Module) -> str:
    """Write one network into a model folder; return the SHA-256 of its weights.

    Raises:
        ModelError: a weight is not finite, or too large for float16.
    """
    stored: Any = copy.deepcopy(network).half() if type(network).__name__ in IN_HALF else network
    check_finite(part, stored.parameters())
    stored.save_pretrained(folder / part)
    return hash_file(folder / part / WEIGHTS)


def check_finite(part: str, tensors: Iterable[Any]) -> None:
    """Check weights that were cast to float16.

    Raises:
        ModelError: one of them is not finite.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ModelError(
            f"a weight of the {part} does not fit float16: train again with a lower lr"
        )


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def hash_of_parts(hashes: Mapping[str, str]) -> str:
    """Return a model's hash: of denoiser, vocoder and bands if any, then of the student if any."""
    whole = (*PARTS, *(["bands"] if "bands" in hashes else []))
    base = hashlib.sha256("".join(hashes[part] for part in whole).encode()).hexdigest()
    return hash_with_student(base, hashes["student"]) if "student" in hashes else base


def hash_with_student(base: str, student: str) -> str:
    """Return the hash of a model whose hash is `base` with a student added."""
    return hashlib.sha256((base + student).encode()).hexdigest()


def hash_networks(networks: Iterable[nn.Module]) -> str:
    """Return the SHA-256 over the `hash_weights` of each network."""
    return hashlib.sha256("".join(map(hash_weights, networks)).encode()).hexdigest()
