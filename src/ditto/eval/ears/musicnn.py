"""Hear tags and embeddings by musicnn (Pons & Serra 2019), in torch.

A convolutional network on log-mels of 16 kHz, in patches of 3 s: filters over frequency ("timbral")
and over time ("temporal"), each at its maximum over frequency; three layers over time; the maximum
and the mean over time; a dense layer of 200, which is the embedding; a sigmoid for each of 50 tags.
Two are read: trained on the Million Song Dataset (MSD) and on MagnaTagATune (MTT). The weights come
from the wheel (ISC licence), whose package needs TensorFlow and is not imported.

One clip of 5.94 s takes 3 patches.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from transformers.audio_utils import mel_filter_bank

from ditto.errors import ModelError
from ditto.eval.ears.tf_checkpoint import read_checkpoint
from ditto.eval.ears.wheels import INSTALL, wheel_file

SAMPLE_RATE, N_FFT, HOP, N_MELS = 16_000, 512, 256, 96
PATCH_FRAMES = 187
"""Frames of a patch, 2.99 s: what the networks were trained on."""
PATCH_HOP = 92
"""Frames from one patch to the next: they overlap by half."""
EMBEDDING = 200

Name = Literal["MSD_musicnn", "MTT_musicnn"]
_MSD = (
    "rock|pop|alternative|indie|electronic|female vocalists|dance|00s|alternative rock|jazz|"
    "beautiful|metal|chillout|male vocalists|classic rock|soul|indie rock|Mellow|electronica|"
    "80s|folk|90s|chill|instrumental|punk|oldies|blues|hard rock|ambient|acoustic|experimental|"
    "female vocalist|guitar|Hip-Hop|70s|party|country|easy listening|sexy|catchy|funk|electro|"
    "heavy metal|Progressive rock|60s|rnb|indie pop|sad|House|happy"
)
_MTT = (
    "guitar|classical|slow|techno|strings|drums|electronic|rock|fast|piano|ambient|beat|violin|"
    "vocal|synth|female|indian|opera|male|singing|vocals|no vocals|harpsichord|loud|quiet|"
    "flute|woman|male vocal|no vocal|pop|soft|sitar|solo|man|classic|choir|voice|new age|dance|"
    "male voice|female vocal|beats|harp|cello|no voice|weird|country|metal|female voice|choral"
)
TAGS: dict[Name, tuple[str, ...]] = {
    "MSD_musicnn": tuple(_MSD.split("|")),
    "MTT_musicnn": tuple(_MTT.split("|")),
}
"""Names of the tags, in the order of the outputs."""

_TIMBRAL, _TEMPORAL, _MIDDLE = 204, 51, 64  # channels of a filter bank
_FRONT = 2 * _TIMBRAL + 3 * _TEMPORAL
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Heard(NamedTuple):
    """What musicnn makes of patches."""

    tags: Tensor
    """Probabilities, shape (…, 50), in the order of `TAGS`."""
    embedding: Tensor
    """Shape (…, 200)."""


class MusicNN(nn.Module):
    """``log-mel patches (N, 187, 96) -> Heard``."""

    def __init__(self) -> None:
        super().__init__()
        timbral = [nn.Conv2d(1, _TIMBRAL, (7, n), padding=(3, 0)) for n in (38, 67)]
        temporal = [nn.Conv2d(1, _TEMPORAL, (n, 1), padding=(n // 2, 0)) for n in (128, 64, 32)]
        middle = [nn.Conv1d(n, _MIDDLE, 7, padding=3) for n in (_FRONT, _MIDDLE, _MIDDLE)]
        pooled = 2 * (_FRONT + 3 * _MIDDLE)
        widths = [1, *[c.out_channels for c in (*timbral, *temporal)]]
        dense = [nn.BatchNorm1d(n, eps=1e-3) for n in (*[_MIDDLE] * 3, pooled, EMBEDDING)]
        self.convolutions = nn.ModuleList([*timbral, *temporal, *middle])
        self.norms = nn.ModuleList([*[nn.BatchNorm2d(n, eps=1e-3) for n in widths], *dense])
        self.dense = nn.ModuleList([nn.Linear(pooled, EMBEDDING), nn.Linear(EMBEDDING, 50)])

    def forward(self, patches: Tensor) -> Heard:
        """Hear log-mel patches (N, 187, 96), as `log_mel_patches` makes them."""
        x = self.norms[0](patches.unsqueeze(1))
        layers = list(zip(self.convolutions, self.norms[1:9], strict=True))
        # TensorFlow pads an even kernel by one frame less before than after.
        front = torch.cat(
            [norm(relu(conv(x)[:, :, -x.shape[2] :])).amax(dim=3) for conv, norm in layers[:5]],
            dim=1,
        )
        features, deep = [front], front
        for i, (conv, norm) in enumerate(layers[5:]):
            y = norm(relu(conv(deep)))
            deep = y if i == 0 else y + deep
            features.append(deep)
        over_time = torch.cat(features, dim=1)
        pooled = torch.stack([over_time.amax(dim=2), over_time.mean(dim=2)], dim=2).flatten(1)
        embedding = self.norms[10](relu(self.dense[0](self.norms[9](pooled))))
        return Heard(torch.sigmoid(self.dense[1](embedding)), embedding)


def load_musicnn(name: Name) -> MusicNN:
    """Load a network from the installed wheel.

    Raises:
        ModelError: musicnn is not installed, or its files are not those of version 0.1.0.
    """
    index, _ = (
        wheel_file("musicnn", f"{name}/{ending}") for ending in (".index", ".data-00000-of-00001")
    )
    variables = read_checkpoint(f"{index.parent}/", lambda key: "Adam" not in key)
    state = {
        ours: torch.tensor(variable)
        for key, variable in variables.items()
        if (ours := _name(key)) is not None
    }
    for key, weight in state.items():
        if key.endswith("weight") and weight.ndim == 4:  # TensorFlow: height, width, in, out
            kernel = weight.permute(3, 2, 0, 1)
            middle = int(key.split(".")[1]) >= 5
            state[key] = kernel.squeeze(1).transpose(1, 2) if middle else kernel
        elif key.startswith("dense") and weight.ndim == 2:
            state[key] = weight.T
    network = MusicNN()
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError:
        raise ModelError(f"{name} has weights of other shapes: {INSTALL['musicnn']}") from None
    absent = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if absent or result.unexpected_keys:
        raise ModelError(f"{name} has other weights than version 0.1.0: {INSTALL['musicnn']}")
    return network.requires_grad_(False).eval()


@torch.no_grad()
def listen(network: MusicNN, patches: Tensor, *, batch_size: int = 24) -> Heard:
    """Hear the patches (B, P, 187, 96) of B clips.

    Returns:
        Tags (B, P, 50) and embeddings (B, P, 200).
    """
    heard = [network(part) for part in patches.flatten(0, 1).split(batch_size)]
    tags, embedding = (torch.cat(parts) for parts in zip(*heard, strict=True))
    return Heard(*(x.unflatten(0, patches.shape[:2]) for x in (tags, embedding)))


def log_mel_patches(audio: Tensor) -> Tensor:
    """Cut the log-mels of clips into patches that overlap by half.

    The levels are log10(1 + 10 000·power), of librosa's mel power: a centred Hann window of 512
    samples (the ends reflected, as librosa did when the networks were trained), 96 Slaney filters
    of area 1.

    Args:
        audio: (B, samples) at 16 kHz, at least 2.98 s long.

    Returns:
        (B, P, 187, 96) float32.

    Raises:
        ValueError: the clips are shorter than a patch.
    """
    mel = mel_power(audio.float())
    if mel.shape[1] < PATCH_FRAMES:
        raise ValueError(f"musicnn hears clips of 2.98 s or more, not {audio.shape[1]} samples")
    return torch.log10(1 + 10_000 * mel).unfold(1, PATCH_FRAMES, PATCH_HOP).transpose(2, 3)


def mel_power(audio: Tensor) -> Tensor:
    """Compute mel powers (B, 1 + samples // 256, 96) of audio (B, samples) at 16 kHz."""
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(audio, N_FFT, HOP, window=window, pad_mode="reflect", return_complex=True)
    return spectrum.abs().square().transpose(1, 2) @ _filters()


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    """Compute mel filters (257, 96)."""
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=N_MELS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    with torch.inference_mode(False):
        return torch.tensor(filters, dtype=torch.float32)


def _name(key: str) -> str | None:
    """Return our name of a variable of the checkpoint; None for what is no weight."""
    layer, _, part = key.rpartition("/")
    kind, _, number = layer.rpartition("_") if layer[-1:].isdigit() else (layer, "", "0")
    if kind == "batch_normalization" and part in _BATCH_NORM:
        return f"norms.{number}.{_BATCH_NORM[part]}"
    ours = {"conv2d": "convolutions", "dense": "dense"}.get(kind)
    if ours is None or part not in ("kernel", "bias"):
        return None
    return f"{ours}.{number}.{'weight' if part == 'kernel' else 'bias'}"
