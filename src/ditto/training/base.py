"""Training the base model: a tag-conditioned diffusion model of log-mel clips (DITTO, appendix K).

Run it with ``ditto-music train base --config base --data datasets/train --out runs/base``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from torch import Tensor

from ditto.audio.bands import PLAIN, Bands
from ditto.audio.spec import AudioSpec
from ditto.data.dataset import ClipDataset, band_statistics, vocabulary_of
from ditto.data.files import make_folder, read_json, write_json
from ditto.data.shards import Shards, find_data
from ditto.errors import DataError
from ditto.models.conditioning import drop_conditions
from ditto.models.folder import INDEX
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.own import PREDICTIONS
from ditto.paths import StrPath
from ditto.training.denoising import (
    NETWORKS,
    BaseConfig,
    Clips,
    Network,
    Setting,
    diffusion_loss,
    draw,
    part_of,
)
from ditto.training.loop import Checkpoints, built, load_config, seeded
from ditto.training.measure import Measure
from ditto.training.place import accelerator_of
from ditto.training.run import Run

EMBEDDED = "embedded"
BANDS = "bands.json"
"""File in a run's folder with the statistics that its x_0 are normalised by."""


def train_base(
    config: BaseConfig,
    clips: Clips,
    out: Path,
    *,
    held_out: Clips | None = None,
    bands: Bands = PLAIN,
    show: bool = True,
) -> Network:
    """Train until `config.steps`, resuming from the newest checkpoint in `out`.

    Returns the EMA network. The same config, data and machine give the same float32 weights on a
    CPU bit for bit, however often the run was killed. Writes ``config.json``, ``log.jsonl``,
    ``tensorboard/``, ``samples/`` and ``step-*/`` under `out`.

    Args:
        config: the recipe.
        clips: what is learned, in model space.
        out: the run's folder.
        held_out: what the run is measured by; by default `clips`.
        bands: of the model space.
        show: a progress bar.

    Raises:
        DataError: the config does not fit its network or what it starts from, or training diverged.
    """
    if config.continued and (not config.start_from or _begun_with(config) is not None):
        raise DataError("continued needs start_from in the config, with the folder of a run")
    accelerator = accelerator_of(config.precision)
    network, averaged = started(config), started(config)
    setting = Setting.of(config, network)
    averages = {"ema": config.ema} | ({"slow_ema": config.slow_ema} if config.slow_ema else {})
    run = Run(
        config,
        out,
        accelerator,
        network,
        averages=averages,
        average_every=config.ema_every,
        large=True,
    )
    if config.continued and not run.start:
        run.take(Path(config.start_from))
    measure = Measure(run, setting, config, held_out or clips, bands)
    if config.start_from and not run.start and run.writes:
        measure(averaged)
    for step in run.steps("base", show):
        x_0, tags = part_of(clips, step, config.batch_size, run.part)
        t, noise, generator = draw(config, setting.schedule, x_0, step)
        tags = drop_conditions(tags, config.tag_dropout, generator, config.grid_dropout)
        run.learn(partial(_loss, run, setting, (x_0, tags, t, noise)))
        if run.reached(config.evaluate_every):
            for name, average in reversed(run.averages.items()):
                average.copy_to(averaged)
                if run.writes:
                    measure(averaged, "" if name == "ema" else f"{name}_")
    run.averages["ema"].copy_to(averaged)
    return averaged


def _loss(run: Run, setting: Setting, drawn: Sequence[Tensor], part: slice) -> Tensor:
    """Compute the loss of a part of a step's clips, tags, timesteps and noise."""
    x_0, tags, t, noise = (each[part].to(run.accelerator.device) for each in drawn)
    with run.accelerator.autocast():
        return diffusion_loss(run.model, setting, x_0, tags, t, noise)


def train_from_folder(
    config: BaseConfig, data: StrPath, out: Path, *, held_out: StrPath | None = None
) -> Network:
    """Run `train_base` on a data folder, or on shards by their URL.

    Raises:
        DataError: see `find_data`, or the network's tag sizes, bands or frames are not those of
            the data's vocabulary and clips.
    """
    found = find_data(data)
    spec, vocabulary = AudioSpec(clip_frames=config.frames), vocabulary_of(found)
    network = network_of(config)
    sizes, bands = tuple(network.config["tag_sizes"]), network.config.get("n_mels", spec.n_mels)
    if bands != spec.n_mels or config.frames % network.frame_multiple:
        raise DataError(
            f"the config's n_mels must be {spec.n_mels}, and its frames a multiple of "
            f"{network.frame_multiple}, not {bands} and {config.frames}"
        )
    if sizes != vocabulary.sizes:
        raise DataError(
            f"the config's tag_sizes are {list(sizes)}, but the data needs {list(vocabulary.sizes)}"
        )
    bands = _begun_bands(config, found, spec, out)
    clips = ClipDataset(found, spec, frames=config.frames, seed=config.seed, bands=bands)
    held = (
        ClipDataset(
            find_data(held_out),
            spec,
            clips.vocabulary,
            frames=config.frames,
            seed=config.seed,
            bands=bands,
        )
        if held_out
        else None
    )
    return train_base(config, clips, out, held_out=held, bands=bands)


def load_bands(run: Path) -> Bands:
    """Read what a run normalises its x_0 by."""
    return Bands.of(read_json(run / BANDS)) if (run / BANDS).exists() else PLAIN


def _begun_bands(config: BaseConfig, data: Path | Shards, spec: AudioSpec, out: Path) -> Bands:
    """Return what the run normalises x_0 by, fixed when it begins.

    That is what the run that it starts from has, or else the data's own statistics.

    Later data must not move the model space.
    """
    if not (out / BANDS).exists():
        if (model := _begun_with(config)) is not None:
            bands = model.bands
        elif config.start_from:
            bands = load_bands(Path(config.start_from))
        else:
            bands = band_statistics(data, spec) if config.normalised else PLAIN
        if not bands:
            return PLAIN
        make_folder(out)
        write_json(out / BANDS, asdict(bands))
    return load_bands(out)


def load_ema(out: Path) -> Network:
    """Load the averaged weights of a run's newest checkpoint.

    Raises:
        DataError: if the run has no checkpoint yet.
    """
    config, averages = (
        load_config(out / "config.json", BaseConfig),
        Checkpoints(out).newest()[0]["ema"],
    )
    network = (
        started(config) if config.trained else network_of(config)
    )  # what is not trained is not averaged
    network.load_state_dict(averages, strict=set(averages) == set(network.state_dict()))
    return network.eval()


def network_of(config: BaseConfig) -> Network:
    """Build a recipe's network, its weights drawn by the recipe's seed.

    Raises:
        DataError: its settings are unknown, or out of range.
    """
    with seeded(config.seed):
        network = built("network", lambda: NETWORKS[config.network_kind](**config.network))
    if network.config["prediction"] not in PREDICTIONS:
        raise DataError(f"the config's network predicts none of {', '.join(PREDICTIONS)}")
    return network


def started(config: BaseConfig) -> Network:
    """Build the network at step 0; what is not trained needs no gradient.

    Raises:
        DataError: the run that it starts from has no checkpoint, the model has another network, or
            no weight has a name that is to be trained.
    """
    network = network_of(config)
    if (model := _begun_with(config)) is not None:
        _take(model.network.state_dict(), network)
    elif config.start_from:
        own, found = network.state_dict(), Checkpoints(Path(config.start_from)).newest()[0]["ema"]
        taken = {
            name: value
            for name, value in found.items()
            if name in own and own[name].shape == value.shape
        }
        network.load_state_dict(taken, strict=False)
    return _frozen(network, config.trained)


def _begun_with(config: BaseConfig) -> MusicModel | None:
    """Load the model that a recipe starts from; None if it is a run, or there is none."""
    source = config.start_from
    if source == EMBEDDED:
        return load(device="cpu")
    found = bool(source) and (Path(source) / INDEX).is_file()
    return load(source, device="cpu") if found else None


def _take(weights: Mapping[str, Tensor], network: Network) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise DataError(
            "the config's network is not that of the model that it starts from: of the embedded "
            "one, give that of the recipe base-24s"
        ) from None


def _frozen(network: Network, trained: Sequence[str]) -> Network:
    """Freeze all weights of the network but those whose names begin with one of `trained`."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(
            not trained or any(fnmatch(name, f"{start}*") for start in trained)
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise DataError(
            f"no weight's name begins with {' or '.join(trained)}: change trained in the config"
        )
    return network
