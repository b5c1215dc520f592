"""What adapted rectified flows share: the network's own variables, sound in and out.

A flow's x_τ = (1 − τ)·x_0 + τ·ε reaches samplers and methods divided by √((1 − τ)² + τ²), so that
all of them work on it (see `ditto.diffusion.schedule`). The network gets its own x_τ and τ back,
both computed in float32 before anything is cast: time features may turn 10 000 times from 0 to 1.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, cast

from torch import Tensor, nn
from torch.nn.functional import pad

from ditto.diffusion.schedule import Flow, Prediction
from ditto.errors import ModelError
from ditto.models.adapters.common import PipelineModel, in_chunks
from ditto.models.student import OWN, Student

OWN_STEPS = 8
"""Steps that the makers of few-step checkpoints sample them in."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FlowModel(PipelineModel):
    """A pipeline of a rectified flow; `predict` computes u = ε − x_0 and its `t` is τ, float32.

    Attributes:
        known: mask (1, frames) and latent (channels, frames) of a region that the network is told
            to keep, see `keeping`; None is none.
    """

    known: tuple[Tensor, Tensor] | None = None

    @cached_property
    @abstractmethod
    def schedule(self) -> Flow:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The pipeline's own grid."""

    @property
    def prediction(self) -> Prediction:
        """The flow's velocity."""
        return "flow"

    def seen(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_τ (B, …, frames) and τ (B,), float32."""
        signal, spread = self.schedule.scales(t, x_t)
        return x_t / (signal + spread), self.schedule.time(t)

    def keeping(self, mask: Tensor, reference: Tensor) -> Self:
        """See `MusicModel.keeping`; the reference counts where the mask is 1 only."""
        mask, reference = mask.to(self.device)[None], reference.to(self.device)
        return replace(self, known=(mask, reference * mask))

    @property
    @abstractmethod
    def reach(self) -> int:
        """Frames to either side that a decoded sample depends on."""

    @abstractmethod
    def latent_of(self, sound: Tensor) -> Tensor:
        """Encode sound (B, channels, frames · hop) as x_0."""

    def decode(self, x_0: Tensor) -> Tensor:
        """Decode by the autoencoder to sound (B, channels, frames · hop)."""
        return in_chunks(
            lambda z: self.checkpointed(self._sound_of, z),
            x_0,
            chunk=self.chunk,
            reach=self.reach,
            rate=self.spec.hop,
        )

    def _sound_of(self, z: Tensor) -> Tensor:
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio (B, samples) or (B, channels, samples) as x_0, its last frame padded."""
        channels = self.vae.config.audio_channels
        sound = audio[:, None] if audio.ndim == 2 else audio
        if sound.shape[1] != channels:
            sound = sound.mean(dim=1, keepdim=True).expand(-1, channels, -1)
        sound = pad(sound, (0, -sound.shape[-1] % self.spec.hop)).to(self.device)
        return self.latent_of(sound.to(self.vae.dtype)).to(sound.dtype)


def own_student(network: nn.Module) -> Student:
    """Return a denoiser that its makers distilled as its own student: without CFG, in few steps."""
    return Student(network, OWN, (1.0, 1.0), "", OWN_STEPS)


def check_scheduler(scheduler: object, name: str) -> None:
    """Check that a pipeline's scheduler takes a flow's times as they are.

    Args:
        scheduler: the pipeline's.
        name: of the model's family, for the message.

    Raises:
        ModelError: it shifts or scales them.
    """
    config: dict[str, Any] = dict(cast(Any, scheduler).config)
    plain = {"num_train_timesteps": 1, "shift": 1.0}
    off = {"use_dynamic_shifting", "invert_sigmas", "shift_terminal"}
    if any(config.get(key) != value for key, value in plain.items()) or any(map(config.get, off)):
        raise ModelError(
            f"cannot use the scheduler {type(scheduler).__name__}: {name} wants a "
            "FlowMatchEulerDiscreteScheduler with num_train_timesteps 1 and shift 1"
        )
