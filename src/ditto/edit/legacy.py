"""One-release shim: edits once took the recording first and the model second."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ditto.errors import warn_deprecated
from ditto.models.model import MusicModel

Edited = TypeVar("Edited")


def model_first(edit: Callable[..., Edited]) -> Callable[..., Edited]:
    """Let an edit take its first two arguments in the order of version 0.1, with a warning."""

    @wraps(edit)
    def call(*args: Any, **kwargs: Any) -> Edited:
        if len(args) > 1 and isinstance(args[1], MusicModel):
            warn_deprecated(
                f"{edit.__name__}(recording, model, …) will be removed: give the model first"
            )
            args = (args[1], args[0], *args[2:])
        return edit(*args, **kwargs)

    return call
