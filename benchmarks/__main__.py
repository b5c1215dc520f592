"""``python -m benchmarks NAME``: measures a table and writes docs/results/NAME.json and NAME.png.

``python -m benchmarks claims`` renders the page of claims from what is there, and ``sounds`` makes
docs/audio anew.
"""

import shlex
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import (
    ablation,
    chains,
    controls,
    gpu,
    listening,
    memory,
    music,
    quality,
    questions,
    song,
    speed,
    tables_ditto,
    tables_ditto2,
    times,
    tradeoff,
)
from benchmarks.measures import Judge
from benchmarks.plots import draw
from benchmarks.report import RESULTS, ROOT, Report, write_claims
from benchmarks.runner import Setup, Table, make_clips, run_table
from benchmarks.targets import REFERENCE, Targets
from benchmarks.tasks import Bench
from benchmarks.variants import Weights
from ditto.errors import DittoError

TABLES = {
    table.name: table
    for table in (
        *tables_ditto.TABLES,
        *tables_ditto2.TABLES,
        ablation.TABLE,
        controls.TABLE,
        music.TABLE,
        quality.TABLE,
        *questions.TABLES,
        speed.table(),
        times.TABLE,
        tradeoff.TABLE,
    )
}
PAPERS = [name for name in TABLES if name.startswith("d")]
"""What "all" measures, besides the listening test's page."""
WEIGHTS = ROOT / "weights"
NAMES = ", ".join(
    [
        *TABLES,
        f"{listening.NAME} (the listening test)",
        gpu.NAME,
        chains.NAME,
        memory.NAME,
        song.NAME,
        "all",
        "claims",
        "sounds",
    ]
)

Name = Annotated[str, typer.Argument(help=f"One of {NAMES}.", show_default=False)]
Ratings = Annotated[
    list[Path] | None,
    typer.Argument(help="With d1-table4: CSV files that listeners sent; without, makes the page."),
]
Count = Annotated[int | None, typer.Option(min=1, help="Clips a row; the table's own by default.")]
SlowCount = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Clips of rows that take minutes each, at most --count; by default 16 of DITTO's, and "
        "8 of DOODL's, of 50 steps' and of 24 s.",
    ),
]
Rows = Annotated[
    list[str] | None,
    typer.Option(help="Only rows whose name contains this, or is what follows =; may be repeated."),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the first clip; 0, or 1000 where settings are chosen.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes side by side, sharing the cores; 1 by default, with --ray one for each of "
        "the cluster's cores, or GPUs.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster, or auto for this machine's; all its machines are of one "
        "kind and see this folder, --cache, --held-out and the weights."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Clips made at once, where a task allows it.")]
Timed = Annotated[
    int,
    typer.Option(
        min=0,
        help="Clips of each row that has a time to make again, one at a time and whole, for their "
        "times alone: to be given on a machine with nothing else to do.",
    ),
]
Iterations = Annotated[
    int | None, typer.Option("--iterations", "-K", min=1, help="The papers' by default.")
]
Guidance = Annotated[float | None, typer.Option(help="CFG scale w; the model's by default.")]
HeldOut = Annotated[Path, typer.Option(help="Folder of the held-out data.")]
Model = Annotated[str | None, typer.Option(help="A folder or Hub id; the embedded by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; with gpu also cuda:1, … or mps.")]
Cm = Annotated[Path | None, typer.Option(help="Folder of a CM student.")]
ControlNet = Annotated[Path | None, typer.Option("--controlnet", help="Folder of an adapter.")]
Long = Annotated[str | None, typer.Option(help="A model with a window of 24 s.")]
Unconditional = Annotated[str | None, typer.Option(help="A model trained without tags.")]
Clap = Annotated[str | None, typer.Option(help="The CLAP that judges, a folder or Hub id.")]
TextClap = Annotated[str | None, typer.Option(help="The CLAP that texts are optimised with.")]
Classifier = Annotated[Path | None, typer.Option(help="Folder of the tag classifier.")]
MusicGen = Annotated[str | None, typer.Option("--musicgen", help="A folder or Hub id.")]
MusicGenMelody = Annotated[
    str | None, typer.Option("--musicgen-melody", help="The same, of the kind that takes melodies.")
]
Config = Annotated[
    str | None,
    typer.Option(
        help="With speed: time an untrained network, e.g. paper (the papers' UNet); with gpu: tiny."
    ),
]
Spectrograms = Annotated[
    Path | None, typer.Option(help="With music: draw a clip of every genre into this PNG instead.")
]
Old = Annotated[str | None, typer.Option(help="With --spectrograms: a model to compare with.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
As = Annotated[str | None, typer.Option("--as", help="Name of the result; the table's by default.")]
Cache = Annotated[Path, typer.Option(help="Folder of finished clips.")]
Resume = Annotated[bool, typer.Option(help="Use clips that an earlier run finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def measure(
    name: Name,
    ratings: Ratings = None,
    count: Count = None,
    slow_count: SlowCount = None,
    rows: Rows = None,
    seed: Seed = None,
    workers: Workers = None,
    ray: Ray = None,
    batch: Batch = 1,
    timed: Timed = 0,
    iterations: Iterations = None,
    guidance: Guidance = None,
    held_out: HeldOut = ROOT / "datasets" / "heldout",
    model: Model = None,
    device: Device = "cpu",
    cm: Cm = None,
    controlnet: ControlNet = None,
    long: Long = None,
    unconditional: Unconditional = None,
    clap: Clap = None,
    text_clap: TextClap = None,
    classifier: Classifier = None,
    musicgen: MusicGen = None,
    musicgen_melody: MusicGenMelody = None,
    config: Config = None,
    spectrograms: Spectrograms = None,
    old: Old = None,
    out: Out = RESULTS,
    name_as: As = None,
    cache: Cache = ROOT / "runs" / "benchmarks",
    resume: Resume = True,
    quiet: Quiet = False,
) -> None:
    """Measure a table of the papers, or all of them; see docs/reproduce.md.

    Weights of the checkout (weights/) are found where the model is the embedded one.
    """
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    made = without_clips(
        name, held_out, count, {"seed": seed or 0, "model": model, "command": command}
    )
    if made is not None:
        publish(made, out)
    if made is not None or alone(name, device, config, out):
        return
    overrides: dict[str, Any] = {"iterations": iterations, "guidance": guidance}
    several = ray is not None or (workers or 1) > 1
    tables = chosen(name)
    setup = Setup(
        weights=Weights(
            model=model,
            device=device,
            cm=shipped(model, cm, "cm"),
            controlnet=shipped(model, controlnet, "controlnet"),
            long=shipped(model, long, "base-24s"),
            unconditional=shipped(model, unconditional, "unconditional"),
            text_clap=text_clap,
            musicgen=musicgen,
            musicgen_melody=musicgen_melody,
        ),
        held_out=held_out,
        cache=cache,
        seed=first_seed(tables, seed),
        resume=resume and not any(table.fresh for table in tables),
        real=max(REFERENCE, *(count or table.count for table in tables), 0),
        overrides={key: value for key, value in overrides.items() if value is not None},
        batch=batch,
        threads=threads_of(workers, ray),
        show=not quiet,
        timed=timed,
    )
    if name == listening.NAME:
        listen(setup, ratings or [], count or 10, out, command)
        return
    if config is not None and (name != "speed" or several):
        raise DittoError("--config is for speed alone, and for one worker")
    tables = [table.only(rows or []) for table in tables]
    bench = setup.bench() if config is None else untrained(setup, config)
    if config is not None:
        tables = [speed.table(f"speed-{Path(config).stem}", trained=False)]
    if spectrograms is not None or old is not None:
        typer.echo(picture(name, bench, spectrograms, old))
        return
    if several:
        together = [
            (entry.task, entry.variant, number)
            for table in tables
            for entry, number in table.counts(bench, count, slow_count).items()
            # How many candidates these have depends on times that the others give.
            if entry.variant.as_long_as is None
        ]
        make_clips(setup, together, workers or 0, ray)
        bench.cache.resume = True  # what was to be made afresh now is
    judge = Judge.load(bench, clap, classifier)
    for table in tables:
        report = run_table(
            table,
            bench,
            judge,
            count=count,
            slow_count=slow_count,
            command=command,
            name=name_as if len(tables) == 1 else None,
        )
        publish(report, out)
    if name == "all":
        listening.export(bench, out, count=count or 10)


def without_clips(
    name: str, held_out: Path, count: int | None, given: dict[str, Any]
) -> Report | None:
    """Measure what is of one model, and makes no clips for tables; None if it is not that."""
    if name == song.NAME:
        return song.measured(held_out, **given)
    if name == chains.NAME:
        return chains.measured(count=count or chains.COUNT, **given)
    return None


def alone(name: str, device: str, config: str | None, out: Path) -> bool:
    """Do what is no table: claims, sounds, gpu, memory; return whether it was one of them.

    Raises:
        DittoError: gpu has no such config.
    """
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    if name == "claims":
        typer.echo(write_claims(out))
    elif name == "sounds":
        import_module("benchmarks.sounds").main()
    elif name == gpu.NAME:
        if config not in gpu.CONFIGS:
            raise DittoError(f"gpu has no config {config!r}: leave it out, or give tiny")
        publish(gpu.measured(device, gpu.CONFIGS[config], command=command), out)
    elif name == memory.NAME:
        publish(memory.measured(command=command), out)
    else:
        return False
    return True


def threads_of(workers: int | None, ray: str | None) -> int | None:
    """Return the threads of each process; None leaves torch's own to a single one."""
    if ray is not None:
        return 1  # a worker has a core
    return None if (workers or 1) == 1 else max(1, torch.get_num_threads() // (workers or 1))


def chosen(name: str) -> list[Table]:
    """Return the tables of a name.

    Raises:
        DittoError: there are none.
    """
    if name == "all":
        return [TABLES[each] for each in PAPERS]
    if name == listening.NAME:
        return []
    if name not in TABLES:
        raise DittoError(f"there is no benchmark {name!r}: choose of {NAMES}")
    return [TABLES[name]]


def first_seed(tables: list[Table], seed: int | None) -> int:
    """Return the seed of the first clip: what was given, or the tables' own.

    Raises:
        DittoError: settings would be chosen on seeds that results are made on.
    """
    least = max((table.seed for table in tables), default=0)
    if seed is not None and seed < least:
        raise DittoError(
            f"{tables[0].name} is for choosing settings: give a --seed of {least} or more"
        )
    return least if seed is None else seed


def shipped(model: str | None, given: Path | str | None, name: str) -> Path | str | None:
    """Return what was given; otherwise the embedded model's own, where the checkout has it."""
    found = WEIGHTS / name
    return given if given is not None or model is not None or not found.is_dir() else found


def publish(report: Report, out: Path) -> None:
    """Write a result's JSON and picture, and say where."""
    path = report.write(out)
    draw(report, out)
    missing = sum(row.error is not None for row in report.rows)
    typer.echo(f"{path}: {len(report.rows)} figures, {missing} of them missing")


def picture(name: str, bench: Bench, path: Path | None, old: str | None) -> Path:
    """Draw a clip of every genre, also by the model `old` if it is given.

    Raises:
        DittoError: no path was given, or another table than music.
    """
    if path is None or name != music.TABLE.name:
        raise DittoError("--spectrograms is for music alone, and --old for --spectrograms")
    device = bench.models.model.device.type
    before = None if old is None else Weights(model=old, device=device).load()
    return music.spectrogram_page(bench, path, before)


def untrained(setup: Setup, config: str) -> Bench:
    """Return the bench of an untrained network; nothing of its clips is kept between runs."""
    bench = replace(setup, weights=Weights()).bench()
    models = speed.untrained(speed.recipe(config), config, setup.weights.device)
    targets = Targets(models.model, setup.held_out, setup.seed, setup.real)
    return replace(bench, models=models, targets=targets)


def listen(setup: Setup, ratings: list[Path], count: int, out: Path, command: str) -> None:
    """Write the listening test's page, or analyse the ratings that came back."""
    if ratings:
        publish(listening.analysed(listening.read_ratings(ratings), command=command), out)
        return
    page, missing = listening.export(setup.bench(), out, count=count)
    typer.echo(f"{page}: open it in a browser, and give this command the CSV files that it saves")
    for row, reason in missing.items():
        typer.echo(f"missing: {row} ({reason})")


def main() -> None:
    """Run the command; what a user can mend is one line."""
    try:
        app()
    except DittoError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
