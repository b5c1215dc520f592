"""What adapted pipelines share: their components as a `MusicModel`, prompts as conditions, decoding
in chunks.

A pipeline's own ``__call__`` is under ``no_grad``; its components are not, so a model is made of
those. Three conventions let every control and method run on them unchanged:

- x_0 is the pipeline's latent with time moved to the last axis, (B, …, frames), so one frame is one
  step of the latent. `AudioSpec.hop` is that step in samples: features of the sound and masks on
  the latent have the same frames.
- A condition is one float32 row an item: everything that the network is told with the prompt,
  flattened, and then the same with the negative prompt. The null condition is its second half
  twice.
- What controls hear is the mono mix of what is saved.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ditto.audio.features import log_mel
from ditto.audio.limiter import limited
from ditto.audio.spec import AudioSpec
from ditto.diffusion.consistency import StudentDenoiser
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.schedule import Prediction, Schedule
from ditto.errors import ModelError, RequestError
from ditto.models.adapters.student import new_student
from ditto.models.conditioning import Tags, TagVocabulary, guidance_features
from ditto.models.hashes import extended, fingerprints
from ditto.models.music_model import INDEX, STUDENT, MusicModel

NO_TAGS = TagVocabulary((), ())
"""Of a model that reads prompts: any word goes."""

WINDOW_SECONDS = 0.093
"""STFT window of the features, as in our own model."""

PICTURE_MELS = 128


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineModel(MusicModel):
    """A diffusers pipeline as a `MusicModel`; see this module's conventions.

    Attributes:
        pipe: the pipeline, whose components are frozen; it encodes prompts, and is what `save`
            writes.
        negative_prompt: c_∅ of classifier-free guidance; None is what the pipeline takes when none
            is given.
        checkpointing: keep only the inputs of the decoder's parts for the backward pass.
        chunk: frames of the decoder's last part that are decoded at once.
    """

    pipe: DiffusionPipeline
    negative_prompt: str | None = None
    checkpointing: bool = True
    chunk: int = 256
    licence: ClassVar[dict[str, str]]
    """Of the published weights, as a model card's metadata."""

    @cached_property
    @abstractmethod
    def schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The pipeline's own noise levels and grid."""

    @property
    def draft(self) -> MusicModel:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Itself."""
        return self

    @property
    def has_mel(self) -> bool:
        """No: x_0 is an autoencoder's, and `to_mel` hears its audio."""
        return False

    @property
    def prediction(self) -> Prediction:
        """What the network's output is: what the scheduler's config says."""
        return part(self.pipe).scheduler.config.prediction_type

    @property
    def vae(self) -> Any:
        """Mel spectrogram, or sound, ↔ latent."""
        return part(self.pipe).vae

    @abstractmethod
    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """What a network (the denoiser, or its student) makes of x_t, timesteps (B,) and one half
        of a condition.

        All are in the network's dtype; `inputs` are what a student is told besides.
        """

    @abstractmethod
    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Conditions (len(prompts), N) for clips of that length."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 → sound (B, channels, frames · hop), float32, not limited."""

    @property
    def denoiser(self) -> GuidedDenoiser:
        """``(x_t, t, cond, guidance) -> x̂_0``; `guidance` is the pipelines' ``guidance_scale``."""
        return GuidedDenoiser(
            self._output, self.schedule, self.prediction, null_condition, limit=None
        )

    def _output(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        dtype = part(self.network).dtype
        told = cond.chunk(2, dim=1)[0]
        return self.predict(part(self.network), x_t.to(dtype), t, told.to(dtype)).to(x_t.dtype)

    @cached_property
    def student_schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The pipeline's noise levels, on grids that begin at pure noise, evenly spaced, and end at
        clean data.

        A student that takes one step must take it from noise, and two are better not both at the
        ends.
        """
        return replace(self.schedule, spacing="trailing", offset=0, end=1.0)

    def student_denoiser(
        self, network: ModelMixin, call: Callable[..., Tensor] | None = None
    ) -> StudentDenoiser:
        """See `MusicModel.student_denoiser`.

        At t→0 x̂_0 is x_t itself, since it is computed from ε̂ or v̂ and σ = 0: CM's boundary
        condition.
        """
        width, ask = part(network).config.time_cond_proj_dim, call or part(network)

        def output(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor) -> Tensor:
            dtype = part(network).dtype
            told, features = cond.chunk(2, dim=1)[0], guidance_features(w, width)
            inputs = {"timestep_cond": features.to(dtype)}
            return self.predict(ask, x_t.to(dtype), t, told.to(dtype), **inputs).to(x_t.dtype)

        return StudentDenoiser(output, self.student_schedule, self.prediction, limit=None)

    def new_student(self) -> ModelMixin:
        """See `MusicModel.new_student`.

        Raises:
            ModelError: the pipeline's denoiser is a student already.
        """
        return new_student(self.network)

    def dropped(
        self, cond: Tensor, rate: float, generator: torch.Generator, grid_rate: float = 0.0
    ) -> Tensor:
        """Condition dropout: with probability `rate` an item loses its prompt."""
        lost = torch.rand(len(cond), 1, generator=generator) < rate
        return torch.where(lost, null_condition(cond), cond)

    @property
    def decoders(self) -> list[nn.Module]:
        """What makes sound of x_0, in that order."""
        vae = part(self.pipe).vae
        return [vae] if vae is self.vocoder else [vae, self.vocoder]

    def parts(self) -> list[nn.Module]:
        """Every network that a clip goes through."""
        return [*super().parts(), *self.decoders]

    def shape(self, seconds: float | None = None) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Shape (…, frames) of x_0 for a duration (default: the pipeline's own), rounded up to
        whole frames.

        Raises:
            RequestError: the duration is too short to be heard, or longer than the model can make.
        """
        frames = (
            self.spec.clip_frames
            if seconds is None
            else math.ceil(round(seconds * self.spec.frame_rate, 6))
        )
        shortest = self.spec.n_fft // (2 * self.spec.hop) + 1
        if frames < shortest or (self.longest is not None and frames > self.longest):
            limits = f"at least {self.spec.seconds(shortest):.2f}"
            limits += f" and at most {self.spec.seconds(self.longest):.2f}" if self.longest else ""
            raise RequestError(f"seconds must be {limits} with this model, not {seconds:g}")
        return (*self.latent_shape, frames)

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """x_0's shape, without batch and frames."""

    @property
    def longest(self) -> int | None:
        """Frames of the longest clip that the model can make; None is no limit of its own."""
        return None

    def cond(self, tags: Tags, batch: int = 1, seconds: float | None = None) -> Tensor:
        """Condition (batch, N) of a prompt, or of the sentence that tags make; encoded once,
        without gradients.
        """
        return self.prompts([tags.caption()], seconds).expand(batch, -1).clone()

    def prompts(self, prompts: Sequence[str], seconds: float | None = None) -> Tensor:
        """Conditions (len(prompts), N), float32, on the network's device."""
        length = self.spec.clip_seconds if seconds is None else seconds
        with torch.no_grad():
            return self.encoded(list(prompts), length).float().to(self.device)

    def to_sound(self, x_0: Tensor) -> Tensor:
        """x_0 → sound (B, channels, frames · hop) within ±1, differentiable, as it is saved."""
        return limited(self.decode(x_0.to(self.device)))

    def to_audio(self, x_0: Tensor) -> Tensor:
        """x_0 → mono mix (B, frames · hop), differentiable: what controls hear."""
        return self.to_sound(x_0).mean(dim=1)

    def to_mel(self, x_0: Tensor) -> Tensor:
        """x_0 → log-mel (B, n_mels, frames) of `to_audio`, in Ditto's own scale."""
        return log_mel(self.to_audio(x_0), self.spec)

    def _write(self, folder: Path) -> str:
        """The pipeline's own files, which diffusers loads too, and a card with the base's
        licence.
        """
        self.pipe.save_pretrained(folder, safe_serialization=True)
        (folder / "README.md").write_text(self.card(), encoding="utf-8")
        if self.distilled is None:
            return self.sha256
        about = self.distilled.write(folder)
        index = json.loads((folder / INDEX).read_text(encoding="utf-8")) | {STUDENT: about}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return extended(fingerprints([self.network, *self.decoders]), about["sha256"]["student"])

    def card(self) -> str:
        """The model card."""
        kind = type(self.pipe).__name__
        text = (
            f"A `{kind}` saved by Ditto, which controls it by its initial noise: `ditto.load(...)` reads this folder, "
            f"and so does `{kind}.from_pretrained`."
        )
        if self.distilled is not None:
            text += f" `student/` is its denoiser, distilled to few steps ({self.distilled.kind.upper()})."
        return self._card(self.name, text)

    def student_card(self) -> str:
        """The model card of a student alone."""
        text = (
            f"The denoiser of `{self.name}`, distilled to few steps by Ditto: `ditto.load({self.name!r})"
            '.with_student("this folder")`.'
        )
        return self._card(f"Student of {self.name}", text)

    def _card(self, title: str, text: str) -> str:
        head = "\n".join(f"{key}: {value}" for key, value in self.licence.items())
        return (
            f"---\n{head}\nlibrary_name: diffusers\npipeline_tag: text-to-audio\n---\n\n# {title}\n\n{text}\n\n"
            "The weights come from the base model, and its licence goes with them.\n"
        )

    def kept(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``function(x)``, of which the backward pass keeps only x if `checkpointing`."""
        if not (self.checkpointing and torch.is_grad_enabled() and x.requires_grad):
            return function(x)
        return cast(Tensor, checkpoint(function, x, use_reentrant=False, preserve_rng_state=False))


def part(module: object) -> Any:
    """A component of a pipeline; their attributes are dynamic, which type checkers cannot
    follow.
    """
    return module


def null_condition(cond: Tensor) -> Tensor:
    """c_∅: the half of each row that holds the negative prompt, in both places."""
    negative = cond.chunk(2, dim=1)[1]
    return torch.cat([negative, negative], dim=1)


def packed(positive: Sequence[Tensor], negative: Sequence[Tensor]) -> Tensor:
    """Conditions (B, N) of what the network is told with the prompt, and with the negative prompt,
    all (B, …).
    """
    return torch.cat([tensor.flatten(1).float() for tensor in (*positive, *negative)], dim=1)


def feature_spec(sample_rate: int, hop: int, frames: int) -> AudioSpec:
    """The spectrogram that controls see: a frame is one step of the latent, the window is about
    `WINDOW_SECONDS`.
    """
    n_fft = max(
        2 ** round(math.log2(WINDOW_SECONDS * sample_rate)), 2 ** math.ceil(math.log2(2 * hop))
    )
    return AudioSpec(sample_rate, n_fft, hop, PICTURE_MELS, clip_frames=frames)


def schedule_of(scheduler: object) -> Schedule:
    """Noise levels and grid of a DDIM scheduler, or of another with the same training schedule.

    Raises:
        ModelError: the scheduler is not one of discrete, variance-preserving timesteps.
    """
    config = part(scheduler).config
    alpha_bar = getattr(scheduler, "alphas_cumprod", None)
    spacing = config.get("timestep_spacing", "leading")
    if alpha_bar is None or spacing not in ("leading", "trailing", "linspace"):
        raise ModelError(
            f"cannot use the scheduler {type(scheduler).__name__}: give the pipeline a DDIMScheduler"
        )
    alpha_bar = alpha_bar.double()
    end = 1.0 if config.get("set_alpha_to_one", True) else float(alpha_bar[0])
    return Schedule(alpha_bar, spacing, config.get("steps_offset", 0), end)


def in_chunks(
    decode: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int, reach: int, rate: int
) -> Tensor:
    """``decode`` of x (B, C, frames), cut to frames · rate samples, a chunk at a time.

    Each chunk is decoded with `reach` frames around it, which must be at least as far as a sample
    looks for the result to be that of one piece. So memory does not grow with the length of the
    clip.
    """
    frames, pieces = x.shape[-1], []
    for start in range(0, frames, chunk):
        stop = min(start + chunk, frames)
        first, last = max(0, start - reach), min(frames, stop + reach)
        sound = decode(x[..., first:last])
        pieces.append(sound[..., (start - first) * rate : (stop - first) * rate])
    return torch.cat(pieces, dim=-1)


def frozen(pipe: DiffusionPipeline) -> None:
    """Put a pipeline's components into evaluation mode and freeze their parameters."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
