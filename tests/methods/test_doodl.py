"""DOODL: the gradients of its two formulations, its cost, and that it controls."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.methods.given import LOUDNESS, SEEDS, made, start
from torch import Tensor

from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.edict import edict, edict_timesteps
from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import Schedule
from ditto.methods.doodl import Doodl, Formulation, checkpointed, decode_doodl, doodl, invertible
from ditto.models.conditioning import null_tags
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.optimize import best_so_far

pytestmark = pytest.mark.usefixtures("together")

SCHEDULE = Schedule.cosine(shift=0.5)
TAGS = torch.tensor([[1, 2, 3, 0, 0], [2, 0, 5, 0, 0]])


def latent(seed: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        2, 1, 16, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def make_chain(network: PatchTransformer, steps: int, guidance: float = 1.0) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), TAGS, guidance)


def loss(x_0: Tensor, x_T: Tensor | None = None) -> Tensor:
    return (x_0 - 0.3).square().flatten(1).mean(dim=1)


def gradient(render: Callable[[Chain, Tensor, float], Tensor], chain: Chain) -> Tensor:
    x_T = latent().requires_grad_()
    return torch.autograd.grad(loss(render(chain, x_T, 0.83)).sum(), x_T)[0]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_both_formulations_have_the_gradient_of_plain_backpropagation(
    tiny_network: PatchTransformer, guidance: float
) -> None:
    chain = make_chain(tiny_network, 10, guidance)
    chain = replace(chain, timesteps=edict_timesteps(SCHEDULE, 10))
    plain = gradient(lambda *args: edict(*args)[0], chain)
    assert plain.abs().max() > 1e-6
    for render in (checkpointed, invertible):
        torch.testing.assert_close(gradient(render, chain), plain, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("formulation", "calls"), [("checkpointed", 4), ("invertible", 6)])
def test_what_a_sampling_step_costs(
    tiny_network: PatchTransformer, formulation: Formulation, calls: int
) -> None:
    seen = []
    tiny_network.register_forward_hook(lambda *_: seen.append(1))
    next(doodl(latent(), make_chain(tiny_network, 5), loss, iterations=1, formulation=formulation))
    assert len(seen) == calls * 5


@pytest.mark.parametrize("formulation", ["checkpointed", "invertible"])
def test_the_loss_of_the_decoded_output_falls(
    tiny_network: PatchTransformer, formulation: Formulation
) -> None:
    chain, x_T = make_chain(tiny_network.float(), 4, 1.5), latent(dtype=torch.float32)
    steps = doodl(x_T, chain, loss, iterations=12, lr=5e-2, formulation=formulation)
    *_, last = best_so_far(steps)
    before, after = loss(decode_doodl(x_T, chain)), loss(decode_doodl(last.best_x_T, chain))
    assert (after < 0.9 * before).all()
    torch.testing.assert_close(after, last.best_loss, rtol=1e-4, atol=1e-6)


def test_latents_keep_their_length_and_wander_with_the_noise(
    tiny_network: PatchTransformer,
) -> None:
    chain = make_chain(tiny_network.float(), 3)
    x_T = latent(dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)

    def run(noise_std: float) -> list[Tensor]:
        noise = lambda: torch.randn(x_T.shape, generator=generator.manual_seed(0))  # noqa: E731
        steps = doodl(x_T, chain, loss, iterations=5, lr=1e-1, noise=noise, noise_std=noise_std)
        return [step.x_T for step in steps]

    still, wandering = run(0.0), run(0.3)
    for step in (*still, *wandering):
        torch.testing.assert_close(step.flatten(1).norm(dim=1), x_T.flatten(1).norm(dim=1))
    assert torch.allclose(still[0], x_T, atol=1e-6)
    assert (still[-1] - x_T).abs().max() > 0.1
    assert (wandering[0] - x_T).abs().max() > 0.1


def test_an_item_goes_the_way_that_it_would_go_alone(tiny_network: PatchTransformer) -> None:
    chain = make_chain(tiny_network, 3)
    *_, both = best_so_far(doodl(latent(), chain, loss, iterations=3))
    one = doodl(latent()[1:], replace(chain, cond=TAGS[1:]), loss, iterations=3)
    *_, alone = best_so_far(one)
    torch.testing.assert_close(both.best_x_T[1:], alone.best_x_T, rtol=1e-9, atol=1e-9)


def test_an_unknown_formulation_is_refused(tiny_network: PatchTransformer) -> None:
    with pytest.raises(KeyError, match="magic"):
        next(doodl(latent(), make_chain(tiny_network, 2), loss, iterations=1, formulation="magic"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("formulation", ["checkpointed", "invertible"])
def test_the_object_is_the_functions(whole_model: MusicModel, formulation: Formulation) -> None:
    chain, x_T, noise = start(whole_model)
    steps = doodl(
        x_T,
        chain,
        lambda x_0, x_T: LOUDNESS(x_0, whole_model, seeds=SEEDS),
        iterations=3,
        lr=0.05,
        noise=noise,
        formulation=formulation,
    )
    *_, last = best_so_far(steps)
    result = made(whole_model, Doodl(steps=4, lr=0.05, formulation=formulation), LOUDNESS)
    torch.testing.assert_close(result.x_T, last.best_x_T)
    torch.testing.assert_close(result.x_0, decode_doodl(last.best_x_T, chain))
    assert len(result.losses) == 3
