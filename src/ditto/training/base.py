"""Training the base model: a tag-conditioned diffusion model of log-mel clips (DITTO, appendix K).

Run it with ``ditto-music train base --config base --data datasets/train --out
runs/base``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import ClipDataset
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Prediction, Schedule
from ditto.errors import DataError
from ditto.models.conditioning import drop_conditions
from ditto.models.hub import load
from ditto.models.model import guided_denoiser
from ditto.models.transformer import PatchTransformer
from ditto.models.unet import TagUNet
from ditto.plots import mel_grid
from ditto.training.loop import Checkpoints, load_config, seeded, step_seed
from ditto.training.run import Recipe, Run

Network = PatchTransformer | TagUNet
EMBEDDED = "embedded"
NETWORKS: dict[str, Callable[..., Network]] = {"transformer": PatchTransformer, "unet": TagUNet}


class Clips(Protocol):
    """Where clips come from: a pure function of the step, which is what makes a killed run resume
    exactly.
    """

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """x_0 (B, 1, n_mels, frames) and conditions (B, 5)."""
        ...


@dataclass(frozen=True)
class DenoiserRecipe(Recipe):
    """What the trainings of all networks that denoise share: the base, its students, its adapters.

    Attributes:
        ema: decay of the averaged weights, which are evaluated and ship.
        tag_dropout: rate of condition dropout for CFG.
        grid_dropout: rate at which a clip's beat grid alone is dropped.
        data_std: standard deviation of x_0, which normalises the loss.
        max_weight: upper bound of the loss weight 1 + (data_std / σ_t)².
        precision: "no" (float32) or "bf16" (autocast of the network; the loss stays float32).
        evaluate_every: in steps.
    """

    ema: float = 0.999
    tag_dropout: float = 0.1
    grid_dropout: float = 0.15
    data_std: float = 0.26
    max_weight: float = 10.0
    precision: str = "no"
    evaluate_every: int = 250

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            DataError: a setting has an unknown name.
        """
        super().__post_init__()
        self.check_words(precision=("no", "bf16"))


@dataclass(frozen=True)
class BaseConfig(DenoiserRecipe):
    """Everything that determines the weights, given the data.

    Attributes:
        network: keyword arguments of the network's constructor.
        start_from: folder of a run from whose averaged weights this one starts, as far as names and
            shapes agree; "embedded" is the embedded base, whose network's settings must be these.
        trained: beginnings of the names of the weights that are trained, "*" for any number; none
            named is all.
        network_kind: "transformer" (the embedded model's) or "unet" (the papers').
        loss: "weighted_mse" of x̂_0, or "noise_l1", the papers' L1 on the noise, for a network that
            predicts epsilon.
        frames: length of a training clip in mel frames.
        shift: of the cosine noise schedule, see `Schedule.cosine`; None is `data_std`. What a clip
            is to be is decided at noise levels far above `data_std`, since its many values go
            together: a larger shift spends more there.
    """

    network: dict[str, Any] = field(default_factory=dict)
    start_from: str = ""
    trained: tuple[str, ...] = ()
    network_kind: str = "transformer"
    loss: str = "weighted_mse"
    frames: int = 512
    steps: int = 5000
    lr: float = 6e-4
    warmup: int = 200
    decay: float = 0.2
    weight_decay: float = 0.01
    grid_dropout: float = 0.0
    shift: float | None = None
    max_weight: float = 50.0
    checkpoint_every: int = 200
    evaluate_every: int = 500

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return Schedule.cosine(shift=self.data_std if self.shift is None else self.shift)

    def __post_init__(self) -> None:
        """Check the words.

        Raises:
            DataError: a setting has an unknown name.
        """
        super().__post_init__()
        object.__setattr__(self, "trained", tuple(self.trained))  # JSON has lists
        self.check_words(network_kind=NETWORKS, loss=LOSSES)


def diffusion_loss(
    network: nn.Module, setting: "Setting", x_0: Tensor, tags: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """The training loss, a float32 scalar.

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
    """Mean weighted square error of x̂_0, in units of the data's variance.

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
    """Mean |ε̂ − ε| (DITTO, appendix K).

    Raises:
        DataError: the network does not predict epsilon.
    """
    if setting.prediction != "epsilon":
        raise DataError(
            f"the loss noise_l1 needs the prediction epsilon, not {setting.prediction}: change the config"
        )
    return (output - example.noise).abs().mean()


LOSSES: dict[str, Callable[["Setting", Example, Tensor], Tensor]] = {
    "weighted_mse": weighted_mse,
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

    @classmethod
    def of(cls, config: BaseConfig, network: Network) -> "Setting":
        """The setting of a run."""
        denoiser = guided_denoiser(network, config.schedule)
        return cls(
            config.schedule,
            denoiser.prediction,
            config.data_std,
            config.max_weight,
            config.loss,
            denoiser.skip_std,
        )


def draw(
    config: DenoiserRecipe, schedule: Schedule, x_0: Tensor, step: int
) -> tuple[Tensor, Tensor, torch.Generator]:
    """Timesteps (stratified over the batch, uniform in t) and noise of one step, from (seed, step)
    alone.
    """
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    offsets = (torch.arange(len(x_0)) + torch.rand(len(x_0), generator=generator)) / len(x_0)
    t = (offsets * schedule.num_train).long().clamp(max=schedule.num_train - 1)
    return t, torch.randn(x_0.shape, generator=generator), generator


def train_base(
    config: BaseConfig, clips: Clips, out: Path, *, held_out: Clips | None = None, show: bool = True
) -> Network:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`; returns the EMA
    network.

    The same config, data and machine give the same float32 weights on a CPU bit for bit, however
    often the run was killed. Writes ``config.json``, ``log.jsonl``, ``tensorboard/``, ``samples/``
    and ``step-*/`` under `out`.
    """
    accelerator = Accelerator(mixed_precision=config.precision)
    network, averaged = started(config), started(config)
    setting = Setting.of(config, network)
    run = Run(config, out, accelerator, network, averages={"ema": config.ema})
    if config.start_from and not run.start:
        _evaluate(config, averaged, setting, held_out or clips, run)
    for step in run.steps("base", show):
        x_0, tags = clips.batch(step, config.batch_size)
        t, noise, generator = draw(config, setting.schedule, x_0, step)
        tags = drop_conditions(tags, config.tag_dropout, generator, config.grid_dropout)
        x_0, tags, t, noise = (a.to(accelerator.device) for a in (x_0, tags, t, noise))
        with accelerator.autocast():
            loss = diffusion_loss(run.model, setting, x_0, tags, t, noise)
        run.update(loss)
        if run.due(config.evaluate_every):
            run.averages["ema"].copy_to(averaged)
            _evaluate(config, averaged, setting, held_out or clips, run)
    run.averages["ema"].copy_to(averaged)
    return averaged


def train_from_folder(
    config: BaseConfig, data: Path, out: Path, *, held_out: Path | None = None
) -> Network:
    """`train_base` on a data folder.

    Raises:
        DataError: the network's tag sizes are not those of the data's vocabulary.
    """
    spec = AudioSpec(clip_frames=config.frames)
    clips = ClipDataset(data, spec, frames=config.frames, seed=config.seed)
    sizes = tuple(network_of(config).config["tag_sizes"])
    if sizes != clips.vocabulary.sizes:
        raise DataError(
            f"the config's tag_sizes are {list(sizes)}, but the data needs {list(clips.vocabulary.sizes)}"
        )
    held = (
        ClipDataset(held_out, spec, clips.vocabulary, frames=config.frames, seed=config.seed)
        if held_out
        else None
    )
    return train_base(config, clips, out, held_out=held)


def load_ema(out: Path) -> Network:
    """The averaged weights of a run's newest checkpoint.

    Raises:
        DataError: if the run has no checkpoint yet.
    """
    network = started(load_config(out / "config.json", BaseConfig))
    averages = Checkpoints(out).newest()[0]["ema"]
    network.load_state_dict(averages, strict=set(averages) == set(network.state_dict()))
    return network.eval()


def network_of(config: BaseConfig) -> Network:
    """The network of a recipe, its weights drawn by the recipe's seed."""
    with seeded(config.seed):
        return NETWORKS[config.network_kind](**config.network)


def started(config: BaseConfig) -> Network:
    """The network at step 0; what is not trained needs no gradient.

    Raises:
        DataError: the run that it starts from has no checkpoint, the embedded base is another
            network, or no weight has a name that is to be trained.
    """
    network = network_of(config)
    if config.start_from == EMBEDDED:
        _take(load().network.state_dict(), network)
    elif config.start_from:
        own, found = network.state_dict(), Checkpoints(Path(config.start_from)).newest()[0]["ema"]
        taken = {
            name: value
            for name, value in found.items()
            if name in own and own[name].shape == value.shape
        }
        network.load_state_dict(taken, strict=False)
    return _frozen(network, config.trained)


def _take(weights: Mapping[str, Tensor], network: Network) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise DataError(
            "the config's network is not the embedded base's: give the network of the recipe base-4"
        ) from None


def _frozen(network: Network, trained: Sequence[str]) -> Network:
    """The network, of which the weights alone are trained whose names begin with one of
    `trained`.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(
            not trained or any(fnmatch(name, f"{start}*") for start in trained)
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise DataError(
            f"no weight's name begins with {' or '.join(trained)}: change trained in the config"
        )
    return network


@torch.no_grad()
def held_out_loss(
    network: nn.Module, setting: Setting, config: BaseConfig, clips: Clips, batches: int = 4
) -> float:
    """Mean loss over fixed held-out clips, timesteps and noise, so that two checkpoints compare
    exactly.
    """
    losses = []
    for i in range(batches):
        x_0, tags = clips.batch(i, config.batch_size)
        t, noise, _ = draw(config, setting.schedule, x_0, i)
        loss = diffusion_loss(network, setting, x_0, tags, t, noise)
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def _evaluate(
    config: BaseConfig, network: Network, setting: Setting, clips: Clips, run: Run
) -> None:
    """Log the held-out loss; draw clips above samples of their tags."""
    network.eval()
    run.log.write(run.done, held_out_loss=held_out_loss(network, setting, config, clips))
    real, tags = clips.batch(0, 4)
    sampled = sample_clips(network, setting.schedule, tags, real.shape[1:], config.seed)
    mel_grid(run.picture, [*real, *sampled], columns=4)


def sample_clips(
    network: Network,
    schedule: Schedule,
    tags: Tensor,
    shape: Any,
    seed: int,
    steps: int = 20,
    guidance: float = 1.0,
) -> Tensor:
    """DDIM samples (B, 1, n_mels, frames) for `tags`, conditions (B, 5)."""
    chain = Chain(
        guided_denoiser(network, schedule), schedule, schedule.timesteps(steps), tags, guidance
    )
    noise = torch.randn(len(tags), *shape, generator=torch.Generator().manual_seed(seed))
    return ddim(chain, noise)
