"""How a process makes clips: from a chunk of requests to files or results."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ditto.edit.result import Edit
from ditto.errors import DittoError, WorkerError, one_line
from ditto.fleet.folder import drop, place_for
from ditto.fleet.together import run_together
from ditto.jobs import Job
from ditto.models.model import MusicModel
from ditto.paths import StrPath, printable, reason
from ditto.result import Result

NO_SPACE = (28, 122)
"""Numbers of the errors of a full disk, and of a full quota."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One request of a batch.

    Attributes:
        name: of its sound file.
        place: where it stands, for messages: "line 37".
        text: all that it asks for; what is made from another text is another clip.
        read: returns what is to be made; may read files.
        inputs: names of files that it may read, which are never replaced.
    """

    name: str
    place: str
    text: str
    read: Callable[[MusicModel], Job]
    inputs: tuple[StrPath, ...] = ()


@dataclass(frozen=True)
class Making:
    """What every process needs to make clips.

    Attributes:
        load: returns the model.
        out: folder of clips; None returns results.
        here: folder that relative names of files count from.
        pictures, compare: see `batch`.
        threads: of a process; None leaves them as they are.
    """

    load: Callable[[], MusicModel]
    out: Path | None
    here: Path
    pictures: bool = True
    compare: bool = True
    threads: int | None = None

    def __call__(self) -> "Maker":
        """Load the model, in the process that is to make clips.

        Raises:
            WorkerError: its machine has not the folder that names count from.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
            try:
                os.chdir(self.here)
            except OSError as error:
                raise WorkerError(
                    f"a worker cannot go to {printable(self.here)} ({reason(error)}): begin the "
                    "batch in a folder that all machines see"
                ) from None
        return Maker(self.load(), self)


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes clips in one process."""

    model: MusicModel
    making: Making

    def __call__(self, chunk: "Chunk") -> "list[Outcome]":
        """Make the requests of a chunk, together if they are several."""
        started = time.perf_counter()
        results = self._together(chunk) if len(chunk.entries) > 1 else None
        if results is None:
            return [self._one(entry) for entry in chunk.entries]
        each = (time.perf_counter() - started) / len(results)
        return [
            self._kept(entry, result, each)
            for entry, result in zip(chunk.entries, results, strict=True)
        ]

    def _together(self, chunk: "Chunk") -> "list[Result] | None":
        """Return the results of a chunk; None where one fails, and each is to be made alone."""
        try:
            jobs = [entry.read(self.model) for entry in chunk.entries]
            compare = self.making.compare and jobs[0].compare  # as all of a kind
            return run_together([job.request for job in jobs], self.model, compare=compare)
        except Exception:
            return None

    def _one(self, entry: Entry) -> "Outcome":
        started = time.perf_counter()
        try:
            job = entry.read(self.model)
            made = replace(job, compare=job.compare and self.making.compare).make(self.model)
            item = job.item
        except Exception as error:
            return Outcome(error=told(error))
        return self._kept(entry, made, time.perf_counter() - started, item)

    def _kept(self, entry: Entry, made: Result | Edit, seconds: float, item: int = 0) -> "Outcome":
        """Write a result, or make it ready to be sent."""
        report = made.report(item) if isinstance(made, Result) else made.report()
        request = report["request"] or {}
        row = {
            "seconds": round(report["seconds"], 4),
            "seed": request.get("seed"),
            "tags": request.get("tags"),
            "errors": report["errors"],
            "model": self.model.sha256[:12],
            "took": round(seconds, 3),
        }
        if self.making.out is None:
            return Outcome(row, result=_light(made))
        files: Path | None = None
        try:
            files = place_for(self.making.out)
            path = files / entry.name
            if isinstance(made, Result):
                made.save(path, item, picture=self.making.pictures)
            else:
                made.save(path, picture=self.making.pictures)
        except Exception as error:
            words = told(error)
            if files is not None:
                drop(files)  # which the user need not know of
                words = words.replace(printable(files), printable(self.making.out))
            return Outcome(error=words, full=_no_space(error))
        return Outcome(row, files=files)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Requests that are made together, with their numbers."""

    numbers: Sequence[int]
    entries: Sequence[Entry]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a process says of a request.

    Attributes:
        row: for the index.
        result: without its model.
        files: folder that holds its files.
        error: why it failed.
        full: whether it failed because the disk is full.
    """

    row: Mapping[str, Any] | None = None
    result: Result | Edit | None = None
    files: Path | None = None
    error: str | None = None
    full: bool = False


def told(error: BaseException) -> str:
    """Return an error on one line; of one that is not a user's, its kind too."""
    words = one_line(error)  # pyright: ignore[reportArgumentType]
    return words if isinstance(error, DittoError) else f"{type(error).__name__}: {words}"


def _no_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return True
        error = error.__cause__
    return False


def _light(made: Result | Edit) -> Result | Edit:
    """Return a result without model, to be sent; what is found out with it is found out first."""
    light = copy(made)
    if isinstance(made, Result):
        _ = light.kept  # pyright: ignore[reportAttributeAccessIssue]
        object.__setattr__(light, "without", None)
    object.__setattr__(light, "model", None)
    return light
