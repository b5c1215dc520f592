"""Devices by name, and what is said where there is none or too little memory."""

from dataclasses import replace

import pytest
import torch

from ditto.controls.intensity import Intensity
from ditto.errors import ModelError, OutOfMemoryError
from ditto.methods.ditto import Ditto
from ditto.models.device import (
    checked_decoder_precision,
    chosen_device,
    device_name,
    is_out_of_memory,
    memory_of,
)
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import HALF_REMEDY, Run, run


def having(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_is_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, found in ((1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")):
        having(monkeypatch, cuda=cuda, mps=mps)
        assert chosen_device() == torch.device(found)
    having(monkeypatch, cuda=2)
    assert chosen_device("cuda:1") == torch.device("cuda:1")
    assert chosen_device(torch.device("cuda", 0)).index == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:7", "there is no cuda:7 here, only cuda:0 to cuda:1"),
        ("mps", "there is no mps device here"),
        ("xpu", "there is no xpu device here"),
        ("gpu", "unknown device 'gpu': choose auto, cpu, cuda, cuda:1 (the second GPU) or mps"),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("meta", "unknown device 'meta'"),
        ("cpu:3", "there is no cpu:3 here, only cpu:0: choose another --device"),
    ],
)
def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    having(monkeypatch, cuda=2)
    with pytest.raises(ModelError, match=r"\A[^\n]+\Z") as error:
        chosen_device(name)
    assert words in str(error.value)


def test_without_a_gpu_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch)
    with pytest.raises(ModelError, match=r'choose another, such as --device cpu \(device="cpu"\)'):
        chosen_device("cuda")
    with pytest.raises(ModelError, match="of the decoder: choose one of float32"):
        checked_decoder_precision("auto")


def test_the_processor_has_memory_and_a_name() -> None:
    cpu = torch.device("cpu")
    assert device_name(cpu) == "cpu"
    assert (memory_of(cpu) or 2**30) >= 2**30


def test_every_devices_words_for_too_little_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Hungry(Intensity):
    """A control that fails when it is first heard."""

    def loss(self, output: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")


def test_a_lack_of_memory_is_one_line_with_what_would_fit(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(Hungry("swell"), method=Ditto(steps=2), iterations=2, count=3)
    with pytest.raises(OutOfMemoryError, match=r"\A[^\n]+\Z") as error:
        run(request, tiny_model)
    assert str(error.value).startswith("cpu has not enough memory for 3 clips of 0.51 s: ")
    assert "--low-memory" in str(error.value)


class Spoilt(Intensity):
    """A control whose loss is not finite from its second hearing on."""

    heard = 0

    def loss(self, output: object) -> torch.Tensor:
        Spoilt.heard += 1
        scale = 1.0 if Spoilt.heard == 1 else torch.nan
        return super().loss(output) * scale  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("precision", [torch.float16, torch.float32])
def test_float16_is_blamed_for_what_is_not_finite(
    tiny_model: MusicModel, precision: torch.dtype
) -> None:
    Spoilt.heard = 0
    model = replace(tiny_model, precision=precision)
    steps = Run(Request(Spoilt("swell"), method=Ditto(steps=1), iterations=3), model)
    next(steps)
    assert list(steps) == []
    assert "not finite" in steps.failures[0]
    assert (HALF_REMEDY in steps.failures[0]) == (precision == torch.float16)
    assert torch.isfinite(steps.result().audio).all()  # the best so far is still there
