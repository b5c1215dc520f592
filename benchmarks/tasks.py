"""What the tables have their methods do: controls, edits of held-out clips, inversion, reuse, and
what it all costs.

Targets are drawn by the clip's seed, so every method gets the same: loudness curves and forms at
random, public-domain tunes that training never saw, and real clips that it never saw either.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import soxr
import torch
from ditto.methods.ways import WAYS
from torch import Tensor

from benchmarks.intensity import random_curve, random_tags
from benchmarks.report import Tensors
from benchmarks.setups import DITTO, Bench, Setup, Task
from benchmarks.tunes import drawn_tune
from ditto.audio.chroma import log_chroma
from ditto.audio.features import intensity, log_mel
from ditto.audio.similarity import self_similarity
from ditto.controls.base import Control, Output
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.regions import Region
from ditto.controls.structure import Structure
from ditto.controls.text import Text
from ditto.edit.variations import How, inverted, vary
from ditto.errors import ModelError
from ditto.eval.batch_variance import intra_batch_variance
from ditto.eval.efficiency import Memory
from ditto.eval.seams import seam_jump
from ditto.latents import Latent
from ditto.models.clap import Clap
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Result, draw_x_T, initial_x_T, job_of, run

FORMS = ("AB", "ABA", "ABAB", "ABBA", "AAB", "ABB", "A:2 B:3 A:2", "A:3 B:2")
LOOP_OVERLAP, WIDE_OVERLAP = 1.0, 2.0
"""Seconds: matched at both ends of a loop, and outpainted beside a loudness curve (appendix H)."""
MOST_OVERLAP, MOST_GAP = 0.55, 0.7
"""Shares of a clip that are overlapped, or made anew, at most."""
BATCH = 10
"""B of the reuse of latents and of the variance within batches (appendices I and J)."""
MEMORY_ITERATIONS = 2


def curve_of(bench: Bench, i: int) -> Curve:
    """The loudness curve of clip i; level ones are drawn anew, since nothing correlates with
    them.
    """
    rng = np.random.default_rng([bench.seed + i, 2])
    while True:
        curve = random_curve(rng, bench.model.spec.clip_seconds)
        if len({level for _, level in curve.points}) > 1:
            return curve


def control_of(bench: Bench, i: int, name: str) -> Control:
    """A target of clip i: "intensity", "correlation", "melody" or "structure"."""
    if name in ("intensity", "correlation"):
        return Intensity(curve_of(bench, i), "mse" if name == "intensity" else "correlation")
    if name == "melody":
        return Melody(
            drawn_tune(np.random.default_rng([bench.seed + i, 4]), bench.tags(i).tempo or 120.0)
        )
    return Structure(FORMS[int(np.random.default_rng([bench.seed + i, 5]).integers(len(FORMS)))])


def pcm(audio: Tensor) -> Tensor:
    """Audio as it is kept, int16."""
    return (audio.clamp(-1, 1) * 32767).round().to(torch.int16)


def sound(kept: Tensor) -> Tensor:
    """`pcm` undone, float32."""
    return kept.float() / 32767


def values_of(result: Result, **more: float) -> Tensors:
    """What is kept of a clip: errors, sound, losses, seconds, and x_T if it was optimised."""
    figures = {name: value.double() for name, value in result.errors.items()}
    figures |= {name: _one(value) for name, value in more.items()}
    figures["seconds_per_clip"] = _one(sum(result.timings.values()))
    if len(result.losses):
        figures["seconds_per_step"] = _one(result.timings["optimize"] / len(result.losses))
        figures |= {"losses": result.losses.T.contiguous(), "x_T": result.x_T}
    return {**figures, "audio": pcm(result.audio)}


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _generated(names: Sequence[str], bench: Bench, i: int, setup: Setup) -> Tensors:
    controls = [control_of(bench, i, name) for name in names]
    return values_of(run(bench.request(i, setup, controls), bench.player(setup)))


def _reference(bench: Bench, i: int, setup: Setup) -> Tensor:
    """x_ref (1, …, frames) of the held-out clip i."""
    model = bench.player(setup)
    return model.encode(bench.clips(setup).audio[i : i + 1].to(model.device)).float().cpu()


def _region(
    kind: str, seconds: float, reference: Tensor, model: MusicModel
) -> tuple[Region, list[float]]:
    """What is to be kept of x_ref (…, frames), and where in the clip the seams are, in seconds."""
    frames, rate = reference.shape[-1], model.spec.frame_rate
    if kind == "outpaint":
        overlap = min(round(seconds * rate), int(MOST_OVERLAP * frames))
        return Region.outpaint(reference, overlap, frames), [overlap / rate]
    if kind == "loop":
        overlap = min(round(seconds * rate), frames // 4)
        return Region.loop(reference, overlap, frames), [overlap / rate, (frames - overlap) / rate]
    gap = min(round(seconds * rate), int(MOST_GAP * frames))
    start = (frames - gap) // 2
    return Region.inpaint(reference, ((start, start + gap),)), [start / rate, (start + gap) / rate]


def _painted(
    kind: str, seconds: float, names: Sequence[str], bench: Bench, i: int, setup: Setup
) -> Tensors:
    """A clip that keeps a region of a held-out one; other controls count outside that."""
    model = bench.player(setup)
    region, seams = _region(kind, seconds, _reference(bench, i, setup)[0], model)
    rest = (seams[0], model.spec.clip_seconds)
    others = [control_of(bench, i, name).during(rest) for name in names]
    result = run(bench.request(i, setup, (region, *others)), model)
    jump = max(seam_jump(result.audio[0], at, model.spec) for at in seams)
    return values_of(result, seam_jump=jump)


def _inverted(bench: Bench, i: int, setup: Setup) -> Tensors:
    how: Any = dict(setup.settings)["how"]
    return values_of(
        inverted(_reference(bench, i, setup), bench.player(setup), bench.request(i, setup), how)
    )


def _memory(bench: Bench, i: int, setup: Setup) -> Tensors:
    """Mean memory of a few iterations' tensors; counting them takes time, so nothing else is
    measured here.
    """
    model = bench.player(setup)
    request = bench.request(
        i, setup, [control_of(bench, i, "intensity")], iterations=MEMORY_ITERATIONS
    ).resolved(model)
    assert request.method is not None
    shape = model.shape()
    job, x_T, steps = (
        job_of(request, model, shape),
        initial_x_T(request, model, shape),
        WAYS[request.method].steps,
    )
    assert steps is not None
    with Memory() as memory:
        for _ in steps(job, x_T):
            pass
    return {"mean_memory_gb": _one(memory.mean_gb), "peak_memory_gb": _one(memory.peak_gb)}


def _reused(
    name: str, how: How, random_prompts: bool, bench: Bench, i: int, setup: Setup
) -> Tensors:
    """Mean loss of B clips from one optimised latent (Table 10), which is that of the task `name`
    by DITTO.
    """
    model = bench.player(setup)
    request = bench.request(i, setup)
    latent = Latent(
        bench.clip(CONTROLS[name], DITTO, i)["x_T"], model.sha256, {"guidance": request.guidance}
    )
    control = control_of(bench, i, name)
    prompts = drawn_prompts(bench, i) if random_prompts else bench.tags(i)
    made = vary(
        latent,
        model,
        count=BATCH,
        how=how,
        seed=request.seed,
        prompts=prompts,
        controls=[control],
        steps=request.steps,
    )
    with torch.no_grad():
        loss = control.loss(Output(made.x_0, model, made.audio)).mean()
    return {
        "reuse_loss": _one(loss.item()),
        "seconds_per_clip": _one(made.timings["decode"] / BATCH),
    }


def drawn_prompts(bench: Bench, i: int) -> list[Tags]:
    """B sets of tags at random."""
    rng = np.random.default_rng([bench.seed + i, 6])
    words = bench.model.vocabulary
    return [words.decode(random_tags(rng, words).tolist()) for _ in range(BATCH)]


def _varied(fixed: bool, bench: Bench, i: int, setup: Setup) -> Tensors:
    """Variance of the features within a batch of random prompts, with one x_T for all or one for
    each (Fig. 10).
    """
    model = bench.player(setup)
    shape, spec = model.shape(), model.spec
    first = bench.seed + BATCH * i
    x_T = draw_x_T(shape, first, BATCH, model.noise)
    sounds = []
    for item, tags in enumerate(drawn_prompts(bench, i)):
        start = Latent(x_T[0 if fixed else item][None], model.sha256)
        sounds.append(run(replace(bench.request(i, setup), tags=tags, start=start), model).audio)
    audio = torch.cat(sounds)
    with torch.no_grad():
        features = {
            "intensity": intensity(audio, spec),
            "melody": log_chroma(audio, spec),
            "structure": self_similarity(log_mel(audio, spec), spec),
        }
    return {
        f"{name}_variance": _one(intra_batch_variance(feature))
        for name, feature in features.items()
    }


def _described(bench: Bench, i: int, setup: Setup) -> Tensors:
    """A clip made to sound as the caption of clip i says (DITTO-2, Table 3)."""
    text, model = bench.tags(i).caption(), bench.player(setup)
    if bench.clap is None:
        raise ModelError("no weights: this row needs a CLAP, give its folder or Hub id with --clap")
    return values_of(run(bench.request(i, setup, [Text(text, bench.clap)]), model))


def _told(bench: Bench, i: int, setup: Setup) -> Tensors:
    """MusicGen's clip of the same caption, at the model's rate and length."""
    if bench.musicgen is None or dict(setup.settings)["size"] != "3.3B":
        raise ModelError(
            "no weights: this row needs MusicGen, give a folder or Hub id with --musicgen (without melody)"
        )
    spec, length = bench.model.spec, bench.model.spec.samples(bench.model.spec.clip_frames)
    audio = bench.musicgen.generate(
        [bench.tags(i).caption()], spec.clip_seconds, seed=bench.seed + i
    )
    there = soxr.resample(audio[0].numpy(), bench.musicgen.sample_rate, spec.sample_rate)[:length]
    return {
        "audio": pcm(
            torch.from_numpy(np.pad(there, (0, length - len(there))).astype(np.float32))[None]
        )
    }


def region(kind: str, seconds: float, name: str) -> Task:
    """A task that keeps a region of a held-out clip."""
    return Task(name, partial(_painted, kind, seconds, ()))


NAMES = ("intensity", "correlation", "melody", "structure")
CONTROLS = {name: Task(name, partial(_generated, (name,))) for name in NAMES}
PAIRS = {
    name: Task(f"intensity+{name}", partial(_generated, ("intensity", name)), balanced=True)
    for name in ("melody", "structure")
}
PAIRS["outpainting"] = Task(
    "intensity+outpainting",
    partial(_painted, "outpaint", WIDE_OVERLAP, ("intensity",)),
    balanced=True,
)
OUTPAINTING = {o: region("outpaint", o, f"outpainting {o} s") for o in (1, 2, 3)}
INPAINTING = {gap: region("inpaint", gap, f"inpainting {gap} s") for gap in (2, 3, 4)}
LOOPING = region("loop", LOOP_OVERLAP, "looping")
INVERSION = Task("inversion", _inverted)
MEMORY = Task("memory", _memory)
TEXT, TOLD = Task("text", _described, hears_text=True), Task("text, MusicGen", _told)
PLAIN = Task("plain", partial(_generated, ()))
FIXED, FREE = Task("fixed x_T", partial(_varied, True)), Task("free x_T", partial(_varied, False))


def reuse(name: str, how: How, random_prompts: bool) -> Task:
    """A task of Table 10."""
    prompts = "random prompts" if random_prompts else "fixed prompt"
    return Task(f"reuse {name} {how} {prompts}", partial(_reused, name, how, random_prompts))


def clap_of(source: str | None) -> Clap | None:
    """The CLAP of a folder or Hub id, or the embedded one; None where there is none."""
    try:
        return Clap.load(source)
    except ModelError:
        if source is not None:
            raise
        return None
