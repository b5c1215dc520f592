"""DITTO-2 (arXiv 2405.20289, Algorithm 1): optimise x_T through a distilled one-step surrogate,
decode with a few.

    repeat K times:
        x_0 ← G(x_T, c, w, T→0) in M steps, usually one; no checkpointing
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
    return γ-sampling of x_T in T' steps

What is optimised in M steps is heard in T', and the two differ (the paper's "domain gap"). A few
times on the way the surrogate can be *corrected* by what decoding gives: it becomes ``G(x_T) +
[decoded − G(x_T)]``, the bracket constant until the next correction. That is output space mapping
(Bandler et al. 2004): a cheap model, shifted to agree with the costly one where it is asked. It is
not in the paper; with ``corrections=0`` this is Algorithm 1 as printed.

The chain's denoiser is a student distilled to few steps; with an undistilled model one step says
little about the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ditto.diffusion.consistency import Noise, gamma_sample
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import expand_like
from ditto.optimize import LR, MOMENTUM, Objective, Step, Stop, never, optimize

CORRECTIONS = 8
CORRECTED_LR, CORRECTED_MOMENTUM, CORRECTED_WAY = 1.5e-2, 0.7, 1.05
"""Adam's largest learning rate, its β₁, and the most that K · lr may be, where the surrogate is
corrected.

Every correction moves the minimum a little, and an optimiser of little momentum that takes larger
steps has caught up with it by the next one. Adam moves a value by about lr an iteration, so that K
· lr bounds how far x_T goes from noise that the model knows: with many iterations, going further
follows a melody more closely at the price of the tags."""
SPREAD = 1.7
"""The n-th of N corrections is due after the share (n / (N + 1))^SPREAD of the iterations: at first
x_T moves fast, and what one step and a few give lies furthest apart."""

CALIBRATE_EVERY = 4
"""A calibration may hear sound, and then takes several times as long as the rest of a
correction."""

Decode = Callable[[Tensor], Tensor]
"""x_T → x_0 as it will be heard, the same whenever it is called."""
Calibrate = Callable[[Tensor], Objective]
"""Decoded x_0 → the objective from here on, for one that estimates what costs too much to hear
every time."""


def ditto2(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    iterations: int = 70,
    lr: float = LR,
    momentum: float = MOMENTUM,
    stop: Stop = never,
    surrogate_steps: int | Sequence[int] = 1,
    decode: Decode | None = None,
    calibrate: Calibrate | None = None,
    corrections: int = CORRECTIONS,
) -> Iterator[Step]:
    """Algorithm 1 of DITTO-2, lines 1–7, and the corrections if there is a `decode`.

    Args:
        x_T: initial latents (B, …).
        chain: a distilled student as the denoiser, conditioning and w; its grid is for decoding and
            is not used here.
        objective: 𝓛(f(x_0), y) as a function of x_0, one value an item.
        iterations: K.
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        stop: early stop.
        surrogate_steps: M; or one M for each of the K iterations (see `adaptive_schedule`).
        decode: lines 8–12, always with the same noise; called without gradients.
        calibrate: gives the objective anew at every fourth correction, counted from the last.
        corrections: how many, ever further apart; fewer where there are few iterations.

    Losses of different M, or from before and after a correction, do not compare: each begins the
    best anew, so that the last step's `best_x_T` is the best by what was known last. A stop ends
    the run, whatever M is then.

    Yields:
        Every `Step`; decode the last one's `best_x_T` with `decode2`.
    """
    budget = (
        [surrogate_steps] * iterations
        if isinstance(surrogate_steps, int)
        else list(surrogate_steps)
    )
    if len(budget) != iterations:
        raise ValueError(f"surrogate_steps has {len(budget)} entries for {iterations} iterations")
    phases = _phases(budget, corrections if decode else 0)
    surrogate = _Surrogate(chain, objective, decode, calibrate, due=phases[-1][1] if phases else 0)
    plan = iter(phases)
    steps = optimize(
        x_T,
        lambda x: surrogate.render(x, *next(plan)),
        surrogate.loss,
        iterations=iterations,
        lr=lr,
        momentum=momentum,
    )
    return _best_of_each_phase(steps, phases, stop)


def corrected_adam(iterations: int) -> dict[str, float]:
    """Adam's ``lr`` and ``momentum`` for K iterations with corrections."""
    return {"lr": min(CORRECTED_LR, CORRECTED_WAY / iterations), "momentum": CORRECTED_MOMENTUM}


def _phases(budget: Sequence[int], corrections: int) -> list[tuple[int, int]]:
    """For each iteration M, and the number of corrections made until then."""
    count = len(budget)
    due = [int(count * ((n + 1) / (corrections + 1)) ** SPREAD) for n in range(corrections)]
    return [(calls, sum(0 < first <= i for first in due)) for i, calls in enumerate(budget)]


@dataclass
class _Surrogate:
    """The student in M steps, how it was corrected last, and how many corrections there will have
    been.
    """

    chain: Chain
    objective: Objective
    decode: Decode | None
    calibrate: Calibrate | None
    due: int
    shift: Tensor | None = None
    corrected: int = 0

    def render(self, x_T: Tensor, calls: int, corrections: int) -> Tensor:
        """x_0 of x_T in M = `calls` steps, corrected anew if more corrections are due than were
        made.
        """
        x_0 = ddim(replace(self.chain, timesteps=self.chain.schedule.timesteps(calls)), x_T)
        if self.decode is not None and corrections > self.corrected:
            self.corrected = corrections
            with torch.no_grad():
                decoded = self.decode(x_T.detach())
                self.shift = decoded - x_0
                if self.calibrate and (self.due - corrections) % CALIBRATE_EVERY == 0:
                    self.objective = self.calibrate(decoded)
        return x_0 if self.shift is None else x_0 + self.shift

    def loss(self, x_0: Tensor) -> Tensor:
        """The objective of the present."""
        return self.objective(x_0)


def _best_of_each_phase(
    steps: Iterator[Step], phases: Sequence[tuple[int, int]], stop: Stop
) -> Iterator[Step]:
    """The same steps with the best since the phase last changed; and the early stop, which goes by
    that.
    """
    best: Step | None = None
    for step in steps:
        if best is None or phases[step.i] != phases[step.i - 1]:
            best = replace(step, best_loss=step.loss, best_x_T=step.x_T)
        else:
            best = _better(best, step)
        yield best
        if stop(best):
            return


def _better(best: Step, step: Step) -> Step:
    lower = step.loss < best.best_loss
    everywhere = expand_like(lower, step.x_T)
    return replace(
        step,
        best_loss=torch.where(lower, step.loss, best.best_loss),
        best_x_T=torch.where(everywhere, step.x_T, best.best_x_T),
    )


def adaptive_schedule(iterations: int) -> list[int]:
    """The adaptive budget (DITTO-2 §4.3): M=1 for ⌊K/2⌋ iterations, 2 for ⌊3K/8⌋, 4 for the
    rest.
    """
    ones, twos = iterations // 2, 3 * iterations // 8
    return [1] * ones + [2] * twos + [4] * (iterations - ones - twos)


@torch.no_grad()
def decode2(x_T: Tensor, chain: Chain, gamma: float, noise: Noise) -> Tensor:
    """Algorithm 1 of DITTO-2, lines 8–12: x_0 of an optimised x_T by γ-sampling over the chain's
    grid (T' steps).
    """
    return gamma_sample(chain, x_T, gamma, noise)


NOISE_SEED = 2**31
"""γ-sampling's generators are seeded this far above those of x_T, whose seeds end below it."""


def item_noise(
    shape: Sequence[int], seed: int, count: int, device: torch.device | str = "cpu"
) -> Noise:
    """Noise (count, *shape) for γ-sampling; item i from a generator of its own, as it would draw
    alone.
    """
    generators = [torch.Generator().manual_seed(NOISE_SEED + seed + i) for i in range(count)]

    def draw() -> Tensor:
        return torch.stack(
            [torch.randn(tuple(shape), generator=generator) for generator in generators]
        ).to(device)

    return draw
