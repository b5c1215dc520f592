"""Brightness: the spectral centroid follows a curve over time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ditto.audio.features import full_precision, smooth, stft_power
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Output, Window
from ditto.controls.curves import Curve, Scale, as_curve
from ditto.controls.intensity import mse, pearson
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel, Panel
from ditto.tables import table

DARK, MIDDLE, BRIGHT = 700.0, 1400.0, 2800.0
FREQUENCY = Scale(
    "brightness",
    "Hz",
    low=50.0,
    high=10_000.0,
    shapes=(
        ("brighten", ((0.0, DARK), (1.0, BRIGHT))),
        ("darken", ((0.0, BRIGHT), (1.0, DARK))),
        ("open-close", ((0.0, DARK), (0.5, BRIGHT), (1.0, DARK))),
        ("dark", ((0.0, DARK), (1.0, DARK))),
        ("bright", ((0.0, BRIGHT), (1.0, BRIGHT))),
    ),
    units=(("hz", 1.0), ("khz", 1000.0)),
    headings=("hz", "freq", "bright", "centroid", "value", "hell"),
)
"""Centroids in hertz."""
REFERENCE_HZ = 1000.0
"""Octaves count from here."""
FLOOR = 1e-5
"""Magnitude of a bin, against full scale, that counts as silence; it pulls silent frames to the
middle of the spectrum and keeps their gradient small."""


@full_precision
def centroid_octaves(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Return the spectral centroid of every frame in octaves above 1 kHz.

    log2(Σ_k f_k·|S_k| / Σ_k |S_k| / 1 kHz) over the bins of the log-mel's STFT. It is
    ``librosa.feature.spectral_centroid`` of the same frames, but for `FLOOR`.

    Args:
        audio: shape (B, samples).
        spec: rates and window.

    Returns:
        Shape (B, samples // hop), float32.
    """
    magnitude = (stft_power(audio, spec) + FLOOR**2).sqrt()
    hertz = torch.linspace(0, spec.sample_rate / 2, magnitude.shape[1], device=audio.device)
    centroid = (magnitude * hertz[:, None]).sum(dim=1) / magnitude.sum(dim=1)
    return torch.log2(centroid / REFERENCE_HZ)


@dataclass(frozen=True, init=False)
class Brightness(Control):
    """f = w ∗ log2 of V(x_0)'s spectral centroid, y = a curve in Hz, 𝓛 = MSE in octaves².

    Attributes:
        curve: the target in Hz, linear between its points.
    """

    curve: Curve
    kind = "brightness"
    help = (
        "Spectral centroid: brighten, darken, open-close, dark, bright; breakpoints "
        "'seconds:Hz …'; or a .csv file of seconds and Hz."
    )
    noun = "a brightness curve"

    def __init__(self, curve: str | Curve) -> None:
        """Take a `Curve` of `FREQUENCY`, or the text of one.

        Raises:
            ControlError: the text cannot be read.
        """
        object.__setattr__(self, "curve", as_curve(curve, FREQUENCY))

    def target(self, output: Output) -> Tensor:
        """Return the target y in octaves above 1 kHz, smoothed as the feature, shape (frames,)."""
        return _target(self.curve, output.frames, output.model.spec, output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0) in octaves above 1 kHz, shape (B, frames)."""
        spec = output.model.spec
        return smooth(centroid_octaves(output.audio, spec), spec)

    def loss(self, output: Output) -> Tensor:
        """Return the mean square error of each item in octaves², shape (B,)."""
        return mse(output.masked(self.feature(output)), output.masked(self.target(output)))

    def errors(self, output: Output) -> dict[str, Tensor]:
        """Return the MSE in octaves² and Pearson's ρ."""
        feature, target = output.masked(self.feature(output)), output.masked(self.target(output))
        rho = pearson(feature, target)
        return {"brightness_mse_octaves2": mse(feature, target), "brightness_rho": rho}

    def check(self, model: MusicModel, frames: int) -> None:
        """Refuse a curve that goes on beyond the clip's end."""
        seconds = model.spec.seconds(frames)
        if self.curve.last > seconds + 0.06:
            raise ControlError(
                f"the brightness curve goes on to {self.curve.last:g} s, but the clip ends at "
                f"{seconds:.2f} s"
            )

    def understood(self) -> list[str]:
        """Return what was understood of the curve."""
        return [self.curve.about] if self.curve.about else []

    def in_window(self, window: Window, spec: AudioSpec) -> "Brightness":
        """Return the control with the part of the curve that lies in the window."""
        end = window.start + spec.clip_seconds
        return replace(self, curve=self.curve.between(window.start, end, window.total))

    def panels(self, output: Output, item: int) -> list[Panel]:
        """Return the centroid against the curve."""
        achieved = self.feature(output)[item].detach().cpu().numpy()
        target = self.target(output).cpu().numpy()
        unit = "octaves from 1 kHz"
        return [CurvePanel(title="brightness", unit=unit, target=target, achieved=achieved)]

    def to_dict(self) -> dict[str, Any]:
        """Return the curve."""
        return {"control": self.kind, **self.curve.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Brightness":
        """Return the control that `to_dict` wrote."""
        return cls(Curve.from_dict(values, FREQUENCY))


@table(maxsize=64)
def _target(curve: Curve, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    octaves = torch.log2(curve.levels(frames, spec) / REFERENCE_HZ)
    return smooth(octaves[None], spec)[0].to(device)
