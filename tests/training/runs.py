"""What tests of trainings ask of a run's folder."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def weights(run: Path, group: str) -> dict[str, Tensor]:
    """A group of the newest checkpoint."""
    return load_file(sorted(run.glob("step-*"))[-1] / f"{group}.safetensors")


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """The same tensors, bit for bit."""
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
