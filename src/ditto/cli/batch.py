"""``ditto-music batch``."""

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ditto.cli.lines import Lines
from ditto.cli.options import FORCE, MODEL_OPTIONS, Options, command
from ditto.cli.progress import console, progress, say
from ditto.fleet.batch import TOGETHER, FaultyRequestsError, Made, Plan, make
from ditto.fleet.folder import INDEX, ClipFolder
from ditto.fleet.making import Making
from ditto.interrupts import waiting
from ditto.models.device import chosen_device
from ditto.models.model import MusicModel

app = typer.Typer()

TELL_SECONDS = 60.0
"""Between lines about the progress, where there is no terminal to show a bar."""


@command(
    app,
    [FORCE],
    MODEL_OPTIONS,
    epilog=r"""
A line of the file holds the long options of `generate` as keys, or a report's `request`:

{"loudness": "swell", "tags": "genre=jazz", "seed": 3}

{"command": "outpaint", "recording": "song.wav", "seconds": 30, "name": "longer.flac"}

Examples:

ditto-music batch requests.jsonl --out clips

ditto-music batch out.json --out again

ditto-music batch requests.jsonl --out clips --workers 2

ditto-music batch requests.jsonl --out clips --ray auto
""",
)
def batch(
    requests: Annotated[
        Path, typer.Argument(help="A file with a JSON object a line, or a report (.json).")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the clips; run again to make what is missing.")
    ],
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="Processes; 0 makes everything in this one.")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster, or auto for this machine's; all machines see --out. "
            "--workers is then by default one for each of its cores, or GPUs."
        ),
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help=f"Requests of one kind made at once; on a GPU by default {TOGETHER}.",
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw a picture of each clip.")
    ] = True,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare", help="Say how much is kept of the clips without control."
        ),
    ] = True,
    *,
    options: Options,
) -> None:
    """Make many clips: each is a line of index.jsonl in the folder, with its error if it failed.

    Every request is checked before the first is made. Ctrl-C ends it when what runs is done.
    """
    device = options["device"]
    with ClipFolder.opened(out) as folder:  # first, since a model takes a while
        model, load = _models(options, alone=not workers and ray is None)
        # What a cluster has, this machine may not have.
        gpu = device.startswith("cuda") if ray else chosen_device(device).type != "cpu"
        size = together or (TOGETHER if gpu else 1)
        place: dict[str, Any] = {"workers": workers, "ray": ray, "gpu": gpu}
        making = Making(
            load=load,
            out=out.absolute(),
            here=Path.cwd(),
            pictures=pictures,
            compare=compare,
            threads=1 if ray else max(1, torch.get_num_threads() // workers) if workers else None,
        )
        with waiting() as stopped:
            plan = _planned(requests, model, folder, size, force=options["force"])
            if stopped:
                raise KeyboardInterrupt
            count = _Count(plan, out)
            with progress("batch", plan.total) as update:
                for made in make(plan, making, folder, **place, ended=lambda: bool(stopped)):
                    count.add(made, update)
    count.tell(bool(stopped))


def _models(options: Options, *, alone: bool) -> tuple[MusicModel, Callable[[], MusicModel]]:
    """Return the model that checks requests, and what loads that which makes them."""
    if alone:
        model = options.model
        return model, lambda: model
    return Options(options | {"device": "cpu"}).model, partial(load_model, dict(options))


def _planned(
    requests: Path, model: MusicModel, folder: ClipFolder, together: int, *, force: bool
) -> Plan:
    """Return what is to be made; of faulty lines say what is wrong, and end."""
    try:
        return Plan.of(Lines(requests), model, folder, together=together, force=force)
    except FaultyRequestsError as error:
        for line in error.problems:
            say(f"error: {line}", style="bold red")
        raise typer.Exit(2) from None


class _Count:
    """What is made so far, and how fast."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out = plan, out
        self.before, self.made, self.failed = plan.total - len(plan.missing), 0, 0
        self.started = self.told = time.monotonic()

    @property
    def rate(self) -> str:
        """Clips an hour, in words."""
        hours = max(time.monotonic() - self.started, 1e-3) / 3600
        return f"{self.made / hours:.0f} clips an hour"

    @property
    def left(self) -> str:
        """How long the rest takes at the speed so far, in words."""
        done = self.made + self.failed
        each = (time.monotonic() - self.started) / done
        return f"{timedelta(seconds=round(each * (len(self.plan.missing) - done)))} left"

    def add(self, made: Made, update: Any) -> None:
        """Count a request that is done, and show it."""
        if made.error is None:
            self.made += 1
        else:
            self.failed += 1
            say(f"warning: {made.name}: {made.error}")
        done = self.before + self.made + self.failed
        update(done, part=self.rate)
        if not console.is_terminal and time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            say(f"{done} of {self.plan.total}, {self.rate}, {self.left}")

    def tell(self, stopped: bool) -> None:
        """Say what came out, and end with an exit code that tells it, too."""
        parts = [f"{self.made} clips made", *([self.rate] if self.made else [])]
        parts += [f"{self.before} were there"] * bool(self.before)
        parts += [f"{self.failed} failed, see {self.out / INDEX}"] * bool(self.failed)
        say(", ".join([f"{self.out}/  {parts[0]}", *parts[1:]]))
        left = len(self.plan.missing) - self.made - self.failed
        if stopped and left:
            say(f"note: stopped: the same command makes the {left} that are missing")
            raise typer.Exit(130)
        if self.failed:
            raise typer.Exit(1)


def load_model(values: dict[str, Any]) -> MusicModel:
    """Load the model that a command's options name, on this process's share of the devices."""
    console.quiet = True
    count = torch.cuda.device_count()
    if values["device"] in ("auto", "cuda") and count > 1:
        number = multiprocessing.current_process().name.rpartition("-")[2]
        values = values | {"device": f"cuda:{int(number) % count if number.isdecimal() else 0}"}
    return Options(values).model
