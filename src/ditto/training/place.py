"""Where a training computes: its device, and how its launcher asks for more."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from ditto.models.device import chosen_device, native_precision
from ditto.training import fsdp

DEVICE_VARIABLE, RANK_VARIABLE = "ACCELERATE_TORCH_DEVICE", "LOCAL_RANK"
"""Environment variables of accelerate: the device; set by its launcher, one for each process."""

ACCUMULATE_VARIABLE = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


@contextmanager
def training_on(device: str, *, accumulate: int = 1, in_parts: bool = False) -> Iterator[str]:
    """Have accelerate train on a device within the block; yield the device for models to load.

    Under ``accelerate launch`` the launcher gives every process its device, and models are loaded
    on the CPU.

    Args:
        device: "auto", "cpu", "cuda" or another.
        accumulate: parts of a process's share of the batch, one after another.
        in_parts: see `ditto.training.fsdp`.

    Raises:
        ModelError: there is no such device.
    """
    asked = {ACCUMULATE_VARIABLE: str(accumulate)} if accumulate > 1 else {}
    asked |= {fsdp.VARIABLE: "1"} if in_parts else {}
    with _environment(asked):
        yield from _training_on(str(chosen_device(device)))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _training_on(place: str) -> Iterator[str]:
    if RANK_VARIABLE in os.environ:
        if place == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        try:
            yield "cpu"
        except KeyboardInterrupt:  # of all processes, after the same step
            _leave_group()
            raise
        _leave_group()
        return
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with _environment({DEVICE_VARIABLE: place}):
            yield place
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def accelerator_of(precision: str) -> Accelerator:
    """Return what trains in a recipe's precision, "no" or "bf16", as far as the device has it.

    A processor that does not multiply bfloat16 natively takes many times as long as in float32, so
    there "bf16" is float32. A checkpoint goes on in either, for its weights are float32.
    """
    native = precision == "bf16" and has_bf16(PartialState().device or "cpu")
    return Accelerator(mixed_precision="bf16" if native else "no")


def has_bf16(device: str | torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 natively."""
    return native_precision(device) is torch.bfloat16


def _leave_group() -> None:
    """End the connections to the other processes; left to Python's end, it may abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
