"""What the tables have their methods do with whole recordings, as a user edits them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.cache import Tensors
from benchmarks.tasks import WIDE_OVERLAP, Bench, Task, kept
from benchmarks.variants import Variant
from ditto.controls.regions import SelfLoop
from ditto.edit.loops import SELF_OVERLAP, closed
from ditto.edit.timeline import FADE_SECONDS, Known, Timeline
from ditto.edit.windows import GapFiller
from ditto.eval.seams import seam_jump
from ditto.methods.none import Uncontrolled
from ditto.runner import run

OVERLAP, GAP = 1.0, 4.0
"""Seconds, of out- and inpainting."""
LONGER = 5.05
"""How many times as long a clip becomes in `extend`: 5.94 s become 30."""


def fill(
    bench: Bench, task: Task, variant: Variant, i: int, *, kind: str, overlap: float = OVERLAP
) -> Tensors:
    """Edit a recording as a user does: go on from its end, or make its middle anew."""
    recording = _recording(bench, i)
    overlap = min(overlap, 0.4 * recording.seconds)
    length = recording.length
    gap = (length, 2 * length - recording.at(overlap) - 64)
    if kind == "inpaint":
        half = recording.at(min(GAP, recording.seconds - 2 * overlap) / 2)
        gap = (length // 2 - half, length // 2 + half)
    timeline = recording.extended(0, max(gap[1] - length, 0))
    result, *_ = _filler(bench, task, variant, i, kind, overlap).fill(timeline, [gap])
    return kept(result) | _jumps(timeline, gap, bench)


def extend(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Go on from a recording for several windows; the sound that is kept is the last one's."""
    recording = _recording(bench, i)
    timeline = recording.extended(0, round((LONGER - 1) * recording.length))
    gaps = [(recording.length, timeline.length)]
    overlap = min(OVERLAP, 0.4 * recording.seconds)
    filler = _filler(bench, task, variant, i, "outpaint", overlap)
    windows = [kept(result) for result in filler.fill(timeline, gaps)]
    error = torch.stack([window["outpaint_mse"] for window in windows]).mean(dim=0)
    seconds = torch.stack([window["seconds_per_clip"] for window in windows]).sum(dim=0)
    whole = {"outpaint_mse": error, "seconds_per_clip": seconds}
    return windows[-1] | whole | _jumps(timeline, filler.joins(timeline, gaps), bench)


def loop(bench: Bench, task: Task, variant: Variant, i: int, *, free: bool = False) -> Tensors:
    """Make a loop from nothing; its join is heard when it is repeated.

    It returns to the start of the clip that the same request gives without it, as users' loops do;
    or both its ends are `free`, as in DITTO's paper.
    """
    model, spec = bench.models.of(variant), bench.models.model.spec
    overlap = round(SELF_OVERLAP * spec.frame_rate)
    request = task.request(bench, variant, i)
    begun = None if free else run(request, model, compare=False)
    start = None if begun is None else begun.x_0[0]
    control = SelfLoop(model.shape()[-1] - overlap, overlap, start)
    result = run(replace(request, controls=(control,)), model)
    fade = round(_fade(variant) * spec.sample_rate)
    once = closed(result.audio.numpy(), spec.samples(control.period), fade)
    twice = Timeline(np.tile(once, 2), Known(2 * once.shape[1]), spec.sample_rate)
    made = kept(result)
    if begun is not None:
        made["seconds_per_clip"] = made["seconds_per_clip"] + kept(begun)["seconds_per_clip"]
    return made | _jumps(twice, [once.shape[1]], bench)


def _recording(bench: Bench, i: int) -> Timeline:
    """Return held-out clip i as a recording."""
    samples = bench.targets.real().audio[i].numpy()[None]
    return Timeline(samples, Known(samples.shape[1]), bench.models.model.spec.sample_rate)


def _filler(
    bench: Bench, task: Task, variant: Variant, i: int, kind: str, overlap: float
) -> GapFiller:
    return GapFiller(
        kind,
        bench.models.of(variant),
        task.request(bench, variant, i),
        overlap,
        all_context=kind == "inpaint",
        fade=_fade(variant),
    )


def _fade(variant: Variant) -> float:
    """Return seconds of cross-fades: without control, clips are cut and pasted."""
    return 0.0 if isinstance(variant.method, Uncontrolled) else FADE_SECONDS


def _jumps(timeline: Timeline, edges: Sequence[int], bench: Bench) -> Tensors:
    """Return the spectral jump at every edge within the sound, ``seam_jumps`` (1, edges)."""
    heard = torch.from_numpy(timeline.samples[0])
    inner = [edge / timeline.sample_rate for edge in edges if 0 < edge < timeline.length]
    jumps = [seam_jump(heard, at, bench.models.model.spec) for at in inner]
    return {"seam_jumps": torch.tensor([jumps], dtype=torch.float64)}


RECORDINGS = {
    "outpainting": Task("outpainting of a recording", partial(fill, kind="outpaint")),
    "inpainting": Task("inpainting of a recording", partial(fill, kind="inpaint")),
    "extending": Task("outpainting to 30 s", extend),
    "looping": Task("loop from nothing, returning", loop),
    "looping, free ends": Task("loop from nothing, closed", partial(loop, free=True)),
    "intensity+outpainting": Task(
        "intensity+outpainting of a recording",
        partial(fill, kind="outpaint", overlap=WIDE_OVERLAP),
        ("intensity",),
    ),
}
