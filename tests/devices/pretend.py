"""A pretend accelerator for a PyTorch without one: tensors with real values on a device "pretend".

Every operation is first checked for what CUDA refuses (tensors of two devices in one operation, a
CPU generator for a tensor on the device, a CPU tensor indexed by one on the device, ``numpy()``)
and then done by the CPU's kernel. So code that mixes devices fails here as it would on a GPU, and
all else gives the CPU's figures. `without_float64` makes it refuse float64 too, as Apple's GPUs do.

It cannot show what a backend's kernels lack or round otherwise, asynchronous errors, or code that
asks for ``is_cuda``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NAME = "pretend"
MOVES = {aten.copy_.default, aten._to_copy.default, aten.lift_fresh.default}
"""Operations that may have tensors of two devices."""
INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
"""Operations whose indices may be on the CPU."""
WIDE = (torch.float64, torch.complex128)


class WrongDeviceError(RuntimeError):
    """What a GPU would refuse."""


class _Backend:
    """What PyTorch asks of the module of a backend."""

    float64 = True

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_autocast_enabled(self) -> bool:
        return False

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None: ...

    def synchronize(self, *_: Any) -> None: ...


BACKEND = _Backend()


def register() -> None:
    """Make the device's name known, once; skip the test where this PyTorch cannot."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        pytest.skip("this PyTorch has no backends in Python")
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, backend_module=BACKEND)


class Pretend(Tensor):
    """A tensor on the device; `value` has its numbers."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor, requires_grad: bool = False) -> "Pretend":
        return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            layout=value.layout,
            device=f"{NAME}:0",
            requires_grad=requires_grad,
        )

    def __init__(self, value: Tensor, requires_grad: bool = False) -> None:
        self.value = value

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Pretend({self.value!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = Pretend(self.value.clone(), self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def tolist(self) -> Any:
        return self.value.tolist()

    def numpy(self, **_: Any) -> Any:
        raise WrongDeviceError("can't convert a tensor on the device to numpy: use .cpu() first")

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.detach()

    @data.setter
    def data(self, other: "Pretend") -> None:  # Module.to(dtype) sets it
        Tensor.data.__set__(self, other)  # pyright: ignore[reportAttributeAccessIssue]
        self.value = other.value

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in MOVES or not any(isinstance(x, Pretend) for x in tensors):
        return
    if func in INDEXING:
        head = args[0]
        if not isinstance(head, Pretend):
            raise WrongDeviceError(f"{func}: a CPU tensor indexed by one on the device")
        values = args[2] if len(args) > 2 else None
        tensors = [head, *([values] if isinstance(values, Tensor) else [])]
    wrong = [x for x in tensors if not isinstance(x, Pretend) and x.ndim > 0]
    if wrong:
        shapes = [tuple(x.shape) for x in wrong]
        raise WrongDeviceError(f"{func}: CPU tensors of shape {shapes} among some on the device")


def mapped(function: Callable[[Any], Any], of: Any) -> Any:
    """Apply a function to the leaves of an operation's arguments or results.

    They are nested lists, tuples and dictionaries alone, for which PyTorch's own `tree_map` takes
    longer than the operations of a tiny model do.
    """
    if isinstance(of, (list, tuple)):
        return type(of)([mapped(function, x) for x in of])
    if isinstance(of, dict):
        return {key: mapped(function, x) for key, x in of.items()}
    return function(of)


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation as the device would."""
    tensors: list[Tensor] = []

    def cpu(x: Any) -> Any:
        if isinstance(x, Tensor):
            tensors.append(x)
        return x.value if isinstance(x, Pretend) else x

    plain_args, plain_kwargs = mapped(cpu, args), mapped(cpu, kwargs)
    _check_devices(func, args, tensors)
    target = any(isinstance(x, Pretend) for x in tensors)
    if kwargs.get("device") is not None:
        device = torch.device(kwargs["device"])
        target = device.type == NAME
        generator = kwargs.get("generator")
        if target and generator is not None and generator.device.type == "cpu":
            raise WrongDeviceError(f"{func}: a generator of the CPU for a tensor on the device")
        plain_kwargs["device"] = torch.device("cpu") if target else device
    if func is aten._pin_memory.default:
        return args[0]
    if func is aten.copy_.default:
        target = isinstance(args[0], Pretend)
    if target and not BACKEND.float64 and kwargs.get("dtype") in WIDE:
        raise TypeError(f"{func}: no float64 on this device")
    out = func(*plain_args, **plain_kwargs)
    if not func._schema.is_mutable:
        return mapped(_wrapped, out) if target else out
    if torch.Tag.inplace_view in func.tags and isinstance(args[0], Pretend):
        with torch.utils._mode_utils.no_dispatch():  # the wrapper has sizes of its own
            func(*args, **kwargs)
        return args[0]
    # in place or out=: give back the very wrappers
    known = {id(x.value): x for x in tensors if isinstance(x, Pretend)}
    return mapped(lambda x: known.get(id(x), _wrapped(x) if target else x), out)


def _wrapped(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.dtype in WIDE and not BACKEND.float64:
        raise TypeError("no float64 on this device")
    # the wrapper has no bits for conjugates and negatives
    return x if isinstance(x, Pretend) else Pretend(x.resolve_conj().resolve_neg())


class Machine(TorchDispatchMode):
    """Within the block there is a device "pretend"."""

    def __enter__(self) -> Any:
        # torch.tensor(data, device=...) then makes a CPU tensor and moves it, which a mode can see
        self._lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        # recomputing a checkpoint in the engine's thread for another device would abort
        self._threads = torch.autograd.set_multithreading_enabled(False)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lift)
        torch.autograd.set_multithreading_enabled(True)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


@contextmanager
def without_float64() -> Iterator[None]:
    """Let the device refuse float64 within the block."""
    BACKEND.float64 = False
    try:
        yield
    finally:
        BACKEND.float64 = True
