"""An optimisation on the terminal: its progress bar, and Ctrl-C that keeps the best so far."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from ditto.cli.progress import Update, progress, say
from ditto.errors import RequestError
from ditto.interrupts import handling, waiting
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step
from ditto.request import Request


@dataclass
class Optimisation:
    """What a command gives to `ditto.run`, or to an edit, to be shown and stopped.

    Attributes:
        iterations: K of one window.
        update: the bar.
        steps: made so far, of all windows.
        windows: of an edit that are done.
        stopped: by Ctrl-C or SIGTERM.
    """

    iterations: int
    update: Update
    steps: int = field(default=0, init=False)
    windows: int = field(default=0, init=False)
    stopped: bool = field(default=False, init=False)

    def watch(self, step: Step) -> None:
        """Show a step of a clip."""
        self.progress(0, 1, step)

    def progress(self, window: int, windows: int, step: Step) -> None:
        """Show a step of one window of an edit."""
        self.steps += 1
        for warning in step.warnings:
            say(f"warning: {warning}")
        self.update(
            window * self.iterations + step.i + 1,
            total=windows * self.iterations,
            loss=step.best_loss.mean().item(),
            part=f"{window + 1}/{windows}" if windows > 1 else "",
        )

    def stop(self, step: Step) -> bool:
        """Tell whether the optimisation is to end."""
        return self.stopped

    def halt(self) -> bool:
        """Tell, after a window of an edit, whether the edit is to end there."""
        self.windows += 1
        return self.stopped

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """End the optimisation at its next step, and an edit after its present window.

        As long as there is nothing to keep, or when asked twice, end the command at once.

        Raises:
            KeyboardInterrupt: nothing is to be kept.
        """
        if self.stopped or not (self.steps or self.windows):
            raise KeyboardInterrupt
        self.stopped = True
        what = "window" if self.windows and not self.steps else "iteration"
        say(f"stopping after this {what} to keep the best so far; Ctrl-C again ends at once")


def say_understood(request: Request) -> None:
    """Say what was understood of the files that a request's controls were read from."""
    for control in request.controls:
        for line in control.understood():
            say(f"{control.bare().kind}: {line}")


@contextmanager
def optimising(
    label: str, request: Request, model: MusicModel, least: int = 0
) -> Iterator[Optimisation]:
    """Show an optimisation, and let Ctrl-C and SIGTERM end it early.

    Args:
        label: of the bar.
        request: of every window.
        model: makes it.
        least: iterations that a window has by default at least.

    Raises:
        RequestError: in place of `GradientError`.
    """
    iterations = request.iterations or max(request.resolved(model).iterations or 0, least)
    with progress(label) as update:
        optimisation = Optimisation(iterations, update)
        with handling(optimisation.interrupt):
            try:
                yield optimisation
            except GradientError as error:
                raise RequestError(str(error)) from None


@contextmanager
def unbroken() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until all files of an output are written; twice ends at once.

    Raises:
        KeyboardInterrupt: after the block, if there was one.
    """
    with waiting() as caught:
        yield
    if caught:
        raise KeyboardInterrupt
