"""The command line's controls over time: melody, structure, and when each of them counts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ditto.errors import ControlError

if TYPE_CHECKING:
    from ditto.audio.spec import AudioSpec
    from ditto.controls.base import Control


def spans(text: str, option: str) -> tuple[tuple[float, float], ...]:
    """Spans of time from "2-6" or "0-1.5 4-6".

    Raises:
        ControlError: it cannot be read, or there is none.
    """
    found = []
    for word in text.replace(",", " ").split():
        start, _, end = word.partition("-")
        try:
            found.append((float(start), float(end)))
        except ValueError:
            raise ControlError(
                f"cannot read {word!r} in {option}: write seconds, from-to, e.g. '2-6' or '0-1 4-6'"
            ) from None
    if not found:
        raise ControlError(f"{option} is empty: write seconds, from-to, e.g. '2-6'")
    return tuple(found)


def during(control: "Control", text: str | None, option: str) -> "Control":
    """A control within the spans that an option gives, or as it is."""
    return control if text is None else control.during(*spans(text, option))


@dataclass(frozen=True)
class Wanted:
    """What `generate`'s options ask for, as they were written; see their help."""

    intensity: str | None = None
    intensity_like: Path | None = None
    correlation: bool = False
    intensity_during: str | None = None
    melody: str | None = None
    bpm: float | None = None
    melody_track: int | None = None
    melody_during: str | None = None
    structure: str | None = None
    structure_like: Path | None = None
    structure_during: str | None = None
    text: str | None = None
    clap: str | None = None

    def __post_init__(self) -> None:
        """Refuse options that exclude each other, or that have nothing to go with.

        Raises:
            ControlError: with what to change.
        """
        for one, other in (("intensity", "intensity_like"), ("structure", "structure_like")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ControlError(f"give either --{one} or --{other.replace('_', '-')}, not both")
        for option, needed, name in (
            ("intensity_during", (self.intensity, self.intensity_like), "a loudness curve"),
            ("melody_during", (self.melody,), "a melody"),
            ("melody_track", (self.melody,), "a melody"),
            ("bpm", (self.melody,), "a melody"),
            ("structure_during", (self.structure, self.structure_like), "a structure"),
        ):
            if getattr(self, option) is not None and all(one is None for one in needed):
                raise ControlError(f"--{option.replace('_', '-')} needs {name} to go with")

    def controls(
        self, spec: Callable[[], "AudioSpec"], tempo: float | None, seconds: float | None
    ) -> "list[Control]":
        """The controls; `spec` is asked, which may mean loading a model, only where a recording is
        to be heard.
        """
        found = self._loudness(seconds)
        if self.text is not None:
            # transformers takes a second to import: only who asks for a text waits for it.
            from ditto.controls.text import Text

            found.append(Text(self.text, self.clap))
        if self.melody is not None:
            melody = melody_control(
                self.melody, spec(), tempo=tempo, bpm=self.bpm, track=self.melody_track
            )
            found.append(during(melody, self.melody_during, "--melody-during"))
        return [*found, *self._structures(spec)]

    def _loudness(self, seconds: float | None) -> "list[Control]":
        from ditto.controls.intensity import Intensity

        measure = "correlation" if self.correlation else "mse"
        found: list[Control] = []
        if self.intensity is not None:
            found.append(Intensity(self.intensity, measure))
        if self.intensity_like is not None:
            found.append(
                Intensity.of_recording(self.intensity_like, seconds=seconds, measure=measure)
            )
        return [during(control, self.intensity_during, "--intensity-during") for control in found]

    def _structures(self, spec: Callable[[], "AudioSpec"]) -> "list[Control]":
        from ditto.controls.structure import Structure, StructureLike

        found: list[Control] = [] if self.structure is None else [Structure(self.structure)]
        if self.structure_like is not None:
            found.append(StructureLike.of_recording(self.structure_like, spec()))
        return [during(control, self.structure_during, "--structure-during") for control in found]


def melody_control(
    text: str, spec: "AudioSpec", *, tempo: float | None, bpm: float | None, track: int | None
) -> "Control":
    """The control of --melody. Written notes take their tempo from --bpm or the tags, a file has
    its own.
    """
    from ditto.controls.melody import Melody

    written = Path(text).suffix == "" or ":" in Path(text).suffix
    return Melody.parse(
        text, spec, bpm=bpm if bpm is not None or not written else tempo, track=track
    )
