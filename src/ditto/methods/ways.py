"""Every method by the name that ``Request.method`` and ``--method`` give it, with what it admits.

A way has up to two parts: `steps` optimises x_T, and `decode` makes x_0 of it. What guides the
sampling itself, or nothing at all, has `decode` alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

from torch import Tensor

from ditto.controls.balance import balanced
from ditto.controls.base import Control, Output
from ditto.controls.regions import Region
from ditto.diffusion.consistency import Noise
from ditto.diffusion.samplers import Advance, Chain, ancestral, ddim, ddim_step, ddpm, dpm_solver_pp
from ditto.errors import RequestError
from ditto.methods.controlnet import controlnet, curves_of
from ditto.methods.ditto import Sampler, decode, ditto
from ditto.methods.ditto2 import CORRECTIONS, Calibrate, adaptive_schedule, decode2, ditto2
from ditto.methods.doodl import decode_doodl, doodl
from ditto.methods.guidance import FREEDOM_STRENGTH, GG_STRENGTH, freedom, guidance_gradients
from ditto.methods.masking import Known, known_of, multidiffusion, naive_masking
from ditto.models.controlnet import adapter_of
from ditto.models.music_model import MusicModel, lowered
from ditto.optimize import LR, MOMENTUM, Objective, Step, Stop, never

Method = Literal[
    "ditto2",
    "ditto",
    "doodl",
    "freedom",
    "gg",
    "multidiffusion",
    "md50",
    "naive",
    "controlnet",
    "none",
]
SAMPLERS = ("ddim", "dpm++", "ddpm")


@dataclass(frozen=True, eq=False)
class Job:
    """What a method is to do, and with what.

    Attributes:
        model: whose sound the controls hear.
        chain: denoiser (the student's for "ditto2"), grid, conditioning and CFG scale.
        controls: what the output must follow.
        fresh: begins the request's noise: ε of x_T's shape, each item's from its own generator.
        iterations, lr, momentum, stop: of an optimisation.
        sampler: one of `SAMPLERS` that the way admits.
        checkpointing: of "ditto".
        surrogate_steps, gamma, corrections: of "ditto2".
        strength: of "freedom" and "gg"; None is their default.
    """

    model: MusicModel
    chain: Chain
    controls: tuple[Control, ...]
    fresh: Callable[[], Noise]
    iterations: int = 70
    lr: float = LR
    momentum: float = MOMENTUM
    stop: Stop = never
    sampler: str = "ddim"
    checkpointing: bool = True
    surrogate_steps: int | Literal["adaptive"] = 1
    gamma: float = 0.0
    corrections: int = CORRECTIONS
    strength: float | None = None

    @cached_property
    def noise(self) -> Noise:
        """The request's noise, drawn from where the last call left it."""
        return self.fresh()

    @cached_property
    def control(self) -> Control | None:
        """All controls as one, weighed by `balanced`."""
        return balanced(self.controls)

    def objective(self, x_0: Tensor) -> Tensor:
        """𝓛 of x_0, one value an item (B,)."""
        if self.control is None:
            raise ValueError("there is no control to follow")
        return self.control(x_0, self.model)

    @property
    def sample(self) -> Sampler:
        """The sampler as ``(chain, x_T) -> x_0``."""
        if self.sampler == "ddpm":
            return partial(_ddpm, self.noise)
        return {"ddim": ddim, "dpm++": dpm_solver_pp}[self.sampler]

    @property
    def advance(self) -> Advance:
        """One step of the sampler."""
        return ancestral(self.noise) if self.sampler == "ddpm" else ddim_step

    @property
    def optimisation(self) -> dict[str, Any]:
        """Settings that all optimisations share."""
        return {
            "iterations": self.iterations,
            "lr": self.lr,
            "momentum": self.momentum,
            "stop": self.stop,
        }


@dataclass(frozen=True)
class Way:
    """A method.

    Attributes:
        about: what it is, for help.
        decode: x_0 of x_T; called without gradients.
        steps: the optimisation of x_T, if it is one.
        samplers: which of `SAMPLERS` it can use.
        check: refuses a job before any work is done.
    """

    about: str
    decode: Callable[[Job, Tensor], Tensor]
    steps: Callable[[Job, Tensor], Iterator[Step]] | None = None
    samplers: tuple[str, ...] = ("ddim",)
    check: Callable[[Job], object] = lambda job: None

    @property
    def optimises(self) -> bool:
        """Whether it optimises x_T."""
        return self.steps is not None


def _ddpm(noise: Noise, chain: Chain, x_T: Tensor) -> Tensor:
    return ddpm(chain, x_T, noise)


def _sampled(job: Job, x_T: Tensor) -> Tensor:
    return decode(x_T, job.chain, job.sample)


def _ditto(job: Job, x_T: Tensor) -> Iterator[Step]:
    return ditto(
        x_T,
        job.chain,
        job.objective,
        sampler=job.sample,
        checkpointing=job.checkpointing,
        **job.optimisation,
    )


def _ditto2(job: Job, x_T: Tensor) -> Iterator[Step]:
    calls = (
        adaptive_schedule(job.iterations)
        if job.surrogate_steps == "adaptive"
        else job.surrogate_steps
    )
    settings: dict[str, Any] = {"surrogate_steps": calls, **job.optimisation}
    if not (job.corrections and job.control):
        return ditto2(x_T, job.chain, job.objective, **settings)
    objective, calibrate = estimates(job.control, job.model)
    heard = partial(_decoded2, job)
    return ditto2(
        x_T,
        job.chain,
        objective,
        decode=heard,
        calibrate=calibrate,
        corrections=job.corrections,
        **settings,
    )


def estimates(control: Control, model: MusicModel) -> tuple[Objective, Calibrate]:
    """What a corrected surrogate minimises, and how that is calibrated at a decoded x_0.

    That is the control's estimate, where the model's x_0 gives one cheaply; and sound is the
    model's draft.
    """
    estimate = control.estimate() if model.has_mel else control

    def calibrate(decoded: Tensor) -> Objective:
        return partial(_loss, estimate.calibrated(Output(decoded, model)), model.draft)

    return partial(_loss, estimate, model.draft), calibrate


def _loss(control: Control, model: MusicModel, x_0: Tensor) -> Tensor:
    return control(x_0, model)


def _decoded2(job: Job, x_T: Tensor) -> Tensor:
    return decode2(x_T, job.chain, job.gamma, job.fresh())


def _doodl(job: Job, x_T: Tensor) -> Iterator[Step]:
    return doodl(x_T, job.chain, job.objective, noise=job.noise, **job.optimisation)


def _decoded_doodl(job: Job, x_T: Tensor) -> Tensor:
    return decode_doodl(x_T, job.chain)


def _freedom(job: Job, x_T: Tensor) -> Tensor:
    strength = FREEDOM_STRENGTH if job.strength is None else job.strength
    return freedom(x_T, job.chain, job.objective, job.noise, strength=strength, advance=job.advance)


def _guidance_gradients(job: Job, x_T: Tensor) -> Tensor:
    # A region's loss is of log-mels: its gradient in the model space is smaller by the square of
    # the space's unit.
    strength = GG_STRENGTH / job.model.bands.variance if job.strength is None else job.strength
    known = _known(job, x_T) if _is_region(job) else None
    return guidance_gradients(
        x_T, job.chain, job.objective, strength=strength, known=known, advance=job.advance
    )


def _naive(job: Job, x_T: Tensor) -> Tensor:
    return naive_masking(x_T, job.chain, _known(job, x_T), job.noise)


def _multidiffusion(until: float, job: Job, x_T: Tensor) -> Tensor:
    return multidiffusion(x_T, job.chain, _known(job, x_T), job.noise, until=until)


def _controlnet(job: Job, x_T: Tensor) -> Tensor:
    curves = curves_of(job.controls, job.model, len(x_T), x_T.shape[-1]).to(x_T)
    adapter = lowered(adapter_of(job.model), job.model.precision)
    return controlnet(x_T, job.chain, adapter, curves, job.sample)


def _known(job: Job, like: Tensor) -> Known:
    known = known_of(job.controls)
    return Known(known.mask.to(like), known.reference.to(like))


def _is_region(job: Job) -> bool:
    return len(job.controls) == 1 and isinstance(job.controls[0], Region)


def _check_some(job: Job) -> None:
    if not job.controls:
        raise RequestError(
            "this method guides the sampling by a control: give one, or choose the method none"
        )


def _check_strength(job: Job) -> None:
    _check_some(job)
    if job.strength is None and not _is_region(job):
        raise RequestError(
            "gg's strength has a default for a single region only, since it depends on the loss's scale: give one, or "
            "choose freedom"
        )


def _check_known(job: Job) -> None:
    known_of(job.controls)


def _check_controlnet(job: Job) -> None:
    adapter_of(job.model)
    curves_of(job.controls, job.model, 1, job.model.spec.clip_frames)


WAYS: dict[Method, Way] = {
    "ditto2": Way("DITTO-2, through the student", _decoded2, _ditto2),
    "ditto": Way("DITTO, through the whole chain", _sampled, _ditto, ("ddim", "dpm++")),
    "doodl": Way("DOODL, through EDICT's two chains", _decoded_doodl, _doodl),
    "freedom": Way(
        "FreeDoM's guidance with time travel", _freedom, None, ("ddim", "ddpm"), _check_some
    ),
    "gg": Way("Guidance Gradients", _guidance_gradients, None, ("ddim", "ddpm"), _check_strength),
    "multidiffusion": Way("MultiDiffusion", partial(_multidiffusion, 1.0), check=_check_known),
    "md50": Way(
        "MultiDiffusion for half of the steps", partial(_multidiffusion, 0.5), check=_check_known
    ),
    "naive": Way("masking", _naive, check=_check_known),
    "controlnet": Way("Music ControlNet's adapter", _controlnet, None, SAMPLERS, _check_controlnet),
    "none": Way("no control", _sampled, None, SAMPLERS),
}
"""By name. "naive", "multidiffusion" and "md50" keep a region (inpaint, outpaint, a recording's
loop) and take no other control; "controlnet" takes a loudness curve, a melody or both; the others
take any control."""
