"""What is measured of a base while it trains: errors by noise level, with the tags it knows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tests.training.test_base import NETWORK, TINY, Clips
from torch import Tensor

from ditto.audio.bands import PLAIN, Bands
from ditto.diffusion.schedule import Schedule
from ditto.models.transformer import PatchTransformer
from ditto.training.denoising import Setting
from ditto.training.measure import Measure
from ditto.training.run import Run


class Blind(torch.nn.Module):
    """Estimates nothing: x̂_0 = 0."""

    def forward(self, x_t: Tensor, t: Tensor, tags: Tensor) -> Tensor:
        return torch.zeros_like(x_t)


class Copying(torch.nn.Module):
    """Estimates what it sees, in the data's scale."""

    def forward(self, x_t: Tensor, t: Tensor, tags: Tensor) -> Tensor:
        return x_t / Schedule.cosine().scales(t, x_t)[0]


def test_denoising_errors_are_in_decibels_of_log_mel_and_their_noise_levels_in_its_units(
    tmp_path: Path,
) -> None:
    config = replace(TINY, measured=32, shift=1.0)
    bands = Bands((0.3,) * 16, (0.2,) * 16)
    setting = Setting(config.schedule, "sample", 1.0, 1.0)
    again = Run(TINY, tmp_path, Accelerator(), PatchTransformer(**NETWORK), averages={"ema": 0.999})
    measure = Measure(again, setting, config, Clips(), bands)
    x_0 = torch.cat([Clips().batch(i, 16)[0] for i in range(2)])
    blind, copying = measure.errors(Blind()), measure.errors(Copying())
    assert blind["error_db_1"] == pytest.approx(
        80 * 0.2 * x_0.square().mean().sqrt().item(), rel=1e-4
    )
    for sigma in (0.1, 1.0, 4.0):  # the noise that is left is that of σ in the log-mel
        assert copying[f"error_db_{sigma:g}"] == pytest.approx(80 * sigma, rel=0.02)


def test_a_base_without_tags_is_measured_without_them(tmp_path: Path) -> None:
    class Shared:
        done, accelerator, picture = 1, Accelerator(), tmp_path / "picture.png"

    class Log:
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def write(self, step: int, **found: float) -> None:
            self.rows.append(found)

    config = replace(TINY, tag_dropout=1.0, measured=16)
    network = PatchTransformer(**NETWORK)
    for parameter in network.parameters():  # a new one hears no tags
        parameter.data += 0.1 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(0)
        )
    setting = Setting.of(config, network)
    run: Any = Shared()
    run.log = Log()
    for moved in (0.0, 5.0):
        for table in network.tag_embedding.tables:
            table.weight.data[1:] += moved  # of tags that were never seen
        Measure(run, setting, config, Clips(), PLAIN)(network)
    assert run.log.rows[0] == run.log.rows[1]
    Measure(run, setting, replace(config, tag_dropout=0.1), Clips(), PLAIN)(network)
    assert run.log.rows[2] != run.log.rows[1]
