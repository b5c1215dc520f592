"""The network that a distillation trains: a copy of the teacher's, or LoRA beside its weights.

LoRA (Hu et al. 2021) adds to a layer's W a product B·A of low rank, B beginning at zero. A and B
are trained, and the input for w, which no teacher has; peft puts them in, whatever the
architecture. In the end they are merged into W, so that a student is a plain network of diffusers'
classes either way.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ditto.errors import DataError
from ditto.models.model import MusicModel
from ditto.training.loop import seeded

LAYERS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "to_qkv",
    "to_kv",
    "gate_proj",
    "up_proj",
    "down_proj",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
    "qkv",
    "out",
    "mlp.0",
    "mlp.2",
)
"""Ends of the names of layers that get LoRA: those of latent consistency models' LoRA, flows'
transformers' and our own one's."""


def init_student(
    teacher: MusicModel,
    rank: int = 0,
    seed: int = 0,
    start_from: Literal["teacher", "student"] = "teacher",
    told_end: bool = False,
) -> nn.Module:
    """Build a network to distil into, which starts as the teacher's or as the student it has.

    With a rank, all but LoRA and the inputs that the teacher lacks is frozen.

    Args:
        teacher: the model.
        rank: of LoRA; 0 trains every weight.
        seed: of LoRA's first weights.
        start_from: whose weights it begins with.
        told_end: see `MusicModel.new_student`; begun with a student that is not told, it starts as
            if it heard nothing, and one that is not told starts so from one that is.

    Raises:
        DataError: peft is missing, or the model has no student of this kind.
        ModelError: see `MusicModel.new_student`.
    """
    network = teacher.new_student(told_end)
    if start_from == "student":
        if teacher.distilled is None or teacher.distilled.own:
            raise DataError(
                f"{teacher.name!r} has no student to start from: start from the teacher"
            )
        mine, own = network.state_dict(), teacher.distilled.network.state_dict()
        network.load_state_dict(mine | {name: w for name, w in own.items() if name in mine})
    if rank:
        known = {name for name, _ in teacher.network.named_parameters()}
        added = [parameter for name, parameter in network.named_parameters() if name not in known]
        _add_lora(network, rank, seed)
        for parameter in added:
            parameter.requires_grad_(True)
    return network


def _add_lora(network: nn.Module, rank: int, seed: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise DataError(
            "LoRA needs peft: pip install 'ditto-music[pipelines]', or set lora_rank to 0"
        ) from None
    with seeded(seed):
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LAYERS)), network
        )


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }


def copy_sharing_frozen(network: nn.Module) -> nn.Module:
    """Copy a network; what is frozen is shared."""
    shared = {
        id(parameter): parameter
        for parameter in network.parameters()
        if not parameter.requires_grad
    }
    return copy.deepcopy(network, shared)


@torch.no_grad()
def load_trainable(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back the parameters that `trainable` gave.

    Raises:
        DataError: they are of another network.
    """
    parameters = trainable(network)
    if parameters.keys() != tensors.keys():
        raise DataError(
            "the run's checkpoint is of another network: was it begun by another version of Ditto?"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def merge_lora(network: nn.Module) -> nn.Module:
    """Make the network, in place, a plain one of its class: add LoRA's products to the weights."""
    for name, layer in list(network.named_modules()):
        if not hasattr(layer, "base_layer"):
            continue
        layer.base_layer = copy.deepcopy(layer.base_layer)  # a copy may share it
        layer.merge()  # pyright: ignore[reportCallIssue]
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, layer.base_layer)
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network
