"""What a recording's file has besides its samples: container, loudspeakers, tags.

Edits keep them where the output's format can hold them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from ditto.audio.opening import PYAV_ENDINGS, opened_file
from ditto.paths import StrPath, printable

KEPT_TAGS = ("artist", "album", "date", "genre", "tracknumber", "copyright", "license")
"""Tags that are the recording's own; title, comment and software become those of the edit."""
MAX_TAG = 400
"""Characters of a tag that are kept; escaped and in UTF-8 they fit what a wav can hold."""
CONTAINERS = ("WAVEX", "RF64")
"""Kinds of wav that a plain one cannot stand for."""
_GET_CHANNEL_MAP, _SET_CHANNEL_MAP = 0x1100, 0x1101  # of libsndfile's sf_command


@dataclass(frozen=True)
class Layout:
    """The outside of a sound file.

    Attributes:
        container: libsndfile's name of a kind of wav that is to be kept, or "".
        channels: libsndfile's numbers of the channels' loudspeakers, in order; () if unknown.
        tags: see `KEPT_TAGS`.
    """

    container: str = ""
    channels: tuple[int, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: StrPath, tags: Mapping[str, str]) -> "Layout":
        """Read the layout of a file.

        Args:
            path: the file.
            tags: all that it has.

        Raises:
            AudioFileError: it cannot be read.
        """
        own = {
            name: printable(value[:MAX_TAG])
            for name, value in tags.items()
            if name in KEPT_TAGS and value.strip()
        }
        if Path(path).suffix.lower() in PYAV_ENDINGS:
            return cls(tags=own)
        with opened_file(path, 0.0) as file:
            container = file.format if file.format in CONTAINERS else ""
            return cls(container, _channel_map(file), own)

    def format_for(self, file_format: str) -> str:
        """Return the container to write in place of libsndfile's `file_format`."""
        return self.container if file_format == "WAV" and self.container else file_format

    def apply(self, file: soundfile.SoundFile) -> None:
        """Tell a file that is being written which loudspeakers its channels are for."""
        if file.format in CONTAINERS and len(self.channels) == file.channels:
            _command(file, _SET_CHANNEL_MAP, list(self.channels))


def _channel_map(file: soundfile.SoundFile) -> tuple[int, ...]:
    values = _command(file, _GET_CHANNEL_MAP, [0] * file.channels)
    return tuple(values) if any(values) else ()


def _command(file: soundfile.SoundFile, command: int, values: list[int]) -> list[int]:
    """Call libsndfile's ``sf_command`` with an array of int, which soundfile has no name for."""
    library: Any = soundfile
    data, handle = library._ffi.new("int[]", values), vars(file)["_file"]
    library._snd.sf_command(handle, command, data, library._ffi.sizeof(data))
    return list(data)
