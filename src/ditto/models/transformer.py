"""The embedded base: a patch transformer over time.

A token is `patch` neighbouring log-mel frames (4 × 160 values); 6 s are 128 tokens. Attention runs over time with
rotary positions, so that any length can be denoised. The tags and the timestep modulate every block through one shared
adaLN projection plus a learned offset a block (DiT, Peebles & Xie 2023; the shared form of PixArt-α). The network
predicts x_0, which lets a width far below the token's 640 values pass clean music without passing the noise.
Matrix products are what CPUs do best; the papers' 2-D UNet, which `ditto.models.unet` has, is several times
slower here.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from ditto.models.conditioning import TagEmbedding


class PatchTransformer(ModelMixin, ConfigMixin):
    """``(x_t (B, 1, n_mels, frames), t (B,), tags (B, 3)) -> output`` of x_t's shape.

    Args:
        n_mels: mel bands.
        patch: frames a token; `frames` must be a multiple of it.
        width, depth, heads: of the transformer.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
        tag_sizes: number of indices of each tag, null included.
        prediction: what the output means: "sample", "v_prediction" or "epsilon".
        skip_std: for "sample", see `Schedule.to_x_0`.
    """

    @register_to_config
    def __init__(
        self,
        n_mels: int = 160,
        patch: int = 4,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 3.0,
        tag_sizes: tuple[int, ...] = (9, 7, 13),
        prediction: str = "sample",
        skip_std: float = 0.0,
    ) -> None:
        super().__init__()
        token = patch * n_mels
        self.patch, self.head_width = patch, width // heads
        self.embed = nn.Linear(token, width)
        self.time = TimestepEmbedding(width)
        self.tag_embedding = TagEmbedding(tag_sizes, width)
        self.tag_projection = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, token)
        self._initialise()

    @property
    def frame_multiple(self) -> int:
        """Numbers of frames must be a multiple of this."""
        return self.patch

    def _initialise(self) -> None:
        # adaLN-zero: blocks begin as the identity and the output as zero, which steadies the first steps. The tags pass
        # a projection that begins at zero: a small table alone moves too slowly under Adam beside the time's, and
        # through a projection of large tables, whose input is constant for a tag, the first updates add up to too much.
        for layer in (self.modulation, self.head_modulation, self.head, self.tag_projection):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for table in self.tag_embedding.parameters():
            nn.init.normal_(table, std=0.2)

    def forward(self, x_t: Tensor, t: Tensor, tags: Tensor) -> Tensor:
        """The network's output for noisy `x_t` at timesteps `t`."""
        tag = self.tag_projection(self.tag_embedding(tags).sum(dim=1))
        condition = F.silu(self.time(t, x_t.dtype) + tag)
        h = self.embed(self._patchify(x_t))
        rotation = rotary(h.shape[1], self.head_width, h)
        modulation = self.modulation(condition).unflatten(-1, (6, -1))
        for block in self.blocks:
            h = block(h, modulation, rotation)
        shift, scale = self.head_modulation(condition)[:, None].chunk(2, dim=-1)
        return self._unpatchify(self.head(self.norm(h) * (1 + scale) + shift))

    def _patchify(self, x: Tensor) -> Tensor:
        batch, _, mels, frames = x.shape
        x = x.reshape(batch, mels, frames // self.patch, self.patch)
        return x.permute(0, 2, 1, 3).flatten(2)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        x = tokens.reshape(batch, count, -1, self.patch).permute(0, 2, 1, 3)
        return x.reshape(batch, 1, -1, count * self.patch)


class TimestepEmbedding(nn.Module):
    """Sinusoidal timestep features through two layers; (B,) → (B, width)."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Embedding in `dtype`."""
        half = self.features // 2
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=torch.float64) / half)
        angles = t.to(torch.float64)[:, None] * rates
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, both modulated."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(width * mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(self, h: Tensor, modulation: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens (B, N, width) → the same; `modulation` is (B, 6, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.offset)[:, :, None].unbind(dim=1)
        h = h + gate1 * self._attend(self.norm(h) * (1 + scale1) + shift1, rotation)
        return h + gate2 * self.mlp(self.norm(h) * (1 + scale2) + shift2)

    def _attend(self, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotation), rotate(k, rotation)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


def rotary(length: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, width / 2) of rotary position embedding (Su et al. 2021)."""
    half = width // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=like.device) / half)
    angles = torch.arange(length, dtype=torch.float64, device=like.device)[:, None] * rates
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the two halves of the last dimension of (…, length, width)."""
    cosine, sine = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
