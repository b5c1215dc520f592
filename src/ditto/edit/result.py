"""What an edit came to, and its files: the sound, a picture before and after, and a report."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditto.audio.features import long_log_mel
from ditto.audio.io import Audio, StrPath, atomic_path, write
from ditto.audio.spec import AudioSpec
from ditto.edit.timeline import Timeline
from ditto.metrics.seams import seam_jump, share_below, typical_jumps
from ditto.models.music_model import MusicModel
from ditto.pictures import edit_picture
from ditto.request import MAX_COMMENT, Result, output_files, versions


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited recording.

    Attributes:
        kind: "inpaint", "outpaint" or "loop".
        model: what made the new parts.
        timeline: the sound.
        parts: what was made, a result for each window.
        gaps: what is new, in samples.
        joins: where windows of what is new meet, in samples, besides the gaps' ends.
        before: the recording, if there was one.
    """

    kind: str
    model: MusicModel
    timeline: Timeline
    parts: tuple[Result, ...]
    gaps: tuple[tuple[int, int], ...]
    before: Timeline | None = None
    joins: tuple[int, ...] = ()

    @property
    def samples(self) -> np.ndarray:
        """The sound, shape (channels, n)."""
        return self.timeline.samples

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.timeline.sample_rate

    @property
    def errors(self) -> dict[str, float]:
        """Each control's error, the mean over the parts."""
        names = dict.fromkeys(name for part in self.parts for name in part.errors)
        values = {name: [part.errors[name][0].item() for part in self.parts if name in part.errors] for name in names}
        return {name: float(np.mean(value)) for name, value in values.items()}

    def seams(self) -> list[dict[str, float]]:
        """Every border of what is new and join within it: time, spectral jump in dB, its percentile in the known music.

        The borders of a loop with itself are measured as they sound when it is repeated.
        """
        spec = self.model.spec
        rolled = self.kind == "loop"
        audio = _heard(self.samples, self.sample_rate, spec)
        if rolled:
            audio = torch.cat([audio, audio[: spec.sample_rate]])
        length = self.timeline.length
        edges = {*self.joins, *(edge for gap in self.gaps for edge in gap)}
        inside = sorted({edge for edge in edges if rolled or 0 < edge < length} - {0})
        typical = typical_jumps(self._known(spec), spec)
        found = [(edge / self.sample_rate, seam_jump(audio, edge / self.sample_rate, spec)) for edge in inside]
        return [
            {"seconds": round(at, 4), "jump_db": round(jump, 3), "percentile": round(share_below(jump, typical), 1)}
            for at, jump in found
        ]

    def _known(self, spec: AudioSpec) -> Tensor:
        """What seams are measured against: the recording, or of a loop from nothing the clip itself."""
        source = self.timeline if self.before is None else self.before
        return _heard(source.samples, source.sample_rate, spec)

    def report(self) -> dict[str, Any]:
        """Everything about the edit, as JSON."""
        rate = self.sample_rate
        return {
            "edit": self.kind,
            "recording": self.before.name if self.before else None,
            "sample_rate": rate,
            "channels": len(self.samples),
            "seconds": self.timeline.seconds,
            "samples": self.timeline.length,
            "new": [[start / rate, end / rate] for start, end in self.gaps],
            "seams": self.seams(),
            "errors": {name: float(f"{value:.6g}") for name, value in self.errors.items()},
            "model": self.model.describe(),
            "versions": versions(),
            "timings": {"total": round(sum(sum(part.timings.values()) for part in self.parts), 3)},
            "parts": [part.report() for part in self.parts],
        }

    def save(self, path: StrPath, *, force: bool = False) -> list[Path]:
        """Write the sound in the recording's own rate, channels and encoding, and beside it picture and report.

        Returns:
            The three paths.

        Raises:
            OutputError: a file exists already (without `force`) or cannot be written; nothing is then written.
        """
        sound, picture, about = output_files(path, force=force)
        report = self.report()
        tags = {
            "software": f"ditto-music {version('ditto-music')}",
            "title": self._title(),
            "comment": _comment(report),
        }
        subtype = self.timeline.subtype_for(path)
        write(sound, self.samples, self.sample_rate, subtype=subtype, tags=tags, force=force)
        with atomic_path(about, force=force) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        spec = self.model.spec
        mels = [_mel(timeline, spec) for timeline in (self.before, self.timeline) if timeline is not None]
        new = [(start / self.sample_rate, end / self.sample_rate) for start, end in self.gaps]
        losses = [part.losses[:, 0].tolist() for part in self.parts]
        edit_picture(
            picture, mels[-1], spec, new, losses, self._title(), before=mels[0] if self.before else None, force=force
        )
        return [sound, picture, about]

    def _title(self) -> str:
        name = f" of {self.before.name}" if self.before else ""
        request = self.parts[0].request
        return f"{self.kind}{name}. {request.tags.caption()} Seed {request.seed}, {request.method}."[:200]


def _heard(samples: np.ndarray, sample_rate: int, spec: AudioSpec) -> Tensor:
    """Mono at the model's rate, shape (n,)."""
    audio = Audio(samples.astype(np.float32, copy=False), sample_rate)
    return torch.from_numpy(audio.mono().resample(spec.sample_rate).samples[0])


def _mel(timeline: Timeline, spec: AudioSpec) -> Tensor:
    audio = _heard(timeline.samples, timeline.sample_rate, spec)
    with torch.no_grad():
        return long_log_mel(torch.nn.functional.pad(audio, (0, max(0, spec.n_fft - len(audio))))[None], spec)[0]


def _comment(report: dict[str, Any]) -> str:
    """What fits a tag of the report."""
    short = {key: report[key] for key in ("edit", "recording", "new", "model", "versions")}
    first = report["parts"][0]["request"]
    about = {key: value for key, value in first.items() if key not in ("controls", "count", "seconds")}
    text = json.dumps(short | {"request": about}, separators=(",", ":"))
    return text if len(text.encode()) <= MAX_COMMENT else json.dumps({"edit": report["edit"], "model": report["model"]})
