"""Jobs that processes do side by side: here, on this machine, or on a Ray cluster, by one path.

A job and what comes of it are anything that can be pickled. What every process loads once is
loaded by `begin`, which returns the function that does the jobs::

    for done in work(jobs, begin, workers=2):
        print(done.job, done.outcome)

A process that is killed costs nothing: another takes its place, and its job is done again. Only a
job whose processes are killed each time is given up.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ditto.errors import WorkerError, one_line

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Begin = Callable[[], Callable[[Job], Outcome]]

DEATHS = 3
"""Processes in a row that may die before they have begun."""
TRIES = 3
"""Processes that a job may cost. Two may be lost with a machine whose end is noticed late: the
job's own, and another one there that is given the job next."""
CONNECT_SECONDS = 10.0
ROOM_SECONDS = 30.0
"""Until then the nodes of a cluster that has just been started may be joining."""
RAY_DEATHS = {"NodeDiedError", "ObjectLostError", "OutOfMemoryError", "RayActorError"}
"""Names of Ray's errors, or what they are kinds of, of a worker that was killed (by Ray's monitor
of memory, too), or whose machine was, with what it had made."""


@dataclass(frozen=True)
class Done(Generic[Job, Outcome]):
    """A job that is done.

    Attributes:
        job: what was asked.
        outcome: what came of it; None where its process was killed at every try.
        killed: whether it was, so that it was given up.
    """

    job: Job
    outcome: Outcome | None
    killed: bool = False


class Worker(Protocol):
    """A process that does one job at a time, or this one."""

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job."""
        ...

    def outcome(self, future: Future[Any]) -> Any:
        """Return what came of a job that is done, or raise its error."""
        ...

    def ready(self) -> Future[Any]:
        """Return what is done once everything is loaded, with the error if it could not be."""
        ...

    def close(self, *, kill: bool = False) -> None:
        """End the process, at once or when it is idle."""
        ...


def importing(folder: Path, begin: Callable[[], Outcome]) -> Callable[[], Outcome]:
    """Have a process import from a folder, too, before it loads `begin`, which may come from there.

    A process of Ray's imports what is installed, and little else.
    """
    return partial(_begin_importing, str(folder), pickle.dumps(begin))


def _begin_importing(folder: str, begin: bytes) -> Any:
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return pickle.loads(begin)()


def work(
    jobs: Iterable[Job],
    begin: Begin[Job, Outcome],
    *,
    workers: int = 0,
    ray: str | None = None,
    gpu: bool = False,
    ended: Callable[[], bool] = lambda: False,
) -> Iterator[Done[Job, Outcome]]:
    """Do jobs, and yield each as it is done; only those that are being done are held in memory.

    Args:
        jobs: taken when there is a process for the next.
        begin: loads what every process needs, and returns what does a job. Its errors, and those
            of a job, end the work and are raised here.
        workers: processes; 0 does everything in this one, and on a cluster is as many as it has
            cores, or GPUs.
        ray: address of a Ray cluster, or "auto" for the one that this machine belongs to.
        gpu: whether each worker of the cluster needs a GPU.
        ended: asked before every job; True takes no more, and ends when what runs is done.

    Raises:
        WorkerError: processes die before they have begun, or there is no such cluster.
    """
    with ExitStack() as stack:
        make: Callable[[], Worker]
        if ray is None:
            make = partial(ThisProcess if not workers else Process, begin)
        else:
            cluster = stack.enter_context(closing(Cluster(ray, begin, gpu=gpu)))
            make, workers = cluster.worker, workers or cluster.room
        crew = stack.enter_context(closing(_Crew(make, max(workers, 1))))
        yield from crew.work(iter(jobs), ended)


class _Crew:
    """Workers, those that load, and what each of the others does."""

    def __init__(self, make: Callable[[], Worker], size: int) -> None:
        self.make, self.size = make, size
        self.busy: dict[Future[Any], tuple[Worker, Any, int]] = {}
        self.loading: dict[Future[Any], Worker] = {}
        self.asked: dict[Future[Any], Worker] = {}
        self.idle: list[Worker] = []
        self.waiting: deque[tuple[Any, int]] = deque()
        self.deaths = 0
        self.over = False

    def work(self, jobs: Iterator[Any], ended: Callable[[], bool]) -> Iterator[Done[Any, Any]]:
        """See `work`."""
        while True:
            if ended():
                jobs, self.waiting = iter(()), deque()
            room = self.size - len(self.waiting)
            self.waiting.extend((job, 0) for job in islice(jobs, max(room, 0)))
            while self.waiting and self.idle:
                worker, (job, deaths) = self.idle.pop(), self.waiting.popleft()
                self.busy[worker.submit(job)] = worker, job, deaths
            self._load()
            if not self.waiting and not self.busy:
                break
            wait([*self.busy, *self.loading, *self.asked], return_when=FIRST_COMPLETED)
            self._see_loaded()
            self._see_asked()
            yield from self._finished()
        self.over = True

    def _finished(self) -> Iterator[Done[Any, Any]]:
        """Yield the jobs that are done; one whose process was killed waits again."""
        done = [future for future in self.busy if future.done()]
        for future in done:
            worker, job, deaths = self.busy.pop(future)
            if not _died(future):
                self.idle.append(worker)
                yield Done(job, worker.outcome(future))
                continue
            worker.close(kill=True)
            if deaths + 1 == TRIES:
                yield Done(job, None, killed=True)
            else:
                self.waiting.appendleft((job, deaths + 1))
        if any(map(_died, done)):
            self._ask_idle()

    def _load(self) -> None:
        """Begin processes for what waits: of ten for one job nine would load in vain."""
        coming = len(self.loading) + len(self.asked)
        count = len(self.busy) + coming + len(self.idle)
        for _ in range(min(self.size - count, len(self.waiting) - coming)):
            worker = self.make()
            self.loading[worker.ready()] = worker

    def _ask_idle(self) -> None:
        """Ask idle workers whether they live: what killed another may have killed them."""
        self.asked |= {worker.ready(): worker for worker in self.idle}
        self.idle = []

    def _see_asked(self) -> None:
        """Take back the workers that have answered."""
        for future in [future for future in self.asked if future.done()]:
            worker = self.asked.pop(future)
            if _died(future):
                worker.close(kill=True)
            else:
                self.idle.append(worker)

    def _see_loaded(self) -> None:
        """Take in the processes that have begun.

        Raises:
            WorkerError: several in a row were killed before.
        """
        for future in [future for future in self.loading if future.done()]:
            worker = self.loading.pop(future)
            if not _died(future):
                self.idle.append(worker)
                worker.outcome(future)
                self.deaths = 0
                continue
            worker.close(kill=True)
            self.deaths += 1
            if self.deaths == DEATHS:
                raise WorkerError(
                    "processes die before they have begun: give fewer --workers (workers=…), or "
                    "look for what kills them, such as a lack of memory"
                )

    def close(self) -> None:
        """End all processes: when they are idle after the last job, at once after an error."""
        coming = [*self.loading.values(), *self.asked.values()]
        for worker in [*self.idle, *coming, *(worker for worker, *_ in self.busy.values())]:
            worker.close(kill=not self.over or worker not in self.idle)


def _died(future: Future[Any]) -> bool:
    """Tell whether a worker was killed at it."""
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return True
    kinds = (kind for kind in type(error).__mro__ if kind.__module__.startswith("ray."))
    return any(kind.__name__ in RAY_DEATHS for kind in kinds)


class ThisProcess:
    """No process of its own: jobs are done when they are begun."""

    def __init__(self, begin: Begin[Any, Any]) -> None:
        self._do = begin()

    def submit(self, job: Any) -> Future[Any]:
        """Do a job."""
        future: Future[Any] = Future()
        try:
            future.set_result(self._do(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def outcome(self, future: Future[Any]) -> Any:
        """Return what came of a job."""
        return future.result()

    def ready(self) -> Future[Any]:
        """Return at once."""
        future: Future[Any] = Future()
        future.set_result(None)
        return future

    def close(self, *, kill: bool = False) -> None:
        """Do nothing."""


class Process:
    """A process of this machine: an executor of one, so that it is known whose job was killed.

    What goes there and back is pickled here: multiprocessing's own way has tensors share memory
    with their sender, whose end would be that of both.
    """

    def __init__(self, begin: Begin[Any, Any]) -> None:
        self._executor = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_process,
            initargs=(pickle.dumps(begin),),
        )

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job."""
        return self._submit(_do, pickle.dumps(job))

    def outcome(self, future: Future[Any]) -> Any:
        """Return what came of a job."""
        return pickle.loads(future.result())

    def ready(self) -> Future[Any]:
        """Begin the process, or ask one that has begun, and wait for what it loads."""
        with _ctrl_c_held():  # the process begins so, and is not ended before it ignores it
            return self._submit(_loaded)

    def _submit(self, do: Callable[..., bytes], *words: bytes) -> Future[Any]:
        try:
            return self._executor.submit(do, *words)
        except BrokenProcessPool as error:  # it was killed while it was idle
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def close(self, *, kill: bool = False) -> None:
        """End the process."""
        if kill:
            # Python 3.14 has `kill_workers` for it.
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Have Ctrl-C wait for the block's end, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_state: dict[str, Any] = {}
"""Of a worker process: what does its jobs, or the error of loading it."""


def _begin_process(begin: bytes) -> None:
    """Load what the jobs need; Ctrl-C is the first process's to see, whose end is this one's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # processes of its own need not begin with it held
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _begin(begin)


def _begin(begin: bytes) -> None:
    try:
        _state["do"] = pickle.loads(begin)()
    except Exception as error:
        _state["error"] = _portable(error)


def _portable(error: Exception) -> Exception:
    """Return an error as another process can read it; else it would take this one for killed."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return WorkerError(f"a process failed: {type(error).__name__}: {one_line(error)}")
    return error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _loaded() -> bytes:
    if "error" in _state:
        raise _state["error"]
    return pickle.dumps(None)


def _do(job: bytes) -> bytes:
    try:
        return pickle.dumps(_state["do"](pickle.loads(job)))
    except Exception as error:
        sent = _portable(error)
    raise sent


class Cluster:
    """A Ray cluster, to which this process is connected until it is closed.

    Attributes:
        room: workers that it has cores, or GPUs, for.
    """

    def __init__(self, address: str, begin: Begin[Any, Any], *, gpu: bool = False) -> None:
        """Connect.

        Args:
            address: of its head, or "auto".
            begin: see `work`.
            gpu: whether each worker needs one.

        Raises:
            WorkerError: there is no such cluster, or it has no room.
        """
        import ray  # an extra

        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            try:
                _reach(address)  # Ray itself would try for minutes
                with _own_sigterm():
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise WorkerError(
                    f"there is no Ray cluster at {address} ({one_line(error)[:80]}): start one by "
                    "`ray start --head`, or give the address of its head"
                ) from None
        kind = "GPU" if gpu else "CPU"
        last = time.monotonic() + ROOM_SECONDS
        while not (room := int(ray.cluster_resources().get(kind, 0))) and time.monotonic() < last:
            time.sleep(0.5)
        self.room = room
        if not self.room:
            self.close()
            raise WorkerError(f"the Ray cluster at {address} has no {kind}: start a node with one")
        # Spread, so that the loss of a machine costs as little as it can.
        place = {"num_cpus": 1, "num_gpus": int(gpu), "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(**place)(_RayActor)
        self._begin = ray.put(pickle.dumps(begin))

    def worker(self) -> "RayWorker":
        """Return a new worker, which begins when the cluster has room."""
        return RayWorker(self._actor.remote(self._begin), self._ray)

    def close(self) -> None:
        """Disconnect."""
        if self._own:
            self._ray.shutdown()


def _reach(address: str) -> None:
    """Connect to the head of a cluster, and hang up.

    Raises:
        OSError: nobody answers.
        ValueError: it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address is HOST:PORT, or auto")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
        pass


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back what SIGTERM does after the block, in which Ray would have it end at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class _RayActor:
    """A process of the cluster."""

    def __init__(self, begin: bytes) -> None:
        _begin(begin)

    def loaded(self) -> bytes:
        return _loaded()

    def do(self, job: bytes) -> bytes:
        return _do(job)


@dataclass(frozen=True, eq=False)
class RayWorker:
    """A process of a Ray cluster."""

    actor: Any
    ray: Any

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job."""
        return self.actor.do.remote(pickle.dumps(job)).future()

    def outcome(self, future: Future[Any]) -> Any:
        """Return what came of a job."""
        try:
            return pickle.loads(future.result())
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def ready(self) -> Future[Any]:
        """Wait for what is loaded."""
        return self.actor.loaded.remote().future()

    def close(self, *, kill: bool = False) -> None:
        """End the process."""
        self.ray.kill(self.actor)
