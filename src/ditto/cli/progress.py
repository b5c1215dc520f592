"""What the command line shows: one progress display, and lines about what came out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from ditto.paths import printable

console = Console(stderr=True)

DEVICE_HELP = "Where to compute: auto, cpu, cuda, cuda:1, … or mps; auto is a GPU if there is one."

Update = Callable[..., None]
"""``update(done, total=None, loss=None, part="")``: steps of the work, a loss, "2/5" windows."""


def say(line: str, *, style: str | None = None) -> None:
    """Print one line on standard error; a style colours its first word ("error:")."""
    from rich.text import Text

    words = Text(printable(" ".join(line.splitlines())))
    if style:
        words.stylize(style, 0, line.find(":") + 1)
    console.print(words, soft_wrap=True, highlight=False)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Update]:
    """Show a bar with what is done, the loss and the time left; nothing in a file or a pipe.

    Args:
        label: of the work.
        total: steps that there will be, if known; 0 shows nothing.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}{task.fields[note]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = total == 0 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(label, total=total, loss="", note="")

        def update(
            done: int, total: int | None = None, loss: float | None = None, part: str = ""
        ) -> None:
            fields: dict[str, Any] = {"completed": done, "note": f" {part}" if part else ""}
            fields |= {} if total is None else {"total": total}
            bar.update(task, loss="" if loss is None else f"loss {loss:.3g}", **fields)

        yield update
