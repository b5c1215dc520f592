"""How much of the music a control leaves: a clip beside that of the same noise without control.

An error says how closely a target is met, and nothing of what was given up for it. Two cheap
figures do: how many sounds begin (a held chord has few), and how alike CLAP hears the clips.

A clip that begins at the best of many noises is compared with what that noise gives: beside what
another noise gives, most of the difference would be the noise's.
"""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.onsets import heard_envelope, pick_onsets
from ditto.audio.spec import AudioSpec
from ditto.errors import ModelError
from ditto.models.clap import Clap


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of B clips.

    Attributes:
        onsets: a second, in the clips, shape (B,).
        uncontrolled_onsets: a second, in the clips without control, shape (B,).
        alike: cosine of CLAP's embeddings of both, in [−1, 1], 1 for the same sound, shape (B,);
            None where there is no CLAP.
        mel: log-mel of the clips without control, shape (B, n_mels, frames), in [−1, 1].
        seconds: that finding out took.
        sound: the clips without control, (B, channels, samples) within ±1; None if not at hand.
        candidate: which of several noises both clips are of, shape (B,); None where each is its
            seed's own.
    """

    onsets: Tensor
    uncontrolled_onsets: Tensor
    alike: Tensor | None
    mel: Tensor
    seconds: float = 0.0
    sound: Tensor | None = None
    candidate: Tensor | None = None

    def percent(self, item: int = 0) -> float | None:
        """Return the onsets in % of those without control; None if there are none without."""
        before = self.uncontrolled_onsets[item].item()
        return 100 * self.onsets[item].item() / before if before else None

    def to_dict(self, item: int = 0) -> dict[str, Any]:
        """Return one item's figures as JSON, with the words."""
        percent = self.percent(item)
        return {
            "onsets_per_second": round(self.onsets[item].item(), 3),
            "uncontrolled_onsets_per_second": round(self.uncontrolled_onsets[item].item(), 3),
            "onsets_percent": None if percent is None else round(percent, 1),
            "clap_similarity": None if self.alike is None else round(self.alike[item].item(), 4),
            **({} if self.candidate is None else {"candidate": int(self.candidate[item])}),
            "words": self.words(item),
        }

    def name(self, item: int = 0) -> str:
        """Return what the clip without control is called, with the noise if one was chosen."""
        of = "" if self.candidate is None else f" of candidate {int(self.candidate[item])}"
        return f"the clip{of} without control"

    def words(self, item: int = 0) -> str:
        """Return the figures of one item as a musician would say them."""
        percent, without = self.percent(item), self.name(item)
        if percent is None:
            said = f"has {self.onsets[item]:.1f} onsets a second, {without} none"
        elif percent <= 100:
            said = f"keeps {percent:.0f} % of the onsets of {without}"
        else:
            said = f"has {percent:.0f} % of the onsets of {without}"
        if self.alike is None:
            return said
        alike = 100 * max(self.alike[item].item(), 0)
        return f"{said}, and sounds {alike:.0f} % like it to CLAP"


def onset_rate(audio: Tensor, spec: AudioSpec) -> Tensor:
    """Return how many sounds begin in a second of each clip: (B, samples) → (B,), float64.

    Sounds that begin together are one. It is 0 for a clip that is too short to have a spectrum.
    """
    if audio.shape[-1] <= spec.n_fft // 2:
        return torch.zeros(len(audio), dtype=torch.float64)
    envelopes = heard_envelope(audio, spec).double().cpu().numpy()
    counts = [len(pick_onsets(envelope, spec.frame_rate)) for envelope in envelopes]
    return torch.tensor(counts, dtype=torch.float64) * (spec.sample_rate / audio.shape[-1])


@torch.no_grad()
def kept(audio: Tensor, uncontrolled: Tensor, spec: AudioSpec) -> Kept:
    """Compare clips with those without control.

    Args:
        audio: shape (B, samples).
        uncontrolled: of the same shape.
        spec: rates and sizes.
    """
    started = time.perf_counter()
    ear, sounds = _ear(), (audio, uncontrolled)
    alike = None
    if ear is not None:
        one, other = (ear.embed_audio(sound, spec.sample_rate) for sound in sounds)
        alike = (one * other).sum(dim=-1).cpu()
    onsets, without = (onset_rate(sound, spec) for sound in sounds)
    mel = log_mel(uncontrolled, spec).cpu()
    return Kept(onsets, without, alike, mel, time.perf_counter() - started)


@cache
def _ear() -> Clap | None:
    """Return the embedded CLAP, loaded once; None if it is not installed."""
    try:
        return Clap.load()
    except ModelError:
        return None
