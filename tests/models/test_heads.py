"""Heads: their shapes and gradients, their part in a model's folder, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.errors import ModelError
from ditto.models import heads as module
from ditto.models.heads import Heads, Reader, decoder_hash, save_heads
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.network import WEIGHTS
from ditto.models.profile import Rehearsal


def make_heads(model: MusicModel, **changes: object) -> Heads:
    settings = {
        "channels": 16,
        "features": ("loudness", "chroma", "onsets", "timbre"),
        "width": 8,
        "depth": 1,
        "decoder": decoder_hash(model),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Heads(**settings | changes).requires_grad_(False).eval()  # pyright: ignore[reportArgumentType]


def x_0(frames: int = 64, batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, 16, frames, generator=torch.Generator().manual_seed(1)) - 0.7


@pytest.fixture
def with_heads(tiny_model: MusicModel, tmp_path: Path) -> MusicModel:
    save_heads(make_heads(tiny_model), tmp_path / "alone")
    return tiny_model.with_heads(tmp_path / "alone")


@pytest.mark.parametrize("frames", [64, 62, 5, 1])
def test_a_head_reads_every_frame(frames: int, with_heads: MusicModel) -> None:
    for feature, shape in (("loudness", ()), ("chroma", (12,)), ("onsets", ()), ("timbre", (19,))):
        read = with_heads.read(x_0(frames), feature)  # pyright: ignore[reportArgumentType]
        assert read is not None
        assert read.shape == (2, *shape, frames)
    shares = with_heads.read(x_0(frames), "chroma")
    assert shares is not None
    torch.testing.assert_close(shares.exp().sum(dim=1), torch.ones(2, frames))
    assert with_heads.read(x_0(frames), "clap") is None


def test_clap_is_read_as_a_unit_vector_of_its_own_length(tiny_model: MusicModel) -> None:
    heads = make_heads(tiny_model, features=("clap",), embedding=24)
    read = heads(x_0()[:, 0], "clap")
    assert read.shape == (2, 24)
    torch.testing.assert_close(read.norm(dim=-1), torch.ones(2))


def test_gradients_are_those_of_differences() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader(3, 2, step=2, width=4, depth=1, kernel=3).double()
    x = torch.randn(1, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(reader, x.requires_grad_())


def test_what_is_read_stays_where_it_is() -> None:
    """A frame reaches no further than the blocks' kernels: frames are not mixed up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = Reader(3, 2, step=4, width=4, depth=1, kernel=3)
    x = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(reader(x)[0, :, 32].sum(), x)
    touched = gradient[0].abs().sum(dim=0).nonzero()[:, 0]
    assert touched.min() == 32 - 4 - 2
    assert touched.max() == 32 + 2 * 4 + 2 - 1
    assert reader.standardise(x.detach()) is None
    flat = ((x.detach() - reader.mean) / reader.spread)[0]
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.std(dim=1), torch.ones(3))


def test_heads_are_part_of_a_folder_and_no_part_of_the_models_hash(
    tiny_model: MusicModel, with_heads: MusicModel, tmp_path: Path
) -> None:
    assert with_heads.save(tmp_path / "model") == tiny_model.save(tmp_path / "plain")
    loaded = load(tmp_path / "model", precision="float32")
    assert loaded.readers is not None
    assert loaded.readers.features == ["loudness", "chroma", "onsets", "timbre"]
    read, again = (model.read(x_0(), "chroma") for model in (with_heads, loaded))
    assert read is not None
    assert again is not None
    torch.testing.assert_close(again, read)
    assert load(tmp_path / "plain").read(x_0(), "chroma") is None


def test_heads_are_loaded_when_first_asked_for(
    with_heads: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_heads.save(tmp_path / "model")
    calls: list[str] = []
    build = module.load_part
    monkeypatch.setattr(module, "load_part", lambda *a: calls.append(a[1]) or build(*a))
    model = load(tmp_path / "model", precision="float32")
    copy = replace(model, name="other")
    assert not calls
    for each in (model, copy, model):
        each.read(x_0(), "loudness")
    assert calls == ["heads"]


@pytest.mark.parametrize("damage", ["weights", "missing", "entry", "vocoder"])
def test_a_folder_with_wrong_heads_is_one_line_before_any_work(
    with_heads: MusicModel, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "model"
    with_heads.save(folder)
    weights, index = folder / "heads" / WEIGHTS, folder / "model_index.json"
    described = json.loads(index.read_text())
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    elif damage == "missing":
        weights.unlink()
    elif damage == "entry":
        index.write_text(json.dumps(described | {"heads": "Heads"}))
    else:
        other = described["heads"] | {"vocoder": "0" * 64}
        index.write_text(json.dumps(described | {"heads": other}))
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    words = {
        "weights": "damaged: its SHA-256",
        "missing": "incomplete: heads/",
        "entry": "does not describe its heads",
        "vocoder": "another vocoder: train them again",
    }
    assert words[damage] in str(caught.value)


def test_heads_of_another_decoder_are_refused(tiny_model: MusicModel, tmp_path: Path) -> None:
    save_heads(make_heads(tiny_model, decoder="another"), tmp_path / "other")
    with pytest.raises(ModelError, match="trained with another decoder than that of 'tiny'"):
        tiny_model.with_heads(tmp_path / "other")
    tiny_model.save(tmp_path / "model")
    with pytest.raises(ModelError, match="another kind of model than heads alone"):
        tiny_model.with_heads(tmp_path / "model")


def test_a_control_reads_by_the_head_and_is_corrected_by_the_sound(
    with_heads: MusicModel, tiny_model: MusicModel
) -> None:
    control, output = Intensity("0:-30 0.5:-10"), Output(x_0(), with_heads)
    proxy = control.proxy()
    loss = proxy.loss(output)
    assert not torch.allclose(loss, proxy.loss(Output(x_0(), tiny_model)))
    calibrated = proxy.calibrate(output)
    torch.testing.assert_close(calibrated.loss(output), control.loss(output))


def test_an_estimate_leaves_the_heads_their_values(with_heads: MusicModel) -> None:
    control, before = Intensity("0:-30 0.5:-10"), with_heads.read(x_0(), "loudness")
    cost = Rehearsal.of(with_heads, None, 1, 1.0, control.proxy()).ditto(1, True)
    assert cost > 0
    after = with_heads.read(x_0(), "loudness")
    assert before is not None
    assert after is not None
    assert torch.equal(after, before)
    assert with_heads.describe()["heads"]
    assert "heads" not in replace(with_heads, readers=None).describe()


def test_unknown_features_are_refused() -> None:
    with pytest.raises(ValueError, match="heads read loudness"):
        Heads(features=("pitch",))  # pyright: ignore[reportArgumentType]
