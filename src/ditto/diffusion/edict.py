"""EDICT: two coupled, exactly invertible chains (Wallace et al. 2023; DITTO appendix B).

With a = √(ᾱ_s / ᾱ_t) and b = √(1 − ᾱ_s) − a·√(1 − ᾱ_t), so that a·x + b·ε̂ is the DDIM step from t
to s::

    x' ← a·x + b·ε̂(y, t)
    y' ← a·y + b·ε̂(x', t)
    x ← p·x' + (1 − p)·y'
    y ← p·y' + (1 − p)·x

Every line changes one chain by a function of the other and can therefore be solved for its old
value. The pair is kept in float64 whatever the network computes in: undoing a step divides by p and
a, and a float32 pair would not return to its start.

At ᾱ_t near 0, a is in the hundreds and the chains diverge: use a "leading" grid, which does not
begin at the last timestep (`edict_timesteps`).
"""

import torch
from torch import Tensor

from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import Schedule
from ditto.tables import widened

Pair = tuple[Tensor, Tensor]
"""x and y of the two chains, (B, …), float64."""


def mixing(steps: int) -> float:
    """Return the mixing coefficient p of DITTO's appendix L.

    0.93 from 50 steps on, 0.83 up to 20, linear in between.
    """
    return 0.83 + 0.1 * min(max((steps - 20) / 30, 0.0), 1.0)


def edict_timesteps(schedule: Schedule, steps: int) -> list[int]:
    """Return a grid on which EDICT is stable."""
    return schedule.timesteps(steps, "leading")


def edict(chain: Chain, x_T: Tensor, p: float, y_T: Tensor | None = None) -> Pair:
    """Sample both chains, x_T and y_T (default: x_T), (B, …) → x_0 and y_0, `widened`.

    The network is called in x_T's dtype, on the device of the chain's condition.
    """
    pair = widened(x_T), widened(x_T if y_T is None else y_T)
    for t, t_next in chain.pairs():
        pair = edict_step(chain, pair, t, t_next, p, x_T.dtype)
    return pair


def edict_step(chain: Chain, pair: Pair, t: int, t_next: int, p: float, dtype: torch.dtype) -> Pair:
    """Step both chains from t to t_next, with two model calls in `dtype`."""
    x, y = pair
    a, b = _ddim_coefficients(chain.schedule, t, t_next, x)
    x = a * x + b * _epsilon(chain, y, t, dtype)
    y = a * y + b * _epsilon(chain, x, t, dtype)
    x = p * x + (1 - p) * y
    return x, p * y + (1 - p) * x


def edict_unstep(
    chain: Chain, pair: Pair, t: int, t_next: int, p: float, dtype: torch.dtype
) -> Pair:
    """Step both chains from t_next back to t: undo the lines of `edict_step` in reverse order."""
    x, y = pair
    a, b = _ddim_coefficients(chain.schedule, t, t_next, x)
    y = (y - (1 - p) * x) / p
    x = (x - (1 - p) * y) / p
    y = (y - b * _epsilon(chain, x, t, dtype)) / a
    return (x - b * _epsilon(chain, y, t, dtype)) / a, y


def _ddim_coefficients(schedule: Schedule, t: int, t_next: int, like: Tensor) -> Pair:
    """Return a and b of the DDIM step from t to t_next, see the module's formulas."""
    signal, spread = schedule.scales(t, like)
    signal_next, spread_next = schedule.scales(t_next, like)
    a = signal_next / signal
    return a, spread_next - a * spread


def _epsilon(chain: Chain, x_t: Tensor, t: int, dtype: torch.dtype) -> Tensor:
    """Estimate ε̂ in float64 by a model call in `dtype`."""
    x_0 = chain.predict(x_t.to(dtype).to(chain.cond.device), t)
    return chain.schedule.to_epsilon(widened(x_0), x_t, t)
