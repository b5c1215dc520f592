"""What a request came to, and its files: the sound, a picture and a report."""

import json
import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import SUBTYPES, write
from ditto.controls.base import Output
from ditto.errors import OutputError
from ditto.latents import Latent
from ditto.models.model import MusicModel
from ditto.paths import StrPath, atomic_file, check_output, printable
from ditto.request import Request

MAX_COMMENT = 1900
"""Bytes of a report that go into a sound file's comment (wav holds 2000)."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a request came to.

    Attributes:
        request: the resolved request.
        model: what made it.
        x_T: the latents decoded, (B, …, frames) of the model's `shape`.
        x_0: shape (B, …, frames).
        audio: (B, samples) float32 within ±1: what the controls were measured on.
        losses: (K, B) of the optimisation; K = 0 without one.
        errors: per-control errors of the decoded output, each (B,).
        timings: seconds by phase.
        sound: (B, channels, samples) as it is saved, where that is more than `audio`.
    """

    request: Request
    model: MusicModel
    x_T: Tensor
    x_0: Tensor
    audio: Tensor
    losses: Tensor
    errors: dict[str, Tensor]
    timings: dict[str, float]
    sound: Tensor | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        model: MusicModel,
        x_T: Tensor,
        x_0: Tensor,
        losses: Tensor,
        timings: dict[str, float],
        **more: Any,
    ) -> Self:
        """Return the result of a decoded x_0: makes its sound and measures its controls' errors."""
        with torch.no_grad():
            sound = model.to_sound(x_0)
            audio, control = sound.mean(dim=1), request.control
            errors = control.errors(Output(x_0, model, audio, x_T=x_T)) if control else {}
        return cls(
            request=request,
            model=model,
            x_T=x_T.cpu(),
            x_0=x_0.detach().cpu(),
            audio=audio.cpu(),
            losses=losses.cpu(),
            errors={name: values.cpu() for name, values in errors.items()},
            timings=timings,
            sound=sound.cpu() if sound.shape[1] > 1 else None,
            **more,
        )

    def report(self, item: int = 0) -> dict[str, Any]:
        """Return everything about one item as JSON: request, model, versions, errors, timings."""
        return {
            "request": self.request.to_dict() | {"seed": self.request.seed + item, "count": 1},
            "model": self.model.describe(),
            "versions": versions(),
            "sample_rate": self.model.spec.sample_rate,
            "seconds": self.audio.shape[1] / self.model.spec.sample_rate,
            "errors": {name: _json(value[item].item()) for name, value in self.errors.items()},
            "loss": [_json(value) for value in self.losses[:, item].tolist()],
            "timings": {name: round(value, 3) for name, value in self.timings.items()},
        }

    def save(self, path: StrPath, item: int = 0, *, force: bool = False) -> list[Path]:
        """Write one item's sound, and beside it its picture (.png) and report (.json).

        Request, seed and hashes are in the sound file's own tags too.

        Args:
            path: the sound file; its ending chooses the format.
            item: of the batch.
            force: replace files that exist.

        Returns:
            The three paths.

        Raises:
            OutputError: a file exists already (without `force`), cannot be written, or is not a
                sound file by its name; nothing is then written.
        """
        from ditto.plots import clip_picture  # matplotlib is slow to import

        sound, picture, report = output_files(path, force=force)
        title = self.title(item)
        tags = {
            "title": title,
            "software": f"ditto-music {version('ditto-music')}",
            "comment": self._comment(item),
        }
        text = json.dumps(self.report(item), indent=2)
        write(sound, self.samples(item), self.model.spec.sample_rate, tags=tags, force=force)
        with atomic_file(report, force=force) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        control = self.request.control
        with torch.no_grad():
            output = Output(self.x_0, self.model, self.audio)
            clip_picture(
                picture,
                output.mel[item],
                self.model.spec,
                panels=control.panels(output, item) if control else [],
                losses=self.losses[:, item].tolist(),
                title=title,
                force=force,
            )
        return [sound, picture, report]

    def title(self, item: int = 0) -> str:
        """Return one line about an item: tags, seed and method."""
        method = self.request.method.name if self.request.method else "none"
        return f"{self.request.tags.caption()} Seed {self.request.seed + item}, {method}."

    def latent(self, item: int = 0) -> Latent:
        """Return x_T of one item, to keep, vary, or start from again."""
        request = self.report(item)["request"]
        x_T = self.x_T[item : item + 1].clone()
        return Latent(x_T, self.model.sha256, request, f"seed {request['seed']}")

    def samples(self, item: int = 0) -> np.ndarray:
        """Return the sound of one item: (samples,), or (channels, samples) in stereo, float32."""
        return (self.audio if self.sound is None else self.sound)[item].numpy()

    def _comment(self, item: int) -> str:
        """Return request, model and versions as JSON, less what a tag has no room for."""
        whole = {
            key: value
            for key, value in self.report(item).items()
            if key in ("request", "model", "versions")
        }
        text = json.dumps(whole, separators=(",", ":"))
        if len(text.encode()) <= MAX_COMMENT:
            return text
        names = ", ".join(control["control"] for control in whole["request"]["controls"])
        whole["request"] |= {"controls": f"{names} (in full in the .json)"}
        del whole["versions"]
        return json.dumps(whole, separators=(",", ":"))


def output_files(path: StrPath, *, force: bool = False) -> tuple[Path, Path, Path]:
    """Return the sound, picture and report that saving to `path` writes, after checking each.

    Raises:
        OutputError: the name's ending is not that of a sound file, or a file may not be written.
    """
    sound = Path(path)
    if sound.suffix.lower() not in SUBTYPES:
        raise OutputError(
            f"cannot write {printable(path)}: its name must end in {', '.join(SUBTYPES)}"
        )
    files = sound, sound.with_suffix(".png"), sound.with_suffix(".json")
    for file in files:
        check_output(file, force=force)
    return files


def numbered(path: Path, count: int) -> list[Path]:
    """Return `path` itself for one clip; ``name-0.wav``, ``name-1.wav``, … for more."""
    names = [f"{path.stem}-{i}{path.suffix}" for i in range(count)]
    return [path] if count == 1 else [path.parent / name for name in names]


def versions() -> dict[str, str]:
    """Return the versions that numbers depend on."""
    return {
        "ditto": version("ditto-music"),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
    }


def _json(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
