"""Results of edits and their files: sound, picture before and after, report."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.io import fitting_tag, write
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Control
from ditto.controls.output import Output, Window
from ditto.edit.surroundings import lacking
from ditto.edit.timeline import FADE_SECONDS, Original, Timeline
from ditto.eval.seams import seam_jump, share_below, typical_jumps
from ditto.models.model import MusicModel
from ditto.notebook import page
from ditto.panels import Panel
from ditto.paths import StrPath, atomic_file, printable, refuse_inputs
from ditto.request import Request
from ditto.result import MAX_COMMENT, Result, machine, output_files, versions

AROUND_SECONDS = 1.0
"""Seconds of context on each side of a seam when measuring its jump."""
BLOCK, PIECE_FRAMES = 1 << 16, 512
"""Samples and frames processed at once."""
TYPICAL_FRAMES, TYPICAL_MARGIN = 1 << 14, 64
"""Frames whose jumps are measured at once, and frames more on either side."""
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
            request,
            torch.tensor(result.curve()),
            errors,
            sum(result.timings.values()),
            result.report(),
        )


@dataclass(frozen=True, eq=False)
class Edit:
    """An edited recording.

    Attributes:
        kind: "inpaint", "outpaint", "loop" or "song".
        model: what made the new parts.
        timeline: the sound; of a loop, one round.
        parts: what was made, window by window.
        gaps: what is new, in samples.
        before: the recording, if there was one.
        joins: where windows of what is new meet, in samples, besides the gaps' ends.
        request: what it was asked by.
        repeats: how often the sound is written.
        asked: the edit's other arguments, as JSON, by which it can be repeated.
        notes: what a user should know about how it went.
        failures: why windows failed; what was best by then was kept, and the notes say of which.
        saved: called when all files of the edit are written.
    """

    kind: str
    model: MusicModel
    timeline: Timeline
    parts: tuple[Part, ...]
    gaps: tuple[tuple[int, int], ...]
    before: Original | None = None
    joins: tuple[int, ...] = ()
    request: Request | None = None
    repeats: int = 1
    asked: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    saved: Callable[[], None] | None = None

    def __repr__(self) -> str:
        """Return one line: what was asked, how long it is, and its errors."""
        errors = [f", {name} {value:.3g}" for name, value in self.errors.items()]
        return f"<{type(self).__name__}: {self._title()} {self.seconds:.2f} s{''.join(errors)}>"

    def _repr_html_(self) -> str:
        """Return it to hear and see, for a notebook."""
        return page(repr(self), [replace(self, saved=None).save])  # a page keeps nothing

    @property
    def samples(self) -> np.ndarray:
        """Sound, shape (channels, n); a copy where it repeats."""
        once = self.timeline.samples
        return once if self.repeats == 1 else np.tile(once, self.repeats)

    @property
    def length(self) -> int:
        """Number of samples, with all repeats."""
        return self.timeline.length * self.repeats

    @property
    def seconds(self) -> float:
        """Duration in seconds, with all repeats."""
        return self.length / self.sample_rate

    @property
    def sample_rate(self) -> int:
        """Sampling rate in Hz."""
        return self.timeline.sample_rate

    @property
    def ended_early(self) -> bool:
        """Whether it is a song of which only the beginning was made."""
        return self.kind == "song" and self.timeline.length < self._intended

    @property
    def _intended(self) -> int:
        """Samples that were asked for of a song."""
        return round(self.asked.get("seconds", 0.0) * self.sample_rate)

    @cached_property
    def _whole(self) -> tuple[Output, list[Control]] | None:
        """A song as its controls hear it, and those that can; None for other edits."""
        if self.kind != "song" or self.request is None or not self.model.has_mel:
            return None
        spec = self.model.spec
        heard = _heard(self.samples, self.sample_rate, spec)[None].to(self.model.device)
        with torch.no_grad():
            output = Output(self.model.encode(heard), self.model, rendered=heard)
        controls = [c for c in self.request.controls if c.bare().grows_evenly]
        if not self.ended_early:
            return output, controls
        # What there is followed the curves as they stretch over the whole length that was asked.
        part = Window(0.0, self.asked["seconds"], (0.0, self.seconds))
        made = replace(spec, clip_frames=output.frames)
        moved = (control.in_window(part, made) for control in controls)
        return output, [control for control in moved if control is not None]

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

    def seams(self) -> list[dict[str, float | None]]:
        """Return time, spectral jump in dB and its percentile in the known music, for every seam.

        Seams are the ends of what is new and the joins within it; a loop's are measured as they
        sound when it is repeated.
        """
        spec = self.model.spec
        rolled = self.kind == "loop"
        length = self.timeline.length
        edges = {*self.joins, *(edge for gap in self.gaps for edge in gap)}
        inside = sorted({edge for edge in edges if rolled or 0 < edge < length} - {0})
        typical = _typical(self.timeline if self.before is None else self.before, spec)
        once = [(edge, self._jump(edge, rolled)) for edge in inside]
        found = [
            ((edge + i * length) / self.sample_rate, jump)
            for i in range(self.repeats)
            for edge, jump in once
        ]
        return [
            {
                "seconds": round(at, 4),
                "jump_db": round(jump, 3),
                "percentile": _rounded(share_below(jump, typical)),
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
        heard = _heard(self.timeline.samples[:, around], self.sample_rate, spec)
        return seam_jump(heard, (edge - first) / self.sample_rate, spec)

    def remarks(self) -> list[str]:
        """Return `notes`, and what the new music lacks beside the recording."""
        if self.before is None or not self.gaps:
            return list(self.notes)
        first, last = max(self.gaps, key=lambda gap: gap[1] - gap[0])
        model_rate, name = self.model.spec.sample_rate, printable(self.before.name)
        new, old = self.timeline.between(first, last), self.before
        return [*self.notes, *lacking(new, old, self.sample_rate, model_rate, name)]

    def report(self) -> dict[str, Any]:
        """Return everything about the edit as JSON."""
        rate = self.sample_rate
        return {
            "edit": self.kind,
            "recording": printable(self.before.name) if self.before else None,
            "sample_rate": rate,
            "channels": len(self.timeline.samples),
            "seconds": self.seconds,
            "samples": self.length,
            "new": self._new(),
            "faded_seconds": 0.0 if self.before is None else FADE_SECONDS,
            "seams": self.seams(),
            "errors": {
                name: float(f"{value:.6g}") if np.isfinite(value) else None
                for name, value in self.errors.items()
            },
            "notes": self.remarks(),
            "asked": dict(self.asked),
            "request": None if self.request is None else self.request.to_dict(),
            "model": self.model.describe(),
            "versions": versions(),
            "machine": machine(),
            "timings": {"total": round(sum(part.seconds for part in self.parts), 3)},
            "parts": [part.about for part in self.parts],
        }

    def save(self, path: StrPath, *, force: bool = False, picture: bool = True) -> list[Path]:
        """Write the sound, and beside it its picture (.png) and report (.json).

        Rate, channels and encoding are the recording's own. Where the format holds no samples
        beyond ±1 and there are some, all become quieter by one gain.

        Args:
            path: the sound file; its ending chooses the format.
            force: replace files that exist.
            picture: whether there is to be one; it takes a while.

        Returns:
            The paths.

        Raises:
            OutputError: a file exists already (without `force`) or cannot be written; nothing is
                then written; or one of them is the recording.
        """
        subtype, gain = self.timeline.subtype_for(path), self.timeline.gain_for(path)
        channels = len(self.timeline.samples)
        files = output_files(path, channels, self.sample_rate, subtype, force=force)
        if self.before is not None:
            refuse_inputs(files, [self.before.path])
        sound, drawn, about = files
        report = self.report() | ({"gain": gain} if gain != 1 else {})
        layout = self.timeline.layout
        tags = {
            **layout.tags,
            "software": f"ditto-music {version('ditto-music')}",
            "title": fitting_tag(self._title()),
            "comment": _comment(report),
        }
        write(
            sound,
            self.timeline.samples,
            self.sample_rate,
            subtype=subtype,
            tags=tags,
            repeats=self.repeats,
            gain=gain,
            layout=layout,
            force=force,
        )
        with atomic_file(about, force=force) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if picture:
            self._draw(drawn, force=force)
        if self.saved is not None:
            self.saved()
        return [sound, drawn, about] if picture else [sound, about]

    def _draw(self, path: Path, *, force: bool) -> None:
        """Write the picture."""
        from ditto.plots import edit_picture  # matplotlib is slow to import

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
            path,
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

    def _new(self) -> list[list[float]]:
        """Return what is new, (from, to) in seconds, in every repeat."""
        rate, length = self.sample_rate, self.timeline.length
        return [
            [(start + i * length) / rate, (end + i * length) / rate]
            for i in range(self.repeats)
            for start, end in self.gaps
        ]

    def _title(self) -> str:
        name = f" of {printable(self.before.name)}" if self.before else ""
        request = self.parts[0].request
        # Of music from nothing the first window may be sampled plainly, whatever the method.
        method = (self.request and self.request.method) or request.method
        how = method.name if method else "none"
        return f"{self.kind}{name}. {request.tags.caption()} Seed {request.seed}, {how}."[:200]


def _rounded(value: float) -> float | None:
    """Return a number as JSON holds it: None in place of NaN, of a very short recording."""
    return round(value, 1) if np.isfinite(value) else None


def _typical(source: Timeline | Original, spec: AudioSpec) -> np.ndarray:
    """Return `typical_jumps` of a recording, in pieces, since it may be long."""
    ratio = source.sample_rate / spec.sample_rate
    frames = int(source.seconds * spec.frame_rate)
    margin = spec.margin_frames + TYPICAL_MARGIN
    found = []
    for first in range(0, max(frames, 1), TYPICAL_FRAMES):
        last = min(first + TYPICAL_FRAMES, frames)
        begin, end = max(first - margin, 0), last + margin if last < frames else frames + 1
        block = source.block(round(begin * spec.hop * ratio), round(end * spec.hop * ratio))
        if not block.size:
            continue
        jumps = typical_jumps(_heard(block, source.sample_rate, spec), spec)
        # Value k is of the frames around begin + k + what is left out at the piece's own edge.
        skip = 0 if first == 0 else first - begin
        found.append(jumps[skip : skip + TYPICAL_FRAMES] if last < frames else jumps[skip:])
    return np.concatenate(found) if found else np.zeros(0)


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


def mel_columns(timeline: Timeline | Original, spec: AudioSpec, stride: int) -> Tensor:
    """Return the log-mel (n_mels, columns), each column the mean of `stride` frames."""
    frames = max(int(timeline.seconds * spec.frame_rate), 1)
    size = -(-PIECE_FRAMES // stride) * stride
    pieces = [
        _columns(timeline, spec, first, min(first + size, frames), stride)
        for first in range(0, frames, size)
    ]
    return torch.cat(pieces, dim=1)


def _columns(
    timeline: Timeline | Original, spec: AudioSpec, first: int, last: int, stride: int
) -> Tensor:
    hop, margin = spec.hop * timeline.sample_rate / spec.sample_rate, -(-spec.n_fft // spec.hop)
    begin = max(first - margin, 0)
    around = timeline.block(round(begin * hop), round((last + margin) * hop))
    heard = _heard(around, timeline.sample_rate, spec)
    heard = torch.nn.functional.pad(
        heard, (0, max(0, (last - begin) * spec.hop - len(heard), spec.n_fft - len(heard)))
    )
    with torch.no_grad():
        mel = log_mel(heard[None], spec)[..., first - begin : last - begin]
        return torch.nn.functional.avg_pool1d(mel, stride, ceil_mode=True)[0]


def _comment(report: dict[str, Any]) -> str:
    """Return as much of the report as fits a tag, as JSON: what `again` needs, if there is room."""
    names = ("edit", "recording", "asked", "request", "model", "versions")
    whole = {name: report[name] for name in names}
    if whole["request"] is None:
        whole["request"] = report["parts"][0]["request"]
    text = json.dumps(whole, separators=(",", ":"))
    if len(text.encode()) <= MAX_COMMENT:
        return text
    kinds = ", ".join(control["control"] for control in whole["request"]["controls"])
    whole["request"] = whole["request"] | {"controls": f"{kinds} (in full in the .json)"}
    text = json.dumps(whole, separators=(",", ":"))
    if len(text.encode()) <= MAX_COMMENT:
        return text
    return json.dumps({"edit": report["edit"], "model": report["model"]})
