"""DITTO-2: one-step surrogate, several steps for decoding, the adaptive budget."""

import pytest
import torch
from torch import Tensor

from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Schedule
from ditto.methods.ditto2 import adaptive_schedule, decode2, ditto2
from ditto.models.conditioning import null_tags
from ditto.models.transformer import PatchTransformer

SCHEDULE = Schedule.cosine(shift=0.5)


def make_chain(network: PatchTransformer, steps: int) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), torch.tensor([[1, 2, 3], [2, 0, 5]]))


def latent() -> Tensor:
    return torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def loss(x_0: Tensor) -> Tensor:
    return (x_0 - 0.3).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("surrogate_steps", [1, 2])
def test_the_surrogate_is_m_steps_of_the_student(tiny_network: PatchTransformer, surrogate_steps: int) -> None:
    chain, x_T = make_chain(tiny_network, 4), latent()
    first = next(ditto2(x_T, chain, loss, iterations=1, surrogate_steps=surrogate_steps))
    expected = loss(ddim(make_chain(tiny_network, surrogate_steps), x_T))
    torch.testing.assert_close(first.loss, expected.float())


def test_the_loss_falls(tiny_network: PatchTransformer) -> None:
    steps = list(ditto2(latent(), make_chain(tiny_network, 4), loss, iterations=30, lr=0.05))
    assert bool((steps[-1].best_loss < 0.9 * steps[0].loss).all())


@pytest.mark.parametrize(("iterations", "expected"), [(70, (35, 26, 9)), (8, (4, 3, 1)), (1, (0, 0, 1))])
def test_the_adaptive_budget_is_the_papers(iterations: int, expected: tuple[int, int, int]) -> None:
    schedule = adaptive_schedule(iterations)
    assert tuple(schedule.count(m) for m in (1, 2, 4)) == expected
    assert schedule == sorted(schedule)


def test_a_budget_of_another_length_is_refused(tiny_network: PatchTransformer) -> None:
    with pytest.raises(ValueError, match="3 entries for 4 iterations"):
        ditto2(latent(), make_chain(tiny_network, 4), loss, iterations=4, surrogate_steps=[1, 1, 2])


def test_decoding_with_gamma_0_is_the_chain(tiny_network: PatchTransformer) -> None:
    chain, x_T = make_chain(tiny_network, 4), latent()
    found = decode2(x_T, chain, 0.0, lambda: torch.zeros_like(x_T))
    torch.testing.assert_close(found, ddim(chain, x_T), rtol=1e-9, atol=1e-9)
