"""Ctrl-C and SIGTERM that wait for a moment at which nothing is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = signal.SIGINT, signal.SIGTERM

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Let the handler take Ctrl-C and SIGTERM; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, during the block, where it would end the process at once.

    So nothing half-written is left. A handler that somebody else has set stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def delayed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a short block, and come then.

    For what calls Python from C, as libsndfile does to write to an open file: an exception out of
    such a call is shown and forgotten.
    """
    caught: list[int] = []
    try:
        with handling(lambda number, frame: caught.append(number)):
            yield
    finally:
        for number in caught[:1]:
            signal.raise_signal(number)


@contextmanager
def waiting() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM wait during the block; twice ends at once.

    Yields:
        The signals so far: a block that goes on for long looks at it now and then.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    caught: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    with handling(wait):
        yield caught
