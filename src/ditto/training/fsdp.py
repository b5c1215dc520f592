"""Weights that lie in parts on the processes of a training, for a base that fits on none whole.

That is torch's FSDP: each process keeps a part of every weight, gradient, average and of Adam's
state, and has a block whole only while it computes with it. Checkpoints are whole all the same, so
that a run goes on with any number of processes, with or without it.
"""

import os
from collections.abc import Mapping

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ditto.errors import DataError

VARIABLE = "DITTO_FSDP"
"""Environment variable that a launched process finds "1" in."""
BLOCKS = ("blocks", "down_blocks", "up_blocks")
"""Names of a network's lists of blocks, each of which is gathered as it is needed."""


def asked(accelerator: Accelerator) -> bool:
    """Tell whether this process is to train so.

    Raises:
        DataError: it is, and there is no other.
    """
    if os.environ.get(VARIABLE) != "1":
        return False
    if accelerator.num_processes == 1:
        raise DataError("--fsdp shares weights out among processes: give --processes, 2 or more")
    return True


def share_out(network: nn.Module, accelerator: Accelerator) -> None:
    """Leave this process its part of a network's weights; all processes do so together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in BLOCKS:
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whole; of one that lies in parts, all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, laid out as another is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def parts_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Do that for tensors by name; those that `like` lacks stay as they are."""
    return {
        name: part_like(tensor, like[name]) if name in like else tensor
        for name, tensor in tensors.items()
    }


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return tensors whole in this machine's memory; all processes must ask together.

    Args:
        tensors: by name.
        keep: whether this process wants them; the others get none.
    """
    found = {}
    for name, tensor in tensors.items():
        each = whole(tensor.detach())
        if keep:
            found[name] = each.cpu()
    return found
