"""EDICT (Wallace et al. 2023; DITTO appendix B): two coupled chains whose every step can be undone
exactly.

With a = √(ᾱ_s / ᾱ_t) and b = √(1 − ᾱ_s) − a·√(1 − ᾱ_t), so that a·x + b·ε̂ is the DDIM step from t
to s::

    x' ← a·x + b·ε̂(y, t)
    y' ← a·y + b·ε̂(x', t)
    x ← p·x' + (1 − p)·y'
    y ← p·y' + (1 − p)·x

Every line changes one of the two by a function of the other, hence can be solved for what it
changed. The pair is kept in float64 whatever the network computes in: undoing a step divides by p
and by b's counterpart, and a float32 pair would not find its way back.

Where ᾱ_t is next to nothing, a is in the hundreds and so is the chains' drift apart: use a
"leading" grid, which does not begin at the last timestep (`edict_timesteps`).
"""

import torch
from torch import Tensor

from ditto.diffusion.samplers import Chain
from ditto.diffusion.schedule import Schedule

Pair = tuple[Tensor, Tensor]


def mixing(steps: int) -> float:
    """The mixing coefficient p that DITTO's appendix L uses: 0.93 at 50 steps or more, 0.83 at 20
    or fewer.
    """
    return 0.83 + 0.1 * min(max((steps - 20) / 30, 0.0), 1.0)


def edict_timesteps(schedule: Schedule, steps: int) -> list[int]:
    """A grid on which EDICT is stable."""
    return schedule.timesteps(steps, "leading")


def edict(chain: Chain, x_T: Tensor, p: float, y_T: Tensor | None = None) -> Pair:
    """Sample both chains, which start alike unless `y_T` is given: x_T (B, …) → x_0 and y_0 (B, …),
    float64.

    The network sees tensors of x_T's dtype.
    """
    pair = x_T.double(), (x_T if y_T is None else y_T).double()
    for t, t_next in chain.pairs():
        pair = edict_step(chain, pair, t, t_next, p, x_T.dtype)
    return pair


def edict_invert(
    chain: Chain, x_0: Tensor, p: float, y_0: Tensor | None = None, dtype: torch.dtype | None = None
) -> Pair:
    """Undo `edict`: x_0 and y_0 (B, …) → x_T and y_T (B, …), float64.

    Args:
        chain: the one that sampled, or any other for a clip that nobody sampled.
        x_0: of the first chain.
        p: mixing coefficient.
        y_0: of the second chain; `x_0` for a clip that nobody sampled.
        dtype: what the network sees; x_0's by default.
    """
    pair = x_0.double(), (x_0 if y_0 is None else y_0).double()
    for t, t_next in reversed(chain.pairs()):
        pair = edict_unstep(chain, pair, t, t_next, p, dtype or x_0.dtype)
    return pair


def edict_step(chain: Chain, pair: Pair, t: int, t_next: int, p: float, dtype: torch.dtype) -> Pair:
    """Both chains from t to t_next; two model calls, on tensors of `dtype`."""
    x, y = pair
    a, b = _ddim_coefficients(chain.schedule, t, t_next, x)
    x = a * x + b * _epsilon(chain, y, t, dtype)
    y = a * y + b * _epsilon(chain, x, t, dtype)
    x = p * x + (1 - p) * y
    return x, p * y + (1 - p) * x


def edict_unstep(
    chain: Chain, pair: Pair, t: int, t_next: int, p: float, dtype: torch.dtype
) -> Pair:
    """Both chains from t_next back to t: `edict_step` read from its last line to its first."""
    x, y = pair
    a, b = _ddim_coefficients(chain.schedule, t, t_next, x)
    y = (y - (1 - p) * x) / p
    x = (x - (1 - p) * y) / p
    y = (y - b * _epsilon(chain, x, t, dtype)) / a
    return (x - b * _epsilon(chain, y, t, dtype)) / a, y


def _ddim_coefficients(schedule: Schedule, t: int, t_next: int, like: Tensor) -> Pair:
    """The a and b of DDIM's step, see above."""
    signal, spread = schedule.scales(t, like)
    signal_next, spread_next = schedule.scales(t_next, like)
    a = signal_next / signal
    return a, spread_next - a * spread


def _epsilon(chain: Chain, x_t: Tensor, t: int, dtype: torch.dtype) -> Tensor:
    """ε̂ of x_t in float64, from a model call in `dtype`."""
    return chain.schedule.to_epsilon(chain.predict(x_t.to(dtype), t).double(), x_t, t)
