"""Which noise levels a training visits: the timesteps of a batch, drawn from a generator alone.

Two ways. "uniform" in the timestep. "logit_normal" in the noise's share s = σ / (1 + σ), as in
rectified flows (Esser et al. 2024): s = sigmoid(mean + std · n), n ~ N(0, 1), which is log σ ~
N(mean, std²); most draws are at the levels where a clip takes shape. Either is stratified over the
batch, and a level is that of the nearest timestep, so that samplers and training share one set of
levels.
"""

import math

import torch
from torch import Tensor

from ditto.diffusion.schedule import Schedule


def uniform_times(schedule: Schedule, count: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps (count,), uniform and stratified."""
    return _timesteps(schedule, _strata(count, generator))


def logit_normal_times(
    schedule: Schedule,
    count: int,
    generator: torch.Generator,
    mean: float,
    std: float,
    uniform_share: float,
) -> Tensor:
    """Draw timesteps (count,) whose log σ is normal with that mean and deviation; stratified.

    `uniform_share` of them are uniform in the timestep, so that the levels of either end are seen,
    which chains start from and end at.
    """
    strata = _strata(count, generator)
    levels = (strata - uniform_share).clamp(min=0) / max(1 - uniform_share, 1e-12)
    normal = math.sqrt(2) * torch.erfinv(2 * levels.double().clamp(1e-7, 1 - 1e-7) - 1)
    near = schedule.nearest(torch.exp(mean + std * normal))
    return torch.where(
        strata < uniform_share, _timesteps(schedule, strata / max(uniform_share, 1e-12)), near
    )


def _strata(count: int, generator: torch.Generator) -> Tensor:
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def _timesteps(schedule: Schedule, places: Tensor) -> Tensor:
    return (places * schedule.num_train).long().clamp(0, schedule.num_train - 1)
