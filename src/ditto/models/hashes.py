"""Hashes that name a model: of its files, of its weights, and of a model with its student."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin


def fingerprint(network: ModelMixin) -> str:
    """SHA-256 over the weights as they are stored, in float16: the same before a network is saved
    and after.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprints(networks: Iterable[torch.nn.Module]) -> str:
    """SHA-256 over the `fingerprint` of each."""
    return hashlib.sha256(
        "".join(fingerprint(network) for network in networks).encode()
    ).hexdigest()  # pyright: ignore[reportArgumentType]


def file_sha256(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def combined(hashes: dict[str, str]) -> str:
    """The hash of a model, of its parts' hashes."""
    base = hashlib.sha256(
        "".join(hashes[name] for name in ("denoiser", "vocoder")).encode()
    ).hexdigest()
    return extended(base, hashes["student"]) if "student" in hashes else base


def extended(base: str, student: str) -> str:
    """The hash of a model with a student, of both their hashes."""
    return hashlib.sha256((base + student).encode()).hexdigest()
