"""The command line's edits: inpaint, outpaint, loop, invert, vary."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from ditto.errors import RequestError

if TYPE_CHECKING:
    from ditto.controls.base import Control
    from ditto.models.model import MusicModel
    from ditto.request import Request

console = Console(stderr=True)

Song = Annotated[Path, typer.Argument(help="The recording: wav, flac, ogg or mp3.")]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The sound file: .wav, .flac, .ogg or .mp3.")
]
Overlap = Annotated[
    float, typer.Option("--overlap", help="Seconds that new and old share: 1, 2 or 3 in the paper.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first window.")]
Steps = Annotated[int | None, typer.Option("--steps", "-T", help="Sampling steps.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="A model's folder, or its name on the Hub; the embedded model by default."
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="As for `generate`.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]


@dataclass(frozen=True)
class MakingOptions:
    """The options of every command that optimises."""

    tags: Annotated[
        str, typer.Option("--tags", help='Tags of what is new, e.g. "genre=jazz tempo=110".')
    ] = ""
    beat: Annotated[
        float,
        typer.Option(
            "--beat",
            help="With a tempo: the beat of the bar, from 0, on which the recording starts.",
        ),
    ] = 0.0
    method: Annotated[str | None, typer.Option("--method", help="As for `generate`.")] = None
    iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations", "-K", help="Optimisation iterations a window; default 70, melody 150."
        ),
    ] = None
    steps: Steps = None
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Adam's learning rate on x_T; default: the method's."),
    ] = None
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="CFG scale w; default: the model's.")
    ] = None
    model: Model = None
    precision: Precision = "auto"
    force: Force = False

    def ready(self, output: Path) -> "MusicModel":
        """The model, once it is clear that the output may be written."""
        from ditto.models.hub import load
        from ditto.request import output_files

        output_files(output, force=self.force)
        return load(self.model, precision=cast(Any, self.precision))

    def request(self, model: "MusicModel", bpm: float | None = None) -> "Request":
        """The request that an edit is made by; what is None is left to the defaults of
        `Request`.
        """
        from ditto.controls.weights import papers_iterations
        from ditto.models.conditioning import Tags
        from ditto.request import Request

        tags = replace(Tags.parse(self.tags), beat=self.beat)
        if bpm is not None and tags.tempo is None:
            low, high = model.vocabulary.tempo_low, model.vocabulary.tempo_high
            tags = replace(tags, tempo=bpm if low <= bpm <= high else None)
        controls = self.controls(model, bpm or tags.tempo)
        iterations = papers_iterations(controls) if self.iterations is None else self.iterations
        given = {"method": self.method, "steps": self.steps}
        settings: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        return Request(
            controls=tuple(controls),
            tags=tags,
            lr=self.lr,
            guidance=self.guidance,
            iterations=iterations,
            **settings,
        )

    def controls(self, model: "MusicModel", bpm: float | None) -> "list[Control]":
        """What the new music is to follow besides what is around it."""
        return []


@dataclass(frozen=True)
class EditOptions(MakingOptions):
    """The options of every command that makes new music in windows."""

    intensity: Annotated[
        str | None,
        typer.Option("--intensity", help="Loudness curve of what is new, in seconds of the whole."),
    ] = None
    melody: Annotated[
        str | None,
        typer.Option(
            "--melody", help="Melody of what is new, in seconds of the whole: notes or a file."
        ),
    ] = None
    seed: Seed = 0

    def request(self, model: "MusicModel", bpm: float | None = None) -> "Request":
        """As `MakingOptions.request`, with the seed."""
        return replace(super().request(model, bpm), seed=self.seed)

    def controls(self, model: "MusicModel", bpm: float | None) -> "list[Control]":
        """Loudness and melody."""
        from ditto.cli_controls import melody_control
        from ditto.controls.intensity import Intensity

        found: list[Control] = [] if self.intensity is None else [Intensity(self.intensity)]
        if self.melody is not None:
            found.append(melody_control(self.melody, model.spec, tempo=bpm, bpm=None, track=None))
        return found


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have the fields of its last parameter, a dataclass of options, as options of
    its own.
    """
    *own, group = inspect.signature(command).parameters.values()
    options = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in inspect.signature(group.annotation).parameters.values()
    ]

    @wraps(command)
    def flat(**given: Any) -> None:
        chosen = {option.name: given.pop(option.name) for option in options}
        command(**given, **{group.name: group.annotation(**chosen)})

    flat.__signature__ = inspect.Signature([*own, *options])  # pyright: ignore[reportAttributeAccessIssue]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    return flat


def register(app: typer.Typer) -> None:
    """Add the edits to the command line."""
    app.command(
        "inpaint", epilog="Example: ditto-music inpaint song.wav --from 2.0 --to 4.0 -o fixed.wav"
    )(inpaint)
    app.command(
        "outpaint", epilog="Example: ditto-music outpaint song.wav --seconds 30 -o longer.wav"
    )(outpaint)
    app.command(
        "loop",
        epilog='Examples:\n\nditto-music loop --bpm 120 --bars 2 --tags "genre=electronic" --repeats 4 -o loop.wav\n\n'
        "ditto-music loop song.wav --seconds 12 -o loop.wav",
    )(loop)
    app.command("invert", epilog="Example: ditto-music invert song.wav -o song.latent")(invert)
    app.command("vary", epilog="Example: ditto-music vary out.latent --count 10 -o variations/")(
        vary
    )


@with_options
def inpaint(
    song: Song,
    output: Output,
    start: Annotated[
        list[float],
        typer.Option("--from", help="Where a region starts, in seconds; may be repeated."),
    ],
    end: Annotated[list[float], typer.Option("--to", help="Where it ends; one for each --from.")],
    overlap: Overlap = 1.0,
    *,
    options: EditOptions,
) -> None:
    """Make one or several regions of a recording anew, to fit what is around them; the rest stays
    bit for bit.
    """
    from ditto.edit.edits import inpaint as edit

    if len(start) != len(end):
        raise RequestError(f"give one --to for each --from, not {len(end)} for {len(start)}")
    model = options.ready(output)
    request, regions = options.request(model), list(zip(start, end, strict=True))
    with _Windows("inpaint") as progress:
        made = edit(song, model, regions, request, overlap=overlap, progress=progress)
    _finish(made, output, options.force)


@with_options
def outpaint(
    song: Song,
    output: Output,
    seconds: Annotated[float, typer.Option(help="Length of the whole in the end.")],
    backwards: Annotated[
        bool, typer.Option("--backwards", help="Grow at the start, not at the end.")
    ] = False,
    overlap: Overlap = 1.0,
    *,
    options: EditOptions,
) -> None:
    """Make a recording longer, to any length; the recording itself stays bit for bit."""
    from ditto.edit.edits import outpaint as edit

    model = options.ready(output)
    request, direction = options.request(model), "backwards" if backwards else "forwards"
    with _Windows("outpaint") as progress:
        made = edit(
            song, model, seconds, request, overlap=overlap, direction=direction, progress=progress
        )
    _finish(made, output, options.force)


@with_options
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
    overlap: Annotated[
        float | None,
        typer.Option(help="Seconds that are matched: 1 of a recording, 0.5 from nothing."),
    ] = None,
    *,
    options: EditOptions,
) -> None:
    """Make a seamless loop, from a recording or from nothing, exact to the sample."""
    from ditto.edit import edits

    length = _loop_length(seconds, bpm, bars)
    model = options.ready(output)
    request = options.request(model, bpm)
    with _Windows("loop") as progress:
        if song is not None:
            made = edits.loop_recording(
                song,
                model,
                request,
                seconds=length,
                overlap=1.0 if overlap is None else overlap,
                repeats=repeats,
                progress=progress,
            )
        elif length is None:
            raise RequestError("give the loop's length: --seconds, or --bpm and --bars")
        else:
            shared = edits.SELF_OVERLAP if overlap is None else overlap
            made = edits.loop(
                model, length, request, overlap=shared, repeats=repeats, progress=progress
            )
    _finish(made, output, options.force)


def _loop_length(seconds: float | None, bpm: float | None, bars: int | None) -> float | None:
    from ditto.edit.edits import loop_seconds

    if bars is None:
        return seconds
    if seconds is not None or bpm is None:
        raise RequestError("give --bars together with --bpm, and without --seconds")
    return loop_seconds(bpm, bars)


@with_options
def invert(
    song: Song,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The latent: a name that ends in .latent.")
    ],
    begin: Annotated[
        float, typer.Option(help="Where in the recording to begin, in seconds.")
    ] = 0.0,
    seconds: Annotated[
        float | None, typer.Option(help="Length; the model's window by default.")
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            help="ditto, or what it is compared with: ddim, naive, null-text (whose latent is ddim's)."
        ),
    ] = "ditto",
    *,
    options: MakingOptions,
) -> None:
    """Find the latent from which the model makes a recording again; edit it with `generate
    --start`.
    """
    from ditto.edit.variations import Inversion
    from ditto.edit.variations import invert as edit
    from ditto.latents import check_latent

    check_latent(output, force=options.force)
    sound = output.with_suffix(".wav")
    model = options.ready(sound)
    request = replace(options.request(model), seconds=seconds)
    with _Windows("invert") as progress:
        made = edit(
            song,
            model,
            request,
            begin=begin,
            how=cast(Inversion, how),
            watch=lambda step: progress(0, 1, step),
        )
    made.save(sound, force=options.force)
    made.latent().save(output, force=options.force)
    errors = ", ".join(f"{name} {value[0].item():.3g}" for name, value in made.errors.items())
    console.print(
        f"{output}  {errors}; what the model makes of it: {sound}", highlight=False, soft_wrap=True
    )


def vary(
    latent: Annotated[
        Path, typer.Argument(help="A .latent file, from `generate --latent` or `invert`.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, made if it is missing.")
    ],
    count: Annotated[int, typer.Option(help="Clips to make.")] = 10,
    how: Annotated[
        str, typer.Option(help="ddpm, or ddpm+freedom, which follows the latent's controls too.")
    ] = "ddpm",
    tags: Annotated[
        str | None, typer.Option(help="New tags for all clips; the latent's own by default.")
    ] = None,
    random_tags: Annotated[
        bool, typer.Option("--random-tags", help="Random tags, new ones for each clip.")
    ] = False,
    seed: Seed = 0,
    steps: Steps = None,
    model: Model = None,
    precision: Precision = "auto",
    force: Force = False,
) -> None:
    """Make other clips from one latent, in seconds: no optimisation, only other noise along the
    way.
    """
    from ditto.edit.variations import How
    from ditto.edit.variations import vary as edit
    from ditto.latents import Latent
    from ditto.models.conditioning import Tags
    from ditto.models.hub import load
    from ditto.request import output_files

    if tags is not None and random_tags:
        raise RequestError("give either --tags or --random-tags, not both")
    if not 1 <= count <= 256:
        raise RequestError(f"count must be a whole number from 1 to 256, not {count}")
    opened = Latent.load(latent)
    loaded = load(model, precision=cast(Any, precision))
    prompts: Any = None if tags is None else Tags.parse(tags)
    if random_tags:
        prompts = _random_tags(loaded, count, seed)
    _folder(output)
    paths = [output / f"{i:03d}.wav" for i in range(count)]
    for path in paths:
        output_files(path, force=force)
    made = edit(
        opened, loaded, count=count, how=cast(How, how), seed=seed, prompts=prompts, steps=steps
    )
    for i, path in enumerate(paths):
        made.save(path, i, force=force)
    means = ", ".join(f"{name} {value.mean().item():.3g}" for name, value in made.errors.items())
    console.print(
        f"{output}/  {count} clips{', mean ' if means else ''}{means}",
        highlight=False,
        soft_wrap=True,
    )


def _random_tags(model: Any, count: int, seed: int) -> list[Any]:
    import numpy as np

    from ditto.models.conditioning import Tags

    words, rng = model.vocabulary, np.random.default_rng([seed, 3])
    if not words.genres or not words.moods:
        raise RequestError("this model has no tags to draw from: leave out --random-tags")
    tempi = rng.uniform(words.tempo_low, words.tempo_high, count)
    draws = zip(rng.choice(words.genres, count), rng.choice(words.moods, count), tempi, strict=True)
    return [Tags(str(genre), str(mood), float(round(tempo))) for genre, mood, tempo in draws]


def _folder(path: Path) -> None:
    from ditto.errors import OutputError
    from ditto.paths import printable

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {printable(path)}: {error.strerror}") from None


class _Windows:
    """Progress over all windows of an edit."""

    def __init__(self, label: str) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(label),
            TextColumn("window {task.fields[part]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.iterations: int | None = None

    def __enter__(self) -> Any:
        self.bar.start()
        self.task = self.bar.add_task("", total=None, part="1", loss="-")
        return self._watch

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def _watch(self, part: int, of: int, step: Any) -> None:
        # How long a window takes is known after the first; until then the bar runs without an end.
        if part == 1 and step.i == 0 and self.iterations is None:
            self.iterations = self._count
        self._count = step.i + 1
        done = part * (self.iterations or 0) + step.i + 1
        total = of * self.iterations if self.iterations else None
        self.bar.update(
            self.task,
            completed=done,
            total=total,
            part=f"{part + 1}/{of}",
            loss=f"{step.best_loss.mean():.3g}",
        )


def _finish(edit: Any, output: Path, force: bool) -> None:
    """Write an edit's files and say what came out."""
    edit.save(output, force=force)
    errors = ", ".join(f"{name} {value:.3g}" for name, value in edit.errors.items())
    worst = max((seam["percentile"] for seam in edit.seams()), default=math.nan)
    seams = (
        f", seams at most at the {worst:.0f}th percentile of the music's own jumps"
        if not math.isnan(worst)
        else ""
    )
    console.print(
        f"{output}  {edit.timeline.seconds:.2f} s at {edit.sample_rate} Hz, {errors}{seams}",
        highlight=False,
        soft_wrap=True,
    )
