"""Rectified flows on the variance-preserving schedule, against diffusers' scheduler of flows."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from ditto.diffusion.consistency import gamma_sample
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.edict import edict, edict_timesteps, edict_unstep
from ditto.diffusion.samplers import Chain, ddim, ddim_invert, ddpm, dpm_solver_pp
from ditto.diffusion.schedule import CLEAN, PARTS, Flow, Schedule

STEPS = [1, 2, 7, 8, 13, 20, 100, 999]


def shifted(u: Tensor) -> Tensor:
    return 3.0 * u / (1 + 2.0 * u)


def log_snr(u: Tensor) -> Tensor:
    return torch.where(u == 1, torch.ones_like(u), torch.sigmoid(-(2.0 - u * 8.2)))


WARPS: dict[str, Callable[[Tensor], Tensor]] = {
    "even": lambda u: u,
    "shift 3": shifted,
    "log-SNR": log_snr,
}
FLOWS = {name: Schedule.flow(warp) for name, warp in WARPS.items()}
FLOW = FLOWS["shift 3"]
WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3


def velocity(x: Tensor, tau: Tensor) -> Tensor:
    """Some field, of both its arguments."""
    return torch.tanh(x @ WEIGHT.to(x)) * (1 + tau[:, None]) + 0.3 * x * tau[:, None].sin()


def chain_of(schedule: Flow, steps: int, spacing: str = "trailing") -> Chain:
    def network(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        signal, spread = schedule.scales(t, x_t)
        return velocity(x_t / (signal + spread), schedule.time(t).to(x_t))

    denoiser = GuidedDenoiser(network, schedule, "flow", lambda cond: cond, limit=None)
    return Chain(denoiser, schedule, schedule.timesteps(steps, spacing), torch.zeros(4, 1))  # pyright: ignore[reportArgumentType]


def noise(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def theirs(schedule: Flow, steps: int, stochastic: bool, generator: torch.Generator) -> Tensor:
    """What diffusers' scheduler makes of `noise(1)`."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, shift=1.0, stochastic_sampling=stochastic
    )
    scheduler.set_timesteps(
        sigmas=schedule.time(torch.tensor(schedule.timesteps(steps))).tolist()  # pyright: ignore[reportArgumentType]
    )
    x = noise(1)
    for t in scheduler.timesteps:  # pyright: ignore[reportOptionalIterable]
        output = velocity(x, torch.as_tensor(t).expand(4))
        x = scheduler.step(output, t, x, generator=generator, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
    return x


@pytest.mark.parametrize("steps", STEPS)
def test_grids_are_the_pipelines_to_the_last_bit(steps: int) -> None:
    time = {name: s.time(torch.tensor(s.timesteps(steps))) for name, s in FLOWS.items()}
    assert time["log-SNR"].tolist() == logsnr_sigma_schedule(steps, -6.2, 2.0)
    even = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    assert torch.equal(time["even"], even)
    assert torch.equal(time["shift 3"], 3.0 * even / (1 + 2.0 * even))


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("steps", [1, 8, 13, 20, 100])
def test_ddim_is_eulers_method_and_gamma_of_one_is_ping_pong(name: str, steps: int) -> None:
    chain = chain_of(FLOWS[name], steps)
    generator, again = (torch.Generator().manual_seed(5) for _ in range(2))
    torch.testing.assert_close(
        ddim(chain, noise(1)), theirs(FLOWS[name], steps, False, generator), rtol=0, atol=1e-5
    )
    ours = gamma_sample(chain, noise(1), 1.0, lambda: torch.randn(4, 6, generator=again))
    expected = theirs(FLOWS[name], steps, True, generator)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_in_float64_nothing_is_left_but_the_cap_at_pure_noise() -> None:
    x, tau = noise(1, torch.float64), torch.linspace(1, 0, 14, dtype=torch.float64)
    chain = chain_of(FLOWS["even"], 13)
    ours = ddim(chain, x)
    for now, then in pairwise(tau):
        x = x + (then - now) * velocity(x, now.float().double().expand(4))
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-7)


def test_the_forward_process_and_its_velocity_are_the_flows() -> None:
    x_0, epsilon = noise(2, torch.float64), noise(3, torch.float64)
    for t in FLOW.timesteps(5)[1:]:
        tau = t / PARTS
        x_t = FLOW.add_noise(x_0, epsilon, t)
        length = ((1 - tau) ** 2 + tau**2) ** 0.5
        torch.testing.assert_close(x_t * length, (1 - tau) * x_0 + tau * epsilon)
        torch.testing.assert_close(FLOW.to_x_0(epsilon - x_0, x_t, t, "flow"), x_0)
        assert FLOW.sigma(t, x_t).item() == pytest.approx(tau / (1 - tau))
    assert torch.equal(FLOW.add_noise(x_0, epsilon, CLEAN), x_0)


def test_the_timestep_of_a_noise_level_is_exact() -> None:
    t = torch.tensor(FLOW.timesteps(20))
    assert torch.equal(FLOW.nearest(FLOW.sigma(t, t.double())), t)
    assert FLOW.nearest(torch.tensor([torch.inf])).item() == PARTS


def test_dpm_solver_is_nearer_the_flows_end_than_euler_at_equal_steps() -> None:
    x_T = noise(1)
    end = ddim(chain_of(FLOW, 999), x_T)
    euler, solver = (sampler(chain_of(FLOW, 8), x_T) for sampler in (ddim, dpm_solver_pp))
    assert (solver - end).abs().mean() < 0.5 * (euler - end).abs().mean()


def test_inversion_leads_back_and_ancestral_sampling_keeps_the_level() -> None:
    x_T, chain = noise(1), chain_of(FLOW, 200)
    found = ddim_invert(chain, ddim(chain, x_T))
    assert (found - x_T).abs().mean() < 0.05 * x_T.abs().mean()
    generator = torch.Generator().manual_seed(0)
    x_0 = ddpm(chain_of(FLOW, 20), x_T, lambda: torch.randn(4, 6, generator=generator))
    assert bool(x_0.isfinite().all())
    assert x_0.abs().max() < 20


def test_edict_is_invertible_on_a_flow() -> None:
    chain = chain_of(FLOW, 8, "leading")
    assert edict_timesteps(FLOW, 8) == list(chain.timesteps)
    assert 0 < min(chain.timesteps) < max(chain.timesteps) < PARTS
    x_T = noise(1)
    pair = edict(chain, x_T, 0.9)
    for t, t_next in reversed(chain.pairs()):
        pair = edict_unstep(chain, pair, t, t_next, 0.9, torch.float32)
    torch.testing.assert_close(pair[0].float(), x_T, rtol=0, atol=1e-5)


def test_a_warp_that_does_not_rise_and_a_grid_too_fine_are_refused() -> None:
    with pytest.raises(ValueError, match="falling"):
        Schedule.flow(lambda u: 1 - u / 2)
    with pytest.raises(ValueError, match="between 1 and 1000"):
        FLOW.timesteps(1001)
