"""The noise schedule against diffusers and against closed forms in float64."""

import math

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ditto.diffusion.schedule
from ditto.diffusion.schedule import CLEAN, EPSILON_SIGMA, Prediction, Schedule, Spacing

SCHEDULE = Schedule.cosine()
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diffusers_schedule(**settings: object) -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", **settings)  # pyright: ignore[reportArgumentType]


def test_cosine_is_the_closed_form_in_float64() -> None:
    # the product of ratios telescopes to f((t + 1) / N) / f(0), until the last β is capped
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = [f[t + 1] / f[0] for t in range(999)]
    expected.append(expected[-1] * 0.001)
    torch.testing.assert_close(
        SCHEDULE.alpha_bar, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=0
    )


def test_cosine_is_diffusers_to_their_float32() -> None:
    theirs = diffusers_schedule().alphas_cumprod
    assert theirs.dtype == torch.float32
    # a float32 product of 1000 factors
    torch.testing.assert_close(SCHEDULE.alpha_bar.float(), theirs, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("shift", [0.26, 1.0, 3.0])
def test_shift_multiplies_every_sigma(shift: float) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    for t in (0, 500, 999):
        ratio = Schedule.cosine(shift=shift).sigma(t, like) / SCHEDULE.sigma(t, like)
        assert ratio.item() == pytest.approx(shift, rel=1e-9)


@pytest.mark.parametrize(
    "bad", [[[0.5, 0.4]], [0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, math.nan]], ids=str
)
def test_unusable_schedules_are_refused(bad: list) -> None:
    with pytest.raises(ValueError, match="falling"):
        Schedule(torch.tensor(bad, dtype=torch.float64))


def test_clean_data_has_alpha_bar_one() -> None:
    x = noise(0, 2, 3)
    assert SCHEDULE.at(CLEAN, x).flatten().tolist() == [1.0]
    assert torch.equal(SCHEDULE.add_noise(x, noise(1, 2, 3), CLEAN), x)


def test_a_batch_may_mix_timesteps() -> None:
    x, t = noise(0, 3, 1, 2, 2), torch.tensor([-1, 10, 999])
    together = SCHEDULE.add_noise(x, noise(1, 3, 1, 2, 2), t)
    alone = [
        SCHEDULE.add_noise(x[i : i + 1], noise(1, 3, 1, 2, 2)[i : i + 1], int(t[i]))
        for i in range(3)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_float32_scales_are_rounded_from_float64() -> None:
    # 1 − ᾱ_0 is 4e-5: from a float32 ᾱ_0 it would be off by 1e-3
    _, spread = SCHEDULE.scales(0, torch.zeros(1))
    assert spread.dtype == torch.float32
    assert spread.item() == pytest.approx(math.sqrt(1 - SCHEDULE.alpha_bar[0].item()), rel=1e-7)


@given(t=st.integers(0, 998), seed=st.integers(0, 2**31))
def test_predictions_convert_into_each_other(t: int, seed: int) -> None:
    x_0, epsilon = noise(seed, 2, 4), noise(seed + 1, 2, 4)
    x_t = SCHEDULE.add_noise(x_0, epsilon, t)
    outputs = {
        "epsilon": epsilon,
        "v_prediction": SCHEDULE.velocity(x_0, epsilon, t),
        "sample": x_0,
    }
    for prediction in PREDICTIONS:
        estimate = SCHEDULE.to_x_0(outputs[prediction], x_t, t, prediction)
        torch.testing.assert_close(estimate, x_0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(SCHEDULE.to_epsilon(x_0, x_t, t), epsilon, rtol=1e-8, atol=1e-8)


def test_forward_process_and_velocity_are_diffusers() -> None:
    theirs = diffusers_schedule()
    x_0, epsilon, t = (
        noise(0, 4, 1, 3, 5).float(),
        noise(1, 4, 1, 3, 5).float(),
        torch.tensor([0, 300, 700, 999]),
    )
    torch.testing.assert_close(
        SCHEDULE.add_noise(x_0, epsilon, t), theirs.add_noise(x_0, epsilon, t)
    )
    torch.testing.assert_close(
        SCHEDULE.velocity(x_0, epsilon, t), theirs.get_velocity(x_0, epsilon, t)
    )


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps_are_diffusers(spacing: str) -> None:
    theirs = diffusers_schedule(timestep_spacing=spacing)
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        expected = theirs.timesteps.tolist()
        if spacing == "trailing" and len(expected) == steps + 1 and expected[-1] == -1:
            expected.pop()  # np.arange with a fraction for a step may go one too far
        assert SCHEDULE.timesteps(steps, spacing) == expected  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("steps", [2, 3, 8, 20])
def test_karras_levels_are_diffusers(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their ρ; the first of ours is the last timestep itself."""
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    levels = theirs._convert_to_karras(np.array([100.0, 0.1]), steps)
    monkeypatch.setattr(ditto.diffusion.schedule, "KARRAS", (0.1, 100.0, 7.0))
    shifted = Schedule.cosine(shift=4.0)
    expected = [999, *shifted.nearest(torch.from_numpy(levels)).tolist()[1:]]
    assert shifted.timesteps(steps, "karras") == expected


@pytest.mark.parametrize("steps", [2, 3, 5, 9])
def test_a_few_grid_divides_the_levels_evenly_in_karras_measure(steps: int) -> None:
    """Of twice as many parts as diffusers would make of the range, every other edge is a level."""
    low, high, _ = ditto.diffusion.schedule.FEW
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    levels = theirs._convert_to_karras(np.array([high, low]), 2 * (steps - 1) + 1)[1::2]
    shifted = Schedule.cosine(shift=4.0)
    expected = [999, *shifted.nearest(torch.from_numpy(levels)).tolist()]
    assert shifted.timesteps(steps, "few") == expected


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 100, 999, 1000])
@pytest.mark.parametrize("spacing", ["karras", "few"])
def test_a_grid_of_noise_levels_begins_at_noise_and_falls(steps: int, spacing: Spacing) -> None:
    grid = Schedule.cosine(shift=4.0).timesteps(steps, spacing)
    assert len(grid) == len(set(grid)) == steps
    assert grid == sorted(grid, reverse=True)
    assert (grid[0], grid[-1] >= 0) == (999, True)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000"):
        SCHEDULE.timesteps(steps)


def test_grids_for_epsilon_begin_at_the_last_noise_that_is_any_use() -> None:
    shifted = Schedule.cosine(shift=0.26)
    for schedule in (SCHEDULE, shifted):
        first = schedule.last_below(EPSILON_SIGMA)
        sigma = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt()
        assert sigma[first] <= EPSILON_SIGMA < sigma[first + 1]
        suited = schedule.suited("epsilon")
        assert suited.timesteps(1) == [first]
        assert suited.timesteps(20)[0] == suited.timesteps(20, "span")[0] == first
        assert suited.timesteps(first + 1) == list(range(first, -1, -1))
        with pytest.raises(ValueError, match=f"between 1 and {first + 1}"):
            suited.timesteps(first + 2)
        assert suited.timesteps(20, "leading") == schedule.timesteps(20, "leading")
        assert schedule.suited("sample") is schedule


def test_the_skip_is_the_best_mix_of_input_and_output() -> None:
    # x_t / √ᾱ_t has the error σ_t, the output an error of 0.1: weights by inverse variance leave
    # the smallest error
    x_0, epsilon, error = (noise(seed, 200_000) for seed in (0, 1, 2))
    for t in (0, 20, 60, 300):
        x_t = SCHEDULE.add_noise(x_0, epsilon, t)
        sigma = SCHEDULE.sigma(t, x_t).item()
        estimate = SCHEDULE.to_x_0(x_0 + 0.1 * error, x_t, t, "sample", skip_std=0.1)
        expected = (1 / (1 / sigma**2 + 1 / 0.1**2)) ** 0.5
        assert (estimate - x_0).std().item() == pytest.approx(expected, rel=0.01)
    assert torch.equal(SCHEDULE.to_x_0(error, x_0, 5, "sample"), error)
