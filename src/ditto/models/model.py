"""The model that every control and method works on: denoiser, noise schedule, vocoder, tags.

`MusicModel` is the interface, and Ditto's own models are instances of it; adapted pipelines derive
from it (`ditto.models.adapters.common`). How the folders look is said in `ditto.models.folder`, and
`ditto.models.hub` loads any of them.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.features import log_mel
from ditto.audio.limiter import limited
from ditto.audio.spec import AudioSpec
from ditto.diffusion.consistency import StudentDenoiser
from ditto.diffusion.denoiser import GuidedDenoiser, dynamic_threshold
from ditto.diffusion.schedule import GridName, Schedule
from ditto.errors import ModelError, RequestError
from ditto.models.conditioning import Tags, TagVocabulary, drop_conditions, null_tags
from ditto.models.folder import (
    CONTROLNET,
    hash_of_parts,
    hash_with_student,
    model_folder,
    read_index,
    save_part,
    write_index,
)
from ditto.models.heads import HEADS, Feature, HeadsFile, describe, heads_alone, read_from
from ditto.models.network import hash_weights, in_precision, with_extra_inputs
from ditto.models.student import Student, class_of, load_student
from ditto.paths import StrPath, printable, shown

TOLD = "PatchTransformer"
"""The class whose students can be told where a jump ends."""
LOG_MEL_STD = 0.26
"""Of the composed training set, in [−1, 1] over 160 dB."""
LENGTH_TOLERANCE = 1.01
"""A requested duration of up to 1 % above the window counts as the window."""


@dataclass(frozen=True, eq=False)
class MusicModel:
    """A base model with what turns its x_0 into sound.

    Attributes:
        network: ``(x_t, t, tags) -> output``; its config says which `Prediction` that is.
        vocoder: log-mel (B, n_mels, frames) → audio (B, frames · hop); if it is `seeded`, it takes
            seeds of noise after that.
        spec: the spectrogram that x_0 is.
        vocabulary: tags that the network knows.
        guidance: default CFG scale w.
        shift: of the cosine noise schedule.
        spacing: of the grid that clips without control are sampled on, see `Schedule.timesteps`;
            None is the schedule's, with even steps, which methods that guide or optimise have in
            any case, as published.
        sampler: what those clips are sampled by.
        name: where it came from.
        sha256: hash over all weights, which outputs carry.
        distilled: the student, if there is one.
        controlnet: a `ditto.models.controlnet.ControlAdapter`, if there is one.
        readers: heads that read features off x_0, if there are any.
        base_sha256: hash over denoiser and vocoder alone, whatever the student.
        bands: normalisation of the mel bands; x_0 is the normalised log-mel.
        precision: dtype in which the networks compute (`in_precision`); weights, x_T and losses
            stay float32.
        decoder_precision: the same for the vocoder that is heard.
        low_memory: whether the networks' blocks are checkpointed (`ditto.models.low_memory`).
    """

    network: nn.Module
    vocoder: nn.Module
    spec: AudioSpec
    vocabulary: TagVocabulary
    guidance: float = 1.0
    shift: float = 1.0
    spacing: GridName | None = None
    sampler: str = "ddim"
    name: str = "unnamed"
    sha256: str = ""
    distilled: Student | None = None
    controlnet: nn.Module | None = None
    readers: HeadsFile | None = None
    base_sha256: str = ""
    bands: Bands = PLAIN
    precision: torch.dtype = torch.float32
    decoder_precision: torch.dtype = torch.float32
    low_memory: bool = False

    def __repr__(self) -> str:
        """Return one line: name, size, a clip's length, student, device and hash."""
        size = sum(p.numel() for p in self.network.parameters()) / 1e6
        student = f", {self.distilled.kind} student" if self.distilled else ""
        clip = self.spec.seconds(self.spec.clip_frames)
        where = f"{self.device}, sha256 {self.sha256[:12]}"
        return f"<MusicModel {self.name!r}: {size:.1f} M, {clip:.2f} s{student}, {where}>"

    # What samplers and controls call.

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule that the network was trained with."""
        prediction = getattr(self.network, "config", {}).get("prediction", "sample")
        return Schedule.cosine(shift=self.shift).suited(prediction)

    @property
    def denoiser(self) -> GuidedDenoiser:
        """``(x_t, t, cond, guidance) -> x̂_0``."""
        return guided_denoiser(self._network_in_precision, self.schedule, self.bands)

    @cached_property
    def _network_in_precision(self) -> nn.Module:
        return in_precision(self.network, self.precision)

    @cached_property
    def _vocoder_in_precision(self) -> nn.Module:
        return in_precision(self.vocoder, self.decoder_precision)

    @cached_property
    def _student_in_precision(self) -> nn.Module:
        assert self.distilled is not None
        return in_precision(self.distilled.network, self.precision)

    @cached_property
    def student(self) -> StudentDenoiser | None:
        """The distilled ``(x_t, t, cond, guidance) -> x̂_0`` that needs few steps, or None."""
        if self.distilled is None:
            return None
        return self.student_denoiser(self._student_in_precision)

    @property
    def device(self) -> torch.device:
        """Device of the network, where x_T has to be."""
        return next(self.network.parameters()).device

    def shape(self, seconds: float | None = None) -> tuple[int, int, int]:
        """Return the shape (1, n_mels, frames) of x_0 for a duration.

        Args:
            seconds: rounded up to the network's multiple of frames; None is the window that the
                model was trained on, and so is what exceeds it by up to 1 %: "6 s" are 5.94 s.

        Raises:
            RequestError: if the duration is not positive or beyond the window.
        """
        if seconds is None:
            return 1, self.spec.n_mels, self.spec.clip_frames
        frames = self.spec.frames(seconds) if math.isfinite(seconds) else 0
        multiple = int(getattr(self.network, "frame_multiple", 1))
        frames = -(-frames // multiple) * multiple
        if self.spec.clip_seconds < seconds <= LENGTH_TOLERANCE * self.spec.clip_seconds:
            frames = self.spec.clip_frames
        if not 0 < frames <= self.spec.clip_frames:
            raise RequestError(
                f"seconds must be above 0 and at most {self.spec.clip_seconds:.2f} in one window, "
                f"not {seconds:g}; ditto.song makes longer music"
            )
        return 1, self.spec.n_mels, frames

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw x_T ~ N(0, 1) of one item, float32 on the CPU, as the model's own pipeline does."""
        return torch.randn(tuple(shape), generator=generator)

    def cond_each(self, tags: Sequence[Tags], seconds: float | None = None) -> Tensor:
        """Return the conditioning (len(tags), …) of several sets of tags, see `cond`."""
        return torch.cat([self.cond(one, 1, seconds) for one in tags])

    def cond(self, tags: Tags, batch: int = 1, seconds: float | None = None) -> Tensor:
        """Return the conditioning (batch, …) of one set of tags.

        Args:
            tags: of every item.
            batch: number of items.
            seconds: length of the clips, which some pipelines are conditioned on.

        Raises:
            TagError: the model does not know a tag.
        """
        return self.vocabulary.encode(tags).expand(batch, -1).to(self.device, copy=True)

    def check_guidance(self, guidance: float) -> None:
        """Refuse a CFG scale w that the model cannot be sampled with.

        Raises:
            RequestError: with what to do.
        """

    @property
    def own_sampler(self) -> str:
        """What its makers sample it by, as methods call samplers."""
        return self.sampler

    def keeping(self, mask: Tensor, reference: Tensor) -> "MusicModel":
        """Return the model told of a region that it must keep, by its own inpainting.

        Args:
            mask: (frames,), 1 where x_0 is known.
            reference: (…, frames) of x_0 there.

        Raises:
            RequestError: it has none.
        """
        raise RequestError(
            f"the model {self.name!r} has no inpainting of its own: choose ditto2, ditto or naive"
        )

    # Sound and x_0.

    @property
    def data_std(self) -> float:
        """Standard deviation of x_0 over music: about that of log-mels, or 1 if normalised."""
        return 1.0 if self.bands else LOG_MEL_STD

    @property
    def has_mel(self) -> bool:
        """Whether `to_mel` needs no audio, since x_0 is a mel."""
        return True

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (B, samples) as x_0 (B, 1, n_mels, samples // hop)."""
        return self.bands.normalised(log_mel(audio, self.spec)[:, None])

    def to_mel(self, x_0: Tensor) -> Tensor:
        """Return the log-mel (B, n_mels, frames) in [−1, 1] of x_0."""
        return self.bands.mel(x_0[:, 0])

    def to_audio(self, x_0: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Decode x_0 to audio (B, frames · hop) within ±1, differentiably (V of the papers).

        Args:
            x_0: shape (B, …, frames).
            seeds: of the noise that a vocoder adds, one for each item or for all; without any, 0.
        """
        vocoder, mel = self._vocoder_in_precision, self.to_mel(x_0)
        own = bool(seeds) and getattr(vocoder, "seeded", False)
        return limited(vocoder(mel, tuple(seeds)) if own else vocoder(mel))

    def to_sound(self, x_0: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Decode x_0 to what is saved, (B, channels, samples), whose mono mix is `to_audio`."""
        return self.to_audio(x_0, seeds)[:, None]

    @cached_property
    def fast(self) -> "MusicModel":
        """The same model with a faster and rougher `to_audio`, if its vocoder has one."""
        if not hasattr(self.vocoder, "fast"):
            return self
        vocoder: Any = self.vocoder
        return replace(self, vocoder=in_precision(vocoder.fast(), self.precision))

    def compressed(self, x_0: Tensor) -> Tensor:
        """Threshold x_0 (B, 1, n_mels, frames) as Imagen does: by the percentile of the log-mel."""
        return self.bands.normalised(dynamic_threshold(self.bands.mel(x_0), maximum=torch.inf))

    @property
    def decoders(self) -> list[nn.Module]:
        """Networks that make sound of x_0."""
        return [self.vocoder]

    def read(self, x_0: Tensor, feature: Feature) -> Tensor | None:
        """Return a feature as a head reads it off x_0, see `Heads`; None without such a head.

        Raises:
            ModelError: the heads are damaged.
        """
        if self.readers is None or feature not in self.readers.features:
            return None
        return self.readers.on(self.device)(read_from(self, x_0), feature)

    def with_heads(self, folder: str | os.PathLike[str]) -> Self:
        """Return a copy with the heads of a folder that ``ditto-music train heads`` wrote.

        Raises:
            ModelError: the folder is damaged or holds no heads, or those of another decoder.
        """
        return replace(self, readers=heads_alone(Path(folder), self))

    # What distillation needs.

    @cached_property
    def student_schedule(self) -> Schedule:
        """The noise levels and grids that a student is trained on and samples by."""
        if self.distilled is None or self.distilled.spacing is None:
            return self.schedule
        return replace(self.schedule, spacing=self.distilled.spacing)

    def student_denoiser(
        self, network: nn.Module, call: Callable[..., Tensor] | None = None
    ) -> StudentDenoiser:
        """Return the denoiser of a distilled network.

        Args:
            network: of `new_student`'s kind.
            call: what to call in its place, such as its wrapper in training.
        """
        return student_denoiser(network, self.student_schedule, call, self.bands)

    def new_student(self, told_end: bool = False) -> nn.Module:
        """Return an undistilled student: the denoiser's weights, and inputs of no effect yet.

        Args:
            told_end: an input for the timestep at which a jump ends, beside that for w.

        Raises:
            ModelError: the denoiser is a student already, or its kind has no such input.
        """
        inputs = {"guidance_embedded": True} | ({"end_embedded": True} if told_end else {})
        kind = type(self.network).__name__
        if told_end and kind != TOLD:
            raise ModelError(
                f"no student of a {kind} can be told where a jump ends: one of a {TOLD}"
            )
        return with_extra_inputs(self.network, kind, **inputs)

    def drop_conditions(
        self, cond: Tensor, rate: float, generator: torch.Generator, grid_rate: float = 0.0
    ) -> Tensor:
        """Drop conditions at random for CFG, see `conditioning.drop_conditions`."""
        return drop_conditions(cond, rate, generator, grid_rate)

    def student_card(self) -> str:
        """Return the Hub's card for a student alone; empty where no licence asks for one."""
        return ""

    def with_student(self, folder: str | os.PathLike[str]) -> "MusicModel":
        """Return a copy with the student of a folder that `Student.save` wrote.

        Raises:
            ModelError: the folder is damaged or holds no student alone, or the student of another
                model.
        """
        path = Path(folder)
        index = read_index(path, ("MusicStudent",), "a student alone")
        student = load_student(path, index)
        if student.teacher != hash_weights(self.network):
            raise ModelError(
                f"{printable(path)} was distilled from another model: distil this one, or give "
                "that one"
            )
        return self.attach_student(student, index["sha256"]["student"])

    def attach_student(self, student: Student, sha256: str) -> "MusicModel":
        """Return a copy with a student, moved to the denoiser's device and dtype.

        Args:
            student: in place of the model's own, if it has one.
            sha256: hash of its weight file.
        """
        dtype = next(self.network.parameters()).dtype
        nn.Module.to(student.network, self.device, dtype)  # diffusers' own `to` warns needlessly
        if self.low_memory:
            from ditto.models.low_memory import checkpoint_blocks  # which builds on this module

            checkpoint_blocks(student.network)
        return replace(self, distilled=student, sha256=hash_with_student(self.sha256, sha256))

    # What is said of it, and its folder.

    def parts(self) -> list[nn.Module]:
        """Return every network that a clip goes through."""
        student = None if self.distilled is None or self.distilled.own else self.distilled.network
        every = (self.network, self.vocoder, student, self.controlnet)
        return [part for part in every if part is not None]

    def computing(self) -> list[nn.Module]:
        """Return `parts`, and their copies that compute in lower precision."""
        copies = [self._network_in_precision, self._vocoder_in_precision, self.fast.vocoder]
        copies += [self._student_in_precision] if self.distilled else []
        return [*self.parts(), *copies]

    def describe(self) -> dict[str, str]:
        """Return name, hash, precision, heads and device, for reports."""
        precision, decoder = (
            str(dtype).removeprefix("torch.") for dtype in (self.precision, self.decoder_precision)
        )
        described = {"name": self.name, "sha256": self.sha256, "precision": precision}
        described |= {} if decoder == "float32" else {"decoder_precision": decoder}
        described |= {} if self.readers is None else {"heads": self.readers.sha256}
        return described | {"device": str(self.device)}

    def save(self, folder: StrPath) -> str:
        """Write the folder, weights in float16; return the hash that loading will give.

        A model that was there is replaced once the new one is complete.

        Raises:
            OutputError: the folder holds something else than a model, or cannot be written.
            ModelError: a weight does not fit float16.
        """
        with model_folder(folder) as new:
            return self._write(new)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder: `save` under the Hub's name."""
        self.save(folder)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **settings: Any) -> "MusicModel":
        """Load a model: `ditto.load` under the Hub's name."""
        from ditto.models.hub import load  # which builds on this module

        return load(source, **settings)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hub, under ``owner/name``; return its address.

        Raises:
            ModelError: the Hub refuses, or cannot be reached.
        """
        from ditto.models.hub import push_to_hub  # which builds on this module

        return push_to_hub(self, repo_id, private=private, token=token)

    def _write(self, folder: Path) -> str:
        """Write networks and index into a new folder; return the model's hash."""
        parts: dict[str, nn.Module] = {"denoiser": self.network, "vocoder": self.vocoder}
        classes: dict[str, Any] = {part: class_of(network) for part, network in parts.items()}
        if self.distilled is not None:
            parts["student"] = self.distilled.network
        if self.controlnet is not None:
            parts[CONTROLNET] = self.controlnet
        if self.readers is not None:
            parts[HEADS] = self.readers.network
        hashes = {part: save_part(folder, part, network) for part, network in parts.items()}
        if self.readers is not None:
            heads = self.readers.network
            classes[HEADS] = describe(heads) | {"vocoder": hashes["vocoder"]}
        hashes |= {"bands": self.bands.sha256} if self.bands else {}
        index = {
            "_class_name": "MusicModel",
            **classes,
            **({"student": self.distilled.describe()} if self.distilled else {}),
            "spec": asdict(self.spec),
            "vocabulary": asdict(self.vocabulary),
            "guidance": self.guidance,
            "shift": self.shift,
            **({"spacing": self.spacing} if self.spacing else {}),
            "sampler": self.sampler,
            **({"bands": asdict(self.bands)} if self.bands else {}),
            "sha256": hashes,
        }
        write_index(folder, index)
        return hash_of_parts(hashes)


def check_model(model: object) -> None:
    """Check what is given as a model.

    Raises:
        ModelError: it is something else.
    """
    if not isinstance(model, MusicModel):
        raise ModelError(f"{shown(model)} is no model: give the one that ditto.load() returns")


def guided_denoiser(network: nn.Module, schedule: Schedule, bands: Bands = PLAIN) -> GuidedDenoiser:
    """Return the denoiser of a tag-conditioned network, which guides by `null_tags`.

    Args:
        network: its config names the `Prediction` and, for "sample", the `skip_std`.
        schedule: that it was trained with.
        bands: of its x_0, which chains limit to where the log-mel is in [−1, 1].
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    kind, skip_std = config["prediction"], float(config.get("skip_std", 0.0))
    return GuidedDenoiser(network, schedule, kind, null_tags, skip_std, bands.limited)


def student_denoiser(
    network: nn.Module,
    schedule: Schedule,
    call: Callable[..., Tensor] | None = None,
    bands: Bands = PLAIN,
) -> StudentDenoiser:
    """Return the denoiser of a distilled network, see `MusicModel.student_denoiser`."""
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    kind, skip_std = config["prediction"], float(config.get("skip_std", 0.0))
    told = bool(config.get("end_embedded", False))
    return StudentDenoiser(call or network, schedule, kind, skip_std, bands.limited, told)


def needs_windows(model: MusicModel, seconds: float | None) -> bool:
    """Tell whether music of that length is made in several windows of the model."""
    if seconds is None or not seconds > model.spec.seconds(model.shape(None)[-1]):
        return False
    try:
        model.shape(seconds)
    except RequestError:
        return True
    return False
