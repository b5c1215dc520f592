"""What can be made as a value: a clip, an edit or a variation, to be made elsewhere or again.

A report holds all of it, so that ``again`` and ``batch`` read what every command writes.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ditto.audio.io import info
from ditto.audio.spec import AudioSpec
from ditto.controls.structure import StructureLike
from ditto.edit import edits, loops, variations
from ditto.edit.result import Edit
from ditto.edit.song import song
from ditto.errors import RequestError
from ditto.latents import Latent
from ditto.methods.base import check_number
from ditto.methods.guidance import FREEDOM_STRENGTH
from ditto.models.model import MusicModel
from ditto.optimize import Step, never
from ditto.paths import StrPath, found_path, printable, shown
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, Watch, run


def _inverted(
    model: MusicModel,
    recording: StrPath,
    *,
    request: Request,
    progress: Callable[[int, int, Step], None],
    **asked: Any,
) -> Result:
    """Invert as an edit is made."""
    return variations.invert(
        model, recording, request, **asked, watch=lambda step: progress(0, 1, step)
    )


EDITS: dict[str, Callable[..., Result | Edit]] = {
    "inpaint": edits.inpaint,
    "outpaint": edits.outpaint,
    "loop": loops.loop,
    "song": song,
    "invert": _inverted,
}
"""Edits by the word of their reports; a loop of a recording is `loops.loop_recording`."""


@dataclass(frozen=True, eq=False)
class Job:
    """Something that is to be made.

    Attributes:
        request: what it is made by.
        edit: "inpaint", "outpaint", "loop", "song" or "invert"; None is a clip.
        recording: that is edited, if one is.
        asked: the edit's own arguments by name, as in its report.
        vary: how other clips are made from the request's `start`: "ddpm" or "ddpm+freedom"; None
            is no variation.
        item: of the request's batch.
        compare: whether a clip's report says how much is kept of the one without control.
        made: iterations after which a clip was ended before its last; None is none.
    """

    request: Request
    edit: str | None = None
    recording: StrPath | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    vary: str | None = None
    item: int = 0
    compare: bool = True
    made: int | None = None

    @classmethod
    def of_report(
        cls,
        report: Mapping[str, Any],
        name: str,
        *,
        start: Latent | None = None,
        recording: StrPath | None = None,
        spec: AudioSpec | None = None,
    ) -> "Job":
        """Return what a report is of.

        Args:
            report: as JSON; of a clip its `request` alone is enough.
            name: of the report, for messages; a recording is looked for beside it.
            start: the latent that the clip began from, if it did.
            recording: that was edited, or that a form is like; by default the file of its name
                beside the report.
            spec: of the model, by which a recording is heard again.

        Raises:
            RequestError: the report is damaged, or does not hold all that is needed.
            ControlError: a control cannot be restored from the report.
        """
        if "edit" in report:
            return cls._of_edit(report, name, recording)
        if isinstance(report.get("invert"), Mapping):
            asked = dict(report["invert"])
            parts = {
                "edit": "invert",
                "recording": asked.pop("recording", None),
                "request": asked.pop("request", None),
                "asked": asked,
            }
            return cls._of_edit(parts, name, recording)
        values = report.get("request")
        if not isinstance(values, Mapping):
            raise RequestError(f"{name} does not hold a whole request: give the .json of a clip")
        if spec is not None and isinstance(values.get("controls"), list):
            try:
                heard = [_heard(control, name, recording, spec) for control in values["controls"]]
            except RecursionError:
                raise RequestError(f"{name} is damaged: its controls lie too deep") from None
            values = {**values, "controls": heard}
        request = Request.from_dict(values)
        began = values.get("start")
        if began is not None and start is None:
            raise RequestError(f"{name} began from the latent {printable(str(began))}: give it")
        batch, item = report.get("batch"), 0
        if isinstance(batch, Mapping):
            request = replace(request, seed=batch.get("seed"), count=batch.get("count"))
            item = int(check_number("item", batch.get("item", 0), 0, request.count - 1))
        request = replace(request, start=start)
        losses = report.get("loss")
        made = len(losses) if isinstance(losses, list) else 0
        ended = 0 < made < (request.iterations or 0)
        return cls(request, vary=values.get("vary"), item=item, made=made if ended else None)

    @classmethod
    def _of_edit(cls, report: Mapping[str, Any], name: str, recording: StrPath | None) -> "Job":
        asked, edit = report.get("asked"), str(report["edit"])
        if not isinstance(asked, Mapping) or not isinstance(report.get("request"), Mapping):
            raise RequestError(f"{name} does not say how the edit was asked for: give its .json")
        was = report.get("recording")
        recording = None if was is None else _found(was, name, recording, "an edit of")
        if edit not in EDITS:
            raise RequestError(f"{name} does not describe an edit: its report is damaged")
        return cls(Request.from_dict(report["request"]), edit, recording, dict(asked))

    def check(self, model: MusicModel) -> None:
        """Find out before the work what can be: names, ranges, files that are read.

        Raises:
            DittoError: it cannot be made.
        """
        if self.recording is not None:
            seconds = info(self.recording).seconds
            for start, end in _pairs(self.asked.get("regions", ())):
                if not 0 <= start < end <= seconds + 0.1:  # mp3 headers are not exact
                    name = printable(self.recording)
                    raise RequestError(
                        f"the region {start:g} to {end:g} s is not within the {seconds:.2f} s of "
                        f"{name}"
                    )
        if self.edit is not None:
            self._editing()
            request = self.request.resolved(model)
            model.cond(request.tags, 1)
        elif self.vary is None:
            Run(self.request, model)
        else:
            start = self._varied()
            start.check(model, tuple(start.x_T.shape[1:]))
            if self.vary not in variations.HOWS:
                raise RequestError(
                    f"unknown way to vary {shown(self.vary)}: choose one of "
                    f"{', '.join(variations.HOWS)}"
                )
            if self.vary != "ddpm" and not self.request.controls:
                raise RequestError(f"{self.vary} follows controls, and there are none: give some")
            model.cond(self.request.tags, 1)

    def make(self, model: MusicModel, watch: Watch | None = None) -> Result | Edit:
        """Make it.

        Args:
            model: what it is made by.
            watch: called after every iteration.

        Raises:
            DittoError: it cannot be made.
        """
        if self.edit is not None:
            return self._edited(model, watch)
        if self.vary is None:
            stop = never if self.made is None else self._ended
            return run(self.request, model, watch=watch, stop=stop, compare=self.compare)
        request = self.request
        return variations.vary(
            model,
            self._varied(),
            count=request.count,
            how=self.vary,  # pyright: ignore[reportArgumentType]
            seed=request.seed,
            prompts=request.tags,
            controls=request.controls,
            steps=getattr(request.method, "steps", None),
            strength=getattr(request.method, "strength", FREEDOM_STRENGTH),
        )

    def _ended(self, step: Step) -> bool:
        """Tell whether the clip ended with this iteration."""
        assert self.made is not None
        return step.i + 1 >= self.made

    def _varied(self) -> Latent:
        if self.request.start is None:
            raise RequestError("variations are of a latent: give one")
        return self.request.start

    def _edited(self, model: MusicModel, watch: Watch | None) -> Result | Edit:
        def progress(part: int, parts: int, step: Any) -> None:
            if watch is not None:
                watch(step)

        make = self._editing()
        recording = () if self.recording is None else (self.recording,)
        return make(model, *recording, **dict(self.asked), request=self.request, progress=progress)

    def _editing(self) -> Callable[..., Result | Edit]:
        """Return what makes the edit, which takes what is asked.

        Raises:
            RequestError: an argument is unknown, missing, or no number.
        """
        make = EDITS[str(self.edit)]
        if make is loops.loop and self.recording is not None:
            make = loops.loop_recording
        if ("recording" in _parameters(make)) != (self.recording is not None):
            needs = "takes no" if self.recording is not None else "needs its"
            raise RequestError(f"{self.edit} {needs} recording")
        takes = {n: one.default for n, one in _parameters(make).items() if n not in NOT_ASKED}
        if unknown := self.asked.keys() - takes.keys():
            names = ", ".join(printable(str(name)) for name in sorted(unknown, key=str))
            raise RequestError(f"{self.edit} takes no {names}")
        for name, default in takes.items():
            value = self.asked.get(name, default)
            if value is inspect.Parameter.empty:
                raise RequestError(f"{self.edit} needs {name}")
            if name in NUMBERS and not (value is None and default is None):
                edits.edit_number(name, value)
        return make


NUMBERS = ("seconds", "overlap", "fade", "begin")
NOT_ASKED = ("model", "recording", "request", "progress", "watch", "stop", "halt", "keep")
"""Arguments of edits that are no part of what is asked: a report names no file to be written."""


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return an edit's parameters by name, but for the fields of requests."""
    function = variations.invert if make is _inverted else make
    found = inspect.signature(function).parameters
    return {name: one for name, one in found.items() if one.kind is not one.VAR_KEYWORD}


def _pairs(regions: Any) -> list[tuple[float, float]]:
    """Return regions, from and to in seconds.

    Raises:
        RequestError: they are something else.
    """
    try:
        return [(float(start), float(end)) for start, end in regions]
    except (TypeError, ValueError):
        raise RequestError(
            f"regions are pairs of seconds, such as [[1.5, 3]], not {shown(regions)}"
        ) from None


def _found(was: Any, name: str, recording: StrPath | None, what: str) -> StrPath:
    """Return a recording that is given, or else the one of a report's that lies beside it.

    Raises:
        RequestError: it is not there.
    """
    if recording is not None:
        return recording
    folder, wanted = Path(name).parent, str(was)
    try:
        beside = Path(found_path(Path(name).with_name(wanted)))
    except ValueError:  # it names no file of this folder
        beside = folder
    if beside.is_file():
        return beside
    # Reports escape what cannot be printed.
    for path in folder.iterdir() if folder.is_dir() else ():
        if printable(path.name) == wanted and path.is_file():
            return path
    raise RequestError(f"{name} is {what} {printable(wanted)}: give it (recording, --recording)")


def recordings_of(
    report: Mapping[str, Any], name: str, recording: StrPath | None = None
) -> list[StrPath]:
    """Return the recordings that what a report is of reads, those that are there.

    Args:
        report: as JSON.
        name: of the report, for messages; recordings are looked for beside it.
        recording: in place of those.
    """
    found: list[StrPath] = [] if recording is None else [recording]
    parts: list[Any] = [report]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            names = [part.get("recording"), part["like"] if _is_like(part) else None]
            with suppress(RequestError):
                found += [_found(n, name, recording, "of") for n in names if isinstance(n, str)]
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return found


def _is_like(control: Mapping[str, Any]) -> bool:
    """Tell whether a control's description holds a recording that is heard again."""
    return "like" in control and isinstance(control.get("from"), int | float)


def _heard(control: Any, name: str, recording: StrPath | None, spec: AudioSpec) -> Any:
    """Return a control's description, with the recordings that it is like heard again."""
    if not isinstance(control, Mapping):
        return control
    values = dict(control)
    if isinstance(values.get("terms"), list):
        values["terms"] = [_heard(term, name, recording, spec) for term in values["terms"]]
    if _is_like(values):
        path = _found(values["like"], name, recording, "like")
        read = StructureLike.of_recording(path, spec, begin=values["from"])
        values["reference"] = replace(read, name=str(values["like"]))
    return values
