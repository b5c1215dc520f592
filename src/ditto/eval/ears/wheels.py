"""Weights within installed wheels, found and verified without importing the packages."""

import base64
import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ditto.errors import ModelError, one_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INSTALL = {
    "musicnn": "pip install --no-deps musicnn==0.1.0",
    "basic-pitch": "pip install --no-deps basic-pitch==0.4.0",
    "onnxruntime": "pip install 'ditto-music[ears]'",
    "swift-f0": "pip install 'ditto-music[ears]'",
}
"""How to install each package of the ears."""


def missing(package: str) -> ModelError:
    """Return the error that says how to install a package."""
    return ModelError(f"this ear needs {package}, which is not installed: {INSTALL[package]}")


def wheel_file(package: str, name: str) -> Path:
    """Find a file of an installed package and check it against the hash in the wheel's RECORD.

    Args:
        package: name on PyPI, a key of `INSTALL`.
        name: the end of the file's path, from a slash on.

    Returns:
        Its path on this machine.

    Raises:
        ModelError: the package is not installed, has no such file, or the file is not what was
            installed.
    """
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise missing(package) from None
    entry = next((file for file in listed if f"/{file.as_posix()}".endswith(f"/{name}")), None)
    if entry is None:
        raise ModelError(f"the installed {package} has no {name}: {INSTALL[package]}")
    path = Path(str(entry.locate()))
    try:
        digest = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        raise ModelError(f"cannot read {name} of {package}: {INSTALL[package]}") from None
    encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if entry.hash is not None and entry.hash.mode == "sha256" and entry.hash.value != encoded:
        raise ModelError(f"{name} of {package} is damaged: {INSTALL[package]} --force-reinstall")
    return path


def onnx_session(path: Path, *, threads: int = 1) -> "InferenceSession":
    """Load an ONNX network for the CPU.

    Args:
        path: the .onnx file.
        threads: that one run uses.

    Raises:
        ModelError: onnxruntime is not installed, or it cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, one for each thing that is wrong
        raise ModelError(f"cannot load {path.name}: {one_line(error)}") from error
