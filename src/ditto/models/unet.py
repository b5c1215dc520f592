"""The papers' base: a two-dimensional UNet over the log-mel (DITTO, appendix K).

It is a configuration of diffusers' `UNet2DConditionModel`: five ResNet stages with a stride of 2
between them, the sinusoidal time embedding added in every block, and the tags as a sequence of
three tokens that the inner two stages see through cross-attention. With two layers in each of the
five stages diffusers builds 27.9 M parameters, where the paper says about 41 M; four layers in the
innermost stage give 40.2 M.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ditto.models.conditioning import TagEmbedding, guidance_features
from ditto.models.network import Network

GUIDANCE_FEATURES = 32


class TagUNet(Network):
    """``(x_t (B, 1, n_mels, frames), t (B,), tags (B, 5)) -> output`` of x_t's shape.

    The beat grid is ignored.

    Args:
        block_out_channels: channels of each stage, outermost first.
        layers_per_block: ResNet layers of each stage.
        attention_stages: how many of the innermost stages have cross-attention.
        attention_heads: heads of an attention layer.
        norm_groups: groups of every normalisation; divides all channels.
        tag_width: width of a tag's embedding.
        tag_sizes: number of indices of each tag, null included.
        prediction: what the output means: "epsilon", "v_prediction" or "sample".
        guidance_embedded: take the CFG scale w as an input, as a distilled network does.
    """

    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (64, 64, 128, 128, 256),
        layers_per_block: tuple[int, ...] = (2, 2, 2, 2, 4),
        attention_stages: int = 2,
        attention_heads: int = 8,
        norm_groups: int = 32,
        tag_width: int = 256,
        tag_sizes: tuple[int, ...] = (9, 7, 13),
        prediction: str = "epsilon",
        guidance_embedded: bool = False,
    ) -> None:
        # Here, since it takes longer to import than all the rest, and other networks do without.
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        super().__init__()
        self.stages = len(block_out_channels)
        self.tags = TagEmbedding(tag_sizes, tag_width)
        self.unet = UNet2DConditionModel(
            in_channels=1,
            out_channels=1,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=tuple(layers_per_block),  # pyright: ignore[reportArgumentType]
            attention_head_dim=attention_heads,  # diffusers' name for the number of heads
            norm_num_groups=norm_groups,
            cross_attention_dim=tag_width,
            mid_block_type="UNetMidBlock2DCrossAttn",
            time_cond_proj_dim=GUIDANCE_FEATURES if guidance_embedded else None,
            **_block_types(self.stages, attention_stages),
        )

    @property
    def frame_multiple(self) -> int:
        """Number that frames and mel bands must be a multiple of: all stages but one halve them."""
        return 2 ** (self.stages - 1)

    def forward(
        self, x_t: Tensor, t: Tensor, tags: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        """Return the output for noisy `x_t` at timesteps `t`; see `PatchTransformer.forward`."""
        w = None if guidance is None else guidance_features(guidance, GUIDANCE_FEATURES).to(x_t)
        return self.unet(x_t, t, self.tags(tags), timestep_cond=w, return_dict=False)[0]


def _block_types(stages: int, attention_stages: int) -> dict[str, Any]:
    """Return the names of diffusers' blocks, outermost first on the way down."""
    attends: Sequence[bool] = [i >= stages - attention_stages for i in range(stages)]
    return {
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
        ),
    }
