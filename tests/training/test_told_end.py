"""A student that is told where a jump ends: goals by definition, draws, sampling and training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import make_network
from tests.training.runs import assert_same, weights
from tests.training.test_consistency_loss import SCHEDULE, SHAPE, draw
from tests.training.test_distill import Clips
from tests.training.test_whole_chains import CHAINS
from torch import Tensor

from ditto.diffusion.consistency import StudentDenoiser, euler_jump, gamma_sample
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import CLEAN
from ditto.errors import DataError, ModelError
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.student import Student
from ditto.training.distill import load_distilled, train_student
from ditto.training.student_gap import TeacherStudentGap
from ditto.training.student_init import init_student
from ditto.training.whole_chains import Chains, ends, told_goal, widths

TOLD = replace(CHAINS, told_end=True, whole_chains=20)
"""Chains are made in parts of 16: of more than one."""


def test_a_jump_along_its_goal_ends_where_the_chain_was() -> None:
    grid = SCHEDULE.timesteps(6)
    x_t, x_0 = draw(0, 6, 3, *SHAPE).float(), draw(1, 3, *SHAPE).float()
    chains = Chains(x_t, x_0[None], torch.zeros(3, 5), torch.ones(3))
    place, end, item = torch.tensor([0, 2, 5, 0]), torch.tensor([3, 6, 6, 1]), [2, 0, 1, 1]
    goals = told_goal(SCHEDULE, grid, chains, place, end, torch.tensor(item))
    for n, m, i, goal in zip(place.tolist(), end.tolist(), item, goals, strict=True):
        there = x_0[i : i + 1].double() if m == 6 else x_t[m, i : i + 1].double()
        s = CLEAN if m == 6 else grid[m]
        sigma = SCHEDULE.sigma(s, there)
        jump = euler_jump(SCHEDULE, x_t[n, i : i + 1].double(), goal[None].double(), grid[n], sigma)
        expected = there / SCHEDULE.at(s, there).sqrt()
        torch.testing.assert_close(jump, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(goals[1], x_0[0])


def test_ends_come_later_and_are_as_frequent_as_they_are_wide() -> None:
    grid, generator = [999, 990, 500, 100], torch.Generator().manual_seed(0)
    found = ends(grid, torch.tensor([0, 2, 3]).repeat_interleave(50_000), generator, 0.4)
    first, third, last = (part.bincount(minlength=5) / 50_000 for part in found.chunk(3))
    width = widths(grid)[1:]
    expected = torch.cat([torch.zeros(1), 0.6 * width / width.sum(), torch.tensor([0.4])])
    # Five deviations of a share of 50 000.
    torch.testing.assert_close(first, expected.float(), rtol=0, atol=0.011)
    torch.testing.assert_close(third, torch.tensor([0, 0, 0, 0.6, 0.4]), rtol=0, atol=0.011)
    assert last.tolist() == [0, 0, 0, 0, 1]


def test_samplers_tell_the_student_where_each_jump_ends() -> None:
    told: list[tuple[int, int]] = []

    def network(x_t: Tensor, t: Tensor, cond: Tensor, w: Tensor, end: Tensor) -> Tensor:
        assert end.shape == t.shape
        told.extend({(int(a), int(b)) for a, b in zip(t, end, strict=True)})
        return 0.5 * x_t

    student = StudentDenoiser(network, SCHEDULE, "sample", told_end=True)
    grid, x_T = [999, 600, 200], draw(0, 2, *SHAPE)
    chain = Chain(student, SCHEDULE, grid, torch.zeros(2, 5))
    ddim(chain, x_T)
    along = [(999, 600), (600, 200), (200, CLEAN)]
    assert told == along
    told.clear()
    gamma_sample(chain, x_T, 0.0, lambda: x_T)
    assert told == along
    told.clear()
    gamma_sample(chain, x_T, 1.0, lambda: x_T)
    assert told == [(999, CLEAN), (600, CLEAN), (200, CLEAN)]
    told.clear()
    gamma_sample(chain, x_T, 0.6, lambda: x_T)
    for (_, end), t_next in zip(told[:2], grid[1:], strict=True):
        wanted = 0.8 * SCHEDULE.sigma(t_next, x_T).item()
        assert SCHEDULE.sigma(end, x_T).item() == pytest.approx(wanted, rel=0.02)
    assert told[2] == (200, CLEAN)
    # Alone, as the one-step surrogate calls it, it goes to clean data.
    told.clear()
    student(x_T, torch.tensor([999, 999]), torch.zeros(2, 5), 1.0)
    assert told == [(999, CLEAN)]


def test_a_fresh_student_hears_nothing_of_the_end_and_can_learn_it(tiny_model: MusicModel) -> None:
    network = tiny_model.new_student(told_end=True)
    student = tiny_model.student_denoiser(network)
    assert student.told_end
    x, t, cond = draw(0, 2, 1, 16, 16).float(), torch.tensor([999, 500]), torch.ones(2, 5).long()
    plain = tiny_model.denoiser(x, t, cond, 1.0)
    for end in (CLEAN, 100):
        torch.testing.assert_close(student.towards(end)(x, t, cond), plain, rtol=0, atol=1e-6)
    torch.nn.init.normal_(network.end.layer.weight)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    near, mixed = student.towards(100)(x, t, cond), student.towards(torch.tensor([CLEAN, 100]))
    assert not torch.allclose(near, student(x, t, cond), atol=1e-3)
    torch.testing.assert_close(mixed(x, t, cond)[1], near[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="was made to be told"):
        network(x, t, cond, torch.ones(2))
    with pytest.raises(ValueError, match="was made to be told"):
        make_network()(x, t, cond, end=t)


def test_told_students_need_whole_chains_and_the_embedded_network(tiny_model: MusicModel) -> None:
    for wrong in ({"whole_chains": 0}, {"kind": "cm"}):
        with pytest.raises(DataError, match="told_end needs"):
            replace(TOLD, **wrong)

    class Other(type(tiny_model.network)):
        pass

    with pytest.raises(ModelError, match="no student of a Other"):
        replace(tiny_model, network=Other(**tiny_model.network.config)).new_student(told_end=True)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_told_student_comes_nearer_is_saved_and_goes_on_after_a_kill(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    config = replace(TOLD, steps=40, lr=2e-2, evaluate_count=8, checkpoint_every=10)
    trained = train_student(config, tiny_model, Clips(), tmp_path / "whole", show=False)
    with pytest.raises(InterruptedError):  # when the second group of chains is to be made
        train_student(
            config, tiny_model, Clips(0), tmp_path / "killed", show=False, held_out=Clips()
        )
    train_student(config, tiny_model, Clips(), tmp_path / "killed", show=False)
    for group in ("model", "ema", "optimizer"):
        assert_same(weights(tmp_path / "killed", group), weights(tmp_path / "whole", group))
    moved = trained.state_dict()["end.layer.weight"]
    assert moved.abs().max() > 1e-3

    student = load_distilled(tmp_path / "whole", tiny_model)
    model = tiny_model.attach_student(student, "")
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    assert loaded.student is not None
    assert loaded.student.told_end
    gap = TeacherStudentGap(
        tiny_model.denoiser, tiny_model.schedule, torch.ones(4, 5).long(), (1, 16, 16), grid=20
    )
    fresh = tiny_model.student_denoiser(tiny_model.new_student(told_end=True))
    before, after = gap.measure(fresh, (1, 2)), gap.measure(loaded.student, (1, 2))
    assert after["gap_1_w1"] < 0.7 * before["gap_1_w1"]
    assert after["gap_2_w1"] < before["gap_2_w1"]


def test_a_student_that_is_not_told_may_start_from_one_that_is(tiny_model: MusicModel) -> None:
    told = tiny_model.new_student(told_end=True)
    torch.nn.init.normal_(told.get_parameter("head.bias"))
    model = replace(tiny_model, distilled=Student(told, "ctm", (1.0, 5.0), ""))
    for told_end in (False, True):
        network = init_student(model, start_from="student", told_end=told_end)
        assert torch.equal(network.get_parameter("head.bias"), told.get_parameter("head.bias"))
        assert model.student_denoiser(network).told_end == told_end
