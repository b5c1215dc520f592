"""Intensity: the smoothed loudness follows a curve (DITTO §4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ditto.audio.excerpt import LONGEST_SECONDS, Begin
from ditto.audio.features import intensity, mel_rms_db, smooth
from ditto.audio.opening import is_recording
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Effort, Option, ParseContext
from ditto.controls.curves import Curve, as_curve, curve_of_recording, smoothed
from ditto.controls.numbers import checked_number
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel, Panel
from ditto.paths import StrPath

WITH_MELODY, WITH_OTHERS = 1 / 40, 1 / 400
"""λ of the intensity, whose loss is in dB², beside a melody or another loss in nats, and beside
regions or a structure.

These are a tenth of the papers' (appendix H). With theirs the embedded model's loudness ends
hundreds of times nearer than without control, and all else stays behind; with a tenth, tunes and
regions are followed about twice as closely, and loudness still to within a dB.
"""

IN_NATS = {"melody", "chords", "beats"}
MAX_DEAD_ZONE = 40.0
Measure = Literal["mse", "correlation"]


@dataclass(frozen=True, init=False)
class Intensity(Control):
    """f = w ∗ 20·log10 RMS(V(x_0)) in dB, y = a curve in dB, 𝓛 = MSE in dB² (or −ρ).

    Attributes:
        curve: the target.
        measure: "mse", or "correlation" for 𝓛 = −ρ (Pearson), which follows the curve's shape.
        domain: where the loss takes loudness from: "sound", or "mel", an estimate from x_0 (its
            spectrogram, or a head's) that spares the vocoder. Errors are those of the sound in
            either case.
        dead_zone: of the MSE, dB: 𝓛 = the mean of max(0, |f − y| − dead_zone)². 1 dB is about what
            can just be heard.
        enough: of the correlation: 𝓛 = max(0, enough − ρ); None is −ρ.
        offset: sound minus mel loudness by `calibrate`, dB, shape (B, frames) or None.
    """

    curve: Curve
    measure: Measure
    domain: Literal["sound", "mel"]
    dead_zone: float
    enough: float | None
    offset: Tensor | None = field(compare=False, repr=False)
    kind = "intensity"
    help = (
        "Loudness curve: crescendo, decrescendo, swell, dip, steps, flat; breakpoints "
        "'seconds:dB …'; or a .csv file of seconds and dB."
    )
    like_help = "Follow the loudness of this recording."
    noun = "a loudness curve"
    corrected: ClassVar[Effort] = Effort(40, 0.6, 10.0, tag_pull=5.0)
    other_names = ("loudness",)
    options = (
        Option("intensity_loss", str, "mse, or correlation: follow the curve's shape only."),
        Option("correlation", bool, "The same as --intensity-loss correlation."),
        Option("intensity_dead_zone", float, "As near as this, in dB, is on the curve; 0."),
        Option("intensity_enough", float, "A correlation that is enough; by default none is."),
    )

    def __init__(
        self,
        curve: str | Curve,
        measure: Measure = "mse",
        domain: Literal["sound", "mel"] = "sound",
        offset: Tensor | None = None,
        dead_zone: float = 0.0,
        enough: float | None = None,
    ) -> None:
        """Take a `Curve`, or the text of one (see `ditto.controls.curves.parse_curve`).

        Raises:
            ControlError: the curve, measure or domain is unknown, or a number is out of range.
        """
        if measure not in ("mse", "correlation"):
            raise ControlError(f"intensity is measured by 'mse' or 'correlation', not {measure!r}")
        if domain not in ("sound", "mel"):
            raise ControlError(f"intensity is heard in 'sound' or 'mel', not {domain!r}")
        dead_zone = checked_number("intensity's dead zone", dead_zone, 0, MAX_DEAD_ZONE, "dB")
        if dead_zone and measure != "mse":
            raise ControlError("a dead zone in dB is of the MSE: of a correlation, give enough")
        if enough is not None:
            enough = checked_number("a correlation that is enough", enough, -1, 1, left_out="low")
            if measure != "correlation":
                raise ControlError("what is enough is of a correlation: give it as the measure")
        object.__setattr__(self, "dead_zone", dead_zone)
        object.__setattr__(self, "enough", enough)
        object.__setattr__(self, "curve", as_curve(curve))
        object.__setattr__(self, "measure", measure)
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "offset", offset)

    @classmethod
    def of_recording(
        cls,
        path: StrPath,
        spec: AudioSpec | None = None,
        *,
        seconds: float | None = None,
        measure: Measure = "mse",
        begin: Begin = 0.0,
    ) -> "Intensity":
        """Return the control whose target is a recording's loudness.

        Args:
            path: a sound file.
            spec: of the model; by default that of the embedded one.
            seconds: how much of the recording; by default all that a clip may need.
            measure: of the loss.
            begin: where in the recording, in seconds; "auto" is its first sound.

        Raises:
            AudioFileError: the file cannot be read or is silent there.
        """
        spec, seconds = spec or AudioSpec(), seconds or LONGEST_SECONDS
        return cls(curve_of_recording(path, spec, seconds, begin), measure)

    @classmethod
    def parse(cls, text: str, context: ParseContext) -> "Intensity":
        """Return the control that ``--intensity`` asks for; a recording is one to be like."""
        if is_recording(text):
            return cls.parse_like(Path(text), context)
        return cls(text, **_loss_settings(context))

    @classmethod
    def parse_like(cls, path: Path, context: ParseContext) -> "Intensity":
        """Return the control that ``--intensity-like`` asks for."""
        control = cls.of_recording(
            path, context.spec(), seconds=context.heard_seconds, begin=context.like_begin
        )
        return replace(control, **_loss_settings(context))

    def target(self, output: Output) -> Tensor:
        """Return the target y in dB, shape (frames,)."""
        return smoothed(self.curve, output.frames, output.model.spec, output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0) in dB, shape (B, frames)."""
        return intensity(output.audio, output.model.spec)

    def _loudness(self, output: Output) -> Tensor:
        """Return the loudness that the loss takes, in dB, shape (B, frames)."""
        if self.domain == "sound":
            return self.feature(output)
        estimate = output.read("loudness", mel_rms_db)
        if estimate is None:
            estimate = mel_rms_db(output.mel, output.model.spec)
        loudness = smooth(estimate, output.model.spec)
        return loudness if self.offset is None else loudness + self.offset

    def proxy(self) -> "Intensity":
        """Return the same control with loudness from the mel."""
        return replace(self, domain="mel", offset=None)

    def calibrate(self, decoded: Output) -> "Intensity":
        """Return the mel control with sound minus mel of `decoded` as its offset."""
        if self.domain == "sound":
            return self
        with torch.no_grad():
            mel = self.proxy()
            return replace(mel, offset=self.feature(decoded) - mel._loudness(decoded))

    def loss(self, output: Output) -> Tensor:
        """Return 𝓛 of each item, shape (B,)."""
        feature = output.masked(self._loudness(output))
        target = output.masked(self.target(output))
        if self.measure == "mse":
            return mse(feature, target, self.dead_zone)
        rho = pearson(feature, target)
        return -rho if self.enough is None else (self.enough - rho).clamp(min=0)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the MSE in dB² and Pearson's ρ."""
        feature, target = output.masked(self.feature(output)), output.masked(self.target(output))
        return {
            "intensity_mse_db2": mse(feature, target),
            "intensity_rho": pearson(feature, target),
        }

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a curve that goes on beyond the clip's end, and the shape of a level one."""
        seconds = model.spec.seconds(frames)
        if self.measure == "correlation" and len({level for _, level in self.curve.points}) == 1:
            raise ControlError(
                "a level curve has no shape to correlate with: give another, or leave out "
                "--correlation"
            )
        # Half a tenth is forgiven: a clip of "6 s" has 5.94.
        if self.curve.last > seconds + 0.06 and not self.curve.heard:
            raise ControlError(
                f"the loudness curve goes on to {self.curve.last:g} s, but the clip ends at "
                f"{seconds:.2f} s"
            )

    def understood(self) -> list[str]:
        """Return what was understood of the curve."""
        return [self.curve.about] if self.curve.about else []

    def warnings(self, model: MusicModel, frames: int) -> list[str]:
        """Return what of the clip a recording is too short for."""
        end, last = model.spec.seconds(frames), self.curve.last
        if not self.curve.heard or last > end - 0.2:
            return []
        return [f"the recording ends at {last:.2f} s: its last loudness is held up to {end:.2f} s"]

    def default_weight(self, others: Sequence[Control]) -> float:
        """Return λ of the MSE: `WITH_MELODY` beside losses in nats, `WITH_OTHERS` beside others."""
        different = {other.kind for other in others} - {self.kind}
        if self.measure != "mse" or not different:
            return 1.0
        return WITH_MELODY if different & IN_NATS else WITH_OTHERS

    def in_window(self, window: Window, spec: AudioSpec) -> "Intensity":
        """Return the control with the part of the curve that lies in the window."""
        end = window.start + spec.clip_seconds
        return replace(self, curve=self.curve.between(window.start, end, window.total))

    def adapter_target(self, model: MusicModel, frames: int) -> tuple[str, Tensor]:
        """Return the smoothed curve in dB."""
        return "levels", smoothed(self.curve, frames, model.spec)

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the smoothed loudness against the curve."""
        achieved: np.ndarray = self.feature(output)[item].detach().cpu().numpy()
        target = self.target(output).cpu().numpy()
        return [CurvePanel(title="intensity", unit="dB", target=target, achieved=achieved)]

    def to_dict(self) -> dict[str, Any]:
        """Return name, measure and, unless there are very many, points."""
        how: dict[str, Any] = {"measure": self.measure, "domain": self.domain}
        how |= {"dead_zone": self.dead_zone} if self.dead_zone else {}
        how |= {} if self.enough is None else {"enough": self.enough}
        return {"control": self.kind, **how, **self.curve.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Intensity":
        """Return the control that `to_dict` wrote."""
        return cls(
            Curve.from_dict(values),
            values["measure"],
            values.get("domain", "sound"),
            dead_zone=float(values.get("dead_zone", 0.0)),
            enough=values.get("enough"),
        )


def _loss_settings(context: ParseContext) -> dict[str, Any]:
    """Return measure, dead zone and what is enough, as the options ask for them."""
    options = context.options
    return {
        "measure": "correlation"
        if options.get("correlation")
        else options.get("intensity_loss") or "mse",
        "dead_zone": options.get("intensity_dead_zone") or 0.0,
        "enough": options.get("intensity_enough"),
    }


def mse(feature: Tensor, target: Tensor, dead_zone: float = 0.0) -> Tensor:
    """Return the mean square error over the last dimension: (B, frames) and (frames,) → (B,).

    Errors are less by `dead_zone`, and at least 0: below it they have no gradient.
    """
    error = feature - target
    if dead_zone:
        error = (error.abs() - dead_zone).clamp(min=0)
    return error.square().mean(dim=-1)


def pearson(feature: Tensor, target: Tensor) -> Tensor:
    """Return Pearson's ρ over the last dimension: (B, frames) and (frames,) → (B,).

    It is 0 where either is constant.
    """
    a = feature - feature.mean(dim=-1, keepdim=True)
    b = target - target.mean(dim=-1, keepdim=True)
    # The ε keeps the gradient finite at a constant curve.
    scale = (a.square().sum(dim=-1) * b.square().sum(dim=-1) + 1e-12).sqrt()
    return (a * b).sum(dim=-1) / scale
