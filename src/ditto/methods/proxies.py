"""Objectives by what can be read off x_0 without decoding it, and what calibrates them."""

from collections.abc import Callable

from torch import Tensor

from ditto.controls.output import Output
from ditto.methods.base import Problem
from ditto.models.model import MusicModel
from ditto.optimize import Objective

Calibrate = Callable[[Tensor], Objective]
"""A decoded x_0 → the objective whose proxies agree with what is heard of it."""


def can_estimate(model: MusicModel) -> bool:
    """Tell whether features can be read off x_0: there is a mel of it, or there are heads."""
    return model.has_mel or model.readers is not None


def proxied(problem: Problem, *, draft: bool = False) -> tuple[Objective, Calibrate]:
    """Return the objective by the control's cheap proxy, and what calibrates it at a decoded x_0.

    The proxy needs a mel of x_0, or heads; without them, or for a draft, the control itself is
    used. What needs sound all the same gets that of the model's fast vocoder.
    """
    model, control, seeds = problem.model, problem.control, problem.seeds
    assert control is not None
    cheap = not draft and can_estimate(model)
    proxy, fast = (control.proxy() if cheap else control), model.fast

    def calibrate(decoded: Tensor) -> Objective:
        calibrated = proxy.calibrate(Output(decoded, model, seeds=seeds))
        return lambda x_0, x_T=None: calibrated(x_0, fast, x_T, seeds)

    return lambda x_0, x_T=None: proxy(x_0, fast, x_T, seeds), calibrate
