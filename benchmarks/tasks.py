"""What the tables have their methods do, one function each, and how a clip is made and kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.cache import ResultCache, Tensors, code_digest, machine, now, retimed
from benchmarks.targets import PerItem, Targets
from benchmarks.variants import DITTO, Models, Variant
from ditto.audio.chroma import log_chroma
from ditto.audio.features import intensity, log_mel
from ditto.audio.similarity import self_similarity
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.output import Output
from ditto.controls.regions import Region
from ditto.controls.text import Text
from ditto.diffusion.consistency import Noise
from ditto.edit.variations import How, Inversion, inverted, vary
from ditto.errors import ModelError
from ditto.eval.batch_variance import intra_batch_variance
from ditto.eval.efficiency import Memory
from ditto.eval.seams import seam_jump
from ditto.latents import VARIATION_SEED, Latent, draw_x_T, item_noise
from ditto.methods.best_of import BestOf
from ditto.methods.controlnet import MusicControlNet
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, run

LOOP_OVERLAP, WIDE_OVERLAP = 1.0, 2.0
"""Seconds: matched at both ends of a loop, and outpainted beside a loudness curve (appendix H)."""
BATCH = 10
"""B of the reuse of latents and of the variance within batches (appendices I and J)."""
MEMORY_ITERATIONS = 2
COSINE_SCALE = 4.0
"""From errors of the control's self-similarity, (1 + cos) / 2, to those of the papers' T·Tᵀ."""
FRESH = 10**6
"""Seeds of noise in a latent's place lie so far above those that clips are optimised from."""
TRIAL = 32
"""Candidates of a search that is timed."""


@dataclass(frozen=True)
class Task:
    """Something that clips are made for.

    Attributes:
        name: in the cache.
        make: tensors of clip i, the first dimension 1: figures (1,), `audio` as `pcm` gives it.
        targets: names of the controls that it asks for, see `Targets.control`.
        together: several clips can be made as one batch.
        texts: CLAP or MusicGen take part.
    """

    name: str
    make: "Callable[[Bench, Task, Variant, int], Tensors]"
    targets: tuple[str, ...] = ()
    together: bool = False
    texts: bool = False

    def tags(self, targets: Targets, i: int) -> Tags:
        """Return the tags of clip i, which its caption is of whatever tags a variant gives."""
        drawn = bool(self.targets) and self.targets[0].startswith("loudness")
        return targets.loudness(i)[1] if drawn else targets.tags(i)

    def request(self, bench: "Bench", variant: Variant, i: int, *more: Control) -> Request:
        """Return clip i's request: its targets, after the controls `more`."""
        targets, models = bench.targets, bench.models
        own = [targets.control(i, name) for name in self.targets]
        tags = self.tags(targets, i)
        given = bench.overrides
        known = {f.name for f in fields(variant.method)}
        settings = {key: value for key, value in given.items() if key in known}
        default = given.get("guidance", models.model.guidance)
        return Request(
            (*more, *own),
            tags if variant.tags is None else variant.tags,
            seed=targets.seed + i,
            guidance=default if variant.guidance is None else variant.guidance,
            iterations=given.get("iterations"),
            method=replace(variant.method, **settings),
        )


@dataclass(frozen=True, eq=False)
class Bench:
    """Models, targets and finished clips.

    Attributes:
        models: what variants run on.
        targets: what is asked for.
        cache: finished clips.
        overrides: settings of every request or method, e.g. fewer iterations.
        batch: clips made at once, where a task allows it.
        threads: that clips are made on, if not as many as torch has here.
        show: progress.
        timed: the first clips of a row, as many, are made again here, one at a time, and these
            times alone count; without any, those of all clips that this process makes.
    """

    models: Models
    targets: Targets
    cache: ResultCache
    overrides: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1
    threads: int | None = None
    show: bool = True
    timed: int = 0

    def clips(self, task: Task, variant: Variant, count: int) -> Tensors:
        """Return the first `count` clips of a task by a variant, made or read.

        Raises:
            DittoError: it cannot be done with these models.
        """
        return self.some(task, variant, range(count))

    def some(self, task: Task, variant: Variant, numbers: Sequence[int]) -> Tensors:
        """Return the clips of these numbers, made or read."""
        variant = self.settled(task, variant)
        size = (
            self.batch if task.together and not isinstance(variant.method, MusicControlNet) else 1
        )
        paths = {i: self._path(task, variant, i, size) for i in numbers}
        clips = {i: self.cache.read(path) for i, path in paths.items()}
        jobs = consecutive([i for i in numbers if clips[i] is None], size)
        known = (i for i in numbers if i < self.timed and (size > 1 or clips[i] is not None))
        jobs += [[i] for i in known if not self._timed(i, paths[i], clips[i])]
        console, title = Console(stderr=True), f"{task.name}, {variant.name}"
        hidden = not self.show or not jobs
        for job in track(jobs, title, disable=hidden, transient=True, console=console):
            for i, made in zip(job, self._make(task, variant, job), strict=True):
                self.cache.write(paths[i], retimed(clips[i], made), alone=len(job) == 1)
                clips[i] = self.cache.read(paths[i])
        ready = [
            clip | {"timed": one(float(self._timed(i, paths[i], clip)))}
            for i, clip in clips.items()
            if clip is not None
        ]
        return {name: torch.cat([clip[name] for clip in ready]) for name in ready[0]}

    def _timed(self, i: int, path: Path, clip: Tensors | None) -> bool:
        """Tell whether times were taken in this run, a clip's own and what it was optimised by."""
        if clip is None or not clip.get("timed", one(1.0)).item():
            return False
        return i < self.timed and self.cache.alone(path) if self.timed else self.cache.made(path)

    def settled(self, task: Task, variant: Variant) -> Variant:
        """Return a variant that is to take as long as another with as many candidates as do.

        Both times are those of the first clip, of the other and of `TRIAL` candidates; they are
        kept with the clips, so that the number stays the same until times are taken again.
        """
        if variant.as_long_as is None:
            return variant
        trial = variant.with_(as_long_as=None, count=TRIAL)
        long, short = (
            self.some(task, one, [0])["seconds_per_clip"].item()
            for one in (variant.as_long_as, trial)
        )
        return trial.with_(count=max(1, round(TRIAL * long / short)))

    def _make(self, task: Task, variant: Variant, chunk: Sequence[int]) -> list[Tensors]:
        started = time.perf_counter()
        if len(chunk) > 1:
            clips = _generate_together(self, task, variant, chunk)
        else:
            clips = task.make(self, task, variant, chunk[0])
        took = one((time.perf_counter() - started) / len(chunk))
        return [
            {name: value[j : j + 1] for name, value in clips.items()} | {"seconds": took}
            for j in range(len(chunk))
        ]

    def _path(self, task: Task, variant: Variant, i: int, size: int) -> Path:
        request = task.request(self, variant, i).resolved(self.models.of(variant))
        identity = {
            "task": task.name,
            "request": request.to_dict(),
            "through": variant.through and variant.through.to_dict(),
            "other_noise": variant.other_noise,
            "held_out": self.targets.digest,
            "code": code_digest(),
            "machine": machine() | ({"threads": self.threads} if self.threads else {}),
            "batch": size,
            "overrides": {name: repr(value) for name, value in self.overrides.items()},
        }
        held = bool(getattr(request.method, "tag_pull", 0.0))
        identity |= self.models.identity(variant, texts=task.texts, held=held)
        return self.cache.path(f"{task.name} {variant.method.name} {i:04d}", identity)


def consecutive(numbers: Sequence[int], most: int) -> list[list[int]]:
    """Part numbers into runs without a gap, of at most so many.

    Clips that are made together have consecutive seeds.
    """
    runs: list[list[int]] = []
    for i in numbers:
        if runs and len(runs[-1]) < most and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def pcm(audio: Tensor) -> Tensor:
    """Quantise float audio in [-1, 1] to int16 for the cache."""
    return (audio.clamp(-1, 1) * 32767).round().to(torch.int16)


def sound(kept: Tensor) -> Tensor:
    """Undo `pcm`, float32."""
    return kept.float() / 32767


def one(value: float) -> Tensor:
    """Return a figure as a tensor (1,)."""
    return torch.tensor([value], dtype=torch.float64)


def kept(result: Result, **more: float) -> Tensors:
    """Return what is kept of a result: errors, sound, seconds, and losses and x_T if optimised."""
    count = len(result.audio)
    clips = {name: value.double() for name, value in result.errors.items()}
    clips |= {name: one(value) for name, value in more.items()}
    clips["seconds_per_clip"] = one(sum(result.timings.values()) / count).repeat(count)
    if len(result.losses):
        step = result.timings["optimize"] / len(result.losses) / count
        clips["seconds_per_step"] = one(step).repeat(count)
        clips |= {"losses": result.losses.T.contiguous(), "x_T": result.x_T}
    if isinstance(result.request.method, BestOf):
        clips["candidates"] = one(result.request.method.count).repeat(count)
    return {**clips, "audio": pcm(result.audio)}


def generate(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Make a clip that follows the task's targets."""
    return _generate_together(bench, task, variant, [i])


def _generate_together(
    bench: Bench, task: Task, variant: Variant, numbers: Sequence[int]
) -> Tensors:
    """Make clips as one batch; what only decodes otherwise takes x_T of the clips it shares."""
    requests = [task.request(bench, variant, i) for i in numbers]
    model, alike = bench.models.of(variant), variant.optimised_alike()
    plan, timed = _plan(requests, model), {}
    if alike is not None and plan.total:
        same = bench.some(task, alike, numbers)
        plan.x_T, plan.losses = same["x_T"].to(model.device), list(same["losses"].T)
        plan.seconds = (same["seconds_per_step"].sum() * same["losses"].shape[1]).item()
        timed = {"timed": same["timed"]}
    elif plan.total:
        started = time.perf_counter()
        for step in plan.method.optimise(plan.x_T, plan.problem):
            plan.x_T = step.best_x_T
            plan.losses.append(step.loss)
        plan.seconds = now(model.device) - started
    if variant.other_noise:
        plan.problem = replace(plan.problem, new_noise=_other_noise(plan))
    return kept(plan.result()) | timed


def _other_noise(plan: Run) -> Callable[[], Noise]:
    """Return noise of another stream than that which the clips were optimised with."""
    shape, seed = plan.x_T.shape[1:], plan.request.seed
    count, device = plan.request.count, plan.model.device
    return partial(item_noise, shape, seed, count, device, first=VARIATION_SEED)


def _plan(requests: Sequence[Request], model: MusicModel) -> Run:
    """Return one run of requests of consecutive seeds that share everything but target and tags."""
    if len(requests) == 1:
        return Run(requests[0], model)
    requests = [request.resolved(model) for request in requests]
    controls = [request.control for request in requests if request.control is not None]
    target = (PerItem(controls),) if controls else ()
    plan = Run(replace(requests[0], controls=target, count=len(requests)), model)
    tags = tuple(request.tags for request in requests)
    plan.problem = replace(plan.problem, cond=model.cond_each(tags), tags=tags)
    return plan


def paint(
    bench: Bench, task: Task, variant: Variant, i: int, *, kind: str, seconds: float
) -> Tensors:
    """Make a clip that keeps a region of a held-out one; other controls count outside that."""
    model = bench.models.of(variant)
    reference = _reference(bench, variant, i)[0]
    region, seams = _region(kind, seconds, reference, model.spec)
    request = task.request(bench, variant, i)
    rest = (seams[0], model.spec.clip_seconds)
    controls = (region, *(control.during(rest) for control in request.controls))
    result = run(replace(request, controls=controls), model)
    return kept(result, seam_jump=max(seam_jump(result.audio[0], at, model.spec) for at in seams))


def _reference(bench: Bench, variant: Variant, i: int) -> Tensor:
    """Return x_ref (1, …, frames) of held-out clip i."""
    model = bench.models.of(variant)
    audio = bench.targets.real(model.spec).audio[i : i + 1]
    return model.encode(audio.to(model.device)).float().cpu()


def _region(
    kind: str, seconds: float, reference: Tensor, spec: AudioSpec
) -> tuple[Region, list[float]]:
    """Return what is kept of x_ref (…, frames), and where the seams are, in seconds.

    Frames whose windows pass the clip's ends hold reflected sound, and are not asked for.
    """
    frames, rate, margin = reference.shape[-1], spec.frame_rate, spec.margin_frames
    wanted, whole = round(seconds * rate), reference[..., margin : frames - margin]
    if kind == "outpaint":
        overlap = min(wanted, int(0.55 * frames))
        return Region.outpaint(whole, overlap, frames), [overlap / rate]
    if kind == "loop":
        overlap = min(wanted, frames // 4)
        return Region.loop(whole, overlap, frames), [overlap / rate, (frames - overlap) / rate]
    gap = min(wanted, int(0.7 * frames))
    start = (frames - gap) // 2
    region = Region.inpaint(reference, ((start, start + gap),))
    seams = [start / rate, (start + gap) / rate]
    return region.without(((0, margin), (frames - margin, frames))), seams


def invert(bench: Bench, task: Task, variant: Variant, i: int, *, how: Inversion) -> Tensors:
    """Find the latent of a held-out clip, and make it again."""
    request, reference = task.request(bench, variant, i), _reference(bench, variant, i)
    return kept(inverted(reference, bench.models.of(variant), request, how))


def memory(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Measure the mean memory of a few iterations' tensors; counting takes time, so only that."""
    request = replace(task.request(bench, variant, i), iterations=MEMORY_ITERATIONS)
    plan = Run(request, bench.models.of(variant))
    with Memory() as used:
        for _ in plan:
            pass
    return {"mean_memory_gb": one(used.mean_gb), "peak_memory_gb": one(used.peak_gb)}


def reuse(
    bench: Bench,
    task: Task,
    variant: Variant,
    i: int,
    *,
    how: How,
    random_prompts: bool,
    fresh: bool = False,
) -> Tensors:
    """Measure the mean loss of B clips from the latent that DITTO optimised (Table 10).

    With `fresh` each clip has fresh noise in place of the latent: what the latent is worth.
    """
    request, model = task.request(bench, variant, i), bench.models.of(variant)
    name = task.targets[0]
    prompts = bench.targets.prompts(i, BATCH) if random_prompts else [request.tags] * BATCH
    seed = bench.targets.seed + BATCH * i  # clips of two latents share no noise
    if fresh:
        noise = draw_x_T(model.shape(), FRESH + seed, BATCH, model.noise)
        parts = [(x_T[None], prompts[k : k + 1], seed + k) for k, x_T in enumerate(noise)]
    else:
        untimed = replace(bench, timed=0)
        parts = [(untimed.some(CONTROLS[name], DITTO, [i])["x_T"], prompts, seed)]
    losses, seconds = [], 0.0
    for x_T, tags, first in parts:
        clips = vary(
            model,
            Latent(x_T, model.sha256, {"guidance": request.guidance}),
            count=len(tags),
            how=how,
            seed=first,
            prompts=tags,
            controls=request.controls,
            steps=getattr(request.method, "steps", None),
        )
        with torch.no_grad():
            losses.append(request.controls[0].loss(Output(clips.x_0, model, clips.audio)))
        seconds += clips.timings["decode"] / BATCH
    scale = COSINE_SCALE if name == "structure" else 1.0
    loss = scale * torch.cat(losses).mean().item()
    return {"reuse_loss": one(loss), "seconds_per_clip": one(seconds)}


def spread(bench: Bench, task: Task, variant: Variant, i: int, *, shared: bool) -> Tensors:
    """Measure the variance within a batch of random prompts, with one x_T for all or for each."""
    model = bench.models.of(variant)
    request, spec = task.request(bench, variant, i), model.spec
    x_T = draw_x_T(model.shape(), bench.targets.seed + BATCH * i, BATCH, model.noise)
    sounds = []
    for item, tags in enumerate(bench.targets.prompts(i, BATCH)):
        start = Latent(x_T[0 if shared else item][None], model.sha256)
        sounds.append(run(replace(request, tags=tags, start=start), model).audio)
    audio = torch.cat(sounds)
    with torch.no_grad():
        features = {
            "intensity": intensity(audio, spec),
            "melody": log_chroma(audio, spec),
            "structure": self_similarity(log_mel(audio, spec), spec),
        }
    return {
        f"{name}_variance": one(intra_batch_variance(value)) for name, value in features.items()
    }


def text(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Make a clip that sounds as the caption of clip i says (DITTO-2, Table 3)."""
    clap = bench.models.clap
    if clap is None:
        raise ModelError("no weights: this row needs a CLAP, give it with --text-clap")
    caption = bench.targets.tags(i).caption()
    request = task.request(bench, variant, i, Text(caption, clap))
    return kept(run(request, bench.models.of(variant)))


def musicgen(
    bench: Bench, task: Task, variant: Variant, i: int, *, melody: bool = False
) -> Tensors:
    """Make MusicGen's clip of the same caption, at the model's rate and length."""
    models, spec = bench.models, bench.models.model.spec
    model, option = models.musicgen, "--musicgen"
    if melody:
        model, option = models.musicgen_melody, "--musicgen-melody"
    if model is None:
        raise ModelError(f"no weights: this row needs MusicGen, give it with {option}")
    caption, length = bench.targets.tags(i).caption(), spec.samples(spec.clip_frames)
    audio = model.generate([caption], spec.clip_seconds, seed=bench.targets.seed + i)
    clip = soxr.resample(audio[0].numpy(), model.sample_rate, spec.sample_rate)[:length]
    padded = np.pad(clip, (0, length - len(clip))).astype(np.float32)
    return {"audio": pcm(torch.from_numpy(padded)[None])}


def _clips(name: str, *targets: str) -> Task:
    return Task(name, generate, targets, together=True)


NAMES = ("intensity", "correlation", "melody", "structure", "loudness", "loudness, mel")
CONTROLS = {name: _clips(name, name) for name in NAMES}
"""One control each. "loudness" is the budgets': level curves and tags at random among its targets;
"loudness, mel" optimises the loudness of x_0 in place of the sound's."""
PLAIN = _clips("plain")
PAIRS = {
    name: _clips(f"intensity+{name}", "intensity", name) for name in ("melody", "structure")
} | {
    "outpainting": Task(
        "intensity+outpainting",
        partial(paint, kind="outpaint", seconds=WIDE_OVERLAP),
        ("intensity",),
    )
}
OUTPAINTING = {
    s: Task(f"outpainting {s} s", partial(paint, kind="outpaint", seconds=s)) for s in (1, 2, 3)
}
INPAINTING = {
    s: Task(f"inpainting {s} s", partial(paint, kind="inpaint", seconds=s)) for s in (2, 3, 4)
}
LOOPING = Task("looping", partial(paint, kind="loop", seconds=LOOP_OVERLAP))
HOWS: tuple[Inversion, ...] = ("naive", "ddim", "null-text", "ditto")
INVERSION = {how: Task(f"inversion {how}", partial(invert, how=how)) for how in HOWS}
MEMORY = Task("memory", memory, ("intensity",))
TEXT = Task("text", text, texts=True)
MELODY_FORM = _clips("melody+structure", "melody", "structure")
TEXT_PAIRS = {
    name: Task(f"{name}+text", text, (name,), texts=True)
    for name in ("intensity", "melody", "structure")
}
MUSICGEN = Task("text, MusicGen", musicgen, texts=True)
MUSICGEN_MELODY = Task("text, MusicGen with melody", partial(musicgen, melody=True), texts=True)
FIXED = Task("fixed x_T", partial(spread, shared=True))
FREE = Task("free x_T", partial(spread, shared=False))
REUSE = {
    (name, how, prompts, fresh): Task(
        f"reuse {name} {how} {prompts}{', fresh x_T' if fresh else ''}",
        partial(reuse, how=how, random_prompts=prompts == "random prompts", fresh=fresh),
        (name,),
    )
    for name in ("intensity", "melody", "structure")
    for how in ("ddpm", "ddpm+freedom")
    for prompts in ("random prompts", "fixed prompt")
    for fresh in (False, True)
}
