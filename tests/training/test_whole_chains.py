"""The teacher's whole chains as goals: against jumps by their definition, and a run with them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.runs import assert_same, weights
from tests.training.test_consistency_loss import SCHEDULE, SHAPE, draw, teacher
from tests.training.test_distill import TINY, Clips
from torch import Tensor

from ditto.diffusion.consistency import euler_jump
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import CLEAN
from ditto.models.model import MusicModel
from ditto.training.distill import train_student
from ditto.training.loop import read_log
from ditto.training.whole_chains import Groups, follow, goals_of, places

CHAINS = replace(TINY, whole_chains=6, plain_share=0.5, spacing="karras", solver="dpm++")


@pytest.mark.parametrize("clean_share", [0.0, 0.5, 1.0])
def test_the_goal_has_the_gradient_of_all_jumps_to_where_the_chain_was(clean_share: float) -> None:
    grid = SCHEDULE.timesteps(6)
    x_t, x_0 = draw(0, 6, 2, *SHAPE), draw(1, 2, *SHAPE)
    goals = goals_of(SCHEDULE, grid, x_t, x_0, clean_share)
    ends, there = [*grid[1:], CLEAN], [*x_t[1:], x_0]
    for n, t in enumerate(grid):
        estimate = draw(5, 2, *SHAPE).requires_grad_()
        expected = torch.zeros(())
        for s, x_s in zip(ends[n:], there[n:], strict=True):
            chance = (1 - clean_share) / (6 - n) + clean_share * (s == CLEAN)
            length = 1 - SCHEDULE.sigma(s, x_s) / SCHEDULE.sigma(t, x_s)
            jump = euler_jump(SCHEDULE, x_t[n], estimate, t, SCHEDULE.sigma(s, x_s))
            error = (jump - x_s / SCHEDULE.at(s, x_s).sqrt()) / length
            expected = expected + chance * error.square().mean()
        ours, theirs = (
            torch.autograd.grad(value, estimate)[0]
            for value in ((estimate - goals[n]).square().mean(), expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_levels_are_those_of_the_sampling_chain() -> None:
    def guided(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        return guidance * teacher(x_t, t, cond, 1.0)

    x_T, cond = draw(0, 2, *SHAPE).float(), torch.tensor([[1, 2, 3], [2, 0, 5]])
    grid = SCHEDULE.timesteps(5)
    chains = follow(ddim, guided, SCHEDULE, grid, x_T, cond, 0.7, clean_share=1.0)
    plain = Chain(guided, SCHEDULE, grid, cond, 0.7)
    x_0 = ddim(plain, x_T)
    assert torch.equal(chains.x_t[0], x_T)
    # With every jump to clean data, the goal is where the chain ended.
    torch.testing.assert_close(chains.goal, x_0.expand(5, *x_0.shape), rtol=0, atol=1e-6)
    assert chains.w.tolist() == pytest.approx([0.7, 0.7])


def test_places_are_as_frequent_as_they_are_wide_but_for_the_first() -> None:
    grid = [999, 990, 500, 100]
    found = places(grid, 100_000, torch.Generator().manual_seed(0), 0.3).bincount() / 100_000
    width = torch.tensor([4.5, 249.5, 445.0, 250.0])
    expected = 0.7 * width / width.sum() + 0.3 * torch.tensor([1, 0, 0, 0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_group_is_made_once_for_its_steps_and_alike_each_time(tiny_model: MusicModel) -> None:
    seen: list[tuple[int, float]] = []

    def make(x_T: Tensor, cond: Tensor, w: float):
        seen.append((len(x_T), w))
        return follow(ddim, tiny_model.denoiser, tiny_model.schedule, [999, 500], x_T, cond, w, 0.5)

    def begin(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_T = torch.randn(40, 1, 16, 16, generator=generator)
        return x_T, torch.ones(40, 5, dtype=torch.long)

    def groups() -> Groups:
        return Groups(make, begin, scales=(2.0, 3.0), plain_share=0.5, seed=3, steps=4)

    once = groups()
    first = once.at(0)
    assert once.at(3) is first
    assert [count for count, _ in seen] == [16, 16, 8]
    later = once.at(4)
    assert not torch.equal(later.x_t, first.x_t)
    for chains, step in ((first, 2), (later, 7)):
        again = groups().at(step)
        assert torch.equal(again.x_t, chains.x_t)
        assert torch.equal(again.goal, chains.goal)
        assert torch.equal(again.w, chains.w)
    scales = {w for _, w in seen}
    assert 1.0 in scales
    assert all(w == 1.0 or 2.0 <= w <= 3.0 for w in scales)
    assert len(scales) > 1


def test_the_student_comes_nearer_and_a_killed_run_ends_the_same(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    config = replace(CHAINS, steps=40, lr=2e-2, evaluate_count=8, checkpoint_every=10)
    train_student(config, tiny_model, Clips(), tmp_path / "whole", show=False)
    rows = read_log(tmp_path / "whole" / "log.jsonl")
    for w in (1, 3):
        assert rows[-1][f"gap_1_w{w}"] < 0.7 * rows[0][f"teacher_gap_1_w{w}"]
    with pytest.raises(InterruptedError):
        # A group lasts 6 steps: that of number 3 begins at step 18.
        train_student(
            config, tiny_model, Clips(2), tmp_path / "killed", show=False, held_out=Clips()
        )
    train_student(config, tiny_model, Clips(), tmp_path / "killed", show=False)
    for group in ("model", "target", "ema", "optimizer"):
        assert_same(weights(tmp_path / "killed", group), weights(tmp_path / "whole", group))
