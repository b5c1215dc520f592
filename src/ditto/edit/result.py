"""Results of edits and their files: sound, picture before and after, report."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.io import write
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control, Output
from ditto.edit.surroundings import lacking
from ditto.edit.timeline import Timeline
from ditto.eval.seams import seam_jump, share_below, typical_jumps
from ditto.models.model import MusicModel
from ditto.panels import Panel
from ditto.paths import StrPath, atomic_file, printable
from ditto.request import Request
from ditto.result import MAX_COMMENT, Result, output_files, versions

AROUND_SECONDS = 1.0
"""Seconds of context on each side of a seam when measuring its jump."""
BLOCK, PIECE_FRAMES = 1 << 16, 512
"""Samples and frames processed at once."""
COLUMNS = 2048
"""Most columns of a picture's spectrogram, which is some 900 pixels wide."""


@dataclass(frozen=True, eq=False)
class Part:
    """Summary of one generated window; sound and latents are dropped, to keep long edits small.

    Attributes:
        request: as it was run, without the controls, whose targets may be large.
        losses: (K,) of the optimisation.
        errors: of the controls, by name.
        seconds: time that it took.
        about: the report of its `Result`.
    """

    request: Request
    losses: Tensor
    errors: dict[str, float]
    seconds: float
    about: dict[str, Any]

    @classmethod
    def of(cls, result: Result) -> "Part":
        """Summarise the first clip of a result."""
        errors = {name: values[0].item() for name, values in result.errors.items()}
        request = replace(result.request, controls=())
        return cls(
            request, result.losses[:, 0], errors, sum(result.timings.values()), result.report()
        )


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited recording.

    Attributes:
        kind: "inpaint", "outpaint", "loop" or "song".
        model: what made the new parts.
        timeline: the sound.
        parts: what was made, window by window.
        gaps: what is new, in samples.
        joins: where windows of what is new meet, in samples, besides the gaps' ends.
        before: the recording, if there was one.
        request: of the whole, where it is none of a recording's.
        notes: what a user should know about how it went.
    """

    kind: str
    model: MusicModel
    timeline: Timeline
    parts: tuple[Part, ...]
    gaps: tuple[tuple[int, int], ...]
    before: Timeline | None = None
    joins: tuple[int, ...] = ()
    request: Request | None = None
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> np.ndarray:
        """Sound, shape (channels, n)."""
        return self.timeline.samples

    @property
    def sample_rate(self) -> int:
        """Sampling rate in Hz."""
        return self.timeline.sample_rate

    @cached_property
    def _whole(self) -> tuple[Output, list[Control]] | None:
        """A song as its controls hear it, and those that can; None for other edits."""
        if self.request is None or not self.model.has_mel:
            return None
        spec = self.model.spec
        heard = _heard(self.samples, self.sample_rate, spec)[None].to(self.model.device)
        with torch.no_grad():
            output = Output(self.model.encode(heard), self.model, rendered=heard)
        return output, [c for c in self.request.controls if c.bare().grows_evenly]

    @property
    def panels(self) -> list[Panel]:
        """Target and achieved curves over a whole song; none for other edits."""
        if self._whole is None:
            return []
        output, controls = self._whole
        return [panel for control in controls for panel in control.panels(output, 0)]

    @property
    def errors(self) -> dict[str, float]:
        """Error of each control: over a song what can be measured over it, else the parts' mean."""
        names = dict.fromkeys(name for part in self.parts for name in part.errors)
        values = {
            name: [part.errors[name] for part in self.parts if name in part.errors]
            for name in names
        }
        means = {name: float(np.mean(value)) for name, value in values.items()}
        if self._whole is None:
            return means
        output, controls = self._whole
        with torch.no_grad():
            told = [control.errors(output) for control in controls]
        return means | {name: value[0].item() for errors in told for name, value in errors.items()}

    def seams(self) -> list[dict[str, float]]:
        """Return time, spectral jump in dB and its percentile in the known music, for every seam.

        Seams are the ends of what is new and the joins within it; a loop's are measured as they
        sound when it is repeated.
        """
        spec = self.model.spec
        rolled = self.kind == "loop"
        length = self.timeline.length
        edges = {*self.joins, *(edge for gap in self.gaps for edge in gap)}
        inside = sorted({edge for edge in edges if rolled or 0 < edge < length} - {0})
        typical = typical_jumps(self._known(spec), spec)
        found = [(edge / self.sample_rate, self._jump(edge, rolled)) for edge in inside]
        return [
            {
                "seconds": round(at, 4),
                "jump_db": round(jump, 3),
                "percentile": round(share_below(jump, typical), 1),
            }
            for at, jump in found
        ]

    def _jump(self, edge: int, rolled: bool) -> float:
        """Return the spectral jump in dB at a sample; `rolled` sounds begin anew at their end."""
        spec = self.model.spec
        hop = spec.hop * self.sample_rate / spec.sample_rate
        first = round((edge - AROUND_SECONDS * self.sample_rate) // hop * hop)
        first = first if rolled else max(first, 0)
        around = np.arange(first, edge + round(AROUND_SECONDS * self.sample_rate))
        around = around % self.timeline.length if rolled else around[around < self.timeline.length]
        heard = _heard(self.samples[:, around], self.sample_rate, spec)
        return seam_jump(heard, (edge - first) / self.sample_rate, spec)

    def _known(self, spec: AudioSpec) -> Tensor:
        """Return what seams are measured against: the recording, or without one the loop itself."""
        source = self.timeline if self.before is None else self.before
        return _heard(source.samples, source.sample_rate, spec)

    def remarks(self) -> list[str]:
        """Return `notes`, and what the new music lacks beside the recording."""
        new = [self.samples[:, start:end] for start, end in self.gaps]
        if self.before is None or not new:
            return list(self.notes)
        made, rate = np.concatenate(new, axis=1), self.model.spec.sample_rate
        name = printable(self.before.name)
        return [*self.notes, *lacking(made, self.before.samples, self.sample_rate, rate, name)]

    def report(self) -> dict[str, Any]:
        """Return everything about the edit as JSON."""
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
            "notes": self.remarks(),
            "model": self.model.describe(),
            "versions": versions(),
            "timings": {"total": round(sum(part.seconds for part in self.parts), 3)},
            **({} if self.request is None else {"request": self.request.to_dict()}),
            "parts": [part.about for part in self.parts],
        }

    def save(self, path: StrPath, *, force: bool = False) -> list[Path]:
        """Write the sound, and beside it its picture (.png) and report (.json).

        Rate, channels and encoding are the recording's own.

        Args:
            path: the sound file; its ending chooses the format.
            force: replace files that exist.

        Returns:
            The three paths.

        Raises:
            OutputError: a file exists already (without `force`) or cannot be written; nothing is
                then written.
        """
        from ditto.plots import edit_picture  # matplotlib is slow to import

        sound, picture, about = output_files(path, force=force)
        report = self.report()
        layout = self.timeline.layout
        tags = {
            **layout.tags,
            "software": f"ditto-music {version('ditto-music')}",
            "title": self._title(),
            "comment": _comment(report),
        }
        subtype = self.timeline.subtype_for(path)
        write(
            sound,
            self.samples,
            self.sample_rate,
            subtype=subtype,
            tags=tags,
            layout=layout,
            force=force,
        )
        with atomic_file(about, force=force) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        spec = self.model.spec
        stride = -(-int(self.timeline.seconds * spec.frame_rate) // COLUMNS)
        mels = [
            mel_columns(timeline, spec, stride)
            for timeline in (self.before, self.timeline)
            if timeline is not None
        ]
        new = [(start / self.sample_rate, end / self.sample_rate) for start, end in self.gaps]
        losses = [part.losses.tolist() for part in self.parts]
        edit_picture(
            picture,
            mels[-1],
            spec,
            new,
            losses,
            self._title(),
            before=mels[0] if self.before else None,
            panels=self.panels,
            stride=stride,
            force=force,
        )
        return [sound, picture, about]

    def _title(self) -> str:
        name = f" of {self.before.name}" if self.before else ""
        request = self.parts[0].request
        method = request.method.name if request.method else "none"
        return f"{self.kind}{name}. {request.tags.caption()} Seed {request.seed}, {method}."[:200]


def _heard(samples: np.ndarray, sample_rate: int, spec: AudioSpec) -> Tensor:
    """Return mono sound at the model's rate, shape (n,); in blocks, to keep memory small."""
    count = samples.shape[1]
    blocks = (
        samples[:, first : first + BLOCK].mean(axis=0, dtype=np.float32)
        for first in range(0, count, BLOCK)
    )
    if sample_rate != spec.sample_rate:
        stream = soxr.ResampleStream(
            sample_rate, spec.sample_rate, 1, dtype="float32", quality="VHQ"
        )
        lasts = (first + BLOCK >= count for first in range(0, count, BLOCK))
        blocks = (
            stream.resample_chunk(block, last=last)
            for block, last in zip(blocks, lasts, strict=True)
        )
    return torch.from_numpy(np.concatenate(list(blocks)))


def mel_columns(timeline: Timeline, spec: AudioSpec, stride: int) -> Tensor:
    """Return the log-mel (n_mels, columns), each column the mean of `stride` frames."""
    frames = max(int(timeline.seconds * spec.frame_rate), 1)
    size = -(-PIECE_FRAMES // stride) * stride
    pieces = [
        _columns(timeline, spec, first, min(first + size, frames), stride)
        for first in range(0, frames, size)
    ]
    return torch.cat(pieces, dim=1)


def _columns(timeline: Timeline, spec: AudioSpec, first: int, last: int, stride: int) -> Tensor:
    hop, margin = spec.hop * timeline.sample_rate / spec.sample_rate, -(-spec.n_fft // spec.hop)
    begin = max(first - margin, 0)
    around = timeline.samples[:, round(begin * hop) : round((last + margin) * hop)]
    heard = _heard(around, timeline.sample_rate, spec)
    heard = torch.nn.functional.pad(
        heard, (0, max(0, (last - begin) * spec.hop - len(heard), spec.n_fft - len(heard)))
    )
    with torch.no_grad():
        mel = log_mel(heard[None], spec)[..., first - begin : last - begin]
        return torch.nn.functional.avg_pool1d(mel, stride, ceil_mode=True)[0]


def _comment(report: dict[str, Any]) -> str:
    """Return as much of the report as fits a tag, as JSON."""
    short = {key: report[key] for key in ("edit", "recording", "new", "model", "versions")}
    first = report["parts"][0]["request"]
    about = {
        key: value for key, value in first.items() if key not in ("controls", "count", "seconds")
    }
    text = json.dumps(short | {"request": about}, separators=(",", ":"))
    return (
        text
        if len(text.encode()) <= MAX_COMMENT
        else json.dumps({"edit": report["edit"], "model": report["model"]})
    )
