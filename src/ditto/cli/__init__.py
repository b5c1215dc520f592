"""The command line: ``ditto-music``. Words and defaults are those of the Python API.

`COMMANDS` is the whole of it: a command's module is imported when it is called, so that ``--help``
answers at once.
"""

import errno
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ditto.cli.progress import say
from ditto.errors import DittoError
from ditto.imports import importing
from ditto.interrupts import terminable
from ditto.paths import printable, reason

COMMANDS = {
    "generate": ("generate", "Make music that follows the controls."),
    "inpaint": ("edit", "Make regions of a recording anew, to fit what is around them."),
    "outpaint": ("edit", "Make a recording longer, to any length."),
    "loop": ("edit", "Make a seamless loop, from a recording or from nothing."),
    "invert": ("edit", "Find the latent from which the model makes a recording again."),
    "vary": ("edit", "Make other clips from one latent, in seconds."),
    "batch": ("batch", "Make many clips, from a file of requests."),
    "again": ("again", "Make a clip again from its report, and say whether it is the same."),
    "studio": ("ditto.studio.command", "Open all this as a page in the browser."),
    "models": ("models", "Show what a model is: size, tags, hash; and what a run on it costs."),
    "train": ("train", "Train the parts of a model."),
    "distill": ("train", "Distil a model into a student of few steps."),
    "data": ("data", "Make training data."),
    "bench": ("models", "Say where the benchmarks are."),
}
"""Command → module (of this package, or its whole name), one line of help."""

STOPPED = "stopped; nothing half-written was kept"

OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)
"""What the system says of a path that was given, wherever in a command that is found out."""

EXTRAS = {
    "accelerate": "train",
    "tensorboard": "train",
    "peft": "pipelines",
    "gradio": "studio",
    "ray": "fleet",
}
"""Package that is imported only where it is needed → the extra that installs it."""


class LazyCommand(TyperCommand):
    """A command whose module is imported when it is called."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        """Import the real command and let it parse its arguments."""
        module, _ = COMMANDS[str(self.name)]
        whole = module if "." in module else f"ditto.cli.{module}"
        with importing():
            group: Any = typer.main.get_group(import_module(whole).app)
        return group.commands[self.name].make_context(info_name, args, *rest, **more)


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS`, in their order."""

    def invoke(self, ctx: Any) -> Any:
        """Call the command; Ctrl-C ends it with one line and exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(str(stop) or STOPPED)
            raise typer.Exit(130) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands' names."""
        return [name for name in COMMANDS if name != "bench"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that imports the command when it is called."""
        if cmd_name not in COMMANDS:
            return None
        return LazyCommand(name=cmd_name, help=COMMANDS[cmd_name][1], callback=lambda: None)


app = typer.Typer(
    name="ditto-music",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"ditto-music {version('ditto-music')}")
        raise typer.Exit


@app.callback()
def ditto_music(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Control a music diffusion model by optimising only its initial noise (DITTO, DITTO-2)."""


def main() -> None:
    """Run the command line; a user's mistake ends as one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a pipe on Windows may not know all characters
            stream.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries tell each other
    try:
        with terminable():
            app(prog_name="ditto-music")
    except KeyboardInterrupt as stop:
        say(str(stop) or STOPPED)
        sys.exit(130)
    except Exception as error:
        words = _mistake(error)
        if words is None:
            raise
        say(f"error: {words}", style="bold red")
        sys.exit(2)


def _mistake(error: Exception) -> str | None:
    """Return what a user can do about an error, on one line; None for one of ours."""
    if isinstance(error, DittoError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.errno in OF_A_PATH:
        return f"{printable(error.filename)}: {reason(error)}"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        extra = f"pip install 'ditto-music[{EXTRAS[error.name]}]'"
        return f"this command needs {error.name}: {extra}"
    if isinstance(error, (RuntimeError, MemoryError)):
        from ditto.models.device import is_out_of_memory

        if is_out_of_memory(error):
            words = "give fewer --seconds, a smaller --count or --low-memory"
            return f"there is not enough memory for this: {words}"
    return None
