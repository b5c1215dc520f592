"""The vocoder V: log-mel x_0 -> waveform, small, differentiable, and fast on a CPU.

Vocos-like (Siuzdak 2023): a ConvNeXt trunk at frame rate and an inverse-STFT head; no upsampling
network. Three things help a small network with music:

- **Level**: the trunk sees the spectrogram relative to its local loudness, and the head corrects
  log magnitudes that are interpolated from the mel bands. So an x_0 that is louder by some dB gives
  sound that is louder by just that.
- **Carriers**: a convolutional network answers a steady sound with the same frame again and again,
  so what it sings is periodic with the hop: a metallic 86 Hz comb. Here every spectral peak has a
  carrier, whose phase is *integrated* from the peak's frequency by the recurrence of single-pass
  spectrogram inversion (Beauregard, Harish & Wyse 2015), or is that of white noise where the
  spectrum is noise-like. The network's phases are relative to the carriers'.
- **Feedback**: the head's sound is analysed, and filtered by the errors of its mel bands.

Carriers are constants to autograd: a phase after n frames sums n frequencies, so its gradient would
grow with n, and what controls steer (loudness, chroma, timbre) acts through magnitudes and relative
phases, which do carry gradients.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, gelu, pad

from ditto.audio.features import mel_db, mel_filterbank
from ditto.audio.framing import frames_of, overlap_add, real_fft
from ditto.audio.spec import AudioSpec
from ditto.models.network import Network
from ditto.tables import table

LEVEL_FRAMES = 9
"""Frames over which levels are averaged."""

CONTRAST_BANDS = 9
CONTRAST_DB = 4.0
"""A peak is a tone when, averaged over `LEVEL_FRAMES`, it is this much above the mean of the bands
around it."""

ALWAYS_TONAL_HERTZ = (800.0, 2500.0)
"""Below the first, every peak is a tone; towards the second the contrast gains its full say."""

MAX_CORRECTION = 6.0
"""Smooth bound of the head's correction of a log magnitude, nepers (52 dB)."""

MAX_FEEDBACK = 2.0
"""Smooth bound of one feedback's correction, nepers (17 dB)."""
MOST_FEEDBACK = 16
"""Most rounds of it: a model's folder may ask for any number."""


class Spectrum(NamedTuple):
    """An STFT with phases counted from the frames' centres. Pairs of real tensors are faster here
    than complex ones.
    """

    real: Tensor
    """Shape (B, frames, n_fft // 2 + 1)."""
    imaginary: Tensor
    """Same shape."""


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, as a residual (Liu et al. 2022), on
    (B, frames, C).
    """

    def __init__(self, width: int, expansion: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            width, width, (1, kernel), padding=(0, kernel // 2), groups=width
        )
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width * expansion)
        self.project = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, frames, C) to the same shape."""
        y = self.norm(_over_time(self.depthwise, x))
        return x + self.scale * self.project(gelu(self.expand(y)))


class Vocoder(Network):
    """Log-mel to waveform.

    Args:
        sample_rate: of the waveform, Hz.
        mel_n_fft: STFT window of the log-mel, samples.
        hop: samples per frame, of the log-mel and of the head.
        n_mels: mel bands.
        dynamic_range_db: dB that x_0's range [-1, 1] stands for.
        n_fft: window of the head's inverse STFT, samples; at least 2 hops.
        width: channels of the trunk.
        depth: number of ConvNeXt blocks.
        expansion: width of a block's MLP over `width`.
        kernel: frames that a convolution spans, odd.
        feedback: times that the sound's own log-mel is compared with x_0 and corrected.

    Raises:
        ValueError: a setting is out of range.
    """

    low_precision = ("blocks",)
    seeded = True
    centres: Tensor
    to_bins: Tensor
    band_of_bin: Tensor
    to_mel_bins: Tensor
    mel_filters: Tensor
    half_window_shift: Tensor
    window: Tensor
    mel_window: Tensor

    def __init__(
        self,
        sample_rate: int = 22_050,
        mel_n_fft: int = 2048,
        hop: int = 256,
        n_mels: int = 160,
        dynamic_range_db: float = 160.0,
        n_fft: int = 1024,
        width: int = 192,
        depth: int = 6,
        expansion: int = 3,
        kernel: int = 7,
        feedback: int = 3,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or n_fft < 2 * hop or not 0 <= feedback <= MOST_FEEDBACK:
            raise ValueError(
                f"kernel must be odd, n_fft at least 2 hops and feedback 0 to {MOST_FEEDBACK}, not "
                f"{kernel}, {n_fft} and {feedback}"
            )
        self.spec = AudioSpec(sample_rate, mel_n_fft, hop, n_mels, dynamic_range_db)
        self.embed = nn.Conv2d(n_mels, width, (1, kernel), padding=(0, kernel // 2))
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, expansion, kernel, 1 / depth) for _ in range(depth)
        )
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * (n_fft // 2 + 1))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # fixed tables, made anew from the config, so that a file of weights holds weights only
        centres = band_centres(self.spec)
        position = _band_position(centres, n_fft, sample_rate)
        self._table("centres", centres)
        self._table("to_bins", _linear_interpolation(position, n_mels))
        self._table(
            "to_mel_bins",
            _linear_interpolation(_band_position(centres, mel_n_fft, sample_rate), n_mels),
        )
        self.register_buffer("band_of_bin", position.round().long(), persistent=False)
        self._table("mel_filters", mel_filterbank(self.spec, dtype=torch.float64))
        # a phase at a frame's centre differs by pi from that at its start in every other bin
        self._table("half_window_shift", 1.0 - 2.0 * (torch.arange(n_fft // 2 + 1) % 2))
        self._table("window", torch.hann_window(n_fft, dtype=torch.float64))
        # a full-scale sine has magnitude 1, as in a log-mel
        self._table(
            "mel_window", torch.hann_window(mel_n_fft, dtype=torch.float64) * (4 / mel_n_fft)
        )

    def forward(
        self, x_0: Tensor, seed: int | Sequence[int] = 0, feedback: int | None = None
    ) -> Tensor:
        """Synthesise the waveform of a log-mel.

        Args:
            x_0: shape (B, n_mels, frames), in [-1, 1] (somewhat beyond is fine).
            seed: of the carriers' first phases and noise: one for all items, or each item's own.
            feedback: rounds of feedback; None is the config's number.

        Returns:
            Shape (B, frames * hop), full scale is [-1, 1] (not limited).
        """
        audio = self.synthesise(self.spectrum(x_0, self.carrier(x_0, seed)))
        rounds = self.config["feedback"] if feedback is None else feedback
        for _ in range(rounds if self._has_mel(x_0) else 0):
            audio = self.correct(audio, x_0)
        return audio

    def fast(self) -> "FastVocoder":
        """Return the same vocoder without its feedback."""
        return FastVocoder(self)

    def spectrum(self, x_0: Tensor, carrier: Spectrum) -> Spectrum:
        """Compute the STFT of a log-mel of shape (B, n_mels, frames), before any feedback."""
        levels = mel_db(x_0, self.spec)
        hidden = self._trunk((levels - _local_level(levels) + 40) / 20)
        correction, turn = self.head(hidden).chunk(2, dim=2)
        prior = levels.transpose(1, 2) @ self.to_bins.T * (math.log(10) / 20) + math.log(
            self.config["n_fft"] / 4
        )
        magnitude = (prior + _bounded(correction, MAX_CORRECTION)).exp()
        along, across = magnitude * turn.cos(), magnitude * turn.sin()
        return Spectrum(
            carrier.real * along - carrier.imaginary * across,
            carrier.real * across + carrier.imaginary * along,
        )

    @torch.no_grad()
    def carrier(self, x_0: Tensor, seed: int | Sequence[int] = 0) -> Spectrum:
        """Compute the carriers, of magnitude 1 and constant to autograd.

        A tonal peak's carrier is its integrated phase; elsewhere it is the phase of white noise,
        whose frames fit together as those of independent random phases would not.
        """
        levels = mel_db(x_0, self.spec)
        owner, hertz = peaks(levels, self.centres)
        seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        first = _first_phases(self.spec.n_mels, seeds, levels.dtype, levels.device)
        angle = 2 * math.pi * carriers(owner, hertz, first, self.spec)
        share = tonality(levels, owner, self.centres)
        tones = torch.stack([share * angle.cos(), share * angle.sin(), 1 - share])[
            :, :, self.band_of_bin
        ]
        real, imaginary, noise = tones.transpose(2, 3)
        size = self.config["n_fft"], self.spec.hop, x_0.shape[-1]
        hiss = _hiss(*size, seeds, noise.dtype, noise.device)
        real, imaginary = real + noise * hiss.real, imaginary + noise * hiss.imaginary
        scale = (real.square() + imaginary.square()).clamp(min=1e-12).rsqrt()
        return Spectrum(real * scale, imaginary * scale)

    def synthesise(self, spectrum: Spectrum) -> Tensor:
        """Invert an STFT to exactly frames * hop samples: (B, frames * hop)."""
        n_fft, hop = self.config["n_fft"], self.spec.hop
        stft = torch.complex(spectrum.real, spectrum.imaginary) * self.half_window_shift
        return _inverse(torch.fft.irfft(stft, n_fft), self.window, hop)

    def correct(self, audio: Tensor, x_0: Tensor) -> Tensor:
        """Filter the sound so that its own log-mel comes nearer to x_0: one round of feedback.

        Phases that do not quite fit together cancel some of what the head asked for.

        Args:
            audio: shape (B, frames * hop), longer than half a mel window.
            x_0: shape (B, n_mels, frames).

        Returns:
            Of the shape of `audio`.
        """
        n_fft, hop, frames = self.spec.n_fft, self.spec.hop, x_0.shape[-1]
        around = pad(audio[:, None], (n_fft // 2, n_fft // 2 - hop), mode="reflect")[:, 0]
        stft = real_fft(frames_of(around, n_fft, hop)[:, :frames] * self.mel_window)
        mel = (stft.real.square() + stft.imag.square()) @ self.mel_filters.T
        heard = 10 * torch.log10(mel + 10 ** (-self.spec.dynamic_range_db / 10))
        wanted = mel_db(x_0, self.spec).transpose(1, 2)
        nepers = _bounded((wanted - heard) * (math.log(10) / 20), MAX_FEEDBACK)
        gain = (nepers @ self.to_mel_bins.T).exp()
        return _inverse(torch.fft.irfft(stft * gain, n_fft), self.mel_window, hop)

    def _table(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.float(), persistent=False)

    def _has_mel(self, x_0: Tensor) -> bool:
        """Tell whether the clip's sound is long enough to compute its log-mel."""
        return x_0.shape[-1] * self.spec.hop > self.spec.n_fft // 2

    def _trunk(self, features: Tensor) -> Tensor:
        x = self.embed_norm(_over_time(self.embed, features.transpose(1, 2)))
        dtype, x = x.dtype, x.to(self.blocks[0].scale.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head_norm(x.to(dtype))


class FastVocoder(nn.Module):
    """A vocoder without its feedback: faster and rougher, for use while optimising."""

    low_precision = ("vocoder.blocks",)
    seeded = True

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, x_0: Tensor, seed: int | Sequence[int] = 0) -> Tensor:
        """See `Vocoder.forward`."""
        return self.vocoder(x_0, seed, feedback=0)


KEPT_NOISES = 16
"""Kept for as many clips that are optimised in turn. Of 6 s one is 2 MB, and making it anew takes a
tenth of the time of an iteration that hears the sound."""


@table(maxsize=KEPT_NOISES)
def _first_phases(
    bands: int, seeds: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the bands' phases before the first frame, in cycles, shape (seeds, bands)."""
    drawn = np.stack([np.random.default_rng(seed).random(bands) for seed in seeds])
    return torch.from_numpy(drawn).to(dtype).to(device)


@table(maxsize=KEPT_NOISES)
def _hiss(
    n_fft: int,
    hop: int,
    frames: int,
    seeds: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Spectrum:
    """Return white noise's phases at the frames' centres as numbers of magnitude 1.

    Shape (seeds, frames, n_fft // 2 + 1) each.
    """
    size = (frames - 1) * hop + n_fft
    samples = np.stack([np.random.default_rng([s, 1]).standard_normal(size) for s in seeds])
    window = torch.hann_window(n_fft, dtype=torch.float64)
    stft = torch.fft.rfft(frames_of(torch.from_numpy(samples), n_fft, hop) * window)
    phasors = stft / stft.abs().clamp(min=1e-12) * (1.0 - 2.0 * (torch.arange(n_fft // 2 + 1) % 2))
    parts = phasors.real.contiguous(), phasors.imag.contiguous()
    return Spectrum(*(part.to(dtype).to(device) for part in parts))


def _inverse(frames: Tensor, window: Tensor, hop: int) -> Tensor:
    """Overlap-add windowed frames of a centred STFT: (B, frames, n_fft) → (B, frames * hop)."""
    count, n_fft = frames.shape[1:]
    added = overlap_add(frames * window, hop)[:, n_fft // 2 : n_fft // 2 + count * hop]
    unwindowed = _unwindowed(n_fft, hop, count, added.dtype, added.device)
    return added * unwindowed / window.amax().square()


@table(maxsize=16)
def _unwindowed(
    n_fft: int, hop: int, count: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return 1 / (sum of the squared Hann windows) at each of the count * hop samples."""
    square = torch.hann_window(n_fft, dtype=torch.float64).square()
    total = overlap_add(square.expand(1, count, n_fft), hop)
    return (1 / total[:, n_fft // 2 : n_fft // 2 + count * hop]).to(dtype).to(device)


def carriers(owner: Tensor, hertz: Tensor, first: Tensor, spec: AudioSpec) -> Tensor:
    """Integrate the phase of the peak that owns each mel band, in cycles within [0, 1).

    A band goes on from where its present owner's band stood one frame ago, so all bands of a peak
    turn together.

    Args:
        owner: index of the peak band that owns each band, shape (B, n_mels, frames).
        hertz: frequency of a peak in each band, same shape; read where a band owns itself.
        first: phases of the bands before the first frame, cycles, shape (B or 1, n_mels). Equal
            ones would make a click.
        spec: rates and sizes.

    Returns:
        Shape (B, n_mels, frames).
    """
    # Each frame maps phases to phases: band b goes on from band owner[b], by turn[b]. Such maps
    # compose to one of the same kind, so all frames are reached in log2(frames) doublings (a prefix
    # scan) instead of one after the other.
    turn = (hertz.gather(1, owner) * (spec.hop / spec.sample_rate)).transpose(1, 2).frac()
    source = owner.transpose(1, 2).contiguous()
    reach = 1
    while reach < turn.shape[1]:
        earlier, later = slice(None, -reach), source[:, reach:]
        turned = turn[:, reach:] + turn[:, earlier].gather(2, later)
        turn = torch.cat([turn[:, :reach], turned.frac()], dim=1)
        source = torch.cat([source[:, :reach], source[:, earlier].gather(2, later)], dim=1)
        reach *= 2
    begun = first[:, None].expand_as(turn).gather(2, source)
    return (begun + turn).frac().transpose(1, 2)


def peaks(levels: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Find the local maximum nearest to each band, and the top of a parabola through it.

    Args:
        levels: dB, shape (B, n_mels, frames).
        centres: of the bands, Hz, shape (n_mels,).

    Returns:
        Index of the nearest maximum (the band itself where a frame has none), and the frequency in
        Hz of the parabola's top, within half a band of the centre, for every band; both of the
        shape of `levels`.
    """
    bands = torch.arange(levels.shape[1], device=levels.device)[None, :, None].expand_as(levels)
    around = pad(levels, (0, 0, 1, 1), value=-1e4)
    below, above = around[:, :-2], around[:, 2:]
    is_peak = (levels > below) & (levels >= above)
    none = 4 * levels.shape[1]
    under = torch.where(is_peak, bands, -none).cummax(dim=1).values
    over = torch.where(is_peak, bands, none).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where(bands - under <= over - bands, under, over)
    owner = nearest.where((nearest >= 0) & (nearest < levels.shape[1]), bands)
    curvature = (2 * levels - below - above).clamp(min=1e-3)
    offset = ((above - below) / (2 * curvature)).clamp(-0.5, 0.5)
    steps = centres.diff()
    step = torch.where(
        offset > 0, torch.cat([steps, steps[-1:]])[:, None], torch.cat([steps[:1], steps])[:, None]
    )
    return owner, centres[:, None] + step * offset


def band_centres(spec: AudioSpec) -> Tensor:
    """Return the centre frequencies of the mel bands in Hz, shape (n_mels,), float64."""
    filters = mel_filterbank(spec, dtype=torch.float64)
    bins = torch.arange(spec.n_fft // 2 + 1, dtype=torch.float64) * (spec.sample_rate / spec.n_fft)
    return (filters @ bins) / filters.sum(dim=1)


def tonality(levels: Tensor, owner: Tensor, centres: Tensor) -> Tensor:
    """Measure how tonal the peak that owns each band is, in (0, 1), shape (B, n_mels, frames).

    Averaged over time, a tone stands out from its surroundings and noise does not. Low bands, where
    the partials of chords lie as densely as the bands, count as tonal whatever their contrast.

    Args:
        levels: dB, shape (B, n_mels, frames).
        owner: index of the peak band of each band, same shape.
        centres: of the bands, Hz, shape (n_mels,).
    """
    steady = avg_pool1d(levels, LEVEL_FRAMES, 1, LEVEL_FRAMES // 2, count_include_pad=False)
    around = avg_pool1d(
        steady.transpose(1, 2), CONTRAST_BANDS, 1, CONTRAST_BANDS // 2, count_include_pad=False
    )
    contrast = (steady - around.transpose(1, 2)).gather(1, owner)
    low, high = ALWAYS_TONAL_HERTZ
    share = ((centres - low) / (high - low)).clamp(0, 1)[:, None]
    return torch.sigmoid(contrast - (CONTRAST_DB * share - 30 * (1 - share)))


def _local_level(levels: Tensor) -> Tensor:
    """Sum power over bands and average it over `LEVEL_FRAMES`, in dB.

    (B, n_mels, frames) → (B, 1, frames).
    """
    frame = torch.logsumexp(levels * (math.log(10) / 10), dim=1, keepdim=True)
    peak = frame.detach().amax(dim=-1, keepdim=True)
    mean = avg_pool1d(
        (frame - peak).exp(), LEVEL_FRAMES, 1, LEVEL_FRAMES // 2, count_include_pad=False
    )
    return (mean.clamp(min=1e-16).log() + peak) * (10 / math.log(10))


def _bounded(x: Tensor, limit: float) -> Tensor:
    """Limit smoothly to ±`limit`."""
    return limit * torch.tanh(x / limit)


def _over_time(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve (B, frames, C) over time as channels-last images, faster on CPUs than Conv1d."""
    return convolution(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)


def _band_position(centres: Tensor, n_fft: int, sample_rate: int) -> Tensor:
    """Return the mel-band index of each bin of an STFT, fractional.

    Shape (n_fft // 2 + 1,), float64.
    """
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    return torch.from_numpy(np.interp(bins, centres.numpy(), np.arange(len(centres))))


def _linear_interpolation(position: Tensor, size: int) -> Tensor:
    """Return the matrix (len(position), size) that reads a vector at fractional positions."""
    grid = torch.arange(size, dtype=position.dtype)
    return (1 - (position[:, None] - grid).abs()).clamp(min=0)
