"""Small discriminators for adversarial vocoder training: multi-period and multi-resolution.

The arrangement is that of HiFi-GAN (Kong et al. 2020), UnivNet (Jang et al. 2021) and DAC (Kumar et
al. 2023), which the paper's vocoder uses, with channels few enough for a CPU. Losses are the hinge
and L1 feature matching, as in Vocos.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu
from torch.nn.utils.parametrizations import weight_norm


class Verdict(NamedTuple):
    """What one discriminator says of a batch."""

    score: Tensor
    """Higher means more like real sound; any shape that starts with B."""
    features: list[Tensor]
    """Its hidden layers, each (B, C, H, W)."""


class _Stack(nn.Module):
    """Strided 2-D convolutions with a score at the end."""

    def __init__(
        self, channels: int, layers: int, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__()
        widths = [1] + [min(channels * 2**i, 4 * channels) for i in range(layers)]
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, kernel, stride, padding)) for a, b in pairwise(widths)
        )
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> Verdict:
        """Judge an image of shape (B, 1, H, W)."""
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.1)
            features.append(x)
        return Verdict(self.score(x), features)


class PeriodDiscriminator(nn.Module):
    """Sees the waveform folded at a period: (B, samples) as (B, 1, samples / period, period)."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        self.stack = _Stack(channels, layers=4, kernel=(5, 1), stride=(3, 1))

    def forward(self, audio: Tensor) -> Verdict:
        """Judge waveforms of shape (B, samples)."""
        whole = audio[:, : audio.shape[1] // self.period * self.period]
        return self.stack(whole.reshape(len(audio), 1, -1, self.period))


class SpectrogramDiscriminator(nn.Module):
    """Sees the log magnitude of an STFT."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.stack = _Stack(channels, layers=4, kernel=(5, 3), stride=(2, 2))
        self.register_buffer("window", torch.hann_window(n_fft) * (4 / n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Verdict:
        """Judge waveforms of shape (B, samples)."""
        stft = torch.stft(
            audio, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
        )
        power = stft.real.square() + stft.imag.square()
        return self.stack(torch.log10(power + 1e-10).unsqueeze(1) / 2 + 1.5)


class Discriminators(nn.Module):
    """All of them.

    Waveforms are brought to a common level first, so that loudness gives nothing away.
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5),
        windows: Sequence[int] = (512, 1024),
        channels: int = 16,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList([PeriodDiscriminator(p, channels) for p in periods])
        self.parts.extend([SpectrogramDiscriminator(n, channels) for n in windows])

    def forward(self, audio: Tensor, level: Tensor) -> list[Verdict]:
        """Judge waveforms (B, samples), divided by `level` (B, 1), the RMS of the true ones."""
        return [part(audio * (0.1 / (level + 1e-5))) for part in self.parts]


def discriminator_loss(real: list[Verdict], fake: list[Verdict]) -> Tensor:
    """Average the discriminators' hinge loss."""
    losses = [
        relu(1 - r.score).mean() + relu(1 + f.score).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[Verdict]) -> Tensor:
    """Average the generator's hinge loss over the discriminators."""
    return torch.stack([-f.score.mean() for f in fake]).mean()


def feature_matching_loss(
    real: list[Verdict], fake: list[Verdict], whole: Callable[[Tensor], Tensor] = Tensor.detach
) -> Tensor:
    """Average the L1 distance of hidden layers, relative to their size in the real sound.

    Args:
        real: hidden layers and scores of the real sound.
        fake: of what was made.
        whole: returns the mean over the whole batch, from that over the part that is here.
    """
    losses = [
        (a.detach() - b).abs().mean() / (whole(a.detach().abs().mean()) + 1e-6)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    ]
    return torch.stack(losses).mean()
