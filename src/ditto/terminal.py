"""What the command line shows of a run: progress with the loss and time left, and one line a
clip.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ditto.methods.ways import WAYS
from ditto.models.model import MusicModel
from ditto.optimize import Step
from ditto.request import Request, Result, run

console = Console(stderr=True)


def run_with_progress(request: Request, model: MusicModel) -> Result:
    """`ditto.request.run` with a progress bar over the iterations on standard error."""
    request = request.resolved(model)
    iterations = (
        request.iterations if request.controls and WAYS[request.method or "none"].optimises else 0
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # In a file or a pipe a bar would leave an empty line.
    hidden = not iterations or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(request.method or "", total=iterations, loss="-")

        def watch(step: Step) -> None:
            bar.update(task, completed=step.i + 1, loss=f"{step.best_loss.mean().item():.3g}")

        return run(request, model, watch=watch)


@contextmanager
def counted(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar fed with (done, total)."""
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def numbered(path: Path, count: int) -> list[Path]:
    """`path` itself for one clip; ``name-0.wav``, ``name-1.wav``, … for more."""
    return (
        [path]
        if count == 1
        else [path.parent / f"{path.stem}-{i}{path.suffix}" for i in range(count)]
    )


def summary(result: Result, item: int) -> str:
    """Length, errors and time of one clip in one line."""
    parts = [f"{result.audio.shape[1] / result.model.spec.sample_rate:.2f} s"]
    parts += [f"{name} {value[item].item():.3g}" for name, value in result.errors.items()]
    parts.append(f"made in {sum(result.timings.values()):.1f} s")
    return ", ".join(parts)
