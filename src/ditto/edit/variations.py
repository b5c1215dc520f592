"""Latents of recordings, and other clips from one latent (DITTO appendices D and I)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.audio.io import read_mono
from ditto.controls.base import Control, Output
from ditto.controls.regions import Region
from ditto.controls.weights import rebuilt
from ditto.diffusion.samplers import Chain, ancestral, ddpm
from ditto.errors import ControlError, RequestError
from ditto.latents import Latent
from ditto.methods.ditto2 import item_noise
from ditto.methods.guidance import FREEDOM_STRENGTH, freedom
from ditto.methods.inversion import (
    ddim_inversion,
    decode_null_text,
    naive_inversion,
    null_text_inversion,
)
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.paths import StrPath, printable
from ditto.request import Request, Result, Watch, chain_of, run

How = Literal["ddpm", "ddpm+freedom"]
HOWS: tuple[How, ...] = ("ddpm", "ddpm+freedom")
Inversion = Literal["ditto", "ddim", "naive", "null-text"]
INVERSIONS: tuple[Inversion, ...] = ("ditto", "ddim", "naive", "null-text")


def invert(
    path: StrPath,
    model: MusicModel,
    request: Request | None = None,
    *,
    begin: float = 0.0,
    how: Inversion = "ditto",
    watch: Watch | None = None,
) -> Result:
    """The latent from which the model makes a recording again (appendix D).

    Args:
        path: a sound file, from which one window of the model is taken, or `request.seconds`.
        model: from `ditto.load`.
        request: tags, guidance, iterations and what else the clip is made with; it has no controls
            of its own.
        begin: where the window starts, in seconds of the file.
        how: see `inverted`.
        watch: called after every iteration.

    Returns:
        The result, whose `latent` is the inverted clip's and whose sound is what the model makes of
        it.

    Raises:
        AudioFileError: the file cannot be read.
        RequestError: it is shorter than the window, or the model cannot be inverted in that way.
    """
    request = request or Request()
    if request.controls or request.count != 1 or request.start is not None:
        raise RequestError(
            "an inversion takes one recording, and no controls: edit the latent afterwards"
        )
    if how not in INVERSIONS:
        raise RequestError(f"unknown inversion {how!r}: choose one of {', '.join(INVERSIONS)}")
    x_ref = _window(path, model, begin, request.seconds)
    return inverted(x_ref, model, request, how, name=printable(path), watch=watch)


def inverted(
    x_ref: Tensor,
    model: MusicModel,
    request: Request,
    how: Inversion,
    *,
    name: str = "a clip",
    watch: Watch | None = None,
) -> Result:
    """A clip inverted and made again.

    Args:
        x_ref: (1, …, frames).
        model: whose latent is wanted.
        request: what the clip is made with.
        how: "ditto" optimises x_T from DDIM inversion on, by the request's method; "ddim" and
            "naive" leave it at that, or at noise added; "null-text" makes the clip with null
            embeddings of its own at every step, which its latent does not hold.
        name: of the clip.
        watch: called after every iteration.

    Raises:
        RequestError: null-text inversion of a model without tags.
    """
    x_ref = x_ref.to(model.device)
    # The teacher's chain, whatever the method: a student has no way back.
    chain = chain_of(replace(request, method="ditto"), model)
    if how == "null-text":
        return _null_text(x_ref, model, request, chain, name)
    noise = item_noise(x_ref.shape[1:], request.seed, len(x_ref), x_ref.device)
    x_T = naive_inversion(chain, x_ref, noise) if how == "naive" else ddim_inversion(chain, x_ref)
    start = Latent(
        x_T.cpu(), model.sha256, name=f"{'naive' if how == 'naive' else 'DDIM'} inversion of {name}"
    )
    method = request.method if how == "ditto" else "none"
    region = Region.invert(x_ref[0].cpu())
    return run(replace(request, method=method, controls=(region,), start=start), model, watch=watch)


def _null_text(
    x_ref: Tensor, model: MusicModel, request: Request, chain: Chain, name: str
) -> Result:
    started = time.perf_counter()
    try:
        found = null_text_inversion(chain, x_ref)
    except TypeError as error:
        raise RequestError(f"{error}: choose another inversion") from None
    learned = time.perf_counter()
    start = Latent(found.x_T.cpu(), model.sha256, name=f"null-text inversion of {name}")
    request = replace(
        request, method="none", controls=(Region.invert(x_ref[0].cpu()),), start=start
    )
    with torch.no_grad():
        x_0 = decode_null_text(chain, found)
        sound = model.to_sound(x_0)
        audio = sound.mean(dim=1)
        errors = request.controls[0].errors(Output(x_0, model, audio))
    timings = {"optimize": learned - started, "decode": time.perf_counter() - learned}
    stereo = sound.cpu() if sound.shape[1] > 1 else None
    losses = torch.zeros(0, len(x_0))
    return Result(
        request, model, start.x_T, x_0.cpu(), audio.cpu(), losses, errors, timings, stereo
    )


def _window(path: StrPath, model: MusicModel, begin: float, seconds: float | None) -> Tensor:
    """x_ref (1, …, frames) of a recording."""
    spec, shape = model.spec, model.shape(seconds)
    margin = spec.margin_frames
    wanted = spec.samples(shape[-1] + margin)
    audio = torch.from_numpy(
        read_mono(path, spec, start=begin, seconds=wanted / spec.sample_rate + 0.01)
    )[:wanted]
    if len(audio) < spec.samples(shape[-1]):
        raise RequestError(
            f"{printable(path)} has {len(audio) / spec.sample_rate:.2f} s from {begin:g} s on, but "
            f"{spec.seconds(shape[-1]):.2f} are inverted: give fewer --seconds"
        )
    with torch.no_grad():
        padded = torch.nn.functional.pad(audio, (0, wanted - len(audio)))
        return model.encode(padded[None].to(model.device))[..., : shape[-1]].float().cpu()


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
        """As of any clip, with how it was varied."""
        tags = self.prompts[item]
        about = {"genre": tags.genre, "mood": tags.mood, "tempo": tags.tempo}
        whole = super().report(item)
        whole["request"] |= {"tags": about, "method": f"vary by {self.how}"}
        return whole


def vary(
    latent: Latent,
    model: MusicModel,
    *,
    count: int = 10,
    how: How = "ddpm",
    seed: int = 0,
    prompts: Sequence[Tags] | Tags | None = None,
    controls: Sequence[Control] | None = None,
    steps: int | None = None,
    strength: float = FREEDOM_STRENGTH,
) -> Variations:
    """Clips from one latent by stochastic sampling, without optimising again (appendix I, Table
    10).

    Args:
        latent: of an optimised clip.
        model: that it belongs to.
        count: B, the number of clips.
        how: "ddpm", or "ddpm+freedom", which also follows the controls' gradients at every step.
        seed: item i draws its noise from ``seed + i``.
        prompts: tags for all, or one set for each; None keeps those of the latent (the paper's
            fixed prompt).
        controls: what to follow and measure; None takes those that the latent was made with.
        steps: T; None is the latent's own.
        strength: of FreeDoM.

    Raises:
        RequestError: the latent is of another model, or says nothing of controls that
            "ddpm+freedom" could follow.
        TagError: a tag is unknown to the model.
    """
    if how not in HOWS:
        raise RequestError(f"unknown way to vary {how!r}: choose one of {', '.join(HOWS)}")
    latent.check(model, tuple(latent.x_T.shape[1:]))
    request = _request(latent, count, seed, controls, steps, strict=how != "ddpm")
    tags = (
        [prompts] * count if isinstance(prompts, Tags) else list(prompts or [request.tags] * count)
    )
    if len(tags) != count:
        raise RequestError(
            f"{len(tags)} prompts were given for {count} clips: give one, or one for each"
        )
    request = replace(request, tags=tags[0])
    for control in request.controls:
        control.check(model, latent.x_T.shape[-1])
    length = model.spec.seconds(latent.x_T.shape[-1])
    chain = replace(
        chain_of(request, model), cond=torch.cat([model.cond(t, 1, length) for t in tags])
    )
    started = time.perf_counter()
    x_0 = _sampled(latent, model, chain, request, how, strength)
    with torch.no_grad():
        sound = model.to_sound(x_0)
        audio = sound.mean(dim=1)
        errors = request.objective.errors(Output(x_0, model, audio)) if request.objective else {}
    timings = {"optimize": 0.0, "decode": time.perf_counter() - started}
    x_T = latent.x_T.expand(count, *latent.x_T.shape[1:]).clone()
    stereo = sound.cpu() if sound.shape[1] > 1 else None
    return Variations(
        request,
        model,
        x_T,
        x_0.cpu(),
        audio.cpu(),
        torch.zeros(0, count),
        errors,
        timings,
        stereo,
        how=how,
        prompts=tuple(tags),
    )


def _sampled(
    latent: Latent, model: MusicModel, chain: Chain, request: Request, how: How, strength: float
) -> Tensor:
    x_T = latent.x_T.expand(request.count, *latent.x_T.shape[1:]).clone().to(model.device)
    noise = item_noise(x_T.shape[1:], request.seed, len(x_T), x_T.device)
    objective = request.objective
    if how == "ddpm" or objective is None:
        with torch.no_grad():
            return ddpm(chain, x_T, noise)
    follow = partial(lambda control, x_0: control(x_0, model), objective)
    return freedom(
        x_T, chain, follow, noise, strength=strength, repeats=1, advance=ancestral(noise)
    ).detach()


def _request(
    latent: Latent,
    count: int,
    seed: int,
    controls: Sequence[Control] | None,
    steps: int | None,
    *,
    strict: bool,
) -> Request:
    """The request of a latent again, with other controls if they are given."""
    about = latent.request
    if controls is None:
        controls = _controls(about, strict)
    if strict and not controls:
        raise RequestError(
            f"{printable(latent.name)} was made without controls that FreeDoM could follow: give some"
        )
    words = about.get("tags") or {}
    tags = Tags(
        words.get("genre"), words.get("mood"), words.get("tempo"), prompt=words.get("prompt")
    )
    return Request(
        controls=tuple(controls),
        tags=tags,
        seed=seed,
        count=count,
        method="none",
        steps=steps or int(about.get("steps") or 20),
        guidance=about.get("guidance"),
        start=latent,
    )


def _controls(about: dict[str, Any], strict: bool) -> list[Control]:
    found = []
    for description in about.get("controls") or []:
        try:
            found.append(rebuilt(description))
        except ControlError as error:
            if strict:
                raise RequestError(f"{error} (FreeDoM needs it)") from None
    return found
