"""The half of CLAP that hears, as plain modules.

It computes what the audio half of `transformers.ClapModel` does, from the same names of weights: a
Swin transformer (Liu et al. 2021) over a log-mel that is folded into a square image, HTS-AT (Chen
et al. 2022). Importing transformers takes about as long as making a clip.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, pad

from ditto.models.network import check_types

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
APART = -100.0
"""Added to the score of two patches that a window holds, and that are no neighbours."""

LARGEST = 4096
"""Side of the image that is heard; published ones have 256."""

MOST_PAIRS = 2**24
"""Most pairs of patches within windows, in a stage; published ones have 2^18."""

Pair = tuple[int, int]


def said_of(config: Mapping[str, Any], half: str, names: set[str]) -> dict[str, Any]:
    """Return what a CLAP's ``config.json`` says of one half's `names`, lists as tuples.

    Its outer level says how both halves project.
    """
    outer = {k: v for k, v in config.items() if k.startswith("projection_")}
    whole = (config.get(half) or {}) | {"projection_dim": 512, "projection_hidden_act": "relu"}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (whole | outer).items()
        if name in names
    }


@dataclass(frozen=True)
class ClapAudioConfig:
    """What a ``config.json`` says of the audio half; names and defaults are transformers'.

    What training alone needs is left out, and so is what fuses crops of a long sound: the front end
    cuts such a sound into windows, and a model that can fuse is given each of them whole.
    """

    spec_size: int = 256
    num_mel_bins: int = 64
    patch_size: int | tuple[int, ...] = 4
    patch_stride: int | tuple[int, ...] = (4, 4)
    patch_embed_input_channels: int = 1
    patch_embeds_hidden_size: int = 96
    enable_patch_layer_norm: bool = True
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    hidden_size: int = 768
    projection_dim: int = 512
    projection_hidden_act: str = "relu"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ClapAudioConfig":
        """Make one from a CLAP's ``config.json``, whose outer level says how both halves project.

        Raises:
            TypeError: a setting is of another type.
            ValueError: it names an activation that is none of `ACTIVATIONS`, the image is larger
                than `LARGEST`, its windows hold more than `MOST_PAIRS`, or heads do not fit.
        """
        read = said_of(config, "audio_config", {field.name for field in fields(cls)})
        check_types(cls, read)
        made = cls(**read)
        if not 0 < made.spec_size <= LARGEST:
            raise ValueError(f"its spec_size is {made.spec_size}, not 1 to {LARGEST}")
        for name in (made.hidden_act, made.projection_hidden_act):
            if name not in ACTIVATIONS:
                raise ValueError(f"no activation {name!r}: {', '.join(ACTIVATIONS)} are known")
        square = made.window_size**2
        if made.window_size < 1 or square * max(square, math.prod(made.grid(0))) > MOST_PAIRS:
            raise ValueError(f"its windows of {made.window_size} patches are none, or too large")
        heads = made.num_attention_heads[: len(made.depths)]
        if any(made.width(stage) % count for stage, count in enumerate(heads)):
            raise ValueError("its heads do not share its width evenly")
        return made

    def grid(self, stage: int) -> Pair:
        """Return the patches of a stage, in frequency and time."""
        across, along = (self.spec_size // stride >> stage for stride in _pair(self.patch_stride))
        return across, along

    def width(self, stage: int) -> int:
        """Return the channels of a stage."""
        return self.patch_embeds_hidden_size << stage


class ClapAudio(nn.Module):
    """Log-mels to embeddings."""

    def __init__(self, config: ClapAudioConfig) -> None:
        """Make one of random weights."""
        super().__init__()
        self.audio_model = nn.ModuleDict({"audio_encoder": _Encoder(config)})
        self.audio_projection = Projection(
            config.hidden_size, config.projection_dim, config.projection_hidden_act
        )

    def forward(self, features: Tensor) -> Tensor:
        """Embed log-mels (B, channels, frames, n_mels) in dB as unit vectors (B, D).

        The first channel is the whole sound.

        Raises:
            ValueError: there are more frames or mels than the image holds.
        """
        pooled = self.audio_model["audio_encoder"](features[:, :1])
        return normalize(self.audio_projection(pooled), dim=-1)

    def check(self, frames: int, n_mels: int) -> None:
        """Check that log-mels of a front end can be heard.

        Raises:
            ValueError: there are too many frames, or another number of mels than was learnt; or
                the halves of it do not fit.
        """
        encoder: Any = self.audio_model["audio_encoder"]
        encoder.check(frames, n_mels)
        if n_mels != len(encoder.batch_norm.weight):
            raise ValueError(f"it hears {len(encoder.batch_norm.weight)} mels, not {n_mels}")
        width, taken = len(encoder.norm.weight), self.audio_projection.linear1.in_features
        if width != taken:
            raise ValueError(f"its last stage is {width} wide, and its projection takes {taken}")


class _Encoder(nn.Module):
    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        self.size, self.folds = config.spec_size, config.spec_size // config.num_mel_bins
        self.batch_norm = nn.BatchNorm2d(config.num_mel_bins)
        self.patch_embed = _Patches(config)
        self.layers = nn.ModuleList(_Stage(config, stage) for stage in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.width(len(config.depths) - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Pool log-mels (B, 1, frames, n_mels) over time and frequency: (B, hidden_size)."""
        x = self.batch_norm(features.transpose(1, 3)).transpose(1, 3)
        x = self.patch_embed(self.folded(x))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).mT.mean(dim=-1)

    def check(self, frames: int, n_mels: int) -> None:
        """Refuse a mel that is larger than the image."""
        most, widest = self.size * self.folds, self.size // self.folds
        if frames > most or n_mels > widest:
            found = f"{frames} frames of {n_mels} mels"
            raise ValueError(f"CLAP hears at most {most} frames of {widest} mels, not {found}")

    def folded(self, mel: Tensor) -> Tensor:
        """Stretch a mel over size² values, and lay its parts in time above each other."""
        frames, n_mels = self.size * self.folds, self.size // self.folds
        self.check(mel.shape[2], mel.shape[3])
        # One axis after the other: what is long enough is not interpolated.
        for shape in ((frames, mel.shape[3]), (frames, n_mels)):
            if mel.shape[2:] != shape:
                mel = interpolate(mel, shape, mode="bicubic", align_corners=True)
        parts = mel.unflatten(2, (self.folds, -1))
        return parts.permute(0, 1, 2, 4, 3).flatten(2, 3)


class _Patches(nn.Module):
    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        size, stride = _pair(config.patch_size), _pair(config.patch_stride)
        padding = ((size[0] - stride[0]) // 2, (size[1] - stride[1]) // 2)
        width = config.patch_embeds_hidden_size
        self.proj = nn.Conv2d(config.patch_embed_input_channels, width, size, stride, padding)
        self.norm = nn.LayerNorm(width) if config.enable_patch_layer_norm else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Cut an image (B, 1, size, size) into patches (B, patches, width)."""
        return self.norm(self.proj(image).flatten(2).mT)


class _Stage(nn.Module):
    def __init__(self, config: ClapAudioConfig, stage: int) -> None:
        super().__init__()
        blocks = (_Block(config, stage, shifted=i % 2 == 1) for i in range(config.depths[stage]))
        self.blocks = nn.ModuleList(blocks)
        last = stage == len(config.depths) - 1
        self.downsample = None if last else _Merging(config, stage)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Merging(nn.Module):
    """Makes one patch of each four."""

    def __init__(self, config: ClapAudioConfig, stage: int) -> None:
        super().__init__()
        self.grid, width = config.grid(stage), config.width(stage)
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, self.grid)
        four = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, dim=-1).flatten(1, 2)))


class _Block(nn.Module):
    """Attention within windows, every second time shifted by half of one; then an MLP."""

    mask: Tensor | None

    def __init__(self, config: ClapAudioConfig, stage: int, *, shifted: bool) -> None:
        super().__init__()
        self.grid, width = config.grid(stage), config.width(stage)
        whole = min(self.grid) <= config.window_size
        self.window = min(self.grid) if whole else config.window_size
        self.shift = config.window_size // 2 if shifted and not whole else 0
        hidden = int(config.mlp_ratio * width)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = _Attention(config, stage)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = _Dense(width, hidden)
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.output = _Dense(hidden, width)
        self.register_buffer("mask", self.apart(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (B, patches, width)."""
        x = x + self.attended(self.layernorm_before(x))
        hidden = self.activation(self.intermediate(self.layernorm_after(x)))
        return x + self.output(hidden)

    def attended(self, x: Tensor) -> Tensor:
        """Let patches see those of their window."""
        image = x.unflatten(1, self.grid)
        image = pad(
            image, (0, 0, 0, self.padded[1] - self.grid[1], 0, self.padded[0] - self.grid[0])
        )
        if self.shift:
            image = image.roll((-self.shift, -self.shift), dims=(1, 2))
        image = self.joined(self.attention(self.cut(image), self.mask))
        if self.shift:
            image = image.roll((self.shift, self.shift), dims=(1, 2))
        return image[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    @property
    def padded(self) -> Pair:
        """The grid in whole windows."""
        rows, columns = (math.ceil(count / self.window) * self.window for count in self.grid)
        return rows, columns

    def cut(self, image: Tensor) -> Tensor:
        """Cut (B, rows, columns, C) into windows (B · windows, window², C)."""
        parts = image.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return parts.transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def joined(self, windows: Tensor) -> Tensor:
        """Undo `cut`."""
        rows, columns = (count // self.window for count in self.padded)
        parts = windows.unflatten(1, (self.window, self.window)).unflatten(0, (-1, rows, columns))
        return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def apart(self) -> Tensor | None:
        """Return what is added to scores within each window (windows, window², window²).

        After a shift a window at the edge holds patches from both ends of the image.
        """
        if not self.shift:
            return None
        rows, columns = (torch.arange(count) for count in self.padded)
        ends = [
            (place >= len(place) - self.window).long() + (place >= len(place) - self.shift)
            for place in (rows, columns)
        ]
        part = self.cut((3 * ends[0][:, None] + ends[1])[None, :, :, None])[..., 0]
        return APART * (part[:, None] != part[:, :, None]).float()


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class _Attention(nn.Module):
    def __init__(self, config: ClapAudioConfig, stage: int) -> None:
        super().__init__()
        self.self = _Heads(config, stage)
        self.output = _Dense(config.width(stage), config.width(stage))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(x, mask))


class _Heads(nn.Module):
    def __init__(self, config: ClapAudioConfig, stage: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads[stage]
        width, size = config.width(stage), config.window_size
        for name in ("query", "key", "value"):
            self.add_module(name, nn.Linear(width, width, bias=config.qkv_bias))
        table = torch.zeros((2 * size - 1) ** 2, self.heads)
        self.relative_position_bias_table = nn.Parameter(table)
        place = torch.cartesian_prod(torch.arange(size), torch.arange(size))
        apart = place[:, None] - place[None] + (size - 1)
        index = apart[..., 0] * (2 * size - 1) + apart[..., 1]
        self.index = nn.Buffer(index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows (B · windows, window², width)."""
        query, key, value = (
            self.get_submodule(name)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        scores = scores + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(-2)


class Projection(nn.Module):
    """What brings either half's states into the space of both."""

    def __init__(self, width: int, size: int, activation: str) -> None:
        """Make one of random weights, for states (B, width) and embeddings (B, size)."""
        super().__init__()
        self.linear1 = nn.Linear(width, size)
        self.activation = ACTIVATIONS[activation]()
        self.linear2 = nn.Linear(size, size)

    def forward(self, pooled: Tensor) -> Tensor:
        """Project states (B, width) as (B, size)."""
        return self.linear2(self.activation(self.linear1(pooled)))


def _pair(value: int | tuple[int, ...]) -> Pair:
    """Return an image's two sizes where one may stand for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
