"""The one optimisation loop: Adam on the initial noise latent x_T (Algorithm 1 of both papers).

It knows nothing of music. `render` maps x_T to x_0 (a whole chain, or one jump of a distilled
model) and `objective` maps x_0 and x_T to one loss per item; both must be differentiable.
`optimize` is a generator, so the caller owns progress bars, early stops, cancelling and previews.
`best_so_far` and `stop_when` wrap it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.adam import adam

from ditto.diffusion.schedule import expand_like

LR, MOMENTUM, SECOND_MOMENT = 5e-3, 0.9, 0.999
"""The papers' learning rate for Adam, and its usual β₁ and β₂."""

Render = Callable[[Tensor], Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]
"""x_0 and the x_T that it is of → a loss for each item."""


@dataclass(frozen=True)
class Step:
    """One iteration of an optimisation.

    Attributes:
        i: iteration, from 0.
        loss: (B,) float32, of `x_T` before this iteration's update.
        x_T: the latent with that loss, a copy.
        best_loss: (B,) lowest loss of each item so far (see `best_so_far`).
        best_x_T: the latent with each item's lowest loss so far.
        failed: (B,) items that are optimised no more, since their loss or gradient was not finite;
            None is none of them.
        warnings: what went wrong in this iteration, in words.
        judged: whether the best is news; early stops by loss look at no other steps.
        candidate: (B,) which of several noises each item's x_T is, or came from, where there was a
            choice.
        begun: that noise of each item, (B, …).
    """

    i: int
    loss: Tensor
    x_T: Tensor
    best_loss: Tensor
    best_x_T: Tensor
    failed: Tensor | None = None
    warnings: tuple[str, ...] = ()
    judged: bool = True
    candidate: Tensor | None = None
    begun: Tensor | None = None


class GradientError(RuntimeError):
    """The loss does not depend on x_T, or it or its gradient is not finite for any item."""


Stop = Callable[[Step], bool]
Revise = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Iteration and x_T → the x_T to go on from, and the share of each item's step to make, (B,)."""


@dataclass(frozen=True)
class AdamState:
    """Adam's running moments of one tensor.

    torch's own arithmetic without its `Optimizer` objects: the first of them imports the compiler,
    which takes as long as torch itself.

    Attributes:
        mean: of the gradient.
        square: of its square.
        count: updates so far.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "AdamState":
        """Return the state before the first update of x."""
        return cls(torch.zeros_like(x), torch.zeros_like(x), torch.zeros(()))

    @torch.no_grad()
    def descend(self, x: Tensor, gradient: Tensor, *, lr: float, momentum: float) -> None:
        """Update x in place."""
        adam(
            [x],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.count],
            amsgrad=False,
            beta1=momentum,
            beta2=SECOND_MOMENT,
            lr=lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def never(step: Step) -> bool:
    """Run all iterations."""
    return False


def optimize(
    x_T: Tensor,
    render: Render,
    objective: Objective,
    *,
    iterations: int,
    lr: float = LR,
    momentum: float = MOMENTUM,
    revise: Revise | None = None,
) -> Iterator[Step]:
    """Minimise ``objective(render(x_T))`` over x_T with Adam, yielding every iteration.

    Each item of the batch has its own loss, and Adam works elementwise, so an item takes the same
    path as it would alone. An item whose gradient is zero has met its target: it stays where it is,
    without momentum, until there is a gradient again. One whose loss or gradient is not finite goes
    back to where it was before, and stays there for good.

    Args:
        x_T: initial latents (B, …), float32; left as they are.
        render: x_T → x_0, called once per iteration.
        objective: x_0, x_T → losses (B,).
        iterations: K, at least 1.
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        revise: called before every iteration; an item that it moves loses its momentum.

    Raises:
        GradientError: if no gradient reaches x_T, or if for no item loss and gradient are finite.
    """
    latent = x_T.detach().clone().requires_grad_(True)
    state = AdamState.of(latent)
    failed = torch.zeros(len(x_T), dtype=torch.bool, device=x_T.device)
    good, share = x_T.detach(), None
    for i in range(iterations):
        if revise is not None:
            revised, share = revise(i, latent.detach().clone())
            _hold(state, latent, revised, (revised != latent).flatten(1).any(dim=1))
        with torch.enable_grad():
            loss = objective(render(latent), latent).float()
            gradient, broken = _gradient(loss, latent)
        new, failed = broken & ~failed, failed | broken
        loss, x = loss.detach(), latent.detach().clone()
        if bool(failed.any()):
            there = expand_like(failed, x)
            x, gradient = torch.where(there, good, x), gradient.masked_fill(there, 0.0)
            latent.data.copy_(x)
        yield Step(
            i,
            loss,
            x,
            best_loss=loss,
            best_x_T=x,
            failed=failed if bool(failed.any()) else None,
            warnings=_failures(new, i),
        )
        still = gradient.flatten(1).count_nonzero(dim=1) == 0
        state.descend(latent, gradient, lr=lr, momentum=momentum)
        _hold(state, latent, x, still)
        if share is not None:
            latent.data.copy_(torch.lerp(x, latent.data, expand_like(share, x).to(x)))
        good = x


def _remaining(step: Step) -> Tensor:
    """Return the best losses, −∞ for items that failed: nothing is left to do."""
    if step.failed is None:
        return step.best_loss
    return step.best_loss.masked_fill(step.failed, -torch.inf)


@torch.no_grad()
def _hold(state: AdamState, latent: Tensor, x: Tensor, still: Tensor) -> None:
    """Put the items that are `still` to x, and take their momentum."""
    if bool(still.any()):
        latent[still] = x[still].to(latent)
        state.mean[still] = 0.0


def best_so_far(
    steps: Iterator[Step], restart: Callable[[Step], bool] = lambda step: False
) -> Iterator[Step]:
    """Yield the same steps with each item's lowest loss so far and its latent.

    Args:
        steps: of an optimisation.
        restart: True for a step whose loss does not compare with the earlier ones; the best then
            starts anew.
    """
    best: Step | None = None
    for step in steps:
        if best is None or restart(step):
            best = step
        else:
            # A loss that is not a number yields to any.
            better = (step.loss < best.best_loss) | best.best_loss.isnan()
            best = replace(
                step,
                best_loss=torch.where(better, step.loss, best.best_loss),
                best_x_T=torch.where(expand_like(better, step.x_T), step.x_T, best.best_x_T),
            )
        yield best


def side_by_side(steps: Sequence[Step]) -> Step:
    """Return the steps of items that are optimised one by one as one step of their batch."""
    fine = torch.zeros(1, dtype=torch.bool)
    failed = [fine if step.failed is None else step.failed.cpu() for step in steps]
    return Step(
        i=max(step.i for step in steps),
        loss=torch.cat([step.loss for step in steps]),
        x_T=torch.cat([step.x_T for step in steps]),
        best_loss=torch.cat([step.best_loss for step in steps]),
        best_x_T=torch.cat([step.best_x_T for step in steps]),
        failed=torch.cat(failed) if bool(torch.cat(failed).any()) else None,
        warnings=tuple(warning for step in steps for warning in step.warnings),
        judged=any(step.judged for step in steps),
        candidate=_side_by_side([step.candidate for step in steps]),
        begun=_begun(steps),
    )


def _side_by_side(candidates: Sequence[Tensor | None]) -> Tensor | None:
    """Return all candidates; the first noise where an item that failed says none."""
    if all(one is None for one in candidates):
        return None
    own = torch.zeros(1, dtype=torch.long)
    return torch.cat([own if one is None else one.cpu() for one in candidates])


def _begun(steps: Sequence[Step]) -> Tensor | None:
    """Return where all items began; the noise as drawn where an item that failed says nothing."""
    if all(step.begun is None for step in steps):
        return None
    return torch.cat([step.x_T if step.begun is None else step.begun for step in steps])


def stop_when(steps: Iterator[Step], stops: Sequence[Stop]) -> Iterator[Step]:
    """Yield steps until one of `stops` returns True; every stop sees every step."""
    for step in steps:
        yield step
        ends = [stop(step) for stop in stops]
        if any(ends):
            return


def tolerance(loss: float) -> Stop:
    """Stop once every item's best loss is at most `loss`; failed items do not count."""
    return lambda step: step.judged and bool((_remaining(step) <= loss).all())


def plateau(patience: int, improvement: float = 0.01) -> Stop:
    """Stop when no item's best loss has improved for a while; failed items do not count.

    A best loss that rises belongs to another objective, as when DITTO-2 changes its budget:
    counting then starts anew.

    Args:
        patience: iterations to look back.
        improvement: relative decrease that counts as one.
    """
    history: list[tuple[int, Tensor]] = []
    seen = 0

    def stop(step: Step) -> bool:
        nonlocal seen
        seen += 1
        if not step.judged:
            return False
        loss = _remaining(step)
        if history and bool((loss > history[-1][1]).any()):
            history.clear()
        history.append((seen, loss))
        early = [past for when, past in history if when <= seen - patience]
        if not early:
            return False
        before = early[-1]
        return bool((~(before - loss >= improvement * before.abs()) | loss.isneginf()).all())

    return stop


def _gradient(loss: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient, and which items have none that is finite: theirs is 0."""
    gradient = None
    if loss.requires_grad:
        gradient = torch.autograd.grad(loss.sum(), latent, allow_unused=True)[0]
    if gradient is None:
        raise GradientError("no gradient reaches x_T: something between x_T and loss is detached")
    fine = torch.isfinite(gradient).flatten(1).all(dim=1) & torch.isfinite(loss.detach())
    if not bool(fine.any()):
        losses = ", ".join(f"{value:.4g}" for value in loss.tolist())
        raise GradientError(f"a loss or the gradient of x_T is not finite (losses {losses})")
    return torch.where(expand_like(fine, gradient), gradient, 0.0), ~fine


def _failures(new: Tensor, i: int) -> tuple[str, ...]:
    return tuple(
        f"clip {item + 1} is left as it was before iteration {i + 1}: its loss or gradient is not "
        "finite"
        for item in new.nonzero().flatten().tolist()
    )
