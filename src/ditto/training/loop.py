"""The parts of a training run: configs, checkpoints, EMA, logs. `Run` puts them together.

A recipe draws all its randomness from ``(seed, step)``, so a run's state is its tensors and its
step; a killed run that restarts from the last checkpoint repeats the same steps. Checkpoints are
safetensors and JSON, never pickle (``accelerate.save_state`` pickles the optimiser), written to a
temporary folder that is renamed when it is whole.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditto.errors import DataError, OutputError, one_line
from ditto.models.folder import ANY_FAULT
from ditto.paths import (
    StrPath,
    atomic_file,
    atomic_folder,
    output_errors,
    printable,
    remove_leftovers,
)
from ditto.training.fsdp import own, part_like, whole

ConfigT = TypeVar("ConfigT")
Made = TypeVar("Made")
Tensors = dict[str, Tensor]


class SummaryWriter(Protocol):
    """The part of TensorBoard's writer that is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Log one number."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


RECIPES = Path(__file__).with_name("recipes")
"""Folder of the recipes that are installed with the package, ``<name>.json``."""


def recipe_names() -> list[str]:
    """Return the names of the installed recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.json"))


def recipe_path(source: StrPath) -> Path:
    """Return the file of a recipe: an installed one by name ("base-24s"), else the path itself."""
    installed = RECIPES / f"{os.fspath(source)}.json"
    return installed if Path(source).name == str(source) and installed.is_file() else Path(source)


def load_config(source: StrPath, kind: type[ConfigT]) -> ConfigT:
    """Read a recipe's dataclass from its JSON file.

    Args:
        source: the name of an installed recipe, or a file's path.
        kind: the recipe's dataclass.

    Raises:
        DataError: the file is missing, is no JSON object, has a key that the recipe does not know,
            or a value of another type or out of range.
    """
    path = recipe_path(source)
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        known = ", ".join(recipe_names())
        raise DataError(
            f"no config file {printable(path)}: give a .json file, or one of {known}"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read the config {printable(path)}: {one_line(error)}") from None
    except ValidationError as error:
        problems = "; ".join(": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors())
        if any(e["type"] == "unexpected_keyword_argument" for e in error.errors()):
            known = sorted(field.name for field in fields(kind))  # pyright: ignore[reportArgumentType]
            problems += f"; known are {', '.join(known)}"
        raise DataError(
            f"the config {printable(path)} does not fit: {printable(problems)}"
        ) from None


def built(what: str, make: Callable[[], Made]) -> Made:
    """Build what a recipe's settings ask for.

    Args:
        what: the recipe's key, for the message.
        make: builds it.

    Raises:
        DataError: the settings are unknown, or out of range.
    """
    try:
        return make()
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"the config's {what} cannot be built: {printable(one_line(error))}"
        ) from None


def step_seed(seed: int, step: int) -> int:
    """Return the seed of a step's draws.

    torch's CPU generator takes 32 bits of it, so seed and step must share these.

    Runs of two seeds draw alike only where their steps are a million apart.
    """
    return (seed * 1_000_003 + step) % 2**32


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's process-wide CPU generator for a while, then put back its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Checkpoints:
    """Checkpoint folders ``step-00001000/`` under one folder; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, groups: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
        """Write every group as ``<name>.safetensors`` and `state` as JSON; atomic.

        Raises:
            OutputError: it cannot be written; the checkpoints before it stay.
        """
        remove_leftovers(self.folder)
        for half in self.folder.glob(".step-*.tmp"):  # of a version that named them so
            shutil.rmtree(half, ignore_errors=True)
        with atomic_folder(self.place(step)) as temporary:
            for name, tensors in groups.items():
                save_file(
                    {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()},
                    temporary / f"{name}.safetensors",
                )
            whole = json.dumps({"step": step, **state})
            (temporary / "state.json").write_text(whole, encoding="utf-8")
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)

    def place(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> tuple[int, dict[str, Tensors], dict[str, Any]] | None:
        """Return step, groups and state of the newest whole checkpoint, or None.

        Raises:
            DataError: it is damaged.
        """
        found = self._all()
        if not found:
            return None
        try:
            state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
            groups = {file.stem: load_file(file) for file in found[-1].glob("*.safetensors")}
            if state["step"] != int(found[-1].name.removeprefix("step-")):
                raise ValueError("its step is not the folder's")
            return state["step"], groups, state
        except (*ANY_FAULT, RecursionError) as e:
            raise damaged_checkpoint(found[-1], e) from None

    def newest(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Return groups and state of the newest whole checkpoint.

        Raises:
            DataError: there is none.
        """
        found = self.latest()
        if found is None:
            raise DataError(f"the run {str(self.folder)!r} has no checkpoint yet: train longer")
        return found[1:]

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def damaged_checkpoint(folder: Path, error: Exception) -> DataError:
    """Return what is to be said of a checkpoint that cannot be gone on from."""
    return DataError(
        f"the checkpoint {printable(folder)} is damaged ({one_line(error)}): remove it, and the "
        "run goes on from the one before, or afresh"
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's state as flat tensors ``"<parameter index>.<key>"``.

    Hyperparameters stay with the recipe.
    """
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


class Ema:
    """Exponential moving average of the parameters that are trained.

    It is warmed up, so that early weights are forgotten.

    Args:
        model: its parameters, as they are now, are the average's first value.
        decay: of one step.
        every: steps between updates.
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 1) -> None:
        self.decay, self.every = decay, every
        self.shadow: Tensors = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's parameters after step `step` (from 0), if an update is due."""
        if (step + 1) % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) ** self.every
        parameters = dict(model.named_parameters())
        current = [own(parameters[name].detach()) for name in self.shadow]
        torch._foreach_lerp_([own(each) for each in self.shadow.values()], current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, tensors: Tensors) -> None:
        """Take over saved averages."""
        for name, value in self.shadow.items():
            value.copy_(part_like(tensors[name], value))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the averages into `model` (another instance of the same architecture).

        Where they lie in parts, all processes must do so together.
        """
        parameters = dict(model.named_parameters())
        for name, average in self.shadow.items():
            parameters[name].copy_(whole(average))


DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
}
"""Shapes of the learning rate's fall, as functions of the share of it that is left."""


def warmup_stable_decay(
    step: int, *, steps: int, warmup: int, decay: float, shape: str = "linear"
) -> float:
    """Compute the learning rate's factor: linear warm-up, constant, then a fall to 0.

    It falls over the last `decay` share of `steps`.

    Unlike a cosine it lets a run be extended: only the last stretch depends on where it ends.
    """
    start = steps * (1 - decay)
    falling = 1.0 if step < start else max(0.0, (steps - step) / max(steps - start, 1))
    return min(1.0, (step + 1) / max(warmup, 1)) * DECAYS[shape](falling)


class RunLog:
    """``log.jsonl`` (one object a logged step) and TensorBoard.

    Both are cut back to the step that a run resumes from.
    """

    def __init__(self, folder: Path, resume_step: int, writer: SummaryWriter | None) -> None:
        self.path, self.writer, self.started = folder / "log.jsonl", writer, time.monotonic()
        kept = [row for row in read_log(self.path) if row["step"] <= resume_step]
        self.before = float(kept[-1]["seconds"]) if kept else 0.0
        with atomic_file(self.path, force=True) as temporary:
            text = "".join(json.dumps(row) + "\n" for row in kept)
            temporary.write_text(text, encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        """Log numbers at `step`, with the training seconds so far."""
        row = {"step": step, "seconds": round(self.before + time.monotonic() - self.started, 1)}
        row |= {name: float(f"{value:.6g}") for name, value in values.items()}
        with output_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self.writer is not None:
            self.writer.close()


class NoLog(RunLog):
    """The log of a process that writes none."""

    def __init__(self) -> None:
        self.path, self.writer = Path(os.devnull), None

    def write(self, step: int, **values: float) -> None:
        """Do nothing."""


def tensorboard(out: Path, start: int) -> SummaryWriter:
    """Open a writer to ``tensorboard/`` under `out`, where events beyond step `start` are void."""
    # it imports slowly, and needs a package that only training does
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)


def read_log(path: Path) -> list[dict[str, float]]:
    """Read the rows of a ``log.jsonl``, without a last line that a kill cut short."""
    rows: list[dict[str, float]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def start_run(out: Path, config: object) -> None:
    """Make a run's folder and pin its config: a later call must bring the same one, `steps` apart.

    A key that the recipe has gained since then counts as its default.

    Raises:
        OutputError: if the folder cannot be made or holds a run with another config.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the run folder {str(out)!r}: {error.strerror}") from None
    path = out / "config.json"
    values = json.loads(json.dumps(asdict(config)))  # pyright: ignore[reportArgumentType]
    if path.exists():
        old = json.loads(json.dumps(asdict(load_config(path, type(config)))))  # pyright: ignore[reportArgumentType]
        changed = [key for key in values if key != "steps" and values[key] != old[key]]
        if changed:
            raise OutputError(
                f"{str(out)!r} holds a run with another {', '.join(changed)}: choose another folder"
            )
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Meter:
    """A smoothed loss for people to watch."""

    def __init__(self) -> None:
        self.smooth = math.nan

    def add(self, value: float) -> None:
        """Take in one value."""
        self.smooth = value if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * value


def progress_steps(
    start: int, stop: int, label: str, meter: Meter, show: bool = True
) -> Iterator[int]:
    """Yield steps `start` … `stop` − 1 with a progress bar: the meter's loss, and the time left."""
    columns: Iterable[Any] = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show, refresh_per_second=2) as bar:
        task = bar.add_task(label, total=stop, completed=start, loss="-")
        for step in range(start, stop):
            yield step
            loss = "-" if math.isnan(meter.smooth) else f"{meter.smooth:.4f}"
            bar.update(task, completed=step + 1, loss=loss)
