"""Training heads: networks that read off x_0 what a decoder's sound has.

Run it with ``ditto-music train heads --data datasets/train --out runs/heads``. The targets are the
controls' own features of the decoded sound, and the clips are those at which methods ask: of the
data, as they are and noised; the base's x̂_0 at any noise level, as guidance meets it; the student's
in one step, as DITTO-2 does. LatCH (Novack et al. 2026, arXiv 2603.04366) found the sampler's own
estimates better to train on than noised data; theirs come from whole trajectories.

What an optimiser finds in a head is where it is wrong. So a few clips of a batch are pushed up the
head's own loss against a random target, decoded again, and learnt from as they sound then.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from accelerate import Accelerator
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot, smooth_l1_loss

from ditto.audio.chroma import CLASSES, log_chroma, mel_log_chroma
from ditto.audio.features import log_mel, mel_rms_db, rms_db
from ditto.audio.similarity import mfcc, onset_strength
from ditto.data.dataset import ClipDataset
from ditto.data.files import short_key
from ditto.data.latents import LatentClips
from ditto.data.shards import find_data, folder_of
from ditto.diffusion.samplers import Chain, ddim
from ditto.errors import DataError
from ditto.models.clap import Clap
from ditto.models.heads import (
    UNITS,
    Feature,
    Heads,
    channels_of,
    decoder_hash,
    read_from,
    save_heads,
)
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.paths import StrPath, atomic_file
from ditto.training.learner import Count, Decay, Every, NotNegative, Positive, Recipe, Share
from ditto.training.loop import built, seeded, step_seed
from ditto.training.run import Run

KINDS = ("data", "noised", "estimate", "student")
MOST_NOISE = 0.2
"""Largest deviation of the noise on a clip, in those of x_0."""
CHUNK = 16
"""Clips that are decoded and kept together."""
MADE_OF = "made_of"
"""Key of a kept chunk's metadata: of what it was made."""

Features = dict[Feature, Tensor]


class Clips(Protocol):
    """Where clips come from: a pure function of the step."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return x_0 (B, …, frames) and conditions (B, …)."""
        ...


@dataclass(frozen=True)
class HeadsConfig(Recipe):
    """Everything that determines the heads, given the model and the data.

    Attributes:
        features: that are read.
        step, width, depth, kernel: of each head, see `Reader`.
        pool: clips that are decoded before the first step, and drawn from.
        fresh: clips of a batch that are pushed and decoded in the step itself.
        fresh_from: first step that has them.
        seconds: length of a pipeline's clips; None is its window.
        push_steps: steps up the heads' loss.
        push_size: of each, at most, in deviations of what heads read.
        ema: decay of the averaged weights, which are the ones that ship.
        evaluate_every: in steps.
    """

    features: tuple[Feature, ...] = ("loudness", "chroma", "onsets", "timbre", "clap")
    step: Every = 4
    width: Every = 128
    depth: Count = 2
    kernel: Every = 5
    pool: Annotated[int, Field(ge=1)] = 1000
    fresh: Annotated[int, Field(ge=0)] = 2
    fresh_from: Count = 300
    push_steps: Count = 6
    push_size: NotNegative = 0.05
    seconds: Positive | None = None
    steps: Count = 1200
    lr: NotNegative = 2e-3
    decay: Share = 0.6
    ema: Decay = 0.99
    checkpoint_every: Every = 200
    evaluate_every: Every = 400


@dataclass(frozen=True, eq=False)
class Setting:
    """What is read, and of what.

    Attributes:
        model: makes sound; frozen.
        features: that are read.
        clap: hears, if its embedding is one of them.
    """

    model: MusicModel
    features: tuple[Feature, ...]
    clap: Clap | None = None

    def decoded(self, x_0: Tensor) -> Features:
        """Return the features of the decoded sound of x_0, as `Heads` give them.

        Pipelines decode clip by clip: theirs are long, and their decoders large.
        """
        batches = [x_0] if self.model.has_mel else x_0.split(1)
        parts = [self._decoded(batch) for batch in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in self.features}

    @torch.no_grad()
    def _decoded(self, x_0: Tensor) -> Features:
        model = self.model
        audio = model.to_audio(x_0)
        mel = log_mel(audio, model.spec) if set(self.features) & {"onsets", "timbre"} else audio
        features = {
            "loudness": lambda: rms_db(audio, model.spec),
            "chroma": lambda: log_chroma(audio, model.spec),
            "onsets": lambda: onset_strength(mel, model.spec),
            "timbre": lambda: mfcc(mel, model.spec)[:, 1:],
            "clap": lambda: self._ear.embed_audio(audio, model.spec.sample_rate),
        }
        return {name: features[name]() for name in self.features}

    @torch.no_grad()
    def of_mel(self, x_0: Tensor) -> Features:
        """Return what is estimated of the features from a mel without a head."""
        mel, spec = self.model.to_mel(x_0), self.model.spec
        features = {
            "loudness": lambda: mel_rms_db(mel, spec),
            "chroma": lambda: mel_log_chroma(mel, spec),
            "onsets": lambda: onset_strength(mel, spec),
            "timbre": lambda: mfcc(mel, spec)[:, 1:],
            "clap": lambda: self._ear.embed_features(self._ear.front_end.of_mel(mel, spec)),
        }
        return {name: features[name]() for name in self.features}

    @cached_property
    def key(self) -> str:
        """Hash of all that clips of a pool and their features depend on, the data apart."""
        model, student = self.model, self.model.distilled
        networks = [model.network, *([student.network] if student else [])]
        hashes = [decoder_hash(model), *map(hash_weights, networks)]
        ear = self.clap.sha256 if self.clap and "clap" in self.features else ""
        return short_key([hashes, ear, self.features, model.guidance])

    @property
    def _ear(self) -> Clap:
        assert self.clap is not None
        return self.clap


class Pool:
    """Clips of every kind with the features of their sounds, made once and kept in a folder.

    They are on the CPU.

    Args:
        setting: what is read.
        clips: data that they come from.
        count: clips.
        seed: of all draws; a clip depends on it and its number alone.
        folder: where chunks are kept, so that a run that was stopped need not make them again;
            those of another model, seed or length of clips are made anew.
    """

    def __init__(
        self, setting: Setting, clips: Clips, count: int, seed: int, folder: Path | None = None
    ) -> None:
        self.setting, self.clips, self.seed, self.folder = setting, clips, seed, folder
        chunks = [self._chunk(i) for i in range(-(-count // CHUNK))]
        whole = {name: torch.cat([chunk[name] for chunk in chunks])[:count] for name in chunks[0]}
        self.x_0 = whole.pop("x_0")
        self.features: dict[str, Tensor] = whole

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Features]:
        """Draw x_0 and features of a step, float32."""
        drawn = _generator(self.seed, step, 1)
        index = torch.randint(len(self.x_0), (batch_size,), generator=drawn)
        names = self.setting.features
        return self.x_0[index].float(), {n: self.features[n][index].float() for n in names}

    def _chunk(self, i: int) -> dict[str, Tensor]:
        path = self.folder and self.folder / f"{i:05d}.safetensors"
        made_of = str([self.setting.key, self.seed, getattr(self.clips, "frames", None)])
        if path is not None and path.is_file():
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get(MADE_OF) == made_of:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        x_0 = self._x_0(i).half()
        chunk = {"x_0": x_0} | self.setting.decoded(x_0.float())
        chunk = {name: value.half().cpu() for name, value in chunk.items()}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, force=True) as temporary:
                whole = {name: value.contiguous() for name, value in chunk.items()}
                save_file(whole, temporary, {MADE_OF: made_of})
        return chunk

    @torch.no_grad()
    def _x_0(self, i: int) -> Tensor:
        """Return a chunk of x_0, all kinds in turn."""
        model = self.setting.model
        clips, cond = self.clips.batch(i, CHUNK)
        clips, cond = clips.to(model.device), cond.to(model.device)
        draws = _generator(self.seed, i, 0)
        noise = torch.randn(clips.shape, generator=draws).to(clips)
        share = torch.rand(CHUNK, generator=draws)
        made = clips.clone()
        for n in range(CHUNK):
            kind, one = KINDS[n % len(KINDS)], slice(n, n + 1)
            if kind == "noised":
                made[one] += MOST_NOISE * share[n] * clips[one].std() * noise[one]
            elif kind == "student" and model.student is not None:
                grid = model.student_schedule.timesteps(1)
                chain = Chain(
                    model.student, model.student_schedule, grid, cond[one], model.guidance
                )
                made[one] = ddim(chain, noise[one])
            elif kind != "data":
                made[one] = self._estimate(clips[one], cond[one], noise[one], float(share[n]))
        return made

    def _estimate(self, clip: Tensor, cond: Tensor, noise: Tensor, share: float) -> Tensor:
        """Return the base's x̂_0 of a noised clip."""
        schedule = self.setting.model.schedule
        grid = schedule.timesteps(20)
        t = int(grid[min(int(share * len(grid)), len(grid) - 1)])
        noised = schedule.add_noise(clip, noise, t)
        chain = Chain(
            self.setting.model.denoiser, schedule, grid, cond, self.setting.model.guidance
        )
        return chain.predict(noised, t)


def losses_of(read: Features, features: Features) -> Features:
    """Return the loss of each head, a scalar: of shares in nats, of levels in units, of cosines."""

    def loss(name: Feature) -> Tensor:
        if name == "chroma":
            return (features[name].exp() * (features[name] - read[name])).sum(dim=1).mean()
        if name == "clap":
            return 1 - (read[name] * features[name]).sum(dim=-1).mean()
        return smooth_l1_loss(read[name] / UNITS[name], features[name] / UNITS[name])

    return {name: loss(name) for name in features}


def accuracies(read: Features, features: Features) -> dict[str, float]:
    """Return how near what is read is to the features, figures for people."""
    figures: dict[str, Tensor] = {}
    for name, true in features.items():
        if name == "chroma":
            figures["chroma_kl"] = (true.exp() * (true - read[name])).sum(dim=1).mean()
            same = read[name].argmax(dim=1) == true.argmax(dim=1)
            figures["chroma_same_class"] = same.float().mean()
        elif name == "clap":
            figures["clap_cosine"] = (read[name] * true).sum(dim=-1).mean()
        else:
            figures[f"{name}_error_db"] = (read[name] - true).abs().mean()
    return {name: value.item() for name, value in figures.items()}


def pushed(
    heads: Heads, setting: Setting, x_0: Tensor, config: HeadsConfig, draws: torch.Generator
) -> Tensor:
    """Move x_0 down each item's distance from a random target, as the heads see it.

    A step is at most `push_size` in each value, and half as large on average.
    """
    x = x_0.clone()
    names = setting.features
    of = [names[i] for i in torch.randint(len(names), (len(x),), generator=draws).tolist()]
    sizes = torch.rand(len(x), generator=draws).to(x) * config.push_size * x_0.std()
    with torch.no_grad():
        targets = [
            _target(name, heads(read_from(setting.model, x[i : i + 1]), name), draws)
            for i, name in enumerate(of)
        ]
    for _ in range(config.push_steps):
        leaf = x.detach().requires_grad_()
        read = read_from(setting.model, leaf)
        total = sum(
            losses_of({name: heads(read[i : i + 1], name)}, {name: targets[i]})[name]
            for i, name in enumerate(of)
        )
        assert isinstance(total, Tensor)
        (gradient,) = torch.autograd.grad(total, leaf)
        largest = gradient.abs().flatten(1).quantile(0.9, dim=1).clamp(min=1e-12)
        unit = (gradient / _column(largest, gradient)).clamp(-1, 1)
        x = leaf.detach() - _column(sizes, leaf) * unit
    return x


def _target(name: Feature, read: Tensor, draws: torch.Generator) -> Tensor:
    """Return something else than what is read, of its kind."""
    if name == "chroma":
        classes = torch.randint(CLASSES, (read.shape[-1] // 43 + 1,), generator=draws)
        held = classes.repeat_interleave(43)[: read.shape[-1]]
        return (0.9 * one_hot(held, CLASSES).T + 0.1 / CLASSES).log()[None].to(read)
    if name == "clap":
        return normalize(torch.randn(read.shape, generator=draws), dim=-1).to(read)
    ends = torch.randn(2, *read.shape[:-1], 1, generator=draws).to(read) * UNITS[name]
    along = torch.linspace(0, 1, read.shape[-1]).to(read)
    return read + ends[0] * (1 - along) + ends[1] * along


def train_heads(
    config: HeadsConfig,
    model: MusicModel,
    clips: Clips,
    out: Path,
    *,
    held_out: Clips | None = None,
    clap: Clap | None = None,
    show: bool = True,
) -> Heads:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`.

    Returns the averaged heads, which are also written to ``heads/`` under `out`, in float16. The
    same config, model, data and machine give the same weights on a CPU, however often the run was
    killed.

    Raises:
        DataError: the run began with another model, or training diverged.
        OutputError: see `start_run`.
    """
    if "clap" in config.features and clap is None:
        clap = Clap.load()
    accelerator = Accelerator()
    for part in model.parts():
        nn.Module.to(part, accelerator.device)  # diffusers' own `to` warns needlessly
    setting = Setting(model, config.features, clap)
    pool = Pool(setting, clips, config.pool, config.seed, out / "pool")
    network = new_heads(config, setting)
    for reader in network.readers.values():
        first = pool.x_0[:64].float().to(model.device)
        reader.standardise(read_from(model, first).cpu())  # pyright: ignore[reportCallIssue]
    run = Run(
        config,
        out,
        accelerator,
        network,
        averages={"ema": config.ema},
        begun_with={"model": decoder_hash(model)},
    )
    judged = Pool(setting, held_out or clips, 2 * CHUNK, config.seed + 1, out / "held-out")
    for step in run.steps("heads", show):
        x_0, features = pool.batch(step, config.batch_size)
        if config.fresh and step >= config.fresh_from:
            x_0, features = _with_fresh(config, setting, network, (x_0, features), step)
        x_0, features = x_0[run.part], {n: v[run.part] for n, v in features.items()}
        read = read_from(model, x_0.to(model.device))
        heard: Features = {name: features[name].to(model.device) for name in config.features}
        losses = losses_of({n: run.model(read, n) for n in config.features}, heard)
        run.update(torch.stack(list(losses.values())).sum(), losses)  # pyright: ignore[reportArgumentType]
        if run.due(config.evaluate_every):
            run.log.write(run.done, **evaluated(averaged(network, run), judged))
    heads = averaged(network, run)
    if run.writes:
        save_heads(heads, out / "heads")
    return heads


def _with_fresh(
    config: HeadsConfig, setting: Setting, network: Heads, batch: tuple[Tensor, Features], step: int
) -> tuple[Tensor, Features]:
    """Return a batch whose first clips were pushed against the heads as they are, and decoded."""
    (x_0, features), count = batch, config.fresh
    draws = _generator(config.seed, step, 2)
    moved = pushed(network, setting, x_0[:count].to(setting.model.device), config, draws)
    heard = setting.decoded(moved)
    x_0 = torch.cat([moved.to(x_0), x_0[count:]])
    return x_0, {n: torch.cat([heard[n].to(v), v[count:]]) for n, v in features.items()}


def new_heads(config: HeadsConfig, setting: Setting) -> Heads:
    """Build untrained heads, a function of the seed.

    Raises:
        DataError: the kernel is even, or no feature is to be read.
    """
    model, clap = setting.model, setting.clap
    sizes = config.step, config.width, config.depth, config.kernel
    ear: dict[str, Any] = {"clap": clap.sha256, "embedding": clap.size} if clap else {}
    if config.kernel % 2 == 0:
        raise DataError(f"kernel must be odd in the config, not {config.kernel}")
    with seeded(config.seed):
        return built(
            "features",
            lambda: Heads(channels_of(model), config.features, *sizes, decoder_hash(model), **ear),
        )


def averaged(network: Heads, run: Run) -> Heads:
    """Copy heads with a run's averaged weights, in evaluation mode."""
    copy = Heads.from_config(network.config)
    copy.load_state_dict(network.state_dict())
    run.averages["ema"].copy_to(copy)
    return copy.requires_grad_(False).eval()


@torch.no_grad()
def evaluated(heads: Heads, pool: Pool) -> dict[str, float]:
    """Return the heads' accuracies over a pool and, of a mel, those of estimates without a head."""
    setting, device = pool.setting, pool.setting.model.device
    names, x_0 = setting.features, pool.x_0.float().to(device)
    features: Features = {name: pool.features[name].float().to(device) for name in names}
    heads.to(device)
    read: Features = {n: heads(read_from(setting.model, x_0), n) for n in names}
    figures = {f"held_out_{n}": v for n, v in accuracies(read, features).items()}
    if setting.model.has_mel:
        plain = accuracies(setting.of_mel(x_0), features)
        figures |= {f"mel_{name}": value for name, value in plain.items()}
    return figures


def train_from_folder(
    config: HeadsConfig,
    model: MusicModel,
    data: StrPath,
    out: Path,
    *,
    held_out: StrPath | None = None,
) -> Heads:
    """Run `train_heads` on a data folder or shards."""

    def clips(place: StrPath) -> Clips:
        if not model.has_mel:
            folder = folder_of(place, "a training of a pipeline's heads")
            return LatentClips(folder, model, seconds=config.seconds, seed=config.seed)  # pyright: ignore[reportArgumentType]
        return ClipDataset(
            find_data(place),
            model.spec,
            model.vocabulary,
            frames=model.spec.clip_frames,
            seed=config.seed,
            bands=model.bands,
        )

    held = None if held_out is None else clips(held_out)
    return train_heads(config, model, clips(data), out, held_out=held)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _generator(seed: int, step: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(step_seed(seed, 4 * step + stream))
