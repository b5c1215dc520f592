"""The benches on the command line."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Count = Annotated[int, typer.Option(help="Clips a row.")]
Heldout = Annotated[Path, typer.Option(help="Folder of the held-out data.")]
Classifier = Annotated[
    Path, typer.Option(help="Folder of the classifier whose embedding distances are in.")
]
Cm = Annotated[
    Path | None, typer.Option(help="Folder of a CM student; tables find that of weights/.")
]
Batch = Annotated[int, typer.Option(help="Clips optimised at once.")]
Iterations = Annotated[int, typer.Option("--iterations", "-K", help="Optimisation iterations.")]
Guidance = Annotated[
    float | None, typer.Option(help="CFG scale w; the model's default if not given.")
]
Gamma = Annotated[
    float | None,
    typer.Option(help="γ of the CTM student's decoding; as in `generate` if not given."),
]
Seed = Annotated[int, typer.Option(help="Seed of the first clip.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Resume = Annotated[bool, typer.Option(help="Go on from what an earlier run finished.")]
Model = Annotated[
    str | None,
    typer.Option(help="A model's folder, or its name on the Hub; the embedded model if not given."),
]
Steps = Annotated[int, typer.Option("--steps", "-T", help="Sampling steps.")]
Clap = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a CLAP; the embedded one if not given.")
]
Judge = Annotated[
    str,
    typer.Option(
        help="Folder or Hub id of the CLAP that hears, which nothing is optimised against."
    ),
]
ControlNet = Annotated[
    Path | None, typer.Option(help="Folder of a ControlNet; tables find that of weights/.")
]
Long = Annotated[
    str | None,
    typer.Option(help="A model with a window of 24 s, for Table 7; tables find weights/'s."),
]
Unconditional = Annotated[
    str | None,
    typer.Option(
        help="A model trained without tags, for DITTO-2's Table 3; tables find weights/'s."
    ),
]
Musicgen = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a MusicGen, for DITTO-2's Table 3.")
]
Ratings = Annotated[
    list[Path] | None,
    typer.Argument(help="CSV files that listeners sent back; without any the page is made."),
]
Few = Annotated[
    int | None,
    typer.Option(
        help="Clips of the rows that take minutes a clip: DOODL, 50 steps; DITTO in `controls`."
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that make clips side by side, sharing the cores.")
]
EXAMPLE = "Example: ditto-music bench {} --count 32"
TITLES = {
    "d1-table1": "DITTO, Table 1: outpainting and looping by DITTO and all that it is compared with.",
    "d1-table2": "DITTO, Table 2: inpainting.",
    "d1-table3": "DITTO, Table 3: intensity, melody and structure control.",
    "d1-table5": "DITTO, Table 5: efficiency of DITTO and DOODL at 20 and 50 steps.",
    "d1-table6": "DITTO, Table 6: intensity by its correlation.",
    "d1-table7": "DITTO, Table 7: inversion at four guidance scales, in 6 and 24 s.",
    "d1-table8": "DITTO, Table 8: DDIM and DPM-Solver++ while optimising.",
    "d1-table9": "DITTO, Table 9: two controls at once.",
    "d1-table10": "DITTO, Table 10: ten clips from one optimised latent.",
    "d1-table11": "DITTO, Table 11: latency.",
    "d1-fig10": "DITTO, Fig. 10: variance within batches that share x_T.",
    "d2-table1": "DITTO-2, Table 1: DITTO-2 with CM and CTM against DITTO.",
    "d2-table3": "DITTO-2, Table 3: text adherence.",
    "all": "All of the papers' tables on the same clips; what one table has made, the others use.",
}
"""Of the benches that are tables of one runner (`benchmarks.tables`), for --help, which imports
nothing heavy."""


def register(bench: typer.Typer) -> None:
    """Add the commands to the group `bench`."""
    for name, command in (
        ("quality", quality),
        ("intensity", intensity),
        ("controls", controls),
        ("speed", speed),
        ("d2-table2", d2_table2),
        ("d2-fig4", d2_fig4),
        ("d2-fig5", d2_fig5),
        ("d1-table4", d1_table4),
    ):
        bench.command(name, epilog=EXAMPLE.format(name))(command)
    for name, title in TITLES.items():
        example = (
            "Example: ditto-music bench all --count 8 --few 4 --workers 2"
            if name == "all"
            else EXAMPLE.format(name)
        )
        bench.command(name, help=title, epilog=example)(table(name))


def quality(
    count: Annotated[int, typer.Option(help="Clips.")] = 256,
    heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    guidance: Annotated[
        list[float] | None,
        typer.Option(help="CFG scales to measure besides the model's default; may be repeated."),
    ] = None,
    cm: Cm = None,
    steps: Steps = 20,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """Measure how good generated clips are, and the vocoder: tag accuracy, Fréchet distance,
    spectral errors.
    """
    from benchmarks.quality import run_quality
    from ditto.models.hub import load

    music = load(model)
    run_quality(
        music,
        heldout,
        classifier,
        count=count,
        seed=seed,
        out=out,
        steps=steps,
        guidances=guidance or (),
        cm=music.with_student(cm) if cm else None,
        resume=resume,
        command=command_line(),
    )


def intensity(
    count: Count = 32,
    iterations: Iterations = 70,
    steps: Steps = 20,
    batch: Batch = 4,
    workers: Annotated[int, typer.Option(help="Processes that make batches side by side.")] = 1,
    guidance: Guidance = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """Measure how well DITTO makes clips follow loudness curves, against no control."""
    from benchmarks.intensity import run_intensity
    from ditto.models.hub import load

    run_intensity(
        load(model),
        count=count,
        seed=seed,
        out=out,
        batch=batch,
        steps=steps,
        iterations=iterations,
        workers=workers,
        guidance=guidance,
        resume=resume,
        command=command_line(),
    )


def d2_table2(
    count: Count = 32,
    heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    batch: Batch = 4,
    iterations: Iterations = 70,
    guidance: Guidance = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """DITTO-2, Table 2: surrogate and decoding steps (M, T') against time, error and distance."""
    _budget(
        "d2-table2",
        model,
        heldout,
        classifier,
        count=count,
        batch=batch,
        iterations=iterations,
        guidance=guidance,
        gamma=gamma,
        seed=seed,
        out=out,
        resume=resume,
    )


def d2_fig4(
    count: Count = 32,
    heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    cm: Cm = None,
    batch: Batch = 4,
    iterations: Iterations = 70,
    guidance: Guidance = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """DITTO-2, Fig. 4: the budgets of CM, CTM and the base beside one another."""
    _budget(
        "d2-fig4",
        model,
        heldout,
        classifier,
        cm=cm,
        count=count,
        batch=batch,
        iterations=iterations,
        guidance=guidance,
        gamma=gamma,
        seed=seed,
        out=out,
        resume=resume,
    )


def d2_fig5(
    count: Count = 32,
    heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    cm: Cm = None,
    batch: Batch = 4,
    iterations: Iterations = 70,
    guidance: Guidance = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """DITTO-2, Fig. 5: one-step optimisation, decoded in 1 to 8 steps; those rows of Fig. 4."""
    _budget(
        "d2-fig5",
        model,
        heldout,
        classifier,
        cm=cm,
        count=count,
        batch=batch,
        iterations=iterations,
        guidance=guidance,
        gamma=gamma,
        seed=seed,
        out=out,
        resume=resume,
    )


def _budget(name: str, model: str | None, heldout: Path, classifier: Path, **settings: Any) -> None:
    from benchmarks.budget import run_budget
    from benchmarks.every import BUDGETS, judge_at
    from ditto.models.hub import load

    judge = judge_at()
    run_budget(
        name,
        BUDGETS[name],
        load(model),
        heldout,
        classifier,
        judge=judge,
        command=command_line(),
        **settings,
    )


def d1_table4(
    ratings: Ratings = None,
    count: Annotated[int, typer.Option(help="Clips of each application.")] = 10,
    heldout: Heldout = Path("datasets/heldout"),
    controlnet: ControlNet = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
) -> None:
    """DITTO, Table 4, the listening test: writes a page to rate clips on, and analyses the ratings
    that come back.
    """
    from benchmarks import listening
    from benchmarks.every import Weights

    lines = listening.read_ratings(ratings or ())
    weights = Weights(model, controlnet=shipped(model, controlnet, "controlnet"))
    bench = weights.bench(heldout, seed=seed, resume=resume)
    if lines:
        listening.analysed(lines, bench, out=out, command=command_line())
        return
    page, missing = listening.export(bench, out, count=count)
    typer.echo(f"{page}: open it in a browser, and give this command the CSV files that it saves")
    for row, reason in missing.items():
        typer.echo(f"missing: {row} ({reason})")


def speed(
    count: Count = 32,
    slow_count: Annotated[
        int | None,
        typer.Option(
            help="Clips that DITTO, and DITTO-2 through the vocoder, make; all if not given."
        ),
    ] = None,
    iterations: Iterations = 70,
    guidance: Guidance = None,
    gamma: Gamma = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="Time an untrained network instead: a base's config, or paper for the papers' UNet. Writes "
            "speed-NAME; it keeps no parts."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Of --config: cpu or cuda.")] = "cpu",
) -> None:
    """Time DITTO-2 against DITTO, one clip after the other, and show where an iteration's time
    goes.
    """
    if config is not None:
        from benchmarks.speed_untrained import run_speed_untrained

        run_speed_untrained(
            config,
            device=device,
            count=count,
            seed=seed,
            iterations=iterations,
            guidance=guidance,
            out=out,
            command=command_line(),
        )
        return
    if device != "cpu":
        raise typer.BadParameter(
            "the embedded model is timed on the CPU: give --config too", param_hint="--device"
        )
    from benchmarks.speed import run_speed

    run_speed(
        model,
        count=count,
        slow_count=slow_count,
        seed=seed,
        out=out,
        iterations=iterations,
        guidance=guidance,
        gamma=gamma,
        resume=resume,
        command=command_line(),
    )


def controls(
    count: Annotated[int, typer.Option(help="Clips a row.")] = 16,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this control or edit, e.g. melody; may be repeated."),
    ] = None,
    few: Few = None,
    heldout: Heldout = Path("datasets/heldout"),
    classifier: Classifier = Path("weights/classifier"),
    clap: Clap = None,
    judge: Judge = "weights/clap-judge",
    cm: Cm = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", "-K", help="The papers' if not given.")
    ] = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    out: Out = Path("docs/results"),
    resume: Resume = True,
    model: Model = None,
    workers: Workers = 1,
) -> None:
    """Every control and edit, without control, by DITTO and by DITTO-2: error, distance, seams,
    time.
    """
    from benchmarks.every import Weights, run_tables

    given = {"iterations": iterations, "guidance": guidance}
    weights = Weights(model, classifier, clap, judge, shipped(model, cm, "cm"))
    run_tables(
        "controls",
        weights,
        heldout,
        count=count,
        few=few,
        seed=seed,
        out=out,
        tasks=task or (),
        resume=resume,
        command=command_line(),
        workers=workers,
        overrides={key: value for key, value in given.items() if value is not None},
    )


def table(name: str) -> Callable[..., None]:
    """The command of a table, or of "all"."""

    def command(
        count: Annotated[int, typer.Option(help="Clips a row.")] = 16,
        few: Few = None,
        heldout: Heldout = Path("datasets/heldout"),
        classifier: Classifier = Path("weights/classifier"),
        clap: Clap = None,
        judge: Judge = "weights/clap-judge",
        cm: Cm = None,
        controlnet: ControlNet = None,
        long: Long = None,
        unconditional: Unconditional = None,
        musicgen: Musicgen = None,
        iterations: Annotated[
            int | None, typer.Option("--iterations", "-K", help="The papers' if not given.")
        ] = None,
        guidance: Guidance = None,
        seed: Seed = 0,
        out: Out = Path("docs/results"),
        resume: Resume = True,
        model: Model = None,
        workers: Workers = 1,
    ) -> None:
        from benchmarks.every import Weights, run_tables

        cm, controlnet = shipped(model, cm, "cm"), shipped(model, controlnet, "controlnet")
        wide, free = (
            shipped_base(model, long, "base-24s"),
            shipped_base(model, unconditional, "unconditional"),
        )
        weights = Weights(model, classifier, clap, judge, cm, controlnet, wide, free, musicgen)
        given = {"iterations": iterations, "guidance": guidance}
        run_tables(
            name,
            weights,
            heldout,
            count=count,
            few=few,
            seed=seed,
            out=out,
            resume=resume,
            command=command_line(),
            workers=workers,
            overrides={key: value for key, value in given.items() if value is not None},
        )

    return command


def shipped(model: str | None, given: Path | None, name: str) -> Path | None:
    """What was given; otherwise the embedded model's own weights for benches, where a checkout has
    them.
    """
    found = Path("weights") / name
    return given if given is not None or model is not None or not found.is_dir() else found


def shipped_base(model: str | None, given: str | None, name: str) -> str | None:
    """`shipped` of a base, which may also be on the Hub."""
    found = shipped(model, Path(given) if given else None, name)
    return None if found is None else str(found)


def command_line() -> str:
    """The present call, as a reader would repeat it."""
    return shlex.join(["ditto-music", *sys.argv[1:]])
