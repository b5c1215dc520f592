"""One training, from its newest checkpoint to its last step: everything around the loss.

The loss is each recipe's own.

A recipe's loop reads as its algorithm::

    run = Run(config, out, Accelerator(), network, averages={"ema": config.ema})
    for step in run.steps("base"):
        run.update(loss(run.model, step))
        if run.due(config.evaluate_every):
            evaluate(run.averages["ema"])
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ditto.errors import DataError, one_line
from ditto.interrupts import waiting
from ditto.models.folder import ANY_FAULT
from ditto.training import fsdp
from ditto.training.learner import Learner, Recipe
from ditto.training.loop import (
    Checkpoints,
    Ema,
    Meter,
    NoLog,
    RunLog,
    Tensors,
    damaged_checkpoint,
    progress_steps,
    start_run,
    tensorboard,
)

LARGEST_LOSS = 1e6
"""A loss that is not below it has diverged: all losses here are of the order of 1."""

Value = TypeVar("Value")


def at_first(accelerator: Accelerator, make: Callable[[], Value]) -> Value:
    """Make what is kept in files in the first process, then in the others, which find it there."""
    with accelerator.main_process_first():
        return make()


def alone(accelerator: Accelerator, what: str) -> None:
    """Refuse to train on several processes.

    Raises:
        DataError: there are several.
    """
    if accelerator.num_processes > 1:
        raise DataError(f"{what} trains on one process: start it without a launcher")


class Run:
    """A training in its folder, at its newest checkpoint or at step 0.

    Its step's draws must come from (seed, step) alone; then a run that is killed and made again
    ends with the same weights, on a CPU and in float32 bit for bit. It leaves ``config.json``,
    ``log.jsonl``, ``tensorboard/`` and ``step-*/``.

    Accelerate's launcher starts several processes of one training. Each draws the whole batch and
    learns from its own `part`; gradients and losses are averaged over them, which gives what one
    process computes but for the rounding of sums. The first one writes all files.

    Args:
        recipe: the config, which the folder must have begun with.
        out: the folder.
        accelerator: moves the network to its device.
        network: what is trained, as it is at step 0.
        averages: names and decays of the averaged weights to be kept.
        average_every: steps between their updates.
        extra_learners: others that learn in the same run, each by its own loss.
        begun_with: hashes of what the run must have begun with, by name (which is the command
            line's option, too).
        large: whether it learns by `learn`, and evaluates when a step is `reached`, so that
            gradients can be accumulated and weights lie in parts.

    Attributes:
        model: the network as accelerate wraps it, to be called.
        accelerator: what wraps it.
        averages: the averaged weights by name.
        start: the step that it starts at.
        done: steps done so far, the current one included.
        log: where more numbers may be logged.

    Raises:
        DataError: the folder holds a run that began with something else.
        OutputError: see `start_run`.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        network: nn.Module,
        *,
        averages: Mapping[str, float] | None = None,
        extra_learners: Sequence[Learner] = (),
        begun_with: Mapping[str, str] | None = None,
        average_every: int = 1,
        large: bool = False,
    ) -> None:
        self._check_share(recipe, accelerator)
        self._in_parts = fsdp.asked(accelerator)
        if not large and (self._in_parts or accelerator.gradient_accumulation_steps > 1):
            raise DataError("--fsdp and --accumulate are for `train base`: leave them out")
        at_first(accelerator, partial(start_run, out, recipe))
        self.recipe, self.out, self.network, self.accelerator = recipe, out, network, accelerator
        self._learner = Learner(accelerator, network, recipe, in_parts=self._in_parts)
        self._learners = (self._learner, *extra_learners)
        self.model = self._learner.model
        self.averages = {
            name: Ema(network, decay, average_every) for name, decay in (averages or {}).items()
        }
        self._begun_with, self._checkpoints, self._meter = (
            begun_with or {},
            Checkpoints(out),
            Meter(),
        )
        self.start = self.done = self._resume()
        accelerator.wait_for_everyone()  # before the first one writes another checkpoint
        self._stopped: Sequence[int] = ()
        self._stop = False
        self.log = RunLog(out, self.start, tensorboard(out, self.start)) if self.writes else NoLog()

    @staticmethod
    def _check_share(recipe: Recipe, accelerator: Accelerator) -> None:
        """Find out whether a batch can be shared.

        Raises:
            DataError: it cannot, without remainder.
        """
        count, times = accelerator.num_processes, accelerator.gradient_accumulation_steps
        if recipe.batch_size % count:
            raise DataError(
                f"a batch of {recipe.batch_size} cannot be shared by {count} processes: their "
                "number must divide batch_size"
            )
        if recipe.batch_size // count % times:
            raise DataError(
                f"{recipe.batch_size // count} clips a process cannot be taken in {times} parts of "
                "one size: change --accumulate"
            )

    @property
    def writes(self) -> bool:
        """Whether this process is the one that evaluates and writes files."""
        return self.accelerator.is_main_process

    @property
    def part(self) -> slice:
        """Part of a batch that this process learns from: on one process all of it."""
        size = self.recipe.batch_size // self.accelerator.num_processes
        first = self.accelerator.process_index * size
        return slice(first, first + size)

    def _resume(self) -> int:
        found = self._checkpoints.latest()
        if found is None:
            return 0
        step, groups, state = found
        for name, value in self._begun_with.items():
            if state.get(name) != value:
                raise DataError(
                    f"{str(self.out)!r} was begun with another {name}: choose another folder, or "
                    f"give --{name}"
                )
        try:
            self._load(groups)
        except ANY_FAULT as error:
            raise damaged_checkpoint(self._checkpoints.place(step), error) from None
        return step

    def _load(self, groups: Mapping[str, Tensors]) -> None:
        """Put a checkpoint's weights, optimisers and averages in place."""
        for learner in self._learners:
            learner.load(groups)
        for name, average in self.averages.items():
            average.load(groups[name])

    def take(self, folder: Path) -> None:
        """Go on from another run's newest checkpoint: its weights, optimiser and averages.

        Raises:
            DataError: it has none, or is of another network.
        """
        groups = Checkpoints(folder).newest()[0]
        try:
            self._load(groups)
        except ANY_FAULT as error:
            raise DataError(
                f"the run {str(folder)!r} cannot be continued with this config "
                f"({one_line(error)}): its network, optimizer and averages must be that run's, or "
                "continued false"
            ) from None

    @property
    def picture(self) -> Path:
        """Path of a picture of samples of the weights as they are now."""
        return self.out / "samples" / f"{self.done:08d}.png"

    def steps(self, label: str, show: bool = True) -> Iterator[int]:
        """Yield the steps that are left, with a progress bar; save checkpoints that are due.

        Ctrl-C or SIGTERM ends the training after its present step, with a checkpoint; twice, at
        once.

        Raises:
            KeyboardInterrupt: after the checkpoint.
            OutputError: a checkpoint cannot be written; those before it stay.
        """
        show = show and self.writes
        with waiting() as self._stopped:
            for step in progress_steps(self.start, self.recipe.steps, label, self._meter, show):
                self.done = step + 1
                yield step
                if self.accelerator.num_processes == 1:
                    self._stop = bool(self._stopped)
                if self._stop or self.reached(self.recipe.checkpoint_every):
                    self._save()
                if self._stop:
                    break
        self.log.close()
        self.accelerator.wait_for_everyone()
        if self._stop and self.done < self.recipe.steps:
            raise KeyboardInterrupt(f"stopped at step {self.done}: run it again to resume")

    def update(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Learn from the step's loss, a scalar, and log it when that is due.

        Args:
            loss: logged smoothed, as ``loss``.
            parts: what it is a sum of. They are logged as they are; so is ``loss`` then, beside
                ``smooth_loss``.

        Raises:
            DataError: the training diverged.
        """
        self._learner.descend(loss, self.done - 1)
        self._note(loss, parts or {})

    def learn(self, loss_of: Callable[[slice], Tensor]) -> None:
        """Learn from a step's loss as `update` does, computed a part of the batch at a time.

        Args:
            loss_of: returns the mean loss of a part of the batch. It is called once, or as often
                as the launcher's number of gradient_accumulation_steps.
        """
        times, whole, losses = self.accelerator.gradient_accumulation_steps, self.part, []
        size = (whole.stop - whole.start) // times
        self._learner.zero_grad()
        for first in range(whole.start, whole.stop, size):
            last = first + size == whole.stop
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = loss_of(slice(first, first + size))
                self.accelerator.backward(loss)  # of a share of it
            losses.append(loss.detach())
        self._learner.follow(self.done - 1)
        self._note(torch.stack(losses).mean(), {})

    def _note(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Average the weights after a step, and log its loss."""
        step = self.done - 1
        for average in self.averages.values():
            average.update(self.network, step)
        loss, parts = self._together(loss, parts)
        self._meter.add(value := loss.item())
        if not value < LARGEST_LOSS:
            raise DataError(
                f"training diverged at step {self.done} (loss {value:g}): lower lr in the config "
                "and start afresh"
            )
        if self.done % self.recipe.log_every == 0:
            smooth = self._meter.smooth
            plain = {name: part.item() for name, part in parts.items()}
            numbers = {"smooth_loss": smooth, "loss": value} if parts else {"loss": smooth}
            self.log.write(self.done, **numbers, **plain)

    def _together(
        self, loss: Tensor, parts: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Average a step's losses over the processes, and agree on whether it is the last step."""
        if self.accelerator.num_processes == 1:
            return loss, parts
        stopped = loss.new_tensor(float(bool(self._stopped)))
        mean = self.mean(torch.stack([loss, *parts.values(), stopped]))
        self._stop = bool(mean[-1] > 0)
        return mean[0], dict(zip(parts, mean[1:-1], strict=True))

    def mean(self, values: Tensor) -> Tensor:
        """Average values over the processes, without gradients."""
        mean = self.accelerator.reduce(values.detach(), "mean")
        assert isinstance(mean, Tensor)
        return mean

    def due(self, every: int) -> bool:
        """Return whether it is time for what is done every `every` steps, and after the last.

        Of several processes it is so for the one that writes: what is due are evaluations.
        """
        return self.writes and self.reached(every)

    def reached(self, every: int) -> bool:
        """Return whether it is time for what all processes do every `every` steps together."""
        return self.done % every == 0 or self.done == self.recipe.steps

    def _save(self) -> None:
        if not self.writes and not self._in_parts:
            return
        groups = {name: average.shadow for name, average in self.averages.items()}
        for learner in self._learners:
            groups |= learner.tensors()
        if self._in_parts:
            groups = {name: fsdp.gathered(group, self.writes) for name, group in groups.items()}
        if self.writes:
            self._checkpoints.save(self.done, groups, self._begun_with)
