"""Load any model: the embedded one, a folder of ours, a diffusers pipeline in memory, in a folder
or on the Hub.

A folder is checked before anything is loaded, so that what it lacks is named in one line. Weights
are safetensors only, and only classes of diffusers and transformers are made: loading runs no code
of a folder's. diffusers, transformers and the adapters are imported when a pipeline is asked for.
"""

import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ditto.errors import ModelError, OutOfMemoryError, one_line
from ditto.models.device import (
    DecoderPrecision,
    Precision,
    checked_decoder_precision,
    checked_precision,
    chosen_device,
    dtype_of,
    is_out_of_memory,
)
from ditto.models.fine_tune import FINE_TUNE, load_fine_tune
from ditto.models.folder import (
    CONTROLNET,
    EMBEDDED,
    INDEX,
    PIPELINE_HEADS,
    PIPELINE_STUDENT,
    hash_networks,
    read_index,
)
from ditto.models.heads import checked_heads
from ditto.models.low_memory import low_memory as in_low_memory
from ditto.models.model import MusicModel
from ditto.models.own import load_own
from ditto.models.student import load_student

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from ditto.models.adapters.common import PipelineModel

INSTALL = "pip install 'ditto-music[pipelines]'"


@dataclass(frozen=True)
class Kind:
    """A pipeline class that there is an adapter for.

    Attributes:
        module: of `ditto.models.adapters`; its function ``adapt_<module>`` makes the model.
        denoiser: name of the component that denoises.
        decoders: names of the components that make sound of x_0.
        packages: what it needs, with the lowest version.
        others: names of further components that it cannot do without.
    """

    module: str
    denoiser: str
    decoders: tuple[str, ...]
    packages: dict[str, tuple[int, ...]]
    others: tuple[str, ...] = ()


TRANSFORMERS = {"transformers": (5, 0)}
FLOWS = {**TRANSFORMERS, "diffusers": (0, 40)}
KINDS = {
    "AudioLDM2Pipeline": Kind("audioldm2", "unet", ("vae", "vocoder"), TRANSFORMERS),
    "MusicLDMPipeline": Kind("musicldm", "unet", ("vae", "vocoder"), TRANSFORMERS),
    "StableAudioPipeline": Kind(
        "stable_audio", "transformer", ("vae",), {**TRANSFORMERS, "torchsde": (0, 2, 6)}
    ),
    "StableAudio3Pipeline": Kind(
        "stable_audio_3", "transformer", ("vae",), FLOWS, ("duration_embedder",)
    ),
    "AceStepPipeline": Kind("ace_step", "transformer", ("vae",), FLOWS, ("condition_encoder",)),
}
"""By the ``_class_name`` of a pipeline's index."""

OWN = ("MusicModel", FINE_TUNE)
"""The ``_class_name`` of the indices of Ditto's own folders."""

KNOWN = f"those that Ditto plays (its own, {', '.join(KINDS)})"

LIBRARIES = (
    "diffusers",
    "transformers",
    "audioldm2",
    "stable_audio",
    "musicldm",
    "stable_audio_3",
    "ace_step",
)
"""That a pipeline's index may name a component's class from; all but the first two are diffusers'
own modules."""

VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*")
"""Files of a tokenizer's words; without any, the libraries make one that knows no word."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
HUB_NOT = ["*.fp16.safetensors", "*.non_ema.safetensors"]
ALIGNMENT = 64
"""Bytes, that PyTorch's own CPU memory is a multiple of."""


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    decoder_precision: DecoderPrecision = "float32",
    low_memory: bool = False,
    negative_prompt: str | None = None,
) -> MusicModel:
    """Load a model, frozen and ready for every control and method.

    Args:
        source: None is the embedded model; otherwise a folder that `MusicModel.save`,
            `save_fine_tune` or a pipeline's ``save_pretrained`` wrote, or the name of one on the
            Hub, such as ``"cvssp/audioldm2-music"``, which is downloaded once.
        device: of the denoiser and the decoders, "auto", "cpu", "cuda", "cuda:1", … or "mps";
            "auto" is the first of cuda, mps and cpu that is there. Text encoders stay on the CPU.
        precision: of the denoiser's arithmetic. "auto" is float32 for a pipeline; for Ditto's own
            models bfloat16 where the processor multiplies it natively, otherwise float32. x_T and
            losses are float32 always.
        decoder_precision: of the decoders'.
        low_memory: need less memory and more time (`ditto.models.low_memory`).
        negative_prompt: of a pipeline, for classifier-free guidance.

    Raises:
        ModelError: the source is missing, incomplete, damaged or another kind of model, a package
            is missing, or there is no such device.
    """
    checked_precision(precision)
    checked_decoder_precision(decoder_precision)
    device = chosen_device(device)
    folder = EMBEDDED if source is None else _local_folder(source)
    name = folder.name if source is None or folder == Path(source) else str(source)
    index = read_index(folder, (*OWN, *KINDS), KNOWN, name)
    if index["_class_name"] in OWN:
        if negative_prompt is not None:
            raise ModelError(
                "Ditto's own models read tags, not prompts: leave the negative prompt out"
            )
        model = (load_fine_tune if index["_class_name"] == FINE_TUNE else load_own)(folder)
        if (folder / CONTROLNET).is_dir():
            from ditto.models.controlnet import with_controlnet

            model = with_controlnet(model, folder / CONTROLNET)
        move(model.parts(), device)
        model = replace(
            model,
            precision=dtype_of(precision, device),
            decoder_precision=dtype_of(decoder_precision, device),
        )
        return in_low_memory(model) if low_memory else model
    model = adapt(
        _load_pipeline(folder, name, index),
        device=device,
        precision="float32" if precision == "auto" else precision,
        decoder_precision=decoder_precision,
        low_memory=low_memory,
        negative_prompt=negative_prompt,
        name=name,
    )
    if PIPELINE_HEADS in index:
        model = replace(model, readers=checked_heads(folder, index[PIPELINE_HEADS], model))
    if PIPELINE_STUDENT not in index:
        return model
    student = load_student(folder, index[PIPELINE_STUDENT])
    return model.attach_student(student, index[PIPELINE_STUDENT]["sha256"]["student"])


def adapt(
    pipe: "DiffusionPipeline",
    *,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    decoder_precision: DecoderPrecision | None = None,
    low_memory: bool = False,
    negative_prompt: str | None = None,
    name: str | None = None,
) -> "PipelineModel":
    """Make a model of a pipeline's components, which are frozen and, where asked, moved.

    Args:
        pipe: one of `KINDS`.
        device: of denoiser and decoders, see `load`; None leaves them where they are.
        precision: of the denoiser; None leaves it as it is.
        decoder_precision: of the decoders; None leaves them as they are.
        low_memory: see `load`; prompt encoders too are moved to the CPU, once they were used.
        negative_prompt: for classifier-free guidance.
        name: for reports; None is where the pipeline was loaded from.

    Raises:
        ModelError: another kind of pipeline, a package is missing, or there is no such device.
    """
    place = None if device is None else chosen_device(device)
    cls = next((base.__name__ for base in type(pipe).__mro__ if base.__name__ in KINDS), None)
    if cls is None:
        raise ModelError(f"this is another kind of model than {KNOWN}: a {type(pipe).__name__}")
    kind = KINDS[cls]
    _check_packages(kind, cls)
    components = pipe.components
    denoiser, decoders = components[kind.denoiser], [components[part] for part in kind.decoders]
    sha256 = hash_networks([denoiser, *decoders])  # the same in whatever precision they run
    goal = place or denoiser.device
    # diffusers' own `to` warns of what is not so here
    if precision is not None:
        nn.Module.to(denoiser, dtype_of(precision, goal))
    if decoder_precision is not None:
        for decoder in decoders:
            nn.Module.to(decoder, dtype_of(decoder_precision, goal))
    if place is not None:
        move([denoiser, *decoders], place)
    make = getattr(import_module(f"ditto.models.adapters.{kind.module}"), f"adapt_{kind.module}")
    origin = getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path") or cls
    model = make(pipe, name=name or str(origin), sha256=sha256, negative_prompt=negative_prompt)
    model = replace(model, precision=denoiser.dtype, decoder_precision=decoders[0].dtype)
    return in_low_memory(model) if low_memory else model


def move(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Move networks to a device.

    Raises:
        OutOfMemoryError: there is no room for them.
    """
    try:
        for network in networks:
            nn.Module.to(network, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = sum(weight.nbytes for network in networks for weight in network.parameters())
        raise OutOfMemoryError(
            f"{device} has not enough memory for {size / 2**30:.1f} GiB of weights: give a smaller "
            "model, --precision bfloat16 or --device cpu"
        ) from None


def push_to_hub(
    model: MusicModel, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload a model's folder to the Hub; return its address.

    Raises:
        ModelError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        model.save(folder)
        try:
            api = HfApi(token=token)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Saved by Ditto")
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ModelError(
                f"the Hub did not take {repo_id} ({one_line(error)}): check name, network and token"
            ) from None
    return str(address)


def _local_folder(source: str | os.PathLike[str]) -> Path:
    """Return the local folder of a source, downloaded if it is a Hub id."""
    path = Path(source)
    if path.exists() or not HUB_ID.fullmatch(os.fspath(source)):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(os.fspath(source), allow_patterns=HUB_FILES, ignore_patterns=HUB_NOT)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{source} is no folder here, and the Hub did not give it ({one_line(error)}): check "
            "name, network and licence"
        ) from None


def _load_pipeline(folder: Path, name: str, index: dict[str, Any]) -> "DiffusionPipeline":
    """Load the pipeline of a folder, in float32 on the CPU, once its files have been checked."""
    cls = index["_class_name"]
    _check_packages(KINDS[cls], cls)
    _check_files(folder, name, index)
    import diffusers

    kind, types = KINDS[cls], getattr(diffusers, cls)._get_signature_types()
    for part in (kind.denoiser, *kind.decoders, *kind.others):
        wanted, found = types[part][0].__name__, index[part][1]
        if found != wanted:
            raise ModelError(f"{name} has a {found} as its {part}, where a {cls} has a {wanted}")
    try:
        # a component is made with random weights before it gets its own
        with torch.random.fork_rng(devices=[]), _quiet():
            pipe = getattr(diffusers, cls).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
            )
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ModelError(f"cannot load {name}: {one_line(error)}") from None
    _check_weights(folder, name, pipe)
    _align(pipe)
    return pipe


def _align(pipe: "DiffusionPipeline") -> None:
    """Give weights that lie where a file is mapped, at any multiple of 8, memory of PyTorch's own.

    On some processors a product's last bits depend on where its operands lie, and a clip is to be
    the same from a model just loaded as from the one that was saved.
    """
    for network in pipe.components.values():
        if isinstance(network, nn.Module):
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.data_ptr() % ALIGNMENT:
                    tensor.data = tensor.data.clone()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let diffusers and transformers show neither warnings nor bars within the block."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries = diffusers, transformers
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def _check_weights(folder: Path, name: str, pipe: "DiffusionPipeline") -> None:
    """Check that no network was left without weights: of what a file lacks, libraries only warn.

    Old files have other names for some weights, so numbers are counted; buffers have their names.

    Raises:
        ModelError: naming the first component whose files hold less than it has.
    """
    from diffusers.models.modeling_utils import ModelMixin

    for component, network in pipe.components.items():
        if not isinstance(network, nn.Module):
            continue
        shapes: dict[str, list[int]] = {}
        for path in (folder / component).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                names = file.keys()
                shapes |= {name: file.get_slice(name).get_shape() for name in names}
        weights, kept = list(network.parameters()), network.state_dict().keys()
        buffers = dict(network.named_buffers()).keys() & kept
        if (
            sum(map(math.prod, shapes.values())) < sum(weight.numel() for weight in weights)
            or any(weight.is_meta for weight in weights)
            or (isinstance(network, ModelMixin) and not buffers <= shapes.keys())
        ):
            raise ModelError(f"{name} is incomplete: weights of {component}/ are missing")


def _check_packages(kind: Kind, cls: str) -> None:
    """Raise a `ModelError` where a package that a pipeline needs is missing or too old."""
    for package, lowest in kind.packages.items():
        wanted = f"{package} {'.'.join(map(str, lowest))} or newer"
        try:
            installed = version(package)
        except PackageNotFoundError:
            raise ModelError(f"a {cls} needs {wanted}, which is not installed: {INSTALL}") from None
        if tuple(int(number) for number in re.findall(r"\d+", installed)[: len(lowest)]) < lowest:
            raise ModelError(f"a {cls} needs {wanted}, but {installed} is installed: {INSTALL}")


def _check_files(folder: Path, name: str, index: dict[str, Any]) -> None:
    """Check that every component of the index is there, of a known library, as safetensors.

    Raises:
        ModelError: naming the first thing that is missing.
    """
    kind = KINDS[index["_class_name"]]
    components = {key: value for key, value in index.items() if isinstance(value, list)}
    others = ("scheduler", "text_encoder", "tokenizer", *kind.others)
    for needed in (kind.denoiser, *kind.decoders, *others):
        if needed not in components:
            raise ModelError(f"{name} is incomplete: its {INDEX} names no {needed}")
    for component, (library, cls) in components.items():
        if cls is None:
            continue
        if library not in LIBRARIES:
            raise ModelError(
                f"{name} wants code from {library!r} for its {component}, which Ditto does not run"
            )
        _check_component(folder, name, component)


def _check_component(folder: Path, name: str, component: str) -> None:
    path = folder / component
    if not path.is_dir() or not any(path.iterdir()):
        raise ModelError(f"{name} is incomplete: the folder {component}/ is missing")
    if component.startswith("tokenizer"):
        config, words = path / "tokenizer_config.json", map(path.glob, VOCABULARIES)
        if not config.is_file() or not any(map(any, words)):
            missing = "words" if config.is_file() else config.name
            raise ModelError(f"{name} is incomplete: {component}/ has no {missing}")
        return
    if component.startswith(("scheduler", "feature_extractor")):
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"{name} is incomplete: {component}/config.json is missing")
    if not any(path.glob("*.safetensors")):
        pickled = (
            " (a pickled .bin file is not loaded: convert it)" if any(path.glob("*.bin")) else ""
        )
        raise ModelError(f"{name} is incomplete: {component}/ has no .safetensors file{pickled}")
