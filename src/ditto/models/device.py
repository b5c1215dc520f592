"""Where and how precisely networks compute."""

from typing import Literal, get_args

import torch

from ditto.errors import ModelError

Precision = Literal["auto", "float32", "float16", "bfloat16"]


def checked_precision(name: str) -> None:
    """Check the name of a precision.

    Raises:
        ModelError: it is not one of `Precision`.
    """
    if name not in get_args(Precision):
        choices = ", ".join(get_args(Precision))
        raise ModelError(f"unknown precision {name!r}: choose one of {choices}")


def dtype_of(precision: str, device: str | torch.device) -> torch.dtype:
    """Return the dtype of a `Precision`; "auto" is `native_precision`."""
    return native_precision(device) if precision == "auto" else getattr(torch, precision)


def one_by_one(device: str | torch.device, count: int) -> bool:
    """Tell whether the items of a batch are computed one by one.

    A sum over several items is rounded in another order than over one, so only then is an item bit
    for bit what it would be alone. It costs a CPU nothing; a graphics card would stand idle.
    """
    return count > 1 and torch.device(device).type == "cpu"


def native_precision(device: str | torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively and so faster, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        able = torch.cpu.get_capabilities()
        native = able.get("avx512_bf16") or able.get("amx_bf16")
    else:
        native = False
    return torch.bfloat16 if native else torch.float32
