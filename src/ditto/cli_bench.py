"""The benches on the command line."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

Count = Annotated[int, typer.Option(help="Clips a row.")]
Heldout = Annotated[Path, typer.Option(help="Folder of the held-out data.")]
Classifier = Annotated[Path, typer.Option(help="Folder of the classifier whose embedding distances are in.")]
Cm = Annotated[Path | None, typer.Option(help="Folder of a CM student.")]
Batch = Annotated[int, typer.Option(help="Clips optimised at once.")]
Iterations = Annotated[int, typer.Option("--iterations", "-K", help="Optimisation iterations.")]
Guidance = Annotated[float | None, typer.Option(help="CFG scale w; the model's default if not given.")]
Gamma = Annotated[float | None, typer.Option(help="γ of the CTM student's decoding; as in `generate` if not given.")]
Seed = Annotated[int, typer.Option(help="Seed of the first clip.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Resume = Annotated[bool, typer.Option(help="Go on from what an earlier run finished.")]
Model = Annotated[
    str | None, typer.Option(help="A model's folder, or its name on the Hub; the embedded model if not given.")
]
Steps = Annotated[int, typer.Option("--steps", "-T", help="Sampling steps.")]
EXAMPLE = "Example: ditto-music bench {} --count 32"


def register(bench: typer.Typer) -> None:
    """Add the commands to the group `bench`."""
    for name, command in (
        ("quality", quality), ("intensity", intensity), ("controls", controls), ("speed", speed),
        ("d2-table2", d2_table2), ("d2-fig4", d2_fig4),
    ):  # fmt: skip
        bench.command(name, epilog=EXAMPLE.format(name))(command)


def quality(
    count: Annotated[int, typer.Option(help="Clips.")] = 256, heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    guidance: Annotated[
        list[float] | None, typer.Option(help="CFG scales to measure besides the model's default; may be repeated.")
    ] = None,
    steps: Steps = 20, seed: Seed = 0, out: Out = Path("docs/results"), resume: Resume = True, model: Model = None,
) -> None:  # fmt: skip
    """Measure how good generated clips are, and the vocoder: tag accuracy, Fréchet distance, spectral errors."""
    from ditto.bench.quality import run_quality
    from ditto.models.loading import load

    run_quality(
        load(model), heldout, classifier, count=count, seed=seed, out=out, steps=steps,
        guidances=guidance or (), resume=resume, command=command_line(),
    )  # fmt: skip


def intensity(
    count: Count = 32, iterations: Iterations = 70, steps: Steps = 20, batch: Batch = 4,
    workers: Annotated[int, typer.Option(help="Processes that make batches side by side.")] = 1,
    guidance: Guidance = None, seed: Seed = 0, out: Out = Path("docs/results"), resume: Resume = True,
    model: Model = None,
) -> None:  # fmt: skip
    """Measure how well DITTO makes clips follow loudness curves, against no control."""
    from ditto.bench.intensity import run_intensity
    from ditto.models.loading import load

    run_intensity(
        load(model), count=count, seed=seed, out=out, batch=batch, steps=steps, iterations=iterations,
        workers=workers, guidance=guidance, resume=resume, command=command_line(),
    )  # fmt: skip


def d2_table2(
    count: Count = 32, heldout: Heldout = Path("datasets/heldout"), classifier: Classifier = Path("weights/classifier"),
    batch: Batch = 4, iterations: Iterations = 70, guidance: Guidance = None, gamma: Gamma = None, seed: Seed = 0,
    out: Out = Path("docs/results"), resume: Resume = True, model: Model = None,
) -> None:  # fmt: skip
    """DITTO-2, Table 2: surrogate and decoding steps (M, T') against time, error and distance."""
    from ditto.bench.budget import TABLE_2, run_budget
    from ditto.models.loading import load

    run_budget(
        "d2-table2", TABLE_2, load(model), heldout, classifier, count=count, seed=seed, out=out, batch=batch,
        iterations=iterations, guidance=guidance, gamma=gamma, resume=resume, command=command_line(),
    )  # fmt: skip


def d2_fig4(
    count: Count = 32, heldout: Heldout = Path("datasets/heldout"), classifier: Classifier = Path("weights/classifier"),
    cm: Cm = None, batch: Batch = 4, iterations: Iterations = 70, guidance: Guidance = None, gamma: Gamma = None,
    seed: Seed = 0, out: Out = Path("docs/results"), resume: Resume = True, model: Model = None,
) -> None:  # fmt: skip
    """DITTO-2, Fig. 4 and 5: the budgets of CM, CTM and the base beside one another."""
    from ditto.bench.budget import FIG_4, FIG_5, TABLE_2, run_budget
    from ditto.models.loading import load

    run_budget(
        "d2-fig4", (*TABLE_2, *FIG_5, *FIG_4), load(model), heldout, classifier, cm=cm, count=count, seed=seed, out=out,
        batch=batch, iterations=iterations, guidance=guidance, gamma=gamma, resume=resume, command=command_line(),
    )  # fmt: skip


def speed(
    count: Count = 32,
    ditto_count: Annotated[int | None, typer.Option(help="Clips that DITTO makes too; all if not given.")] = None,
    iterations: Iterations = 70, guidance: Guidance = None, gamma: Gamma = None, seed: Seed = 0,
    out: Out = Path("docs/results"), resume: Resume = True, model: Model = None,
) -> None:  # fmt: skip
    """Time DITTO-2 against DITTO, one clip after the other, and show where an iteration's time goes."""
    from ditto.bench.speed import run_speed

    run_speed(
        model, count=count, ditto_count=ditto_count, seed=seed, out=out, iterations=iterations, guidance=guidance,
        gamma=gamma, resume=resume, command=command_line(),
    )  # fmt: skip


def controls(
    count: Annotated[int, typer.Option(help="Clips a row.")] = 16,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this control or edit, e.g. melody; may be repeated.")
    ] = None,
    heldout: Heldout = Path("datasets/heldout"), classifier: Classifier = Path("weights/classifier"), cm: Cm = None,
    iterations: Annotated[int | None, typer.Option("--iterations", "-K", help="The papers' if not given.")] = None,
    guidance: Guidance = None, seed: Seed = 0, out: Out = Path("docs/results"), resume: Resume = True,
    model: Model = None,
) -> None:  # fmt: skip
    """Every control and edit, without control, by DITTO and by DITTO-2: error, distance, seams, time."""
    from ditto.bench.controls import run_controls
    from ditto.models.loading import load

    run_controls(
        load(model), heldout, classifier, cm=cm, count=count, tasks=task or (), seed=seed, out=out,
        iterations=iterations, guidance=guidance, resume=resume, command=command_line(),
    )  # fmt: skip


def command_line() -> str:
    """The present call, as a reader would repeat it."""
    return shlex.join(["ditto-music", *sys.argv[1:]])
