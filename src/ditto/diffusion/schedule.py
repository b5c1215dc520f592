"""The variance-preserving noise schedule and the conversions between what networks predict.

With ᾱ_t the cumulative noise schedule::

    x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε        (forward process)
    v_t = √ᾱ_t · ε − √(1 − ᾱ_t) · x_0        (velocity, Salimans & Ho 2022)
    σ_t = √(1 − ᾱ_t) / √ᾱ_t                  (VE noise level: x_t / √ᾱ_t = x_0 + σ_t · ε)

A timestep is an integer in ``[0, num_train)``; `CLEAN` (-1) is clean data (ᾱ = 1).

A rectified flow has x_τ = (1 − τ)·x_0 + τ·ε and predicts u = ε − x_0 at times τ in (0, 1]. Divided
by √((1 − τ)² + τ²), its x_τ is x_t above, with::

    √ᾱ = (1 − τ) / √((1 − τ)² + τ²)      τ = √(1 − ᾱ) / (√ᾱ + √(1 − ᾱ))      σ = τ / (1 − τ)
    x̂_0 = (x_t − √(1 − ᾱ) · u) / (√ᾱ + √(1 − ᾱ))

In these variables DDIM is Euler's method on the flow: ε̂ = x̂_0 + u, and the next x_τ' is
(1 − τ')·x̂_0 + τ'·ε̂ = x_τ + (τ' − τ)·u. CTM's γ-sampling with γ = 1 is what flows call ping-pong.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
Spacing = Literal["trailing", "leading", "linspace", "span", "karras", "few"]
GridName = Literal["trailing", "leading", "karras"]
"""Spacings that a method's grid may have by name; the others are those of other people's models."""
CLEAN = -1
KARRAS = 0.1, 1000.0, 7.0
"""Lowest and highest σ of a "karras" grid, and its ρ, where data have a deviation of about 1. Its
levels reach so high since a whole clip's loudness and colour show through noise that hides any
single value; diffusion models of images end at 80."""
FEW = 0.2, 12.0, 7.0
"""Lowest and highest σ that a "few" grid divides, and its ρ. A student's first jump is from noise;
of the others, those from low levels make the detail, and those from high ones little."""
EPSILON_SIGMA, LARGEST_SIGMA = 15.0, 100.0
"""σ where chains begin that predict ε, and up to which ε̂ tells x̂_0 at all. Chains of Stable
Diffusion begin at 14.6, those of AudioLDM2 at 84."""


def expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per item (B,) so that it broadcasts against `like` (B, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Hold ᾱ_t for t = 0 … num_train − 1, in float64.

    Args:
        alpha_bar: shape (num_train,), strictly falling, inside (0, 1).
        spacing: default spacing of `timesteps`.
        offset: added to every timestep of a "leading" grid (diffusers' ``steps_offset``).
        end: ᾱ at `CLEAN`; diffusers' DDIM with ``set_alpha_to_one=False`` ends at ᾱ_0 instead of 1.
        first: timestep where "trailing", "span", "karras" and "few" grids begin; None is the last.
    """

    alpha_bar: Tensor
    spacing: Spacing = "trailing"
    offset: int = 0
    end: float = 1.0
    first: int | None = None

    def __post_init__(self) -> None:
        """Check ᾱ."""
        a = self.alpha_bar
        if a.ndim != 1 or not bool(((a > 0) & (a < 1)).all()) or not bool((a.diff() < 0).all()):
            raise ValueError(
                "alpha_bar must be one-dimensional, inside (0, 1) and strictly falling"
            )

    @classmethod
    def cosine(
        cls, num_train: int = 1000, max_beta: float = 0.999, shift: float = 1.0
    ) -> "Schedule":
        """Make the cosine schedule of Nichol & Dhariwal 2021 (DITTO appendix K).

        Equal to diffusers' ``squaredcos_cap_v2``.

        Args:
            num_train: number of timesteps.
            max_beta: upper bound of β_t.
            shift: factor on every σ_t (shifted cosine, Hoogeboom et al. 2023). The schedule suits
                data of standard deviation 1; for other data, pass their standard deviation.
        """

        def f(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [
            min(1 - f((i + 1) / num_train) / f(i / num_train), max_beta) for i in range(num_train)
        ]
        alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)
        return cls(alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar)))

    @staticmethod
    def flow(warp: Callable[[Tensor], Tensor]) -> "Flow":
        """Make the schedule of a rectified flow.

        Args:
            warp: times τ of evenly spaced places in (0, 1], elementwise and rising to 1 at 1, in
                the dtype that it is given.
        """
        tau = warp(torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS)
        return Flow(_alpha_bar_of(tau), warp=warp)

    @property
    def num_train(self) -> int:
        """Number of training timesteps."""
        return len(self.alpha_bar)

    def last_below(self, sigma: float) -> int:
        """Return the last timestep whose σ is at most this; the first if there is none."""
        return max(int((self.alpha_bar >= 1 / (1 + sigma**2)).sum()) - 1, 0)

    def suited(self, prediction: Prediction) -> "Schedule":
        """Return the schedule whose grids suit a network.

        Where it predicts ε, and the last σ is beyond `LARGEST_SIGMA`, they begin at
        `EPSILON_SIGMA`: of an x_t that is noise alone ε̂ says nothing of x_0. At the cosine
        schedule's last timestep an error of a thousandth in ε̂ is one of 20 in x̂_0.
        """
        if prediction != "epsilon" or self.alpha_bar[-1] >= 1 / (1 + LARGEST_SIGMA**2):
            return self
        return replace(self, first=self.last_below(EPSILON_SIGMA))

    def at(self, t: Tensor | int, like: Tensor) -> Tensor:
        """Return ᾱ_t (`end` where t is −1) in the dtype of `like` (B, …), broadcast against it."""
        return expand_like(self._at(t).to(like), like)

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ_t and √(1 − ᾱ_t), shaped like `at`.

        Both are rounded from float64: in float32, 1 − ᾱ_t near ᾱ_t = 1 is off by up to 1 %.
        """
        alpha_bar = self._at(t)
        signal, spread = alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)
        return expand_like(signal, like), expand_like(spread, like)

    def _at(self, t: Tensor | int) -> Tensor:
        index = torch.as_tensor(t, device=self.alpha_bar.device).reshape(-1)
        return self.alpha_bar[index.clamp(min=0)].masked_fill(index < 0, self.end)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """Compute x_t from x_0 and ε, all (B, …): the forward process."""
        signal, spread = self.scales(t, x_0)
        return signal * x_0 + spread * noise

    def velocity(self, x_0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """Compute v_t from x_0 and ε, all (B, …)."""
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
        """Convert a network's output of the given kind to x̂_0, all (B, …).

        With ``skip_std`` > 0 a "sample" is mixed with the input: x̂_0 = k·x_t/√ᾱ_t + (1 − k)·output
        with k = skip_std² / (skip_std² + σ_t²), optimal if `skip_std` is the output's standard
        error. The network then need not copy nearly clean input (cf. c_skip of EDM).
        """
        if prediction == "sample" and not skip_std:
            return output
        signal, spread = self.scales(t, x_t)
        if prediction == "sample":
            share = skip_std**2 / (skip_std**2 + (spread / signal).square())
            return share * (x_t / signal) + (1 - share) * output
        if prediction == "v_prediction":
            return signal * x_t - spread * output
        if prediction == "flow":
            return (x_t - spread * output) / (signal + spread)
        return (x_t - spread * output) / signal

    def to_epsilon(self, x_0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Convert x̂_0 at x_t to ε̂ (t ≥ 0)."""
        signal, spread = self.scales(t, x_t)
        return (x_t - signal * x_0) / spread

    def sigma(self, t: Tensor | int, like: Tensor) -> Tensor:
        """Return σ_t in VE coordinates, shaped like `at`."""
        signal, spread = self.scales(t, like)
        return spread / signal

    def nearest(self, sigma: Tensor) -> Tensor:
        """Return the timesteps (…) whose noise levels are nearest to σ (…), by ratio."""
        levels = ((1 - self.alpha_bar) / self.alpha_bar).log() / 2
        wanted = sigma.to(levels).log()
        return torch.bucketize(wanted, (levels[1:] + levels[:-1]) / 2)

    def timesteps(self, steps: int, spacing: Spacing | None = None) -> list[int]:
        """Return a falling grid of `steps` timesteps, spaced like diffusers' DDIM.

        ``trailing``, the spacing of our own models, begins at the last timestep (pure noise), or at
        `first`. ``span`` is ``linspace``, except that a single step begins where ``trailing`` does.
        ``karras`` is even in σ^(1/ρ) between `KARRAS` (Karras et al. 2022, equation 5; diffusers'
        ``use_karras_sigmas``), but for the first step, which begins where ``trailing`` does.
        ``few``, for students, begins there too; its other steps lie in the middles of equal parts,
        in σ^(1/ρ), of `FEW`.

        Raises:
            ValueError: `steps` is not in 1 … the number of timesteps that there are.
        """
        last = self.num_train - 1
        spacing = spacing or self.spacing
        if spacing in ("trailing", "span", "karras", "few") and self.first is not None:
            last = self.first
        if not 1 <= steps <= last + 1:
            raise ValueError(f"steps must be between 1 and {last + 1}, not {steps}")
        if spacing == "leading":
            stride = self.num_train // steps
            return [min(i * stride + self.offset, last) for i in reversed(range(steps))]
        if spacing in ("span", "karras", "few") and steps == 1:
            return [last]
        if spacing == "karras":
            return self._falling(KARRAS, np.linspace(0, 1, steps), last)
        if spacing == "few":
            return self._falling(FEW, (np.arange(steps) - 0.5) / (steps - 1), last)
        # numpy's functions, as in diffusers, to round halves alike; arange may go one step too far.
        if spacing in ("linspace", "span"):
            grid = np.linspace(0, last, steps)[::-1]
        else:
            grid = np.arange(last + 1, 0, -(last + 1) / steps)[:steps].round() - 1
        return grid.round().astype(int).tolist()

    def _falling(
        self, levels: tuple[float, float, float], shares: np.ndarray, last: int
    ) -> list[int]:
        """Return the timesteps nearest to levels of σ, no two alike; the first is `last`.

        Args:
            levels: lowest and highest, and ρ.
            shares: of the way from the highest to the lowest, in σ^(1/ρ); rising.
            last: see above.
        """
        low, high, rho = levels
        sigma = ((1 - shares) * high ** (1 / rho) + shares * low ** (1 / rho)) ** rho
        places = self.nearest(torch.from_numpy(sigma)).numpy()
        places[0] = last
        # A grid falls if, and only if, place + number never rises.
        numbers = np.arange(len(shares))
        falling = np.minimum.accumulate(places + numbers).clip(len(shares) - 1, last)
        return (falling - numbers).tolist()


LEVELS = 1000
"""Of `Flow.alpha_bar`, as many as diffusion models have. The last place of grids other than
"trailing" is 1 / LEVELS."""
PARTS = 2**40
"""Timesteps of a flow to τ = 1: every float32 from 2^-16 on is a whole number of them."""
NOISE = 1 - 2.0**-26
"""τ of x_T, where ᾱ would be 0 at 1 itself: x_T then differs by less than float32 can hold."""


def _alpha_bar_of(tau: Tensor) -> Tensor:
    """Return ᾱ (…) float64 of a flow's times τ (…)."""
    tau = tau.clamp(max=NOISE)
    return (1 - tau).square() / ((1 - tau).square() + tau.square())


@dataclass(frozen=True, eq=False, kw_only=True)
class Flow(Schedule):
    """The schedule of a rectified flow; see the module's formulas.

    A timestep t counts 2^-40ths of τ, so that it is an integer as everywhere, and yet exactly the
    float32 τ that a pipeline tells its network, whatever T.

    Attributes:
        warp: see `Schedule.flow`.
        alpha_bar: of `LEVELS` evenly spaced places, for whoever asks; nothing is looked up in it.
    """

    warp: Callable[[Tensor], Tensor]

    @property
    def num_train(self) -> int:
        """Number of timesteps."""
        return PARTS + 1

    def time(self, t: Tensor | int) -> Tensor:
        """Return τ, float32, of the shape and on the device of t (1 for pure noise)."""
        return torch.as_tensor(t).float() / PARTS

    def last_below(self, sigma: float) -> int:
        """Return the timestep of σ, rounded down."""
        return int(sigma / (1 + sigma) * PARTS)

    def timestep(self, tau: Tensor) -> Tensor:
        """Return the timesteps (…) int64 of times τ (…)."""
        return (tau.to("cpu", torch.float64) * PARTS).round().long()

    def _at(self, t: Tensor | int) -> Tensor:
        index = torch.as_tensor(t).to("cpu").reshape(-1)
        return _alpha_bar_of(index.double() / PARTS).masked_fill(index < 0, self.end)

    def nearest(self, sigma: Tensor) -> Tensor:
        """Return the timesteps (…) of noise levels σ (…)."""
        tau = 1 - 1 / (1 + sigma.to("cpu", torch.float64))
        return self.timestep(tau.masked_fill(tau >= NOISE, 1.0))

    def timesteps(self, steps: int, spacing: Spacing | None = None) -> list[int]:
        """Return a falling grid of `steps` timesteps, evenly spaced before the warp.

        ``trailing`` starts at pure noise; it is what flows are sampled with.

        Raises:
            ValueError: `steps` is not in 1 … `LEVELS`, or the grid is of diffusion models alone.
        """
        if not 1 <= steps <= LEVELS:
            raise ValueError(f"steps must be between 1 and {LEVELS}, not {steps}")
        spacing = spacing or self.spacing
        if spacing in ("karras", "few"):
            raise ValueError("a flow has no grid by noise levels")
        # In float32, as pipelines do it: every bit of τ counts for networks of fine time features.
        # Real numbers, also while an estimate rehearses a run on tensors without values.
        with _disable_current_modes():
            if spacing in ("linspace", "span"):
                places = torch.linspace(1.0, 1 / LEVELS, steps)
            else:
                places = torch.linspace(1.0, 0.0, steps + 1)
                places = places[1:] + 1 / LEVELS if spacing == "leading" else places[:-1]
            return self.timestep(self.warp(places)).tolist()
