"""Less memory for more time: every block of a network under gradient checkpointing.

A checkpointed step of a chain needs, in its backward pass, all activations of one network call.
With each of the network's blocks checkpointed inside that call, it needs those of one block and the
blocks' inputs, for one more forward pass. Values and gradients stay the same.

diffusers' own ``enable_gradient_checkpointing`` is not used: not every network has it, and
AudioLDM2's fails with its attention mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from ditto.models.model import MusicModel

LISTS = ("blocks", "transformer_blocks", "layers", "resnets", "attentions")
"""Names of the lists whose modules are blocks, in our own networks and in diffusers'."""

M = TypeVar("M", bound=MusicModel)


def low_memory(model: M) -> M:
    """Return the model with the blocks of its networks checkpointed and smaller chunks to decode.

    The networks are the model's own, and stay so for other models that share them.
    """
    for network in networks_of(model):
        checkpoint_blocks(network)
    chunk = getattr(model, "chunk", None)
    smaller: dict[str, Any] = {} if chunk is None or model.low_memory else {"chunk": chunk // 2}
    return replace(model, low_memory=True, **smaller)


def networks_of(model: MusicModel) -> list[nn.Module]:
    """Return the networks whose blocks are checkpointed: not autoencoders, which decode chunks."""
    student = model.distilled and model.distilled.network
    vocoder = None if hasattr(model, "pipe") else model.vocoder
    return [part for part in (model.network, student, vocoder) if part is not None]


def checkpoint_blocks(network: nn.Module) -> None:
    """Let every block of a network keep only its inputs for the backward pass."""
    for block in _blocks(network):
        if not hasattr(type(block), "without_checkpoint"):
            block.__class__ = _checkpointed(type(block))


@contextmanager
def rehearsed_low_memory(model: M) -> Iterator[M]:
    """Yield `low_memory` of a model, and leave its networks as they were."""
    classes = [(b, type(b)) for network in networks_of(model) for b in _blocks(network)]
    try:
        yield low_memory(model)
    finally:
        for block, cls in classes:
            block.__class__ = cls


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost blocks."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and name in LISTS:
            yield from child
        else:
            yield from _blocks(child)


@cache
def _checkpointed(cls: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose forward pass is checkpointed.

    A module's class is what a deep copy keeps; a replaced method would go on calling the original.
    """

    class Checkpointed(cls):
        without_checkpoint = cls

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            function = super().forward
            if not torch.is_grad_enabled():
                return function(*args, **kwargs)
            # Tensors by keyword or in tuples would stay alive even where a chain's step is
            # checkpointed as a whole: checkpoint() lets go of those among its arguments only.
            leaves, form = tree_flatten((args, kwargs))

            def flat(*given: Any) -> Any:
                again, named = tree_unflatten(list(given), form)
                return function(*again, **named)

            # nothing in a frozen network draws random numbers, so their state need not be kept
            return checkpoint(flat, *leaves, use_reentrant=False, preserve_rng_state=False)

        def __reduce__(self) -> tuple[Any, ...]:
            """Let other processes have it, whose classes are made anew."""
            return _remade, (cls,), self.__dict__

    Checkpointed.__name__ = cls.__name__
    return Checkpointed


def _remade(cls: type[nn.Module]) -> nn.Module:
    checkpointed = _checkpointed(cls)
    return checkpointed.__new__(checkpointed)
