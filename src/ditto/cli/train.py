"""``ditto-music train`` and ``ditto-music distill``: recipes to runs, runs to models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from ditto.cli.progress import DEVICE_HELP
from ditto.errors import DataError

app = typer.Typer()
train_app = typer.Typer(help="Train the parts of a model.", no_args_is_help=True)
distill_app = typer.Typer(help="Distil a model into a student of few steps.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(distill_app, name="distill")

Config = Annotated[str, typer.Option(help="Recipe: the name of an installed one, or a JSON file.")]
Data = Annotated[
    str, typer.Option(help="A folder made by `ditto-music data`, or the URL of its shards.")
]
Run = Annotated[Path, typer.Option(help="Folder of the run; a killed run resumes from it.")]
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Processes = Annotated[
    int,
    typer.Option(
        min=1, max=1024, help="Processes that share each batch, on graphics cards one for each."
    ),
]
HeldOut = Annotated[str | None, typer.Option(help="The held-out data folder, or its shards.")]
Teacher = Annotated[
    Path | None,
    typer.Option(
        help="A model's folder or Hub id (recipes for pipelines: pipeline-ctm, …); else the "
        "embedded one."
    ),
]


@dataclass(frozen=True)
class Recipe:
    """A training as a command.

    Attributes:
        module: of `ditto.training`.
        config: its dataclass.
        function: ``(config, data, out, held_out=…)``, after the model if it starts from one.
        about: help.
        model: name of the option for the model it starts from, if it does.
        shared: whether several processes can share its batches.
    """

    module: str
    config: str
    function: str
    about: str
    model: str = ""
    shared: bool = True

    def settings(self, config: str) -> Any:
        """Read a config.

        Raises:
            DataError: it is none of this training.
        """
        from ditto.training.loop import load_config

        return load_config(
            config, getattr(import_module(f"ditto.training.{self.module}"), self.config)
        )


RECIPES = {
    "base": Recipe("base", "BaseConfig", "train_from_folder", "Train the base model"),
    "vocoder": Recipe("vocoder", "VocoderConfig", "train_from_folder", "Train the vocoder"),
    "controlnet": Recipe(
        "controlnet",
        "ControlNetConfig",
        "train_from_folder",
        "Train a ControlNet for loudness and melody on a finished base",
        model="base",
    ),
    "heads": Recipe(
        "heads",
        "HeadsConfig",
        "train_from_folder",
        "Train heads that read features off x_0, for controls of models with a slow decoder",
        model="model",
    ),
    "classifier": Recipe(
        "classifier",
        "ClassifierConfig",
        "train_classifier",
        "Train the tag classifier that benchmarks use",
        shared=False,
    ),
    "clap": Recipe(
        "clap",
        "ClapTraining",
        "train_clap",
        "Train the CLAP that ties texts to music",
        shared=False,
    ),
}
STUDENTS = {
    "ctm": "Distil a consistency trajectory model: jumps from any noise level to any lower one",
    "cm": "Distil a consistency model: jumps from any noise level to clean data",
}


def spread(words: Sequence[str], processes: int, settings: Any, **options: Any) -> bool:
    """Run a command in several processes, if they are asked for, and end as they do.

    Args:
        words: of the command.
        processes: how many.
        settings: its recipe's.
        options: of the command, without `processes`.

    Returns:
        False for one process, which is this one.

    Raises:
        DataError: it cannot be.
    """
    if processes == 1:
        return False
    from ditto.training.launch import launched

    more: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            more += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    code = launched([*words, *more], processes, settings.batch_size, options["device"])
    if code:
        raise typer.Exit(code)
    return True


def say_precision(settings: Any, place: str) -> None:
    """Say so where a recipe's bfloat16 is none of this device's, and float32 takes its place."""
    from ditto.training.place import has_bf16

    if getattr(settings, "precision", "no") == "bf16" and not has_bf16(place):
        typer.echo("no bfloat16 here: training in float32", err=True)


def carry_out(
    recipe: Recipe, place: str, config: str, data: str, out: Path, held_out: str | None, *first: Any
) -> None:
    """Run a training from its recipe; print the folder that it returns, if it does."""
    module, settings = import_module(f"ditto.training.{recipe.module}"), recipe.settings(config)
    say_precision(settings, place)
    result = getattr(module, recipe.function)(settings, *first, data, out, held_out=held_out)
    if isinstance(result, Path):
        typer.echo(result)


def command_of(name: str, recipe: Recipe) -> Callable[..., None]:
    """Return the command that runs a recipe, its defaults named after it."""
    if recipe.model:

        def from_model(
            config: Config = name,
            data: Data = "datasets/train",
            out: Run = Path("runs") / name,
            base: Annotated[
                Path | None,
                typer.Option(
                    f"--{recipe.model}", help="The model's folder; the embedded model by default."
                ),
            ] = None,
            held_out: HeldOut = None,
            device: Device = "auto",
            processes: Processes = 1,
        ) -> None:
            from ditto.models.hub import load
            from ditto.training.place import training_on

            options = {"config": config, "data": data, "out": out, recipe.model: base}
            options |= {"held_out": held_out, "device": device}
            if spread(("train", name), processes, recipe.settings(config), **options):
                return
            with training_on(device) as place:
                model = load(base, device=place, precision="float32")
                carry_out(recipe, place, config, data, out, held_out, model)

        return from_model

    def from_scratch(
        config: Config = name,
        data: Data = "datasets/train",
        out: Run = Path("runs") / name,
        held_out: HeldOut = None,
        device: Device = "auto",
        processes: Processes = 1,
    ) -> None:
        from ditto.training.place import training_on

        if processes > 1 and not recipe.shared:
            raise DataError(f"{name} trains on one process: leave out --processes")
        options = {"config": config, "data": data, "out": out}
        options |= {"held_out": held_out, "device": device}
        if spread(("train", name), processes, recipe.settings(config), **options):
            return
        with training_on(device) as place:
            carry_out(recipe, place, config, data, out, held_out)

    return from_scratch


def train_base(
    config: Config = "base",
    data: Data = "datasets/train",
    out: Run = Path("runs/base"),
    held_out: HeldOut = None,
    device: Device = "auto",
    processes: Processes = 1,
    accumulate: Annotated[
        int,
        typer.Option(
            min=1, help="Parts of a process's clips, one after another, where memory is short."
        ),
    ] = 1,
    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp", help="Leave each process a part of the weights, of a base that is too large."
        ),
    ] = False,
) -> None:
    """Run its recipe."""
    from ditto.training.place import training_on

    recipe = RECIPES["base"]
    options = {"config": config, "data": data, "out": out, "held_out": held_out, "device": device}
    options |= {"accumulate": accumulate, "fsdp": fsdp}
    if spread(("train", "base"), processes, recipe.settings(config), **options):
        return
    with training_on(device, accumulate=accumulate, in_parts=fsdp) as place:
        carry_out(recipe, place, config, data, out, held_out)


for _name, _recipe in RECIPES.items():
    train_app.command(
        _name,
        help=f"{_recipe.about}; run it again to resume.",
        epilog=f"Example: ditto-music train {_name} --data datasets/train --out runs/{_name}",
    )(train_base if _name == "base" else command_of(_name, _recipe))


def student_command(kind: str) -> Callable[..., None]:
    """Return the command that distils a kind of student."""

    def distill(
        config: Config = kind,
        data: Data = "datasets/train",
        out: Run = Path("runs") / kind,
        teacher: Teacher = None,
        held_out: HeldOut = None,
        device: Device = "auto",
        processes: Processes = 1,
    ) -> None:
        from ditto.models.hub import load
        from ditto.training.distill import DistillConfig, train_from_folder
        from ditto.training.loop import load_config
        from ditto.training.place import training_on

        settings = load_config(config, DistillConfig)
        if settings.kind != kind:
            raise DataError(
                f"{config!r} is a config of kind {settings.kind!r}: give it to `distill "
                f"{settings.kind}`"
            )
        options = {"config": config, "data": data, "out": out, "teacher": teacher}
        options |= {"held_out": held_out, "device": device}
        if spread(("distill", kind), processes, settings, **options):
            return
        with training_on(device) as place:
            model = load(teacher, device=place, precision="float32")
            say_precision(settings, place)
            train_from_folder(settings, model, data, out, held_out=held_out)

    return distill


for _name, _about in STUDENTS.items():
    distill_app.command(
        _name,
        help=f"{_about}; run it again to resume.",
        epilog=f"Example: ditto-music distill {_name} --data datasets/train --out runs/{_name}",
    )(student_command(_name))


@distill_app.command(
    "pack",
    epilog="Example: ditto-music distill pack --run runs/ctm --teacher my-model --out my-model",
)
def pack_student(
    run: Annotated[Path, typer.Option(help="Run folder of `distill cm` or `distill ctm`.")],
    out: Annotated[Path, typer.Option(help="Folder of the model; it may be the teacher's own.")],
    teacher: Teacher = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Write the student alone, for `generate --student`.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where to load the teacher; nothing is computed.")
    ] = "cpu",
) -> None:
    """Put a student's averaged weights into its teacher's model folder, or one of its own."""
    from ditto.training.pack import pack_student

    typer.echo(f"sha256 {pack_student(run, teacher, out, alone=alone, device=device)}")


@train_app.command(
    "pack",
    epilog="Example: ditto-music train pack --base runs/base --vocoder runs/vocoder --out my-model",
)
def pack(
    base: Annotated[Path, typer.Option(help="Run folder of `train base`.")],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    vocoder: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of `train vocoder`, or embedded for the embedded model's; none with a "
            "base tuned from the embedded one."
        ),
    ] = None,
    data: Data = "datasets/train",
    guidance: Annotated[float, typer.Option(help="Default CFG scale w.")] = 1.0,
) -> None:
    """Put a base run's averaged weights and a vocoder run's weights into one model folder.

    Without a vocoder: what a run that started from the embedded base changed of it, as a model
    folder of a few MB.
    """
    from ditto.training.pack import pack, pack_fine_tune

    if vocoder is None:
        digest = pack_fine_tune(base, out)
    else:
        digest = pack(base, vocoder, data, out, guidance)
    typer.echo(f"sha256 {digest}")


@train_app.command("speed", epilog="Example: ditto-music train speed --config base")
def speed(config: Config = "base", device: Device = "auto") -> None:
    """Say how many clips a second a recipe of the base trains here; no data are read."""
    from ditto.training.denoising import BaseConfig
    from ditto.training.loop import load_config
    from ditto.training.place import training_on
    from ditto.training.speed import clips_per_second

    settings = load_config(config, BaseConfig)
    with training_on(device) as place:
        say_precision(settings, place)
        rate = clips_per_second(settings)
        typer.echo(f"{rate:.1f} clips a second on {place}")


@train_app.command(
    "report", epilog="Example: ditto-music train report runs/base --out docs/training/base"
)
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path, typer.Option(help="Folder that receives config, log, loss curves and samples.")
    ],
) -> None:
    """Collect what is worth keeping about a run."""
    from ditto.training.report import write_report

    typer.echo("\n".join(str(path) for path in write_report(run, out)))
