"""What tests of trainings ask of a run's folder, and where their processes come from."""

import multiprocessing
from multiprocessing.context import ForkServerContext
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


def fresh_processes() -> ForkServerContext:
    """Return what starts processes from a server that has imported all that any of them needs.

    A fork of this process could not run autograd. There is one server a process, and it imports
    what the first that asked for it named.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.training.test_processes", "torch.utils.tensorboard", "torch._dynamo"]
    )
    return context
