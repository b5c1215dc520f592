"""DITTO: gradients through the checkpointed chain, its memory, and the optimisation itself."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim, dpm_solver_pp
from ditto.diffusion.schedule import Schedule
from ditto.methods.ditto import checkpointed_call, decode, ditto
from ditto.models.conditioning import null_tags
from ditto.models.transformer import PatchTransformer
from ditto.optimize import best_so_far

SCHEDULE = Schedule.cosine(shift=0.5)
TAGS = torch.tensor([[1, 2, 3], [2, 0, 5]])


def latent(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def make_chain(network: PatchTransformer, steps: int, guidance: float = 1.0) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), TAGS, guidance)


def loss(x_0: Tensor, x_T: Tensor | None = None) -> Tensor:
    return (x_0 - 0.3).square().flatten(1).mean(dim=1)


def gradient(chain: Chain, sampler: Callable[[Chain, Tensor], Tensor]) -> Tensor:
    x_T = latent(2, 1, 16, 8).requires_grad_()
    return torch.autograd.grad(loss(sampler(chain, x_T)).sum(), x_T)[0]


@pytest.mark.parametrize("sampler", [ddim, dpm_solver_pp])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_checkpointing_leaves_the_gradient_as_it_is(
    tiny_network: PatchTransformer,
    steps: int,
    guidance: float,
    sampler: Callable[[Chain, Tensor], Tensor],
) -> None:
    chain = make_chain(tiny_network, steps, guidance)
    plain = gradient(chain, sampler)
    checkpointed = gradient(replace(chain, call=checkpointed_call), sampler)
    assert plain.abs().max() > 1e-6
    assert (checkpointed - plain).abs().max() <= 1e-9
    torch.testing.assert_close(checkpointed, plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_gradient_through_the_chain_is_that_of_finite_differences(
    tiny_network: PatchTransformer, guidance: float
) -> None:
    chain = replace(make_chain(tiny_network, 5, guidance), call=checkpointed_call)
    direction = latent(2, 1, 16, 8).roll(1, dims=-1)
    with torch.no_grad():
        there, back = (
            loss(ddim(chain, latent(2, 1, 16, 8) + h * direction)).sum() for h in (1e-6, -1e-6)
        )
    slope = (gradient(chain, ddim) * direction).sum()
    assert slope.item() == pytest.approx(((there - back) / 2e-6).item(), rel=1e-6)


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that operations have made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive and self.alive[key]() is storage:
            return

        def gone(_: weakref.ref) -> None:
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_bytes(network: PatchTransformer, steps: int, checkpointing: bool) -> int:
    """Peak of one forward and backward pass through the chain."""
    chain = make_chain(network, steps, guidance=3.0)
    with LiveBytes() as memory:
        next(
            ditto(
                latent(2, 1, 16, 64, dtype=torch.float32),
                chain,
                loss,
                iterations=1,
                checkpointing=checkpointing,
            )
        )
    return memory.peak


def test_memory_hardly_grows_with_the_steps(tiny_network: PatchTransformer) -> None:
    # One token a frame and a wider network, so that, as in a real model, one call needs far more
    # than one x_t.
    with torch.random.fork_rng(devices=[]):
        network = PatchTransformer(
            16, patch=1, width=48, depth=3, heads=4, tag_sizes=(4, 3, 13)
        ).requires_grad_(False)
    few, many = (peak_bytes(network, steps, checkpointing=True) for steps in (5, 50))
    assert many < 1.15 * few
    assert peak_bytes(network, 20, checkpointing=False) > 4 * many


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_loss_of_the_decoded_output_falls(
    tiny_network: PatchTransformer, checkpointing: bool
) -> None:
    chain, x_T = make_chain(tiny_network, 4, 1.5), latent(2, 1, 16, 8)
    steps = ditto(x_T, chain, loss, iterations=12, lr=5e-2, checkpointing=checkpointing)
    *_, last = best_so_far(steps)
    before, after = loss(decode(x_T, chain)), loss(decode(last.best_x_T, chain))
    assert (after < 0.9 * before).all()
    torch.testing.assert_close(after.float(), last.best_loss)
    assert not decode(x_T, chain).requires_grad


def test_one_iteration_calls_the_network_once_a_step_and_once_more_for_checkpointing(
    tiny_network: PatchTransformer,
) -> None:
    calls = []
    tiny_network.register_forward_hook(lambda *_: calls.append(1))
    for checkpointing, expected in ((False, 6), (True, 12)):
        calls.clear()
        next(
            ditto(
                latent(2, 1, 16, 8),
                make_chain(tiny_network, 6),
                loss,
                iterations=1,
                checkpointing=checkpointing,
            )
        )
        assert len(calls) == expected
