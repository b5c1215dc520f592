"""A small network that hears genre, mood and tempo in a log-mel: the ear of the quality bench, no
part of a model.

Two views of the clip: timbre and harmony from strided convolutions over time, averaged; rhythm from
the autocorrelation of onset strengths, read at the lags that each candidate tempo implies, so that
one set of weights judges all tempi and a tempo that is rare in the data is recognised too. Both
make up one embedding, the space of the Fréchet distance.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import gelu

from ditto.errors import ModelError, one_line
from ditto.models.network import CONFIG, Network, hash_weights
from ditto.paths import printable

FLOOR_DB = -100.0
"""Mel levels are raised to this before the network sees them: what lies below is inaudible
numerical noise, by which it could tell generated clips from real ones."""

BEAT_MULTIPLES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Lags at which a candidate tempo is looked for, in beats."""


class Heard(NamedTuple):
    """What the classifier makes of a batch."""

    embedding: Tensor
    """Shape (B, width of the embedding), before its non-linearity."""
    logits: tuple[Tensor, ...]
    """Genre, mood and tempo: shapes (B, classes), in the tags' order, without a class for "not
    given"."""


class ClipClassifier(Network):
    """``x_0 (B, 1, n_mels, frames) -> Heard``, for clips of at least `frames` frames (longer ones
    are averaged).

    Args:
        n_mels: mel bands, a multiple of `onset_bands`.
        frame_rate: frames per second.
        dynamic_range_db: dB that x_0's range [−1, 1] stands for.
        genres, moods, tempo_bins: number of classes.
        tempo_low, tempo_high: range of the tempo bins, beats per minute.
        width: channels of the convolutions.
        embedding: width of the embedding.
        onset_bands: frequency bands whose onsets are told apart.
        candidates: candidate tempi to a tempo bin.
        dropout: rate before the heads.
    """

    def __init__(
        self,
        n_mels: int = 160,
        frame_rate: float = 22_050 / 256,
        dynamic_range_db: float = 160.0,
        genres: int = 8,
        moods: int = 6,
        tempo_bins: int = 12,
        tempo_low: float = 60.0,
        tempo_high: float = 180.0,
        width: int = 128,
        embedding: int = 128,
        onset_bands: int = 16,
        candidates: int = 5,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.half_range = dynamic_range_db / 2
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(n_mels, width, (1, 5), (1, 4), (0, 2)),
                nn.Conv2d(width, width, (1, 5), (1, 2), (0, 2)),
                nn.Conv2d(width, width, (1, 5), (1, 2), (0, 2)),
            ]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))
        self.rhythm = Rhythm(
            onset_bands, frame_rate, tempo_low, tempo_high, tempo_bins * candidates, 2 * width
        )
        self.drop = nn.Dropout(dropout)
        self.embed = nn.Linear(2 * width + tempo_bins * candidates, embedding)
        self.heads = nn.ModuleList(
            nn.Linear(embedding, classes) for classes in (genres, moods, tempo_bins)
        )
        self.bins = tempo_bins

    def forward(self, x_0: Tensor) -> Heard:
        """Embedding and logits of log-mels (B, 1, n_mels, frames) in [−1, 1]."""
        levels = (((x_0[:, 0] - 1) * self.half_range).clamp(min=FLOOR_DB) - FLOOR_DB) / 20 - 2
        timbre = self._timbre(levels)
        scores = self.rhythm(levels, timbre)
        posterior = scores.softmax(dim=-1) * math.sqrt(scores.shape[-1])
        embedding = self.embed(torch.cat([self.drop(timbre), posterior], dim=-1))
        hidden = self.drop(gelu(embedding))
        genre, mood, tempo = (head(hidden) for head in self.heads)
        tempo = tempo + scores.unflatten(-1, (self.bins, -1)).logsumexp(dim=-1)
        return Heard(embedding, (genre, mood, tempo))

    @classmethod
    def load(cls, folder: Path) -> "ClipClassifier":
        """Load the classifier of a folder that `save_pretrained` wrote, in float32, frozen.

        Raises:
            ModelError: the folder is missing, incomplete or damaged.
        """
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"no classifier in {printable(folder)}: make one with "
                "`ditto-music train classifier`"
            )
        try:
            return cls.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"cannot load the classifier in {printable(folder)}: {one_line(error)}"
            ) from None

    def sha256(self) -> str:
        """Return `hash_weights`."""
        return hash_weights(self)

    def _timbre(self, levels: Tensor) -> Tensor:
        """Mean and deviation over time of the convolutions' output: (B, n_mels, frames) -> (B, 2 *
        width).
        """
        h = levels.unsqueeze(2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = gelu(norm(convolution(h)))
        return torch.cat([h.mean(dim=(2, 3)), (h.flatten(2).var(dim=-1) + 1e-5).sqrt()], dim=-1)


class Rhythm(nn.Module):
    """A score for each candidate tempo, (B, candidates), from (B, n_mels, frames) and the clip's
    timbre.
    """

    def __init__(
        self,
        bands: int,
        frame_rate: float,
        low: float,
        high: float,
        candidates: int,
        context: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.bands = bands
        tempi = (
            low + (torch.arange(candidates, dtype=torch.float64) + 0.5) * (high - low) / candidates
        )
        lags = 60 * frame_rate / tempi[:, None] * torch.tensor(BEAT_MULTIPLES, dtype=torch.float64)
        self.max_lag = math.ceil(lags.max().item()) + 1
        grid = torch.arange(self.max_lag + 1, dtype=torch.float64)
        reader = (1 - (lags[..., None] - grid).abs()).clamp(min=0)
        self.reader: Tensor
        self.register_buffer("reader", reader.float().flatten(0, 1), persistent=False)
        self.candidates = candidates
        features = bands * len(BEAT_MULTIPLES)
        self.first = nn.Conv1d(features, width, 1)
        self.context = nn.Linear(context, width)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.score = nn.Conv1d(width, 1, 1)
        self.prior = nn.Parameter(torch.zeros(candidates))

    def forward(self, levels: Tensor, timbre: Tensor) -> Tensor:
        """Scores; softmax over them is a posterior over the candidate tempi."""
        read = self.autocorrelation(levels) @ self.reader.T
        features = read.unflatten(-1, (self.candidates, -1)).permute(0, 1, 3, 2).flatten(1, 2)
        h = gelu(self.first(features) + self.context(timbre)[..., None])
        h = gelu(self.second(h))
        return self.score(h).squeeze(1) + self.prior

    def autocorrelation(self, levels: Tensor) -> Tensor:
        """Normalised autocorrelation of the onset strengths, (B, bands, max_lag + 1), with 1 at lag
        0.
        """
        rises = (levels[..., 1:] - levels[..., :-1]).clamp(min=0)
        onsets = rises.unflatten(1, (self.bands, -1)).mean(dim=2)
        onsets = onsets - onsets.mean(dim=-1, keepdim=True)
        count = onsets.shape[-1]
        # Long enough for every lag, and for the ends not to meet.
        spectrum = torch.fft.rfft(
            onsets, n=2 ** math.ceil(math.log2(count + max(count, self.max_lag + 1)))
        )
        power = spectrum.real.square() + spectrum.imag.square()
        correlation = torch.fft.irfft(power)[..., : self.max_lag + 1]
        overlap = (count - torch.arange(correlation.shape[-1], device=levels.device)).clamp(
            min=count // 8
        )
        unbiased = correlation * (count / overlap)
        return unbiased / (correlation[..., :1] + 1e-3)
