"""All that the music table hears in a clip, in one call."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.sharpness import sharpness
from ditto.audio.spec import AudioSpec
from ditto.eval.ears import basic_pitch, musicnn, tempo

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True, eq=False)
class Ears:
    """The networks of `hear`.

    Attributes:
        msd, mtt: musicnn's.
        notes: basic-pitch.
    """

    msd: musicnn.MusicNN
    mtt: musicnn.MusicNN
    notes: "InferenceSession"


def load_ears(threads: int = 1) -> Ears:
    """Load the networks from the installed wheels.

    Args:
        threads: of onnxruntime; torch has its own setting.

    Raises:
        ModelError: one is not installed (the message says how to), or damaged.
    """
    return Ears(
        musicnn.load_musicnn("MSD_musicnn"),
        musicnn.load_musicnn("MTT_musicnn"),
        basic_pitch.load_basic_pitch(threads),
    )


@torch.no_grad()
def hear(audio: Tensor, sample_rate: int, ears: Ears | None = None) -> dict[str, NDArray[Any]]:
    """Hear a batch of clips.

    A clip of 5.94 s takes 0.40 to 0.55 s of one thread (measured beside other work on two cores;
    four fifths of it are musicnn's), and loading the ears 0.1 s.

    Args:
        audio: (B, samples), 2.98 s or longer.
        sample_rate: in Hz.
        ears: from `load_ears`; loaded anew if None.

    Returns:
        - ``msd``, ``mtt``: embeddings of P patches a clip, (B, P, 200); 3 for 5.94 s. For `Probe`
          and `WhitenedReference`.
        - ``msd_tags``, ``mtt_tags``: mean probabilities of the tags, (B, 50), in the order of
          `musicnn.TAGS`.
        - ``notes_per_second``, ``onset_peak``: by basic-pitch, (B,).
        - ``pitch_classes``: basic-pitch's note activations by class, (B, frames, 12), for
          `tune_shares`.
        - ``contrast_db``, ``peaks_db``: see `ditto.audio.sharpness`, (B,) in dB.
        - ``tempo``: in beats per minute, (B,).

    Raises:
        ModelError: an ear is not installed.
        ValueError: the clips are too short.
    """
    ears = ears or load_ears()
    audio = audio.float().cpu()
    low = resampled(audio, sample_rate, musicnn.SAMPLE_RATE)
    high = resampled(audio, sample_rate, basic_pitch.SAMPLE_RATE)
    patches = musicnn.log_mel_patches(low)
    msd, mtt = (musicnn.listen(network, patches) for network in (ears.msd, ears.mtt))
    notes = [basic_pitch.activations(clip, ears.notes) for clip in high.numpy()]
    spec = AudioSpec(sample_rate=basic_pitch.SAMPLE_RATE)
    sharp = sharpness(log_mel(high, spec), spec.dynamic_range_db)
    return {
        "msd": msd.embedding.numpy(),
        "mtt": mtt.embedding.numpy(),
        "msd_tags": msd.tags.mean(dim=1).numpy(),
        "mtt_tags": mtt.tags.mean(dim=1).numpy(),
        "notes_per_second": np.array([basic_pitch.notes_per_second(n) for n in notes]),
        "onset_peak": np.array([basic_pitch.onset_peak(n) for n in notes]),
        "pitch_classes": np.stack([basic_pitch.class_activations(n) for n in notes]),
        "contrast_db": sharp.contrast.numpy(),
        "peaks_db": sharp.peaks.numpy(),
        "tempo": np.array([tempo.tempo(clip) for clip in high.numpy()]),
    }


def resampled(audio: Tensor, sample_rate: int, target: int) -> Tensor:
    """Resample clips (B, samples) to another rate in Hz, by soxr at its very high quality."""
    if sample_rate == target:
        return audio
    clips = [soxr.resample(clip, sample_rate, target, quality="VHQ") for clip in audio.numpy()]
    return torch.from_numpy(np.stack(clips))
