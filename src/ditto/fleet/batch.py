"""Many requests: on this process, on others, or on a Ray cluster, with the same results.

>>> requests = [ditto.Request(ditto.Intensity("swell"), seed=seed) for seed in range(3)]
>>> for made in ditto.batch(model, requests, out="clips"):
...     print(made.name)
00000.wav
00001.wav
00002.wav
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from ditto.edit.result import Edit
from ditto.errors import DittoError, OutputError, RequestError, one_line
from ditto.fleet.folder import ClipFolder, digest_of
from ditto.fleet.making import Chunk, Entry, Making, Outcome
from ditto.fleet.together import kind_of
from ditto.jobs import Job
from ditto.models.model import MusicModel, check_model
from ditto.paths import StrPath, printable, shown
from ditto.request import Request
from ditto.result import Result
from ditto.workers import TRIES, work

TOGETHER = 16
"""Requests that a graphics card makes at once by default."""
KEPT = "what is made is kept, run it again later"
PROBLEMS = 20
"""Most faulty requests that are told."""


class Source(Protocol):
    """Entries that need not be in memory: each is read where it stands when its turn comes."""

    def __iter__(self) -> Iterator[tuple[Any, Entry]]:
        """Yield every entry with its position."""
        ...

    def entry(self, position: Any) -> Entry:
        """Return the entry at a position."""
        ...


@dataclass(frozen=True, eq=False)
class Made:
    """What came of a request.

    Attributes:
        number: of the request, from 0.
        name: of the sound file.
        row: of the index: name, digest, seconds, tags, seed, errors, or `error`.
        result: the clip or edit; None where it was written to a folder, or failed.
        error: why it failed; None if it did not.
    """

    number: int
    name: str
    row: Mapping[str, Any]
    result: Result | Edit | None = None
    error: str | None = None


class Listed:
    """Requests that are in memory, as a `Source`."""

    def __init__(self, requests: Iterable[Any]) -> None:
        self._entries: list[Entry] = []
        for number, each in enumerate(requests):
            name, asked = each if isinstance(each, tuple) else (f"{number:05d}.wav", each)
            job = _job(asked, number)
            self._entries.append(
                Entry(str(name), f"request {number}", _text(job), partial(_as_it_is, job))
            )

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        return enumerate(self._entries)

    def entry(self, position: int) -> Entry:
        """Return an entry."""
        return self._entries[position]


def _as_it_is(job: Job, model: MusicModel) -> Job:
    return job


def _job(asked: Any, number: int) -> Job:
    if isinstance(asked, Job):
        return asked
    if isinstance(asked, Request):
        if asked.count > 1:
            raise RequestError(
                f"request {number} asks for {asked.count} clips: give one for each, of seeds "
                "that follow each other"
            )
        return Job(asked)
    if isinstance(asked, Mapping):
        whole = asked if "request" in asked else {"request": asked}
        return Job.of_report(whole, f"request {number}")
    raise RequestError(
        f"request {number} is none: give ditto.Request(…), or a report, not {shown(asked)}"
    )


def _text(job: Job) -> str:
    told = [job.request.to_dict(), job.edit, job.recording, dict(job.asked), job.vary, job.item]
    return repr(told)


class FaultyRequestsError(RequestError):
    """Requests of a batch cannot be made.

    Attributes:
        problems: a line for each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, eq=False)
class Plan:
    """What is missing of a batch, after every request has been checked.

    Attributes:
        source: of the requests.
        missing: (number, position) of those that are to be made.
        chunks: indices into `missing` of those that are made together.
        total: requests in all.
        model: hash of the model.
    """

    source: Source
    missing: Sequence[tuple[int, Any]]
    chunks: Sequence[Sequence[int]]
    total: int
    model: str

    @classmethod
    def of(
        cls,
        source: Source,
        model: MusicModel,
        folder: ClipFolder | None,
        *,
        together: int = 1,
        force: bool = False,
    ) -> "Plan":
        """Check every request, and find out which are missing.

        Raises:
            FaultyRequestsError: with what is wrong with each.
        """
        names: dict[str, str] = {}
        missing: list[tuple[int, Any]] = []
        kinds: list[str | None] = []
        problems: list[str] = []
        total = 0
        for number, (position, entry) in enumerate(source):
            total += 1
            try:
                if entry.name.lower() in names:
                    raise RequestError(
                        f"the name {printable(entry.name)} is that of {names[entry.name.lower()]}"
                    )
                names[entry.name.lower()] = entry.place
                digest = digest_of(entry.text, model.sha256)
                if folder is not None and folder.has(entry.name, digest, entry.inputs, force=force):
                    continue
                job = entry.read(model)
                job.check(model)
                alone = together == 1 or job.edit is not None or job.vary is not None
                kinds.append(None if alone else kind_of(job.request, model))
                missing.append((number, position))
            except DittoError as error:
                problems.append(f"{entry.place}: {one_line(error)}")
                if len(problems) == PROBLEMS:
                    break
        if problems:
            raise FaultyRequestsError(problems)
        return cls(source, missing, _chunks(kinds, together), total, model.sha256)

    def jobs(self) -> Iterator[Chunk]:
        """Yield what is to be made together, read anew."""
        for chunk in self.chunks:
            pairs = [self.missing[i] for i in chunk]
            entries = [self.source.entry(position) for _, position in pairs]
            yield Chunk([number for number, _ in pairs], entries)


def _chunks(kinds: Sequence[str | None], together: int) -> list[list[int]]:
    """Return the indices of requests of one kind, at most so many together, the first first."""
    open_chunks: dict[str, list[int]] = {}
    chunks: list[list[int]] = []
    for i, kind in enumerate(kinds):
        chunk = None if kind is None else open_chunks.get(kind)
        if chunk is None:
            chunks.append(chunk := [])
        chunk.append(i)
        if kind is not None:
            if len(chunk) < together:
                open_chunks[kind] = chunk
            else:
                open_chunks.pop(kind, None)
    return chunks


def make(
    plan: Plan,
    making: Making,
    folder: ClipFolder | None,
    *,
    workers: int = 0,
    ray: str | None = None,
    gpu: bool = False,
    ended: Callable[[], bool] = lambda: False,
) -> Iterator[Made]:
    """Make what a plan lacks, and yield it as it comes.

    Raises:
        OutputError: the index cannot be written, or the disk is full; what is made is kept.
        WorkerError: see `work`.
    """
    place: dict[str, Any] = {"workers": workers, "ray": ray, "gpu": gpu}
    for done in work(plan.jobs(), making, **place, ended=ended):
        lost = Outcome(error=f"its process was killed at each of {TRIES} tries")
        outcomes = [lost] * len(done.job.entries) if done.outcome is None else done.outcome
        chunk = zip(done.job.numbers, done.job.entries, outcomes, strict=True)
        for number, entry, outcome in chunk:
            digest = digest_of(entry.text, plan.model)
            row = {"name": entry.name, "number": number, "digest": digest, **(outcome.row or {})}
            if outcome.full:
                raise OutputError(f"{outcome.error}: {KEPT}")
            if outcome.error is not None:
                row["error"] = outcome.error
            if folder is not None:
                try:
                    folder.add(row, outcome.files)
                except OutputError as error:
                    raise OutputError(f"{error}: {KEPT}") from error
            yield Made(number, entry.name, row, outcome.result, outcome.error)


def batch(
    model: MusicModel,
    requests: Iterable[Request | Job | Mapping[str, Any] | tuple[str, Any]],
    *,
    out: StrPath | None = None,
    workers: int = 0,
    ray: str | None = None,
    together: int | None = None,
    pictures: bool = True,
    compare: bool = True,
    force: bool = False,
    ended: Callable[[], bool] = lambda: False,
) -> Iterator[Made]:
    """Make many requests, and yield each as it is done.

    All are checked before the first is made. With `out` every clip is written as `generate` does,
    and is a line of ``index.jsonl`` there; called again, what is there already is not made again.

    Args:
        model: from `ditto.load`.
        requests: `Request` objects of one clip each, reports as JSON or their `request`; each may
            be a pair with the name of its sound file.
        out: folder of the clips; by default results are returned.
        workers: processes; 0 makes all in this one. A script that asks for some needs
            ``if __name__ == "__main__":``, as everywhere where Python starts processes.
        ray: address of a Ray cluster that makes them, or "auto" for the one that this machine
            belongs to; `out` is then a folder that all its machines see. By default there are as
            many workers as it has cores.
        together: requests of one kind that are made as one batch; by default 1 on a processor,
            which makes them one by one anyway, and 16 on a graphics card.
        pictures: whether a picture of each is drawn.
        compare: whether reports say how much is kept of the clips without control.
        force: whether files in `out` may be replaced.
        ended: asked before every request; True begins no more.

    Raises:
        DittoError: a request cannot be made, with its number; or `out` cannot be written.
    """
    check_model(model)
    source = Listed(requests)
    size = together or (1 if model.device.type == "cpu" else TOGETHER)
    threads = max(1, torch.get_num_threads() // workers) if workers else None
    threads = threads if ray is None else 1
    where = nullcontext() if out is None else ClipFolder.opened(out)
    with where as folder:
        plan = Plan.of(source, model, folder, together=size, force=force)
        making = Making(
            load=partial(_same, model),
            out=None if out is None else Path(out).absolute(),
            here=Path.cwd(),
            pictures=pictures,
            compare=compare,
            threads=threads,
        )
        for made in make(plan, making, folder, workers=workers, ray=ray, ended=ended):
            if made.result is not None:
                object.__setattr__(made.result, "model", model)
            yield made


def _same(model: MusicModel) -> MusicModel:
    return model
