"""Brightness: the spectral centroid follows a curve over time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ditto.audio.features import full_precision, mel_db, mel_filterbank, of_spectrogram, smooth
from ditto.audio.scales import FREQUENCY
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.curves import Curve, as_curve
from ditto.controls.intensity import mse, pearson
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel, Panel
from ditto.tables import table

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

    def centroid(power: Tensor) -> Tensor:
        magnitude = (power + FLOOR**2).sqrt()
        hertz = torch.linspace(0, spec.sample_rate / 2, power.shape[1], device=audio.device)
        return (magnitude * hertz[:, None]).sum(dim=1) / magnitude.sum(dim=1)

    return torch.log2(of_spectrogram(centroid, audio, spec) / REFERENCE_HZ)


@full_precision
def mel_centroid_octaves(x_0: Tensor, spec: AudioSpec) -> Tensor:
    """Estimate `centroid_octaves` from a log-mel, without a vocoder.

    Magnitudes are taken as equal within a band, which noise's are; of a tone in a wide band they
    are too large.

    Args:
        x_0: log-mel in model space, shape (B, n_mels, frames).
        spec: rates and window.

    Returns:
        Shape (B, frames), float32.
    """
    hertz, width = _bands(spec, x_0.dtype, x_0.device)
    power = torch.pow(10.0, mel_db(x_0, spec) / 10)
    magnitude = (power * width + (FLOOR * width).square()).sqrt()
    centroid = (magnitude * hertz).sum(dim=1) / magnitude.sum(dim=1)
    return torch.log2(centroid / REFERENCE_HZ)


@table()
def _bands(spec: AudioSpec, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the centre of every mel band in hertz, and its width in bins, (n_mels, 1) each."""
    filters = mel_filterbank(spec, dtype=torch.float64)
    hertz = torch.linspace(0, spec.sample_rate / 2, filters.shape[1], dtype=torch.float64)
    width = filters.sum(dim=1)
    centre = (filters @ hertz) / width
    return centre[:, None].to(dtype).to(device), width[:, None].to(dtype).to(device)


@dataclass(frozen=True, init=False)
class Brightness(Control):
    """f = w ∗ log2 of V(x_0)'s spectral centroid, y = a curve in Hz, 𝓛 = MSE in octaves².

    Attributes:
        curve: the target in Hz, linear between its points.
        domain: where the loss takes the centroid from: "sound", or "mel", an estimate from the
            spectrogram that spares the vocoder. Errors are those of the sound in either case.
        offset: sound minus estimate by `calibrate`, octaves, shape (B, frames), or None.
    """

    curve: Curve
    domain: Literal["sound", "mel"]
    offset: Tensor | None = field(compare=False, repr=False)
    kind = "brightness"
    help = (
        "Spectral centroid: brighten, darken, open-close, dark, bright; breakpoints "
        "'seconds:Hz …'; or a .csv file of seconds and Hz."
    )
    noun = "a brightness curve"

    def __init__(
        self,
        curve: str | Curve,
        domain: Literal["sound", "mel"] = "sound",
        offset: Tensor | None = None,
    ) -> None:
        """Take a `Curve` of `FREQUENCY`, or the text of one.

        Raises:
            ControlError: the text cannot be read, or the domain is unknown.
        """
        if domain not in ("sound", "mel"):
            raise ControlError(f"brightness is heard in 'sound' or 'mel', not {domain!r}")
        object.__setattr__(self, "curve", as_curve(curve, FREQUENCY))
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "offset", offset)

    def target(self, output: Output) -> Tensor:
        """Return the target y in octaves above 1 kHz, smoothed as the feature, shape (frames,)."""
        return _target(self.curve, output.frames, output.model.spec, output.x_0.device)

    def feature(self, output: Output) -> Tensor:
        """Return f(x_0) in octaves above 1 kHz, shape (B, frames)."""
        spec = output.model.spec
        return smooth(centroid_octaves(output.audio, spec), spec)

    def loss(self, output: Output) -> Tensor:
        """Return the mean square error of each item in octaves², shape (B,)."""
        return mse(output.masked(self._centroid(output)), output.masked(self.target(output)))

    def _centroid(self, output: Output) -> Tensor:
        """Return the centroid that the loss takes, in octaves above 1 kHz, shape (B, frames)."""
        if self.domain == "sound" or not output.model.has_mel:
            return self.feature(output)
        spec = output.model.spec
        estimate = smooth(mel_centroid_octaves(output.mel, spec), spec)
        return estimate if self.offset is None else estimate + self.offset

    def proxy(self) -> "Brightness":
        """Return the same control with the centroid from the mel."""
        return replace(self, domain="mel", offset=None)

    def calibrate(self, decoded: Output) -> "Brightness":
        """Return the mel control with sound minus mel of `decoded` as its offset."""
        if self.domain == "sound":
            return self
        with torch.no_grad():
            mel = self.proxy()
            return replace(mel, offset=self.feature(decoded) - mel._centroid(decoded))

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
        domain = {} if self.domain == "sound" else {"domain": self.domain}
        return {"control": self.kind, **domain, **self.curve.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Brightness":
        """Return the control that `to_dict` wrote."""
        return cls(Curve.from_dict(values, FREQUENCY), values.get("domain", "sound"))


@table(maxsize=64)
def _target(curve: Curve, frames: int, spec: AudioSpec, device: torch.device) -> Tensor:
    octaves = torch.log2(curve.levels(frames, spec) / REFERENCE_HZ)
    return smooth(octaves[None], spec)[0].to(device)
