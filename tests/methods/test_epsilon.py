"""The papers' own kind of base, a UNet that predicts ε: sampled, optimised through, distilled."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import VOCABULARY
from torch import Tensor

import ditto
from ditto.diffusion.schedule import EPSILON_SIGMA
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.student import Student
from ditto.training.base import BaseConfig, train_base
from ditto.training.distill import DistillConfig, train_student
from ditto.training.loop import RECIPES, load_config

FRAMES = 32


class Clips:
    """Noise around a level that the genre gives, from the step alone."""

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        tags = torch.randint(1, 3, (batch_size, 5), generator=generator)
        noise = torch.randn(batch_size, 1, 16, FRAMES, generator=generator)
        return 0.1 * noise + 0.3 * tags[:, :1, None, None] - 0.5, tags


@pytest.fixture(scope="module")
def papers_model(tiny_model: MusicModel, tmp_path_factory: pytest.TempPathFactory) -> MusicModel:
    """The papers' recipe, narrow and shallow, after a few quick steps."""
    paper = load_config(RECIPES / "base-paper.json", BaseConfig)
    narrow = {
        "block_out_channels": [8] * 5,
        "layers_per_block": [1] * 5,
        "tag_width": 8,
        "norm_groups": 4,
        "attention_heads": 2,
        "tag_sizes": VOCABULARY.sizes,
    }
    config = replace(
        paper,
        network=paper.network | narrow,
        frames=FRAMES,
        steps=60,
        batch_size=4,
        lr=5e-3,
        warmup=5,
        ema=0.9,
        precision="no",
    )
    network = train_base(config, Clips(), tmp_path_factory.mktemp("base"), show=False)
    spec = replace(tiny_model.spec, clip_frames=FRAMES)
    network.requires_grad_(False).eval()
    return replace(tiny_model, network=network, spec=spec, guidance=1.0, shift=1.0)


def saturated(x_0: Tensor) -> float:
    return (x_0.abs() >= 1).float().mean().item()


def test_its_chains_begin_where_an_x_0_can_be_computed(papers_model: MusicModel) -> None:
    schedule = papers_model.schedule
    x_T = torch.randn(2, 1, 16, FRAMES, generator=torch.Generator().manual_seed(0))
    for steps in (1, 2, 8, 20):
        grid = schedule.timesteps(steps)
        assert len(set(grid)) == steps
        assert 0.9 * EPSILON_SIGMA < schedule.sigma(grid[0], x_T).item() <= EPSILON_SIGMA

    def first(t: int) -> Tensor:
        times = torch.full((2,), t)
        return papers_model.denoiser(x_T, times, papers_model.cond(ditto.Tags(), 2), 1.0)

    assert saturated(first(999)) > 0.99
    assert saturated(first(schedule.timesteps(20)[0])) < 0.7


def test_it_is_sampled_and_optimised(papers_model: MusicModel) -> None:
    plain = ditto.generate(papers_model, count=2, method=Uncontrolled(steps=8))
    assert saturated(plain.x_0) < 0.1
    control = ditto.Intensity("swell")
    method = Ditto(steps=4, lr=0.01)
    made = ditto.generate(papers_model, control, count=2, iterations=6, method=method)
    assert (made.losses.amin(dim=0) < 0.9 * made.losses[0]).all()
    assert saturated(made.x_0) < 0.1


def test_it_is_distilled(papers_model: MusicModel, tmp_path: Path) -> None:
    config = DistillConfig(
        steps=50, batch_size=2, grid=20, guidance=(1.0, 1.0), evaluate_every=100, evaluate_count=2
    )
    network = train_student(config, papers_model, Clips(), tmp_path, show=False)
    student = Student(network, "ctm", (1.0, 1.0), hash_weights(papers_model.network))
    model = replace(papers_model, distilled=student)
    method = Ditto2(corrections=2, lr=0.01)
    control = ditto.Intensity("swell")
    made = ditto.generate(model, control, count=2, iterations=6, method=method)
    assert (made.losses.amin(dim=0) < made.losses[0]).all()
    assert saturated(made.x_0) < 0.2
