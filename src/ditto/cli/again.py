"""``ditto-music again``."""

import math
from pathlib import Path
from typing import Annotated

import typer

from ditto.cli.optimising import unbroken
from ditto.cli.options import FORCE, MODEL_OPTIONS, START, Options, command
from ditto.cli.progress import progress, say
from ditto.jobs import recordings_of
from ditto.latents import Latent
from ditto.optimize import Step
from ditto.repeat import Kept
from ditto.repeat import again as make_again
from ditto.result import output_files

app = typer.Typer()


@command(app, [START, FORCE], MODEL_OPTIONS, epilog="Example: ditto-music again out.json")
def again(
    report: Annotated[
        Path, typer.Argument(help="The .json beside a sound, or the sound file itself.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the new clip under this name.")
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="Of an edit, or of a form that is like one: the recording; by default the file of "
            "its name beside."
        ),
    ] = None,
    *,
    options: Options,
) -> None:
    """Make a clip again from its report, and say whether it is the same, or what differs.

    The exit code is 0 if it is the same, sample for sample, and 1 if not.
    """
    kept = Kept.read(report)
    if output is not None:
        read = recordings_of(kept.report, kept.name, recording)
        read += [report, *([] if kept.sound is None else [kept.sound])]
        options.keep_inputs(output_files(output, force=options["force"]), *map(Path, read))
    elif kept.sound is None:
        say("note: there is no sound beside the report to compare with; -o keeps the new one")
    start = None if options["start"] is None else Latent.load(options["start"])
    if options["precision"] == "auto" and kept.precision is not None:
        options["precision"] = kept.precision
    with progress("again") as update:

        def watch(step: Step) -> None:
            update(step.i + 1, loss=step.best_loss.mean().item())

        made = make_again(options.model, kept, start=start, recording=recording, watch=watch)
    if output is not None:
        with unbroken():
            made.save(output, force=options["force"])
        say(str(output))
    for line in made.differences:
        say(f"note: {line}")
    if made.same is None:
        return
    if made.same:
        say(f"{kept.sound}: the same, sample for sample")
        return
    length = "another length or rate" if math.isinf(made.largest) else f"up to {made.largest:.3g}"
    known = "" if made.differences else "; model, versions and machine are the same"
    say(f"{kept.sound}: differs ({length}){known}")
    raise typer.Exit(1)
