"""The adapter: an untrained one changes nothing, curves are encoded as told, files come back
whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_network, randomised
from torch import Tensor

from ditto.errors import ModelError
from ditto.models.controlnet import CHANNELS, ControlAdapter, encode_curves
from ditto.models.model import MusicModel

TAGS = torch.tensor([[1, 2, 3, 1200, 500], [2, 0, 5, 0, 0]])


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 16, 12, generator=generator), torch.tensor([30, 700]), TAGS


def curves(seed: int = 1) -> Tensor:
    return torch.randn(2, CHANNELS, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frame_rate", [0.0, 125.0])
@pytest.mark.parametrize("blocks", [1, 2])
def test_an_untrained_adapter_leaves_the_base_as_it_is(blocks: int, frame_rate: float) -> None:
    base = make_network(frame_rate=frame_rate)
    adapter = ControlAdapter.of(base, blocks)
    assert torch.equal(adapter(base, *inputs(), curves()), base(*inputs()))


def test_its_blocks_are_copies_that_do_not_share_weights() -> None:
    base = make_network()
    adapter = ControlAdapter.of(base, len(base.blocks))
    for own, theirs in zip(adapter.blocks.parameters(), base.blocks.parameters(), strict=True):
        assert torch.equal(own, theirs)
        assert own.data_ptr() != theirs.data_ptr()
        assert own.requires_grad


def test_every_part_learns_once_the_outputs_have_moved() -> None:
    base = make_network()
    adapter = ControlAdapter.of(base, 2)

    def slopes() -> dict[str, float]:
        loss = (adapter(base, *inputs(), curves()) - 0.3).square().mean()
        found = torch.autograd.grad(loss, list(adapter.parameters()))
        return {
            n: g.abs().max().item()
            for (n, _), g in zip(adapter.named_parameters(), found, strict=True)
        }

    assert all(value > 0 for name, value in slopes().items() if name.startswith("outputs"))
    randomised(adapter).requires_grad_(True)
    assert all(value > 0 for value in slopes().values())


def test_trained_curves_count_and_each_item_has_its_own() -> None:
    base, adapter = make_network(), randomised(ControlAdapter.of(make_network(), 2))
    one, other = curves(1), curves(1)
    other[1] += 1
    a, b = adapter(base, *inputs(), one), adapter(base, *inputs(), other)
    assert torch.equal(a[0], b[0])
    assert (a[1] - b[1]).abs().max() > 1e-3


def test_curves_are_told_frame_by_frame() -> None:
    levels = torch.tensor([[-30.0, -20.0, torch.nan], [-50.0, torch.nan, -30.0]])
    told = encode_curves(levels, torch.tensor([0, 11, -1]), 2, 3)
    assert told.shape == (2, CHANNELS, 3)
    assert told[:, 0].tolist() == [[0, 1, 0], [-2, 0, 0]]
    assert told[:, 1].tolist() == [[1, 1, 0], [1, 0, 1]]
    assert told[0, 2:14].argmax(dim=0)[:2].tolist() == [0, 11]
    assert told[0, 2:14].sum(dim=0).tolist() == told[0, 14].tolist() == [1, 1, 0]
    assert not encode_curves(None, None, 2, 3).any()
    assert not encode_curves(levels, None, 2, 3)[:, 2:].any()


def test_a_folder_gives_the_adapter_back(tmp_path: Path, tiny_model: MusicModel) -> None:
    adapter = randomised(ControlAdapter.of(tiny_model.network, 2))  # pyright: ignore[reportArgumentType]
    assert isinstance(adapter, ControlAdapter)
    for _ in range(2):
        adapter.save(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    loaded = ControlAdapter.load(tmp_path / "adapter", tiny_model)
    assert all(
        torch.equal(a, b.half().float())
        for a, b in zip(loaded.parameters(), adapter.parameters(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(ModelError, match="trained with another base"):
        ControlAdapter.load(
            tmp_path / "adapter", replace(tiny_model, network=make_network(mlp_ratio=1.0))
        )
    config = tmp_path / "adapter" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depth": 1}))
    with pytest.raises(ModelError, match="damaged"):
        ControlAdapter.load(tmp_path / "adapter", tiny_model)
    with pytest.raises(ModelError, match="ditto-music train controlnet"):
        ControlAdapter.load(tmp_path / "none", tiny_model)


def test_what_cannot_be_a_base_is_refused() -> None:
    with pytest.raises(ModelError, match="1 to 2 that can be copied, not 3"):
        ControlAdapter.of(make_network(), 3)
    with pytest.raises(ModelError, match="distilled student"):
        ControlAdapter.of(make_network(guidance_embedded=True), 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"heads": 0}, "damaged"),
        ([], "damaged"),
        ({"heads": 1}, "another base"),
        ({"gelu": "none"}, "another base"),
    ],
)
def test_a_folder_of_nonsense_is_one_line(
    tmp_path: Path, tiny_model: MusicModel, config: Any, message: str
) -> None:
    ControlAdapter.of(tiny_model.network, 1).save(tmp_path / "adapter")  # pyright: ignore[reportArgumentType]
    path = tmp_path / "adapter" / "config.json"
    path.write_text(json.dumps(config and json.loads(path.read_text()) | config))
    with pytest.raises(ModelError, match=message):
        ControlAdapter.load(tmp_path / "adapter", tiny_model)
