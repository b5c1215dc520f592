"""What a recording's file has besides its samples: container, loudspeakers, tags.

Edits keep them where the output's format can hold them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import soundfile

from ditto.audio.opening import opened_file
from ditto.audio.speakers import order_in, speakers_of, tell
from ditto.paths import StrPath, printable

KEPT_TAGS = ("artist", "album", "date", "genre", "tracknumber", "copyright", "license")
"""Tags that are the recording's own; title, comment and software become those of the edit."""
MAX_TAG = 400
"""Characters of a tag that are kept; escaped and in UTF-8 they fit what a wav can hold."""
CONTAINERS = ("WAVEX", "RF64")
"""Kinds of wav that a plain one cannot stand for."""
PLAIN = 2
"""Channels up to which all formats agree on what they are for."""


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
        with opened_file(path, 0.0) as file:
            kept = file.format in CONTAINERS and not file.decoded
            return cls(file.format if kept else "", speakers_of(path, file), own)

    def format_for(self, file_format: str) -> str:
        """Return the container to write in place of libsndfile's `file_format`."""
        if file_format != "WAV":
            return file_format
        # A plain wav cannot say what more than two channels are for.
        return self.container or ("WAVEX" if len(self.channels) > PLAIN else "WAV")

    def order_in(self, file_format: str, channels: int) -> list[int]:
        """Return the channels in the order in which a format has them.

        Args:
            file_format: libsndfile's name of it.
            channels: how many the sound has.
        """
        known = self.channels if len(self.channels) == channels > PLAIN else ()
        return order_in(file_format, known) or list(range(channels))

    def apply(self, file: soundfile.SoundFile) -> None:
        """Tell a file that is being written which loudspeakers its channels are for."""
        if file.format in CONTAINERS and len(self.channels) == file.channels:
            order = self.order_in(file.format, file.channels)
            tell(file, tuple(self.channels[i] for i in order))
