"""Requests in a file, a JSON object a line: options of a command, or a report."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from ditto.cli import edit as edit_commands
from ditto.cli.generate import CLIPS
from ditto.cli.options import (
    REQUEST_OPTIONS,
    SEED,
    START,
    TAG_OPTIONS,
    Options,
    Parameters,
    control_options,
    method_options,
    option,
)
from ditto.cli.progress import console
from ditto.errors import DittoError, RequestError
from ditto.fleet.making import Entry
from ditto.jobs import Job, recordings_of
from ditto.latents import Latent
from ditto.methods import Uncontrolled
from ditto.models.model import MusicModel, needs_windows
from ditto.paths import found_path, printable, shown
from ditto.request import Request, as_tags

NAME, COMMAND = "name", "command"
"""Keys of a line beside its options."""
OWN = "batch"
"""Panel of options that are a command's own."""


def _own(name: str, kind: Any, *spellings: str, default: Any = None) -> Any:
    return option(name, kind, "", *spellings, panel=OWN, default=default)


RECORDING, OVERLAP = _own("recording", str), _own("overlap", float)
MAKING = [*method_options(), *REQUEST_OPTIONS]
EDITING: Parameters = [*TAG_OPTIONS, *control_options(), *MAKING, SEED, edit_commands.BEAT]
EDITING += [RECORDING, OVERLAP]
CLIP_NAMES = ("seed", "candidate", "count", "seconds", "fade", "compare")
COMMANDS: dict[str, Parameters] = {
    "generate": [*TAG_OPTIONS, *control_options(), *MAKING, START]
    + [parameter for parameter in CLIPS if parameter.name in CLIP_NAMES],
    "inpaint": [*EDITING, _own("start", list, "--from"), _own("ending", list, "--to")],
    "outpaint": [
        *EDITING,
        _own("seconds", float),
        _own("backwards", bool, default=False),
        _own("begin", float, "--from"),
    ],
    "loop": [
        *(parameter for parameter in EDITING if parameter.name != "bpm"),
        _own("seconds", float),
        _own("bpm", float),
        _own("bars", int),
        _own("repeats", int, default=1),
    ],
    "vary": [
        SEED,
        _own("latent", str),
        _own("count", int, default=1),
        _own("sampling", str, default="ddpm"),
        _own("tags", str),
        _own("steps", int),
    ],
}
"""Options that a line may have, by its command."""


@cache
def _known(command: str) -> dict[str, Any]:
    """Return parameters of a command by every spelling, without dashes at the front."""
    found = {}
    for parameter in COMMANDS[command]:
        _, about = get_args(parameter.annotation)
        spellings = [part for spelt in about.param_decls for part in spelt.split("/")]
        for spelling in (*spellings, parameter.name):
            if not spelling.startswith("--no-"):
                found[spelling.lstrip("-").replace("-", "_")] = parameter
    return found


def options_of(values: Mapping[str, Any]) -> Options:
    """Return the options of a line, those that it leaves out at their defaults.

    Raises:
        RequestError: there is no such command or option, or a value is of another kind.
    """
    command = values.get(COMMAND, "generate")
    if not isinstance(command, str) or command not in COMMANDS:
        raise RequestError(f"unknown command {shown(command)}: there are {', '.join(COMMANDS)}")
    known = _known(command)
    options = Options({parameter.name: parameter.default for parameter in known.values()})
    for key, value in values.items():
        if key in (NAME, COMMAND) or value is None:
            continue
        parameter = known.get(key.replace("-", "_"))
        if parameter is None:
            raise RequestError(
                f"{command} has no option {shown(key)}: keys are the long options of `ditto-music "
                f"{command}`, and {NAME} and {COMMAND}"
            )
        if parameter.name == "tags" and isinstance(value, Mapping):
            options["tags"], options.__dict__["words"] = "", as_tags(value)
        else:
            options[parameter.name] = _value(key, value, get_args(parameter.annotation)[0])
    return options


def _value(key: str, value: Any, annotation: Any) -> Any:
    """Return a JSON value as the option's kind.

    Raises:
        RequestError: it is of another.
    """
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    kind = next(kind for kind in kinds if kind is not type(None))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is list:
        return [
            _value(key, each, float) for each in (value if isinstance(value, list) else [value])
        ]
    finite = number and abs(value) <= sys.float_info.max  # JSON may have NaN, or 400 digits
    if kind is float and finite:
        return float(value)
    if kind is int and finite and value == int(value):
        return int(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is str and (isinstance(value, str) or number):
        return str(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", list: "numbers"}
    raise RequestError(f"{key} must be {words.get(kind, 'text')}, not {shown(value)}")


def job_of(values: Mapping[str, Any], file: str, model: MusicModel) -> Job:
    """Return what a line asks for; files that it names are read.

    Args:
        values: the line.
        file: that it is of: a report's recording and latent are looked for beside it.
        model: what it will run on.

    Raises:
        DittoError: it cannot be understood.
    """
    quiet, console.quiet = console.quiet, True  # what a control was understood as: per line, noise
    try:
        if "request" in values:
            return _of_report(values, file, model)
        options = options_of(values)
        options.__dict__["model"] = model
        options.check_inputs()
        return _JOBS[values.get(COMMAND, "generate")](options, model)
    finally:
        console.quiet = quiet


def _of_report(values: Mapping[str, Any], file: str, model: MusicModel) -> Job:
    request, start = values["request"], values.get("start")
    if start is None and isinstance(request, Mapping) and isinstance(request.get("start"), str):
        with suppress(ValueError):  # it names no file of this folder
            beside = Path(found_path(Path(file).with_name(request["start"])))
            start = beside if beside.is_file() else None
    latent = None if start is None else Latent.load(str(start))
    return Job.of_report(values, file, start=latent, spec=model.spec)


def _generate(options: Options, model: MusicModel) -> Job:
    request = options.request()
    if not needs_windows(model, options["seconds"]):
        if options["fade"]:
            raise RequestError("fade goes with music of several windows: give more seconds")
        return Job(request, compare=options["compare"])
    asked = {"seconds": options["seconds"], "fade": options["fade"]}
    return Job(replace(request, seconds=None), "song", None, asked)


def _overlap(options: Options) -> dict[str, float]:
    return {} if options["overlap"] is None else {"overlap": options["overlap"]}


def _recording(options: Options) -> str:
    if options["recording"] is None:
        raise RequestError("an edit needs its recording")
    return options["recording"]


def _inpaint(options: Options, model: MusicModel) -> Job:
    start, ending = options["start"] or [], options["ending"] or []
    if not start or len(start) != len(ending):
        raise RequestError(f"give one to for each from, not {len(ending)} for {len(start)}")
    asked = {"regions": [list(pair) for pair in zip(start, ending, strict=True)]}
    recording, request = _recording(options), _requested(options)
    return Job(request, "inpaint", recording, asked | _overlap(options))


def _outpaint(options: Options, model: MusicModel) -> Job:
    if options["seconds"] is None:
        raise RequestError("outpaint needs seconds, the length of the whole in the end")
    asked: dict[str, Any] = {name: options[name] for name in ("seconds", "begin")}
    asked["direction"] = "backwards" if options["backwards"] else "forwards"
    recording, request = _recording(options), _requested(options)
    return Job(request, "outpaint", recording, asked | _overlap(options))


def _loop(options: Options, model: MusicModel) -> Job:
    recording, bpm = options["recording"], options["bpm"]
    seconds = edit_commands.loop_length(
        options["seconds"], bpm, options["bars"], needed=recording is None
    )
    asked = {"seconds": seconds, "repeats": options["repeats"], **_overlap(options)}
    del options["bpm"]  # elsewhere it is the melody's
    return Job(_requested(options, bpm), "loop", recording, asked)


def _requested(options: Options, bpm: float | None = None) -> Request:
    # Keys of an edit that a request has in another sense.
    own = Options({name: value for name, value in options.items() if name not in _EDITS_OWN})
    own.__dict__.update(options.__dict__)
    return edit_commands.requested(own, bpm)


_EDITS_OWN = {"seconds", "start", "ending", "begin"}


def _vary(options: Options, model: MusicModel) -> Job:
    if options["latent"] is None:
        raise RequestError("variations are of a latent: give one")
    latent = Latent.load(options["latent"])
    made = Request.from_dict(latent.request, strict=options["sampling"] != "ddpm")
    tags = made.tags if options["tags"] is None else options.words
    request = replace(
        made, tags=tags, seed=options["seed"], count=options["count"], start=latent, seconds=None
    )
    if options["steps"] is not None:
        method: Any = request.method if hasattr(request.method, "steps") else Uncontrolled()
        request = replace(request, method=replace(method, steps=options["steps"]))
    return Job(request, vary=options["sampling"])


_JOBS: dict[str, Callable[[Options, MusicModel], Job]] = {
    "generate": _generate,
    "inpaint": _inpaint,
    "outpaint": _outpaint,
    "loop": _loop,
    "vary": _vary,
}


def _job(values: Mapping[str, Any], item: int | None, file: str, model: MusicModel) -> Job:
    """Return the job of a line, or of one item of it as it would be alone."""
    job = job_of(values, file, model)
    if item is None:
        return job
    request = job.request
    return replace(job, request=replace(request, seed=request.seed + item, count=1))


@dataclass(frozen=True)
class Lines:
    """A file of requests, as a `Source`: a line is read when its turn comes.

    A line that asks for several clips is that many entries, of seeds that follow each other.

    Attributes:
        path: of the file; one that ends in .json is a single report.
    """

    path: Path

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int | None], Entry]]:
        """Yield every entry with its position: where its line begins, its number, which clip.

        Raises:
            RequestError: the file cannot be read, or holds no requests.
        """
        empty = True
        try:
            with open(found_path(self.path), "rb") as file:
                for number, offset, text in self._lines(file):
                    empty = False
                    for item in self._items(text):
                        yield (offset, number, item), self._entry(text, number, item)
        except OSError as error:
            raise RequestError(
                f"cannot read {printable(self.path)}: {error.strerror or error}"
            ) from None
        if empty:
            raise RequestError(f"{printable(self.path)} holds no requests: write one a line")

    def entry(self, position: tuple[int, int, int | None]) -> Entry:
        """Return the entry at a position."""
        offset, number, item = position
        with open(found_path(self.path), "rb") as file:
            file.seek(offset)
            return self._entry(file.read() if self._single else file.readline(), number, item)

    @property
    def _single(self) -> bool:
        return self.path.suffix.lower() == ".json"

    def _lines(self, file: Any) -> Iterator[tuple[int, int, bytes]]:
        if self._single:
            yield 1, 0, file.read()
            return
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)

    def _items(self, text: bytes) -> list[int | None]:
        try:
            values = _object(text)
            of = values["request"] if isinstance(values.get("request"), Mapping) else values
            count = 1 if isinstance(values.get("batch"), Mapping) else of.get("count", 1)
            if of is values and isinstance(count, float) and count.is_integer():
                count = int(count)  # as options are read
            if isinstance(count, int) and 1 < count <= 256:
                return list(range(count))
        except DittoError:
            pass
        return [None]

    def _entry(self, text: bytes, number: int, item: int | None) -> Entry:
        place = self.path.name if self._single else f"{self.path.name} line {number}"
        try:
            values = _object(text)
            own = f"{self.path.stem}.wav" if self._single else f"{number:05d}.wav"
            path = _named(values.get(NAME), own)
        except DittoError as error:
            return Entry(f"{number:05d}.wav", printable(place), "", partial(_raise, str(error)))
        if item is not None:
            path = path.with_name(f"{path.stem}-{item}{path.suffix}")
        told = {key: value for key, value in values.items() if key != NAME}
        inputs = [value for value in told.values() if isinstance(value, str)]
        read = recordings_of(values, str(self.path)) if "request" in values else ()
        return Entry(
            name=str(path),
            place=printable(place),
            text=json.dumps([told, item], sort_keys=True),
            read=partial(_job, values, item, str(self.path)),
            inputs=(self.path, *inputs, *read),
        )


def _named(name: Any, own: str) -> Path:
    """Return the sound file of a line's name, by default its `own`.

    Raises:
        RequestError: it is none.
    """
    if name is None:
        return Path(own)
    if isinstance(name, bool) or not isinstance(name, str | int) or "\0" in str(name):
        raise RequestError(f"{NAME} must be that of a sound file, not {shown(name)}")
    path = Path(str(name))
    if not path.name:
        raise RequestError(f"{NAME} must be that of a sound file, not {shown(name) or 'empty'}")
    return path if path.suffix else path.with_suffix(".wav")


def _raise(words: str, model: MusicModel) -> Job:
    raise RequestError(words)


def _object(text: bytes) -> dict[str, Any]:
    """Return a line's JSON object.

    Raises:
        RequestError: it is none.
    """
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        words = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise RequestError(f"no JSON object: {words}") from None
    if not isinstance(values, dict):
        raise RequestError(
            'no JSON object: write one such as {"loudness": "swell", "tags": "genre=jazz"}'
        )
    return values
