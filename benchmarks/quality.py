"""How good and how faithful to its tags the uncontrolled model is, and the vocoder, as a table.

A classifier trained on the training split hears generated clips and held-out ones: does it
recognise the tag that was asked for as often as in real music? And how far are generated clips
from real ones (Fréchet distance), beside real against real at the same count (the floor) and noise
(the ceiling)? "Spectrogram" rows hear x_0 as the denoiser made it, the others the vocoder's sound,
which is what a user gets.
"""

from functools import partial

import torch

from benchmarks.cache import Tensors
from benchmarks.measures import FAD, RECOGNISED, VOCODER
from benchmarks.runner import Entry, Table, Versus
from benchmarks.tasks import PLAIN, Bench, Task, one, pcm
from benchmarks.variants import PUBLISHED_CM, PUBLISHED_CTM, TTM, Variant
from ditto.eval.vocoder_error import evaluate_vocoder, griffin_lim_mel
from ditto.latents import draw_x_T
from ditto.runner import run

REAL, VOCODED = "real held-out", "real, through the vocoder"
SPECTROGRAM, SOUND = "generated (spectrogram)", "generated (sound)"
SHARE, FLOOR_MULTIPLE, STUDENT_MULTIPLE = 0.85, 5.0, 1.25
STEPS = (1, 2, 4, 8)


def real(bench: Bench, task: Task, variant: Variant, i: int, *, vocoded: bool) -> Tensors:
    """Return held-out clip i, as it is or after its own trip through the vocoder."""
    model, audio = bench.models.model, bench.targets.real().audio[i : i + 1]
    if vocoded:
        with torch.no_grad():
            audio = model.to_audio(model.encode(audio.to(model.device)))
    return {"audio": pcm(audio)}


def spectrogram(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Make a clip and keep x_0."""
    result = run(task.request(bench, variant, i), bench.models.of(variant))
    return {"x_0": result.x_0.half()}


def noise(bench: Bench, task: Task, variant: Variant, i: int) -> Tensors:
    """Return white noise of −20 dB RMS."""
    model, seed = bench.models.model, bench.targets.seed + i
    samples = model.spec.samples(model.spec.clip_frames)
    return {"audio": pcm(0.1 * draw_x_T((samples,), seed, 1))}


def vocode(bench: Bench, task: Task, variant: Variant, i: int, *, griffin_lim: bool) -> Tensors:
    """Measure the vocoder's error, or Griffin-Lim's, on held-out clip i."""
    model, audio = bench.models.model, bench.targets.real().audio[i : i + 1]
    vocoder = partial(griffin_lim_mel, spec=model.spec) if griffin_lim else model.vocoder
    errors = evaluate_vocoder(vocoder, audio, model.spec)
    return {measure.name: one(errors[measure.name]) for measure in VOCODER}


def _row(name: str, task: Task, variant: Variant = TTM, *, distance: bool = True) -> Entry:
    measures = (*RECOGNISED, FAD) if distance else RECOGNISED
    return Entry("", task, variant.with_(name=name), measures)


def _student(kind: str, variant: Variant, steps: int) -> Entry:
    """Return the row of a student's clips from the same x_T; without control it only decodes."""
    name = f"{SOUND}, {kind} in {steps} step{'s' if steps > 1 else ''}"
    return _row(name, PLAIN, variant.with_(decode_steps=steps))


VOCODERS = ("vocoder", "Griffin-Lim, 32 iterations")
TABLE = Table(
    "quality",
    "How good the uncontrolled model is",
    (
        _row(REAL, Task("real", partial(real, vocoded=False))),
        _row(VOCODED, Task("real vocoded", partial(real, vocoded=True))),
        _row(SPECTROGRAM, Task("spectrogram", spectrogram), distance=False),
        _row(SOUND, PLAIN),
        _row("noise: white, −20 dB RMS", Task("noise", noise)),
        *(_student("CTM", PUBLISHED_CTM, steps) for steps in STEPS),
        *(_student("CM", PUBLISHED_CM, steps) for steps in STEPS),
        *(
            Entry(
                "",
                Task(name, partial(vocode, griffin_lim=name != "vocoder")),
                TTM.with_(name=name),
                VOCODER,
            )
            for name in VOCODERS
        ),
    ),
    claims=(
        *(
            Versus(
                f"{measure.name.replace('_', ' ')} of generated clips, as sound, is at least 85 % "
                "of real clips'",
                SOUND,
                REAL,
                measure,
                least=SHARE,
                paired=False,
            )
            for measure in RECOGNISED
        ),
        Versus(
            "the Fréchet distance of generated clips, as sound, is at most 5 times the floor of "
            "real against real",
            SOUND,
            REAL,
            FAD,
            most=FLOOR_MULTIPLE,
            paired=False,
        ),
        *(
            Versus(
                f"Griffin-Lim's {measure.name} is larger than the vocoder's",
                VOCODERS[1],
                VOCODERS[0],
                measure,
            )
            for measure in VOCODER[:3]
        ),
        *(
            Versus(
                f"the Fréchet distance of the CTM student in {steps} steps is at most 1.25 times "
                "its teacher's",
                f"{SOUND}, CTM in {steps} steps",
                SOUND,
                FAD,
                most=STUDENT_MULTIPLE,
            )
            for steps in (2, 4)
        ),
    ),
    count=256,
)
