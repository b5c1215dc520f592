"""The papers' UNet: size, shapes, where tags enter."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ditto.models.unet import TagUNet
from ditto.training.loop import RECIPES

T, TAGS = torch.tensor([10, 900]), torch.tensor([[1, 2, 3], [2, 0, 5]])
CONFIG = RECIPES / "base-paper.json"


@pytest.fixture(scope="module")
def unet() -> TagUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {
            "block_out_channels": (8, 8, 16),
            "layers_per_block": (1, 1, 2),
            "norm_groups": 4,
            "tag_width": 8,
        }
        return TagUNet(attention_heads=2, **small).requires_grad_(False).eval()


def x(frames: int = 8) -> Tensor:
    return torch.randn(2, 1, 16, frames, generator=torch.Generator().manual_seed(0))


def test_the_papers_size() -> None:
    with torch.device("meta"):
        network = TagUNet(**json.loads(CONFIG.read_text())["network"])
        output = network(
            torch.zeros(1, 1, 160, 512), torch.zeros(1), torch.zeros(1, 3, dtype=torch.long)
        )
    assert output.shape == (1, 1, 160, 512)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(41e6, rel=0.05)
    assert network.frame_multiple == 16
    assert network.config["prediction"] == "epsilon"


def test_the_inner_two_stages_alone_see_the_tags() -> None:
    with torch.device("meta"):
        blocks = TagUNet().unet.config
    assert list(blocks["down_block_types"]) == ["DownBlock2D"] * 3 + ["CrossAttnDownBlock2D"] * 2
    assert list(blocks["up_block_types"]) == ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"] * 3


def test_shape_and_items(unet: TagUNet) -> None:
    together = unet(x(), T, TAGS)
    assert together.shape == x().shape
    torch.testing.assert_close(together[1:], unet(x()[1:], T[1:], TAGS[1:]), rtol=1e-4, atol=1e-5)


def test_tags_and_timestep_matter(unet: TagUNet) -> None:
    for column in range(3):
        other = TAGS.clone()
        other[:, column] = 1 - TAGS[:, column].clamp(max=1)
        assert not torch.allclose(unet(x(), T, other), unet(x(), T, TAGS), rtol=0, atol=1e-6)
    assert not torch.allclose(unet(x(), T + 50, TAGS), unet(x(), T, TAGS), rtol=0, atol=1e-6)


def test_input_gradients_reach_every_value(unet: TagUNet) -> None:
    x_t = x().requires_grad_()
    unet(x_t, T, TAGS).square().sum().backward()
    assert x_t.grad is not None
    assert (x_t.grad != 0).all()


def test_saving_keeps_weights_and_config(unet: TagUNet, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path)
    loaded = TagUNet.from_pretrained(tmp_path)
    assert torch.equal(loaded(x(), T, TAGS), unet(x(), T, TAGS))
