"""Clips on disk, so that tables share them and a killed run goes on; and where a result came from.

A clip's file is named by a hash of everything that determines it and what it took: the resolved
request (targets, tags, seed and method in it), the models, the precision, the machine, and the code
of methods, controls and edits, whose constants no request names.
"""

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import ditto
from ditto.errors import DataError, OutputError
from ditto.paths import atomic_file, printable

VERSION = 5
"""Of what tasks make: raise it when they change, and no old clip is used again."""

Tensors = dict[str, Tensor]


class ResultCache:
    """A folder of finished clips.

    Attributes:
        folder: where they are.
        resume: use clips that earlier runs finished; clips of this run are used in any case.
    """

    def __init__(self, folder: Path, *, resume: bool = True) -> None:
        self.folder, self.resume = folder, resume
        self._made: set[Path] = set()
        self._alone: set[Path] = set()

    def path(self, name: str, identity: Mapping[str, Any]) -> Path:
        """Return the file of a clip.

        Args:
            name: of the clip, for people.
            identity: JSON of everything that determines it.
        """
        text = json.dumps([VERSION, identity], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{digest}.safetensors"

    def read(self, path: Path) -> Tensors | None:
        """Return a clip's tensors, or None if it has yet to be made.

        Raises:
            DataError: the file is damaged.
        """
        if not (self.resume or path in self._made) or not path.is_file():
            return None
        try:
            # copies: views of the file would keep it open, and Windows from replacing it
            return {name: value.clone() for name, value in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            kind = type(error).__name__
            raise DataError(
                f"{printable(path)} is damaged ({kind}): delete it, or give --no-resume"
            ) from None

    def made(self, path: Path) -> bool:
        """Tell whether a clip was made in this run and by this process, so that its times count."""
        return path in self._made

    def alone(self, path: Path) -> bool:
        """Tell whether this process made a clip in this run, and not in a batch."""
        return path in self._alone

    def write(self, path: Path, tensors: Tensors, *, alone: bool = False) -> None:
        """Keep a clip, whole or not at all.

        Args:
            path: its file.
            tensors: the clip.
            alone: it was not made in a batch.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {printable(path.parent)}: {error.strerror}"
            ) from None
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_file(path, force=True) as temporary:
            save_file(kept, temporary)
        self._made.add(path)
        if alone:
            self._alone.add(path)


def retimed(kept: Tensors | None, made: Tensors) -> Tensors:
    """Return a clip as it is kept, with the times of the same clip made again."""
    times = {name: value for name, value in made.items() if name.startswith(("seconds", "timed"))}
    return made if kept is None else kept | times


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine() -> dict[str, Any]:
    """Return what timings depend on: processor, cores of this process, threads, GPU, torch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
    }


CODE = (
    "audio/*.py",
    "controls/*.py",
    "diffusion/*.py",
    "edit/*.py",
    "methods/*.py",
    "latents.py",
    "models/vocoder.py",
    "optimize.py",
)
"""Files of the package that no request describes in full."""


@cache
def code_digest(root: Path = Path(ditto.__file__).parent) -> str:
    """Hash the code of `CODE` without comments and docstrings."""
    digest = hashlib.sha256()
    for path in sorted(file for pattern in CODE for file in root.glob(pattern)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [each for each in body if not _is_text(each)]  # pyright: ignore[reportAttributeAccessIssue]
        digest.update(f"{path.name} {ast.dump(tree)}".encode())
    return digest.hexdigest()[:20]


def _is_text(node: ast.AST) -> bool:
    """Tell whether a statement is a docstring, or the text below a constant."""
    value = getattr(node, "value", None)
    return isinstance(node, ast.Expr) and isinstance(value, ast.Constant)


def git_commit() -> str | None:
    """Return the checkout's commit, with "+" if tracked files differ; None outside a checkout."""
    folder = Path(__file__).parent
    head = ["git", "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(
            head, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.returncode else "")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
