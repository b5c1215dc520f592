"""Training the base model: kill -9 and resume bit for bit, what is averaged and exported, losses,
precision."""

import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from tests.tiny_soundfont import make_tiny_soundfont
from tests.training.runs import assert_same, fresh_processes, weights
from torch import Tensor

from ditto.audio.bands import PLAIN
from ditto.audio.spec import AudioSpec
from ditto.composer.corpus import compose_dataset
from ditto.data.dataset import ClipDataset, band_statistics
from ditto.data.prepare import prepare_folder
from ditto.errors import DataError, OutputError, TagError
from ditto.models.conditioning import Tags
from ditto.models.fine_tune import load_fine_tune
from ditto.models.hub import load
from ditto.models.profile import describe_model
from ditto.models.transformer import PatchTransformer
from ditto.runner import generate
from ditto.training import place
from ditto.training.base import EMBEDDED, load_bands, load_ema, train_base, train_from_folder
from ditto.training.denoising import BaseConfig, Setting
from ditto.training.loop import RECIPES, load_config, read_log, start_run
from ditto.training.measure import held_out_loss
from ditto.training.pack import pack, pack_fine_tune
from ditto.training.speed import clips_per_second

NETWORK = {"n_mels": 16, "patch": 2, "width": 16, "depth": 1, "heads": 2, "tag_sizes": [4, 3, 13]}
TINY = BaseConfig(
    network=NETWORK,
    frames=16,
    steps=12,
    batch_size=4,
    lr=1e-2,
    warmup=2,
    log_every=1,
    checkpoint_every=4,
    evaluate_every=100,
)
CONFIGS = RECIPES


class Clips:
    """Clips that are noise around a level that the genre gives, from the step alone."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        tags = torch.randint(1, 3, (batch_size, 3), generator=generator)
        noise = torch.randn(batch_size, 1, 16, 16, generator=generator)
        return 0.1 * noise + 0.3 * tags[:, :1, None, None] - 0.5, tags


class WideClips:
    """Noise of the embedded base's shape, and tags of its vocabulary."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(batch_size, 1, 160, 64, generator=torch.Generator().manual_seed(step))
        return 0.2 * noise - 0.3, load().vocabulary.encode(Tags("jazz")).expand(batch_size, -1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps."""
    folder = tmp_path_factory.mktemp("base") / "run"
    train_base(TINY, Clips(), folder, show=False)
    return folder


def test_what_a_run_leaves(run: Path) -> None:
    names = sorted(path.name for path in run.iterdir())
    assert names == [
        "config.json",
        "log.jsonl",
        "samples",
        "step-00000008",
        "step-00000012",
        "tensorboard",
    ]
    assert [path.name for path in (run / "samples").iterdir()] == ["00000012.png"]
    assert load_config(run / "config.json", BaseConfig).network == NETWORK
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "held_out_loss" in row] == [12]
    assert list((run / "tensorboard").iterdir())


def test_the_averaged_weights_are_others_than_the_raw_ones_and_are_the_ones_that_ship(
    run: Path,
) -> None:
    raw, averaged = weights(run, "model"), weights(run, "ema")
    assert raw.keys() == averaged.keys()
    assert not any(torch.equal(raw[name], averaged[name]) for name in raw)
    exported = load_ema(run)
    assert_same(dict(exported.state_dict()), averaged)
    assert not exported.training


def test_two_runs_are_the_same_and_another_seed_is_not(run: Path, tmp_path: Path) -> None:
    returned = train_base(TINY, Clips(), tmp_path / "same", show=False)
    assert_same(weights(tmp_path / "same", "model"), weights(run, "model"))
    assert_same(dict(returned.state_dict()), weights(run, "ema"))
    train_base(replace(TINY, seed=1, steps=1), Clips(), tmp_path / "other", show=False)
    assert not torch.equal(
        weights(tmp_path / "other", "model")["embed.weight"], weights(run, "model")["embed.weight"]
    )


def test_a_finished_run_is_left_as_it_is(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("step-*/*")}
    returned = train_base(TINY, Clips(), run, show=False)
    assert {path: path.stat().st_mtime_ns for path in run.glob("step-*/*")} == before
    assert_same(dict(returned.state_dict()), weights(run, "ema"))


def test_training_leaves_the_global_generator_and_grad_mode_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_base(replace(TINY, steps=1), Clips(), tmp_path / "run", show=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_the_folder_of_another_run_is_refused(run: Path) -> None:
    with pytest.raises(OutputError, match="another lr, data_std"):
        train_base(replace(TINY, lr=0.5, data_std=0.5), Clips(), run, show=False)


def test_a_run_of_an_older_recipe_goes_on(run: Path, tmp_path: Path) -> None:
    old = json.loads((run / "config.json").read_text())
    for key in ("network_kind", "loss", "lr_decay", "start_from"):
        del old[key]
    (tmp_path / "config.json").write_text(json.dumps(old))
    train_base(replace(TINY, steps=1), Clips(), tmp_path, show=False)
    assert load_config(tmp_path / "config.json", BaseConfig).network_kind == "transformer"


def test_a_run_may_start_from_another_runs_averages(run: Path, tmp_path: Path) -> None:
    config = replace(TINY, start_from=str(run), lr=0.0, weight_decay=0.0, steps=1)
    train_base(config, Clips(), tmp_path / "next", show=False)
    assert_same(weights(tmp_path / "next", "model"), weights(run, "ema"))


def differing(network: torch.nn.Module, base: torch.nn.Module) -> set[str]:
    """Names of the weights that are not the base's."""
    theirs = base.state_dict()
    return {
        name for name, value in network.state_dict().items() if not torch.equal(value, theirs[name])
    }


def test_a_run_may_go_on_from_another_runs_last_weights_and_optimiser(
    run: Path, tmp_path: Path
) -> None:
    config = replace(TINY, start_from=str(run), continued=True, lr=0.0, weight_decay=0.0, steps=1)
    train_base(config, Clips(), tmp_path / "next", show=False)
    assert_same(weights(tmp_path / "next", "model"), weights(run, "model"))
    name = "0.exp_avg_sq"
    moved = weights(tmp_path / "next", "optimizer")[name]
    assert moved.mean() > 0.5 * weights(run, "optimizer")[name].mean()


def test_two_averages_are_kept_and_measured(tmp_path: Path) -> None:
    config = replace(TINY, slow_ema=0.99, ema=0.5, ema_every=4, measured=16, evaluate_every=6)
    train_base(config, Clips(), tmp_path / "run", show=False)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows if "held_out_loss" in row] == [6, 12]
    measured = ("error_db_0.1", "error_db_4", "contrast_off", "peaks_off")
    assert {f"{prefix}{name}" for prefix in ("", "slow_ema_") for name in measured} <= set().union(
        *rows
    )
    fast, slow = (weights(tmp_path / "run", name)["head.weight"] for name in ("ema", "slow_ema"))
    assert not torch.equal(fast, slow)


def test_a_run_may_start_from_the_embedded_base_and_train_a_part_of_it(tmp_path: Path) -> None:
    base = load().network
    config = replace(
        TINY,
        network=dict(load_config(CONFIGS / "base-24s.json", BaseConfig).network),
        frames=64,
        steps=2,
        batch_size=1,
        start_from="embedded",
        trained=("blocks.*.out",),
    )
    clips = WideClips()
    ended = train_base(config, clips, tmp_path / "run", show=False)
    moved = differing(ended, base)
    assert moved == {f"blocks.{i}.out.{kind}" for i in range(6) for kind in ("weight", "bias")}
    assert_same(dict(load_ema(tmp_path / "run").state_dict()), dict(ended.state_dict()))
    first, *_ = (row for row in read_log(tmp_path / "run" / "log.jsonl") if "held_out_loss" in row)
    setting = Setting.of(config, base)  # pyright: ignore[reportArgumentType]
    assert first["step"] == 0
    assert first["held_out_loss"] == pytest.approx(
        held_out_loss(base, setting, config, clips), rel=1e-5
    )
    digest = pack_fine_tune(tmp_path / "run", tmp_path / "packed")
    packed = load_fine_tune(tmp_path / "packed")
    assert packed.sha256 == digest
    assert packed.spec.clip_frames == 64
    assert differing(packed.network, base) == moved
    # and the next run may go on from what was packed
    onwards = replace(config, start_from=str(tmp_path / "packed"), lr=0.0, steps=1)
    same = train_base(onwards, clips, tmp_path / "on", show=False)
    assert not differing(same, packed.network)
    assert pack_fine_tune(tmp_path / "on", tmp_path / "again") == digest


def test_a_run_cannot_start_from_the_embedded_base_with_another_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not that of the model"):
        train_base(replace(TINY, start_from="embedded"), Clips(), tmp_path / "run", show=False)


def test_what_is_trained_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no weight's name begins with no or none"):
        train_base(replace(TINY, trained=("no", "none")), Clips(), tmp_path / "run", show=False)


def test_a_run_from_elsewhere_is_not_packed_as_a_fine_tuning(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did not start from the embedded base"):
        pack_fine_tune(run, tmp_path / "packed")


def test_the_loss_falls(run: Path, tmp_path: Path) -> None:
    trained = train_base(
        replace(TINY, steps=150, evaluate_every=1000, checkpoint_every=150),
        Clips(),
        tmp_path,
        show=False,
    )
    fresh = PatchTransformer(**NETWORK)
    setting = Setting.of(TINY, fresh)
    before, after = (held_out_loss(network, setting, TINY, Clips()) for network in (fresh, trained))
    assert after < 0.5 * before


def test_a_loss_that_explodes_stops_the_run_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"diverged at step \d+ .*: lower lr") as caught:
        train_base(replace(TINY, lr=1e6, warmup=0, clip_norm=1e9), Clips(), tmp_path, show=False)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network_kind": "gru"}, "network_kind: Input should be 'transformer' or 'unet'"),
        ({"loss": "l3"}, "loss: Input should be"),
        ({"lr_decay": "steep"}, "lr_decay: Input should be"),
        ({"precision": "fp8"}, "precision: Input should be"),
        ({"lr": "fast"}, "lr: Input should be a valid number"),
        ({"steps": 1.5, "betas": [0.9]}, "steps: Input should be .*; betas: 1: Field required"),
    ],
)
def test_what_a_config_may_not_say(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=message) as caught:
        load_config(tmp_path / "config.json", BaseConfig)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("base*.json")))
def test_committed_configs_load(name: str) -> None:
    assert load_config(CONFIGS / name, BaseConfig).steps > 0


def test_bfloat16_runs_with_a_float32_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ditto.training.denoising as base

    seen = []

    def spied(setting: Setting, example: base.Example, output: Tensor) -> Tensor:
        loss = base.weighted_mse(setting, example, output)
        seen.append((output.dtype, example.x_t.dtype, loss.dtype))
        return loss

    widths = []
    linear = torch.nn.functional.linear

    def watched(*args: Tensor) -> Tensor:
        result = linear(*args)
        widths.append(result.dtype)
        return result

    monkeypatch.setitem(base.LOSSES, "weighted_mse", spied)
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # accelerate fixes the precision of a process
    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    monkeypatch.setattr(place, "has_bf16", lambda device: True)
    train_base(replace(TINY, steps=2, precision="bf16"), Clips(), tmp_path, show=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert set(seen) == {(torch.float32, torch.float32, torch.float32)}
    assert torch.bfloat16 in widths
    assert {value.dtype for value in weights(tmp_path, "model").values()} == {torch.float32}


# From a data folder, and killed.

FOLDER_CONFIG = BaseConfig(
    network={
        "n_mels": 160,
        "patch": 8,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tag_sizes": [3, 2, 13],
    },
    frames=16,
    steps=60,
    batch_size=2,
    lr=1e-2,
    warmup=2,
    log_every=1,
    checkpoint_every=5,
    evaluate_every=1000,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three noisy pieces."""
    root = tmp_path_factory.mktemp("data")
    sounds = root / "sounds"
    sounds.mkdir()
    for name in "abc":
        audio = 0.1 * np.random.default_rng(ord(name)).standard_normal(8192)
        soundfile.write(sounds / f"{name}.wav", audio, 22_050)
    (root / "tags.csv").write_text(
        "file,genre,mood,tempo\na.wav,jazz,calm,100\nb.wav,rock,,\nc.wav,jazz,calm,90\n"
    )
    prepare_folder(
        sounds, root / "set", tags_csv=root / "tags.csv", heldout=0.0, shortest_seconds=0.3
    )
    return root / "set" / "train"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composed data folder of three pieces."""
    root = tmp_path_factory.mktemp("composed")
    return compose_dataset(
        root / "set", count=3, soundfonts=[make_tiny_soundfont(root / "tiny.sf2")]
    )


def logged_step(run: Path) -> int:
    rows = read_log(run / "log.jsonl")
    return int(rows[-1]["step"]) if rows else 0


def wait_for_step(run: Path, step: int, process: Any) -> None:
    while logged_step(run) < step:
        assert process.is_alive(), "the run ended before it was killed"
        time.sleep(0.002)


def test_a_run_killed_at_random_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    context = fresh_processes()

    def started(folder: str) -> Any:
        process = context.Process(
            target=train_from_folder, args=(FOLDER_CONFIG, data, tmp_path / folder)
        )
        process.start()
        return process

    whole = started("whole")
    chance, killed = random.Random(0), tmp_path / "killed"
    for low in (3, 20, 40):
        process = started("killed")
        wait_for_step(killed, low + chance.randrange(15), process)
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.join()
        assert process.exitcode == -9
    last = started("killed")
    for process in (last, whole):
        process.join()
        assert process.exitcode == 0
    for group in ("model", "ema", "optimizer"):
        assert_same(weights(killed, group), weights(tmp_path / "whole", group))
    rows = [row["step"] for row in read_log(killed / "log.jsonl") if "loss" in row]
    assert rows == list(range(1, 61))


def test_tag_sizes_must_be_the_datas(data: Path, tmp_path: Path) -> None:
    config = replace(FOLDER_CONFIG, network=FOLDER_CONFIG.network | {"tag_sizes": [9, 7, 13]})
    with pytest.raises(
        DataError, match=r"tag_sizes are \[9, 7, 13\], but the data needs \[3, 2, 13\]"
    ):
        train_from_folder(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no config file"):
        load_ema(tmp_path)
    start_run(tmp_path, TINY)
    with pytest.raises(DataError, match="no checkpoint yet"):
        load_ema(tmp_path)


def test_the_model_space_is_that_of_the_data_that_the_run_began_with(
    data: Path, composed: Path, tmp_path: Path
) -> None:
    config = replace(
        FOLDER_CONFIG,
        network=FOLDER_CONFIG.network | {"tag_sizes": [9, 7, 13]},
        normalised=True,
        steps=2,
        frames=64,
    )
    train_from_folder(config, composed, tmp_path / "run")
    bands = load_bands(tmp_path / "run")
    spec = AudioSpec(clip_frames=64)
    assert bands == band_statistics(composed, spec)
    x_0, _ = ClipDataset(composed, spec, frames=64, bands=bands).batch(0, 64)
    assert x_0.mean().abs() < 0.3
    assert 0.7 < x_0.std() < 1.3
    quieter = shutil.copytree(composed, tmp_path / "quieter")
    labels = (quieter / "labels.jsonl").read_text().splitlines()[:1]
    (quieter / "labels.jsonl").write_text("\n".join(labels) + "\n")
    (quieter / "dataset.json").write_text(
        json.dumps(json.loads((quieter / "dataset.json").read_text()) | {"count": 1})
    )
    train_from_folder(
        replace(config, steps=4), quieter, tmp_path / "run"
    )  # other data, the same space
    assert load_bands(tmp_path / "run") == bands
    train_from_folder(replace(config, start_from=str(tmp_path / "run")), quieter, tmp_path / "next")
    assert load_bands(tmp_path / "next") == bands


def test_a_run_without_normalisation_writes_no_statistics(data: Path, tmp_path: Path) -> None:
    train_from_folder(replace(FOLDER_CONFIG, steps=1), data, tmp_path / "run")
    assert not (tmp_path / "run" / "bands.json").exists()
    assert load_bands(tmp_path / "run") == PLAIN


def test_speed_is_measured() -> None:
    assert clips_per_second(TINY, steps=3) > 1


def test_the_base_for_text_control_alone_never_saw_a_tag() -> None:
    config = load_config(RECIPES / "unconditional.json", BaseConfig)
    base = load_config(RECIPES / "base.json", BaseConfig)
    assert (config.start_from, config.continued) == ("", False)
    assert (config.tag_dropout, config.grid_dropout) == (1.0, 1.0)
    alike = ("network", "loss", "batch_size", "times", "normalised", "shift", "least_share")
    assert all(getattr(config, name) == getattr(base, name) for name in alike)


def test_a_base_that_never_saw_a_tag_is_packed_without_any(tmp_path: Path) -> None:
    network = {**NETWORK, "n_mels": 160, "patch": 8, "tag_sizes": [9, 7, 13]}
    config = replace(TINY, network=network, frames=64, steps=2, tag_dropout=1.0, grid_dropout=1.0)
    train_base(config, WideClips(), tmp_path / "run", show=False)
    pack(tmp_path / "run", Path(EMBEDDED), "no data", tmp_path / "model", 1.0)
    model, trained = load(tmp_path / "model"), load_ema(tmp_path / "run")
    x, t = torch.randn(2, 1, 160, 64), torch.tensor([300, 900])
    none = model.cond(Tags(), 2)
    assert none.tolist() == [[0] * 5] * 2
    with torch.no_grad():
        packed, expected = model.network(x, t, none), trained(x, t, none)
    torch.testing.assert_close(packed, expected, atol=1e-2, rtol=1e-2)  # shipped as float16
    assert generate(model, seconds=0.5).audio.isfinite().all()
    assert model.vocabulary.kinds_of(Tags("jazz", "calm", 120.0)) == Tags()
    assert model.vocabulary.tempo_like(120.0) is None
    assert "tags       none" in describe_model(model)
    for tags, message in (("genre=jazz", "knows no genre"), ("tempo=120", "knows no tempo")):
        with pytest.raises(TagError, match=message):
            generate(model, tags=tags, seconds=0.5)
