"""Requests that differ only in seed, tags or targets, made as one batch.

A graphics card makes many clips in little more than the time of one. A processor makes the items
of a batch one by one, so there is nothing to gain there.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ditto.controls.base import Control
from ditto.controls.per_item import PerItem
from ditto.diffusion.consistency import Noise
from ditto.latents import item_noise
from ditto.methods import Ditto, Ditto2, Uncontrolled
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, checked_shape, initial_x_T

METHODS = (Ditto, Ditto2, Uncontrolled)
"""Methods that know their controls only as one loss."""


def kind_of(request: Request, model: MusicModel) -> str | None:
    """Return what requests must have in common to be made together; None of one made alone.

    That is length, method, guidance, iterations, and the kinds of their controls.
    """
    request = request.resolved(model)
    terms = [term.bare() for control in request.controls for term, _ in control.bare().terms()]
    begins = request.start is not None or request.candidate is not None
    alone = request.count > 1 or begins or not isinstance(request.method, METHODS)
    if alone or any(term.known_region() is not None for term in terms):
        return None
    assert request.method is not None
    shape = checked_shape(request, model)
    same: list[Any] = [shape, request.seconds, request.guidance, request.iterations]
    kinds = [term.kind for term in terms]
    return json.dumps([*same, request.method.to_dict(), kinds], default=str)


def run_together(
    requests: Sequence[Request], model: MusicModel, *, compare: bool = True
) -> list[Result]:
    """Carry out requests of one kind, see `kind_of`, as one batch.

    Args:
        requests: of one kind.
        model: from `ditto.load`.
        compare: see `Run`.

    Returns:
        A result for each, as if it were made alone, but for the rounding of sums.

    Raises:
        DittoError: see `Run`.
    """
    resolved = [request.resolved(model) for request in requests]
    whole = _plan(resolved, model, compare)
    for _ in whole:
        pass
    result = whole.result()
    with torch.no_grad():
        plain = None if result.without is None else result.without()
    note = f"made together with {len(requests) - 1} others, whose arithmetic it shares"
    found = []
    for i, request in enumerate(resolved):
        part = slice(i, i + 1)
        notes = [why for item, why in whole.failures.items() if item == i]
        found.append(
            Result(
                request=request,
                model=model,
                x_T=result.x_T[part],
                x_0=result.x_0[part],
                audio=result.audio[part],
                losses=result.losses[:, part],
                errors={name: values[part] for name, values in result.errors.items()},
                timings={name: s / len(requests) for name, s in result.timings.items()},
                sound=None if result.sound is None else result.sound[part],
                notes=(*notes, note),
                candidate=None if result.candidate is None else result.candidate[part],
                without=None if plain is None else partial(_item, plain, i),
                ended=None if result.ended is None else result.ended[part],
            )
        )
    return found


def _plan(requests: Sequence[Request], model: MusicModel, compare: bool) -> Run:
    """Return one run of several requests, each with its own target, tags and noise."""
    first, count = requests[0], len(requests)
    controls: list[Control] = [one.control for one in requests if one.control is not None]
    target = (PerItem(controls),) if controls else ()
    plan = Run(replace(first, controls=target, count=count), model, compare=compare)
    shape = checked_shape(first, model)
    seeds = tuple(request.seed for request in requests)
    plan.begin_with(torch.cat([initial_x_T(request, model, shape) for request in requests]))

    def alone(item: int) -> Noise:
        return item_noise(shape, seeds[item], 1, model.device)

    def together() -> Noise:
        each = [alone(i) for i in range(count)]
        return lambda: torch.cat([draw() for draw in each])

    tags = tuple(request.tags for request in requests)
    cond = model.cond_each(tags, first.seconds)
    own = {"new_noise": together, "noise_of": alone, "seeds": seeds, "tags": tags}
    plan.problem = replace(plan.problem, cond=cond, **own)
    return plan


def _item(x_0: Tensor, item: int) -> Tensor:
    return x_0[item : item + 1]
