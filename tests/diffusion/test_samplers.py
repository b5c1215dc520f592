"""Every sampler against diffusers' scheduler of that name, step by step, in float64."""

from collections.abc import Callable

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from ditto.diffusion.samplers import (
    Chain,
    ddim,
    ddim_invert,
    ddim_step,
    ddpm,
    ddpm_step,
    dpm_solver_pp,
)
from ditto.diffusion.schedule import Schedule, Spacing

SCHEDULE = Schedule.cosine()
STEPS = [1, 2, 5, 20, 50]
COND = torch.zeros(2, 3, dtype=torch.long)


def start() -> Tensor:
    return torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def x_0_model(x: Tensor, t: int) -> Tensor:
    return 0.8 * torch.tanh(x * (1 + t / 2000)) + 0.1 * torch.sin(
        torch.tensor(t / 100.0, dtype=torch.float64)
    )


class Recorder:
    """A denoiser that keeps the x_t of every call."""

    def __init__(self, model: Callable[[Tensor, int], Tensor]) -> None:
        self.model, self.seen = model, []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        self.seen.append(x_t)
        return self.model(x_t, int(t[0]))


def chain(
    denoiser: Recorder, steps: int, spacing: Spacing = "trailing", threshold: bool = False
) -> Chain:
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps, spacing), COND, threshold=threshold)


def theirs(kind: Callable, steps: int, **settings: object):
    """A scheduler of diffusers on our float64 ᾱ."""
    scheduler = kind(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", **settings)
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar
    scheduler.set_timesteps(steps)
    return scheduler


def walk(scheduler, model: Callable[[Tensor, int], Tensor], **settings: object) -> list[Tensor]:
    """x at every timestep of diffusers' loop, and the result."""
    xs = [start()]
    for t in scheduler.timesteps.tolist():
        xs.append(scheduler.step(model(xs[-1], t), t, xs[-1], **settings).prev_sample)
    return xs


def assert_same_path(
    recorder: Recorder, result: Tensor, expected: list[Tensor], rtol: float = 1e-9
) -> None:
    assert len(recorder.seen) + 1 == len(expected)
    for ours, other in zip([*recorder.seen, result], expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("steps", STEPS)
def test_ddim_is_diffusers(steps: int) -> None:
    recorder = Recorder(x_0_model)
    result = ddim(chain(recorder, steps), start())
    scheduler = theirs(DDIMScheduler, steps, prediction_type="sample", clip_sample=False)
    assert_same_path(recorder, result, walk(scheduler, x_0_model))


def test_thresholded_ddim_is_diffusers() -> None:
    def wild(x: Tensor, t: int) -> Tensor:
        return 3 * x_0_model(x, t)

    recorder = Recorder(wild)
    result = ddim(chain(recorder, 10, threshold=True), start())
    scheduler = theirs(DDIMScheduler, 10, prediction_type="sample", thresholding=True)
    assert_same_path(recorder, result, walk(scheduler, wild, use_clipped_model_output=True))
    assert result.abs().max() <= 1


@pytest.mark.parametrize("steps", STEPS)
def test_ddpm_is_diffusers(steps: int) -> None:
    def draws() -> Callable[[], Tensor]:
        generator = torch.Generator().manual_seed(1)
        return lambda: torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)

    recorder, noise = Recorder(x_0_model), draws()
    result = ddpm(chain(recorder, steps), start(), noise)
    ancestral = theirs(DDPMScheduler, steps, prediction_type="sample", clip_sample=False)
    assert_same_path(
        recorder,
        result,
        walk(ancestral, x_0_model, generator=torch.Generator().manual_seed(1)),
        1e-8,
    )
    eta_one, noise, x = (
        theirs(DDIMScheduler, steps, prediction_type="sample", clip_sample=False),
        draws(),
        start(),
    )
    for t in eta_one.timesteps.tolist():
        x = eta_one.step(x_0_model(x, t), t, x, eta=1.0, variance_noise=noise()).prev_sample
    torch.testing.assert_close(result, x, rtol=1e-9, atol=1e-9)


def test_ancestral_sampling_can_keep_x_T_where_it_is_noise_alone() -> None:
    """At σ = 20 000 the ancestral step keeps 0.06 % of ε̂, which DDIM's keeps whole."""
    recorder, grid = Recorder(x_0_model), SCHEDULE.timesteps(20)
    ddpm(chain(recorder, 20), start(), lambda: torch.zeros_like(start()), kept=10.0)
    x = start()
    for i, step in enumerate((ddim_step, ddim_step, ddpm_step)):
        t, t_next = grid[i], grid[i + 1]
        assert (SCHEDULE.sigma(t, x) > 10).all() == (step is ddim_step)
        noise = () if step is ddim_step else (lambda: torch.zeros_like(start()),)
        x = step(SCHEDULE, x, x_0_model(x, t), t, t_next, *noise)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(recorder.seen[i + 1], x)
    fresh = Recorder(x_0_model)
    ddpm(chain(fresh, 20), start(), lambda: torch.zeros_like(start()))
    assert fresh.seen[1].abs().max() < 0.1 < recorder.seen[1].std()


@pytest.mark.parametrize("steps", STEPS)
def test_dpm_solver_is_diffusers(steps: int) -> None:
    recorder = Recorder(x_0_model)
    result = dpm_solver_pp(chain(recorder, steps), start())
    scheduler = theirs(
        DPMSolverMultistepScheduler,
        steps,
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    levels = [
        SCHEDULE.sigma(t, torch.zeros(1, dtype=torch.float64)) for t in scheduler.timesteps.tolist()
    ]
    assert torch.allclose(torch.cat(levels), scheduler.sigmas[:-1].double(), rtol=1e-4)
    scheduler.sigmas = torch.cat(
        [*levels, torch.zeros(1, dtype=torch.float64)]
    )  # theirs are rounded to float32
    assert_same_path(
        recorder, result, walk(scheduler, x_0_model), 1e-6
    )  # their step computes in float32


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", STEPS)
def test_inversion_is_diffusers(steps: int, spacing: Spacing) -> None:
    def epsilon_model(x: Tensor, t: int) -> Tensor:
        return SCHEDULE.to_epsilon(0.5 * x_0_model(x, t), x, max(t, 0))

    def denoise(x: Tensor, t: int) -> Tensor:
        return SCHEDULE.to_x_0(epsilon_model(x, t), x, t, "epsilon")

    recorder = Recorder(denoise)
    result = ddim_invert(chain(recorder, steps, spacing), start(), ahead=True)
    scheduler = DDIMInverseScheduler(
        beta_schedule="squaredcos_cap_v2",
        timestep_spacing=spacing,
        clip_sample=False,
        prediction_type="epsilon",
    )
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == SCHEDULE.timesteps(steps, spacing)[::-1]
    assert_same_path(recorder, result, walk(scheduler, epsilon_model))


def test_inversion_asks_about_x_at_its_own_level() -> None:
    recorder = Recorder(gaussian)
    x_T = ddim_invert(chain(recorder, 4, "leading"), start())
    x, asked = start(), [0, *SCHEDULE.timesteps(4, "leading")[:0:-1]]
    for told, t in zip(asked, SCHEDULE.timesteps(4, "leading")[::-1], strict=True):
        torch.testing.assert_close(recorder.seen.pop(0), x)
        alpha_bar = SCHEDULE.alpha_bar[told]
        epsilon = (x - alpha_bar.sqrt() * gaussian(x, told)) / (1 - alpha_bar).sqrt()
        clean = x if t == 0 else (x - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
        x = SCHEDULE.alpha_bar[t].sqrt() * clean + (1 - SCHEDULE.alpha_bar[t]).sqrt() * epsilon
    torch.testing.assert_close(x_T, x)


def gaussian(x: Tensor, t: int) -> Tensor:
    """The exact denoiser of data ~ N(0, 0.3²)."""
    alpha_bar = SCHEDULE.alpha_bar[t]
    return alpha_bar.sqrt() * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar) * x


@pytest.mark.parametrize("sampler", [ddim, dpm_solver_pp])
def test_samplers_reach_the_data_of_an_exact_denoiser(
    sampler: Callable[[Chain, Tensor], Tensor],
) -> None:
    # the probability-flow ODE maps N(0, 1) to N(0, 0.3²) linearly
    errors = [
        (sampler(chain(Recorder(gaussian), steps), start()) - 0.3 * start()).abs().max()
        for steps in (10, 80)
    ]
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 4


def test_inversion_undoes_sampling_in_the_limit() -> None:
    errors = []
    for steps in (10, 100, 1000):
        x_T = ddim_invert(chain(Recorder(gaussian), steps), 0.3 * start())
        back = ddim(chain(Recorder(gaussian), steps), x_T)
        errors.append((back - 0.3 * start()).abs().max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="timestep"):
        dpm_solver_pp(Chain(Recorder(x_0_model), SCHEDULE, [], COND), start())
