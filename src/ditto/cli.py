"""The command line: ``ditto-music``. Words and defaults are those of the Python API."""

import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from ditto import cli_bench
from ditto import cli_edit as edits
from ditto.errors import DittoError

app = typer.Typer(
    name="ditto-music",
    help="Control a music diffusion model by optimising only its initial noise (DITTO, DITTO-2).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train the parts of a model.", no_args_is_help=True)
data_app = typer.Typer(help="Make training data.", no_args_is_help=True)
distill_app = typer.Typer(help="Distil a model into a student of few steps.", no_args_is_help=True)
bench_app = typer.Typer(
    help="Measure, and write the results as JSON, Markdown and PNG.", no_args_is_help=True
)
app.add_typer(train_app, name="train")
app.add_typer(distill_app, name="distill")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
cli_bench.register(bench_app)

edits.register(app)

console = Console(stderr=True)


def main() -> None:
    """Run the command line; a user's mistake ends as one line on standard error and exit code 2."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries tell each other
    try:
        app(prog_name="ditto-music")
    except DittoError as error:
        console.print(
            f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True, highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; nothing half-written was kept", highlight=False)
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="A model's folder, or its name on the Hub; the embedded model by default."
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Of the networks: float32, bfloat16, float16; auto is bfloat16 where the processor has it built in."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
ConfigOption = Annotated[Path, typer.Option(help="The run's config file (JSON).")]
DataOption = Annotated[Path, typer.Option(help="A folder made by `ditto-music data`.")]
DuringOption = Annotated[
    str | None, typer.Option(help="When it counts, in seconds: '2-6' or '0-1 4-6'; else always.")
]
HeldOutOption = Annotated[Path | None, typer.Option(help="The held-out data folder.")]


@app.command(
    epilog=r"""
Examples:

ditto-music generate --tags "genre=jazz mood=calm tempo=110" --intensity crescendo -o out.wav

ditto-music generate --intensity "0:-36 3:-14 6:-30" --seed 7 -o out.wav

ditto-music generate --intensity curve.csv -o out.flac

ditto-music generate --intensity-like song.mp3 -o out.wav

ditto-music generate --text "a calm jazz trio with vibraphone" -o out.wav

ditto-music generate --melody "C4:1 E4:1 G4:2" --tags "tempo=120" -o tune.wav

ditto-music generate --melody tune.mid --structure ABA --intensity "0:-30 3:-12 6:-24" -o all.wav

ditto-music generate --method ditto --intensity swell -o whole-chain.wav

ditto-music generate --intensity swell --surrogate-steps adaptive --decode-steps 4 -o careful.wav

ditto-music generate --method freedom --intensity swell -o guided.wav

ditto-music generate --method none --count 4 -o plain.wav
"""
)
def generate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The sound file: .wav, .flac, .ogg or .mp3.")
    ],
    tags: Annotated[str, typer.Option(help='Tags, e.g. "genre=jazz mood=calm tempo=110".')] = "",
    intensity: Annotated[
        str | None,
        typer.Option(
            help="Loudness curve: crescendo, decrescendo, swell, dip, steps, flat; breakpoints 'seconds:dB …'; "
            "or a .csv file of seconds and dB."
        ),
    ] = None,
    intensity_like: Annotated[
        Path | None, typer.Option(help="Follow the loudness of this recording's beginning.")
    ] = None,
    correlation: Annotated[
        bool,
        typer.Option(
            "--correlation", help="Follow the loudness curve's shape only (−ρ in place of MSE)."
        ),
    ] = False,
    intensity_during: DuringOption = None,
    melody: Annotated[
        str | None,
        typer.Option(
            help="Melody: notes 'C4:1 E4:1 R:1 G4:2' (name, octave, beats), or a .mid, .musicxml or sound file."
        ),
    ] = None,
    bpm: Annotated[
        float | None,
        typer.Option(help="The melody's tempo; by default the tags' or the file's own."),
    ] = None,
    melody_track: Annotated[
        int | None,
        typer.Option(
            "--melody-track",
            "--track",
            help="Track of the MIDI file, from 0; by default the top line.",
        ),
    ] = None,
    melody_during: DuringOption = None,
    structure: Annotated[
        str | None, typer.Option(help="Form: 'ABA', or with lengths 'A:2 B:4 A:2'.")
    ] = None,
    structure_like: Annotated[
        Path | None, typer.Option(help="Have the structure of this recording's beginning.")
    ] = None,
    structure_during: DuringOption = None,
    text: Annotated[
        str | None,
        typer.Option(help="Describe the music, e.g. 'a calm jazz trio with vibraphone' (by CLAP)."),
    ] = None,
    clap: Annotated[
        str | None,
        typer.Option(
            help="The CLAP that hears --text: a folder or a Hub id; the embedded one by default."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="ditto2 (through the student; the default if the model has one), ditto, doodl, freedom, gg, "
            "controlnet, or none; to keep a region also naive, multidiffusion and md50."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first clip; clip i uses seed + i.")] = 0,
    count: Annotated[
        int, typer.Option(help="Clips to make; more than one get numbered names.")
    ] = 1,
    seconds: Annotated[
        float | None, typer.Option(help="Length; the model's window by default.")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations", "-K", help="Optimisation iterations: 70; melody and structure 150."
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", "-T", help="Sampling steps of all methods but ditto2.")
    ] = 20,
    surrogate_steps: Annotated[
        str,
        typer.Option(
            "--surrogate-steps", "-M", help="ditto2: steps while optimising, or adaptive."
        ),
    ] = "1",
    decode_steps: Annotated[int, typer.Option(help="ditto2: steps for the output.")] = 2,
    corrections: Annotated[
        int | None,
        typer.Option(
            help="ditto2: times that the output itself is heard on the way, default 8; 0: as in the paper."
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(help="ditto2: share of fresh noise in these, 0 to 1; default: the student's."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Adam's learning rate on x_T; default: the method's.")
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Adam's beta1; default: the method's.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="CFG scale w: 0 ignores the tags, 1 follows them; default: the model's."),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="ddim, dpm++ or ddpm, as far as the method admits it.")
    ] = "ddim",
    strength: Annotated[
        float | None,
        typer.Option(help="freedom, gg: how far a step descends; default: the method's."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Stop once the loss is at most this (dB² for intensity).")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop once the loss has not fallen by 1 % within so many iterations."),
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(help="A student's folder, from `ditto-music distill pack --alone`."),
    ] = None,
    controlnet: Annotated[
        Path | None,
        typer.Option(help="A ControlNet's folder, from `ditto-music train controlnet`."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Begin from this .latent in place of noise.")
    ] = None,
    latent: Annotated[
        Path | None, typer.Option(help="Keep x_T in this .latent file, for `vary` and --start.")
    ] = None,
    model: ModelOption = None,
    precision: PrecisionOption = "auto",
    force: ForceOption = False,
) -> None:
    """Make music that follows the controls: a WAV, and beside it a PNG and a JSON report."""
    # Imported here, so that --help and mistakes in the command answer at once.
    from ditto.cli_controls import Wanted
    from ditto.controls.balance import papers_iterations
    from ditto.latents import Latent, check_latent
    from ditto.models.conditioning import Tags
    from ditto.models.controlnet import with_controlnet
    from ditto.models.loading import load
    from ditto.request import Method, Request, output_files
    from ditto.terminal import numbered, run_with_progress, summary

    wanted = Wanted(
        intensity,
        intensity_like,
        correlation,
        intensity_during,
        melody,
        bpm,
        melody_track,
        melody_during,
        structure,
        structure_like,
        structure_during,
        text,
        clap,
    )
    paths, latents = numbered(output, count), [] if latent is None else numbered(latent, count)
    for path in paths:
        output_files(path, force=force)
    for path in latents:
        check_latent(path, force=force)
    words, begun, loaded = (
        Tags.parse(tags),
        None if start is None else Latent.load(start),
        cache(lambda: load(model, precision=cast(Any, precision))),
    )
    controls = wanted.controls(lambda: loaded().spec, words.tempo, seconds)
    given: dict[str, Any] = {} if corrections is None else {"corrections": corrections}
    request = Request(
        controls=tuple(controls),
        tags=words,
        seed=seed,
        count=count,
        seconds=seconds,
        method=cast(Method, method),
        iterations=papers_iterations(controls) if iterations is None else iterations,
        steps=steps,
        lr=lr,
        momentum=momentum,
        guidance=guidance,
        sampler=sampler,
        surrogate_steps=_surrogate_steps(surrogate_steps),
        decode_steps=decode_steps,
        **given,
        gamma=gamma,
        tolerance=tolerance,
        patience=patience,
        start=begun,
        strength=strength,
    )
    music = loaded() if student is None else loaded().with_student(student)
    music = music if controlnet is None else with_controlnet(music, controlnet)
    result = run_with_progress(request, music)
    for i, path in enumerate(paths):
        result.save(path, i, force=force)
        console.print(f"{path}  {summary(result, i)}", highlight=False, soft_wrap=True)
    for i, path in enumerate(latents):
        result.latent(i).save(path, force=force)
    for remark in [
        remark for control in controls for remark in control.remarks(music, result.x_0.shape[-1])
    ]:
        console.print(f"note: {_escaped(remark)}", highlight=False, soft_wrap=True)


def _surrogate_steps(text: str) -> Any:
    """A number, where it is one; what else there may be, the request knows."""
    return int(text) if text.isdecimal() else text


@app.command(epilog="Example: ditto-music models cvssp/audioldm2-music --estimate -T 20 -K 70")
def models(
    source: Annotated[
        str | None,
        typer.Argument(help="A model's folder or Hub id; the embedded model by default."),
    ] = None,
    model: ModelOption = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Also what a run would cost in memory and time.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Length; the model's window by default.")
    ] = None,
    count: Annotated[int, typer.Option(help="Clips at once.")] = 1,
    steps: Annotated[int, typer.Option("--steps", "-T", help="Sampling steps.")] = 20,
    iterations: Annotated[
        int, typer.Option("--iterations", "-K", help="Optimisation iterations.")
    ] = 70,
) -> None:
    """Show what a model is: size, tags, hash; and what a run on it costs."""
    from ditto.models.estimate import about
    from ditto.models.estimate import estimate as estimated
    from ditto.models.loading import load

    loaded = load(source or model)
    typer.echo("\n".join(about(loaded)))
    if estimate:
        cost = estimated(loaded, seconds=seconds, count=count, steps=steps, iterations=iterations)
        typer.echo("\n".join(cost.lines()))


@train_app.command(
    "base", epilog="Example: ditto-music train base --data datasets/train --out runs/base"
)
def train_base_command(
    config: ConfigOption = Path("configs/base.json"),
    data: DataOption = Path("datasets/train"),
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
    ] = Path("runs/base"),
    held_out: HeldOutOption = None,
    measure: Annotated[
        bool, typer.Option(help="Only say how many clips a second the recipe trains here.")
    ] = False,
) -> None:
    """Train the base model; run it again to resume, on other data if you like."""
    from ditto.training.base import train_from_folder
    from ditto.training.denoising import BaseConfig
    from ditto.training.loop import load_config

    if measure:
        from ditto.training.speed import clips_per_second

        typer.echo(f"{clips_per_second(load_config(config, BaseConfig)):.1f} clips a second")
        return
    train_from_folder(load_config(config, BaseConfig), data, out, held_out=held_out)


TeacherOption = Annotated[
    Path | None,
    typer.Option(
        help="A model's folder or Hub id (pipelines: see configs/pipeline-*.json); else the embedded one."
    ),
]
DistillOutOption = Annotated[
    Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
]


@distill_app.command(
    "ctm", epilog="Example: ditto-music distill ctm --data datasets/train --out runs/ctm"
)
def distill_ctm_command(
    config: ConfigOption = Path("configs/ctm.json"),
    data: DataOption = Path("datasets/train"),
    out: DistillOutOption = Path("runs/ctm"),
    teacher: TeacherOption = None,
    held_out: HeldOutOption = None,
) -> None:
    """Distil a consistency trajectory model: jumps from any noise level to any lower one; run it
    again to resume.
    """
    _distill("ctm", config, data, out, teacher, held_out)


@distill_app.command(
    "cm", epilog="Example: ditto-music distill cm --data datasets/train --out runs/cm"
)
def distill_cm_command(
    config: ConfigOption = Path("configs/cm.json"),
    data: DataOption = Path("datasets/train"),
    out: DistillOutOption = Path("runs/cm"),
    teacher: TeacherOption = None,
    held_out: HeldOutOption = None,
) -> None:
    """Distil a consistency model: jumps from any noise level to clean data; run it again to
    resume.
    """
    _distill("cm", config, data, out, teacher, held_out)


def _distill(
    kind: str, config: Path, data: Path, out: Path, teacher: Path | None, held_out: Path | None
) -> None:
    from ditto.errors import DataError
    from ditto.models.loading import load
    from ditto.training.distill import DistillConfig, train_from_folder
    from ditto.training.loop import load_config

    settings = load_config(config, DistillConfig)
    if settings.kind != kind:
        raise DataError(
            f"{str(config)!r} is a config of kind {settings.kind!r}: give it to `distill {settings.kind}`"
        )
    train_from_folder(settings, load(teacher, precision="float32"), data, out, held_out=held_out)


@distill_app.command(
    "pack",
    epilog="Example: ditto-music distill pack --run runs/ctm --teacher my-model --out my-model",
)
def distill_pack_command(
    run: Annotated[Path, typer.Option(help="Run folder of `distill cm` or `distill ctm`.")],
    out: Annotated[Path, typer.Option(help="Folder of the model; it may be the teacher's own.")],
    teacher: TeacherOption = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Write the student alone, for `generate --student`.")
    ] = False,
) -> None:
    """Put a student's averaged weights into its teacher's model folder, or into a folder of their
    own.
    """
    from ditto.training.pack import pack_student

    typer.echo(f"sha256 {pack_student(run, teacher, out, alone=alone)}")


@data_app.command(
    "compose", epilog="Example: ditto-music data compose --hours 6 --out datasets/train --workers 2"
)
def compose_command(
    out: Annotated[
        Path, typer.Option(help="Folder of the data set; run again to resume or extend.")
    ],
    hours: Annotated[float | None, typer.Option(help="Hours of audio (or give --count).")] = None,
    count: Annotated[int | None, typer.Option(help="Number of pieces, about 27 s each.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the composer.")] = 0,
    split: Annotated[
        str, typer.Option(help="train or heldout: their random streams never meet.")
    ] = "train",
    workers: Annotated[int, typer.Option(help="Processes that render.")] = 1,
    soundfont: Annotated[
        list[Path] | None,
        typer.Option(
            help="A .sf2 or .sf3 file; of several each piece draws one. Default: FluidR3."
        ),
    ] = None,
) -> None:
    """Compose and render labelled music, deterministically."""
    from ditto.data.corpus import compose_dataset
    from ditto.terminal import counted

    with counted("compose") as progress:
        compose_dataset(
            out,
            hours=hours,
            count=count,
            seed=seed,
            split=split,
            workers=workers,
            soundfonts=soundfont or (),
            progress=progress,
        )


@train_app.command(
    "pack",
    epilog="Example: ditto-music train pack --base runs/base --vocoder runs/vocoder --out my-model",
)
def pack_command(
    base: Annotated[Path, typer.Option(help="Run folder of `train base`.")],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    vocoder: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of `train vocoder`; none with a base tuned from the embedded one."
        ),
    ] = None,
    data: DataOption = Path("datasets/train"),
    guidance: Annotated[float, typer.Option(help="Default CFG scale w.")] = 1.0,
) -> None:
    """Put a base run's averaged weights and a vocoder run's weights into one model folder.

    Without a vocoder: what a run that started from the embedded base changed of it, as a model
    folder of a few MB.
    """
    from ditto.training.pack import pack, pack_fine_tune

    digest = (
        pack_fine_tune(base, out) if vocoder is None else pack(base, vocoder, data, out, guidance)
    )
    typer.echo(f"sha256 {digest}")


@train_app.command(
    "vocoder", epilog="Example: ditto-music train vocoder --data datasets/train --out runs/vocoder"
)
def train_vocoder_command(
    config: ConfigOption = Path("configs/vocoder.json"),
    data: DataOption = Path("datasets/train"),
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
    ] = Path("runs/vocoder"),
    held_out: HeldOutOption = None,
) -> None:
    """Train the vocoder; run it again to resume."""
    from ditto.training.loop import load_config
    from ditto.training.vocoder import VocoderConfig, train_from_folder

    train_from_folder(load_config(config, VocoderConfig), data, out, held_out=held_out)


@train_app.command(
    "controlnet", epilog="Example: ditto-music train controlnet --data datasets/train"
)
def train_controlnet_command(
    config: ConfigOption = Path("configs/controlnet.json"),
    data: DataOption = Path("datasets/train"),
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
    ] = Path("runs/controlnet"),
    base: Annotated[
        Path | None, typer.Option(help="The base's model folder; the embedded model by default.")
    ] = None,
    held_out: HeldOutOption = None,
) -> None:
    """Train a ControlNet for loudness and melody on a finished base; run it again to resume."""
    from ditto.models.loading import load
    from ditto.training.controlnet import ControlNetConfig, train_from_folder
    from ditto.training.loop import load_config

    train_from_folder(
        load_config(config, ControlNetConfig),
        load(base, precision="float32"),
        data,
        out,
        held_out=held_out,
    )


@train_app.command(
    "classifier", epilog="Example: ditto-music train classifier --data datasets/train"
)
def train_classifier_command(
    config: ConfigOption = Path("configs/classifier.json"),
    data: DataOption = Path("datasets/train"),
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
    ] = Path("runs/classifier"),
    held_out: HeldOutOption = None,
) -> None:
    """Train the tag classifier that the benches listen with; run it again to resume."""
    from ditto.training.classifier import ClassifierConfig, train_classifier
    from ditto.training.loop import load_config

    typer.echo(
        train_classifier(load_config(config, ClassifierConfig), data, out, held_out=held_out)
    )


@train_app.command(
    "clap",
    epilog="Example: ditto-music train clap --data datasets/train --held-out datasets/heldout",
)
def train_clap_command(
    config: ConfigOption = Path("configs/clap.json"),
    data: DataOption = Path("datasets/train"),
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a killed run resumes from it.")
    ] = Path("runs/clap"),
    held_out: HeldOutOption = None,
) -> None:
    """Train the CLAP that ties texts to music; run it again to resume."""
    from ditto.training.clap import ClapTraining, train_clap
    from ditto.training.loop import load_config

    typer.echo(train_clap(load_config(config, ClapTraining), data, out, held_out=held_out))


@data_app.command(
    "prepare",
    epilog="Example: ditto-music data prepare my-music --tags tags.csv --out datasets/mine",
)
def prepare_command(
    folder: Annotated[Path, typer.Argument(help="Recordings, searched in depth.")],
    out: Annotated[Path, typer.Option(help="Receives train/ and heldout/; run again to resume.")],
    tags: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file with the columns file, genre, mood, tempo; cells may be empty."
        ),
    ] = None,
    heldout: Annotated[float, typer.Option(help="Share of the recordings to hold out.")] = 0.1,
) -> None:
    """Turn your own recordings and tags into training data."""
    from ditto.data.prepare import prepare_folder
    from ditto.terminal import counted

    with counted("prepare") as progress:
        prepared = prepare_folder(folder, out, tags_csv=tags, heldout=heldout, progress=progress)
    typer.echo(prepared)


@train_app.command(
    "report", epilog="Example: ditto-music train report runs/base --out docs/training/base"
)
def report_command(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path, typer.Option(help="Folder that receives config, log, loss curves and samples.")
    ],
) -> None:
    """Collect what is worth keeping about a run."""
    from ditto.training.report import write_report

    typer.echo("\n".join(str(path) for path in write_report(run, out)))
