"""Inversion: each method against its definition, and their order at a high guidance scale."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import randomised
from tests.methods.given import HELD_OUT
from torch import Tensor

import ditto
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim, ddim_invert
from ditto.diffusion.schedule import Schedule
from ditto.methods.ditto import ditto as ditto_steps
from ditto.methods.inversion import (
    ddim_inversion,
    decode_null_text,
    naive_inversion,
    null_rows,
    null_text_inversion,
    with_null,
)
from ditto.models.conditioning import null_tags
from ditto.models.transformer import PatchTransformer
from ditto.models.unet import TagUNet
from ditto.optimize import best_so_far

SCHEDULE = Schedule.cosine(shift=0.5)
TAGS = torch.tensor([[1, 2, 3, 0, 0], [2, 0, 5, 0, 0]])


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = shape or (2, 1, 16, 8)
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def make_chain(network: PatchTransformer | TagUNet, steps: int = 8, guidance: float = 1.0) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), TAGS, guidance)


def clip() -> Tensor:
    return 0.3 * randn(5).tanh()


def test_naive_inversion_is_the_forward_process(tiny_network: PatchTransformer) -> None:
    chain = replace(make_chain(tiny_network), timesteps=[700, 300])
    expected = SCHEDULE.alpha_bar[700].sqrt() * clip() + (
        1 - SCHEDULE.alpha_bar[700]
    ).sqrt() * randn(1)
    torch.testing.assert_close(naive_inversion(chain, clip(), lambda: randn(1)), expected)


def test_ddim_inversion_is_made_without_guidance_unless_asked(
    tiny_network: PatchTransformer,
) -> None:
    guided, plain = make_chain(tiny_network, guidance=7.5), make_chain(tiny_network)
    assert torch.equal(ddim_inversion(guided, clip()), ddim_invert(plain, clip()))
    assert torch.equal(ddim_inversion(guided, clip(), 7.5), ddim_invert(guided, clip()))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_the_models_own_rows_change_nothing(
    tiny_network: PatchTransformer, guidance: float
) -> None:
    chain = make_chain(tiny_network, guidance=guidance)
    own = with_null(chain, null_rows(chain, 2))
    torch.testing.assert_close(ddim(own, randn(0)), ddim(chain, randn(0)))


def test_rows_belong_to_the_null_condition_of_their_item(tiny_network: PatchTransformer) -> None:
    chain = make_chain(tiny_network, guidance=3.0)
    rows = tuple(row.clone() for row in null_rows(chain, 2))
    for row in rows:
        row[1] += 1
    before, after = chain.predict(randn(0), 500), with_null(chain, rows).predict(randn(0), 500)
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3
    conditional = replace(chain, guidance=1.0)
    assert torch.equal(
        with_null(conditional, rows).predict(randn(0), 500), conditional.predict(randn(0), 500)
    )


def test_the_unet_has_rows_too() -> None:
    unet = TagUNet((8, 8), (1, 1), 1, 2, 4, 8, (4, 3, 13), "sample")
    chain = make_chain(randomised(unet).double(), 2, 3.0)  # pyright: ignore[reportArgumentType]
    rows = null_rows(chain, 2)
    assert [row.shape for row in rows] == [(2, 8)] * 3
    changed = with_null(chain, [row + 1 for row in rows]).predict(randn(0), 500)
    assert (changed - chain.predict(randn(0), 500)).abs().max() > 1e-4


def test_an_item_is_inverted_as_it_would_be_alone(tiny_network: PatchTransformer) -> None:
    chain = make_chain(tiny_network, 3, 4.0)
    alone = replace(chain, cond=TAGS[1:])
    together = decode_null_text(chain, null_text_inversion(chain, clip(), inner=3))[1:]
    torch.testing.assert_close(
        decode_null_text(alone, null_text_inversion(alone, clip()[1:], inner=3)), together
    )


def test_what_has_no_tags_is_refused() -> None:
    chain = Chain(lambda x, t, cond, guidance: x, SCHEDULE, [500], TAGS, 3.0)
    with pytest.raises(TypeError, match="tag-conditioned"):
        null_text_inversion(chain, clip())
    no_tags = GuidedDenoiser(lambda x, t, cond: x, SCHEDULE, "sample", null_tags)
    with pytest.raises(TypeError, match="tag embeddings"):
        null_text_inversion(replace(chain, denoiser=no_tags), clip())


def test_the_order_on_the_embedded_model_at_a_high_guidance_scale() -> None:
    model = ditto.load()
    shape, cond = (1, *model.shape(0.8)), model.cond(ditto.Tags(genre="jazz", mood="calm"))
    grid = model.schedule.timesteps(6, "leading")
    plain = Chain(model.denoiser, model.schedule, grid, cond, 1.0)
    with torch.no_grad():
        reference = ddim(plain, randn(0, *shape, dtype=torch.float32))
    chain = replace(plain, guidance=7.5)

    def error(x_0: Tensor) -> float:
        return (x_0 - reference).square().mean().item()

    with torch.no_grad():
        naive = error(
            ddim(
                chain,
                naive_inversion(chain, reference, lambda: randn(1, *shape, dtype=torch.float32)),
            )
        )
        by_ddim = error(ddim(chain, ddim_inversion(chain, reference)))
    by_null_text = error(decode_null_text(chain, null_text_inversion(chain, reference, inner=6)))
    steps = ditto_steps(
        ddim_inversion(chain, reference),
        chain,
        lambda x_0, x_T: (x_0 - reference).square().flatten(1).mean(dim=1),
        iterations=14,
        lr=5e-2,
        checkpointing=False,
    )
    *_, last = best_so_far(steps)
    assert by_null_text < 0.5 * by_ddim < naive
    assert last.best_loss.item() < 0.6 * by_ddim
    assert not any(parameter.grad is not None for parameter in model.network.parameters())


def test_on_the_embedded_model_held_out_clips_come_back() -> None:
    """From pure noise on, asked ahead, the error is 0.035; that of DITTO's Table 7 is 0.0072."""
    model, clips = ditto.load(), load_file(HELD_OUT)
    mel = clips["mel"].float() / 127
    x_ref = model.bands.normalised(mel)

    def error(*, ahead: bool) -> float:
        grid = model.schedule.timesteps(20, "leading")
        chain = Chain(model.denoiser, model.schedule, grid, clips["cond"], 1.0)
        with torch.no_grad():
            again = ddim(chain, ddim_invert(chain, x_ref, ahead=ahead))
        return (model.bands.mel(again) - mel).square().mean().item()

    assert error(ahead=True) < 0.01
    assert error(ahead=False) < 0.005
