"""A request: everything that determines a clip, given the model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ditto.controls import control_from_dict
from ditto.controls.base import Control
from ditto.controls.weights import weighted_sum
from ditto.errors import ControlError, RequestError, TagError, warn_deprecated
from ditto.latents import Latent
from ditto.methods import METHODS, Method, make_method
from ditto.methods.base import check_number
from ditto.methods.candidates import MAX_CANDIDATES
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.paths import shown

MAX_SEED = 2**31 - 1
LIMITS = {
    "seed": (0, MAX_SEED),
    "count": (1, 256),
    "seconds": (0.05, 3600.0),
    "guidance": (0.0, 30.0),
    "iterations": (1, 10_000),
}
"""Ranges of the numbers of a request; of ints, whole numbers."""
ALWAYS_TOLD = ("genre", "mood", "tempo")
TAG_NAMES = (*ALWAYS_TOLD, "prompt", "lyrics", "key")
"""Tags; those of `ALWAYS_TOLD` are in every report, the others where they are given."""


@dataclass(frozen=True)
class Request:
    """Everything that determines a clip, given the model.

    Attributes:
        controls: what the output must follow; none is plain generation.
        tags: genre, mood, tempo (or a prompt), lyrics, key.
        seed: of the first item; item i of a batch draws x_T from ``seed + i``, as it would alone.
        count: clips to make at once.
        seconds: length; None is the model's window.
        guidance: CFG scale w (0 unconditional, 1 conditional); None is the model's default.
        iterations: K; None is the papers' for the controls, 70, or 150 with melody, structure or
            chords; for DITTO-2 with corrections 40, with several or brightness 70.
        start: x_T to begin from in place of noise, for every item alike; `seconds` is then its
            length if not given.
        candidate: which of a seed's noises to begin from, as reports give it: 0 is the seed's own,
            the others those that a search (`Ditto2.candidates`) chooses from; of an edit or a song
            it may be one for each window. None leaves it to the method.
        method: None is `Ditto2` for a model with a student, otherwise `Ditto`, and without
            controls `Uncontrolled`.
    """

    controls: tuple[Control, ...] = ()
    tags: Tags = field(default_factory=Tags)
    seed: int = 0
    count: int = 1
    seconds: float | None = None
    guidance: float | None = None
    iterations: int | None = None
    start: Latent | None = None
    candidate: int | tuple[int | None, ...] | None = None
    method: Method | None = None

    def __init__(
        self,
        controls: Sequence[Control] | Control = (),
        tags: Tags | Mapping[str, Any] | str | None = None,
        seed: int = 0,
        count: int = 1,
        seconds: float | None = None,
        guidance: float | None = None,
        iterations: int | None = None,
        start: Latent | None = None,
        method: Method | str | None = None,
        candidate: int | Sequence[int | None] | None = None,
        **settings: Any,
    ) -> None:
        """Take the settings; see the class.

        Args:
            controls: one control or several.
            tags: `Tags`, a mapping, or text such as "genre=jazz tempo=110".
            seed: see the class, as all that follow.
            count: clips.
            seconds: length.
            guidance: w.
            iterations: K.
            start: a latent.
            method: a method; a name with the method's settings beside it still works, with a
                warning.
            candidate: a noise's number, or those of the windows.
            settings: of a method given by name.

        Raises:
            RequestError: a setting is out of range.
            TagError: a tag is unknown.
            TypeError: a setting is unknown.
        """
        if not isinstance(start, Latent | None):
            raise RequestError(f"{shown(start)} is no latent: give Latent.load('out.latent')")
        listed = as_controls(controls)
        values = {
            "controls": listed,
            "tags": as_tags(tags),
            "seed": seed,
            "count": count,
            "seconds": seconds,
            "guidance": guidance,
            "iterations": iterations,
            "start": start,
            "candidate": as_candidate(candidate),
            "method": _method(method, settings, controlled=bool(listed)),
        }
        for name, value in values.items():
            if name in LIMITS and (value is not None or name in ("seed", "count")):
                value = check_number(name, value, *LIMITS[name])
            object.__setattr__(self, name, value)

    @property
    def control(self) -> Control | None:
        """All controls as one, see `weighted_sum`; None without controls."""
        return weighted_sum(self.controls)

    def candidate_of(self, window: int) -> int | None:
        """Return the number of the noise that a window begins from, if it is said."""
        if not isinstance(self.candidate, tuple):
            return self.candidate
        return self.candidate[window] if window < len(self.candidate) else None

    def resolved(self, model: MusicModel) -> "Request":
        """Return the request with every default filled in: method and its settings, K, w.

        Raises:
            RequestError: the model cannot be used with the method.
        """
        method = self.method
        if method is None:
            name = "ditto2" if model.distilled else "ditto"
            method = make_method(name if self.controls else "none")
        if self.start is not None and getattr(method, "grid", "") is None:
            method = replace(method, grid=self.start.grid)  # pyright: ignore[reportCallIssue]
        guidance = model.guidance if self.guidance is None else self.guidance
        model.check_guidance(guidance)
        begins = self.start is not None or self.candidate is not None
        if begins and getattr(method, "candidates", 1) is None:
            method = replace(method, candidates=1)  # pyright: ignore[reportCallIssue]
        method = method.suited(self.controls)
        iterations = self.iterations or method.default_iterations(self.controls)
        return replace(
            self,
            guidance=guidance,
            iterations=iterations,
            method=method.resolve(model, guidance, iterations),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the request as JSON; `from_dict` reads it."""
        tags = {name: getattr(self.tags, name) for name in TAG_NAMES}
        tags = {n: tag for n, tag in tags.items() if n in ALWAYS_TOLD or tag is not None}
        if self.tags.beat != Tags.beat:
            tags["beat"] = self.tags.beat
        start = {} if self.start is None else {"start": self.start.name}
        candidate = {} if self.candidate is None else {"candidate": self.candidate}
        return {
            "controls": [control.to_dict() for control in self.controls],
            "tags": tags,
            **{name: getattr(self, name) for name in LIMITS},
            "method": None if self.method is None else self.method.to_dict(),
            **start,
            **candidate,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, strict: bool = True) -> "Request":
        """Return the request of a report, of this version of Ditto or of 0.1.

        A latent that it began from is not in the report: ``replace(request, start=…)`` gives it.

        Args:
            values: what `to_dict` wrote.
            strict: refuse a request with a control that cannot be restored; otherwise leave that
                control out.

        Raises:
            ControlError: see `strict`.
            RequestError: the description is damaged.
        """
        controls = []
        described = values.get("controls") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(described, Sequence | None):
            raise RequestError(f"{shown(values)} does not describe a request")
        # The tags of a sound file only name controls that were too long for them.
        for description in [described] if isinstance(described, str) else described or ():
            try:
                whole = isinstance(description, Mapping)
                controls.append(control_from_dict(description if whole else {}))
            except ControlError:
                if strict:
                    raise
        settings = {name: values[name] for name in LIMITS if values.get(name) is not None}
        try:
            tags = Tags(**(values.get("tags") or {}))
            method, candidate = method_from_dict(values), values.get("candidate")
            return cls(controls, tags, **settings, method=method, candidate=candidate)
        except TypeError as error:
            raise RequestError(f"the report does not hold a whole request: {error}") from None


def method_from_dict(values: Mapping[str, Any]) -> Method | None:
    """Return the method of a request's description, of this version or of 0.1 (settings beside it).

    Raises:
        RequestError: it is unknown.
    """
    method = values.get("method")
    if isinstance(method, Mapping):
        settings = {name: value for name, value in method.items() if name != "name"}
        return make_method(str(method.get("name")), settings)
    if method is None or method not in METHODS:
        return None
    known = {f.name for f in fields(METHODS[method])}
    return make_method(method, {name: values[name] for name in known & set(values)})


def as_controls(given: Sequence[Control] | Control) -> tuple[Control, ...]:
    """Return one control or several as a tuple.

    Raises:
        ControlError: something else is among them.
    """
    controls: tuple[Any, ...] = (given,)
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        controls = tuple(given)
    for one in controls:
        if not isinstance(one, Control):
            raise ControlError(
                f"{shown(one)} is no control: give objects such as ditto.Intensity('crescendo')"
            )
    return controls


def as_candidate(given: int | Sequence[int | None] | None) -> int | tuple[int | None, ...] | None:
    """Return the number of a noise, or of those of several windows.

    Raises:
        RequestError: one is none.
    """

    def number(one: Any) -> int | None:
        return None if one is None else int(check_number("candidate", one, 0, MAX_CANDIDATES - 1))

    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(map(number, given))
    return number(given)


def as_tags(tags: Tags | Mapping[str, Any] | str | None) -> Tags:
    """Return tags from a mapping, or from text such as "genre=jazz tempo=110".

    Raises:
        TagError: a tag is unknown.
    """
    if isinstance(tags, Tags):
        return tags
    if isinstance(tags, str):
        return Tags.parse(tags)
    if not isinstance(tags, Mapping | None):
        raise TagError(f"tags are a mapping, or text such as 'genre=jazz', not {shown(tags)}")
    unknown = sorted(map(str, set(tags or {}) - {*TAG_NAMES, "beat"}))
    if unknown:
        raise TagError(f"unknown tags {', '.join(unknown)}: there are {', '.join(TAG_NAMES)}")
    return Tags(**(tags or {}))


def _method(
    method: Method | str | None, settings: Mapping[str, Any], controlled: bool
) -> Method | None:
    """Return the method of a request; names, and settings beside them, are of version 0.1."""
    if not isinstance(method, Method | str | None):
        raise RequestError(
            f"{shown(method)} is no method: give an object such as ditto.Ditto2(decode_steps=4)"
        )
    if not isinstance(method, str) and not settings:
        return method
    known = {f.name for cls in METHODS.values() for f in fields(cls)}
    unknown = sorted(set(settings) - known)
    if unknown or isinstance(method, Method):
        raise TypeError(
            f"a request has no setting {', '.join(unknown or settings)}: settings of a method are "
            "given to the method, e.g. method=ditto.Ditto2(decode_steps=4)"
        )
    if method is None:
        whole_chain = {"steps", "sampler", "checkpointing"} & set(settings)
        method = ("ditto" if whole_chain else "ditto2") if controlled else "none"
    cls = type(make_method(method))
    warn_deprecated(
        f"the method by name ({method!r}) and its settings beside it will be removed: give "
        f"method=ditto.{cls.__name__}(…)"
    )
    own = {f.name for f in fields(cls)}
    return make_method(method, {name: value for name, value in settings.items() if name in own})
