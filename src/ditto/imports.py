"""Importing much, in a command's own process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

alone = False
"""Whether the process is a command's own; the command's entry point says so."""


@contextmanager
def importing() -> Iterator[None]:
    """Import much in the block without looking for garbage, of which imports make next to none.

    The collector would look through all modules over and over. In a process of
    the command's own it never looks through them again.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if alone:
            gc.freeze()
        if was:
            gc.enable()
