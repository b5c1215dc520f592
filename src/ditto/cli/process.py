"""The command line as a process of its own, quick to begin and quick to end.

What is done here is for the whole process: only the entry points call `run`. Whoever calls
`ditto.cli.main` from a program of their own gets none of it.
"""

import atexit
import os
import sys
import threading
import time

from ditto import imports

SAID_SECONDS = 2.0
"""Processes of one training fail alike. Their launcher shows what the first says, and ends it as
soon as another has ended: the others wait until it was said."""


def run() -> None:
    """Run the command line, and end the process without taking every module apart.

    After PyTorch and transformers that takes Python long, and the shell waits for nothing: all
    files are closed and all words said before.
    """
    from ditto.cli import main

    imports.alone = True
    try:
        main()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise  # words, which Python itself says
        _end(end.code or 0)
        raise
    _end(0)


def _end(status: int) -> None:
    """End the process as Python would; return where something still hinders that."""
    if status and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(SAID_SECONDS)
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if any(not thread.daemon for thread in others):
        return  # it has work to finish, for which Python waits
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # nobody reads any more, or there never was a terminal: Python knows the status
    os._exit(status & 0xFF)
