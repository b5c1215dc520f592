"""Music ControlNet's adapter (Wu et al. 2023; Zhang et al. 2023) for the patch transformer:
loudness and melody.

The base stays as it is. Its first blocks are copied; the copies see the base's tokens plus the
curves, and what each gives is added to the base's tokens after the block that it was copied from
(the form that PixArt-δ found for transformers). The layers at both ends of the copies begin at
zero, so an untrained adapter changes nothing.

The curves are 15 channels a frame: level and whether one is given; pitch class, one of 12, and
whether one is given. So one adapter takes loudness, melody, both, or either for a part of the clip
("don't care" elsewhere).
"""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ditto.audio.chroma import CLASSES
from ditto.errors import ModelError
from ditto.models.hashes import fingerprint
from ditto.models.music_model import WEIGHTS, MusicModel
from ditto.models.transformer import Block, PatchTransformer
from ditto.paths import printable

CHANNELS = 2 + CLASSES + 1
CENTRE_DB, SPREAD_DB = -30.0, 10.0
"""Levels reach the network as (dB − centre) / spread."""


def encode_curves(levels: Tensor | None, classes: Tensor | None, batch: int, frames: int) -> Tensor:
    """The curves as the adapter takes them.

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
        given = levels.isfinite().expand(batch, frames)
        level = torch.stack(
            [((levels - CENTRE_DB) / SPREAD_DB).expand(batch, frames), torch.ones(batch, frames)], 1
        )
        level = torch.where(given[:, None], level, 0.0)
    if classes is not None:
        one_hot = (classes.expand(batch, frames)[:, None] == torch.arange(CLASSES)[:, None]).float()
        melody = torch.cat([one_hot, one_hot.sum(dim=1, keepdim=True)], dim=1)
    return torch.cat([level, melody], dim=1)


class ControlAdapter(ModelMixin, ConfigMixin):
    """``(base, x_t, t, tags, curves (B, CHANNELS, frames)) -> output`` of the base's kind.

    Args:
        depth: how many of the base's first blocks are copied.
        patch, width, heads, mlp_ratio, gelu: of the base.
        base: `fingerprint` of the base that it was trained with; it fits no other.
    """

    config_name = "config.json"

    @register_to_config
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
        """An untrained adapter: blocks copied from the base, the rest drawn from `seed`.

        Raises:
            ModelError: the base has fewer blocks, or is a distilled student.
        """
        if base.guidance is not None:
            raise ModelError("a ControlNet is trained on a base model, not on a distilled student")
        config, available = base.config, len(base.blocks)
        if not 1 <= depth <= available:
            raise ModelError(
                f"a base of {available} blocks has 1 to {available} that can be copied, not {depth}"
            )
        sizes = {name: config[name] for name in ("patch", "width", "heads", "mlp_ratio", "gelu")}  # pyright: ignore[reportIndexIssue]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = cls(depth, **sizes, base=fingerprint(base))
        adapter.blocks.load_state_dict(base.blocks[:depth].state_dict())  # pyright: ignore[reportIndexIssue]
        return adapter

    def forward(
        self, base: PatchTransformer, x_t: Tensor, t: Tensor, tags: Tensor, curves: Tensor
    ) -> Tensor:
        """The base's forward pass with the copies beside it."""
        h, condition, shared = base.enter(x_t, t, tags)
        side = h + self.read(self._patches(curves.to(x_t))).to(h)
        for i, block in enumerate(base.blocks):
            h = block(h, *shared)
            if i < len(self.blocks):
                side = self.blocks[i](side, *shared)
                h = h + self.outputs[i](side)
        return base.leave(h, condition)

    def lowered(self, dtype: torch.dtype) -> "ControlAdapter":
        """A copy whose blocks compute in `dtype`, for a base that is lowered to it too."""
        low = copy.deepcopy(self)
        low.blocks.to(dtype)
        low.outputs.to(dtype)
        return low

    def _patches(self, curves: Tensor) -> Tensor:
        """(B, CHANNELS, frames) → (B, tokens, patch · CHANNELS)."""
        return curves.unflatten(-1, (-1, self.patch)).permute(0, 2, 1, 3).flatten(2)

    @classmethod
    def load(cls, folder: Path, model: MusicModel) -> "ControlAdapter":
        """The adapter of a folder that `save` wrote, in float32, frozen.

        Raises:
            ModelError: the folder is missing, incomplete or damaged, or the adapter was trained
                with another base.
        """
        file = folder / WEIGHTS
        if not file.is_file():
            raise ModelError(
                f"no ControlNet in {printable(folder)}: make one with `ditto-music train controlnet`"
            )
        try:
            # Not from_pretrained: it fills weights that a file lacks with random ones.
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            with torch.random.fork_rng(devices=[]):
                found = cls(
                    **{name: value for name, value in config.items() if not name.startswith("_")}
                )
            found.load_state_dict(load_file(file))
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError):
            raise ModelError(
                f"{printable(folder)} is damaged: its config.json does not fit its weights"
            ) from None
        if found.config["base"] != fingerprint(model.network):  # pyright: ignore[reportIndexIssue]
            raise ModelError(
                f"the ControlNet in {printable(folder)} was trained with another base than {model.name!r}"
            )
        return found.requires_grad_(False).eval()

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes, weights in float16; it replaces one that was there when
        it is whole.
        """
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        copy.deepcopy(self).half().save_pretrained(temporary, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)


def with_controlnet(model: MusicModel, folder: str | os.PathLike[str]) -> MusicModel:
    """A copy of the model with the adapter of a folder, for the method "controlnet".

    Raises:
        ModelError: see `ControlAdapter.load`.
    """
    return replace(model, controlnet=ControlAdapter.load(Path(folder), model))


def adapter_of(model: MusicModel) -> ControlAdapter:
    """The model's adapter.

    Raises:
        ModelError: it has none.
    """
    if not isinstance(model.controlnet, ControlAdapter):
        raise ModelError(
            f"the model {model.name!r} has no ControlNet: train one with `ditto-music train controlnet`, and give its "
            "folder with --controlnet"
        )
    return model.controlnet
