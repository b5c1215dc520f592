"""Where a recording's music ends: a song that fades out gives nothing to go on from at its end."""

import numpy as np

FRAME_SECONDS = 0.1
USUAL_DB, FADED_DB = 10.0, 20.0
"""Music lies at most `USUAL_DB` under the recording's usual level, its end is faded where it lies
`FADED_DB` under it."""
USUAL_SHARE = 75
"""The usual level is that of this percentile of frames."""


def levels(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the RMS of every tenth of a second over all channels, in dB, shape (frames,).

    Args:
        samples: shape (channels, n).
        sample_rate: in Hz.
    """
    size = max(round(FRAME_SECONDS * sample_rate), 1)
    starts = range(0, samples.shape[1], size)
    power = [np.square(samples[:, at : at + size], dtype=np.float64).mean() for at in starts]
    return 10 * np.log10(np.array(power) + 1e-20)


def music_end(samples: np.ndarray, sample_rate: int, overlap: float) -> int | None:
    """Return where the music ends in a recording that ends in a fade-out or silence.

    That is the end of the last tenth of a second that is within `USUAL_DB` of the usual level.

    Args:
        samples: shape (channels, n).
        sample_rate: in Hz.
        overlap: seconds at the end that something new would go on from.

    Returns:
        A number of samples; None if the recording's end is music, or too little comes before it.
    """
    found = levels(samples, sample_rate)
    usual = float(np.percentile(found, USUAL_SHARE))
    tail = found[-max(round(overlap / FRAME_SECONDS), 1) :]
    faded = 10 * np.log10(np.mean(10 ** (tail / 10))) < usual - FADED_DB
    size = max(round(FRAME_SECONDS * sample_rate), 1)
    end = min((int(np.flatnonzero(found >= usual - USUAL_DB)[-1]) + 1) * size, samples.shape[1])
    return end if faded and end >= overlap * sample_rate else None
