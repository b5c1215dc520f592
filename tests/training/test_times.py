"""Which noise levels a training visits."""

import math

import pytest
import torch

from ditto.diffusion.schedule import Schedule
from ditto.training.times import logit_normal_times, uniform_times

SCHEDULE = Schedule.cosine()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_sigmas(t: torch.Tensor) -> torch.Tensor:
    return SCHEDULE.sigma(t, t.double()).log()


def test_the_nearest_timestep_is_the_nearest() -> None:
    levels = SCHEDULE.sigma(torch.arange(1000), torch.zeros(1000, dtype=torch.float64))
    assert torch.equal(SCHEDULE.nearest(levels), torch.arange(1000))
    assert SCHEDULE.nearest(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    for sigma in (0.1, 1.0, 4.0):
        t = int(SCHEDULE.nearest(torch.tensor(sigma)))
        assert abs(levels[t].log() - math.log(sigma)) <= (levels[t + 1] / levels[t - 1]).log() / 2


def test_log_sigma_is_normal() -> None:
    found = log_sigmas(logit_normal_times(SCHEDULE, 20_000, generator(), 0.4, 1.0, 0.0))
    assert found.mean().item() == pytest.approx(0.4, abs=0.01)
    assert found.std().item() == pytest.approx(1.0, abs=0.01)
    share = torch.sigmoid(found)  # of the noise, s = σ / (1 + σ)
    assert share.median().item() == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.01)


def test_a_share_is_uniform_in_the_timestep() -> None:
    t = logit_normal_times(SCHEDULE, 20_000, generator(), 0.4, 0.01, 0.1)
    assert (log_sigmas(t) > 3).double().mean().item() == pytest.approx(0.1 * 0.032, rel=0.1)
    assert t.min() == 0
    assert t.max() == 999


def test_every_batch_is_stratified() -> None:
    for seed in range(5):
        t = logit_normal_times(SCHEDULE, 8, generator(seed), 0.4, 1.0, 0.0)
        assert (t.diff() >= 0).all()
        places = torch.distributions.Normal(0.4, 1.0).cdf(log_sigmas(t))
        assert ((places * 8).floor() - torch.arange(8)).abs().max() <= 1
        assert [int(value) // 125 for value in uniform_times(SCHEDULE, 8, generator(seed))] == list(
            range(8)
        )
