"""The variance-preserving noise schedule and the conversions between what networks predict.

With ᾱ_t the cumulative noise schedule::

    x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε        (forward process)
    v_t = √ᾱ_t · ε − √(1 − ᾱ_t) · x_0        (velocity, Salimans & Ho 2022)
    σ_t = √(1 − ᾱ_t) / √ᾱ_t                  (noise level in VE coordinates, x_t / √ᾱ_t = x_0 + σ_t
    · ε)

A timestep is an integer in ``[0, num_train)``; ``-1`` stands for clean data (ᾱ = 1).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["trailing", "leading", "linspace", "span"]
CLEAN = -1


@dataclass(frozen=True, eq=False)
class Schedule:
    """ᾱ_t for t = 0 … num_train − 1, kept in float64.

    Args:
        alpha_bar: shape (num_train,), strictly falling, inside (0, 1).
        spacing: how `timesteps` spaces a grid.
        offset: added to every timestep of a "leading" grid (diffusers' ``steps_offset``).
        end: ᾱ at `CLEAN`, where a chain ends; 1 is clean data. Diffusers' DDIM with
            ``set_alpha_to_one=False`` ends at ᾱ_0.
    """

    alpha_bar: Tensor
    spacing: Spacing = "trailing"
    offset: int = 0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check that ᾱ is a usable schedule."""
        a = self.alpha_bar
        if a.ndim != 1 or not bool(((a > 0) & (a < 1)).all()) or not bool((a.diff() < 0).all()):
            raise ValueError(
                "alpha_bar must be one-dimensional, inside (0, 1) and strictly falling"
            )

    @classmethod
    def cosine(
        cls, num_train: int = 1000, max_beta: float = 0.999, shift: float = 1.0
    ) -> "Schedule":
        """Cosine schedule of Nichol & Dhariwal 2021 (DITTO appendix K), equal to diffusers'
        ``squaredcos_cap_v2``.

        Args:
            num_train: number of timesteps.
            max_beta: upper bound of β_t.
            shift: factor on every σ_t (the shifted cosine of Hoogeboom et al. 2023). The schedule
                was made for data of standard deviation near 1; a `shift` that is x_0's spends the
                steps at noise levels that matter to it.
        """

        def f(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [
            min(1 - f((i + 1) / num_train) / f(i / num_train), max_beta) for i in range(num_train)
        ]
        alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)
        return cls(alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar)))

    @property
    def num_train(self) -> int:
        """Number of training timesteps."""
        return len(self.alpha_bar)

    def at(self, t: Tensor | int, like: Tensor) -> Tensor:
        """ᾱ_t in the dtype and on the device of `like` (B, …), shaped to broadcast against it;
        `end` where t is −1.
        """
        return expand_like(self._at(t).to(like), like)

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t), shaped as `at` shapes.

        Both are rounded from float64: 1 − ᾱ_t taken from a float32 ᾱ_t near 1 would be off by up to
        1 %.
        """
        alpha_bar = self._at(t)
        return (
            expand_like(alpha_bar.sqrt().to(like), like),
            expand_like((1 - alpha_bar).sqrt().to(like), like),
        )

    def _at(self, t: Tensor | int) -> Tensor:
        index = torch.as_tensor(t, device=self.alpha_bar.device).reshape(-1)
        return torch.where(
            index < 0,
            torch.tensor(self.end, dtype=torch.float64),
            self.alpha_bar[index.clamp(min=0)],
        )

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """Forward process: x_t from x_0 and ε, all (B, …)."""
        signal, spread = self.scales(t, x_0)
        return signal * x_0 + spread * noise

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """v_t from x_0 and ε."""
        signal, spread = self.scales(t, x_0)
        return signal * noise - spread * x_0

    def to_x_0(
        self,
        output: Tensor,
        x_t: Tensor,
        t: Tensor | int,
        prediction: Prediction,
        skip_std: float = 0.0,
    ) -> Tensor:
        """x̂_0 from a network's output of the given kind.

        With ``skip_std`` > 0 a "sample" is only the network's share of x̂_0 = k·x_t/√ᾱ_t + (1 −
        k)·output, where k = skip_std² / (skip_std² + σ_t²): the best mix of the two if `skip_std`
        is the output's standard error. So a network need not learn to copy what is nearly clean
        already (as EDM's c_skip, with another constant).
        """
        if prediction == "sample" and not skip_std:
            return output
        signal, spread = self.scales(t, x_t)
        if prediction == "sample":
            share = skip_std**2 / (skip_std**2 + (spread / signal).square())
            return share * (x_t / signal) + (1 - share) * output
        if prediction == "v_prediction":
            return signal * x_t - spread * output
        return (x_t - spread * output) / signal

    def to_epsilon(self, x_0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """ε̂ that goes with x̂_0 at x_t (t ≥ 0)."""
        signal, spread = self.scales(t, x_t)
        return (x_t - signal * x_0) / spread

    def sigma(self, t: Tensor | int, like: Tensor) -> Tensor:
        """σ_t in VE coordinates, broadcast against `like`."""
        signal, spread = self.scales(t, like)
        return spread / signal

    def nearest(self, sigma: Tensor) -> Tensor:
        """The timesteps (…) whose noise levels are nearest to σ (…), by ratio."""
        levels = ((1 - self.alpha_bar) / self.alpha_bar).log() / 2
        wanted = sigma.to(levels).log()
        return torch.bucketize(wanted, (levels[1:] + levels[:-1]) / 2)

    def timesteps(self, steps: int, spacing: Spacing | None = None) -> list[int]:
        """A falling grid of `steps` timesteps, as diffusers' DDIM spaces them.

        ``trailing`` starts at the last timestep (pure noise) and is what our own models use.
        ``span`` is ``linspace``, from the last timestep to the first, except that a single step
        starts at the noisy end.

        Raises:
            ValueError: if `steps` is not in 1 … num_train.
        """
        if not 1 <= steps <= self.num_train:
            raise ValueError(f"steps must be between 1 and {self.num_train}, not {steps}")
        spacing = spacing or self.spacing
        if spacing == "leading":
            last = self.num_train - 1
            return [
                min(i * (self.num_train // steps) + self.offset, last)
                for i in reversed(range(steps))
            ]
        if spacing == "span" and steps == 1:
            return [self.num_train - 1]
        # numpy's own functions, as in diffusers, so that halves are rounded alike; arange may go
        # one step too far.
        if spacing in ("linspace", "span"):
            grid = np.linspace(0, self.num_train - 1, steps)[::-1]
        else:
            grid = np.arange(self.num_train, 0, -self.num_train / steps)[:steps].round() - 1
        return grid.round().astype(int).tolist()


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (B,) to (B, 1, …), which broadcasts against `like` (B, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
