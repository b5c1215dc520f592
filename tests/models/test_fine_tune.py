"""A base fine-tuned from the embedded one: only what differs is stored, and all else must be the
embedded base's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ditto
from ditto.audio.spec import AudioSpec
from ditto.errors import ModelError, OutputError
from ditto.models import hub
from ditto.models.fine_tune import FILE, load_fine_tune, save_fine_tune
from ditto.models.folder import INDEX, hash_file
from ditto.models.model import MusicModel

load = partial(hub.load, precision="float32")
SHIPPED = Path(__file__).parents[2] / "weights" / "base-24s"

TUNED = ("blocks.0.out.weight", "blocks.3.qkv.bias")
SPEC = AudioSpec(clip_frames=1024)


def tuned() -> MusicModel:
    """The embedded model, two of its weights moved."""
    model = load()
    for name in TUNED:
        model.network.get_parameter(name).data.mul_(1.25)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "wide"
    save_fine_tune(tuned().network, SPEC, folder)
    return folder


def test_only_what_differs_is_stored(folder: Path) -> None:
    assert sorted(load_file(folder / FILE)) == sorted(TUNED)


def test_loading_gives_the_fine_tuned_network_and_all_else_of_the_embedded_model(
    folder: Path,
) -> None:
    model, base = ditto.load(folder, precision="float32"), load()
    expected = {name: value.half().float() for name, value in tuned().network.state_dict().items()}
    assert all(
        torch.equal(value, expected[name]) for name, value in model.network.state_dict().items()
    )
    assert all(
        torch.equal(value, base.vocoder.state_dict()[name])
        for name, value in model.vocoder.state_dict().items()
    )
    assert (model.vocabulary, model.shift, model.guidance) == (
        base.vocabulary,
        base.shift,
        base.guidance,
    )
    assert (model.spec, model.name, model.distilled) == (SPEC, "wide", None)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_its_hash_is_its_own_and_the_one_that_saving_gave(folder: Path, tmp_path: Path) -> None:
    again = save_fine_tune(tuned().network, SPEC, tmp_path / "again")
    model = load_fine_tune(folder)
    assert again == model.sha256 == model.base_sha256
    assert model.sha256 != load().sha256
    assert save_fine_tune(load().network, SPEC, tmp_path / "same") != again


def test_a_fine_tuned_model_can_be_saved_whole(folder: Path, tmp_path: Path) -> None:
    model = load_fine_tune(folder)
    model.save(tmp_path / "whole")
    ours, whole = model.network.state_dict(), load(tmp_path / "whole").network.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())


def test_the_shipped_24_s_base_plays_in_one_piece() -> None:
    model, base = ditto.load(SHIPPED, precision="float32"), ditto.load(precision="float32")
    assert model.spec == replace(base.spec, clip_frames=2048)
    untuned = replace(base, spec=model.spec, distilled=None)
    wide, narrow = (
        ditto.run(ditto.Request(method=ditto.Uncontrolled(steps=2)), each).x_0
        for each in (model, untuned)
    )
    assert wide.shape == (1, *model.shape())
    assert wide.isfinite().all()
    assert (
        0.01 < (wide - narrow).square().mean().sqrt() < 0.2
    )  # it is another model than the embedded one, and near it


def edited(folder: Path, **changes: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | changes))


def with_weights(folder: Path, **weights: torch.Tensor) -> None:
    save_file(weights, folder / FILE)
    edited(folder, sha256={"denoiser": hash_file(folder / FILE)})


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another base": (
        lambda f: edited(f, base="0" * 64),
        "fine-tuned from another base than the embedded one",
    ),
    "no weights": (lambda f: (f / FILE).unlink(), "is incomplete"),
    "other bytes": (lambda f: (f / FILE).write_bytes(b"0"), "is damaged: its SHA-256"),
    "no hash": (lambda f: edited(f, sha256=None), "is damaged: its SHA-256"),
    "unknown weight": (
        lambda f: with_weights(f, other=torch.zeros(2)),
        "weights that the embedded base has not",
    ),
    "another shape": (lambda f: with_weights(f, **{TUNED[0]: torch.zeros(2)}), "do not fit"),
    "unknown setting": (lambda f: edited(f, spec={"bands": 3}), "do not fit"),
    "other bands": (lambda f: edited(f, spec={"n_mels": 80}), "do not fit"),
    "another rate": (lambda f: edited(f, spec={"sample_rate": 44_100}), "do not fit"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_folder_is_one_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(ModelError, match=message) as caught:
        ditto.load(copy)
    assert len(str(caught.value).splitlines()) == 1


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    network = load().network
    network.get_parameter(TUNED[0]).data[0, 0] = 7e4  # float16 ends at 65 504
    with pytest.raises(ModelError, match="does not fit float16"):
        save_fine_tune(network, SPEC, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(OutputError, match="is not a model folder"):
        save_fine_tune(load().network, replace(SPEC), tmp_path / "notes")
