"""Steps to convergence and allocated memory."""

import pytest
import torch

from ditto.eval.efficiency import Memory, steps_to_converge


def test_steps_are_counted_until_the_loss_is_below_the_threshold() -> None:
    losses = torch.tensor([[9.0, 1.0, 9.0], [2.0, 3.0, 9.0], [1.9, 3.0, 9.0], [5.0, 1.0, 2.0]])
    assert steps_to_converge(losses, 2.0).tolist() == [3, 1, 4]
    assert steps_to_converge(losses[:3], 2.0).tolist() == [3, 1, 3]


def test_memory_counts_what_is_alive_once() -> None:
    with Memory() as memory:
        a = torch.zeros(1000)  # 4000 bytes
        view = a[10:].reshape(2, -1)
        assert memory.now == 4000
        b = view + 1
        assert memory.now == 4000 + b.nbytes
        del b
        assert memory.now == 4000
        a.add_(1)
        assert memory.now == 4000
        del a, view
    assert memory.now == 0
    assert memory.peak == memory.peak_gb * 1e9 == 4000 + 3960
    # Operations: zeros, slice, reshape, sum, in-place sum.
    assert memory.mean_gb == pytest.approx((4000 * 4 + 7960) / 5 / 1e9)


def test_views_of_what_was_there_before_are_no_memory() -> None:
    weight = torch.zeros(10, 100)
    with Memory() as memory:
        weight.mT[5:].add_(1)
    assert memory.peak == 0


def test_memory_sees_what_the_backward_pass_keeps() -> None:
    x = torch.zeros(1000, requires_grad=True)
    with Memory() as kept:
        y = x.exp().exp().exp().sum()
        assert kept.now >= 3 * 4000
        y.backward()
    with Memory() as thrown, torch.no_grad():
        x.exp().exp().exp().sum()
    assert thrown.peak < kept.peak
