"""Heads: small networks that read features off x_0, so that no sound has to be made of it.

A feature that a control steers is one of the decoded sound. Where the decoder is dear, a head
learns to read it off x_0 itself: off the log-mel where x_0 is one (whatever the `Bands` of the
base), else off the autoencoder's latent. A head thus belongs to a decoder and its space, not to a
denoiser: it stays valid for another base of the same mel and vocoder.

The idea is that of readouts and of LatCH's heads (Novack et al. 2026, arXiv 2603.04366); these know
clean x_0 only, have a few hundred thousand parameters, and are told apart from the true feature by
`Control.calibrate`. ``ditto-music train heads`` trains them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, pad

from ditto.errors import ModelError
from ditto.models.folder import (
    INDEX,
    checked_weights,
    hash_networks,
    load_part,
    model_folder,
    read_index,
    save_part,
    write_index,
)
from ditto.models.network import Network
from ditto.models.vocoder import ConvNeXtBlock
from ditto.paths import printable

if TYPE_CHECKING:
    from ditto.models.model import MusicModel

HEADS, ALONE = "heads", "MusicHeads"
"""The part's name in a model's folder, and the ``_class_name`` of a folder of heads alone."""

Feature = Literal["loudness", "chroma", "onsets", "timbre", "clap"]
OUTPUTS: dict[Feature, int] = {"loudness": 1, "chroma": 12, "onsets": 1, "timbre": 19}
"""What a head reads of a frame: RMS in dB; ln of the pitch classes' shares; onset strength in dB;
the MFCCs without the first, in dB. CLAP's embedding is one of the clip, a unit vector."""
UNITS: dict[Feature, float] = {"loudness": 10.0, "onsets": 1.0, "timbre": 10.0}
"""dB that one unit of a head's output is."""


class Reader(Network):
    """One head: x (B, channels, frames) → (B, outputs, frames), or (B, outputs) of the clip.

    Args:
        channels: of x.
        outputs: of the feature.
        step: frames that are read together.
        width: channels of the trunk.
        depth: number of ConvNeXt blocks.
        kernel: steps that a block's convolution spans, odd.
        whole: the feature is of the clip as a whole.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: int = 160,
        outputs: int = 12,
        step: int = 4,
        width: int = 128,
        depth: int = 2,
        kernel: int = 5,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1))
        self.register_buffer("spread", torch.ones(channels, 1))
        self.embed = nn.Linear(2 * step * channels, width)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, 2, kernel, 1 / max(depth, 1)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs if whole else outputs * step)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def standardise(self, x: Tensor) -> None:
        """Take mean and deviation of the channels from clips (B, channels, frames)."""
        flat = x.movedim(1, 0).flatten(1)
        self.mean.copy_(flat.mean(dim=1, keepdim=True))
        self.spread.copy_(flat.std(dim=1, keepdim=True).clamp(min=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """Read the feature."""
        frames, step = x.shape[-1], self.config["step"]
        x = (x - self.mean) / self.spread
        half = step // 2
        around = pad(x, (half, step - half + -frames % step), mode="replicate")
        windows = around.unfold(-1, 2 * step, step)  # (B, channels, steps, 2 * step)
        h = self.embed_norm(self.embed(windows.movedim(2, 1).flatten(2)))
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if self.config["whole"]:
            return self.out(h.mean(dim=1))
        return self.out(h).unflatten(-1, (-1, step)).movedim(2, 1).flatten(2)[..., :frames]


class Heads(Network):
    """Heads of several features.

    Args:
        channels: of what they read: mel bands, or channels by rows of a latent.
        features: what is read.
        step, width, depth, kernel: of each `Reader`.
        decoder: `decoder_hash` of the model whose sound the features are of.
        clap, embedding: the CLAP's hash, and the size of its embedding, if that is read.
    """

    def __init__(
        self,
        channels: int = 160,
        features: tuple[Feature, ...] = ("chroma",),
        step: int = 4,
        width: int = 128,
        depth: int = 2,
        kernel: int = 5,
        decoder: str = "",
        clap: str = "",
        embedding: int = 128,
    ) -> None:
        super().__init__()
        outputs = OUTPUTS | {"clap": embedding}
        unknown = [name for name in features if name not in get_args(Feature)]
        if unknown or not features:
            raise ValueError(f"heads read {', '.join(get_args(Feature))}, not {unknown}")
        self.readers = nn.ModuleDict(
            {
                name: Reader(channels, outputs[name], step, width, depth, kernel, name == "clap")
                for name in features
            }
        )

    def forward(self, x: Tensor, feature: Feature) -> Tensor:
        """Read one feature.

        Args:
            x: see `read_from`.
            feature: one of the heads'.

        Returns:
            Shape (B, frames), (B, 12, frames), (B, 19, frames) or (B, embedding), see `OUTPUTS`.
        """
        read = self.readers[feature](x)
        if feature == "chroma":
            return log_softmax(read, dim=1)
        if feature == "clap":
            return normalize(read, dim=-1)
        return UNITS[feature] * (read if feature == "timbre" else read[:, 0])


def read_from(model: "MusicModel", x_0: Tensor) -> Tensor:
    """Return what heads read, (B, channels, frames): the log-mel of x_0, or the latent itself."""
    return model.to_mel(x_0) if model.has_mel else x_0.flatten(1, -2)


def channels_of(model: "MusicModel") -> int:
    """Return the channels of what heads read."""
    *rows, _ = model.shape()
    return model.spec.n_mels if model.has_mel else int(torch.tensor(rows).prod())


@dataclass(frozen=True, eq=False)
class HeadsFile:
    """Heads in a folder whose hash was checked; they are loaded when first asked for.

    Attributes:
        folder: with the part ``heads/``.
        index: of the folder.
    """

    folder: Path
    index: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, index: Mapping[str, Any]) -> "HeadsFile":
        """Check the part ``heads/`` of a folder.

        Raises:
            ModelError: it is missing, damaged or not described.
        """
        checked_weights(folder, HEADS, index)
        file = cls(folder, index)
        if not isinstance(file.entry, dict) or not isinstance(file.entry.get("features"), list):
            raise ModelError(f"{printable(folder / INDEX)} does not describe its {HEADS}")
        if file.entry.get("vocoder") != index["sha256"].get("vocoder"):
            raise ModelError(
                f"the heads in {printable(folder)} were trained with another vocoder: train them "
                "again with `ditto-music train heads`"
            )
        return file

    @property
    def entry(self) -> Any:
        """What the index says: class and features."""
        return self.index.get(HEADS)

    @property
    def features(self) -> list[str]:
        """What the heads read."""
        return self.entry["features"]

    @property
    def sha256(self) -> str:
        """Hash of the weight file."""
        return self.index["sha256"][HEADS]

    @cached_property
    def network(self) -> Heads:
        """The heads: float32, frozen.

        Raises:
            ModelError: they do not fit their config.
        """
        return load_part(self.folder, HEADS, self.entry.get("class"), self.index)

    def on(self, device: torch.device) -> Heads:
        """Return the heads, moved to a device."""
        return self.network.to(device)

    def on_meta(self) -> "HeadsFile":
        """Return a copy whose network has shapes and no values."""
        copied = HeadsFile(self.folder, self.index)
        copied.__dict__["network"] = copy.deepcopy(self.network).to("meta")
        return copied


def describe(heads: Heads) -> dict[str, Any]:
    """Return the index's entry of heads: class, features and the CLAP's hash."""
    clap = heads.config["clap"]
    entry = {"class": type(heads).__name__, "features": list(heads.readers)}
    return entry | ({"clap": clap} if clap else {})


def heads_alone(folder: Path, model: "MusicModel") -> HeadsFile:
    """Return the heads of a folder that `save_heads` wrote, for a model.

    Raises:
        ModelError: the folder is damaged or holds no heads, or those of another decoder.
    """
    return checked_heads(folder, read_index(folder, (ALONE,), "heads alone"), model)


def checked_heads(folder: Path, index: Mapping[str, Any], model: "MusicModel") -> HeadsFile:
    """Return the heads that an index describes, for a model.

    Raises:
        ModelError: they are missing, damaged, not described, or those of another decoder.
    """
    file = HeadsFile.of(folder, index)
    config = file.network.config
    if config["channels"] != channels_of(model) or config["decoder"] != decoder_hash(model):
        raise ModelError(
            f"the heads in {printable(folder)} were trained with another decoder than that of "
            f"{model.name!r}: train them again with `ditto-music train heads`"
        )
    return file


def decoder_hash(model: "MusicModel") -> str:
    """Return a hash over the networks that make sound of the model's x_0."""
    return hash_networks(model.decoders)


def save_heads(heads: Heads, folder: Path) -> str:
    """Write a folder of heads alone, weights in float16; return their SHA-256.

    Raises:
        OutputError, ModelError: see `MusicModel.save`.
    """
    with model_folder(folder) as new:
        index = write_heads(heads, new)
        write_index(new, {"_class_name": ALONE} | index)
        return index["sha256"][HEADS]


def write_heads(heads: Heads, folder: Path) -> dict[str, Any]:
    """Write ``heads/`` into a folder; return what the folder's index must say of it."""
    return {HEADS: describe(heads), "sha256": {HEADS: save_part(folder, HEADS, heads)}}
