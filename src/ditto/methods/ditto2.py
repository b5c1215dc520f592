"""DITTO-2 (arXiv 2405.20289, Algorithm 1): optimise x_T through a distilled one-step surrogate, decode with a few.

    repeat K times:
        x_0 ← G(x_T, c, w, T→0) in M steps, usually one; no checkpointing
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
    return γ-sampling of x_T in T' steps

The chain's denoiser is a student distilled to few steps; with an undistilled model one step says little about the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ditto.diffusion.consistency import Noise, gamma_sample
from ditto.diffusion.samplers import Chain, ddim
from ditto.optimize import Objective, Step, Stop, never, optimize


def ditto2(
    x_T: Tensor, chain: Chain, objective: Objective, *, iterations: int = 70, lr: float = 5e-3, stop: Stop = never,
    surrogate_steps: int | Sequence[int] = 1,
) -> Iterator[Step]:  # fmt: skip
    """Algorithm 1 of DITTO-2, lines 1–7.

    Args:
        x_T: initial latents (B, …).
        chain: a distilled student as the denoiser, conditioning and w; its grid is for decoding and is not used here.
        objective: 𝓛(f(x_0), y) as a function of x_0, one value an item.
        iterations: K.
        lr: Adam's learning rate.
        stop: early stop.
        surrogate_steps: M; or one M for each of the K iterations (see `adaptive_schedule`).

    Losses of different M do not compare: every change of M begins the best anew, so that the last step's `best_x_T` is
    the best by the last M. A stop ends the run, whatever M is then.

    Yields:
        Every `Step`; decode the last one's `best_x_T` with `decode2`.
    """
    budget = [surrogate_steps] * iterations if isinstance(surrogate_steps, int) else list(surrogate_steps)
    if len(budget) != iterations:
        raise ValueError(f"surrogate_steps has {len(budget)} entries for {iterations} iterations")
    calls = iter(budget)

    def render(x: Tensor) -> Tensor:
        return ddim(replace(chain, timesteps=chain.schedule.timesteps(next(calls))), x)

    return _best_of_each_budget(optimize(x_T, render, objective, iterations=iterations, lr=lr), budget, stop)


def _best_of_each_budget(steps: Iterator[Step], budget: Sequence[int], stop: Stop) -> Iterator[Step]:
    """The same steps with the best since M last changed; and the early stop, which goes by that."""
    best: Step | None = None
    for step in steps:
        if best is None or budget[step.i] != budget[step.i - 1]:
            best = replace(step, best_loss=step.loss, best_x_T=step.x_T)
        else:
            best = _better(best, step)
        yield best
        if stop(best):
            return


def _better(best: Step, step: Step) -> Step:
    lower = step.loss < best.best_loss
    everywhere = lower.reshape(-1, *[1] * (step.x_T.ndim - 1))
    return replace(
        step,
        best_loss=torch.where(lower, step.loss, best.best_loss),
        best_x_T=torch.where(everywhere, step.x_T, best.best_x_T),
    )


def adaptive_schedule(iterations: int) -> list[int]:
    """The adaptive budget (DITTO-2 §4.3): M=1 for ⌊K/2⌋ iterations, 2 for ⌊3K/8⌋, 4 for the rest."""
    ones, twos = iterations // 2, 3 * iterations // 8
    return [1] * ones + [2] * twos + [4] * (iterations - ones - twos)


@torch.no_grad()
def decode2(x_T: Tensor, chain: Chain, gamma: float, noise: Noise) -> Tensor:
    """Algorithm 1 of DITTO-2, lines 8–12: x_0 of an optimised x_T by γ-sampling over the chain's grid (T' steps)."""
    return gamma_sample(chain, x_T, gamma, noise)


NOISE_SEED = 2**31
"""γ-sampling's generators are seeded this far above those of x_T, whose seeds end below it."""


def item_noise(shape: Sequence[int], seed: int, count: int, device: torch.device | str = "cpu") -> Noise:
    """Noise (count, *shape) for γ-sampling; item i from a generator of its own, as it would draw alone."""
    generators = [torch.Generator().manual_seed(NOISE_SEED + seed + i) for i in range(count)]

    def draw() -> Tensor:
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]).to(device)

    return draw
