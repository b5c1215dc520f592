"""The base class of Ditto's networks, and how one is made from a config, widened or hashed.

A folder of a network has the layout of diffusers' models, ``config.json`` and
``diffusion_pytorch_model.safetensors``, but importing and loading it needs PyTorch alone: diffusers
takes longer to import than a clip to generate.
"""

import copy
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from ditto.paths import shown

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
RANDOM = ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_")
"""Functions by which constructors of networks draw weights."""

# A model folder may name any of these classes, and no other: loading never runs code that a folder
# chose.
CLASSES = {
    "denoiser": {"PatchTransformer": "ditto.models.transformer", "TagUNet": "ditto.models.unet"},
    "vocoder": {"Vocoder": "ditto.models.vocoder"},
    "heads": {"Heads": "ditto.models.heads"},
    "student": {
        "PatchTransformer": "ditto.models.transformer",
        "TagUNet": "ditto.models.unet",
        "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
        "AudioLDM2UNet2DConditionModel": "diffusers.pipelines.audioldm2.modeling_audioldm2",
        "GuidedStableAudioDiT": "ditto.models.adapters.student",
        "GuidedStableAudio3DiT": "ditto.models.adapters.flow_students",
        "GuidedAceStepTransformer": "ditto.models.adapters.flow_students",
    },
}
"""Module of each class, by the part of a model that it may be."""

MAX_SETTING = 2**22
"""Largest number of a config that may exceed the number of weights, such as a sampling rate."""

N = TypeVar("N", bound=nn.Module)


class Network(nn.Module):
    """A module that records its constructor's arguments, and saves and loads itself.

    Every argument of a subclass's constructor has a default and can be written as JSON.

    Attributes:
        config: the constructor's arguments by name, defaults included.
    """

    config: dict[str, Any]
    low_precision: ClassVar[tuple[str, ...]] = ()
    """Names of the submodules that `in_precision` casts."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments before `__init__` runs."""
        network = super().__new__(cls)
        bound = signature(cls.__init__).bind(network, *args, **kwargs)
        bound.apply_defaults()
        network.__dict__["config"] = dict(list(bound.arguments.items())[1:])
        return network

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained network; names that begin with ``_`` are notes and are ignored."""
        return cls(**{name: value for name, value in config.items() if not name.startswith("_")})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a folder that `save_pretrained` wrote: float32, frozen, in evaluation mode.

        Raises:
            OSError, ValueError, TypeError, RuntimeError, SafetensorError: the folder is incomplete
                or its config does not fit its weights.
        """
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        file = Path(folder) / WEIGHTS
        network = build_for(file, config, lambda: cls.from_config(config))
        network.load_state_dict(load_file(file))
        return network.requires_grad_(False).eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and the weights, in the precision that they have."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, **self.config}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (Path(folder) / CONFIG).write_text(text, encoding="utf-8")
        weights = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, Path(folder) / WEIGHTS, metadata={"format": "pt"})


def build_for(file: Path, config: Mapping[str, Any], build: Callable[[], N]) -> N:
    """Build a network that is to get the weights of a file, whose header is compared with it.

    A config may ask for any width or depth: building stops as soon as it wants more weights than
    the file has, before any of them is written to.

    Args:
        file: of safetensors.
        config: of the network.
        build: makes it.

    Raises:
        ValueError: config and weights do not fit, with the first that differs.
        SafetensorError: the file is no safetensors file.
    """
    with safe_open(file, framework="pt") as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 - no mapping
    values = sum(map(math.prod, shapes.values()))
    if _largest(config) > max(values, MAX_SETTING):
        raise ValueError(f"its config holds the number {_largest(config):g}")
    with torch.random.fork_rng(devices=[]), at_most(values), Unfilled():
        network = build()
    for name, tensor in network.state_dict().items():
        if shapes.pop(name, None) != tuple(tensor.shape):
            raise ValueError(f"its config asks for {name} of shape {tuple(tensor.shape)}")
    if shapes:
        raise ValueError(f"its config has no place for {next(iter(shapes))}")
    return network


class Unfilled(TorchFunctionMode):
    """Draw no random numbers for weights that are built in the block, in this thread.

    They get a file's values next; to draw them would be wasted.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def _largest(value: Any) -> float:
    """Return the largest magnitude of a number in JSON; infinity for what is not finite."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0.0)
    if isinstance(value, int | float):
        return abs(value) if math.isfinite(value) else math.inf
    return 0.0


@contextmanager
def at_most(values: int) -> Iterator[None]:
    """Allow networks that are built in the block, in this thread, so many values and no more.

    Raises:
        ValueError: a network would have more.
    """
    thread, left = threading.get_ident(), values

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if threading.get_ident() != thread or parameter is None:
            return
        left -= parameter.numel()
        if left < 0:
            raise ValueError("its config asks for more weights than there are")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def build_network(kind: str, config: Mapping[str, Any], part: str = "denoiser") -> Any:
    """Build a network with random weights, without moving the process-wide generator.

    Args:
        kind: name of a class that `CLASSES` lists for the part.
        config: arguments of its constructor.
        part: "denoiser", "vocoder" or "student".
    """
    with torch.random.fork_rng(devices=[]):
        found = getattr(import_module(CLASSES[part][kind]), kind)
        check_types(found, config)
        return found.from_config(config)


def check_types(made: type, config: Mapping[str, Any]) -> None:
    """Refuse settings of another type than the constructor's: some would fail only in use.

    Raises:
        TypeError: one is.
    """
    for name, kind in get_type_hints(made.__init__).items():
        value = config.get(name)
        if kind not in (int, float, str, bool) or name not in config:
            continue
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"its {name} is {shown(value)}, not of type {kind.__name__}")


def with_extra_inputs(network: nn.Module, kind: str, **inputs: Any) -> Any:
    """Build a student with a network's settings and weights and with further inputs.

    Args:
        network: the teacher's; its `config` holds its settings.
        kind: class of the student.
        inputs: settings that add inputs; their weights are zero, so they do nothing yet.
    """
    config: Mapping[str, Any] = network.config  # pyright: ignore[reportAssignmentType]
    # diffusers keeps notes among the settings, one of which names those that are to stay defaults
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    student = build_network(kind, settings | inputs, "student")
    zeros = {name: torch.zeros_like(value) for name, value in student.state_dict().items()}
    student.load_state_dict(zeros | network.state_dict())
    return student


def in_precision(network: N, dtype: torch.dtype) -> N:
    """Return a copy whose `low_precision` submodules compute in `dtype`.

    Inputs, outputs and all other submodules stay float32. It is the network itself where `dtype` is
    float32 or its class names no such submodules.
    """
    names: tuple[str, ...] = getattr(network, "low_precision", ())
    if dtype == torch.float32 or not names:
        return network
    low = copy.deepcopy(network)
    for name in names:
        low.get_submodule(name).to(dtype)
    return low


def hash_weights(module: nn.Module) -> str:
    """Return `hash_tensors` of all that is saved of a module."""
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names and float16 values: the same before saving and after."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()
