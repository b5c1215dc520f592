"""What the command line's options of a control are, and what reading them may need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ditto.audio.excerpt import LONGEST_SECONDS, Begin, begin_of
from ditto.audio.spec import AudioSpec


@dataclass(frozen=True)
class Option:
    """An option of the command line that belongs to one control.

    Attributes:
        name: of the value, and with dashes of the option.
        kind: its type.
        help: one line.
        spellings: others of the option.
    """

    name: str
    kind: type
    help: str
    spellings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ParseContext:
    """What a control may need to know to read its option.

    Attributes:
        spec: returns the model's spectrogram; may load the model.
        seconds: length of the clip, if it is given.
        tempo: of the tags, beats per minute.
        options: values of all options by name.
        edit: whether it is for an edit, which may be longer than the model's window.
    """

    spec: Callable[[], AudioSpec]
    seconds: float | None = None
    tempo: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    edit: bool = False

    @property
    def heard_seconds(self) -> float:
        """How much of a recording can count."""
        return self.seconds or (LONGEST_SECONDS if self.edit else self.spec().clip_seconds)

    @property
    def like_begin(self) -> Begin:
        """Where in the recording to be like ``--like-from`` begins."""
        return begin_of(self.options.get("like_from") or 0.0, "--like-from")
