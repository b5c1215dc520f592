"""Latents of recordings, and other clips from one latent (DITTO appendices D and I)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.audio.io import read_mono
from ditto.controls.base import Control
from ditto.controls.regions import Region
from ditto.diffusion.consistency import Noise
from ditto.edit.edits import request_of
from ditto.edit.legacy import model_first
from ditto.errors import ControlError, RequestError
from ditto.latents import VARIATION_SEED, Latent, item_noise, item_seed
from ditto.methods.base import SamplingMethod, check_number
from ditto.methods.ditto2 import Ditto2
from ditto.methods.guidance import FREEDOM_STRENGTH, FreeDoM
from ditto.methods.inversion import (
    ddim_inversion,
    decode_null_text,
    naive_inversion,
    null_text_inversion,
)
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel, check_model
from ditto.optimize import Stop, never
from ditto.paths import StrPath, printable, shown
from ditto.request import LIMITS, Request, as_tags
from ditto.result import Result
from ditto.runner import Run, Watch, problem_of, run

How = Literal["ddpm", "ddpm+freedom"]
HOWS: tuple[How, ...] = ("ddpm", "ddpm+freedom")
Inversion = Literal["ditto", "ddim", "naive", "null-text"]
INVERSIONS: tuple[Inversion, ...] = ("ditto", "ddim", "naive", "null-text")


@dataclass(frozen=True, eq=False)
class Inverted(Result):
    """What the model makes of a recording's latent.

    Attributes:
        asked: how the inversion was asked for, as JSON.
    """

    asked: Mapping[str, Any] = field(default_factory=dict)

    def _made(self, item: int) -> dict[str, Any]:
        return super()._made(item) | {"invert": dict(self.asked)}


@model_first
def invert(
    model: MusicModel,
    recording: StrPath,
    request: Request | None = None,
    *,
    begin: float = 0.0,
    how: Inversion = "ditto",
    watch: Watch | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Inverted:
    """Find the latent from which the model makes a recording again (appendix D).

    Args:
        model: from `ditto.load`.
        recording: a sound file, of which one window of the model is taken, or `request.seconds`.
        request: tags, guidance, iterations, …; no controls.
        begin: where the window starts, in seconds of the file.
        how: see `inverted`.
        watch: called after every iteration.
        stop: called with every step; True ends the optimisation.
        settings: fields of `Request`, in place of `request`.

    Returns:
        The result: its `latent` is the inverted clip's, its sound what the model makes of it.

    Raises:
        AudioFileError: the file cannot be read.
        RequestError: it is shorter than the window, or the model cannot be inverted in that way.
    """
    check_model(model)
    request, begin = request_of(request, settings), check_number("begin", begin, 0.0, 1e9)
    if request.controls or request.count != 1 or request.start is not None:
        raise RequestError(
            "an inversion takes one recording, and no controls: edit the latent afterwards"
        )
    if how not in INVERSIONS:
        raise RequestError(f"unknown inversion {how!r}: choose one of {', '.join(INVERSIONS)}")
    x_ref = _window(recording, model, begin, request.seconds)
    name = printable(recording)
    result = inverted(x_ref, model, request, how, name=name, watch=watch, stop=stop)
    asked = {
        "recording": Path(recording).name,
        "begin": begin,
        "how": how,
        "request": request.to_dict(),
    }
    made = {of.name: getattr(result, of.name) for of in fields(Result)}
    return Inverted(**made, asked=asked)


def inverted(
    x_ref: Tensor,
    model: MusicModel,
    request: Request,
    how: Inversion,
    *,
    name: str = "a clip",
    watch: Watch | None = None,
    stop: Stop = never,
) -> Result:
    """Invert a clip and make it again.

    Args:
        x_ref: shape (1, …, frames).
        model: whose latent is wanted.
        request: what the clip is made with.
        how: "ditto" optimises x_T from DDIM inversion on, by the request's method; "ddim" and
            "naive" (noise added) stop at their x_T; "null-text" makes the clip with null embeddings
            of its own at every step, which its latent does not hold.
        name: of the clip.
        watch: called after every iteration.
        stop: called with every step; True ends the optimisation.

    Raises:
        RequestError: null-text inversion of a model without tags.
    """
    x_ref, method = x_ref.to(model.device), request.method
    steps, grid = getattr(method, "steps", 20), getattr(method, "grid", None) or "leading"
    plain = replace(request, method=Uncontrolled(steps=steps, sampler="ddim", grid=grid))
    region = Region.invert(x_ref[0].cpu())
    if isinstance(method, SamplingMethod):
        request = replace(request, method=replace(method, grid=grid))
    by_student = how == "ditto" and isinstance(request.resolved(model).method, Ditto2)
    # The teacher's chain, whatever the method: a student has no way back.
    problem = problem_of(plain.resolved(model), model, x_ref.shape[1:])
    chain = problem.chain(steps, None if by_student else grid)
    if how == "null-text":
        started = time.perf_counter()
        try:
            found = null_text_inversion(chain, x_ref)
        except TypeError as error:
            raise RequestError(f"{error}: choose another inversion") from None
        timings = {"optimize": time.perf_counter() - started}
        with torch.no_grad():
            x_0 = decode_null_text(chain, found)
        start = Latent(found.x_T.cpu(), model.sha256, name=f"null-text inversion of {name}")
        request = replace(plain, controls=(region,), start=start).resolved(model)
        timings["decode"] = time.perf_counter() - started - timings["optimize"]
        losses = torch.zeros(0, len(x_0))
        return Result.of(request, model, start.x_T, x_0, losses, timings)
    if how == "naive":
        noise = item_noise(x_ref.shape[1:], request.seed, len(x_ref), x_ref.device)
        x_T, named = naive_inversion(chain, x_ref, noise), "naive"
    else:
        x_T, named = ddim_inversion(chain, x_ref), "DDIM"
    start = Latent(x_T.cpu(), model.sha256, name=f"{named} inversion of {name}")
    request = request if how == "ditto" else plain
    return run(replace(request, controls=(region,), start=start), model, watch=watch, stop=stop)


def _window(path: StrPath, model: MusicModel, begin: float, seconds: float | None) -> Tensor:
    """Return x_ref (1, …, frames) of a recording."""
    spec, frames = model.spec, model.shape(seconds)[-1]
    wanted = spec.samples(frames + spec.margin_frames)
    read = read_mono(path, spec, start=begin, seconds=wanted / spec.sample_rate + 0.01)
    audio = torch.from_numpy(read)[:wanted]
    if len(audio) < spec.samples(frames):
        raise RequestError(
            f"{printable(path)} has {len(audio) / spec.sample_rate:.2f} s from {begin:g} s on, but "
            f"{spec.seconds(frames):.2f} are inverted: give fewer --seconds"
        )
    with torch.no_grad():
        padded = torch.nn.functional.pad(audio, (0, wanted - len(audio)))
        return model.encode(padded[None].to(model.device))[..., :frames].float().cpu()


@dataclass(frozen=True, eq=False)
class Variations(Result):
    """Other clips from one latent.

    Attributes:
        how: "ddpm" or "ddpm+freedom".
        prompts: tags of each item.
    """

    how: How = "ddpm"
    prompts: tuple[Tags, ...] = ()

    def report(self, item: int = 0) -> dict[str, Any]:
        """Return the report of one item, with its own tags and how it was varied."""
        whole = super().report(item)
        alone = replace(self.request, tags=self.prompts[item])
        whole["request"] |= {"tags": alone.to_dict()["tags"], "vary": self.how}
        return whole


@model_first
def vary(
    model: MusicModel,
    latent: Latent,
    *,
    count: int = 10,
    how: How = "ddpm",
    seed: int = 0,
    prompts: Sequence[Tags] | Tags | Mapping[str, Any] | str | None = None,
    controls: Sequence[Control] | None = None,
    steps: int | None = None,
    strength: float = FREEDOM_STRENGTH,
) -> Variations:
    """Make clips from one latent by stochastic sampling, without optimising again.

    (DITTO appendix I, Table 10.)

    Args:
        model: that the latent belongs to.
        latent: of an optimised clip.
        count: B, the number of clips.
        how: "ddpm", or "ddpm+freedom", which also follows the controls' gradients at every step.
        seed: item i draws its noise by ``seed + i``, other noise than a request of that seed.
        prompts: tags for all, or one set for each; None keeps the latent's (the paper's fixed
            prompt).
        controls: what to follow and measure; None takes those the latent was made with.
        steps: T; None is the latent's own.
        strength: of FreeDoM.

    Raises:
        RequestError: the latent is of another model, or has no controls for "ddpm+freedom".
        TagError: a tag is unknown to the model.
    """
    check_model(model)
    if not isinstance(latent, Latent):
        raise RequestError(f"{shown(latent)} is no latent: give Latent.load('out.latent')")
    if how not in HOWS:
        raise RequestError(f"unknown way to vary {how!r}: choose one of {', '.join(HOWS)}")
    latent.check(model, tuple(latent.x_T.shape[1:]))
    try:
        made = Request.from_dict(latent.request, strict=how != "ddpm" and controls is None)
    except ControlError as error:
        raise RequestError(f"{error} (FreeDoM needs it)") from None
    controls = made.controls if controls is None else tuple(controls)
    if how != "ddpm" and not controls:
        raise RequestError(
            f"{printable(latent.name)} was made without controls that FreeDoM could follow: give "
            "some"
        )
    own = int(getattr(made.method, "steps", 20))
    T = own if steps is None else int(check_number("steps", steps, 1, 1000))
    grid = getattr(made.method, "grid", None)
    count = int(check_number("count", count, *LIMITS["count"]))
    follow = FreeDoM(steps=T, sampler="ddpm", grid=grid, strength=strength, time_travel=1)
    if prompts is None or isinstance(prompts, Tags | Mapping | str):
        tags = [made.tags if prompts is None else as_tags(prompts)] * count
    else:
        tags = list(prompts)
    if len(tags) != count:
        raise RequestError(
            f"{len(tags)} prompts were given for {count} clips: give one, or one for each"
        )
    request = Request(
        controls,
        tags[0],
        seed=seed,
        count=count,
        guidance=made.guidance,
        start=latent,
        method=Uncontrolled(steps=T, sampler="ddpm", grid=grid) if how == "ddpm" else follow,
    )
    plan = Run(request, model)
    length = model.spec.seconds(latent.x_T.shape[-1])
    cond = model.cond_each(tags, length)
    shape, device = plan.x_T.shape[1:], model.device

    def noise(item: int, clips: int = 1) -> Noise:
        first = VARIATION_SEED
        return item_noise(shape, item_seed(seed, item), clips, device, first=first)

    together = partial(noise, 0, count)
    plan.problem = replace(plan.problem, cond=cond, new_noise=together, noise_of=noise)
    started = time.perf_counter()
    x_0 = plan.decode()
    timings = {"optimize": 0.0, "decode": time.perf_counter() - started}
    return Variations.of(
        plan.request,
        model,
        plan.x_T,
        x_0.detach(),
        torch.zeros(0, count),
        timings,
        how=how,
        prompts=tuple(tags),
    )
