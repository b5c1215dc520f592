"""The bundle that every control and method works on: denoiser, noise schedule, vocoder, tags, in one folder.

The folder follows the Hub's layout::

    model_index.json                 classes, spectrogram, tags, default guidance, SHA-256 of every weight file
    denoiser/    config.json, diffusion_pytorch_model.safetensors
    vocoder/     config.json, diffusion_pytorch_model.safetensors
"""

import copy
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.io import shown
from ditto.audio.limiter import limited
from ditto.audio.spec import AudioSpec
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.schedule import Schedule
from ditto.errors import ModelError, OutputError, RequestError
from ditto.models.conditioning import Tags, TagVocabulary, null_tags

EMBEDDED = Path(__file__).parents[1] / "weights" / "base"
"""Folder of the model that is installed with the package."""

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = ("denoiser", "vocoder")
# A model folder may name any of these classes, and no other: loading never runs code that a folder chose.
CLASSES = {
    "denoiser": {"PatchTransformer": "ditto.models.transformer", "TagUNet": "ditto.models.unet"},
    "vocoder": {"Vocoder": "ditto.models.vocoder"},
}


@dataclass(frozen=True, eq=False)
class MusicModel:
    """A base model with what turns its x_0 into sound.

    Attributes:
        network: ``(x_t, t, tags) -> output``; its config says which `Prediction` that is.
        vocoder: log-mel (B, n_mels, frames) → audio (B, frames · hop).
        spec: the spectrogram that x_0 is.
        vocabulary: tags that the network knows.
        guidance: default CFG scale w.
        shift: of the cosine noise schedule.
        name: where it came from.
        sha256: hash over the weights, which outputs carry.
    """

    network: ModelMixin
    vocoder: ModelMixin
    spec: AudioSpec
    vocabulary: TagVocabulary
    guidance: float = 1.0
    shift: float = 1.0
    name: str = "unnamed"
    sha256: str = ""

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule that the network was trained with."""
        return Schedule.cosine(shift=self.shift)

    @property
    def denoiser(self) -> GuidedDenoiser:
        """``(x_t, t, cond, guidance) -> x̂_0``."""
        return guided_denoiser(self.network, self.schedule)

    def shape(self, seconds: float | None = None) -> tuple[int, int, int]:
        """Shape (1, n_mels, frames) of x_0 for a duration (default: the training window).

        Raises:
            RequestError: if the duration is not positive or beyond the window the model was trained on.
        """
        if seconds is None:
            return 1, self.spec.n_mels, self.spec.clip_frames
        frames = self.spec.frames(seconds)
        multiple = int(getattr(self.network, "frame_multiple", 1))
        frames = -(-frames // multiple) * multiple
        if not 0 < frames <= self.spec.clip_frames:
            raise RequestError(f"seconds must be above 0 and at most {self.spec.clip_seconds:.2f}, not {seconds:g}")
        return 1, self.spec.n_mels, frames

    @property
    def device(self) -> torch.device:
        """Where the network is, and x_T has to be."""
        return next(self.network.parameters()).device

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """x_T ~ N(0, 1) of one item, float32 on the CPU: a seed gives what it gives in the model's own pipeline."""
        return torch.randn(tuple(shape), generator=generator)

    def cond(self, tags: Tags, batch: int = 1, seconds: float | None = None) -> Tensor:
        """Conditioning (batch, …) of one set of tags; `seconds` is the clip's length, which some models want to know."""
        return self.vocabulary.encode(tags).expand(batch, -1).to(self.device, copy=True)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio (B, samples) → x_0 (B, 1, n_mels, samples // hop)."""
        return log_mel(audio, self.spec)[:, None]

    def to_mel(self, x_0: Tensor) -> Tensor:
        """x_0 → log-mel (B, n_mels, frames) in [−1, 1]."""
        return x_0[:, 0]

    def to_audio(self, x_0: Tensor) -> Tensor:
        """x_0 → audio (B, frames · hop) within ±1, differentiable (V of the papers)."""
        return limited(self.vocoder(self.to_mel(x_0)))

    def to_sound(self, x_0: Tensor) -> Tensor:
        """x_0 → what is saved, (B, channels, samples): `to_audio` is its mono mix."""
        return self.to_audio(x_0)[:, None]

    def save(self, folder: Path) -> str:
        """Write the folder, weights in float16; returns the hash that loading will give.

        It is written beside its place and put there when it is whole. A model that was there is replaced.

        Raises:
            OutputError: the folder holds something else than a model, or cannot be written.
        """
        if folder.exists() and not (folder / INDEX).is_file():
            raise OutputError(f"{shown(folder)} exists and is not a model folder: choose another name")
        temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        try:
            digest = self._write(temporary)
            if folder.exists():
                os.replace(folder, temporary / "old")
            os.replace(temporary, folder)
        except OSError as error:
            raise OutputError(f"cannot write {shown(folder)}: {error.strerror}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder / "old", ignore_errors=True)
        return digest

    def _write(self, folder: Path) -> str:
        folder.mkdir(parents=True)
        for name, module in self._parts().items():
            copy.deepcopy(module).half().save_pretrained(folder / name, safe_serialization=True)
        index = {
            "_class_name": "MusicModel",
            "_diffusers_version": diffusers.__version__,
            **{name: type(module).__name__ for name, module in self._parts().items()},
            "spec": asdict(self.spec),
            "vocabulary": asdict(self.vocabulary),
            "guidance": self.guidance,
            "shift": self.shift,
            "sha256": {name: _sha256(folder / name / WEIGHTS) for name in PARTS},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return _combined(index["sha256"])

    def _parts(self) -> dict[str, ModelMixin]:
        return {"denoiser": self.network, "vocoder": self.vocoder}


def guided_denoiser(network: ModelMixin, schedule: Schedule) -> GuidedDenoiser:
    """The denoiser of a tag-conditioned network, with the parameterisation that its config names."""
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    skip_std = float(config.get("skip_std", 0.0))
    return GuidedDenoiser(network, schedule, config["prediction"], null_tags, skip_std)  # pyright: ignore[reportArgumentType]


def load(folder: str | os.PathLike[str] | None = None) -> MusicModel:
    """Load a model folder; without an argument, the embedded model. Parameters are frozen, in float32.

    Raises:
        ModelError: the folder is missing or incomplete, names an unknown class, or a weight file's hash is not the
            one that the index promises.
    """
    path = EMBEDDED if folder is None else Path(folder)
    index = _index(path)
    networks = {name: _part(path, name, index) for name in PARTS}
    try:
        spec = AudioSpec(**index["spec"])
        words = index["vocabulary"]
        vocabulary = TagVocabulary(**(words | {"genres": tuple(words["genres"]), "moods": tuple(words["moods"])}))
        guidance, shift = float(index["guidance"]), float(index["shift"])
        sha256 = _combined(index["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{shown(path / INDEX)} is not a Ditto model's index: {error}") from None
    return MusicModel(
        networks["denoiser"], networks["vocoder"], spec, vocabulary, guidance, shift,
        name="embedded" if folder is None else path.name, sha256=sha256,
    )  # fmt: skip


def _index(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ModelError(f"no model folder {shown(path)}: give a folder that MusicModel.save wrote")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{shown(path)} has no {INDEX}, so it is not a model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {shown(path / INDEX)}: {' '.join(str(error).split())}") from None
    if not isinstance(index, dict) or index.get("_class_name") != "MusicModel":
        raise ModelError(f"{shown(path)} holds another kind of model than Ditto's own")
    return index


def _part(path: Path, name: str, index: dict[str, Any]) -> ModelMixin:
    kind, hashes = index.get(name), index.get("sha256")
    if not isinstance(kind, str) or kind not in CLASSES[name]:
        raise ModelError(f"{shown(path / INDEX)} names the unknown class {kind!r} for {name}")
    file = path / name / WEIGHTS
    if not file.is_file():
        raise ModelError(f"{shown(path)} is incomplete: {name}/{WEIGHTS} is missing")
    if not isinstance(hashes, dict) or _sha256(file) != hashes.get(name):
        raise ModelError(f"{shown(file)} is damaged: its SHA-256 is not the one in {INDEX}")
    constructor = getattr(import_module(CLASSES[name][kind]), kind)
    try:
        # Not from_pretrained: it fills weights that a file lacks with random ones.
        with torch.random.fork_rng(devices=[]):
            module = constructor.from_config(constructor.load_config(path / name))
        module.load_state_dict(load_file(file))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError):
        raise ModelError(f"{shown(path / name)} is damaged: its config.json does not fit its weights") from None
    return module.requires_grad_(False).eval()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _combined(hashes: dict[str, str]) -> str:
    return hashlib.sha256("".join(hashes[name] for name in PARTS).encode()).hexdigest()
