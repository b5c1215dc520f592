"""Where and how precisely networks compute, and what is said when there is not enough memory."""

import os
from typing import Literal, get_args

import torch

from ditto.errors import ModelError

Precision = Literal["auto", "float32", "float16", "bfloat16"]
DecoderPrecision = Literal["float32", "float16", "bfloat16"]

DEVICES = "auto, cpu, cuda, cuda:1 (the second GPU) or mps (a Mac's)"
"""What a user may ask for; other accelerators that this PyTorch knows are taken too."""


def chosen_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device of a name; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        ModelError: it is unknown, or not there.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        count = 1 if device.type == "cpu" else _count(device.type)
    except (RuntimeError, AttributeError, TypeError):
        raise ModelError(f"unknown device {str(name)!r}: choose {DEVICES}") from None
    if not count:
        raise ModelError(
            f"there is no {device.type} device here, or this PyTorch cannot use it: choose "
            'another, such as --device cpu (device="cpu")'
        )
    if (device.index or 0) >= count:
        last = "" if count == 1 else f" to {device.type}:{count - 1}"
        raise ModelError(
            f"there is no {device} here, only {device.type}:0{last}: choose another --device"
        )
    return device


def _count(kind: str) -> int:
    """Return how many devices of a type there are.

    Raises:
        RuntimeError, AttributeError: PyTorch knows no such type.
    """
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.get_device_module(kind)
    return module.device_count() if module.is_available() else 0


def device_name(device: torch.device) -> str:
    """Return a device with the name of its hardware, where that is known."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def memory_of(device: torch.device) -> int | None:
    """Return the bytes that a process may take on a device, None if that is unknown.

    On a GPU that is what others leave free, on the CPU all of the machine's memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there was not enough memory, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that it was given, as clocks must."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def checked_precision(name: str) -> None:
    """Check the name of a precision.

    Raises:
        ModelError: it is not one of `Precision`.
    """
    if name not in get_args(Precision):
        choices = ", ".join(get_args(Precision))
        raise ModelError(f"unknown precision {name!r}: choose one of {choices}")


def checked_decoder_precision(name: str) -> None:
    """Check the name of a decoder's precision.

    Raises:
        ModelError: it is not one of `DecoderPrecision`.
    """
    if name not in get_args(DecoderPrecision):
        choices = ", ".join(get_args(DecoderPrecision))
        raise ModelError(f"unknown precision {name!r} of the decoder: choose one of {choices}")


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
