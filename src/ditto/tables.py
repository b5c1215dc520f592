"""Constants of computations: made once for each device, outside of any mode; and float64.

Tables are made in float64 on the CPU and moved once. Apple's GPUs have no float64 at all: what
needs it while computing is done on the CPU there (`widened`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

WITHOUT_FLOAT64 = {"mps"}
"""Types of devices that have no float64."""


def has_float64(device: torch.device) -> bool:
    """Tell whether a device computes in float64."""
    return device.type not in WITHOUT_FLOAT64


def widened(x: Tensor) -> Tensor:
    """Return `x` in float64: where it is, or on the CPU where its device has none.

    Results go back by ``.to(device, dtype)``.
    """
    return x.double() if has_float64(x.device) else x.cpu().double()


def table(maxsize: int = 32) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep what a function of hashable arguments returns, `maxsize` results.

    The tensors are ordinary ones whenever they are first asked for. One made in inference mode
    could never take part in autograd, and one made during a rehearsal (`ditto.models.profile`)
    would have no values.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def make(*args: P.args, **kwargs: P.kwargs) -> T:
            with torch.inference_mode(False), torch.no_grad(), _real_tensors():
                return function(*args, **kwargs)

        return cast(Callable[P, T], lru_cache(maxsize)(make))

    return decorate


def has_values(x: Tensor) -> bool:
    """Tell whether a tensor has values: in a rehearsal (`ditto.models.profile`) none has."""
    return not x.is_meta and not _rehearses()


def _rehearses() -> bool:
    """Tell whether the mode is on in which tensors have shapes but no values."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


@contextmanager
def _real_tensors() -> Iterator[None]:
    """Leave the mode in which tensors have shapes but no values, if it is on."""
    if not _rehearses():
        yield
        return
    from torch._subclasses.fake_tensor import unset_fake_temporarily  # slow to import

    with unset_fake_temporarily():
        yield


class Constant:
    """A tensor and its copies in other dtypes or on other devices, each made once.

    Args:
        value: the tensor.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Return the tensor in the dtype and on the device of `x`."""
        key = x.device, x.dtype
        if key not in self._copies:
            self._copies[key] = self.value.to(x)
        return self._copies[key]
