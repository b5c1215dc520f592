"""A studio before it is there: its page is drawn while PyTorch and the model are still coming.

Nothing here imports PyTorch. What needs a model waits for it, in threads of its own.
"""

import threading
import time
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ditto.imports import importing
from ditto.studio.facts import Facts
from ditto.studio.files import Store
from ditto.studio.jobs import QUEUE, Job, Jobs

if TYPE_CHECKING:
    from ditto.studio.work import Studio

QUIET_SECONDS = 2.0
"""After the model came: what the first result is drawn with is imported then, unless somebody waits
for a result already.
"""

Make = Callable[[Store, Jobs], "Studio"]


class Front:
    """What the page and its server talk to.

    Attributes:
        store: of users' files.
        jobs: the queue.
        early: whether the page can be drawn before the model is there.
    """

    def __init__(self, make: Make, queue: int = QUEUE, facts: Facts | None = None) -> None:
        """Begin with nothing but the queue.

        Args:
            make: imports PyTorch, loads the model and returns the studio; called once.
            queue: jobs that may wait.
            facts: of the model, if they are known already.
        """
        self.store = Store()
        self.jobs = Jobs(queue, self.store.clean)
        self.early = facts is not None
        self._facts, self._making = facts, make
        self._made: Studio | BaseException | None = None
        self._beginning, self._ended = threading.Lock(), threading.Event()
        self._begun = False

    def begin(self) -> None:
        """Begin to make the studio, in a thread, unless that has begun."""
        with self._beginning:
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._make, name="model", daemon=True).start()

    def _make(self) -> None:
        try:
            with importing():
                self._made = self._making(self.store, self.jobs)
        except BaseException as error:
            self._made = error
        finally:
            self._ended.set()
        time.sleep(QUIET_SECONDS)
        if self.fault is None and not self.jobs.asked:
            import_module("matplotlib.image")

    @property
    def over(self) -> bool:
        """Whether the studio is there, or never will be."""
        return self._ended.is_set()

    @property
    def fault(self) -> BaseException | None:
        """Why there will be no studio; None as long as nothing went wrong."""
        return self._made if isinstance(self._made, BaseException) else None

    @property
    def studio(self) -> "Studio":
        """The studio, as soon as it is there.

        Raises:
            ModelError: its model cannot be loaded.
        """
        self.begin()
        self._ended.wait()
        if isinstance(self._made, BaseException):
            raise self._made
        assert self._made is not None
        return self._made

    @cached_property
    def facts(self) -> Facts:
        """What the page says of the model; waits for it where that is not known yet."""
        return self._facts or Facts.of(self.studio)

    def wish(self, what: str, values: dict[str, Any], *, compare: bool = True) -> Job:
        """Queue a wish as soon as there is a studio, see `Studio.wish`."""
        return self.studio.wish(what, values, compare=compare)

    def close(self) -> None:
        """Stop all work and remove all files."""
        self.jobs.close()
        self.store.close()
