"""A small classifier of genre, mood and tempo from log-mels, to judge generated clips.

Timbre and harmony come from strided convolutions, averaged over time. Rhythm comes from the
autocorrelation of onset strengths at the lags of each candidate tempo: one set of weights scores
all tempi, so tempi that are rare in the data are recognised too. Both form one embedding, in which
Fréchet distances are measured.
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
"""Floor of the mel levels: inaudible numerical noise below it would reveal generated clips."""

BEAT_MULTIPLES = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Lags at which a candidate tempo reads the autocorrelation, in beats."""


class EmbeddingAndLogits(NamedTuple):
    """Hold the output of `ClipClassifier`."""

    embedding: Tensor
    """Shape (B, D), before its non-linearity."""
    logits: tuple[Tensor, ...]
    """Genre, mood and tempo, each (B, classes), without a class for null tags."""


class ClipClassifier(Network):
    """Classify clips of any length, ``x_0 (B, 1, n_mels, frames) -> EmbeddingAndLogits``.

    Args:
        n_mels: mel bands, a multiple of `onset_bands`.
        frame_rate: frames per second.
        dynamic_range_db: level range of x_0 in [−1, 1], dB.
        genres, moods, tempo_bins: number of classes.
        tempo_low, tempo_high: range of the tempo bins, beats per minute.
        width: channels of the convolutions.
        embedding: width of the embedding.
        onset_bands: frequency bands with onset strengths of their own.
        candidates: candidate tempi per tempo bin.
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

    def forward(self, x_0: Tensor) -> EmbeddingAndLogits:
        """Embed and classify log-mels (B, 1, n_mels, frames) in [−1, 1]."""
        levels = (((x_0[:, 0] - 1) * self.half_range).clamp(min=FLOOR_DB) - FLOOR_DB) / 20 - 2
        timbre = self._timbre(levels)
        scores = self.rhythm(levels, timbre)
        posterior = scores.softmax(dim=-1) * math.sqrt(scores.shape[-1])
        embedding = self.embed(torch.cat([self.drop(timbre), posterior], dim=-1))
        hidden = self.drop(gelu(embedding))
        genre, mood, tempo = (head(hidden) for head in self.heads)
        tempo = tempo + scores.unflatten(-1, (self.bins, -1)).logsumexp(dim=-1)
        return EmbeddingAndLogits(embedding, (genre, mood, tempo))

    @classmethod
    def load(cls, folder: Path) -> "ClipClassifier":
        """Load a folder written by `save_pretrained`; float32, frozen, in evaluation mode.

        Raises:
            ModelError: the folder is missing, incomplete or damaged.
        """
        if not (folder / CONFIG).is_file():
            raise ModelError(
                f"no classifier in {printable(folder)}: "
                "make one with `ditto-music train classifier`"
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
        """Pool convolutions over time, mean and deviation: (B, n_mels, frames) → (B, 2·width)."""
        h = levels.unsqueeze(2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = gelu(norm(convolution(h)))
        return torch.cat([h.mean(dim=(2, 3)), (h.flatten(2).var(dim=-1) + 1e-5).sqrt()], dim=-1)


class Rhythm(nn.Module):
    """Score candidate tempi: levels (B, n_mels, frames), timbre (B, D) → (B, candidates).

    Args:
        bands: frequency bands with onset strengths of their own.
        frame_rate: frames per second.
        low, high: range of the candidates, beats per minute.
        candidates: number of candidate tempi.
        context: D, width of the timbre.
        width: channels of the scoring network.
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
        """Compute the scores, logits of a posterior over the candidate tempi."""
        read = self.autocorrelation(levels) @ self.reader.T
        features = read.unflatten(-1, (self.candidates, -1)).permute(0, 1, 3, 2).flatten(1, 2)
        h = gelu(self.first(features) + self.context(timbre)[..., None])
        h = gelu(self.second(h))
        return self.score(h).squeeze(1) + self.prior

    def autocorrelation(self, levels: Tensor) -> Tensor:
        """Correlate onset strengths with themselves: (B, bands, max_lag + 1), 1 at lag 0."""
        rises = (levels[..., 1:] - levels[..., :-1]).clamp(min=0)
        onsets = rises.unflatten(1, (self.bands, -1)).mean(dim=2)
        onsets = onsets - onsets.mean(dim=-1, keepdim=True)
        count = onsets.shape[-1]
        # padded: long enough for every lag and against circular wrap-around
        length = 2 ** math.ceil(math.log2(count + max(count, self.max_lag + 1)))
        spectrum = torch.fft.rfft(onsets, n=length)
        power = spectrum.real.square() + spectrum.imag.square()
        correlation = torch.fft.irfft(power)[..., : self.max_lag + 1]
        overlap = count - torch.arange(correlation.shape[-1], device=levels.device)
        unbiased = correlation * (count / overlap.clamp(min=count // 8))
        return unbiased / (correlation[..., :1] + 1e-3)
