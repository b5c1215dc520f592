"""The distillation loss against its definition by jumps, in float64, and the teacher's step against
DDIM."""

import math
from dataclasses import replace

import pytest
import torch
from tests.conftest import make_network
from torch import Tensor

from ditto.diffusion.consistency import euler_jump
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import ddim_step
from ditto.diffusion.schedule import CLEAN, Schedule
from ditto.models.conditioning import null_tags
from ditto.training.consistency_loss import Example, Grid, Solver, distance, goal, guided

SCHEDULE = Schedule.cosine(shift=0.5)
SHAPE = (1, 16, 8)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
    assert guidance == 1.0
    return 0.5 * torch.tanh(x_t + 0.1 * cond[:, :1, None, None]) + 1e-4 * t.reshape(-1, 1, 1, 1)


def target(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor) -> Tensor:
    return 0.4 * torch.sin(x_t) + 0.02 * w.reshape(-1, 1, 1, 1)


def example(grid: Grid, n: int, share: Tensor, count: int = 2) -> Example:
    cond = torch.tensor([[1, 2, 3], [2, 0, 5]])[:count]
    w, t = torch.tensor([1.5, 4.0])[:count], grid.t[n].expand(count)
    return Example(
        draw(0, count, *SHAPE),
        cond,
        null_tags(cond),
        w,
        t,
        grid.t_next[n].expand(count),
        share.expand(count),
        torch.ones(count),
    )


def jumped(x_t: Tensor, x_0: Tensor, t: Tensor, s: int) -> Tensor:
    sigma = SCHEDULE.sigma(s, x_t)
    return (
        x_0
        if s == CLEAN and int(t[0]) == CLEAN
        else euler_jump(SCHEDULE, x_t, x_0, int(t[0]), sigma)
    )


@pytest.mark.parametrize("clean_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [0, 1, 10, 18, 19])
def test_its_gradient_is_that_of_the_jumps_averaged_over_where_they_end(
    n: int, clean_share: float
) -> None:
    """Every s in turn, each with the probability of its draw, by the definition in METHOD's VE
    coordinates."""
    grid = Grid.of(SCHEDULE, 20, clean_share)
    batch = example(grid, n, grid.share[n])
    x_t, t, t_next = batch.x_t, batch.t, batch.t_next
    x_0 = guided(teacher, x_t, t, batch.cond, batch.null, batch.w).clamp(-1, 1)
    x_next = x_0 if n == 19 else ddim_step(SCHEDULE, x_t, x_0, int(t[0]), int(t_next[0]))
    later = target(x_next, t_next, batch.cond, batch.w).clamp(-1, 1)
    estimate = draw(5, 2, *SHAPE).requires_grad_()
    ends = [*grid.t_next[n:].tolist()]
    expected = torch.zeros(())
    for s in ends:
        chance = (1 - clean_share) / len(ends) + clean_share * (s == CLEAN)
        there = (
            x_next / SCHEDULE.at(s, x_t).sqrt()
            if s == int(t_next[0])
            else jumped(x_next, later, t_next, s)
        )
        length = 1 - SCHEDULE.sigma(s, x_t) / SCHEDULE.sigma(int(t[0]), x_t)
        error = (jumped(x_t, estimate, t, s) - there) / length
        expected = expected + chance * error.square().flatten(1).mean(dim=1).sum()
    aim = goal(teacher, target, SCHEDULE, batch)
    assert not aim.requires_grad
    found = distance(estimate - aim, "mse").sum()
    ours, theirs = (torch.autograd.grad(value, estimate)[0] for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_a_consistency_model_learns_what_it_says_a_step_later_and_at_last_the_teacher() -> None:
    grid = Grid.of(SCHEDULE, 20, 1.0)
    assert grid.share.tolist() == [0.0] * 19 + [1.0]
    assert Grid.of(SCHEDULE, 1, 0.3).share.tolist() == [1.0]
    shares = Grid.of(SCHEDULE, 20, 0.0).share
    assert bool((shares > 0.05).all())
    torch.testing.assert_close(Grid.of(SCHEDULE, 20, 0.5).share[:19], shares[:19] / 2)


def test_the_grid_is_the_sampling_chains() -> None:
    grid = Grid.of(SCHEDULE, 5, 0.5)
    assert grid.t.tolist() == SCHEDULE.timesteps(5)
    assert grid.t_next.tolist() == [*SCHEDULE.timesteps(5)[1:], CLEAN]


def test_places_are_spread_over_the_grid() -> None:
    grid = Grid.of(SCHEDULE, 4, 0.5)
    places = grid.draw(400, torch.Generator().manual_seed(0))
    assert torch.bincount(places).tolist() == pytest.approx([100] * 4, abs=1)
    early = grid.draw(400, torch.Generator().manual_seed(0), first_share=0.2)
    assert torch.bincount(early).tolist() == pytest.approx([160, 80, 80, 80], abs=2)
    assert torch.equal(places, grid.draw(400, torch.Generator().manual_seed(0)))
    assert not grid.draw(9, torch.Generator().manual_seed(0), first_share=1.0).any()


def test_a_scale_an_item_is_what_guidance_gives_alone() -> None:
    calls = []
    network = make_network().double()
    network.register_forward_hook(lambda *_: calls.append(1))
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags, skip_std=0.1)
    x_t, t = draw(0, 2, *SHAPE), torch.tensor([40, 900])
    cond = torch.tensor([[1, 2, 3], [2, 0, 5]])
    found = guided(denoiser, x_t, t, cond, null_tags(cond), torch.tensor([1.5, 4.0]))
    assert len(calls) == 1
    for i, w in enumerate((1.5, 4.0)):
        alone = denoiser(x_t[i : i + 1], t[i : i + 1], cond[i : i + 1], w)
        torch.testing.assert_close(found[i : i + 1].double(), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm++", 2)])
def test_a_step_of_each_solver_has_its_order(solver: Solver, order: int) -> None:
    """Where x_0 is Gaussian of deviation 1, x^VE is x_T^VE · √((1 + σ²) / (1 + σ_T²))."""
    schedule = Schedule.cosine(shift=4.0)

    def exact(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        return schedule.at(t, x_t).sqrt() * x_t  # the posterior mean

    def repeat(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor) -> Tensor:
        return x_t  # so that the goal of a consistency model is x at t' itself

    errors = []
    for stride in (40, 20):
        t, t_next = torch.tensor(500), torch.tensor(500 - stride)
        batch = example(Grid(t[None], t_next[None], torch.zeros(1)), 0, torch.zeros(1))
        batch = replace(batch, x_t=0.1 * batch.x_t)  # within the bounds of x_0
        grown, before = (1 + schedule.sigma(level, batch.x_t) ** 2 for level in (t_next, t))
        kept = schedule.at(t_next, batch.x_t) / schedule.at(t, batch.x_t)
        expected = batch.x_t * (kept * grown / before).sqrt()
        found = goal(exact, repeat, schedule, batch, solver)
        errors.append((found - expected).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.3)


@pytest.mark.parametrize(("n", "expected"), [(3, (0.25 + 0.5) / 2), (19, 0.25)])
def test_a_second_estimate_is_averaged_with_the_first_but_not_at_the_end(
    n: int, expected: float
) -> None:
    calls: list[Tensor] = []

    def counted(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        calls.append(t)
        return torch.full_like(x_t, 0.25 * len(calls))

    batch = example(Grid.of(SCHEDULE, 20, 0.0), n, torch.ones(1))
    found = goal(counted, target, SCHEDULE, batch, "dpm++")
    assert found.unique().tolist() == pytest.approx([expected])


def test_a_grid_may_be_spaced_otherwise() -> None:
    assert Grid.of(SCHEDULE, 5, 0.5, "karras").t.tolist() == SCHEDULE.timesteps(5, "karras")


def test_bounds_are_those_of_the_teachers_chain() -> None:
    grid = Grid.of(SCHEDULE, 20, 0.0)
    batch = example(grid, 3, grid.share[3])

    def loud(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        return 5 * torch.ones_like(x_t)

    assert goal(loud, lambda x, t, c, w: -7 * torch.ones_like(x), SCHEDULE, batch).abs().max() <= 1
    free = GuidedDenoiser(
        lambda x, t, c: 5 * torch.ones_like(x), SCHEDULE, "sample", null_tags, limit=None
    )
    unbounded = goal(free, lambda x, t, c, w: 5 * torch.ones_like(x), SCHEDULE, batch)
    torch.testing.assert_close(unbounded, torch.full_like(unbounded, 5.0))


def test_distances() -> None:
    difference = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]]])
    assert distance(difference, "mse").tolist() == [12.5, 0.0]
    assert distance(difference, "pseudo_huber", 0.1).tolist() == pytest.approx(
        [math.sqrt(12.51) - 0.1, 0.0]
    )
