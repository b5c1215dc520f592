"""A clip again, from its report: whether it is the same, and if not, what is not as it was.

Request, model and machine are in every report, and, less what has no room, in the sound file's own
tags. On the CPU the same request, weights, versions and instructions give the same samples, bit for
bit, whether a clip was made alone or as an item of a batch.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditto.audio.io import SUBTYPES, read, read_tags
from ditto.edit.result import Edit
from ditto.errors import AudioFileError, RequestError
from ditto.jobs import Job
from ditto.latents import Latent
from ditto.models.model import MusicModel, check_model
from ditto.paths import StrPath, found_path, printable
from ditto.result import Result, machine, versions
from ditto.runner import Watch


@dataclass(frozen=True, eq=False)
class Kept:
    """A clip's or an edit's report, and its sound.

    Attributes:
        report: as JSON.
        sound: the sound file that it belongs to, if it is there.
        name: of the report, for messages.
    """

    report: Mapping[str, Any]
    sound: Path | None
    name: str

    @classmethod
    def read(cls, path: StrPath) -> "Kept":
        """Read a report (.json) with the sound beside it, or a sound file's own tags.

        Raises:
            RequestError: it is missing, damaged, or no report of Ditto's.
            AudioFileError: the sound file cannot be read.
        """
        file, name = Path(found_path(path)), printable(path)
        if file.suffix.lower() == ".json":
            sounds = (file.with_suffix(ending) for ending in SUBTYPES)
            sound = next((sound for sound in sounds if sound.is_file()), None)
            return cls(_report(_text(file), name), sound, name)
        comment = read_tags(file).get("comment", "")
        beside = file.with_suffix(".json")
        # What is beside has everything; the tags are there wherever the sound went.
        try:
            return cls(_report(_text(beside) if beside.is_file() else comment, name), file, name)
        except RequestError as error:  # what is beside may be somebody else's
            try:
                return cls(_report(comment, name), file, name)
            except RequestError:
                raise error from None

    @property
    def precision(self) -> str | None:
        """Precision of the networks, if the report says so."""
        return self.report["model"].get("precision")

    def differences(self, model: MusicModel) -> list[str]:
        """Return what is not as it was: model, versions, machine."""
        was = {
            "model": UNSAID | self.report["model"],
            "versions": self.report.get("versions") or {},
            "machine": self.report.get("machine") or {},
        }
        now = {"model": UNSAID | model.describe(), "versions": versions(), "machine": machine()}
        return [
            f"{kind.removesuffix('s')} {key}: {_short(was[kind][key])} then, {_short(value)} now"
            for kind, values in now.items()
            for key, value in values.items()
            if was[kind].get(key, value) != value and (kind, key) != ("model", "name")
        ]


UNSAID = {"decoder_precision": "float32", "heads": "none"}
"""What a report leaves out of a model where it is so."""


@dataclass(frozen=True, eq=False)
class Again:
    """What came out.

    Attributes:
        made: the clip or the edit.
        item: of the result.
        same: whether it is the old one sample for sample; None if there is no sound to compare.
        largest: the largest difference of a sample.
        differences: what is not as it was, see `Kept.differences`.
    """

    made: Result | Edit
    item: int
    same: bool | None
    largest: float
    differences: tuple[str, ...]

    def save(self, path: StrPath, *, force: bool = False) -> list[Path]:
        """Write it; see `Result.save`."""
        if isinstance(self.made, Edit):
            return self.made.save(path, force=force)
        return self.made.save(path, self.item, force=force)


def again(
    model: MusicModel,
    report: StrPath | Kept,
    *,
    start: Latent | None = None,
    recording: StrPath | None = None,
    watch: Watch | None = None,
) -> Again:
    """Make a clip or an edit again, and compare it with what is there.

    Args:
        model: from `ditto.load`, in the report's precision.
        report: the .json beside a sound, or the sound file.
        start: the latent that the clip began from, if it did.
        recording: that was edited, or that a form is like; by default the file of its name beside
            the report.
        watch: called after every iteration.

    Raises:
        RequestError: the report is damaged, or does not hold all that is needed.
        ControlError: a control cannot be restored from the report.
    """
    check_model(model)
    kept = report if isinstance(report, Kept) else Kept.read(report)
    job = Job.of_report(kept.report, kept.name, start=start, recording=recording, spec=model.spec)
    item, made = job.item, job.make(model, watch)
    same, largest = None, 0.0
    if kept.sound is not None:
        largest = _difference(kept.sound, lambda path: _save(made, item, path))
        same = largest == 0
    return Again(made, item, same, largest, tuple(kept.differences(model)))


def _save(made: Result | Edit, item: int, path: Path) -> None:
    if isinstance(made, Edit):
        made.save(path, picture=False)
    else:
        made.save(path, item, picture=False)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"there is no report {printable(file)}") from None
    except (OSError, ValueError):
        raise RequestError(f"{printable(file)} is no report that can be read") from None


def _report(text: str, name: str) -> Mapping[str, Any]:
    """Return a report from its JSON."""
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, Mapping) or not isinstance(report.get("model"), Mapping):
        raise RequestError(
            f"{name} holds no report of Ditto's: give the .json that was written beside the sound"
        )
    if "edit" not in report and not isinstance(report.get("request"), Mapping):
        raise RequestError(f"{name} does not hold a whole request: give the .json beside the sound")
    if isinstance((report.get("request") or {}).get("controls"), str):
        raise RequestError(
            f"the tags of {name} have no room for its controls: give the .json that was written "
            "beside the sound"
        )
    for part in ("versions", "machine"):
        if not isinstance(report.get(part), Mapping | None):
            raise RequestError(f"{name} is damaged: its {part} cannot be read")
    return report


def _difference(old: Path, save: Callable[[Path], None]) -> float:
    """Return the largest difference of a sample between a sound file and what `save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / f"again{old.suffix}"
        save(new)
        try:
            a, b = read(old), read(new)
        except AudioFileError:
            try:  # of a few milliseconds, which are no recording
                return 0.0 if old.read_bytes() == new.read_bytes() else np.inf
            except OSError:
                pass
            raise
    if a.sample_rate != b.sample_rate or a.samples.shape != b.samples.shape:
        return np.inf
    return float(np.abs(a.samples - b.samples).max())


def _short(value: Any) -> str:
    """Return a value for one line; of a hash its beginning."""
    return printable(str(value))[:16]
