"""One frozen Request → `run` → Result: what the command line, the API and the benches all call."""

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import SUBTYPES, write
from ditto.controls.base import Control, Output
from ditto.controls.weights import balanced, papers_iterations
from ditto.diffusion.samplers import Chain
from ditto.errors import OutputError, RequestError, TagError
from ditto.latents import Latent
from ditto.methods.ditto2 import CORRECTIONS, corrected_adam, item_noise
from ditto.methods.guidance import FREEDOM_STRENGTH
from ditto.methods.ways import SAMPLERS, WAYS, Job, Method, Way
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.optimize import LR, MOMENTUM, Step, Stop, never, plateau, tolerance
from ditto.paths import StrPath, atomic_file, check_output, printable
from ditto.plots import Panel, clip_picture

METHODS: tuple[Method, ...] = get_args(Method)
MAX_SEED = 2**31 - 1
MAX_COMMENT = 1900
LIMITS = (
    ("guidance", 0.0, 30.0),
    ("seconds", 0.05, 3600.0),
    ("gamma", 0.0, 1.0),
    ("tolerance", -1e9, 1e9),
    ("strength", 0.0, 1e3),
    ("lr", 1e-6, 1.0),
    ("momentum", 0.0, 0.999),
)
GAMMAS = {"cm": 1.0, "ctm": 0.05}
"""γ of each kind of student: CM knows only ping-pong sampling. CTM's is the least of DITTO-2's
range, 0.05 to 0.35: the optimisation knows nothing of fresh noise, so that every bit of it takes
the output off its target."""


@dataclass(frozen=True)
class Request:
    """Everything that determines a clip, given the model.

    Attributes:
        controls: what the output must follow; none is plain generation.
        tags: genre, mood, tempo.
        seed: of the first item; item i of a batch draws x_T from ``seed + i``, as it would alone.
        count: clips to make at once.
        seconds: length; None is the model's window.
        method: one of `ditto.methods.ways.WAYS`: "ditto2" (the student), "ditto" (the whole chain),
            what the papers compare these with, or "none" to sample without control. None is
            "ditto2" for a model with a student, otherwise "ditto", and "none" if there is no
            control.
        iterations: K.
        steps: T of all methods but "ditto2".
        lr, momentum: Adam's learning rate on x_T and its β₁; None are the method's: the papers'
            5e-3 and 0.9, and for "ditto2" with corrections those of `corrected_adam`.
        guidance: CFG scale w (0 unconditional, 1 conditional); None is the model's default.
        sampler: "ddim", "dpm++" or "ddpm", as far as the method admits it.
        checkpointing: trade a third of the time for memory that does not grow with T.
        surrogate_steps: M of "ditto2", the student's steps while optimising; or "adaptive": 1, then
            2, then 4.
        decode_steps: T' of "ditto2", the student's steps for the output.
        corrections: of "ditto2", times on the way that the surrogate is corrected by what decoding
            gives, since an x_T that M steps take to its target, T' may take elsewhere (see
            `ditto.methods.ditto2`); between them controls may hear estimates. 0 is the paper's
            algorithm.
        gamma: share of fresh noise in these, 0 (none) to 1; None is that of the student's kind.
        tolerance: stop once every item's loss is at most this.
        patience: stop once no item's loss has fallen by 1 % within so many iterations.
        start: x_T to begin from in place of noise, for every item alike; `seconds` is then its
            length if not given.
        strength: of "freedom" and "gg", how far each step descends; None is the method's default.
    """

    controls: tuple[Control, ...] = ()
    tags: Tags = field(default_factory=Tags)
    seed: int = 0
    count: int = 1
    seconds: float | None = None
    method: Method | None = None
    iterations: int = 70
    steps: int = 20
    lr: float | None = None
    momentum: float | None = None
    guidance: float | None = None
    sampler: str = "ddim"
    checkpointing: bool = True
    surrogate_steps: int | Literal["adaptive"] = 1
    decode_steps: int = 2
    corrections: int = CORRECTIONS
    gamma: float | None = None
    tolerance: float | None = None
    patience: int | None = None
    start: Latent | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        """Check every setting.

        Raises:
            RequestError: a setting is out of range or unknown.
        """
        if self.method is not None and self.method not in METHODS:
            raise RequestError(
                f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}"
            )
        if self.sampler not in SAMPLERS:
            raise RequestError(
                f"unknown sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}"
            )
        _whole("seed", self.seed, 0, MAX_SEED)
        _whole("count", self.count, 1, 256)
        _whole("iterations", self.iterations, 1, 10_000)
        _whole("steps", self.steps, 1, 1000)
        _whole("decode_steps", self.decode_steps, 1, 20)
        _whole("corrections", self.corrections, 0, 1000)
        if self.surrogate_steps != "adaptive":
            _whole("surrogate_steps", self.surrogate_steps, 1, 20, ', or "adaptive"')
        if self.patience is not None:
            _whole("patience", self.patience, 1, 10_000)
        for name, low, high in LIMITS:
            if (value := getattr(self, name)) is not None:
                _finite(name, value, low, high)

    @property
    def objective(self) -> Control | None:
        """All controls as one, weighed by `balanced` if they have no weights of their own; or
        None.
        """
        return balanced(self.controls)

    def resolved(self, model: MusicModel) -> "Request":
        """The request with the method and what it leaves to that: Adam's settings, γ, FreeDoM's
        strength.

        Raises:
            RequestError: the method does not know the sampler, or the model has no student, or one
                that does not know this guidance.
        """
        method = self.method
        if method is None:
            method = "none" if not self.controls else "ditto2" if model.distilled else "ditto"
        if self.sampler not in WAYS[method].samplers:
            raise RequestError(
                f"the method {method} does not sample by {self.sampler}: leave the sampler out"
            )
        request = replace(self, method=method, **self._left_to(method))
        if method != "ditto2":
            return request
        student = model.distilled
        if student is None:
            raise RequestError(
                f"the model {model.name!r} has no student, which ditto2 needs: choose the method ditto"
            )
        low, high = student.guidance
        w = model.guidance if self.guidance is None else self.guidance
        if not low <= w <= high:
            raise RequestError(
                f"this model's student knows guidance from {low:g} to {high:g}, not {w:g}: choose ditto"
            )
        return replace(request, gamma=GAMMAS[student.kind] if self.gamma is None else self.gamma)

    def _left_to(self, method: Method) -> dict[str, Any]:
        """Settings of the method in place of those that are None."""
        corrected = method == "ditto2" and self.corrections > 0
        left = corrected_adam(self.iterations) if corrected else {"lr": LR}
        left |= {"strength": FREEDOM_STRENGTH} if method == "freedom" else {}
        return {name: value for name, value in left.items() if getattr(self, name) is None}

    def describe(self) -> dict[str, Any]:
        """The request as JSON."""
        names = ["seed", "count", "seconds", "method", "guidance"]
        names += ["iterations", "lr"] if self.method is None or WAYS[self.method].optimises else []
        own = ["surrogate_steps", "decode_steps", "gamma", "corrections"]
        names += own if self.method == "ditto2" else ["steps", "sampler"]
        names += [
            name
            for name in ("momentum", "tolerance", "patience", "strength")
            if getattr(self, name) is not None
        ]
        prompt = {} if self.tags.prompt is None else {"prompt": self.tags.prompt}
        start = {} if self.start is None else {"start": self.start.name}
        return {
            "controls": [control.describe() for control in self.controls],
            "tags": {"genre": self.tags.genre, "mood": self.tags.mood, "tempo": self.tags.tempo}
            | prompt,
            **{name: getattr(self, name) for name in names},
            **start,
        }


@dataclass(frozen=True, eq=False)
class Result:
    """What a request came to.

    Attributes:
        request, model: what was run, on what.
        x_T: (B, …, frames) the latents decoded, of the model's `shape`.
        x_0: (B, …, frames).
        audio: (B, samples) float32 within ±1: what the controls heard.
        losses: (K, B) of the optimisation; K = 0 without one.
        errors: per-control errors of the decoded output, each (B,).
        timings: seconds by phase.
        sound: (B, channels, samples) as it is saved, where that is more than `audio`.
    """

    request: Request
    model: MusicModel
    x_T: Tensor
    x_0: Tensor
    audio: Tensor
    losses: Tensor
    errors: dict[str, Tensor]
    timings: dict[str, float]
    sound: Tensor | None = None

    def report(self, item: int = 0) -> dict[str, Any]:
        """Everything about one item, as JSON: request, seed, model, versions, errors, timings."""
        return {
            "request": self.request.describe() | {"seed": self.request.seed + item, "count": 1},
            "model": self.model.describe(),
            "versions": versions(),
            "sample_rate": self.model.spec.sample_rate,
            "seconds": self.audio.shape[1] / self.model.spec.sample_rate,
            "errors": {name: _json(value[item].item()) for name, value in self.errors.items()},
            "loss": [_json(v) for v in self.losses[:, item].tolist()],
            "timings": {name: round(value, 3) for name, value in self.timings.items()},
        }

    def save(self, path: StrPath, item: int = 0, *, force: bool = False) -> list[Path]:
        """Write one item's sound, and beside it its picture (.png) and report (.json).

        The request, seed and hashes are in the sound file's own tags too.

        Returns:
            The three paths.

        Raises:
            OutputError: a file exists already (without `force`), cannot be written, or is not a
                sound file by its name;
            nothing is then written.
        """
        sound, picture, report = output_files(path, force=force)
        text = json.dumps(self.report(item), indent=2)
        tags = {
            "title": self._title(item),
            "software": f"ditto-music {version('ditto-music')}",
            "comment": self._comment(item),
        }
        write(sound, self.samples(item), self.model.spec.sample_rate, tags=tags, force=force)
        with atomic_file(report, force=force) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        clip_picture(
            picture,
            self.model.to_mel(self.x_0)[item],
            self.model.spec,
            self._traces(item),
            self.losses[:, item].tolist(),
            self._title(item),
            force=force,
        )
        return [sound, picture, report]

    def _traces(self, item: int) -> list[Panel]:
        control = self.request.objective
        with torch.no_grad():
            return control.traces(Output(self.x_0, self.model, self.audio), item) if control else []

    def _comment(self, item: int) -> str:
        """Request, model and versions, without what a tag has no room for (wav: 2000 bytes)."""
        whole = {
            key: value
            for key, value in self.report(item).items()
            if key in ("request", "model", "versions")
        }
        text = json.dumps(whole, separators=(",", ":"))
        if len(text.encode()) <= MAX_COMMENT:
            return text
        names = ", ".join(control["control"] for control in whole["request"]["controls"])
        short = {
            "request": whole["request"] | {"controls": f"{names} (in full in the .json)"},
            "model": whole["model"],
        }
        return json.dumps(short, separators=(",", ":"))

    def _title(self, item: int) -> str:
        return (
            f"{self.request.tags.caption()} Seed {self.request.seed + item}, {self.request.method}."
        )

    def latent(self, item: int = 0) -> Latent:
        """x_T of one item, to keep, vary, or start from again."""
        about = self.report(item)["request"]
        return Latent(
            self.x_T[item : item + 1].clone(), self.model.sha256, about, f"seed {about['seed']}"
        )

    def samples(self, item: int = 0) -> np.ndarray:
        """Sound of one item, shape (samples,), or (channels, samples) of a model that makes stereo,
        float32.
        """
        return (self.audio if self.sound is None else self.sound)[item].numpy()


def output_files(path: StrPath, *, force: bool = False) -> tuple[Path, Path, Path]:
    """The sound, picture and report that saving to `path` would write, once it is clear that it
    can.

    Raises:
        OutputError: the name's ending is not that of a sound file, or a file may not be written.
    """
    sound = Path(path)
    if sound.suffix.lower() not in SUBTYPES:
        raise OutputError(
            f"cannot write {printable(path)}: its name must end in {', '.join(SUBTYPES)}"
        )
    files = sound, sound.with_suffix(".png"), sound.with_suffix(".json")
    for file in files:
        check_output(file, force=force)
    return files


def checked_shape(request: Request, model: MusicModel) -> tuple[int, ...]:
    """x_0's shape without the batch, once it is clear that controls and latent fit the model.

    Raises:
        DittoError: they do not.
    """
    shape = model.shape(request.seconds)
    if request.start is not None:
        frames = request.start.x_T.shape[-1] if request.seconds is None else shape[-1]
        shape = (*shape[:-1], frames)
        request.start.check(model, shape)
    for control in request.controls:
        control.check(model, shape[-1])
    return shape


def initial_x_T(request: Request, model: MusicModel, shape: Sequence[int]) -> Tensor:  # noqa: N802 - the papers' name
    """x_T (count, *shape) where a request begins: noise by its seeds, or its latent."""
    if request.start is not None:
        return request.start.x_T.expand(request.count, *shape).clone().to(model.device)
    return draw_x_T(shape, request.seed, request.count, model.noise).to(model.device)


Watch = Callable[[Step], None]
"""Called after every iteration, for progress bars and previews; raising an exception cancels."""


def run(
    request: Request, model: MusicModel, *, watch: Watch | None = None, stop: Stop = never
) -> Result:
    """Carry out a request.

    Raises:
        DittoError: the request does not fit the model (unknown tag, curve beyond the clip's end,
            …).
    """
    request = request.resolved(model)
    shape = checked_shape(request, model)
    job = job_of(request, model, shape, stop)
    assert request.method is not None
    way = WAYS[request.method]
    way.check(job)
    x_T = initial_x_T(request, model, shape)
    started = time.perf_counter()
    losses, x_T = _optimized(way, job, x_T, watch)
    optimized = time.perf_counter()
    with torch.no_grad():
        x_0 = way.decode(job, x_T)
        sound = model.to_sound(x_0)
        audio = sound.mean(dim=1)
        errors = job.control.errors(Output(x_0, model, audio)) if job.control else {}
    timings = {"optimize": optimized - started, "decode": time.perf_counter() - optimized}
    stereo = sound.cpu() if sound.shape[1] > 1 else None
    return Result(
        request, model, x_T.cpu(), x_0.cpu(), audio.cpu(), losses, errors, timings, stereo
    )


def generate(
    model: MusicModel,
    controls: Sequence[Control] | Control = (),
    *,
    tags: Tags | Mapping[str, Any] | str | None = None,
    watch: Watch | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Result:
    """`run` in one call.

    Args:
        model: from `ditto.load`.
        controls: one control or several.
        tags: `Tags`, a mapping with genre, mood and tempo, or text such as "genre=jazz tempo=110";
            for a model that reads prompts also a mapping with prompt.
        watch: see `run`.
        stop: see `run`.
        settings: the other fields of `Request` (seed, count, …); an unknown name is a TypeError.
            `iterations` is the papers' for the controls if not given.

    Raises:
        DittoError: see `Request` and `run`.
    """
    terms = (controls,) if isinstance(controls, Control) else tuple(controls)
    settings.setdefault("iterations", papers_iterations(terms))
    return run(
        Request(controls=terms, tags=_as_tags(tags), **settings), model, watch=watch, stop=stop
    )


def _as_tags(tags: Tags | Mapping[str, Any] | str | None) -> Tags:
    if isinstance(tags, Tags):
        return tags
    if isinstance(tags, str):
        return Tags.parse(tags)
    unknown = sorted(set(tags or {}) - {"genre", "mood", "tempo", "prompt"})
    if unknown:
        raise TagError(
            f"unknown tags {', '.join(unknown)}: there are genre, mood, tempo and prompt"
        )
    return Tags(**(tags or {}))


def draw_x_T(  # noqa: N802 - the papers' name
    shape: Sequence[int],
    seed: int,
    count: int,
    noise: Callable[[Sequence[int], torch.Generator], Tensor] | None = None,
) -> Tensor:
    """x_T (count, *shape) ~ N(0, 1), float32; item i from a generator of its own, seeded with
    ``seed + i``.

    `noise` draws one item: `MusicModel.noise`, for a seed to mean what it means in the model's own
    pipeline.
    """
    generators = (torch.Generator().manual_seed(seed + i) for i in range(count))
    draw = noise or (lambda shape, generator: torch.randn(tuple(shape), generator=generator))
    return torch.stack([draw(shape, generator) for generator in generators])


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    return {
        "ditto": version("ditto-music"),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
    }


def chain_of(request: Request, model: MusicModel) -> Chain:
    """The chain that a request samples with: the student's for "ditto2"."""
    guidance = model.guidance if request.guidance is None else request.guidance
    cond = model.cond(request.tags, request.count, request.seconds)
    denoiser, schedule, steps = model.denoiser, model.schedule, request.steps
    if request.method == "ditto2" and model.student is not None:
        denoiser, schedule, steps = model.student, model.student_schedule, request.decode_steps
    return Chain(denoiser, schedule, schedule.timesteps(steps), cond, guidance)


def job_of(request: Request, model: MusicModel, shape: Sequence[int], stop: Stop = never) -> Job:
    """What a resolved request asks of its method."""
    fresh = partial(item_noise, shape, request.seed, request.count, model.device)
    return Job(
        model,
        chain_of(request, model),
        request.controls,
        fresh,
        request.iterations,
        LR if request.lr is None else request.lr,
        MOMENTUM if request.momentum is None else request.momentum,
        _any_of(request, stop),
        request.sampler,
        request.checkpointing,
        request.surrogate_steps,
        request.gamma or 0.0,
        request.corrections,
        request.strength,
    )


def _optimized(way: Way, job: Job, x_T: Tensor, watch: Watch | None) -> tuple[Tensor, Tensor]:
    """Losses (K, B) and the best latents."""
    losses = []
    for step in way.steps(job, x_T) if way.steps and job.controls else ():
        losses.append(step.loss)
        x_T = step.best_x_T
        if watch is not None:
            watch(step)
    return torch.stack(losses) if losses else torch.zeros(0, len(x_T)), x_T


def _any_of(request: Request, stop: Stop) -> Stop:
    """The early stops that a request asks for, and the caller's."""
    stops = [stop]
    stops += [] if request.tolerance is None else [tolerance(request.tolerance)]
    stops += [] if request.patience is None else [plateau(request.patience)]
    # Each must see every step, so no short cut.
    return lambda step: sum(ends(step) for ends in stops) > 0


def _whole(name: str, value: object, low: int, high: int, other: str = "") -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise RequestError(
            f"{name} must be a whole number from {low} to {high}{other}, not {value}"
        )


def _finite(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, not {value:g}")


def _json(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
