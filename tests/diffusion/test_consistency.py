"""Jumps and γ-sampling against DDIM, the formulas of DITTO-2, and diffusers' TCD, in float64."""

import itertools

import pytest
import torch
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from torch import Tensor

from ditto.diffusion.consistency import StudentDenoiser, euler_jump, gamma_sample
from ditto.diffusion.samplers import Chain, ddim, ddim_step
from ditto.diffusion.schedule import Schedule

SCHEDULE = Schedule.cosine(shift=0.4)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
    return 0.7 * torch.tanh(x_t) + 0.001 * t.reshape(-1, 1, 1, 1)


def chain(steps: int, schedule: Schedule = SCHEDULE) -> Chain:
    cond = torch.zeros(2, 3, dtype=torch.long)
    return Chain(student, schedule, schedule.timesteps(steps), cond, threshold=False)


@pytest.mark.parametrize(("t", "s"), [(999, 949), (700, 100), (120, 3)])
def test_an_euler_jump_is_a_ddim_step(t: int, s: int) -> None:
    x_t, x_0 = draw(0, 2, 1, 3, 4), draw(1, 2, 1, 3, 4)
    jumped = euler_jump(SCHEDULE, x_t, x_0, t, SCHEDULE.sigma(s, x_t)) * SCHEDULE.at(s, x_t).sqrt()
    torch.testing.assert_close(jumped, ddim_step(SCHEDULE, x_t, x_0, t, s), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t", [5, 400, 999])
def test_a_jump_to_its_own_level_stays_whatever_the_student_says(t: int) -> None:
    x_t, x_0 = draw(0, 2, 1, 3, 4), draw(1, 2, 1, 3, 4)
    stayed = euler_jump(SCHEDULE, x_t, x_0, t, SCHEDULE.sigma(t, x_t)) * SCHEDULE.at(t, x_t).sqrt()
    torch.testing.assert_close(stayed, x_t, rtol=1e-12, atol=1e-12)


def test_gamma_0_is_deterministic_and_is_ddim() -> None:
    def forbidden() -> Tensor:
        raise AssertionError("γ=0 draws no noise")

    x_T = draw(0, 2, 1, 3, 4)
    torch.testing.assert_close(
        gamma_sample(chain(4), x_T, 0.0, forbidden), ddim(chain(4), x_T), rtol=1e-9, atol=1e-9
    )


def test_gamma_1_is_ping_pong() -> None:
    noises = [draw(10 + i, 2, 1, 3, 4) for i in range(3)]
    x_T = expected = draw(0, 2, 1, 3, 4)
    grid = SCHEDULE.timesteps(4)
    for t, t_next, noise in zip(grid, grid[1:], noises, strict=False):
        x_0 = student(expected, torch.tensor([t]), torch.zeros(1), 1.0)
        expected = SCHEDULE.add_noise(x_0, noise, t_next)
    expected = student(expected, torch.tensor([grid[-1]]), torch.zeros(1), 1.0)
    source = iter(noises)
    found = gamma_sample(chain(4), x_T, 1.0, lambda: next(source))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.05, 0.35, 0.8])
def test_the_noise_of_a_step_has_the_level_that_the_formula_says(gamma: float) -> None:
    """With x_0 = 0 known, a step to σ_s keeps √(1−γ²)·σ_s of the old noise, adds γ·σ_s of new."""
    shape = (2, 1, 200, 250)
    generator = torch.Generator().manual_seed(1)
    seen: list[Tensor] = []

    def knows(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        seen.append(x_t)
        return torch.zeros_like(x_t)

    cond = torch.zeros(2, 3, dtype=torch.long)
    pure = Chain(knows, SCHEDULE, [999, 500], cond, threshold=False)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    x_T = SCHEDULE.scales(999, noise)[1] * draw(0, *shape)
    gamma_sample(pure, x_T, gamma, lambda: noise)
    ve = seen[1] / SCHEDULE.at(500, x_T).sqrt()
    sigma = SCHEDULE.sigma(500, x_T).item()
    assert ve.std().item() == pytest.approx(sigma, rel=0.01)
    error = 4 * sigma / x_T.numel() ** 0.5
    assert (ve * noise).mean().item() == pytest.approx(gamma * sigma, abs=error)
    assert (ve * x_T).mean().item() == pytest.approx(
        (1 - gamma**2) ** 0.5 * sigma, rel=0.01, abs=error
    )


def test_an_euler_jump_is_diffusers_tcd_without_noise() -> None:
    plain = Schedule.cosine()
    theirs = TCDScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", clip_sample=False
    )
    theirs.alphas_cumprod = plain.alpha_bar
    theirs.set_timesteps(4)
    grid, x_t = [int(t) for t in theirs.timesteps], draw(0, 2, 1, 3, 4)
    for t, t_next in itertools.pairwise(grid):
        x_0 = student(x_t, torch.tensor([t]), torch.zeros(1), 1.0)
        expected = theirs.step(plain.to_epsilon(x_0, x_t, t), t, x_t, eta=0.0).prev_sample
        jumped = euler_jump(plain, x_t, x_0, t, plain.sigma(t_next, x_t))
        x_t = plain.at(t_next, x_t).sqrt() * jumped
        torch.testing.assert_close(x_t, expected, rtol=1e-8, atol=1e-8)


def test_gamma_1_agrees_with_diffusers_lcm() -> None:
    plain = Schedule.cosine()
    # so large a scaling makes LCM's own boundary mix vanish at every timestep but 0: the student
    # has one already
    theirs = LCMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        timestep_scaling=1e9,
    )
    theirs.alphas_cumprod = plain.alpha_bar
    grid = plain.timesteps(4)
    theirs.set_timesteps(timesteps=grid)
    expected = x_T = draw(0, 2, 1, 3, 4)
    generator = torch.Generator().manual_seed(5)
    for t in grid:
        x_0 = student(expected, torch.tensor([t]), torch.zeros(1), 1.0)
        expected = theirs.step(x_0, t, expected, generator=generator).prev_sample
    ours = torch.Generator().manual_seed(5)
    found = gamma_sample(
        chain(4, plain),
        x_T,
        1.0,
        lambda: torch.randn(x_T.shape, generator=ours, dtype=torch.float64),
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_students_denoiser_is_one_call_and_takes_one_scale_an_item() -> None:
    seen: list[Tensor] = []

    def network(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor) -> Tensor:
        seen.append(w)
        return x_t * w.reshape(-1, 1, 1, 1)

    x_t, t, cond = draw(0, 2, 1, 3, 4), torch.tensor([40, 900]), torch.zeros(2, 3, dtype=torch.long)
    denoiser = StudentDenoiser(network, SCHEDULE, "sample")
    torch.testing.assert_close(denoiser(x_t, t, cond, 3.0), 3 * x_t)
    torch.testing.assert_close(denoiser(x_t, t, cond, torch.tensor([1.0, 3.0]))[1], 3 * x_t[1])
    assert [w.tolist() for w in seen] == [[3.0, 3.0], [1.0, 3.0]]


def test_a_student_with_skip_std_is_the_identity_where_there_is_no_noise() -> None:
    """CM's boundary condition: g(x, t→0) = x (here σ_0 is 3·10⁻⁴ of σ_data)."""
    clean, t = draw(0, 2, 1, 3, 4), torch.zeros(2, dtype=torch.long)
    schedule = Schedule.cosine(shift=1e-5)
    denoiser = StudentDenoiser(
        lambda x_t, t, cond, w: torch.zeros_like(x_t), schedule, "sample", skip_std=0.026
    )
    found = denoiser(schedule.add_noise(clean, draw(1, 2, 1, 3, 4), t), t, torch.zeros(2, 3), 3.0)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_gamma_beyond_its_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        gamma_sample(chain(2), draw(0, 2, 1, 3, 4), gamma, lambda: draw(1, 2, 1, 3, 4))
