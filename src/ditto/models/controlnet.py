"""Music ControlNet's adapter for loudness and melody (Wu et al. 2023; Zhang et al. 2023).

The base, a patch transformer, stays as it is. Its first blocks are copied; the copies see its
tokens plus the curves, and each copy's output is added to the base's tokens after the block that it
was copied from (the form that PixArt-δ found for transformers). The layers at both ends of the
copies begin at zero, so an untrained adapter changes nothing.

The curves are 15 channels a frame: level and whether one is given; pitch class, one of 12, and
whether one is given. So one adapter takes loudness, melody, both, or either for a part of the clip
("don't care" elsewhere).
"""

import copy
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ditto.audio.chroma import CLASSES
from ditto.errors import ModelError
from ditto.models.folder import ANY_FAULT
from ditto.models.model import MusicModel
from ditto.models.network import CONFIG, WEIGHTS, Network, hash_weights
from ditto.models.transformer import Block, PatchTransformer
from ditto.paths import atomic_folder, printable

CHANNELS = 2 + CLASSES + 1
CENTRE_DB, SPREAD_DB = -30.0, 10.0
"""Levels reach the network as (dB − centre) / spread."""
OF_THE_BASE = ("patch", "width", "heads", "mlp_ratio", "gelu")
"""Settings that an adapter has of its base."""


def encode_curves(levels: Tensor | None, classes: Tensor | None, batch: int, frames: int) -> Tensor:
    """Encode the curves as the adapter's input.

    Args:
        levels: smoothed loudness in dB, (B, frames) or (frames,); NaN where any will do; None for
            no curve.
        classes: pitch classes 0 to 11, (B, frames) or (frames,), int64; any other number where any
            will do; None for no melody.
        batch: number of clips B.
        frames: their length.

    Returns:
        (B, CHANNELS, frames), float32.
    """
    level, melody = torch.zeros(batch, 2, frames), torch.zeros(batch, CLASSES + 1, frames)
    if levels is not None:
        steered = levels.isfinite().expand(batch, frames)
        level = torch.stack(
            [((levels - CENTRE_DB) / SPREAD_DB).expand(batch, frames), torch.ones(batch, frames)], 1
        )
        level = torch.where(steered[:, None], level, 0.0)
    if classes is not None:
        one_hot = (classes.expand(batch, frames)[:, None] == torch.arange(CLASSES)[:, None]).float()
        melody = torch.cat([one_hot, one_hot.sum(dim=1, keepdim=True)], dim=1)
    return torch.cat([level, melody], dim=1)


class ControlAdapter(Network):
    """``(base, x_t, t, tags, curves (B, CHANNELS, frames)) -> output`` of the base's kind.

    Args:
        depth: how many of the base's first blocks are copied.
        patch, width, heads, mlp_ratio, gelu: of the base.
        base: `hash_weights` of the base that it was trained with; it fits no other.
    """

    low_precision = ("blocks", "outputs")

    def __init__(
        self,
        depth: int = 3,
        patch: int = 8,
        width: int = 384,
        heads: int = 6,
        mlp_ratio: float = 3.0,
        base: str = "",
        gelu: str = "tanh",
    ) -> None:
        super().__init__()
        self.patch = patch
        self.read = nn.Sequential(
            nn.Linear(patch * CHANNELS, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, gelu) for _ in range(depth))
        self.outputs = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in (self.read[-1], *self.outputs):
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    @classmethod
    def of(cls, base: PatchTransformer, depth: int = 3, seed: int = 0) -> "ControlAdapter":
        """Make an untrained adapter: blocks copied from the base, the rest drawn from `seed`.

        Raises:
            ModelError: the base has fewer blocks, or is a distilled student.
        """
        if base.guidance is not None:
            raise ModelError("a ControlNet is trained on a base model, not on a distilled student")
        available = len(base.blocks)
        if not 1 <= depth <= available:
            raise ModelError(
                f"a base of {available} blocks has 1 to {available} that can be copied, not {depth}"
            )
        sizes = {name: base.config[name] for name in OF_THE_BASE}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = cls(depth, **sizes, base=hash_weights(base))
        adapter.blocks.load_state_dict(base.blocks[:depth].state_dict())  # pyright: ignore[reportIndexIssue]
        return adapter

    def forward(
        self, base: PatchTransformer, x_t: Tensor, t: Tensor, tags: Tensor, curves: Tensor
    ) -> Tensor:
        """Run the base's forward pass with the copies beside it."""
        h, condition, shared = base.embed_inputs(x_t, t, tags)
        side = h + self.read(self._patches(curves.to(x_t))).to(h)
        for i, block in enumerate(base.blocks):
            h = block(h, *shared)
            if i < len(self.blocks):
                side = self.blocks[i](side, *shared)
                h = h + self.outputs[i](side)
        return base.project_output(h, condition)

    def _patches(self, curves: Tensor) -> Tensor:
        """Cut (B, CHANNELS, frames) into (B, tokens, patch · CHANNELS)."""
        return curves.unflatten(-1, (-1, self.patch)).permute(0, 2, 1, 3).flatten(2)

    @classmethod
    def load(cls, folder: Path, model: MusicModel) -> "ControlAdapter":
        """Load the adapter of a folder that `save` wrote: float32, frozen.

        Raises:
            ModelError: the folder is missing, incomplete or damaged, or the adapter was trained
                with another base.
        """
        if not (folder / WEIGHTS).is_file():
            raise ModelError(
                f"no ControlNet in {printable(folder)}: make one with "
                "`ditto-music train controlnet`"
            )
        try:
            adapter = cls.from_pretrained(folder)
        except ANY_FAULT:
            raise ModelError(
                f"{printable(folder)} is damaged: its {CONFIG} does not fit its weights"
            ) from None
        sizes = getattr(model.network, "config", {})
        alike = all(adapter.config[name] == sizes.get(name) for name in OF_THE_BASE)
        if not alike or adapter.config["base"] != hash_weights(model.network):
            raise ModelError(
                f"the ControlNet in {printable(folder)} was trained with another base than "
                f"{model.name!r}"
            )
        return adapter

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes, weights in float16.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_folder(folder) as new:
            copy.deepcopy(self).half().save_pretrained(new)


def with_controlnet(model: MusicModel, folder: str | os.PathLike[str]) -> MusicModel:
    """Return a copy of the model with the adapter of a folder, for the method "controlnet".

    Raises:
        ModelError: see `ControlAdapter.load`.
    """
    return replace(model, controlnet=ControlAdapter.load(Path(folder), model))


def adapter_of(model: MusicModel) -> ControlAdapter:
    """Return the model's adapter.

    Raises:
        ModelError: it has none, or can have none.
    """
    if not isinstance(model.network, PatchTransformer):
        raise ModelError(
            "a ControlNet needs a patch transformer, as Ditto's own models have: choose another "
            "method"
        )
    if not isinstance(model.controlnet, ControlAdapter):
        raise ModelError(
            f"the model {model.name!r} has no ControlNet: train one with "
            "`ditto-music train controlnet`, and give its folder with --controlnet"
        )
    return model.controlnet
