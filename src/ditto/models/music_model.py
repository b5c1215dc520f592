"""The bundle that every control and method works on: denoiser, noise schedule, vocoder, tags, in
one folder.

The folder follows the Hub's layout::

    model_index.json                 classes, spectrogram, tags, default guidance, SHA-256 of every
    weight file denoiser/    config.json, diffusion_pytorch_model.safetensors vocoder/
    config.json, diffusion_pytorch_model.safetensors student/     the same, optional: the denoiser
    distilled to few steps controlnet/  the same, optional: an adapter for loudness and melody,
    which `ditto.load` finds there

A folder of the class ``MusicStudent`` has a student alone, for a model that it names by its
denoiser's fingerprint; one of the class ``MusicFineTune`` is read by `ditto.models.fine_tune`.
"""

import copy
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.features import log_mel
from ditto.audio.io import shown
from ditto.audio.limiter import limited
from ditto.audio.spec import AudioSpec
from ditto.diffusion.consistency import StudentDenoiser
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.schedule import Schedule
from ditto.errors import DataError, ModelError, OutputError, RequestError, one_line
from ditto.models.conditioning import Tags, TagVocabulary, drop_tags, null_tags
from ditto.models.hashes import combined, extended, file_sha256, fingerprint

EMBEDDED = Path(__file__).parents[1] / "weights" / "base"
"""Folder of the model that is installed with the package."""

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
NOMINAL = 1.01
"""How many times as long as the window a duration may be called that stands for it."""
PARTS = ("denoiser", "vocoder")
CONTROLNET = "controlnet"
STUDENT = "_ditto_student"
"""Where a pipeline's index describes the student in its folder; diffusers passes over what begins
so."""
# A model folder may name any of these classes, and no other: loading never runs code that a folder
# chose.
CLASSES = {
    "denoiser": {"PatchTransformer": "ditto.models.transformer", "TagUNet": "ditto.models.unet"},
    "vocoder": {"Vocoder": "ditto.models.vocoder"},
    "student": {
        "PatchTransformer": "ditto.models.transformer",
        "TagUNet": "ditto.models.unet",
        "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
        "AudioLDM2UNet2DConditionModel": "diffusers.pipelines.audioldm2.modeling_audioldm2",
        "GuidedStableAudioDiT": "ditto.models.adapters.student",
    },
}
KINDS = {"MusicStudent": "a student alone", "MusicFineTune": "a fine-tuned base"}
"""Classes of folders besides ``MusicModel``."""
IN_HALF = ("PatchTransformer", "TagUNet", "Vocoder", "ControlAdapter")
"""Classes whose weights are stored in float16; others are stored as they are."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """A network that answers in one call what its teacher takes many for (DITTO-2).

    Attributes:
        network: ``(x_t, t, tags, w) -> output``.
        kind: "cm" or "ctm".
        guidance: range of the CFG scales w that it was taught.
        teacher: `fingerprint` of the denoiser that it was distilled from.
    """

    network: ModelMixin
    kind: str
    guidance: tuple[float, float]
    teacher: str

    def save(self, folder: Path, card: str = "") -> str:
        """Write a folder with the student alone, for `MusicModel.with_student`; returns the
        weights' SHA-256.

        Raises:
            OutputError, ModelError: see `MusicModel.save`.
        """

        def fill(folder: Path) -> str:
            index = {"_class_name": "MusicStudent", "_diffusers_version": diffusers.__version__}
            index |= (about := self.write(folder))
            save_index(folder, index)
            if card:
                (folder / "README.md").write_text(card, encoding="utf-8")
            return about["sha256"]["student"]

        return put_folder(folder, fill)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write ``student/`` into a folder; returns what its index must say of it."""
        return {
            "student": self.describe(),
            "sha256": {"student": _save_part(folder, "student", self.network)},
        }

    def describe(self) -> dict[str, Any]:
        """What the index says of it."""
        about = {"kind": self.kind, "guidance": list(self.guidance), "teacher": self.teacher}
        return {"class": type(self.network).__name__, **about}


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
        bands: of the model space, by which x_0 is the log-mel normalised.
        name: where it came from.
        sha256: hash over the weights, which outputs carry.
        base_sha256: that over denoiser and vocoder alone, which another student leaves as it is.
        distilled: the student, if there is one.
        controlnet: an adapter of `ditto.models.controlnet`, if there is one.
        precision: in which the networks compute, where they know how to be `lowered`; weights, x_T
            and losses stay float32.
    """

    network: ModelMixin
    vocoder: ModelMixin
    spec: AudioSpec
    vocabulary: TagVocabulary
    guidance: float = 1.0
    shift: float = 1.0
    name: str = "unnamed"
    sha256: str = ""
    distilled: Distilled | None = None
    controlnet: ModelMixin | None = None
    base_sha256: str = ""
    bands: Bands = PLAIN
    precision: torch.dtype = torch.float32

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule that the network was trained with."""
        return Schedule.cosine(shift=self.shift)

    @property
    def denoiser(self) -> GuidedDenoiser:
        """``(x_t, t, cond, guidance) -> x̂_0``."""
        return guided_denoiser(self._playing, self.schedule, self.bands)

    @cached_property
    def _playing(self) -> ModelMixin:
        return lowered(self.network, self.precision)

    @cached_property
    def student(self) -> StudentDenoiser | None:
        """The distilled ``(x_t, t, cond, guidance) -> x̂_0`` that needs few steps, or None."""
        return (
            self.student_denoiser(lowered(self.distilled.network, self.precision))
            if self.distilled
            else None
        )

    @property
    def student_schedule(self) -> Schedule:
        """The noise levels and grids that a student is taught on and samples by."""
        return self.schedule

    def student_denoiser(
        self, network: ModelMixin, call: Callable[..., Tensor] | None = None
    ) -> StudentDenoiser:
        """The denoiser of a distilled network; `call` is how it is called, if otherwise (as when
        training it).
        """
        return student_denoiser(network, self.student_schedule, call, self.bands)

    def new_student(self) -> ModelMixin:
        """A network that is yet to be distilled: the denoiser's weights, and an input for w that
        does nothing yet.
        """
        return grown(self.network, type(self.network).__name__, guidance_embedded=True)

    def dropped(
        self, cond: Tensor, rate: float, generator: torch.Generator, grid_rate: float = 0.0
    ) -> Tensor:
        """Condition dropout, see `drop_tags`."""
        return drop_tags(cond, rate, generator, grid_rate)

    def student_card(self) -> str:
        """Text for the Hub that goes with a student alone, where the model's licence asks for
        some.
        """
        return ""

    def describe(self) -> dict[str, str]:
        """What reports say of it: name, hash, and in which precision its networks compute."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "precision": str(self.precision).removeprefix("torch."),
        }

    def parts(self) -> list[torch.nn.Module]:
        """Every network that a clip goes through."""
        student = [self.distilled.network] if self.distilled else []
        return [
            self.network,
            self.vocoder,
            *student,
            *([self.controlnet] if self.controlnet else []),
        ]

    def shape(self, seconds: float | None = None) -> tuple[int, int, int]:
        """Shape (1, n_mels, frames) of x_0 for a duration (default: the training window).

        What is hardly longer than the window is the window: "6 s" are 5.94 s, and "24 s" are 23.78
        s.

        Raises:
            RequestError: if the duration is not positive or beyond the window the model was trained
                on.
        """
        if seconds is None:
            return 1, self.spec.n_mels, self.spec.clip_frames
        frames = self.spec.frames(seconds)
        multiple = int(getattr(self.network, "frame_multiple", 1))
        frames = -(-frames // multiple) * multiple
        if self.spec.clip_seconds < seconds <= NOMINAL * self.spec.clip_seconds:
            frames = self.spec.clip_frames
        if not 0 < frames <= self.spec.clip_frames:
            raise RequestError(
                f"seconds must be above 0 and at most {self.spec.clip_seconds:.2f}, not {seconds:g}"
            )
        return 1, self.spec.n_mels, frames

    @property
    def device(self) -> torch.device:
        """Where the network is, and x_T has to be."""
        return next(self.network.parameters()).device

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """x_T ~ N(0, 1) of one item, float32 on the CPU: a seed gives what it gives in the model's
        own pipeline.
        """
        return torch.randn(tuple(shape), generator=generator)

    def cond(self, tags: Tags, batch: int = 1, seconds: float | None = None) -> Tensor:
        """Conditioning (batch, …) of one set of tags, for clips of `seconds`, which some models
        want to know.
        """
        return self.vocabulary.encode(tags).expand(batch, -1).to(self.device, copy=True)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio (B, samples) → x_0 (B, 1, n_mels, samples // hop)."""
        return self.bands.normalised(log_mel(audio, self.spec)[:, None])

    @cached_property
    def draft(self) -> "MusicModel":
        """The same model with a faster and rougher `to_audio`, if it has one, for what listens
        again and again.
        """
        draft = getattr(self.vocoder, "draft", None)
        return replace(self, vocoder=lowered(draft(), self.precision)) if draft else self

    @property
    def has_mel(self) -> bool:
        """Whether `to_mel` spares the way to audio: x_0 is a mel."""
        return True

    def to_mel(self, x_0: Tensor) -> Tensor:
        """x_0 → log-mel (B, n_mels, frames) in [−1, 1]."""
        return self.bands.mel(x_0[:, 0])

    def to_audio(self, x_0: Tensor) -> Tensor:
        """x_0 → audio (B, frames · hop) within ±1, differentiable (V of the papers)."""
        return limited(self.vocoder(self.to_mel(x_0)))

    def to_sound(self, x_0: Tensor) -> Tensor:
        """x_0 → what is saved, (B, channels, samples): `to_audio` is its mono mix."""
        return self.to_audio(x_0)[:, None]

    def with_student(self, folder: str | os.PathLike[str]) -> "MusicModel":
        """A copy with the student of a folder that `Distilled.save` wrote, in place of its own if
        it has one.

        Raises:
            ModelError: the folder is damaged or holds no student alone, or the student of another
                model.
        """
        path = Path(folder)
        index = read_index(path, "MusicStudent")
        distilled = distilled_in(path, index)
        if distilled.teacher != fingerprint(self.network):
            raise ModelError(
                f"{shown(path)} was distilled from another model: distil this one, or give that one"
            )
        return self.joined(distilled, index["sha256"]["student"])

    def joined(self, distilled: Distilled, sha256: str) -> "MusicModel":
        """A copy with a student whose weights have that hash."""
        torch.nn.Module.to(distilled.network, self.device, next(self.network.parameters()).dtype)
        return replace(self, distilled=distilled, sha256=extended(self.sha256, sha256))

    def save(self, folder: Path) -> str:
        """Write the folder, weights in float16; returns the hash that loading will give.

        It is written beside its place and put there when it is whole. A model that was there is
        replaced.

        Raises:
            OutputError: the folder holds something else than a model, or cannot be written.
            ModelError: a weight does not fit float16.
        """
        return put_folder(folder, self._write)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """`save`, under the Hub's name for it."""
        self.save(Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **settings: Any) -> "MusicModel":
        """`ditto.load`, under the Hub's name for it."""
        from ditto.models.loading import load as load_any

        return load_any(source, **settings)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hub, under ``owner/name``; returns its address.

        Raises:
            ModelError: the Hub refuses, or cannot be reached.
        """
        from ditto.models.loading import push

        return push(self, repo_id, private=private, token=token)

    def _write(self, folder: Path) -> str:
        hashes = {name: _save_part(folder, name, module) for name, module in self._parts().items()}
        if self.controlnet is not None:
            hashes[CONTROLNET] = _save_part(folder, CONTROLNET, self.controlnet)
        index = {
            "_class_name": "MusicModel",
            "_diffusers_version": diffusers.__version__,
            **{name: _class_of(module) for name, module in self._parts().items() if name in PARTS},
            **({"student": self.distilled.describe()} if self.distilled else {}),
            "spec": asdict(self.spec),
            "vocabulary": asdict(self.vocabulary),
            "guidance": self.guidance,
            "shift": self.shift,
            **({"bands": asdict(self.bands)} if self.bands else {}),
            "sha256": hashes,
        }
        save_index(folder, index)
        return combined(hashes)

    def _parts(self) -> dict[str, ModelMixin]:
        student = {"student": self.distilled.network} if self.distilled else {}
        return {"denoiser": self.network, "vocoder": self.vocoder, **student}


def put_folder(folder: Path, write: Callable[[Path], str]) -> str:
    """Write a folder beside its place and put it there when it is whole."""
    if folder.exists() and not (folder / INDEX).is_file():
        raise OutputError(f"{shown(folder)} exists and is not a model folder: choose another name")
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        digest = write(temporary)
        if folder.exists():
            os.replace(folder, temporary / "old")
        os.replace(temporary, folder)
    except OSError as error:
        raise OutputError(f"cannot write {shown(folder)}: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder / "old", ignore_errors=True)
    return digest


def _class_of(module: ModelMixin) -> list[str]:
    """Module and class, as the Hub's pipelines name their parts."""
    return [type(module).__module__, type(module).__name__]


def _save_part(folder: Path, name: str, module: ModelMixin) -> str:
    stored = copy.deepcopy(module).half() if type(module).__name__ in IN_HALF else module
    if not all(bool(parameter.isfinite().all()) for parameter in stored.parameters()):
        raise ModelError(
            f"a weight of the {name} does not fit float16: train again with a lower lr"
        )
    stored.save_pretrained(folder / name, safe_serialization=True)
    return file_sha256(folder / name / WEIGHTS)


def save_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write a folder's index."""
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def lowered(network: Any, dtype: torch.dtype) -> Any:
    """The network, or a copy that computes in `dtype` if that is not float32 and the network knows
    how.
    """
    return (
        network.lowered(dtype)
        if dtype != torch.float32 and hasattr(network, "lowered")
        else network
    )


def guided_denoiser(
    network: ModelMixin, schedule: Schedule, bands: Bands = PLAIN
) -> GuidedDenoiser:
    """The denoiser of a tag-conditioned network, as its config says; chains hold the log-mel to
    [−1, 1].
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    kind, skip_std = config["prediction"], float(config.get("skip_std", 0.0))
    return GuidedDenoiser(network, schedule, kind, null_tags, skip_std, bands.limited)  # pyright: ignore[reportArgumentType]


def student_denoiser(
    network: ModelMixin,
    schedule: Schedule,
    call: Callable[..., Tensor] | None = None,
    bands: Bands = PLAIN,
) -> StudentDenoiser:
    """The denoiser of a distilled network; `call` is how it is called, if otherwise (as when
    training it).
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    kind, skip_std = config["prediction"], float(config.get("skip_std", 0.0))
    return StudentDenoiser(call or network, schedule, kind, skip_std, bands.limited)


def grown(network: ModelMixin, kind: str, **inputs: Any) -> ModelMixin:
    """A network of class `kind` with another's settings and weights, and with further inputs, which
    start at zero.
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    # The others are diffusers' own notes.
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    student = built(kind, settings | inputs, "student")
    fresh = {name: torch.zeros_like(value) for name, value in student.state_dict().items()}
    student.load_state_dict({**fresh, **network.state_dict()})
    return student


def load(folder: str | os.PathLike[str] | None = None) -> MusicModel:
    """Load a model folder; without an argument, the embedded model. Parameters are frozen, in
    float32.

    Raises:
        ModelError: the folder is missing or incomplete, names an unknown class, or a weight file's
            hash is not the one that the index promises.
    """
    path = EMBEDDED if folder is None else Path(folder)
    index = read_index(path)
    networks = {name: _part(path, name, index.get(name), index) for name in PARTS}
    distilled = distilled_in(path, index) if "student" in index else None
    try:
        spec = AudioSpec(**index["spec"])
        words = index["vocabulary"]
        vocabulary = TagVocabulary(
            **(words | {"genres": tuple(words["genres"]), "moods": tuple(words["moods"])})
        )
        guidance, shift = float(index["guidance"]), float(index["shift"])
        sha256, bands = combined(index["sha256"]), Bands.of(index.get("bands"))
        base = combined({part: index["sha256"][part] for part in PARTS})
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise ModelError(f"{shown(path / INDEX)} is not a Ditto model's index: {error}") from None
    return MusicModel(
        networks["denoiser"],
        networks["vocoder"],
        spec,
        vocabulary,
        guidance,
        shift,
        name="embedded" if folder is None else path.name,
        sha256=sha256,
        distilled=distilled,
        base_sha256=base,
        bands=bands,
    )


def distilled_in(path: Path, index: dict[str, Any]) -> Distilled:
    """The student that a folder has, as its index describes it.

    Raises:
        ModelError: it is missing, damaged or not described.
    """
    try:
        about = index["student"]
        low, high = (float(w) for w in about["guidance"])
        kind, teacher, cls = str(about["kind"]), str(about["teacher"]), about["class"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{shown(path / INDEX)} does not describe its student: {error}") from None
    return Distilled(_part(path, "student", cls, index), kind, (low, high), teacher)


def read_index(path: Path, kind: str = "MusicModel") -> dict[str, Any]:
    """The index of a folder that must be of the class `kind`.

    Raises:
        ModelError: it is not, or cannot be read.
    """
    if not path.is_dir():
        raise ModelError(f"no model folder {shown(path)}: give a folder that MusicModel.save wrote")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{shown(path)} has no {INDEX}, so it is not a model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {shown(path / INDEX)}: {one_line(error)}") from None
    if not isinstance(index, dict) or index.get("_class_name") != kind:
        wanted = KINDS.get(kind, "Ditto's own")
        raise ModelError(f"{shown(path)} holds another kind of model than {wanted}")
    return index


def _part(path: Path, name: str, kind: object, index: dict[str, Any]) -> ModelMixin:
    kind = kind[1] if isinstance(kind, list) and len(kind) == 2 else kind
    if not isinstance(kind, str) or kind not in CLASSES[name]:
        raise ModelError(f"{shown(path / INDEX)} names the unknown class {kind!r} for {name}")
    file = checked_weights(path, name, index)
    try:
        # Not from_pretrained: it fills weights that a file lacks with random ones.
        module = built(kind, _config(path / name), name)
        module.load_state_dict(load_file(file))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError):
        raise ModelError(
            f"{shown(path / name)} is damaged: its config.json does not fit its weights"
        ) from None
    return module.requires_grad_(False).eval()


def checked_weights(path: Path, name: str, index: dict[str, Any]) -> Path:
    """The weight file of a part, whose hash is the one that the index promises.

    Raises:
        ModelError: it is missing or damaged.
    """
    file, hashes = path / name / WEIGHTS, index.get("sha256")
    if not file.is_file():
        raise ModelError(f"{shown(path)} is incomplete: {name}/{WEIGHTS} is missing")
    if not isinstance(hashes, dict) or file_sha256(file) != hashes.get(name):
        raise ModelError(f"{shown(file)} is damaged: its SHA-256 is not the one in {INDEX}")
    return file


def built(kind: str, config: Mapping[str, Any], part: str = "denoiser") -> ModelMixin:
    """A network of a class that a part may have, and of a config.

    Its weights are random, drawn without moving the process-wide generator.
    """
    with torch.random.fork_rng(devices=[]):
        return getattr(import_module(CLASSES[part][kind]), kind).from_config(config)


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
