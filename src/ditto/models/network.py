"""The base class of Ditto's networks, and how one is made from a config, widened or hashed.

A folder of a network has the layout of diffusers' models, ``config.json`` and
``diffusion_pytorch_model.safetensors``, but importing and loading it needs PyTorch alone: diffusers
takes longer to import than a clip to generate.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"

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
    },
}
"""Module of each class, by the part of a model that it may be."""

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
        with torch.random.fork_rng(devices=[]):
            network = cls.from_config(config)
        network.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return network.requires_grad_(False).eval()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and the weights, in the precision that they have."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, **self.config}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (Path(folder) / CONFIG).write_text(text, encoding="utf-8")
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(weights, Path(folder) / WEIGHTS, metadata={"format": "pt"})


def build_network(kind: str, config: Mapping[str, Any], part: str = "denoiser") -> Any:
    """Build a network with random weights, without moving the process-wide generator.

    Args:
        kind: name of a class that `CLASSES` lists for the part.
        config: arguments of its constructor.
        part: "denoiser", "vocoder" or "student".
    """
    with torch.random.fork_rng(devices=[]):
        return getattr(import_module(CLASSES[part][kind]), kind).from_config(config)


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
    """Return the SHA-256 over names and float16 values: the same before saving and after."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()
