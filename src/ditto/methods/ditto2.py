"""DITTO-2 (arXiv 2405.20289, Algorithm 1): optimise x_T through a distilled surrogate.

    repeat K times:
        x_0 ← G(x_T, c, w, T→0) in M steps, usually one; no checkpointing
        x_T ← Adam(x_T, ∇ 𝓛(f(x_0), y))
    return γ-sampling of x_T in T' steps

The clip is optimised in M steps and decoded in T', and the two differ (the paper's "domain gap").
A few times on the way the surrogate can be *corrected* by what decoding gives: it becomes
``G(x_T) + [decoded − G(x_T)]``, the bracket constant until the next correction. This is output
space mapping (Bandler et al. 2004): a cheap model, shifted to agree with the costly one where it
is evaluated. It is not in the paper; ``corrections=0`` is Algorithm 1 as printed, and with "every
step" it is a straight-through estimator: the value of what is decoded, the gradient of one step.

A shift agrees with decoding where it was made, but its gradient does not, so that where a target
cannot be met at all the corrected surrogate leads past the best. With ``keep="decoded"`` what was
decoded is judged by the true loss: the best of it is the result, and a clip that got worse since
the last correction goes back to its best and on in steps half as long, as a trust region does
(Alexandrov & Lewis 2001).

The chain's denoiser is a student distilled to few steps; one step of an undistilled model says
little about the others.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from ditto.controls.base import Control, Effort
from ditto.controls.held import held_to_tags
from ditto.controls.pulls import LatentStatistics
from ditto.controls.weights import corrected_effort, regulariser_weight, tag_weight, weighted_sum
from ditto.diffusion.consistency import Noise, gamma_sample
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Flow, expand_like
from ditto.errors import RequestError
from ditto.methods.base import OptimisingMethod, Problem, check_number
from ditto.methods.candidates import FEW_TOGETHER, MAX_CANDIDATES, TOGETHER, begun
from ditto.methods.corrections import (
    CALIBRATE_EVERY,
    CORRECTIONS,
    EVERY_STEP,
    Corrections,
    changes,
    phases_of,
)
from ditto.methods.proxies import Calibrate, can_estimate, proxied
from ditto.models.model import MusicModel
from ditto.models.student import OWN
from ditto.optimize import LR, MOMENTUM, Objective, Step, best_so_far, optimize
from ditto.paths import shown

CORRECTED_LR, CORRECTED_MOMENTUM, MAX_TRAVEL = 1.5e-2, 0.7, Effort().travel
"""Adam with corrections: largest learning rate, β₁, and the largest K · lr.

Every correction moves the minimum a little, and an optimiser of little momentum that takes larger
steps has caught up with it by the next one. Adam moves a value by about lr per iteration, so K · lr
bounds how far x_T travels from noise that the model knows: a longer way follows a melody more
closely at the price of the tags."""
STATISTICS = LatentStatistics()
"""The regulariser."""
GAMMAS = {"cm": 1.0, "ctm": 0.05, OWN: 0.0}
"""Default γ of each kind of student. CM knows only ping-pong sampling. CTM's is the smallest of
DITTO-2's range, 0.05 to 0.35: fresh noise takes the output off its target. A model that is its own
student takes many steps from near pure noise, where noise added is x_T forgotten: with γ = 1 and
8 steps nothing of x_T is left, and the surrogate says nothing of what is heard."""
FORGETS = 2
"""More steps than this with γ = 1 leave too little of x_T for a flow's student."""

Decode = Callable[[Tensor], Tensor]
"""x_T → x_0 as it will be decoded, the same at every call."""


def ditto2(
    x_T: Tensor,
    chain: Chain,
    objective: Objective,
    *,
    iterations: int = 70,
    lr: float = LR,
    momentum: float = MOMENTUM,
    surrogate_steps: int | Sequence[int] = 1,
    decode: Decode | None = None,
    calibrate: Calibrate | None = None,
    corrections: Corrections = CORRECTIONS,
    judge: Objective | None = None,
) -> Iterator[Step]:
    """Run lines 1–7 of Algorithm 1 of DITTO-2, with corrections if there is a `decode`.

    Losses of different M, or from before and after a correction, do not compare: each change
    restarts the best, so the last step's `best_x_T` is the best under the last objective; but with
    a `judge` the best is that of what was decoded: x_T, what corrections found, and what the last
    objective calls best. Decode it with `decode2`.

    Args:
        x_T: initial latents (B, …).
        chain: a distilled student as the denoiser, conditioning and w; its grid is for decoding and
            is not used here.
        objective: 𝓛(f(x_0), y) as a function of x_0 and x_T, one value per item.
        iterations: K.
        lr: Adam's learning rate.
        momentum: Adam's β₁.
        surrogate_steps: M, or one M for each of the K iterations (see `adaptive_schedule`).
        decode: lines 8–12, always with the same noise; called without gradients.
        calibrate: gives a new objective at every fourth correction, counted from the last.
        corrections: how many, at growing intervals, fewer where there are few iterations; or one in
            every iteration.
        judge: the true loss of what is decoded; called without gradients.

    Raises:
        ValueError: `surrogate_steps` has another length than K.
    """
    single = isinstance(surrogate_steps, int)
    budget = [surrogate_steps] * iterations if single else list(surrogate_steps)
    if len(budget) != iterations:
        raise ValueError(f"surrogate_steps has {len(budget)} entries for {iterations} iterations")
    phases = phases_of(budget, corrections if decode else 0)
    kept = None
    if judge is not None and decode is not None:
        kept = Kept(decode, judge, {i for i, phase in enumerate(phases) if changes(phases, i)})
        decode = kept.latest
    surrogate = Surrogate(chain, objective, decode, calibrate, last=phases[-1][1])
    surrogate.enter(*phases[0])
    steps = optimize(
        x_T,
        surrogate.render,
        lambda x_0, x_T: surrogate.objective(x_0, x_T),
        iterations=iterations,
        lr=lr,
        momentum=momentum,
        revise=None if kept is None else kept.revise,
    )

    def restart(step: Step) -> bool:
        # A loss of what is decoded compares with every other.
        return corrections != EVERY_STEP and phases[step.i] != phases[step.i - 1]

    for step in best_so_far(steps, restart):
        if kept is not None and step.i + 1 == iterations:
            kept.consider(step.best_x_T)
        yield step if kept is None else kept.told(step, last=step.i + 1 == iterations)
        if step.i + 1 < iterations:
            surrogate.enter(*phases[step.i + 1])


class Kept:
    """What was decoded on the way, the best of it by the true loss, and steps that shrink.

    Attributes:
        decode, judge: see `ditto2`.
        due: iterations before which x_T is decoded.
        loss: (B,) lowest true loss of each item.
        x_T, x_0: with that loss, and decoded.
        share: (B,) of each item's step, 1 until it is halved.
    """

    def __init__(self, decode: Decode, judge: Objective, due: Container[int]) -> None:
        """Begin without anything decoded."""
        self.decode, self.judge, self.due = decode, judge, due
        self.loss: Tensor | None = None

    @torch.no_grad()
    def consider(self, x_T: Tensor) -> Tensor:
        """Decode x_T, keep what is better, and return which items are not."""
        x_0 = self.decode(x_T)
        loss = self.judge(x_0, x_T).float()
        if self.loss is None:
            # A clip whose loss is not finite yields to any that is.
            self.loss = torch.where(loss.isfinite(), loss, torch.inf)
            self.x_T, self.x_0, self.share = x_T, x_0, torch.ones_like(loss)
            return torch.zeros_like(loss, dtype=torch.bool)
        better = loss < self.loss
        self.loss = torch.where(better, loss, self.loss)
        self.x_T = torch.where(expand_like(better, x_T), x_T, self.x_T)
        self.x_0 = torch.where(expand_like(better, x_0), x_0, self.x_0)
        return ~better

    def revise(self, i: int, x_T: Tensor) -> tuple[Tensor, Tensor]:
        """Go back to the best, in steps half as long, where decoding does not agree."""
        if i in self.due:
            worse = self.consider(x_T)
            self.share = torch.where(worse, self.share / 2, self.share)
            return self.x_T, self.share
        return x_T, self.share

    def latest(self, x_T: Tensor) -> Tensor:
        """Return what is decoded of the x_T that `revise` gave."""
        return self.x_0

    def told(self, step: Step, last: bool) -> Step:
        """Return the step with the best that was decoded."""
        assert self.loss is not None
        judged = last or step.i in self.due
        return replace(step, best_loss=self.loss, best_x_T=self.x_T, judged=judged)


@dataclass
class Surrogate:
    """The M-step student plus its current additive correction.

    Attributes:
        chain, objective, decode, calibrate: see `ditto2`; a calibration replaces the objective.
        last: number of corrections in all.
        steps: M of the present iteration.
        due: corrections that should have been made by the present iteration.
        made: corrections made.
        shift: decoded x_0 minus the student's at the last correction.
    """

    chain: Chain
    objective: Objective
    decode: Decode | None
    calibrate: Calibrate | None
    last: int
    steps: int = 1
    due: int = 0
    made: int = 0
    shift: Tensor | None = None

    def enter(self, steps: int, due: int) -> None:
        """Begin an iteration of M = `steps`, before which `due` corrections should be made."""
        self.steps, self.due = steps, due

    def render(self, x_T: Tensor) -> Tensor:
        """Return the corrected x_0 of x_T in M steps; makes the correction that is due."""
        grid = self.chain.schedule.timesteps(self.steps)
        x_0 = ddim(replace(self.chain, timesteps=grid), x_T)
        if self.decode is not None and self.due > self.made:
            self.made = self.due
            with torch.no_grad():
                decoded = self.decode(x_T.detach())
                self.shift = decoded - x_0
                if self.calibrate and (self.last - self.made) % CALIBRATE_EVERY == 0:
                    self.objective = self.calibrate(decoded)
        return x_0 if self.shift is None else x_0 + self.shift


def adaptive_schedule(iterations: int) -> list[int]:
    """Return the adaptive budget (DITTO-2 §5.3): M=1 for ⌊K/2⌋, 2 for ⌊3K/8⌋, 4 for the rest."""
    ones, twos = iterations // 2, 3 * iterations // 8
    return [1] * ones + [2] * twos + [4] * (iterations - ones - twos)


@torch.no_grad()
def decode2(x_T: Tensor, chain: Chain, gamma: float, noise: Noise) -> Tensor:
    """Run lines 8–12 of Algorithm 1 of DITTO-2: γ-sampling over the chain's grid (T' steps)."""
    return gamma_sample(chain, x_T, gamma, noise)


@dataclass(frozen=True, kw_only=True)
class Ditto2(OptimisingMethod):
    """DITTO-2: optimise through a distilled student, decode in a few steps (arXiv 2405.20289).

    Attributes:
        surrogate_steps: M, the student's steps while optimising, or "adaptive": 1, then 2, then 4.
        decode_steps: T', the student's steps for the output; by default what it was made for, of a
            model that is its own student 8.
        corrections: times the surrogate is corrected by decoding, or "every step"; 0 is the paper's
            algorithm.
        keep: "surrogate", the best by the corrected surrogate; or "decoded", the best of what was
            decoded, by the true loss: corrections that do not help are taken back.
        hear: what the loss is of while optimising with corrections: an "estimate", which needs no
            decoder where a control has one and is corrected by what is heard; the "draft" of the
            fast vocoder; or the "sound" of the whole decoder, as in the papers.
        candidates: noises to choose the start from: the one whose clip without control is nearest
            the target, by what the first iteration hears; 1 begins at the request's own. By default
            with corrections the controls' own.
        max_travel: the default lr is at most this / K, which bounds how far x_T goes from the noise
            that the model knows; by default with corrections the controls' own, else none.
        regulariser: λ of the pull of x_T's statistics towards those of noise (DNO, see
            `LatentStatistics`); by default with corrections the controls' own, else 0.
        tag_pull: λ of the pull towards the tags, see `held_to_tags`; by default with corrections
            the controls' own, else 0.
        gamma: share of fresh noise in decoding, 0 to 1; by default 0.05, of a CM student 1, of a
            model that is its own student 0.
        lr: Adam's learning rate on x_T; by default 0.015 with corrections (K · lr at most 1.05),
            the papers' 5e-3 without.
        momentum: Adam's β₁; by default 0.7 with corrections, 0.9 without.
    """

    surrogate_steps: int | Literal["adaptive"] = 1
    decode_steps: int | None = None
    corrections: int | Literal["every step"] = CORRECTIONS
    keep: Literal["surrogate", "decoded"] = "surrogate"
    hear: Literal["estimate", "draft", "sound"] = "estimate"
    candidates: int | None = None
    max_travel: float | None = None
    regulariser: float | None = None
    tag_pull: float | None = None
    gamma: float | None = None
    name = "ditto2"
    summary = "DITTO-2, through the student"
    limits = OptimisingMethod.limits | {
        "decode_steps": (1, 20),
        "candidates": (1, MAX_CANDIDATES),
        "max_travel": (1e-3, 1e3),
        "regulariser": (0.0, 1e3),
        "tag_pull": (0.0, 1e3),
        "gamma": (0.0, 1.0),
    }

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for name, word, low, high in (
            ("surrogate_steps", "adaptive", 1, 20),
            ("corrections", EVERY_STEP, 0, 1000),
        ):
            value = getattr(self, name)
            if isinstance(value, str) and value != word:
                raise RequestError(
                    f'{name} must be a whole number from {low} to {high}, or "{word}", '
                    f"not {shown(value)}"
                )
            if value != word:
                object.__setattr__(self, name, check_number(name, value, low, high))
        if self.keep not in ("surrogate", "decoded"):
            raise RequestError(f'keep must be "surrogate" or "decoded", not {shown(self.keep)}')
        if self.hear not in ("estimate", "draft", "sound"):
            raise RequestError(
                f'hear must be "estimate", "draft" or "sound", not {shown(self.hear)}'
            )
        if self.keep == "decoded" and not self.corrections:
            raise RequestError('keep "decoded" needs corrections, which decode')

    def suited(self, controls: Sequence[Control]) -> Self:
        """Fill in how far x_T may go, and what keeps it like noise; the paper has neither."""
        own: dict[str, float] = {"candidates": 1, "regulariser": 0.0, "tag_pull": 0.0}
        if self.corrections:
            effort = corrected_effort(controls)
            own = {"candidates": effort.candidates, "max_travel": effort.travel}
            control = weighted_sum(controls)
            own |= {"regulariser": regulariser_weight(control), "tag_pull": tag_weight(control)}
        return replace(self, **{n: value for n, value in own.items() if getattr(self, n) is None})

    def default_iterations(self, controls: Sequence[Control]) -> int:
        """Return K: with corrections the controls' own for it, otherwise the papers'."""
        if not self.corrections:
            return super().default_iterations(controls)
        return corrected_effort(controls).iterations

    def resolve(self, model: MusicModel, guidance: float, iterations: int) -> Self:
        """Fill in Adam's settings, T' and γ.

        Raises:
            RequestError: the model has no student, or one that was not taught this guidance.
        """
        student = model.distilled
        if student is None:
            raise RequestError(
                f"the model {model.name!r} has no student, which ditto2 needs: choose the method "
                "ditto"
            )
        low, high = student.guidance
        if not low <= guidance <= high:
            known = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
            raise RequestError(
                f"this model's student knows guidance {known}, not {guidance:g}: choose ditto"
            )
        return replace(
            super().resolve(model, guidance, iterations),
            decode_steps=self.decode_steps or student.steps,
            gamma=GAMMAS[student.kind] if self.gamma is None else self.gamma,
        )

    def check(self, problem: Problem) -> None:
        """Refuse decoding that would forget what was optimised.

        Raises:
            RequestError: with what to change.
        """
        steps, flow = self.decode_steps or 0, isinstance(problem.model.student_schedule, Flow)
        if flow and self.gamma == 1 and steps > FORGETS:
            raise RequestError(
                f"gamma 1 in {steps} steps forgets x_T, which is what ditto2 optimises: give "
                f"gamma 0, or decode in at most {FORGETS} steps"
            )

    def adam(self, iterations: int) -> dict[str, float]:
        """Return Adam's defaults: larger steps and less momentum with corrections."""
        if self.corrections:
            return corrected_adam(iterations, self.max_travel)
        adam, travel = super().adam(iterations), self.max_travel
        return adam if travel is None else adam | {"lr": min(adam["lr"], travel / iterations)}

    def optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        """Run lines 1–7 of Algorithm 1, with corrections, from the best of the candidates."""
        if self.tag_pull and problem.control is not None:
            held = held_to_tags(problem.control, problem.tags, self.tag_pull, problem.model)
            problem = replace(problem, control=held)
        searched, decoder, batch = problem, self, TOGETHER
        if self.corrections and self.hear == "estimate" and can_estimate(problem.model):
            control = None if problem.control is None else problem.control.proxy()
            searched, decoder = replace(problem, control=control), _OneStep(**vars(self))
            batch = 1 if problem.model.low_memory else FEW_TOGETHER
        return begun(
            x_T,
            searched,
            decoder,
            self.candidates or 1,
            lambda start: self._optimise(start, problem),
            batch,
        )

    def _optimise(self, x_T: Tensor, problem: Problem) -> Iterator[Step]:
        objective, calibrate, judge = problem.objective, None, None
        corrected = bool(self.corrections) and problem.control is not None
        if corrected:
            if self.hear != "sound":
                objective, calibrate = proxied(problem, draft=self.hear == "draft")
            judge = problem.objective if self.keep == "decoded" else None
        objective, calibrate = self._regularised(problem, objective, calibrate)
        budget = self.surrogate_steps
        if isinstance(budget, str):
            budget = adaptive_schedule(problem.iterations)
        steps = ditto2(
            x_T,
            self._chain(problem),
            objective,
            surrogate_steps=budget,
            decode=(lambda x: self.decode(x, problem)) if corrected else None,
            calibrate=calibrate,
            corrections=self.corrections,
            judge=judge,
            **self.settings(problem),
        )
        return self.until_stopped(steps, problem)

    def _regularised(
        self, problem: Problem, objective: Objective, calibrate: Calibrate | None
    ) -> tuple[Objective, Calibrate | None]:
        """Add the pull of x_T's statistics to the objective, and to each calibrated one."""
        weight = self.regulariser
        if not weight:
            return objective, calibrate

        def pulled(loss: Objective) -> Objective:
            return lambda x_0, x_T: loss(x_0, x_T) + weight * STATISTICS.of(x_T)

        if calibrate is None:
            return pulled(objective), None
        return pulled(objective), lambda decoded: pulled(calibrate(decoded))

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Run lines 8–12 of Algorithm 1."""
        gamma = 0.0 if self.gamma is None else self.gamma
        return decode2(x_T, self._chain(problem), gamma, problem.new_noise())

    def _chain(self, problem: Problem) -> Chain:
        return problem.student_chain(self.decode_steps)


class _OneStep(Ditto2):
    """What candidates are judged by: the one step that is optimised through, without noise."""

    def decode(self, x_T: Tensor, problem: Problem) -> Tensor:
        """Return the student's x_0 in one step."""
        chain = self._chain(problem)
        return ddim(replace(chain, timesteps=chain.schedule.timesteps(1)), x_T)


def corrected_adam(iterations: int, max_travel: float | None = None) -> dict[str, float]:
    """Return Adam's settings with corrections."""
    travel = MAX_TRAVEL if max_travel is None else max_travel
    return {"lr": min(CORRECTED_LR, travel / iterations), "momentum": CORRECTED_MOMENTUM}
