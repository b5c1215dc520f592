"""The embedded base: a patch transformer over time.

A token is `patch` neighbouring log-mel frames: in the embedded model 8 × 160 values, and 64 tokens
in a clip of 6 s. Attention runs over time with rotary positions, so that any length can be
denoised. The tags and the timestep modulate every block through one shared adaLN projection plus a
learned offset per block (DiT, Peebles & Xie 2023; the shared form of PixArt-α). The tags and the
beat grid are added to the tokens too, so that each token's position in the bar is known. The
network predicts x_0, which lets a width far below the token's 1280 values pass clean music without
passing the noise. Matrix products are what CPUs do best; the papers' 2-D UNet (`ditto.models.unet`)
takes many times as long here.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ditto.models.beat_grid import FEATURES, beat_features
from ditto.models.conditioning import TagEmbedding, guidance_features
from ditto.models.network import Network
from ditto.tables import table, widened

Shared = tuple[Tensor, tuple[Tensor, Tensor]]
"""What every `Block` takes beside its tokens: the modulation (B, 6, width) and the `rotary` of the
positions."""


class PatchTransformer(Network):
    """``(x_t (B, 1, n_mels, frames), t (B,), tags (B, 5)) -> output`` of x_t's shape.

    Args:
        n_mels: mel bands.
        patch: frames a token; `frames` must be a multiple of it.
        width, depth, heads: of the transformer.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
        gelu: approximation of their GELU, "none" or "tanh"; "none" is several times as fast on a
            CPU in bfloat16.
        tag_sizes: number of indices of each tag, null included.
        prediction: what the output means: "sample", "v_prediction" or "epsilon".
        skip_std: for "sample", see `Schedule.to_x_0`.
        frame_rate: mel frames a second, which the beat grid needs; 0 is a network without
            per-token conditioning.
        guidance_embedded: take the CFG scale w as an input, as a distilled network does.
        end_embedded: take the timestep at which a jump ends, as a student does that is told it.
    """

    low_precision = ("blocks",)

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
        frame_rate: float = 0.0,
        guidance_embedded: bool = False,
        gelu: str = "tanh",
        end_embedded: bool = False,
    ) -> None:
        super().__init__()
        token = patch * n_mels
        self.patch, self.head_width, self.frame_rate = patch, width // heads, frame_rate
        self.embed = nn.Linear(token, width)
        self.time = TimestepEmbedding(width)
        self.tag_embedding = TagEmbedding(tag_sizes, width)
        self.tag_projection = nn.Linear(width, width)
        self.tag_token = nn.Linear(width, width) if frame_rate else None
        self.beat_token = nn.Linear(patch * FEATURES, width) if frame_rate else None
        self.guidance = GuidanceEmbedding(width) if guidance_embedded else None
        self.end = EndEmbedding(width) if end_embedded else None
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, gelu) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, token)
        self._initialise()

    @property
    def frame_multiple(self) -> int:
        """Numbers of frames must be a multiple of this."""
        return self.patch

    def _initialise(self) -> None:
        # adaLN-zero: blocks begin as the identity and the output as zero, which steadies the first
        # steps. The tags pass a projection that begins at zero: a small table alone moves too
        # slowly under Adam beside the time's, and through a projection of large tables, whose input
        # is constant for a tag, the first updates add up to too much.
        zero = (
            self.modulation,
            self.head_modulation,
            self.head,
            self.tag_projection,
            self.tag_token,
            self.beat_token,
        )
        for layer in filter(None, zero):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for weight in self.tag_embedding.parameters():
            nn.init.normal_(weight, std=0.2)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tags: Tensor,
        guidance: Tensor | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        """Return the output for noisy `x_t` at timesteps `t`.

        Args:
            x_t: (B, 1, n_mels, frames).
            t: (B,), int64.
            tags: (B, 5), see `conditioning.COLUMNS`.
            guidance: the CFG scale w, (B,), of a student alone.
            end: timestep at which the jump ends, (B,), -1 for clean data, of a student that is
                told it.

        Raises:
            ValueError: w or the end is given to a network that does not take it, or missing for one
                that does.
        """
        h, condition, shared = self.embed_inputs(x_t, t, tags, guidance, end)
        for block in self.blocks:
            h = block(h, *shared)
        return self.project_output(h, condition)

    def embed_inputs(
        self,
        x_t: Tensor,
        t: Tensor,
        tags: Tensor,
        guidance: Tensor | None = None,
        end: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Shared]:
        """Compute what comes before the blocks.

        Returns:
            Tokens (B, N, width), the condition (B, width) for `project_output`, and `Shared`.
        """
        if (self.guidance is None) != (guidance is None):
            raise ValueError("a network takes the CFG scale if, and only if, it is a student")
        if (self.end is None) != (end is None):
            raise ValueError("a network takes a jump's end if, and only if, it was made to be told")
        tag = self.tag_embedding(tags).sum(dim=1)
        condition = self.time(t, x_t.dtype) + self.tag_projection(tag)
        if self.guidance is not None:
            condition = condition + self.guidance(guidance, x_t.dtype)
        if self.end is not None:
            condition = condition + self.end(t, end, x_t.dtype)
        condition = F.silu(condition)
        h = self.embed(self._patchify(x_t)) + self._token_conditioning(tag, tags, x_t)
        modulation = self.modulation(condition).unflatten(-1, (6, -1))
        h = h.to(self.blocks[0].offset.dtype)
        return h, condition, (modulation.to(h), rotary(h.shape[1], self.head_width, h))

    def project_output(self, h: Tensor, condition: Tensor) -> Tensor:
        """Turn the last block's tokens into the output, of x_t's shape."""
        shift, scale = self.head_modulation(condition)[:, None].chunk(2, dim=-1)
        return self._unpatchify(self.head(torch.addcmul(shift, self.norm(h.to(shift)), 1 + scale)))

    def _token_conditioning(self, tag: Tensor, tags: Tensor, x_t: Tensor) -> Tensor | float:
        """Embed tags and beat grid per token, (B, N, width)."""
        if self.tag_token is None or self.beat_token is None:
            return 0.0
        features = beat_features(tags, x_t.shape[-1], self.frame_rate).to(x_t.dtype)
        return self.tag_token(tag)[:, None] + self.beat_token(
            features.unflatten(1, (-1, self.patch)).flatten(2)
        )

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
        """Embed timesteps (B,) in `dtype`."""
        wide = widened(t)
        angles = wide[:, None] * _rates(self.features // 2, wide.device)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.layers(features.to(dtype).to(t.device))


class GuidanceEmbedding(nn.Module):
    """Features of the CFG scale w through one layer; (B,) → (B, width).

    The layer begins at zero: a student that starts from its teacher's weights starts as its
    teacher.
    """

    def __init__(self, width: int, features: int = 32) -> None:
        super().__init__()
        self.features = features
        self.layer = nn.Linear(features, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, guidance: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed CFG scales (B,) in `dtype`."""
        return self.layer(guidance_features(guidance, self.features).to(guidance.device, dtype))


class EndEmbedding(nn.Module):
    """Features of where a jump begins and ends through one layer; (B,), (B,) → (B, width).

    They are the products of cosines of both timesteps, of up to three and a half periods, so that
    any smooth function of the two can be learned, and ends between those of the training's grid
    mean what lies between. The layer begins at zero, as in `GuidanceEmbedding`.
    """

    def __init__(self, width: int, waves: int = 8, timesteps: int = 1000) -> None:
        super().__init__()
        self.waves, self.timesteps = waves, timesteps
        self.layer = nn.Linear(waves * waves, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, t: Tensor, end: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed timesteps (B,) of beginning and end, -1 for clean data, in `dtype`."""
        first, last = (
            (torch.pi * (widened(times)[:, None] + 1) / self.timesteps * self._counts(times)).cos()
            for times in (t, end)
        )
        features = (first[:, :, None] * last[:, None]).flatten(1)
        return self.layer(features.to(dtype).to(t.device))

    def _counts(self, like: Tensor) -> Tensor:
        return torch.arange(self.waves, dtype=torch.float64, device=widened(like).device)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, both modulated."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, gelu: str = "tanh") -> None:
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"a width of {width} has no {heads} heads of an even width")
        if gelu not in ("tanh", "none"):
            raise ValueError(f"there is no gelu {gelu!r}")
        self.heads = heads
        hidden = int(width * mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate=gelu), nn.Linear(hidden, width)
        )
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(self, h: Tensor, modulation: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Map tokens (B, N, width) to the same shape; `modulation` is (B, 6, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.offset)[
            :, :, None
        ].unbind(dim=1)
        h = torch.addcmul(
            h, gate1, self._attend(torch.addcmul(shift1, self.norm(h), 1 + scale1), rotation)
        )
        return torch.addcmul(h, gate2, self.mlp(torch.addcmul(shift2, self.norm(h), 1 + scale2)))

    def _attend(self, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        both, v = self.qkv(h).split((2 * h.shape[-1], h.shape[-1]), dim=-1)
        q, k = (
            rotate(both, rotation, 2 * self.heads)
            .unflatten(-1, (2, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax attention of (B, heads, N, width) each."""
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    # For a few hundred tokens in half precision, a CPU takes several times as long over the fused
    # gradient.
    return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1) @ v


@table(maxsize=8)
def _rates(count: int, device: torch.device) -> Tensor:
    """Return the frequencies of the timestep's sinusoids, shape (count,), float64."""
    steps = torch.arange(count, dtype=torch.float64)
    return torch.exp(-math.log(10_000.0) * steps / count).to(device)


def rotary(length: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotary embedding's cosines and sines (length, width / 2) (Su et al. 2021)."""
    return _rotary(length, width, like.dtype, like.device)


@table(maxsize=16)
def _rotary(
    length: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    half = width // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return angles.cos().to(dtype).to(device), angles.sin().to(dtype).to(device)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """Rotate the halves of every head of (B, length, heads · width) by its position's `rotary`."""
    cosine, sine = rotation  # under autocast they are of higher precision than x
    whole = torch.cat([cosine, cosine], dim=-1).to(x.dtype).repeat(1, heads)
    return Rotation.apply(x, whole, sine.to(x.dtype)[:, None])  # pyright: ignore[reportReturnType]


class Rotation(torch.autograd.Function):
    """`rotate` with a gradient that is a rotation too: 3 passes, where autograd takes a dozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Rotate x.

        Args:
            ctx: autograd's.
            x: (B, length, heads · width).
            cosine: (length, heads · width).
            sine: (length, 1, width / 2).
        """
        ctx.save_for_backward(cosine, sine)
        turned = x * cosine
        (a, b), (first, second) = (_halves(y, 2 * sine.shape[-1]) for y in (x, turned))
        first.addcmul_(b, sine, value=-1)
        second.addcmul_(a, sine)
        return turned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Rotate the gradient back."""
        cosine, sine = ctx.saved_tensors
        return Rotation.apply(gradient, cosine, -sine), None, None  # pyright: ignore[reportReturnType]


def _halves(x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Return views of both halves of every head, (B, length, heads, width / 2)."""
    return x.unflatten(-1, (-1, 2, width // 2)).unbind(dim=-2)
