"""Tasks that give DITTO all the help that DITTO-2 has, or any method a pull of another paper's.

DITTO-2 as a user gets it differs from DITTO in more than its surrogate: K, Adam, the start, how far
x_T may go, the pull of its statistics and what is heard are its controls' own. Where DITTO has them
too, a comparison is of the surrogate alone.
"""

from dataclasses import dataclass, replace

from benchmarks.tasks import Bench, Task
from benchmarks.variants import DITTO, Variant
from ditto.controls.base import Control
from ditto.controls.text import Text
from ditto.methods.ditto2 import STATISTICS, Ditto2
from ditto.request import Request

HELPED_DITTO = DITTO.with_(name="DITTO helped", proxies=True)
"""With `Helped` tasks; without checkpointing, and hearing by proxies as DITTO-2 does."""


@dataclass(frozen=True)
class Helped(Task):
    """A task of one control, or of a region, with the settings that DITTO-2 would choose."""

    @classmethod
    def of(cls, task: Task) -> "Helped":
        """Return another task with this help."""
        return cls(f"{task.name}, helped", task.make, task.targets, task.together, task.texts)

    def request(self, bench: Bench, variant: Variant, i: int, *more: Control) -> Request:
        """Return clip i's request."""
        request = super().request(bench, variant, i, *more)
        controls = request.controls
        assert request.method is not None
        assert len(controls) < 2  # several have weights, which a pull beside them would change
        alike = Ditto2().suited(controls)
        iterations = request.iterations or alike.default_iterations(controls)
        settings = {"candidates": alike.candidates, **alike.adam(iterations)}
        own = {name: value for name, value in settings.items() if name not in bench.overrides}
        if alike.regulariser and request.control is not None:
            pulls = alike.regulariser * STATISTICS
            if alike.tag_pull:
                pulls += alike.tag_pull * Text(request.tags.caption())
            controls = (request.control + pulls,)
        method = replace(request.method, **own)
        return replace(request, controls=controls, iterations=iterations, method=method)


@dataclass(frozen=True)
class Pulled(Task):
    """A task with a pull beside its control.

    Attributes:
        pull: with its weight.
    """

    pull: Control | None = None

    @classmethod
    def of(cls, task: Task, pull: Control, name: str) -> "Pulled":
        """Return another task with this pull, which `name` tells from others."""
        made = f"{task.name}, {name}"
        return cls(made, task.make, task.targets, task.together, task.texts, pull=pull)

    def request(self, bench: Bench, variant: Variant, i: int, *more: Control) -> Request:
        """Return clip i's request."""
        request = super().request(bench, variant, i, *more)
        (control,) = request.controls
        assert self.pull is not None
        return replace(request, controls=(control + self.pull,))
