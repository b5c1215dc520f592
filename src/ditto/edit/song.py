"""Music of any length: windows of the model that each continue what is there.

>>> ditto.song(model, 90, controls=ditto.Intensity("0:-40 45:-14 90:-40")).save("long.wav")

The first window is generated, and the others are outpainted from it (DITTO section 4), with the
controls in seconds of the whole. Memory does not grow with the length, but for the sound's own.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ditto.edit.edits import request_of, told
from ditto.edit.result import Edit, Part
from ditto.edit.timeline import Timeline, silence
from ditto.edit.windows import GapFiller, ModelWindow, Progress
from ditto.errors import RequestError
from ditto.models.model import MusicModel
from ditto.optimize import Step, Stop, never
from ditto.paths import StrPath, atomic_file, printable
from ditto.request import Request

MAX_SECONDS = 3600.0
FORMAT = "ditto-song-1"


def song(
    model: MusicModel,
    seconds: float,
    request: Request | None = None,
    *,
    overlap: float | None = None,
    fade: float = 0.0,
    keep: StrPath | None = None,
    progress: Progress | None = None,
    stop: Stop = never,
    **settings: Any,
) -> Edit:
    """Make music of any length, window by window.

    Window i draws its x_T from ``seed + i``, and with a tempo in the tags beats are counted through
    all windows.

    Args:
        model: from `ditto.load`.
        seconds: length of the whole.
        request: tags, method and what else makes the music; its controls are in the time of the
            whole, and their relative curves stretch over it.
        overlap: seconds that a window shares with the one before; 1, or a quarter of a window.
        fade: seconds at the end in which the sound fades out.
        keep: a file in which finished windows are kept until the whole is saved, and is then
            removed. Where it is there already, the song goes on from it, to the same samples.
        progress: called with (window, windows, step).
        stop: called with every step; True ends the window's optimisation, and the song with it.
        settings: fields of `Request`, in place of `request`.

    Raises:
        RequestError: the length, overlap or fade is out of range, `count` or `start` is set, or
            `keep` is of another request.
        OutputError: `keep` cannot be written.
    """
    request = request_of(request, settings)
    _check(model, request, seconds, fade)
    if overlap is None:
        overlap = min(1.0, model.spec.seconds(model.shape(None)[-1]) / 4)
    # Each window fills in the defaults itself: those after the first have a region to match too.
    request = replace(request, seconds=seconds)
    kept = None if keep is None else Kept.of(keep, request, model, overlap)
    stopped = False

    def ends(step: Step) -> bool:
        nonlocal stopped
        stopped = stop(step) or stopped
        return stopped

    filler = GapFiller("song", model, request, overlap, progress=progress, stop=ends)
    timeline = silence(model, seconds)
    window = ModelWindow.of(timeline, model, overlap)
    parts = [] if kept is None else kept.restore(timeline, filler)
    if kept is not None and not parts:
        kept.save(timeline, [], filler)  # now is the time to find out that it cannot be written
    for part in _windows(filler, timeline, window, len(parts)):
        parts.append(part)
        if stopped:
            break
        if kept is not None:
            kept.save(timeline, parts, filler)
    stopped = stopped or bool(filler.unfilled)
    made = int(timeline.known.sum())
    timeline = replace(
        timeline, samples=timeline.samples[:, :made].copy(), known=timeline.known[:made]
    )
    timeline.fade_out(fade)
    joins = tuple(range(window.length, made, window.length - window.overlap))
    return Edit(
        kind="song",
        model=model,
        timeline=timeline,
        parts=tuple(parts),
        gaps=((0, made),),
        joins=joins,
        request=request,
        asked={"seconds": seconds, "overlap": overlap, "fade": fade},
        notes=told(filler),
        failures=tuple(filler.failures),
        saved=None if kept is None or stopped else kept.remove,
    )


def _windows(
    filler: GapFiller, timeline: Timeline, window: ModelWindow, made: int
) -> Iterator[Part]:
    """Make the windows that are missing, in place."""
    if not made:
        yield Part.of(filler.begin(timeline, min(window.length, timeline.length)))
        made = 1
    first = int(timeline.known.sum())
    if first < timeline.length:
        yield from map(Part.of, filler.fill(timeline, [(first, timeline.length)], made))


def _check(model: MusicModel, request: Request, seconds: float, fade: float) -> None:
    window = model.spec.seconds(model.shape(None)[-1])
    if not window < seconds <= MAX_SECONDS:
        raise RequestError(
            f"a song must be longer than the model's window of {window:.2f} s and at most "
            f"{MAX_SECONDS:g} s, not {seconds:g}"
        )
    if not 0 <= fade <= seconds:
        raise RequestError(f"the fade must be from 0 to the {seconds:g} s, not {fade:g}")
    if request.count != 1 or request.start is not None:
        raise RequestError("a song of several windows is made one at a time, from noise")


@dataclass(frozen=True)
class Kept:
    """Finished windows of a song in a safetensors file, until the whole is saved.

    Attributes:
        path: of the file.
        identity: of the request; a file of another one is no beginning of this.
    """

    path: Path
    identity: str

    @classmethod
    def of(cls, path: StrPath, request: Request, model: MusicModel, overlap: float) -> "Kept":
        """Return the file for a resolved request."""
        told = [request.to_dict(), model.describe(), overlap]
        text = json.dumps(told, sort_keys=True, default=str)
        return cls(Path(path), hashlib.sha256(text.encode()).hexdigest())

    def save(self, timeline: Timeline, parts: list[Part], filler: GapFiller) -> None:
        """Write what is known, and what the filler has to say of it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        made = int(timeline.known.sum())
        metadata = {
            "format": FORMAT,
            "identity": self.identity,
            "parts": json.dumps([_described(part) for part in parts]),
            "notes": json.dumps(filler.notes),
            "failures": json.dumps(filler.failures),
            "followed": json.dumps(sorted(filler.followed)),
        }
        samples = np.ascontiguousarray(timeline.samples[:, :made])
        with atomic_file(self.path, force=True) as temporary:
            save_file({"samples": samples}, temporary, metadata)

    def restore(self, timeline: Timeline, filler: GapFiller) -> list[Part]:
        """Put the kept windows into the timeline; return them, none if there is no file.

        The filler goes on from what it noted before.

        Raises:
            RequestError: the file is of another request, or something else: it is not replaced.
        """
        if not self.path.exists():
            return []
        name = printable(self.path)
        try:
            with safe_open(self.path, framework="numpy") as file:
                metadata, samples = file.metadata() or {}, file.get_tensor("samples")
            if metadata.get("format") != FORMAT:
                raise ValueError("no song")
            channels, made = samples.shape
            if metadata["identity"] == self.identity:
                parts = [_part(values) for values in json.loads(metadata["parts"])]
                # Files of older versions do not say what was followed: nothing is then complained
                # of, rather than of a control that had its effect.
                followed = metadata.get("followed")
                unknown = range(len(filler.request.controls)) if parts else ()
                filler.followed.update(unknown if followed is None else json.loads(followed))
                filler.notes.extend(map(str, json.loads(metadata.get("notes", "[]"))))
                filler.failures.extend(map(str, json.loads(metadata.get("failures", "[]"))))
                timeline.samples[:channels, :made], timeline.known[:made] = samples, True
                return parts
        except (SafetensorError, OSError, ValueError, LookupError, TypeError):
            raise RequestError(
                f"{name} is there and holds no windows of a song: move it away"
            ) from None
        raise RequestError(
            f"{name} holds windows of another request: finish that by the same command as before, "
            "or remove the file"
        )

    def remove(self) -> None:
        """Remove the file, unless another request's windows have taken its place meanwhile."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                identity = (file.metadata() or {}).get("identity")
        except (SafetensorError, OSError):
            return
        if identity == self.identity:
            self.path.unlink(missing_ok=True)


def _described(part: Part) -> dict[str, Any]:
    return {
        "losses": part.losses.tolist(),
        "errors": part.errors,
        "seconds": part.seconds,
        "about": part.about,
    }


def _part(values: dict[str, Any]) -> Part:
    request = Request.from_dict({**values["about"]["request"], "controls": []})
    losses = torch.tensor(values["losses"])
    return Part(request, losses, values["errors"], values["seconds"], values["about"])
