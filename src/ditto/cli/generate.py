"""``ditto-music generate``."""

from pathlib import Path
from typing import Annotated

import typer

from ditto.cli.optimising import optimising, say_understood, unbroken
from ditto.cli.options import (
    FORCE,
    MODEL_OPTIONS,
    OUTPUT_PANEL,
    REQUEST_OPTIONS,
    SEED,
    START,
    TAG_OPTIONS,
    Options,
    command,
    control_options,
    method_options,
    option,
)
from ditto.cli.progress import say
from ditto.controls.base import Control
from ditto.errors import RequestError
from ditto.latents import check_latent
from ditto.methods.base import check_number
from ditto.models.model import MusicModel, needs_windows
from ditto.paths import printable
from ditto.request import LIMITS, Request
from ditto.result import Result, keep_foreign, numbered, output_files
from ditto.runner import Run

app = typer.Typer()

CLIPS = [
    SEED,
    option(
        "candidate",
        int,
        "Which of the seed's noises to begin from, as reports give it; 0 is its own.",
        panel=OUTPUT_PANEL,
    ),
    option(
        "count", int, "Clips to make; several get numbered names.", panel=OUTPUT_PANEL, default=1
    ),
    option(
        "seconds",
        float,
        "Length; the model's window by default, and longer music in several windows.",
        panel=OUTPUT_PANEL,
    ),
    option("fade", float, "Fade out over the last seconds.", panel=OUTPUT_PANEL, default=0.0),
    option("latent", Path, "Keep x_T in this .latent, for `vary` and --start.", panel=OUTPUT_PANEL),
    option(
        "compare",
        bool,
        "Say how much is kept of the clip without control, and show it in the picture.",
        "--no-compare",
        panel=OUTPUT_PANEL,
        default=True,
    ),
    FORCE,
]


@command(
    app,
    [*TAG_OPTIONS, *control_options()],
    [*method_options(), *REQUEST_OPTIONS, START],
    CLIPS,
    MODEL_OPTIONS,
    epilog=r"""
Examples:

ditto-music generate --tags "genre=jazz mood=calm tempo=110" --loudness crescendo -o out.wav

ditto-music generate --loudness "0:-36 3:-14 6:-30" --seed 7 -o out.wav

ditto-music generate --loudness-like song.mp3 -o out.flac

ditto-music generate --melody "C4:1 E4:1 G4:2" --tags "tempo=120" -o tune.wav

ditto-music generate --melody tune.mid --structure ABA --loudness swell -o all.wav

ditto-music generate --text "a calm jazz trio with vibraphone" -o out.wav

ditto-music generate --seconds 90 --loudness "0:-40 45:-14 90:-40" --fade 2 -o song.wav

ditto-music generate --method ditto --loudness swell -o whole-chain.wav

ditto-music generate --method none --count 4 -o plain.wav
""",
)
def generate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The sound file: .wav, .flac, .ogg or .mp3.")
    ],
    options: Options,
) -> None:
    """Make music that follows the controls: a WAV, and beside it a PNG and a JSON report."""
    options.check_inputs()
    if options["seconds"] is not None and needs_windows(options.model, options["seconds"]):
        return generate_song(output, options)
    if options["fade"]:
        raise RequestError("--fade goes with music of several windows: give more --seconds")
    check_number("count", options["count"], *LIMITS["count"])  # before so many names are looked at
    paths = numbered(output, options["count"])
    latent = options["latent"]
    latents = [] if latent is None else numbered(latent, options["count"])
    files = [file for path in paths for file in output_files(path, force=options["force"])]
    for path in latents:
        check_latent(path, force=options["force"])
    options.keep_inputs([*files, *latents])
    request = options.request()
    result, stopped = carry_out(request, options.model, compare=options["compare"])
    for i, path in enumerate(paths):
        with unbroken():
            result.save(path, i, force=options["force"])
            for latent in latents[i : i + 1]:
                result.latent(i).save(latent, force=options["force"])
        say(f"{path}  {summary(result, i)}")
        if farther := result.farther(i):
            say(f"note: {farther}")
    control, frames = result.request.control, result.x_0.shape[-1]
    for warning in control.warnings(options.model, frames) if control else []:
        say(f"note: {warning}")
    if stopped:
        say(f"note: {stopped}: this is the best of {len(result.losses)} iterations")
        raise typer.Exit(130 if stopped == "stopped" else 1)


def generate_song(output: Path, options: Options) -> None:
    """Make music that is longer than the model's window; windows that are done are kept."""
    from ditto.edit.song import song  # what most clips do without

    if options["latent"] is not None:
        raise RequestError("music of several windows has no single latent: leave out --latent")
    request, model, part = options.request(), options.model, output.with_suffix(".part")
    say_understood(request)
    # What an interrupted run of the same command left is its own to replace.
    force = options["force"] or part.exists()
    if force and not options["force"]:
        keep_foreign(output)
    files = output_files(output, force=force)
    options.keep_inputs([*files, part])
    with optimising("generate", request, model, Control.iterations) as optimisation:
        edit = song(
            model,
            options["seconds"],
            request,
            fade=options["fade"],
            keep=part,
            progress=optimisation.progress,
            stop=optimisation.stop,
        )
    with unbroken():
        edit.save(output, force=force)
    for note in edit.notes:
        say(f"note: {note}")
    parts = [f"{edit.timeline.seconds:.2f} s"]
    parts += [f"{name} {value:.3g}" for name, value in edit.errors.items()]
    say(f"{output}  {', '.join(parts)}")
    if optimisation.stopped or edit.ended_early:
        why = "stopped: " if optimisation.stopped else ""  # the notes say what failed
        say(f"note: {why}this is the beginning; the same command goes on from {printable(part)}")
        raise typer.Exit(130 if optimisation.stopped else 1)
    if edit.failures:  # the notes say of which window, and why
        raise typer.Exit(1)


def carry_out(request: Request, model: MusicModel, *, compare: bool = True) -> tuple[Result, str]:
    """Run with a progress bar; a stop or a failure after the first iteration keeps the best so far.

    Returns:
        The result, and why it stopped early ("" if it did not).

    Raises:
        DittoError: the request does not fit the model, or no iteration succeeded.
    """
    request = request.resolved(model)
    with optimising(getattr(request.method, "name", ""), request, model) as optimisation:
        run = Run(request, model, optimisation.stop, compare=compare)
        say_understood(request)
        for step in run:
            optimisation.watch(step)
        failure = "; ".join(dict.fromkeys(run.failures.values()))
        stopped = optimisation.stopped and len(run.losses) < run.total
        return run.result(), failure or ("stopped" if stopped else "")


def summary(result: Result, item: int) -> str:
    """Return length, errors and time of one clip in one line."""
    parts = [f"{result.audio.shape[1] / result.model.spec.sample_rate:.2f} s"]
    parts += [f"{name} {value[item].item():.3g}" for name, value in result.errors.items()]
    parts += [] if result.kept is None else [result.kept.words(item)]
    parts.append(f"made in {sum(result.timings.values()):.1f} s on {result.model.device}")
    return ", ".join(parts)
