"""Intensity: the smoothed loudness follows a curve (DITTO §4)."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.audio.features import intensity, mel_rms_db, smooth
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Output
from ditto.controls.curves import Curve, curve_of_recording, parse_curve, smoothed
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.paths import StrPath
from ditto.plots import Panel, Trace


@dataclass(frozen=True, init=False)
class Intensity(Control):
    """f = w ∗ 20·log10 RMS(V(x_0)) in dB, y = a curve in dB, 𝓛 = mean square error in dB² (or −ρ).

    Attributes:
        curve: the target.
        measure: "mse", or "correlation" for 𝓛 = −ρ (Pearson), which asks for the curve's shape
            alone.
        domain: what the loss hears: "sound", or "mel", an estimate from the spectrogram that spares
            the vocoder while optimising. Errors are those of the sound in either case.
        offset: what the estimate lacks by `calibrated`, dB, shape (B, frames) or None.
    """

    curve: Curve
    measure: Literal["mse", "correlation"]
    domain: Literal["sound", "mel"]
    offset: Tensor | None = field(compare=False, repr=False)

    def __init__(
        self,
        curve: str | Curve,
        measure: Literal["mse", "correlation"] = "mse",
        domain: Literal["sound", "mel"] = "sound",
        offset: Tensor | None = None,
    ) -> None:
        """Take a `Curve`, or the text of one (see `ditto.controls.curves.parse_curve`)."""
        if measure not in ("mse", "correlation"):
            raise ControlError(f"intensity is measured by 'mse' or 'correlation', not {measure!r}")
        object.__setattr__(self, "curve", parse_curve(curve) if isinstance(curve, str) else curve)
        if domain not in ("sound", "mel"):
            raise ControlError(f"intensity is heard in 'sound' or 'mel', not {domain!r}")
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
        measure: Literal["mse", "correlation"] = "mse",
    ) -> "Intensity":
        """Follow the loudness of the first `seconds` (default: the model's window) of another
        recording.
        """
        return cls(curve_of_recording(path, spec or AudioSpec(), seconds), measure)

    def target(self, output: Output) -> Tensor:
        """The target y in dB, shape (frames,)."""
        return smoothed(self.curve, output.frames, output.model.spec).to(output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """f(x_0) in dB, shape (B, frames)."""
        return intensity(output.audio, output.model.spec)

    def _heard(self, output: Output) -> Tensor:
        """What the loss hears, shape (B, frames)."""
        if self.domain == "sound":
            return self.feature(output)
        heard = smooth(
            mel_rms_db(output.model.to_mel(output.x_0), output.model.spec), output.model.spec
        )
        return heard if self.offset is None else heard + self.offset

    def estimate(self) -> "Intensity":
        """The same curve and measure, heard in the mel."""
        return Intensity(self.curve, self.measure, "mel")

    def calibrated(self, decoded: Output) -> "Intensity":
        """In the mel, with the difference between sound and mel of `decoded` as the offset."""
        if self.domain == "sound":
            return self
        mel = Intensity(self.curve, self.measure, "mel")
        with torch.no_grad():
            return Intensity(
                self.curve, self.measure, "mel", self.feature(decoded) - mel._heard(decoded)
            )

    def loss(self, output: Output) -> Tensor:
        """𝓛 of each item, shape (B,)."""
        feature, target = output.kept(self._heard(output)), output.kept(self.target(output))
        return mse(feature, target) if self.measure == "mse" else -pearson(feature, target)

    def errors(self, output: Output) -> dict[str, Tensor]:
        """MSE in dB² and Pearson's ρ."""
        feature, target = output.kept(self.feature(output)), output.kept(self.target(output))
        return {
            "intensity_mse_db2": mse(feature, target),
            "intensity_rho": pearson(feature, target),
        }

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a curve that goes on beyond the clip's end, and the shape of a level one."""
        seconds = model.spec.seconds(frames)
        if self.measure == "correlation" and len({level for _, level in self.curve.points}) == 1:
            raise ControlError(
                "a level curve has no shape to correlate with: give another, or leave out --correlation"
            )
        # Half a tenth is forgiven: a clip of "6 s" has 5.94.
        if self.curve.last > seconds + 0.06:
            raise ControlError(
                f"the loudness curve goes on to {self.curve.last:g} s, but the clip ends at {seconds:.2f} s"
            )

    def traces(self, output: Output, item: int) -> list[Panel]:
        """Smoothed loudness against the curve."""
        achieved = self.feature(output)[item].detach().cpu().numpy()
        return [Trace("intensity", "dB", self.target(output).cpu().numpy(), achieved)]

    def describe(self) -> dict[str, Any]:
        """Name, measure and, unless there are very many, points."""
        points = (
            [list(p) for p in self.curve.points]
            if len(self.curve.points) <= 64
            else len(self.curve.points)
        )
        return {
            "control": "intensity",
            "measure": self.measure,
            "domain": self.domain,
            "curve": self.curve.name,
            "relative": self.curve.relative,
            "points": points,
        }


def mse(feature: Tensor, target: Tensor) -> Tensor:
    """Mean square error over the last dimension: (B, frames) and (frames,) → (B,)."""
    return (feature - target).square().mean(dim=-1)


def pearson(feature: Tensor, target: Tensor) -> Tensor:
    """Pearson's ρ over the last dimension: (B, frames) and (frames,) → (B,); 0 where either is
    constant.
    """
    a = feature - feature.mean(dim=-1, keepdim=True)
    b = target - target.mean(dim=-1, keepdim=True)
    # The ε keeps the gradient finite at a constant curve.
    scale = (a.square().sum(dim=-1) * b.square().sum(dim=-1) + 1e-12).sqrt()
    return (a * b).sum(dim=-1) / scale
