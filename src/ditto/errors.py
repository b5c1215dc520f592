"""The exceptions a user can meet.

Every message is one line that says what was wrong and what to do about it. The command line prints
it without a traceback and exits with code 2; the API raises it as it is.
"""

import dataclasses
import os
import sys
import warnings


def warn_deprecated(message: str) -> None:
    """Warn of something that will be removed, at the first line outside this package."""
    ours = os.path.dirname(__file__) + os.sep, dataclasses.__file__
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DeprecationWarning, stacklevel=level)


def one_line(error: Exception) -> str:
    """Return what another library says of an error, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class DittoError(Exception):
    """Base of all errors that a user can cause and mend."""


class AudioFileError(DittoError):
    """A sound file cannot be read or written: missing, empty, not audio, damaged, not finite."""


class OutputError(DittoError):
    """An output cannot be written: the folder is missing or read-only, or the file exists
    already.
    """


class TagError(DittoError):
    """A tag (genre, mood, tempo) has an unknown name or a value out of range."""


class ControlError(DittoError):
    """A control's description cannot be understood or does not fit the clip."""


class RequestError(DittoError):
    """A request's settings are out of range or do not go together."""


class OutOfMemoryError(DittoError):
    """A request needs more memory than there is."""


class WorkerError(DittoError):
    """Processes that work side by side cannot be had, or die."""


class DataError(DittoError):
    """Training data cannot be made or read."""


class ModelError(DittoError):
    """A model folder is missing, incomplete, damaged, or of another kind than was asked for."""
