"""What trainings of networks that denoise share: recipes, losses, and a step's random draws."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ditto.data.dataset import ClipDataset
from ditto.diffusion.schedule import Prediction, Schedule
from ditto.errors import DataError
from ditto.models.model import guided_denoiser
from ditto.models.transformer import PatchTransformer
from ditto.models.unet import TagUNet
from ditto.training.learner import Count, Decay, Every, NotNegative, Positive, Recipe, Share
from ditto.training.loop import step_seed
from ditto.training.times import logit_normal_times, uniform_times

Network = PatchTransformer | TagUNet
NETWORKS: dict[str, Callable[..., Network]] = {"transformer": PatchTransformer, "unet": TagUNet}


class Clips(Protocol):
    """Where clips come from: a function of the step alone, so that a killed run resumes exactly."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return x_0 (B, 1, n_mels, frames) and conditions (B, 5)."""
        ...


def part_of(clips: Clips, step: int, batch_size: int, part: slice) -> tuple[Tensor, Tensor]:
    """Return a step's batch; clips outside `part` are zero where that saves reading them."""
    if isinstance(clips, ClipDataset):
        return clips.batch(step, batch_size, part)
    return clips.batch(step, batch_size)


@dataclass(frozen=True)
class DenoiserRecipe(Recipe):
    """What the trainings of all networks that denoise share: the base, its students, its adapters.

    Attributes:
        ema: decay of the averaged weights, which are evaluated and ship.
        tag_dropout: rate of condition dropout for CFG.
        grid_dropout: rate at which a clip's beat grid alone is dropped.
        data_std: standard deviation of x_0, which normalises the loss.
        max_weight: upper bound of the loss weight 1 + (data_std / σ_t)².
        times: how timesteps are drawn, "uniform" or "logit_normal", see `ditto.training.times`.
        time_mean, time_std, uniform_share: of the latter.
        precision: "no" (float32) or "bf16" (autocast of the network; the loss stays float32), which
            is float32 where a device does not multiply bfloat16 natively.
        evaluate_every: in steps.
    """

    ema: Decay = 0.999
    tag_dropout: Share = 0.1
    grid_dropout: Share = 0.15
    data_std: Positive = 0.26
    max_weight: Positive = 10.0
    times: Literal["uniform", "logit_normal"] = "uniform"
    time_mean: float = 0.4
    time_std: NotNegative = 1.0
    uniform_share: Share = 0.05
    precision: Literal["no", "bf16"] = "no"
    evaluate_every: Every = 250


@dataclass(frozen=True)
class BaseConfig(DenoiserRecipe):
    """Everything that determines the weights, given the data.

    Attributes:
        network: keyword arguments of the network's constructor.
        start_from: folder of a run from whose averaged weights this one starts, as far as names and
            shapes agree; or of a model, or "embedded", whose network's settings must be these.
        continued: whether it takes that run's last weights, optimiser and averages as they are, in
            place of the averages alone: so a run at a constant rate is brought to an end beside
            itself, while it goes on.
        trained: beginnings of the names of the weights that are trained, "*" for any number; none
            named is all.
        network_kind: "transformer" (the embedded model's) or "unet" (the papers').
        loss: "weighted_mse" or "velocity_mse" of x̂_0, or "noise_l1", the papers' L1 on the noise,
            for a network that predicts epsilon.
        least_share: the noise's share below which "velocity_mse" weighs no more.
        normalised: whether x_0 has its mel bands normalised, by the statistics of the data that the
            run begins with; a run that starts from another has that one's.
        slow_ema: decay of a second average that is evaluated too, 0 for none.
        ema_every: steps between updates of the averages; a decay is that of one step all the same.
        measured: held-out clips that the denoising error is measured on, a multiple of 16; 0 for
            none.
        frames: length of a training clip in mel frames.
        shift: of the cosine noise schedule, see `Schedule.cosine`; None is `data_std`. What a clip
            is to be is decided at noise levels far above `data_std`, since its many values go
            together: a larger shift spends more there.
    """

    network: dict[str, Any] = field(default_factory=dict)
    start_from: str = ""
    continued: bool = False
    trained: tuple[str, ...] = ()
    network_kind: Literal["transformer", "unet"] = "transformer"
    loss: Literal["weighted_mse", "velocity_mse", "noise_l1"] = "weighted_mse"
    least_share: Share = 0.1
    normalised: bool = False
    slow_ema: Decay = 0.0
    ema_every: Every = 1
    measured: Count = 0
    frames: Every = 512
    steps: Count = 5000
    lr: NotNegative = 6e-4
    warmup: Count = 200
    decay: Share = 0.2
    weight_decay: NotNegative = 0.01
    grid_dropout: Share = 0.0
    shift: Positive | None = None
    max_weight: Positive = 50.0
    checkpoint_every: Every = 200
    evaluate_every: Every = 500

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return Schedule.cosine(shift=self.data_std if self.shift is None else self.shift)


def diffusion_loss(
    network: nn.Module, setting: "Setting", x_0: Tensor, tags: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Compute the training loss, a float32 scalar.

    Args:
        network: ``(x_t, t, tags) -> output``.
        setting: schedule, prediction and kind of loss.
        x_0: clean clips, shape (B, 1, n_mels, frames).
        tags: conditions, shape (B, 5).
        t: timesteps, shape (B,).
        noise: ε, of x_0's shape.
    """
    x_t = setting.schedule.add_noise(x_0, noise, t)
    output = network(x_t, t, tags).float()
    return LOSSES[setting.loss](setting, Example(x_0, noise, x_t, t), output)


@dataclass(frozen=True, eq=False)
class Example:
    """A noised batch: `x_0`, `noise`, `x_t` (B, 1, n_mels, frames), `t` (B,)."""

    x_0: Tensor
    noise: Tensor
    x_t: Tensor
    t: Tensor


def weighted_mse(setting: "Setting", example: Example, output: Tensor) -> Tensor:
    """Average the weighted square error of x̂_0, in units of the data's variance.

    The weight 1 + (σ_data / σ_t)² makes it ‖v̂ − v‖² for data scaled to variance 1 (Salimans & Ho
    2022), which is EDM's weight too (Karras et al. 2022). Its bound keeps the nearly clean
    timesteps, where there is little left to learn, from taking over.
    """
    x_0, t = example.x_0, example.t
    estimate = setting.schedule.to_x_0(output, example.x_t, t, setting.prediction, setting.skip_std)
    weight = (1 + (setting.data_std / setting.schedule.sigma(t, x_0)).square()).clamp(
        max=setting.max_weight
    )
    return (weight * ((estimate - x_0) / setting.data_std).square()).mean()


def noise_l1(setting: "Setting", example: Example, output: Tensor) -> Tensor:
    """Average |ε̂ − ε| (DITTO, appendix K).

    Raises:
        DataError: the network does not predict epsilon.
    """
    if setting.prediction != "epsilon":
        raise DataError(
            f"the loss noise_l1 needs the prediction epsilon, not {setting.prediction}: change "
            "the config"
        )
    return (output - example.noise).abs().mean()


def velocity_mse(setting: "Setting", example: Example, output: Tensor) -> Tensor:
    """Average the square error of a straight path's velocity ε − x_0, for data of variance 1.

    With s = σ / (1 + σ) the noise's share, (1 − s)·x_0 + s·ε is the path, and its velocity's error
    is that of x̂_0 over s. Below s = `least_share` it weighs no more.
    """
    x_0, t = example.x_0, example.t
    estimate = setting.schedule.to_x_0(output, example.x_t, t, setting.prediction, setting.skip_std)
    sigma = setting.schedule.sigma(t, x_0)
    share = (sigma / (1 + sigma)).clamp(min=setting.least_share)
    squares = nn.functional.mse_loss(estimate, x_0, reduction="none")  # in the fewest passes
    errors = squares.flatten(1).mean(dim=1)
    return (errors / share.flatten().square()).mean()


LOSSES: dict[str, Callable[["Setting", Example, Tensor], Tensor]] = {
    "weighted_mse": weighted_mse,
    "velocity_mse": velocity_mse,
    "noise_l1": noise_l1,
}


@dataclass(frozen=True)
class Setting:
    """What the loss needs to know besides the tensors."""

    schedule: Schedule
    prediction: Prediction
    data_std: float
    max_weight: float
    loss: str = "weighted_mse"
    skip_std: float = 0.0
    least_share: float = 0.1

    @classmethod
    def of(cls, config: BaseConfig, network: Network) -> "Setting":
        """Collect the setting of a run."""
        denoiser = guided_denoiser(network, config.schedule)
        return cls(
            config.schedule,
            denoiser.prediction,
            config.data_std,
            config.max_weight,
            config.loss,
            denoiser.skip_std,
            config.least_share,
        )


def draw(
    config: DenoiserRecipe, schedule: Schedule, x_0: Tensor, step: int
) -> tuple[Tensor, Tensor, torch.Generator]:
    """Draw timesteps (stratified over the batch) and noise of a step, from (seed, step) alone."""
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    if config.times == "uniform":
        t = uniform_times(schedule, len(x_0), generator)
    else:
        t = logit_normal_times(
            schedule, len(x_0), generator, config.time_mean, config.time_std, config.uniform_share
        )
    return t, torch.randn(x_0.shape, generator=generator), generator
