"""Jobs on processes: all are done, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ditto.errors import WorkerError
from ditto.workers import _died, _own_sigterm, work


def square() -> Callable[[int], tuple[int, int]]:
    return lambda n: (n * n, os.getpid())


def deadly(folder: Path) -> Callable[[int], int]:
    """Job 3 kills its process the first two times, job 5 each time."""

    def do(n: int) -> int:
        deaths = len(list(folder.glob(f"{n} *")))
        if n == 5 or (n == 3 and deaths < 2):
            (folder / f"{n} {os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    return do


def refuse() -> Callable[[int], int]:
    raise ValueError("cannot load")


def die() -> Callable[[int], int]:
    os._exit(1)


class Deadly:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        return deadly(self.folder)


def refuse_three() -> Callable[[int], int]:
    def do(n: int) -> int:
        if n == 3:
            raise ValueError("not three")
        return n

    return do


class OddError(Exception):
    """An error that cannot be read again, as those of some libraries."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{words} ({code})")


def refuse_oddly() -> Callable[[int], int]:
    raise OddError(404, "not there")


def refuse_all_oddly() -> Callable[[int], int]:
    def do(n: int) -> int:
        raise OddError(n, "not this")

    return do


@pytest.mark.parametrize("workers", [0, 2])
def test_every_job_is_done_once_and_jobs_are_taken_when_they_are_needed(workers: int) -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for n in range(20):
            taken.append(n)
            yield n

    done, ahead = {}, []
    for each in work(jobs(), square, workers=workers):
        done[each.job] = each.outcome
        ahead.append(len(taken) - len(done))
    assert {n: outcome[0] for n, outcome in done.items() if outcome} == {
        n: n * n for n in range(20)
    }
    processes = {outcome[1] for outcome in done.values() if outcome}
    assert processes == {os.getpid()} if not workers else os.getpid() not in processes
    assert max(ahead) <= 2 * max(workers, 1)


def test_a_killed_processs_job_is_done_again_and_given_up_at_the_third(tmp_path: Path) -> None:
    done = list(work(range(8), Deadly(tmp_path), workers=2))
    assert sorted(each.job for each in done) == list(range(8))
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["3", "3", "5", "5", "5"]
    assert [each.job for each in done if each.killed] == [5]
    assert all(each.outcome == each.job for each in done if not each.killed)


class Disaster:
    """Job 4 kills its process and the three idle ones; jobs 0 to 3 wait for four to have begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        def do(n: int) -> int:
            if n < 4:
                (self.folder / str(os.getpid())).touch()
                while len(list(self.folder.iterdir())) < 4:
                    time.sleep(0.01)
            elif len(list(self.folder.iterdir())) == 4:
                (self.folder / "killed").touch()
                time.sleep(0.5)  # the others are idle now
                for path in self.folder.iterdir():
                    if path.name not in {"killed", str(os.getpid())}:
                        os.kill(int(path.name), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        return do


def test_idle_processes_that_are_killed_with_a_jobs_own_do_not_count(tmp_path: Path) -> None:
    done = list(work(range(5), Disaster(tmp_path), workers=4))
    assert sorted(each.outcome or 0 for each in done) == list(range(5))
    assert not any(each.killed for each in done)


def test_errors_are_the_callers(tmp_path: Path) -> None:
    for workers in (0, 1):
        with pytest.raises(ValueError, match="cannot load"):
            list(work(range(2), refuse, workers=workers))
        with pytest.raises(ValueError, match="not three"):
            list(work(range(5), refuse_three, workers=workers))
    with pytest.raises(WorkerError, match="before they have begun"):
        list(work(range(2), die, workers=1))


@pytest.mark.parametrize(
    ("begin", "words"),
    [(refuse_oddly, r"not there \(404\)"), (refuse_all_oddly, r"not this \(7\)")],
)
def test_an_error_that_cannot_be_sent_is_told(
    begin: Callable[[], Callable[[int], int]], words: str
) -> None:
    with pytest.raises(WorkerError, match=f"^a process failed: OddError: {words}"):
        list(work([7], begin, workers=1))


def test_what_ray_calls_a_death() -> None:
    errors = pytest.importorskip("ray.exceptions", reason="Ray is not installed")

    class OutOfMemoryError(Exception):
        """As PyTorch's: a job's own."""

    for error, death in (
        (errors.ActorDiedError(), True),
        (errors.NodeDiedError("gone"), True),
        (errors.OutOfMemoryError("killed by the monitor"), True),
        (errors.OwnerDiedError("00", None, ""), True),
        (errors.ObjectLostError("00", None, ""), True),
        (OutOfMemoryError(), False),
        (errors.RaySystemError("odd"), False),
    ):
        future: Future[None] = Future()
        future.set_exception(error)
        assert _died(future) is death, error


def test_a_cluster_that_cannot_be_had_leaves_sigterm_as_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with suppress(RuntimeError), _own_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_runs_is_finished_and_nothing_else_begun() -> None:
    done: list[int] = []
    for each in work(range(100), square, workers=1, ended=lambda: len(done) >= 3):
        done.append(each.job)
    assert done == [0, 1, 2]


ALL = """
from ditto.interrupts import waiting
from ditto.workers import _died, _own_sigterm, work
from tests.test_workers import square

with waiting() as stopped:
    print(*[done.job for done in work(range(4), square, workers=2, ended=lambda: bool(stopped))])
"""


def begins(process: psutil.Process) -> bool:
    """Tell whether a process is a worker's, in which Python runs."""
    if "spawn_main" not in " ".join(process.cmdline()):
        return False
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigCgt"))]
    return any(mask >> signal.SIGINT - 1 & 1 for mask in masks)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="signals are seen in /proc")
def test_a_terminals_ctrl_c_ends_no_process_that_has_yet_to_begin() -> None:
    """A terminal sends it to all of a command's processes, also to those that still import."""
    command = subprocess.Popen(
        [sys.executable, "-c", ALL],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process, last = psutil.Process(command.pid), time.monotonic() + 60
    while not any(map(begins, process.children())):
        assert time.monotonic() < last
    time.sleep(0.05)  # into what it imports
    os.killpg(command.pid, signal.SIGINT)
    assert command.communicate(timeout=60) == ("\n", "")
    assert command.returncode == 0


def test_no_process_is_left_when_the_work_is_left() -> None:
    running = work(range(100), square, workers=2)
    processes = {
        each.outcome[1] for _, each in zip(range(6), running, strict=False) if each.outcome
    }
    running.close()  # pyright: ignore[reportAttributeAccessIssue]
    time.sleep(0.1)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
