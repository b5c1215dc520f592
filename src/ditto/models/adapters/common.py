"""Adapted pipelines' common ground: components as a `MusicModel`, prompts, decoding in chunks.

A pipeline's own ``__call__`` is under ``no_grad``; its components are not, so a model is made of
those. Three conventions let every control and method run on them unchanged:

- x_0 is the pipeline's latent with time moved to the last axis, (B, …, frames), so one frame is one
  step of the latent. `AudioSpec.hop` is that step in samples: features of the sound and masks on
  the latent have the same frames.
- A condition is one float32 row per item: all of the network's inputs for the prompt, flattened,
  and then those for the negative prompt. The null condition is its second half twice.
- Controls work on the mono mix of the sound that is saved.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
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
from ditto.models.folder import (
    PIPELINE_HEADS,
    PIPELINE_STUDENT,
    hash_networks,
    hash_with_student,
    read_index,
    write_index,
)
from ditto.models.heads import write_heads
from ditto.models.model import MusicModel

NO_TAGS = TagVocabulary((), ())
"""The vocabulary of a model that reads prompts."""

WINDOW_SECONDS = 0.093
"""STFT window of the controls' features, as in our own model."""

FEATURE_MELS = 128


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineModel(MusicModel):
    """A diffusers pipeline as a `MusicModel`; see this module's conventions.

    Attributes:
        pipe: the pipeline, whose components are frozen; it encodes prompts, and is what `save`
            writes.
        negative_prompt: c_∅ of classifier-free guidance; None is the pipeline's own default.
        checkpointing: keep only the inputs of the decoder's parts for the backward pass.
        chunk: frames of the decoder's last part that are decoded at once.
    """

    pipe: DiffusionPipeline
    negative_prompt: str | None = None
    checkpointing: bool = True
    chunk: int = 256
    licence: ClassVar[dict[str, str]]
    """Of the published weights, as a model card's metadata."""
    sings: ClassVar[bool] = False
    """Whether lyrics are among its conditions."""
    knows_keys: ClassVar[bool] = False
    """Whether keys are among its conditions."""

    @cached_property
    @abstractmethod
    def schedule(self) -> Schedule:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The pipeline's own noise levels and grid."""

    @property
    def fast(self) -> MusicModel:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model itself: pipelines have no faster decoder."""
        return self

    @property
    def data_std(self) -> float:
        """1: pipelines scale their latents so."""
        return 1.0

    @property
    def has_mel(self) -> bool:
        """False: x_0 is an autoencoder's, and `to_mel` decodes it."""
        return False

    @property
    def prediction(self) -> Prediction:
        """Kind of the network's output, from the scheduler's config."""
        return cast(Any, self.pipe).scheduler.config.prediction_type

    @property
    def vae(self) -> Any:
        """Mel spectrogram, or sound, ↔ latent."""
        return cast(Any, self.pipe).vae

    @abstractmethod
    def predict(
        self, network: Callable[..., Any], x_t: Tensor, t: Tensor, cond: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Run the denoiser or its student; all tensors but t are in the network's dtype.

        Args:
            network: the one or the other.
            x_t: (B, …, frames), as of `seen`.
            t: (B,), as of `seen`.
            cond: one half of a condition, (B, N).
            inputs: further inputs of a student.
        """

    def seen(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_t (B, …, frames) and the time (B,) as the network knows them."""
        return x_t, t

    @abstractmethod
    def encoded(self, prompts: list[str], seconds: float) -> Tensor:
        """Encode prompts as conditions (len(prompts), N) for clips of that length."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """Decode x_0 to sound (B, channels, frames · hop), float32, not limited."""

    @property
    def denoiser(self) -> GuidedDenoiser:
        """``(x_t, t, cond, guidance) -> x̂_0``; `guidance` is the pipelines' ``guidance_scale``."""
        return GuidedDenoiser(
            self._output, self.schedule, self.prediction, null_condition, limit=None
        )

    def _output(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        network = cast(Any, self.network)
        prompt = cond.chunk(2, dim=1)[0].to(network.dtype)
        x, time = self.seen(x_t, t)
        return self.predict(network, x.to(network.dtype), time, prompt).to(x_t.dtype)

    @cached_property
    def student_schedule(self) -> Schedule:
        """The pipeline's noise levels; even grids, from noise on, unless a student says otherwise.

        A student that takes one step must take it from noise, and two are better not both at the
        ends.
        """
        own = self.distilled.spacing if self.distilled else None
        schedule = replace(self.schedule, spacing=own or "trailing", offset=0, end=1.0)
        return schedule.suited(self.prediction)

    def student_denoiser(
        self, network: nn.Module, call: Callable[..., Tensor] | None = None
    ) -> StudentDenoiser:
        """See `MusicModel.student_denoiser`.

        At t→0 x̂_0 is x_t itself, since it is computed from ε̂ or v̂ and σ = 0: CM's boundary
        condition.
        """
        config, function = cast(Any, network).config, call or network

        def output(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor) -> Tensor:
            dtype = cast(Any, network).dtype
            prompt = cond.chunk(2, dim=1)[0].to(dtype)
            features = guidance_features(w, config.time_cond_proj_dim).to(w.device, dtype)
            x, time = self.seen(x_t, t)
            predicted = self.predict(function, x.to(dtype), time, prompt, timestep_cond=features)
            return predicted.to(x_t.dtype)

        return StudentDenoiser(output, self.student_schedule, self.prediction, limit=None)

    @cached_property
    def student(self) -> StudentDenoiser | None:
        """See `MusicModel.student`; a model that is its own student does without w."""
        if self.distilled is None or not self.distilled.own:
            return super().student
        return StudentDenoiser(
            lambda x_t, t, cond, w: self._output(x_t, t, cond),
            self.student_schedule,
            self.prediction,
            limit=None,
        )

    def new_student(self, told_end: bool = False) -> nn.Module:
        """See `MusicModel.new_student`; no pipeline's student is told where a jump ends."""
        if told_end:
            raise ModelError("no pipeline's student can be told where a jump ends")
        if self.distilled is not None and self.distilled.own:
            raise ModelError(
                "this model's makers distilled it: it is its own student, which ditto2 takes as it "
                "is"
            )
        return new_student(self.network)

    def drop_conditions(
        self, cond: Tensor, rate: float, generator: torch.Generator, grid_rate: float = 0.0
    ) -> Tensor:
        """Drop conditions for CFG: with probability `rate` an item loses its prompt."""
        lost = torch.rand(len(cond), 1, generator=generator) < rate
        return torch.where(lost, null_condition(cond), cond)

    @property
    def encoders(self) -> list[nn.Module]:
        """Networks that encode prompts."""
        used = {id(network) for network in (self.network, self.vae, self.vocoder)}
        components = self.pipe.components.values()
        return [n for n in components if isinstance(n, nn.Module) and id(n) not in used]

    @property
    def decoders(self) -> list[nn.Module]:
        """Networks that decode x_0, in the order of their use."""
        return [self.vae] if self.vae is self.vocoder else [self.vae, self.vocoder]

    def parts(self) -> list[nn.Module]:
        """Return every network that a clip goes through."""
        return [*super().parts(), *self.decoders]

    def shape(self, seconds: float | None = None) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the shape (…, frames) of x_0 for a duration, rounded up to whole frames.

        Args:
            seconds: None is the pipeline's own default.

        Raises:
            RequestError: the duration is shorter than half a window of the features, or longer than
                the model can make.
        """
        frames = self.spec.clip_frames
        if seconds is not None:
            exact = round(seconds * self.spec.frame_rate, 6)
            frames = math.ceil(exact) if math.isfinite(exact) else 0
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
        """Encode a prompt, or the sentence that tags make, as a condition (batch, N).

        Raises:
            TagError: lyrics or a key, which the model does not take.
        """
        return self.cond_each([tags], seconds).expand(batch, -1).clone()

    def cond_each(self, tags: Sequence[Tags], seconds: float | None = None) -> Tensor:
        """Encode several sets of tags together, (len(tags), N), float32, without gradients.

        Args:
            tags: one set per condition.
            seconds: length of the clips; None is the pipeline's own default.

        Raises:
            TagError: lyrics or a key, which the model does not take.
        """
        for one in tags:
            one.check(lyrics=self.sings, key=self.knows_keys)
        length = self.spec.clip_seconds if seconds is None else seconds
        with torch.no_grad():
            conditions = self.encoded_tags(list(tags), length).float().to(self.device)
        for encoder in self.encoders if self.low_memory else ():
            encoder.to("cpu")
        return conditions

    def encode_prompts(self, prompts: Sequence[str], seconds: float | None = None) -> Tensor:
        """Encode prompts, as of `cond_each`."""
        return self.cond_each([Tags(prompt=prompt) for prompt in prompts], seconds)

    def encoded_tags(self, tags: list[Tags], seconds: float) -> Tensor:
        """Encode sets of tags as conditions (len(tags), N): by default their captions."""
        return self.encoded([one.caption() for one in tags], seconds)

    def to_sound(self, x_0: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Decode x_0 to the sound that is saved, (B, channels, frames · hop) within ±1.

        Decoders of pipelines add no noise, so that there is nothing to seed.
        """
        return limited(self.decode(x_0.to(self.device)))

    def to_audio(self, x_0: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Decode x_0 to the mono mix (B, frames · hop) that controls work on."""
        return self.to_sound(x_0, seeds).mean(dim=1)

    def to_mel(self, x_0: Tensor) -> Tensor:
        """Return the log-mel (B, n_mels, frames) of `to_audio`, in Ditto's own scale."""
        return log_mel(self.to_audio(x_0), self.spec)

    def _write(self, folder: Path) -> str:
        """Write the pipeline's own files, which diffusers loads too, and a card."""
        self.pipe.save_pretrained(folder, safe_serialization=True)
        (folder / "README.md").write_text(self.card(), encoding="utf-8")
        parts: dict[str, Any] = {}
        digest = self.sha256
        if self.readers is not None:
            parts[PIPELINE_HEADS] = write_heads(self.readers.network, folder)
        if self.distilled is not None and not self.distilled.own:
            parts[PIPELINE_STUDENT] = student = self.distilled.write(folder)
            base = hash_networks([self.network, *self.decoders])
            digest = hash_with_student(base, student["sha256"]["student"])
        if parts:
            kind = type(self.pipe).__name__
            write_index(folder, read_index(folder, (kind,), f"a {kind}") | parts)
        return digest

    def card(self) -> str:
        """Return the model card."""
        kind = type(self.pipe).__name__
        text = (
            f"A `{kind}` saved by Ditto, which controls it by its initial noise: `ditto.load(...)` "
            f"reads this folder, and so does `{kind}.from_pretrained`."
        )
        if self.distilled is not None and not self.distilled.own:
            kind = self.distilled.kind.upper()
            text += f" `student/` is its denoiser, distilled to few steps ({kind})."
        return self._card(self.name, text)

    def student_card(self) -> str:
        """Return the model card of a student alone."""
        text = (
            f"The denoiser of `{self.name}`, distilled to few steps by Ditto: "
            f'`ditto.load({self.name!r}).with_student("this folder")`.'
        )
        return self._card(f"Student of {self.name}", text)

    def _card(self, title: str, text: str) -> str:
        head = "\n".join(f"{key}: {value}" for key, value in self.licence.items())
        return (
            f"---\n{head}\nlibrary_name: diffusers\npipeline_tag: text-to-audio\n---\n\n"
            f"# {title}\n\n{text}\n\n"
            "The weights come from the base model, and its licence goes with them.\n"
        )

    def checkpointed(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Call ``function(x)``; if `checkpointing`, the backward pass keeps only x."""
        if not (self.checkpointing and torch.is_grad_enabled() and x.requires_grad):
            return function(x)
        return cast(Tensor, checkpoint(function, x, use_reentrant=False, preserve_rng_state=False))


def null_condition(cond: Tensor) -> Tensor:
    """Return c_∅: the half of each row that holds the negative prompt, twice."""
    negative = cond.chunk(2, dim=1)[1]
    return torch.cat([negative, negative], dim=1)


def pack_condition(positive: Sequence[Tensor], negative: Sequence[Tensor]) -> Tensor:
    """Pack the network's inputs for prompt and negative prompt, (B, …) each, as (B, N)."""
    return torch.cat([tensor.flatten(1).float() for tensor in (*positive, *negative)], dim=1)


def feature_spec(sample_rate: int, hop: int, frames: int) -> AudioSpec:
    """Return the spectrogram of the controls' features.

    A frame is one step of the latent; the window is about `WINDOW_SECONDS`.
    """
    n_fft = max(
        2 ** round(math.log2(WINDOW_SECONDS * sample_rate)), 2 ** math.ceil(math.log2(2 * hop))
    )
    return AudioSpec(sample_rate, n_fft, hop, FEATURE_MELS, clip_frames=frames)


def schedule_of(scheduler: object) -> Schedule:
    """Read noise levels and grid of a DDIM scheduler, or another with the same schedule.

    Raises:
        ModelError: the scheduler is not one of discrete, variance-preserving timesteps.
    """
    config = cast(Any, scheduler).config
    alpha_bar = getattr(scheduler, "alphas_cumprod", None)
    spacing = config.get("timestep_spacing", "leading")
    if alpha_bar is None or spacing not in ("leading", "trailing", "linspace"):
        raise ModelError(
            f"cannot use the scheduler {type(scheduler).__name__}: give the pipeline a "
            "DDIMScheduler"
        )
    alpha_bar = alpha_bar.double()
    end = 1.0 if config.get("set_alpha_to_one", True) else float(alpha_bar[0])
    return Schedule(alpha_bar, spacing, config.get("steps_offset", 0), end)


def in_chunks(
    decode: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int, reach: int, rate: int
) -> Tensor:
    """Decode x (B, C, frames) to frames · rate samples, a chunk at a time, to bound memory.

    Args:
        decode: of any number of frames.
        x: the latent.
        chunk: frames at once.
        reach: frames that are decoded on either side of a chunk besides; at least the decoder's
            receptive field for the result to be that of one piece.
        rate: samples of a frame.
    """
    frames, pieces = x.shape[-1], []
    for start in range(0, frames, chunk):
        stop = min(start + chunk, frames)
        first, last = max(0, start - reach), min(frames, stop + reach)
        sound = decode(x[..., first:last])
        pieces.append(sound[..., (start - first) * rate : (stop - first) * rate])
    return torch.cat(pieces, dim=-1)


def freeze(pipe: DiffusionPipeline) -> None:
    """Put a pipeline's components into evaluation mode and freeze their parameters."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
