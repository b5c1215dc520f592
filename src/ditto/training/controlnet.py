"""Training a ControlNet on a finished base: the adapter learns to denoise clips whose curves it is
told.

Run it with ``ditto-music train controlnet --data datasets/train --out runs/controlnet``. The curves
are the controls' own features of the clip's audio, so generating with it asks for what it was
trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import soundfile
import torch
from pydantic import Field
from torch import Tensor

from ditto.audio.chroma import log_chroma
from ditto.audio.features import intensity
from ditto.controls.notes import REST
from ditto.data.dataset import ClipDataset, read_labels
from ditto.data.files import read_errors
from ditto.data.shards import folder_of
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import DataError
from ditto.methods.controlnet import controlled
from ditto.models.conditioning import drop_conditions
from ditto.models.controlnet import ControlAdapter, encode_curves
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.transformer import PatchTransformer
from ditto.paths import StrPath
from ditto.training.denoising import DenoiserRecipe, Example, Setting, weighted_mse
from ditto.training.denoising import draw as draw_noise
from ditto.training.learner import Count, Decay, Every, NotNegative, Share
from ditto.training.place import accelerator_of
from ditto.training.run import Run

SHOWN = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips with what is known of them.

    Attributes:
        x_0: (B, 1, n_mels, frames).
        cond: conditions (B, 5).
        levels: smoothed loudness in dB, (B, frames).
        classes: pitch classes 0 to 11, (B, frames), int64.
    """

    x_0: Tensor
    cond: Tensor
    levels: Tensor
    classes: Tensor


class ControlledClips(Protocol):
    """Where clips come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> Batch:
        """Return the clips of a step."""
        ...


class ControlledDataset:
    """Random clips of a data folder with the loudness and the melody of their own audio.

    Args:
        root: a finished data folder.
        model: its window, spectrogram and vocabulary.
        seed: of the random crops.

    Raises:
        DataError: see `ClipDataset`.
        TagError: a label is not in the model's vocabulary.
    """

    def __init__(self, root: Path, model: MusicModel, *, seed: int = 0) -> None:
        self.spec, self.frames, self.seed = model.spec, model.spec.clip_frames, seed
        self.clips = ClipDataset(
            root, self.spec, model.vocabulary, frames=self.frames, seed=seed, bands=model.bands
        )
        self.files = [root / piece["file"] for piece in read_labels(root)]

    def batch(self, step: int, batch_size: int) -> Batch:
        """Return the clips of a step."""
        rng = np.random.default_rng([self.seed, step])
        pieces, places = (
            rng.integers(len(self.clips), size=batch_size).tolist(),
            rng.random(batch_size).tolist(),
        )
        x_0, cond = zip(
            *[self.clips.clip(i, place) for i, place in zip(pieces, places, strict=True)],
            strict=True,
        )
        audio = torch.stack(
            [self._audio(i, place) for i, place in zip(pieces, places, strict=True)]
        )
        levels, classes = intensity(audio, self.spec), log_chroma(audio, self.spec).argmax(dim=1)
        return Batch(torch.stack(x_0), torch.stack(cond), levels, classes)

    def _audio(self, piece: int, place: float) -> Tensor:
        """Read the samples under `ClipDataset.clip` of the same piece and place."""
        sound = self.files[piece]
        with read_errors(sound), soundfile.SoundFile(sound) as file:
            start = int(place * (file.frames // self.spec.hop - self.frames + 1))
            file.seek(start * self.spec.hop)
            return torch.from_numpy(file.read(self.spec.samples(self.frames), dtype="float32"))


@dataclass(frozen=True)
class ControlNetConfig(DenoiserRecipe):
    """Everything that determines an adapter, given the base and the data.

    Attributes:
        blocks: how many of the base's blocks are copied.
        curve_dropout: rate at which a clip is not told its loudness, and at which not its melody.
        span_dropout: rate at which a curve that is told is left open in a random stretch of the
            clip.
    """

    blocks: Every = 3
    curve_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    span_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    steps: Count = 3000
    lr: NotNegative = 5e-4
    decay: Share = 0.7
    ema: Decay = 0.998


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch with the step's random draws: noised clips, conditions, curves as far as given."""

    example: Example
    cond: Tensor
    curves: Tensor

    def to(self, device: torch.device) -> "Drawn":
        """Move it to a device."""
        return self._each(lambda tensor: tensor.to(device))

    def __getitem__(self, part: slice) -> "Drawn":
        """Return a part of the batch."""
        return self._each(lambda tensor: tensor[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Drawn":
        e = self.example
        changed = Example(*(change(tensor) for tensor in (e.x_0, e.noise, e.x_t, e.t)))
        return Drawn(changed, change(self.cond), change(self.curves))


def draw(config: ControlNetConfig, setting: Setting, batch: Batch, step: int) -> Drawn:
    """Draw all randomness of a step, from (seed, step) alone, as in the base's training."""
    t, noise, generator = draw_noise(config, setting.schedule, batch.x_0, step)
    cond = drop_conditions(batch.cond, config.tag_dropout, generator, config.grid_dropout)
    levels, classes = (given_frames(config, batch.levels.shape, generator) for _ in range(2))
    curves = encode_curves(
        torch.where(levels, batch.levels, torch.nan),
        torch.where(classes, batch.classes, REST),
        *batch.levels.shape,
    )
    x_t = setting.schedule.add_noise(batch.x_0, noise, t)
    return Drawn(Example(batch.x_0, noise, x_t, t), cond, curves)


def given_frames(config: ControlNetConfig, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw where a curve is given, bool (B, frames): nowhere, everywhere, or but in one stretch."""
    batch, frames = shape
    whole = torch.rand(batch, 1, generator=generator) >= config.curve_dropout
    cut = torch.rand(batch, 1, generator=generator) < config.span_dropout
    first, last = (
        (torch.rand(batch, 2, generator=generator) * (frames + 1))
        .long()
        .sort(dim=1)
        .values.split(1, dim=1)
    )
    place = torch.arange(frames)
    return whole & ~(cut & (first <= place) & (place < last))


def control_loss(adapter: Any, base: PatchTransformer, setting: Setting, drawn: Drawn) -> Tensor:
    """Compute the base's own training loss of the adapted output, a float32 scalar."""
    output = adapter(base, drawn.example.x_t, drawn.example.t, drawn.cond, drawn.curves).float()
    return weighted_mse(setting, drawn.example, output)


def train_controlnet(
    config: ControlNetConfig,
    model: MusicModel,
    clips: ControlledClips,
    out: Path,
    *,
    held_out: ControlledClips | None = None,
    show: bool = True,
) -> ControlAdapter:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`.

    Returns the EMA adapter. As with `train_base`, the same config, base, data and machine give the
    same float32 weights on a CPU bit for bit, however often the run was killed. The averaged
    adapter is also written to ``adapter/`` under `out`, in float16.

    Raises:
        DataError: the model is not a patch transformer's, the run began with another one, or
            training diverged.
        ModelError: see `ControlAdapter.of`.
    """
    base = model.network
    if not isinstance(base, PatchTransformer):
        raise DataError(
            f"a ControlNet needs a patch transformer as its base, not a {type(base).__name__}"
        )
    accelerator = accelerator_of(config.precision)
    for part in model.parts():
        part.to(accelerator.device)
    adapter, averaged = (
        ControlAdapter.of(base, config.blocks, config.seed).to(accelerator.device) for _ in range(2)
    )
    setting = setting_of(config, model)
    begun_with = {"base": hash_weights(base)}
    run = Run(
        config, out, accelerator, adapter, averages={"ema": config.ema}, begun_with=begun_with
    )
    for step in run.steps("controlnet", show):
        drawn = draw(config, setting, clips.batch(step, config.batch_size), step)
        drawn = drawn[run.part].to(accelerator.device)
        with accelerator.autocast():
            loss = control_loss(run.model, base, setting, drawn)
        run.update(loss)
        if run.due(config.evaluate_every):
            run.averages["ema"].copy_to(averaged)
            _evaluate(config, averaged, model, held_out or clips, run)
    run.averages["ema"].copy_to(averaged)
    if run.writes:
        averaged.save(out / "adapter")
    return averaged.requires_grad_(False).eval()


def train_from_folder(
    config: ControlNetConfig,
    model: MusicModel,
    data: StrPath,
    out: Path,
    *,
    held_out: StrPath | None = None,
) -> ControlAdapter:
    """Run `train_controlnet` on a data folder.

    Raises:
        DataError: see `ControlledDataset`, or the data lie in shards.
    """

    def clips(place: StrPath) -> ControlledDataset:
        folder = folder_of(place, "the training of a ControlNet")
        return ControlledDataset(folder, model, seed=config.seed)

    held = clips(held_out) if held_out else None
    return train_controlnet(config, model, clips(data), out, held_out=held)


def setting_of(config: ControlNetConfig, model: MusicModel) -> Setting:
    """Collect what the loss needs to know."""
    denoiser = model.denoiser
    return Setting(
        model.schedule,
        denoiser.prediction,
        config.data_std,
        config.max_weight,
        skip_std=denoiser.skip_std,
    )


@torch.no_grad()
def held_out_losses(
    config: ControlNetConfig,
    adapter: ControlAdapter,
    model: MusicModel,
    clips: ControlledClips,
    batches: int = 4,
) -> dict[str, float]:
    """Average the loss over fixed clips, timesteps and noise, with all curves and with none."""
    setting, base = setting_of(config, model), model.network
    sums = {"held_out_loss": 0.0, "held_out_loss_untold": 0.0}
    for i in range(batches):
        batch = clips.batch(i, config.batch_size)
        drawn = draw(replace(config, curve_dropout=0.0, span_dropout=0.0), setting, batch, i)
        drawn = drawn.to(next(base.parameters()).device)
        untold = Drawn(drawn.example, drawn.cond, torch.zeros_like(drawn.curves))
        for name, each in zip(sums, (drawn, untold), strict=True):
            sums[name] += control_loss(adapter, base, setting, each).item() / batches  # pyright: ignore[reportArgumentType]
    return sums


@torch.no_grad()
def _evaluate(
    config: ControlNetConfig,
    adapter: ControlAdapter,
    model: MusicModel,
    clips: ControlledClips,
    run: Run,
) -> None:
    """Log held-out losses and how samples follow the loudness of clips; draw both."""
    adapter.eval()
    losses = held_out_losses(config, adapter, model, clips)
    batch = clips.batch(0, SHOWN)
    sampled = sample(adapter, model, batch, config.seed)
    heard = intensity(model.to_audio(sampled), model.spec)
    run.log.write(run.done, **losses, intensity_rho=_correlation(heard, batch.levels))
    mels = [mel[None] for clips in (batch.x_0, sampled.cpu()) for mel in model.to_mel(clips)]
    from ditto.plots import mel_grid  # imports Matplotlib: here, for few steps draw

    mel_grid(run.picture, mels, columns=SHOWN)


def sample(
    adapter: ControlAdapter, model: MusicModel, batch: Batch, seed: int, steps: int = 20
) -> Tensor:
    """Sample clips (B, 1, n_mels, frames) by DDIM, given all of a batch's curves."""
    device = next(model.network.parameters()).device
    curves = encode_curves(batch.levels, batch.classes, *batch.levels.shape).to(device)
    plain = Chain(
        model.denoiser, model.schedule, model.schedule.timesteps(steps), batch.cond.to(device)
    )
    chain = controlled(plain, adapter, curves)
    return ddim(
        chain,
        torch.randn(batch.x_0.shape, generator=torch.Generator().manual_seed(seed)).to(device),
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    """Average Pearson's ρ of rows (B, frames)."""
    pairs = zip(a.cpu().double().numpy(), b.cpu().double().numpy(), strict=True)
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs]))
