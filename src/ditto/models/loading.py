"""Every way to a model: the embedded one, a folder of ours, a diffusers pipeline (in memory, in a
folder, on the Hub).

A folder is looked at before anything is loaded, so that what it lacks is named in one line. Weights
are safetensors only, and only classes of diffusers and transformers are made: loading runs no code
of a folder's.
"""

import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from ditto.errors import ModelError
from ditto.models.controlnet import with_controlnet
from ditto.models.fine_tune import CLASS as FINE_TUNE
from ditto.models.fine_tune import load_fine_tune
from ditto.models.hashes import fingerprints
from ditto.models.music_model import CONTROLNET, EMBEDDED, INDEX, STUDENT, MusicModel, distilled_in
from ditto.models.music_model import load as load_own
from ditto.paths import printable

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from ditto.models.adapters.common import PipelineModel

Precision = Literal["auto", "float32", "float16", "bfloat16"]
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

AUTO = "auto"

INSTALL = "pip install 'ditto-music[pipelines]'"


@dataclass(frozen=True)
class Kind:
    """A pipeline class that there is an adapter for.

    Attributes:
        module: of `ditto.models.adapters`; its function ``adapt_<module>`` makes the model.
        denoiser: name of the component that denoises.
        decoders: names of the components that make sound of x_0.
        packages: what it needs besides diffusers, with the lowest version.
    """

    module: str
    denoiser: str
    decoders: tuple[str, ...]
    packages: dict[str, tuple[int, ...]]


TRANSFORMERS = {"transformers": (5, 0)}
KINDS = {
    "AudioLDM2Pipeline": Kind("audioldm2", "unet", ("vae", "vocoder"), TRANSFORMERS),
    "MusicLDMPipeline": Kind("musicldm", "unet", ("vae", "vocoder"), TRANSFORMERS),
    "StableAudioPipeline": Kind(
        "stable_audio", "transformer", ("vae",), {**TRANSFORMERS, "torchsde": (0, 2, 6)}
    ),
}
"""By the ``_class_name`` of a pipeline's index."""

OWN = ("MusicModel", FINE_TUNE)
"""The ``_class_name`` of the indices of Ditto's own folders."""

LIBRARIES = ("diffusers", "transformers", "audioldm2", "stable_audio", "musicldm")
"""That a pipeline's index may name a component's class from; the last three are diffusers' own
modules."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
HUB_NOT = ["*.fp16.safetensors", "*.non_ema.safetensors"]


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    negative_prompt: str | None = None,
) -> MusicModel:
    """A model, frozen and ready for every control and method.

    Args:
        source: None is the embedded model; otherwise a folder that `MusicModel.save`,
            `save_fine_tune` or a pipeline's ``save_pretrained`` wrote, or the name of one on the
            Hub, such as ``"cvssp/audioldm2-music"``, which is downloaded once.
        device: of the denoiser and the decoders; text encoders stay on the CPU.
        precision: of the denoiser's arithmetic. "auto" is float32 for a pipeline; for Ditto's own
            models bfloat16 where the processor multiplies it natively, otherwise float32. x_T,
            decoders and losses are float32 always.
        negative_prompt: of a pipeline, for classifier-free guidance.

    Raises:
        ModelError: the source is missing, incomplete, damaged or another kind of model, or a
            package is missing.
    """
    if precision not in (AUTO, *PRECISIONS):
        raise ModelError(
            f"unknown precision {precision!r}: choose one of {', '.join((AUTO, *PRECISIONS))}"
        )
    folder = None if source is None else _folder(source)
    name = (
        "embedded"
        if folder is None
        else (str(source) if not Path(source or "").is_dir() else folder.name)
    )
    index = {"_class_name": "MusicModel"} if folder is None else _read_index(folder, name)
    if index["_class_name"] in OWN:
        if negative_prompt is not None:
            raise ModelError(
                "Ditto's own models read tags, not prompts: leave the negative prompt out"
            )
        model = (
            load_fine_tune(folder)
            if folder and index["_class_name"] == FINE_TUNE
            else load_own(folder)
        )
        adapter = (EMBEDDED if folder is None else folder) / CONTROLNET
        model = with_controlnet(model, adapter) if adapter.is_dir() else model
        extra = [
            part
            for part in (model.distilled and model.distilled.network, model.controlnet)
            if part is not None
        ]
        for module in (model.network, model.vocoder, *extra):
            nn.Module.to(module, device)
        return replace(
            model,
            precision=native_precision(device) if precision == AUTO else PRECISIONS[precision],
        )
    assert folder is not None
    pipe = _pipeline(folder, name, index)
    precision = "float32" if precision == AUTO else precision
    adapted = adapt(
        pipe, device=device, precision=precision, negative_prompt=negative_prompt, name=name
    )
    return _with_own_student(adapted, folder, index)


def native_precision(device: str | torch.device) -> torch.dtype:
    """bfloat16 where it is multiplied natively, so that it is faster than float32; float32
    elsewhere.
    """
    if torch.device(device).type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    if torch.device(device).type != "cpu":
        return torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _with_own_student(model: "PipelineModel", folder: Path, index: dict[str, Any]) -> MusicModel:
    """The model with the student that its folder has, if it has one."""
    about = index.get(STUDENT)
    return (
        model
        if about is None
        else model.joined(distilled_in(folder, about), about["sha256"]["student"])
    )


def adapt(
    pipe: "DiffusionPipeline",
    *,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
    negative_prompt: str | None = None,
    name: str | None = None,
) -> "PipelineModel":
    """A model made of a pipeline's components, which are frozen and, where asked, moved.

    Args:
        pipe: an `AudioLDM2Pipeline`, `MusicLDMPipeline` or `StableAudioPipeline`.
        device: of denoiser and decoders; None leaves them where they are.
        precision: of the denoiser; None leaves it as it is.
        negative_prompt: for classifier-free guidance.
        name: for reports; None is where the pipeline was loaded from.

    Raises:
        ModelError: another kind of pipeline, or a package is missing.
    """
    found = next((cls.__name__ for cls in type(pipe).__mro__ if cls.__name__ in KINDS), None)
    if found is None:
        raise _not_music(type(pipe).__name__, "this")
    kind = KINDS[found]
    _check_packages(kind, found)
    components = pipe.components
    denoiser, decoders = components[kind.denoiser], [components[name] for name in kind.decoders]
    for module in (denoiser, *decoders):
        module.to(device) if device is not None else None
    if precision is not None:
        nn.Module.to(denoiser, PRECISIONS[precision])  # diffusers' own warns of what is not so here
    make = getattr(import_module(f"ditto.models.adapters.{kind.module}"), f"adapt_{kind.module}")
    called = name or str(
        getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path") or found
    )
    return make(
        pipe,
        name=called,
        sha256=fingerprints([denoiser, *decoders]),
        negative_prompt=negative_prompt,
    )


def push(
    model: MusicModel, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Upload a model's folder to the Hub; returns its address.

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
                f"the Hub did not take {repo_id} ({_line(error)}): check name, network and token"
            ) from None
    return str(address)


def _folder(source: str | os.PathLike[str]) -> Path:
    """The local folder of a source, downloaded if it is a Hub id."""
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
            f"{source} is no folder here, and the Hub did not give it ({_line(error)}): check name, network and licence"
        ) from None


def _read_index(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(
            f"no model folder {printable(folder)}: give a model's folder, or owner/name of one on the Hub"
        )
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{printable(folder)} has no {INDEX}, so it is not a model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {printable(folder / INDEX)}: {_line(error)}") from None
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in OWN and kind not in KINDS:
        raise _not_music(str(kind), name)
    return index


def _not_music(kind: str, name: str) -> ModelError:
    known = ", ".join(KINDS)
    return ModelError(
        f"{name} is another kind of model than Ditto plays: a {kind}, not its own nor one of {known}"
    )


def _pipeline(folder: Path, name: str, index: dict[str, Any]) -> "DiffusionPipeline":
    """The pipeline of a folder, in float32 on the CPU, once nothing is seen to be missing."""
    cls = index["_class_name"]
    _check_packages(KINDS[cls], cls)
    _check_files(folder, name, index)
    import diffusers

    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # a component is made with random weights before it gets its own
            return getattr(diffusers, cls).from_pretrained(
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
        raise ModelError(f"cannot load {name}: {_line(error)}") from None


def _check_packages(kind: Kind, cls: str) -> None:
    for package, lowest in kind.packages.items():
        wanted = f"{package} {'.'.join(map(str, lowest))} or newer"
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ModelError(f"a {cls} needs {wanted}, which is not installed: {INSTALL}") from None
        if tuple(int(number) for number in re.findall(r"\d+", found)[: len(lowest)]) < lowest:
            raise ModelError(f"a {cls} needs {wanted}, but {found} is installed: {INSTALL}")


def _check_files(folder: Path, name: str, index: dict[str, Any]) -> None:
    """Every component that the index names is there, of a known library, its weights as
    safetensors.

    Raises:
        ModelError: naming the first thing that is missing.
    """
    kind = KINDS[index["_class_name"]]
    components = {key: value for key, value in index.items() if isinstance(value, list)}
    for needed in (kind.denoiser, *kind.decoders, "scheduler", "text_encoder", "tokenizer"):
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
    if component.startswith(("tokenizer", "scheduler", "feature_extractor")):
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"{name} is incomplete: {component}/config.json is missing")
    if not any(path.glob("*.safetensors")):
        pickled = (
            " (a pickled .bin file is not loaded: convert it)" if any(path.glob("*.bin")) else ""
        )
        raise ModelError(f"{name} is incomplete: {component}/ has no .safetensors file{pickled}")


def _line(error: Exception) -> str:
    """The first line of an error of another library."""
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
