"""Edits of recordings: ``ditto-music inpaint``, ``outpaint``, ``loop``, ``invert``, ``vary``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto.audio.io import info
from ditto.cli.optimising import Optimisation, optimising, say_understood, unbroken
from ditto.cli.options import (
    FORCE,
    MODEL_OPTIONS,
    OUTPUT_PANEL,
    REQUEST_OPTIONS,
    SEED,
    TAG_OPTIONS,
    Options,
    command,
    control_options,
    method_options,
    option,
)
from ditto.cli.progress import say
from ditto.controls.base import Control
from ditto.edit import edits, loops, variations
from ditto.edit.result import Edit
from ditto.edit.timeline import FADE_SECONDS, Timeline
from ditto.errors import RequestError
from ditto.latents import Latent, check_latent
from ditto.methods.base import check_number
from ditto.models.conditioning import Tags, TagVocabulary
from ditto.models.model import MusicModel
from ditto.paths import output_folder, same_file
from ditto.request import LIMITS, Request
from ditto.result import keep_foreign, output_files

app = typer.Typer()

Song = Annotated[Path, typer.Argument(help="The recording: wav, flac, ogg or mp3.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The sound file: .wav, .flac, .ogg or .mp3.")
]
Overlap = Annotated[
    float | None,
    typer.Option(help="Seconds that new and old share; default 1, of a loop from nothing 0.5."),
]
Seconds = Annotated[float, typer.Option(help="Length of the whole in the end.")]

MELODY_BPM = 10.0, 1000.0
"""Of a loop whose length is given otherwise: what a melody may have."""
BEAT = option(
    "beat",
    float,
    "With a tempo: the beat of the bar, from 0, on which the recording starts.",
    panel=OUTPUT_PANEL,
    default=0.0,
)
MAKING = [TAG_OPTIONS, [*method_options(), *REQUEST_OPTIONS], [SEED, BEAT, FORCE], MODEL_OPTIONS]
EDITING = [[*TAG_OPTIONS, *control_options()], *MAKING[1:]]


def opened(song: Path, output: Path, options: Options) -> Timeline:
    """Read the recording of an edit, and check that its output can be written; say what to know.

    Raises:
        DittoError: see `Timeline.read` and `Timeline.notes_for`.
    """
    options.keep_inputs(output_files(output, force=options["force"]), song)
    timeline = Timeline.read(song)
    for note in timeline.notes_for(output):
        say(f"note: {note}")
    return timeline


def requested(options: Options, bpm: float | None = None) -> Request:
    """Return the request that an edit is made by, its beats counted from ``--beat``.

    Args:
        options: of the command.
        bpm: of a loop, where the tags have no tempo.
    """
    tags = replace(options.words, beat=options["beat"])
    if bpm is not None:
        if options.get("melody") is not None:
            options["bpm"] = bpm
        if tags.tempo is None:
            tags = replace(tags, tempo=known_tempo(bpm, options.model.vocabulary))
    request = options.request(tags, controlled=True)
    say_understood(request)
    return request


def known_tempo(bpm: float, words: TagVocabulary) -> float | None:
    """Return a tempo that the model knows and whose beats fall together with those of `bpm`.

    That is `bpm` itself, or its half or double; None if the model knows neither.
    """
    tempo = words.tempo_like(bpm)
    if tempo is None:
        say(f"note: the model knows no tempo like {bpm:g} BPM: it is told none")
    elif tempo != bpm:
        say(
            f"note: the model knows {words.tempo_low:g} to {words.tempo_high:g} BPM: for "
            f"{bpm:g} it is told {tempo:g}, whose beats fall together with them"
        )
    return tempo


@command(
    app, *EDITING, epilog="Example: ditto-music inpaint song.wav --from 2.0 --to 4.0 -o fixed.wav"
)
def inpaint(
    song: Song,
    output: Output,
    start: Annotated[
        list[float],
        typer.Option("--from", help="Where a region starts, in seconds; may be repeated."),
    ],
    ending: Annotated[
        list[float], typer.Option("--to", help="Where it ends; one for each --from.")
    ],
    overlap: Overlap = None,
    *,
    options: Options,
) -> None:
    """Make regions of a recording anew, to fit what is around them.

    All else stays bit for bit, but for cross-fades of 0.1 s beside each region.
    """
    if len(start) != len(ending):
        raise RequestError(f"give one --to for each --from, not {len(ending)} for {len(start)}")
    timeline = opened(song, output, options)
    regions = list(zip(start, ending, strict=True))
    request = requested(options)
    with optimising("inpaint", request, options.model, Control.iterations) as optimisation:
        edit = edits.inpaint(
            options.model,
            timeline,
            regions,
            request,
            overlap=1.0 if overlap is None else overlap,
            progress=optimisation.progress,
            stop=optimisation.stop,
            halt=optimisation.halt,
        )
    finish(edit, output, options["force"], optimisation)


@command(app, *EDITING, epilog="Example: ditto-music outpaint song.wav --seconds 30 -o longer.wav")
def outpaint(
    song: Song,
    output: Output,
    seconds: Seconds,
    backwards: Annotated[
        bool, typer.Option("--backwards", help="Grow at the start, not at the end.")
    ] = False,
    begin: Annotated[
        float | None,
        typer.Option(
            "--from",
            "--begin",
            help="Where in the recording to go on from, in seconds; by default its end, or, where "
            "that is a fade-out or silence, the last of its music.",
        ),
    ] = None,
    overlap: Overlap = None,
    *,
    options: Options,
) -> None:
    """Make a recording longer, to any length.

    The recording itself stays bit for bit, but for a cross-fade of 0.1 s where the new part begins.
    """
    timeline = opened(song, output, options)
    request = requested(options)
    with optimising("outpaint", request, options.model, Control.iterations) as optimisation:
        edit = edits.outpaint(
            options.model,
            timeline,
            seconds,
            request,
            overlap=1.0 if overlap is None else overlap,
            direction="backwards" if backwards else "forwards",
            begin=begin,
            progress=optimisation.progress,
            stop=optimisation.stop,
            halt=optimisation.halt,
        )
    finish(edit, output, options["force"], optimisation)


@command(
    app,
    *[[parameter for parameter in group if parameter.name != "bpm"] for group in EDITING],
    epilog='Examples:\n\nditto-music loop --bpm 120 --bars 2 --tags "genre=electronic" '
    "--repeats 4 -o loop.wav\n\nditto-music loop song.wav --seconds 12 -o loop.wav",
)
def loop(
    output: Output,
    song: Annotated[
        Path | None,
        typer.Argument(help="A recording to lead back to its start; none: from nothing."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of the loop; or give --bpm and --bars.")
    ] = None,
    bpm: Annotated[
        float | None, typer.Option(help="Beats per minute: with --bars, an exact length.")
    ] = None,
    bars: Annotated[int | None, typer.Option(help="Bars of four beats.")] = None,
    repeats: Annotated[int, typer.Option(help="How often the loop is written.")] = 1,
    overlap: Overlap = None,
    *,
    options: Options,
) -> None:
    """Make a seamless loop, from a recording or from nothing, exact to the sample."""
    seconds = loop_length(seconds, bpm, bars, needed=song is None)
    timeline = None if song is None else opened(song, output, options)
    if timeline is None:
        options.keep_inputs(output_files(output, force=options["force"]))
    loops.check_repeats(repeats)
    request = requested(options, bpm)
    more: dict[str, Any] = {} if overlap is None else {"overlap": overlap}
    with optimising("loop", request, options.model, Control.iterations) as optimisation:
        more |= {"repeats": repeats, "progress": optimisation.progress, "stop": optimisation.stop}
        if timeline is not None:
            edit = loops.loop_recording(options.model, timeline, request, seconds=seconds, **more)
        else:
            assert seconds is not None
            edit = loops.loop(options.model, seconds, request, **more)
    finish(edit, output, options["force"], optimisation)


def loop_length(
    seconds: float | None, bpm: float | None, bars: int | None, *, needed: bool
) -> float | None:
    """Return a loop's length in seconds, None for that of a recording and a window.

    Raises:
        RequestError: the options do not go together, or give none where it is needed.
    """
    if bars is not None:
        if seconds is not None or bpm is None:
            raise RequestError("give --bars together with --bpm, and without --seconds")
        seconds = loops.loop_seconds(bpm, bars)
    elif bpm is not None:
        check_number("bpm", bpm, *MELODY_BPM)
    if needed and seconds is None:
        raise RequestError("give the loop's length: --seconds, or --bpm and --bars")
    return seconds


@command(app, *MAKING, epilog="Example: ditto-music invert song.wav -o song.latent")
def invert(
    song: Song,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The latent: a name that ends in .latent.")
    ],
    begin: Annotated[
        float, typer.Option("--from", "--begin", help="Where in the recording, in seconds.")
    ] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(help="Length; the model's window by default.")
    ] = None,
    inversion: Annotated[
        str,
        typer.Option(
            "--inversion",
            "--how",
            help="ditto, or its baselines: ddim, naive, null-text (whose latent is ddim's).",
        ),
    ] = "ditto",
    *,
    options: Options,
) -> None:
    """Find the latent from which the model makes a recording again; edit it with `generate`."""
    check_latent(output, force=options["force"])
    sound = output.with_suffix(".wav")
    if same_file(sound, song):
        sound = output.with_name(f"{output.stem}-again.wav")
    keep_foreign(sound)
    options.keep_inputs([output, *output_files(sound, force=options["force"])], song)
    info(song)
    request = replace(requested(options), seconds=seconds)
    with optimising("invert", request, options.model, Control.iterations) as optimisation:
        result = variations.invert(
            options.model,
            song,
            request,
            begin=begin,
            how=inversion,
            watch=optimisation.watch,
            stop=optimisation.stop,
        )
    with unbroken():
        result.save(sound, force=options["force"])
        result.latent().save(output, force=options["force"])
    errors = ", ".join(f"{name} {value[0].item():.3g}" for name, value in result.errors.items())
    say(f"{output}  {errors}; what the model makes of it: {sound}")
    for note in result.remarks():
        say(f"note: {note}")
    leave_if_stopped(optimisation)
    if result.notes:  # an iteration failed
        raise typer.Exit(1)


@command(
    app,
    [SEED, FORCE],
    MODEL_OPTIONS,
    epilog="Example: ditto-music vary out.latent --count 10 -o variations/",
)
def vary(
    latent: Annotated[
        Path, typer.Argument(help="A .latent file, from `generate --latent` or `invert`.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, made if it is missing.")
    ],
    count: Annotated[int, typer.Option(help="Clips to make.")] = 10,
    sampling: Annotated[
        str,
        typer.Option(
            "--sampling",
            "--how",
            help="ddpm, or ddpm+freedom, which follows the latent's controls too.",
        ),
    ] = "ddpm",
    tags: Annotated[
        str | None, typer.Option(help="New tags for all clips; the latent's own by default.")
    ] = None,
    random_tags: Annotated[
        bool, typer.Option("--random-tags", help="Random tags, new ones for each clip.")
    ] = False,
    steps: Annotated[int | None, typer.Option("--steps", "-T", help="Sampling steps.")] = None,
    *,
    options: Options,
) -> None:
    """Make other clips from one latent, in seconds: no optimisation, only other noise."""
    if tags is not None and random_tags:
        raise RequestError("give either --tags or --random-tags, not both")
    check_number("count", count, *LIMITS["count"])
    check_number("seed", options["seed"], *LIMITS["seed"])
    start, model, seed = Latent.load(latent), options.model, options["seed"]
    prompts = random_prompts(model, count, seed) if random_tags else tags
    paths = [output / f"{i:03d}.wav" for i in range(count)]
    with output_folder(output):
        for path in paths:
            options.keep_inputs(output_files(path, force=options["force"]), latent)
        result = variations.vary(
            model, start, count=count, how=sampling, seed=seed, prompts=prompts, steps=steps
        )
        for i, path in enumerate(paths):
            with unbroken():
                result.save(path, i, force=options["force"])
    means = [f"mean {name} {value.mean().item():.3g}" for name, value in result.errors.items()]
    say(", ".join([f"{output}/  {count} clips", *means]))


def random_prompts(model: MusicModel, count: int, seed: int) -> list[Tags]:
    """Draw tags for every clip.

    Raises:
        RequestError: the model has no tags to draw from.
    """
    import numpy as np

    words, rng = model.vocabulary, np.random.default_rng([seed, 3])
    if not words.genres or not words.moods:
        raise RequestError("this model has no tags to draw from: leave out --random-tags")
    tempi = rng.uniform(words.tempo_low, words.tempo_high, count)
    draws = zip(rng.choice(words.genres, count), rng.choice(words.moods, count), tempi, strict=True)
    return [Tags(str(genre), str(mood), float(round(tempo))) for genre, mood, tempo in draws]


def finish(edit: Edit, output: Path, force: bool, optimisation: Optimisation) -> None:
    """Write an edit's files and say what came out."""
    with unbroken():
        edit.save(output, force=force)
    parts = [f"{edit.seconds:.2f} s at {edit.sample_rate} Hz"]
    parts += [f"{name} {value:.3g}" for name, value in edit.errors.items()]
    ranks = [seam["percentile"] for seam in edit.seams()]
    worst = max((rank for rank in ranks if rank is not None), default=None)
    if worst is not None:
        parts.append(f"seams at most at percentile {worst:.0f} of the music's own jumps")
    say(f"{output}  {', '.join(parts)}")
    if edit.before is not None:
        say(f"note: up to {FADE_SECONDS:g} s beside what is new are faded; the rest is as it was")
    for note in edit.remarks():
        say(f"note: {note}")
    leave_if_stopped(optimisation)
    if edit.failures:  # the notes say of which window, and why
        raise typer.Exit(1)


def leave_if_stopped(optimisation: Optimisation) -> None:
    """End with the exit code of an interrupt, if there was one."""
    if optimisation.stopped:
        say(f"note: stopped: this is the best of {optimisation.steps} iterations")
        raise typer.Exit(130)
