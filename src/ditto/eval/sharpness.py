"""Whether clips are as sharp as real ones: two statistics of log-mels that hear smearing, which a
mean error rewards.

Both read levels in dB, held at 80 dB below the clip's loudest value, as librosa's
``power_to_db(top_db=80)`` does.

- *contrast*: in each of ten groups of neighbouring bands, the mean of the loudest fifth of the
  bands less that of the quietest fifth, averaged over the frames (spectral contrast, Jiang et al.
  2002, on mel bands).
- *peaks*: by how much the local maxima along frequency stand out of the bands two and three places
  beside them, averaged over the maxima that are within 50 dB of the clip's loudest value.

A set of clips is "off by" the difference of its means from those of real clips; for the contrast
the groups' absolute differences are averaged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 10
RANGE_DB = 80.0
HEARD_DB = 50.0
SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Sharpness:
    """Of a set of clips, in dB: `contrast` of each group (GROUPS,) and mean height of `peaks`."""

    contrast: Tensor
    peaks: float

    def off_by(self, real: "Sharpness") -> dict[str, float]:
        """How far from real clips, in dB: ``contrast_off`` (mean absolute) and ``peaks_off``
        (signed).
        """
        return {
            "contrast_off": (self.contrast - real.contrast).abs().mean().item(),
            "peaks_off": self.peaks - real.peaks,
        }


def sharpness(mel: Tensor, dynamic_range_db: float = 160.0) -> Sharpness:
    """The statistics of log-mels (B, n_mels, frames) in [−1, 1]."""
    levels = (mel.double() - 1) * (dynamic_range_db / 2)
    loudest = levels.amax(dim=(1, 2), keepdim=True)
    levels = torch.maximum(levels, loudest - RANGE_DB)
    return Sharpness(_contrast(levels), _peaks(levels, loudest - HEARD_DB))


def _contrast(levels: Tensor) -> Tensor:
    rows = []
    for group in levels.tensor_split(GROUPS, dim=1):
        ordered = group.sort(dim=1).values
        count = max(1, round(SHARE * ordered.shape[1]))
        rows.append((ordered[:, -count:].mean(dim=1) - ordered[:, :count].mean(dim=1)).mean())
    return torch.stack(rows)


def _peaks(levels: Tensor, floor: Tensor) -> float:
    near = levels.unfold(1, 7, 1)
    centre, sides = near[..., 3], near[..., [0, 1, 5, 6]].mean(dim=-1)
    at_peak = (centre >= near[..., 2:5].amax(dim=-1)) & (centre > floor)
    return ((centre - sides) * at_peak).sum().div(at_peak.sum().clamp(min=1)).item()
