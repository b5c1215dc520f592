"""Tables made once, whatever mode is on when they are first asked for."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ditto import tables
from ditto.tables import Constant, table, widened


def test_a_table_is_made_once_and_usable_in_any_mode() -> None:
    made = []

    @table(maxsize=4)
    def ramp(count: int) -> torch.Tensor:
        made.append(count)
        return torch.arange(count, dtype=torch.float64)

    with torch.inference_mode(), FakeTensorMode():
        ramp(3)
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (x * ramp(3)).sum().backward()
    assert type(ramp(3)) is torch.Tensor
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2]
    assert made == [3]


def test_a_constant_is_moved_once() -> None:
    constant, like = Constant(torch.ones(2)), torch.zeros(1, dtype=torch.float64)
    first = constant.like(like)
    assert first.dtype == torch.float64
    assert constant.like(like) is first
    assert constant.like(torch.zeros(3)) is constant.value


def test_what_needs_float64_is_done_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widened(torch.ones(1)).dtype == torch.float64
    monkeypatch.setattr(tables, "WITHOUT_FLOAT64", {"meta"})
    with pytest.raises(NotImplementedError, match="meta"):  # it has no values to be copied
        widened(torch.ones(1, device="meta"))
