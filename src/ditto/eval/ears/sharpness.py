"""How sharp a log-mel is, in dB: contrast within octaves, and height of the peaks.

A denoiser that averages over what it is unsure of fills the valleys and lowers the peaks; one that
leaves noise does the opposite. Both figures are compared with those of real clips of the same tags
(`off_by`), and do not depend on the volume. Alone they mislead: noise is sharp too.

Levels are those of `ditto.audio.features.log_mel` (160 bands, 20.7 Hz apart below 1 kHz, 46 ms
windows), raised to 60 dB below the clip's loudest: what is lower is hardly heard. Frames that lie
wholly there are left out.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from ditto.audio.features import log_mel, mel_db
from ditto.audio.spec import AudioSpec

RANGE_DB = 60.0
EDGES = (0.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0)
"""Lower ends in Hz of the sub-bands, as of Jiang et al. (2002) and librosa; the last goes up to
half the sample rate."""
HIGH, LOW = 0.95, 0.05
"""Quantiles whose distance is the contrast."""
REACH = 3
"""Bands on either side that a peak is above."""
NEIGHBOURHOOD = 6
"""Bands on either side that its height is measured against."""


def levels_db(audio: Tensor, spec: AudioSpec | None = None) -> Tensor:
    """Compute mel levels in dB, from 60 dB below the clip's loudest on.

    Args:
        audio: (B, samples).
        spec: of the log-mel; the default one by default.

    Returns:
        (B, n_mels, frames).
    """
    spec = spec or AudioSpec()
    levels = mel_db(log_mel(audio, spec), spec)
    return levels.maximum(levels.amax(dim=(1, 2), keepdim=True) - RANGE_DB)


def contrast_db(levels: Tensor, spec: AudioSpec | None = None) -> Tensor:
    """Average the distance of the 95th from the 5th percentile of the levels within a sub-band.

    Over seven sub-bands (about octaves, see `EDGES`), then over the frames that sound.

    Args:
        levels: (B, n_mels, frames), from `levels_db`.
        spec: of the log-mel; the default one by default.

    Returns:
        (B,) in dB, 0 to 60; 0 for a silent clip.
    """
    spec = spec or AudioSpec()
    centres = band_centres(spec)
    ends = (*EDGES[1:], np.inf)
    quantiles = torch.tensor([LOW, HIGH], dtype=levels.dtype)
    spreads = []
    for low, high in zip(EDGES, ends, strict=True):
        bands = levels[:, torch.from_numpy((centres >= low) & (centres < high))]
        if bands.shape[1] > 1:
            below, above = torch.quantile(bands, quantiles, dim=1)
            spreads.append(above - below)
    return _mean_over_sounding(torch.stack(spreads).mean(dim=0), levels)


def peaks_db(levels: Tensor) -> Tensor:
    """Average how far the local maxima over frequency stand out.

    A band is a local maximum if it is above each of the three bands on either side; its height is
    its level minus the mean level of the six bands on either side (fewer at the ends). First over
    the maxima of a frame (0 if it has none), then over the frames that sound.

    Args:
        levels: (B, n_mels, frames), from `levels_db`.

    Returns:
        (B,) in dB, 0 to 60; 0 for a silent clip.
    """
    x = levels.transpose(1, 2)
    bands = x.shape[2]
    below = max_pool1d(pad(x, (REACH, 0), value=-torch.inf), REACH, 1)[..., :bands]
    above = max_pool1d(pad(x, (0, REACH), value=-torch.inf), REACH, 1)[..., 1:]
    is_peak = (x > below) & (x > above)
    size = 2 * NEIGHBOURHOOD + 1
    mean = avg_pool1d(x, size, 1, NEIGHBOURHOOD, count_include_pad=False)
    count = size * avg_pool1d(torch.ones(1, bands), size, 1, NEIGHBOURHOOD)
    # The mean has the band itself in it: without it the difference is count / (count - 1) as much.
    heights = torch.where(is_peak, (x - mean) * count / (count - 1), 0.0)
    return _mean_over_sounding(heights.sum(dim=2) / is_peak.sum(dim=2).clamp(min=1), levels)


def off_by(values: NDArray[np.floating], real: NDArray[np.floating]) -> float:
    """Subtract the mean of real clips from that of others, in dB: below 0 they are smeared."""
    return float(np.mean(values, dtype=np.float64) - np.mean(real, dtype=np.float64))


def band_centres(spec: AudioSpec) -> NDArray[np.float64]:
    """Compute the centres of the mel bands in Hz, (n_mels,), on Slaney's scale."""
    top = hertz_to_mel(spec.sample_rate / 2, mel_scale="slaney")
    mels = np.linspace(0.0, float(top), spec.n_mels + 2)[1:-1]
    return np.asarray(mel_to_hertz(mels, mel_scale="slaney"))


def _mean_over_sounding(values: Tensor, levels: Tensor) -> Tensor:
    """Average over frames (B, frames) in which some band is above the lowest level of the clip."""
    loudest = levels.amax(dim=(1, 2))
    floor = loudest - RANGE_DB
    sounds = (levels.amax(dim=1) > floor[:, None] + 1e-3) & (values >= 0)
    return (values * sounds).sum(dim=1) / sounds.sum(dim=1).clamp(min=1)
