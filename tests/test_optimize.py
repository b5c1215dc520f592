"""The optimisation loop against a hand-written one, and what it promises about copies, errors and
grad mode."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ditto.optimize import GradientError, Step, best_so_far, optimize, plateau, stop_when, tolerance


def start(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, 2, 4, generator=torch.Generator().manual_seed(0))


def render(x_T: Tensor) -> Tensor:
    return torch.sin(2 * x_T) + 0.1 * x_T


def objective(x_0: Tensor, x_T: Tensor | None = None) -> Tensor:
    return (x_0 - 0.5).square().flatten(1).mean(dim=1)


def by_hand(
    x_T: Tensor, iterations: int, lr: float, momentum: float = 0.9
) -> tuple[list[Tensor], list[Tensor]]:
    """Adam (Kingma & Ba 2015, algorithm 1) written out; latents and losses of every iteration."""
    x, m, v = x_T.double(), torch.zeros(x_T.shape), torch.zeros(x_T.shape)
    latents, losses = [], []
    for i in range(1, iterations + 1):
        x = x.detach().requires_grad_()
        loss = objective(render(x))
        (g,) = torch.autograd.grad(loss.sum(), x)
        latents.append(x.detach())
        losses.append(loss.detach())
        m, v = momentum * m + (1 - momentum) * g, 0.999 * v + 0.001 * g.square()
        x = x - lr * (m / (1 - momentum**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
    return latents, losses


@pytest.mark.parametrize("momentum", [0.9, 0.7, 0.0])
def test_it_is_adam(momentum: float) -> None:
    steps = list(optimize(start(), render, objective, iterations=20, lr=0.05, momentum=momentum))
    latents, losses = by_hand(start(), 20, 0.05, momentum)
    assert [step.i for step in steps] == list(range(20))
    for step, x, loss in zip(steps, latents, losses, strict=True):
        torch.testing.assert_close(step.x_T.double(), x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step.loss.double(), loss, rtol=1e-4, atol=1e-6)
    assert (steps[-1].loss < 0.5 * steps[0].loss).all()


def test_the_given_latent_stays_as_it_is() -> None:
    x_T = start()
    list(optimize(x_T, render, objective, iterations=3, lr=0.1))
    assert torch.equal(x_T, start())
    assert not x_T.requires_grad


def test_every_item_goes_the_way_that_it_goes_alone() -> None:
    together = list(optimize(start(), render, objective, iterations=5, lr=0.05))
    for item in range(3):
        alone = list(optimize(start()[item : item + 1], render, objective, iterations=5, lr=0.05))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.x_T[item], b.x_T[0])


def test_best_is_a_copy_of_each_items_best() -> None:
    # with so large a step the loss goes up and down, so the best is not the last
    steps = list(best_so_far(optimize(start(), render, objective, iterations=30, lr=0.7)))
    losses = torch.stack([step.loss for step in steps])
    best = losses.argmin(dim=0)
    assert (best < 29).any()
    assert torch.equal(steps[-1].best_loss, losses.amin(dim=0))
    for item, i in enumerate(best.tolist()):
        assert torch.equal(steps[-1].best_x_T[item], steps[i].x_T[item])
    torch.testing.assert_close(objective(render(steps[-1].best_x_T)), steps[-1].best_loss)


def test_steps_do_not_change_after_they_are_given() -> None:
    kept, copies = [], []
    for step in best_so_far(optimize(start(), render, objective, iterations=4, lr=0.1)):
        kept.append(step)
        copies.append([t.clone() for t in (step.loss, step.x_T, step.best_loss, step.best_x_T)])
        step.x_T.data_ptr()
    for step, copy in zip(kept, copies, strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in zip((step.loss, step.x_T, step.best_loss, step.best_x_T), copy, strict=True)
        )
    assert not torch.equal(kept[0].x_T, kept[1].x_T)


def test_it_does_nothing_until_it_is_asked() -> None:
    calls = []
    steps = optimize(start(), lambda x: calls.append(1) or render(x), objective, iterations=5)
    assert calls == []
    next(steps)
    assert len(calls) == 1
    next(steps)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "broken",
    [
        lambda x: x.detach() * 2,
        lambda x: torch.zeros_like(x),
        lambda x: x.new_ones(x.shape).requires_grad_(),
    ],
)
def test_a_loss_that_does_not_depend_on_the_latent_is_an_error(broken) -> None:
    with pytest.raises(GradientError, match="detached"):
        next(optimize(start(), broken, objective, iterations=1))


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.sqrt(),
        lambda x: x * math.nan,
        lambda x: x + math.inf,
        lambda x: (x - x).square().sqrt() + x,
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_is_an_error(bad) -> None:
    with pytest.raises(GradientError, match="not finite"):
        next(optimize(start(), bad, objective, iterations=1))


def test_an_item_that_has_met_its_target_stays_and_the_others_go_their_way() -> None:
    goals = torch.tensor([0.2, 0.0, 0.05])

    def until_there(x_0: Tensor, x_T: Tensor) -> Tensor:
        return (objective(x_0) - goals[: len(x_0)]).clamp(min=0)

    steps = list(optimize(start(), render, until_there, iterations=30, lr=0.05))
    losses = torch.stack([step.loss for step in steps])
    there = [int((losses[:, item] == 0).int().argmax()) for item in (0, 2)]
    assert all(1 < first < 28 for first in there)
    for item, first in zip((0, 2), there, strict=True):
        for step in steps[first:]:
            assert torch.equal(step.x_T[item], steps[first].x_T[item])
    free = list(optimize(start(), render, objective, iterations=30, lr=0.05))
    torch.testing.assert_close(steps[-1].x_T[1], free[-1].x_T[1])


def test_an_item_goes_on_without_momentum_if_its_target_moves_away() -> None:
    phase = [1.0]
    steps = optimize(
        start(1),
        render,
        lambda x, x_T: phase[0] * objective(x),
        iterations=20,
        lr=0.05,
        momentum=0.9,
    )
    before = [next(steps) for _ in range(10)][-1]
    phase[0] = 0.0
    next(steps)  # its update has no gradient
    held = next(steps)
    phase[0] = 1.0
    again = next(steps)
    assert torch.equal(held.x_T, again.x_T)
    assert not torch.equal(before.x_T, held.x_T)
    after = next(steps)
    x = again.x_T.double().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(render(x)).sum(), x)
    moved = (after.x_T - again.x_T).sign()
    assert torch.equal(moved.double(), -gradient.sign())


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_an_item_that_fails_stays_and_the_others_go_their_way(poison: str) -> None:
    made = []

    def spoiled(x_0: Tensor, x_T: Tensor) -> Tensor:
        made.append(x_T)
        loss = objective(x_0)
        if len(made) < 4:
            return loss
        one = loss[1]
        bad = math.nan * one if poison == "loss" else (one - one).sqrt() + one
        return torch.stack([loss[0], bad, loss[2]])

    steps = list(best_so_far(optimize(start(), render, spoiled, iterations=8, lr=0.05)))
    free = list(best_so_far(optimize(start(), render, objective, iterations=8, lr=0.05)))
    for step, alone in zip(steps, free, strict=True):
        assert torch.equal(step.x_T[[0, 2]], alone.x_T[[0, 2]])
        assert torch.equal(step.best_x_T[[0, 2]], alone.best_x_T[[0, 2]])
    for step in steps[3:]:
        assert step.failed is not None
        assert step.failed.tolist() == [False, True, False]
        assert torch.equal(step.x_T[1], free[2].x_T[1])
        assert step.best_loss.isfinite().all()
    said = [step.warnings for step in steps]
    assert said[:3] + said[4:] == [()] * 7
    assert said[3] == (
        "clip 2 is left as it was before iteration 4: its loss or gradient is not finite",
    )
    level = free[5].best_loss[[0, 2]].max().item()
    made.clear()
    again = best_so_far(optimize(start(), render, spoiled, iterations=8, lr=0.05))
    assert len(list(stop_when(again, [tolerance(level)]))) <= 6


@pytest.mark.parametrize("enabled", [True, False])
def test_the_grad_mode_is_what_it_was(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        losses = []
        for step in optimize(start(), render, objective, iterations=8, lr=0.05):
            assert torch.is_grad_enabled() == enabled
            losses.append(step.loss.sum().item())
        assert torch.is_grad_enabled() == enabled
    assert losses[-1] < losses[0]


def test_losses_are_float32_whatever_the_objective_gives() -> None:
    step = next(optimize(start(), render, lambda x, x_T: objective(x).double(), iterations=1))
    assert step.loss.dtype == step.best_loss.dtype == torch.float32


def test_it_stops_at_the_tolerance_of_every_item() -> None:
    free = list(best_so_far(optimize(start(), render, objective, iterations=60, lr=0.05)))
    level = free[20].best_loss.max().item()
    again = best_so_far(optimize(start(), render, objective, iterations=60, lr=0.05))
    steps = list(stop_when(again, [tolerance(level)]))
    assert len(steps) <= 21
    assert (steps[-1].best_loss <= level).all()
    assert not (steps[-2].best_loss <= level).all()


def a_step(*best: float) -> Step:
    nothing = torch.zeros(len(best))
    return Step(0, nothing, nothing, torch.tensor(best), nothing)


def drawn(losses: list[list[float]]) -> list[Step]:
    """Steps with these losses; x_T of step i is i everywhere."""
    steps = []
    for i, values in enumerate(losses):
        loss, x = torch.tensor(values), torch.full((len(values), 1, 2), float(i))
        steps.append(Step(i, loss, x, loss, x))
    return steps


def test_the_best_is_each_items_own_and_begins_anew_at_a_restart() -> None:
    losses = [[5.0, 1.0], [4.0, 2.0], [6.0, 0.5], [9.0, 9.0], [8.0, 9.5], [8.5, 7.0]]
    steps = list(best_so_far(iter(drawn(losses)), restart=lambda step: step.i == 3))
    assert [step.best_loss.tolist() for step in steps] == [
        [5.0, 1.0],
        [4.0, 1.0],
        [4.0, 0.5],
        [9.0, 9.0],
        [8.0, 9.0],
        [8.0, 7.0],
    ]
    best = [step.best_x_T[:, 0, 0].tolist() for step in steps]
    assert best == [[0, 0], [1, 0], [1, 2], [3, 3], [4, 3], [4, 5]]
    assert [step.loss.tolist() for step in steps] == losses
    assert [step.x_T[0, 0, 0].item() for step in steps] == [0, 1, 2, 3, 4, 5]


def test_a_restart_may_come_at_every_step_or_at_the_first() -> None:
    losses = [[1.0], [3.0], [2.0]]
    every = list(best_so_far(iter(drawn(losses)), restart=lambda step: True))
    assert [step.best_loss.tolist() for step in every] == losses
    first = list(best_so_far(iter(drawn(losses)), restart=lambda step: step.i == 0))
    assert [step.best_loss.item() for step in first] == [1, 1, 1]


def test_every_stop_sees_every_step_and_the_last_step_is_given() -> None:
    seen: dict[str, list[int]] = {"never": [], "early": [], "late": []}

    def stop(name: str, at: int) -> Callable[[Step], bool]:
        return lambda step: bool(seen[name].append(step.i)) or step.i >= at

    stops = [stop("never", 99), stop("early", 2), stop("late", 4)]
    given = list(stop_when(iter(drawn([[1.0]] * 6)), stops))
    assert [step.i for step in given] == [0, 1, 2]
    assert seen == {"never": [0, 1, 2], "early": [0, 1, 2], "late": [0, 1, 2]}
    assert len(list(stop_when(iter(drawn([[1.0]] * 6)), []))) == 6


def test_nothing_is_made_beyond_the_last_step() -> None:
    calls = []
    steps = optimize(start(), lambda x: calls.append(1) or render(x), objective, iterations=9)
    list(stop_when(best_so_far(steps), [lambda step: step.i == 2]))
    assert len(calls) == 3


def test_a_plateau_is_patience_steps_without_improvement_of_any_item() -> None:
    stop = plateau(patience=2, improvement=0.1)
    answers = [
        stop(a_step(*best))
        for best in ((10, 10), (10, 10), (10, 8.9), (9.9, 8.9), (9.8, 8.8), (8, 8.8))
    ]
    assert answers == [False, False, False, False, True, False]


def test_a_plateau_is_counted_anew_when_the_best_rises() -> None:
    stop = plateau(patience=2, improvement=0.1)
    answers = [stop(a_step(*best)) for best in ((10, 10), (10, 10), (10, 12), (10, 12), (10, 12))]
    assert answers == [False, False, False, False, True]


def test_a_plateau_is_found_below_zero_too() -> None:
    stop = plateau(patience=1, improvement=0.01)
    assert [stop(a_step(loss)) for loss in (-0.5, -0.9, -0.905)] == [False, False, True]


def test_an_item_that_failed_stays_where_it_was_though_its_loss_is_finite_there() -> None:
    """√(x − edge) has no gradient beyond the edge, which the item would cross again and again."""

    def rooted(x_0: torch.Tensor, x_T: torch.Tensor) -> torch.Tensor:
        values = x_0.flatten(1).mean(dim=1)
        return torch.stack([values[0].square(), (values[1] - 0.985).sqrt()])

    x_T = torch.ones(2, 1, 1, 1)
    steps = list(optimize(x_T, lambda x: x, rooted, iterations=12, lr=0.003))
    first = next(i for i, step in enumerate(steps) if step.failed is not None)
    there = steps[first].x_T[1]
    assert 0 < first < 9
    assert all(torch.equal(step.x_T[1], there) for step in steps[first:])
    assert len([warning for step in steps for warning in step.warnings]) == 1
    assert steps[-1].x_T[0] < steps[first].x_T[0]  # the other goes on


def test_a_best_that_is_not_a_number_yields_to_any() -> None:
    x_T = torch.zeros(2, 1)
    losses = ([1.0, math.nan], [2.0, 5.0], [3.0, 4.0])
    steps = [
        Step(i, loss, x_T + i, loss, x_T + i)
        for i, loss in enumerate(torch.tensor(each) for each in losses)
    ]
    last = list(best_so_far(iter(steps)))[-1]
    assert last.best_loss.tolist() == [1.0, 4.0]
    assert last.best_x_T.flatten().tolist() == [0.0, 2.0]
