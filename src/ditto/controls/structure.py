"""Structure: which parts of a clip sound alike follows a form ("ABA") or a recording.

DITTO section 4, appendix F.

A held chord against another has a perfect form. `tolerance` ends the push once a pair of frames is
near its target, and `density` asks every section to keep playing.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from ditto.audio.excerpt import LONGEST_SECONDS, Begin, read_from
from ditto.audio.features import log_mel
from ditto.audio.onsets import onset_activity
from ditto.audio.opening import is_recording
from ditto.audio.similarity import (
    mfcc,
    onset_strength,
    self_similarity,
    similarity_of,
    smooth_2d,
    standardised_timbre,
)
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.form import Form, parse_form
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import MatrixPanel, Panel
from ditto.paths import StrPath, printable, shown
from ditto.tables import table

MAX_DENSITY = 100.0
KEEPS_PLAYING = 0.3
"""`onset_activity` of a section, dB, from which it counts as played. Sections of four clips of the
embedded model have 0.25 to 0.51 without control and 0.12 to 0.37 under ABA; white noise has 0.03.
A bound instead of the uncontrolled clip's own activity: that would need the clip."""
TOLERANCE, DENSITY = 0.12, 0.004
"""Defaults of a form, chosen by rows of ``python -m benchmarks tradeoff``."""
SMOOTH_SECONDS = 1.0
"""Side of the Savitzky-Golay window over the matrix, that of the intensity's smoothing."""

EVERY = 4
"""Frames between those that a proxy of a smoothed matrix compares: 21 of them in its window."""


class SelfSimilarity(Control):
    """f = self-similarity of x_0's timbre, 𝓛 = mean square error of the matrices.

    Attributes:
        smooth_seconds: of the matrix, or None.
        tolerance: a pair of frames as near as this to its target counts as there, 0 to 1.
        estimated: the loss takes timbre from a head where x_0 is no mel, and a matrix that is
            smoothed at every `EVERY`-th frame.
        offset: MFCCs of the sound minus the head's, by `calibrate`.
    """

    kind = "structure"
    iterations: ClassVar[int] = 150
    corrected: ClassVar[Effort] = Effort(40, 0.2, 0.1, 64, tag_pull=0.05)
    grows_evenly = False
    smooth_seconds: ClassVar[float | None] = None
    tolerance: float = 0.0
    estimated: bool = False
    offset: Tensor | None = None

    @abstractmethod
    def target(self, output: Output) -> Tensor:
        """Return the target y, shape (frames, frames)."""

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0), shape (B, frames, frames)."""
        spec = output.model.spec
        return self_similarity(output.mel, spec, smooth_seconds=self.smooth_seconds)

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        if not self.estimated:
            return self._mse(output, self.feature(output), self.tolerance)
        every = 1 if self.smooth_seconds is None else EVERY
        timbre = standardised_timbre(self._estimate(output))
        feature = similarity_of(
            timbre, output.model.spec, smooth_seconds=self.smooth_seconds, every=every
        )
        return self._mse(output, feature, self.tolerance, every)

    def _estimate(self, output: Output) -> Tensor:
        """Return the MFCCs without the first that the loss takes, shape (B, 19, frames)."""
        read = output.read("timbre", _timbre)
        if read is None:
            return _timbre(output.mel, output.model.spec)
        return read if self.offset is None else read + self.offset

    def proxy(self) -> "SelfSimilarity":
        """Return the same control with the loss of an estimate; see `estimated`."""
        return self._with(estimated=True, offset=None)

    def calibrate(self, decoded: Output) -> "SelfSimilarity":
        """Return the estimating control with sound minus estimate of `decoded` as its offset."""
        if not self.estimated or decoded.model.has_mel:
            return self
        with torch.no_grad():
            estimate = self._with(offset=None)._estimate(decoded)
            return self._with(offset=_timbre(decoded.mel, decoded.model.spec) - estimate)

    def _with(self, **changes: Any) -> "SelfSimilarity":
        control = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(control, name, value)
        return control

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the MSE of the matrices."""
        return {"structure_mse": self._mse(output, self.feature(output))}

    def _mse(
        self, output: Output, feature: Tensor, tolerance: float = 0.0, every: int = 1
    ) -> Tensor:
        difference = feature - self.target(output)[::every, ::every]
        if output.mask is not None:
            counts = output.mask[::every]
            difference = difference[:, counts][..., counts]
        if tolerance:
            difference = (difference.abs() - tolerance).clamp(min=0)
        return difference.square().mean(dim=(1, 2))

    def in_window(self, window: Window, spec: AudioSpec) -> "Control | None":
        """Return the same control: a structure is that of one clip as a whole.

        Raises:
            ControlError: the window does not make all of it.
        """
        if window.makes_all:
            return self
        raise ControlError(
            "a structure cannot be asked of an edit: it is that of one clip as a whole"
        )

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return both matrices."""
        achieved = self.feature(output)[item].detach().cpu().numpy()
        target = self.target(output).cpu().numpy()
        return [MatrixPanel(title="structure", target=target, achieved=achieved)]


@dataclass(frozen=True, init=False)
class Structure(SelfSimilarity):
    """y = a block matrix, smoothed like the feature: 1 within a letter, 0 between letters.

    Timbre has no mean over time, so two sections can be opposites (0 in the matrix); of three or
    more letters no sound can make all pairs opposites, and the loss keeps a rest.

    Attributes:
        form: the sections.
        tolerance: a pair of frames as near as this to its target counts as there, 0 to 1.
        density: weight of a second term, by how much the sections' `onset_activity` falls short of
            `KEEPS_PLAYING`: the mean over sections of max(0, 1 − activity / KEEPS_PLAYING)².
    """

    form: Form
    tolerance: float
    density: float
    options = (
        Option(
            "structure_tolerance",
            float,
            "A pair of frames as near as this is there; default 0.12, the papers' 0.",
        ),
        Option(
            "structure_density",
            float,
            "Weight of onsets, that sections keep playing; default 0.004, the papers' 0.",
        ),
    )
    help = "Form: 'ABA', or with lengths 'A:2 B:4 A:2'."
    like_help = "Have the structure of this recording."
    noun = "a structure"
    smooth_seconds: ClassVar[float | None] = SMOOTH_SECONDS

    def __init__(
        self, form: str | Form, tolerance: float = TOLERANCE, density: float = DENSITY
    ) -> None:
        """Take a `Form`, or the text of one (see `parse_form`); the papers' loss has neither.

        Raises:
            ControlError: the form cannot be read, or a number is out of range.
        """
        if not isinstance(form, str | Form):
            raise ControlError(f"a structure is a form such as 'ABA', not {shown(form)}")
        tolerance = checked_tolerance(tolerance)
        density = checked_number("the weight of density", density, 0, MAX_DENSITY)
        object.__setattr__(self, "form", parse_form(form) if isinstance(form, str) else form)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "density", density)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "SelfSimilarity":
        """Return the control that ``--structure`` asks for; a recording is one to be like."""
        if is_recording(text):
            return cls.parse_like(Path(text), context)
        options = context.options
        tolerance, density = options.get("structure_tolerance"), options.get("structure_density")
        return cls(
            text,
            TOLERANCE if tolerance is None else tolerance,
            DENSITY if density is None else density,
        )

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        loss = super().loss(output)
        if not self.density:
            return loss
        short = (1 - self.activity(output) / KEEPS_PLAYING).clamp(min=0)
        return loss + self.density * short.square().mean(dim=1)

    def activity(self, output: Output) -> Tensor:
        """Return `onset_activity` of each section, shape (B, sections)."""
        section = _sections(self.form, output.frames, output.x_0.device)
        return onset_activity(
            output.masked(onset_strength(output.mel, output.model.spec)), output.masked(section)
        )

    @classmethod
    def parse_like(cls, path: Path, context: ParseContext) -> "StructureLike":
        """Return the control that ``--structure-like`` asks for."""
        if context.options.get("structure_density"):
            raise ControlError("--structure-density goes with --structure, which has sections")
        control = StructureLike.of_recording(path, context.spec(), begin=context.like_begin)
        return replace(control, tolerance=context.options.get("structure_tolerance") or 0.0)

    def in_window(self, window: Window, spec: AudioSpec) -> "Control | None":
        """Return what the form of a song asks of one window: likeness to what comes before.

        Raises:
            ControlError: the window is of an edit, where the form of the whole is the recording's;
                or a section is too short.
        """
        if window.makes_all:
            self.form.check(window.total)
            return replace(self, form=self.form.within(window.total, spec.clip_seconds))
        if window.before is None:
            return super().in_window(window, spec)
        past, stride = window.before()
        control = StructureInSong(
            self.form, past, stride, window.start, window.total, self.tolerance
        )
        return control if control.pairs(window.new, spec) else None

    def target(self, output: Output) -> Tensor:
        """Return the target y, shape (frames, frames)."""
        return _smoothed(self.form, output.frames, output.model.spec, output.x_0.device)

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse sections that are shorter than a tenth of a second."""
        self.form.check(model.spec.seconds(frames))

    def to_dict(self) -> dict[str, Any]:
        """Return the sections."""
        sections = [list(section) for section in self.form.sections]
        return {
            "control": self.kind,
            "sections": sections,
            **({"tolerance": self.tolerance} if self.tolerance else {}),
            **({"density": self.density} if self.density else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Structure | StructureLike":
        """Return the control that `to_dict` wrote."""
        if "like" in values:
            return StructureLike.from_dict(values)
        sections = values["sections"]
        return cls(
            Form(tuple((str(letter), float(length)) for letter, length in sections)),
            float(values.get("tolerance", 0.0)),
            float(values.get("density", 0.0)),
        )


@dataclass(frozen=True, eq=False)
class StructureInSong(Control):
    """The form of a song that is made window by window, as one window can follow it.

    f = the similarity of the window's timbre to that of all that comes before it, and to its own;
    y = 1 where both have one letter, else 0. Timbre is standardised over all of it, as in one clip.
    Levels are means of `stride` frames, which takes the place of the smoothing.

    Attributes:
        form: of the whole.
        past: log-mel of what comes before the new part, (n_mels, columns).
        stride: frames that a column is the mean of.
        start: of the window, in seconds of the whole.
        total: length of the whole in seconds.
        tolerance: see `Structure`.
    """

    form: Form
    past: Tensor
    stride: int
    start: float
    total: float
    tolerance: float = 0.0
    kind = "structure"
    iterations: ClassVar[int] = 150
    corrected: ClassVar[Effort] = Effort(40, 0.4, 0.1)
    noun = "a structure"

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse music that was heard by another model."""
        if len(self.past) != model.spec.n_mels:
            raise ControlError(
                f"the music so far has {len(self.past)} mels, but the model {model.spec.n_mels}"
            )

    def pairs(self, new: tuple[float, float], spec: AudioSpec) -> bool:
        """Tell whether the new part, from and to in seconds of the window, has two letters or a
        past: a single section alone is like itself whatever it is.
        """
        share = (self.start + np.linspace(*new, 64)) / self.total
        return self.past.shape[1] > 0 or len(set(self.form.labels_at(share).tolist())) > 1

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0), shape (B, columns of the window, columns of the past and the window)."""
        spec = output.model.spec
        new = avg_pool1d(output.masked(output.mel), self.stride, ceil_mode=True)
        past = self.past.to(new).expand(len(new), -1, -1)
        return self_similarity(torch.cat([past, new], dim=-1), spec)[:, past.shape[-1] :]

    def target(self, output: Output) -> Tensor:
        """Return the target y, of the feature's shape without the batch."""
        rate = output.model.spec.frame_rate
        frame = output.masked(torch.arange(output.frames, device=output.x_0.device).float())
        new = avg_pool1d(frame[None], self.stride, ceil_mode=True)[0].cpu().numpy()
        past = (np.arange(self.past.shape[1]) + 0.5) * self.stride
        times = np.concatenate([past / rate, self.start + new / rate])
        labels = torch.from_numpy(self.form.labels_at(times / self.total))
        alike = labels[len(past) :, None] == labels[None]
        return alike.to(output.x_0)

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        return self._mse(output, self.tolerance)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the MSE of the matrices."""
        return {"structure_mse": self._mse(output)}

    def _mse(self, output: Output, tolerance: float = 0.0) -> Tensor:
        short = ((self.feature(output) - self.target(output)).abs() - tolerance).clamp(min=0)
        return short.square().mean(dim=(1, 2))

    def to_dict(self) -> dict[str, Any]:
        """Return the form and the window's place."""
        sections = [list(section) for section in self.form.sections]
        return {
            "control": self.kind,
            "sections": sections,
            "from": round(self.start, 4),
            "of": round(self.total, 4),
        }


@dataclass(frozen=True, eq=False)
class StructureLike(SelfSimilarity):
    """y = the self-similarity of another sound, with no smoothing (appendix F).

    Attributes:
        reference: its log-mel, shape (n_mels, frames), at least as long as the clip.
        name: where it came from.
        tolerance: see `Structure`.
        about: what was understood, on one line.
        begin: where in the recording it begins, in seconds; None if it is of none.
    """

    reference: Tensor
    name: str = "recording"
    tolerance: float = 0.0
    about: str = ""
    begin: float | None = None

    def __post_init__(self) -> None:
        """Check the tolerance.

        Raises:
            ControlError: it is out of range.
        """
        object.__setattr__(self, "tolerance", checked_tolerance(self.tolerance))

    @classmethod
    def of_recording(
        cls, path: StrPath, spec: AudioSpec | None = None, *, begin: Begin = 0.0
    ) -> "StructureLike":
        """Take the structure of a recording, as much as a clip may need.

        Args:
            path: a sound file.
            spec: of the model; by default that of the embedded one.
            begin: where in the recording, in seconds; "auto" is its first sound.

        Raises:
            AudioFileError: if the file cannot be read or is silent there.
        """
        seconds = LONGEST_SECONDS if spec is None else spec.clip_seconds + 0.2
        spec = spec or AudioSpec()
        part = read_from(path, spec, seconds, begin)
        audio = torch.from_numpy(part.samples)
        if audio.numel() <= spec.n_fft // 2:
            raise ControlError(f"{printable(path)} is too short to have a structure")
        about = f"structure of {part.about}"
        mel = log_mel(audio[None], spec)[0]
        return cls(mel, Path(path).name, about=about, begin=part.start)

    def understood(self) -> list[str]:
        """Return which part of which recording it is of."""
        return [self.about] if self.about else []

    @cached_property
    def _matrices(self) -> dict[tuple[int, AudioSpec, torch.device], Tensor]:
        return {}

    def target(self, output: Output) -> Tensor:
        """Return the target y, shape (frames, frames)."""
        key = output.frames, output.model.spec, output.x_0.device
        if key not in self._matrices:
            with torch.no_grad():
                mel = self.reference[None, :, : output.frames]
                self._matrices[key] = self_similarity(mel, key[1])[0].to(key[2])
        return self._matrices[key]

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a recording that is shorter than the clip, or was heard by another model."""
        mels, length = self.reference.shape
        if mels != model.spec.n_mels:
            raise ControlError(f"the recording has {mels} mels, but the model {model.spec.n_mels}")
        if length < frames:
            raise ControlError(
                f"the recording {printable(self.name)} lasts {model.spec.seconds(length):.2f} s, "
                f"but the clip {model.spec.seconds(frames):.2f} s: give a longer one, or fewer "
                "--seconds"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recording's name, where it begins, and what was understood of it."""
        begin = {} if self.begin is None else {"from": self.begin}
        understood = {"understood": self.about} if self.about else {}
        tolerance = {"tolerance": self.tolerance} if self.tolerance else {}
        return {"control": self.kind, "like": self.name, **begin, **tolerance, **understood}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StructureLike":
        """Return the control that `to_dict` wrote, with the recording read anew as `reference`."""
        read = values["reference"]
        if not isinstance(read, StructureLike):
            raise TypeError("what a structure is like must be heard again")
        return replace(read, tolerance=float(values.get("tolerance", 0.0)))


def _timbre(mel: Tensor, spec: AudioSpec) -> Tensor:
    """Return MFCCs without the first, log-mel (B, n_mels, frames) → (B, 19, frames)."""
    return mfcc(mel, spec)[:, 1:]


def checked_tolerance(tolerance: float) -> float:
    """Return a tolerance; refuse one that no pair of frames can miss.

    Raises:
        ControlError: it is not from 0 to below 1.
    """
    return checked_number("a form's tolerance", tolerance, 0, 1, left_out="high")


@table(maxsize=16)
def _smoothed(form: Form, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    return smooth_2d(form.matrix(frames)[None], spec, SMOOTH_SECONDS)[0].to(device)


@table(maxsize=16)
def _sections(form: Form, frames: int, device: torch.device) -> Tensor:
    """Return the number of every frame's section, shape (frames,), int64."""
    ends = np.cumsum([length for _, length in form.sections])
    frame = (np.arange(frames) + 0.5) / frames
    return torch.from_numpy(np.searchsorted(ends / ends[-1], frame)).to(device)
