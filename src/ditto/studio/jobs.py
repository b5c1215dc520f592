"""One worker, one bounded queue: every wish of every user is carried out here, in turn."""

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditto.errors import DittoError, RequestError

if TYPE_CHECKING:
    from ditto.optimize import Step

QUEUE = 16
UNWATCHED_SECONDS = 60.0
"""A job that nobody has asked about for so long is stopped."""
KEPT_JOBS = 512
"""Jobs that are known; those that are over are forgotten first, and no others."""
POLL_SECONDS = 0.1

NOT_BEGUN = "stopped before it began"
BROKEN = "something went wrong in the studio: its log says what"

log = logging.getLogger("ditto.studio")


@dataclass(eq=False)
class Job:
    """A wish on its way.

    Attributes:
        work: what is done; it fills in `clips` and calls `step`.
        id: unguessable name.
        state: "queued", "running", "done", "stopped" (with the best so far) or "failed".
        phase: what is being done, in words.
        line: an error, or a note about the result.
        i, total: iterations done and to do, of all windows.
        part: "2/5" where there are several windows.
        losses: best loss at each iteration.
        preview: address of the sound so far.
        clips: results, as the page shows them.
        folders: of the store that it needs until it is over.
        more: what else the work gives back.
    """

    work: Callable[["Job"], None]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: str = "queued"
    phase: str = ""
    line: str = ""
    i: int = 0
    total: int = 0
    part: str = ""
    losses: list[float] = field(default_factory=list)
    preview: str = ""
    clips: list[dict[str, Any]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin to count time."""
        self.watched, self.began, self._stop = time.monotonic(), 0.0, False

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "stopped", "failed")

    def stop(self) -> None:
        """End at the next iteration, and keep the best so far."""
        self._stop = True

    def stopping(self, step: "Step | None" = None) -> bool:
        """Tell whether the work should end; for `ditto.run` as its ``stop``."""
        return self._stop or time.monotonic() - self.watched > UNWATCHED_SECONDS

    def step(self, step: "Step", *, window: int = 0, windows: int = 1, total: int) -> None:
        """Note an iteration.

        Args:
            step: of the optimisation.
            window: of an edit, from 0.
            windows: of the edit.
            total: iterations of one window.
        """
        self.began = self.began or time.monotonic()
        self.i, self.total = window * total + step.i + 1, windows * total
        self.part = f"{window + 1}/{windows}" if windows > 1 else ""
        self.losses.append(float(f"{step.best_loss.mean().item():.4g}"))

    def left(self) -> float | None:
        """Return the seconds that the iterations to come will take, once that can be said."""
        done = len(self.losses)
        if done < 2 or self.state != "running":
            return None
        return (time.monotonic() - self.began) / (done - 1) * max(self.total - self.i, 0)

    def page(self, before: int = 0) -> dict[str, Any]:
        """Return what the page shows of it.

        Args:
            before: jobs that come first.
        """
        left = self.left()
        return {
            "id": self.id,
            "state": self.state,
            "phase": self.phase,
            "line": self.line,
            "before": before,
            "i": self.i,
            "total": self.total,
            "part": self.part,
            "left": None if left is None else round(left, 1),
            "losses": list(self.losses),
            "preview": self.preview,
            "clips": list(self.clips),
            "over": self.over,
        }


class Jobs:
    """The queue and its worker."""

    def __init__(self, size: int = QUEUE, clean: Callable[[str], str] = str) -> None:
        """Start the worker.

        Args:
            size: jobs that may wait.
            clean: makes a message fit to be shown.
        """
        self.size, self.clean = size, clean
        self._waiting: deque[Job] = deque()
        self._known: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._run, name="studio", daemon=True)
        self._worker.start()

    @property
    def asked(self) -> bool:
        """Whether there ever was a job."""
        return bool(self._known)

    def folders(self) -> list[Path]:
        """Return the folders that jobs need which are not over."""
        return [one for job in list(self._known.values()) if not job.over for one in job.folders]

    def submit(self, work: Callable[[Job], None], *needs: Path) -> Job:
        """Queue some work.

        Args:
            work: what is done.
            needs: folders of the store.

        Raises:
            RequestError: the queue is full.
        """
        with self._changed:
            if len(self._waiting) >= self.size:
                raise RequestError(
                    f"the queue is full, {self.size} jobs are waiting: try again in a minute"
                )
            job = Job(work, folders=list(needs))
            self._waiting.append(job)
            self._known[job.id] = job
            over = [name for name, one in self._known.items() if one.over]
            for old in over[: max(len(self._known) - KEPT_JOBS, 0)]:
                del self._known[old]
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job at its next iteration; one that waits leaves the queue at once."""
        job.stop()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.line, job.state = NOT_BEGUN, "failed"

    def find(self, name: str) -> Job | None:
        """Return a job by its name."""
        return self._known.get(name)

    def before(self, job: Job) -> int:
        """Return how many jobs come before a waiting one, the running one included."""
        waiting = list(self._waiting)
        return waiting.index(job) + 1 if job in waiting else 0

    def look(self, job: Job) -> dict[str, Any]:
        """Return what the page shows of a job, which is thereby watched."""
        job.watched = time.monotonic()
        return job.page(self.before(job))

    async def watch(
        self, job: Job, gone: Callable[[], Awaitable[bool]] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield what the page shows of a job whenever it changes, until it is over.

        Args:
            job: that is waited for.
            gone: tells whether whoever waits has left; the job is then stopped.
        """
        shown: dict[str, Any] = {}
        while True:
            over = job.over
            now = self.look(job)
            if now != shown:
                shown = now
                yield now
            if over:
                return
            if gone is not None and await gone():
                self.cancel(job)
            await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop all jobs and the worker."""
        with self._changed:
            self._closed = True
            for job in self._known.values():
                job.stop()
            self._changed.notify()
        self._worker.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
            self._carry_out(job)

    def _carry_out(self, job: Job) -> None:
        if job.stopping():
            job.line, job.state = NOT_BEGUN, "failed"
            return
        from ditto.optimize import GradientError  # PyTorch, which the page does not wait for

        job.state, state = "running", "done"
        try:
            job.work(job)
            state = "stopped" if job.stopping() and job.i < job.total else "done"
        except (DittoError, GradientError) as error:
            job.line, state = self.clean(str(error)), "failed"
        except Exception:
            log.exception("a job failed")
            job.line, state = BROKEN, "failed"
        job.phase, job.state = "", state
