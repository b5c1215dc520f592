"""EDICT: the way back, its step against DDIM's of diffusers, and where it is stable."""

from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.edict import Pair, edict, edict_timesteps, edict_unstep, mixing
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Schedule
from ditto.models.conditioning import null_tags
from ditto.models.transformer import PatchTransformer

TAGS = torch.tensor([[1, 2, 3, 0, 0], [2, 0, 5, 0, 0]])
SCHEDULE = Schedule.cosine(shift=0.5)


def latent(seed: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        2, 1, 16, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def make_chain(network: PatchTransformer, steps: int, guidance: float = 1.0) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, edict_timesteps(SCHEDULE, steps), TAGS, guidance)


def invert(chain: Chain, pair: Pair, p: float, dtype: torch.dtype = torch.float64) -> Pair:
    for t, t_next in reversed(chain.pairs()):
        pair = edict_unstep(chain, pair, t, t_next, p, dtype)
    return pair


@pytest.mark.parametrize("threshold", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_sampling_and_inverting_is_the_identity(
    tiny_network: PatchTransformer, guidance: float, threshold: bool
) -> None:
    chain = replace(make_chain(tiny_network, 50, guidance), threshold=threshold)
    pair = edict(chain, latent(), mixing(50))
    for back in invert(chain, pair, mixing(50)):
        assert (back - latent()).abs().max() < 1e-6
    assert (pair[0] - latent()).abs().max() > 0.5


def test_inverting_and_sampling_is_the_identity_for_a_clip_that_nobody_sampled(
    tiny_network: PatchTransformer,
) -> None:
    chain, clip = make_chain(tiny_network, 50), 0.3 * latent().tanh()
    x_T, y_T = invert(chain, (clip, clip), 0.93)
    for back in edict(chain, x_T, 0.93, y_T):
        assert (back - clip).abs().max() < 1e-6
    assert not torch.equal(x_T, y_T)


def test_a_float32_network_finds_its_way_back_too(tiny_network: PatchTransformer) -> None:
    chain, x_T = make_chain(tiny_network.float(), 20), latent(dtype=torch.float32)
    pair = edict(chain, x_T, mixing(20))
    assert pair[0].dtype == torch.float64
    for back in invert(chain, pair, mixing(20), torch.float32):
        assert (back - x_T).abs().max() < 1e-6


def test_its_step_is_two_of_diffusers_ddim_steps_and_the_mix() -> None:
    # ε̂ of one chain in the other's DDIM step, by diffusers' scheduler, from the text of DITTO's
    # appendix B
    def epsilon(x: Tensor, t: int) -> Tensor:
        return 0.7 * torch.sin(x) + t / 1000

    def denoiser(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        return SCHEDULE.to_x_0(epsilon(x_t, int(t[0])), x_t, t, "epsilon")

    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", timestep_spacing="leading", clip_sample=False
    )
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar
    scheduler.set_timesteps(10)
    x, y, p = latent(), latent(), 0.83
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(epsilon(y, t), t, x).prev_sample
        y = scheduler.step(epsilon(x, t), t, y).prev_sample
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
    chain = Chain(denoiser, SCHEDULE, edict_timesteps(SCHEDULE, 10), TAGS, threshold=False)
    for ours, theirs in zip(edict(chain, latent(), p), (x, y), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def gaussian(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
    """The exact denoiser of data ~ N(0, 0.3²)."""
    alpha_bar = SCHEDULE.alpha_bar[int(t[0])]
    return alpha_bar.sqrt() * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar) * x_t


def apart(steps: int, p: float) -> tuple[float, float]:
    """How far the chains end from one another, and from DDIM's."""
    chain = Chain(gaussian, SCHEDULE, edict_timesteps(SCHEDULE, steps), TAGS)
    x_0, y_0 = edict(chain, latent(), p)
    return (x_0 - y_0).abs().max().item(), (x_0 - ddim(chain, latent())).abs().max().item()


def test_with_many_small_steps_both_chains_are_ddims() -> None:
    few, many = apart(20, 0.83), apart(200, 0.83)
    assert few[0] < 0.1
    assert many[0] < 1e-4
    assert many[1] < 0.2 * few[1] < 0.05


def test_a_high_mixing_coefficient_diverges_at_few_steps_as_the_paper_says() -> None:
    assert apart(20, 0.93)[0] > 10 * apart(20, mixing(20))[0]
    assert apart(50, mixing(50))[0] < 0.05


def test_the_leading_grid_is_the_stable_one() -> None:
    chain = Chain(gaussian, SCHEDULE, edict_timesteps(SCHEDULE, 20), TAGS)
    trailing = replace(chain, timesteps=SCHEDULE.timesteps(20))
    stable, wild = (
        (x - y).abs().max() for x, y in (edict(c, latent(), mixing(20)) for c in (chain, trailing))
    )
    assert stable < 0.1
    assert wild > 10


def test_mixing_is_the_papers() -> None:
    assert mixing(50) == pytest.approx(0.93)
    assert mixing(20) == pytest.approx(0.83)
    assert mixing(5) == pytest.approx(0.83)
    assert mixing(100) == pytest.approx(0.93)
