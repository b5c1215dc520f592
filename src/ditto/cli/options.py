"""Every option of the commands that make music, defined once.

Options of controls and methods come from their classes: a control says what its option takes
(`Control.help`, `Control.options`), and a method's fields are its options. A new control or method
therefore needs no line here.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ditto.audio.io import info
from ditto.audio.opening import is_recording
from ditto.cli.docstrings import attributes
from ditto.cli.progress import DEVICE_HELP, say
from ditto.controls import CONTROLS
from ditto.controls.base import Control, ParseContext
from ditto.errors import ControlError, TagError, one_line
from ditto.latents import Latent
from ditto.methods import METHODS, make_method
from ditto.models.conditioning import Tags
from ditto.models.device import device_name
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.paths import found_path, printable, refuse_inputs
from ditto.request import Request

CONTROLS_PANEL, METHOD_PANEL, OUTPUT_PANEL, MODEL_PANEL = "Controls", "Method", "Output", "Model"
SHORT = {"steps": "-T", "surrogate_steps": "-M"}
"""Letters of the papers."""

Parameters = list[inspect.Parameter]


def option(
    name: str, kind: Any, help_text: str, *spellings: str, panel: str, default: Any = None
) -> inspect.Parameter:
    """Return a typer option as a parameter of a command.

    Args:
        name: of the value; the option is spelt ``--name`` with dashes.
        kind: type; None is added where the default is None.
        help_text: one line.
        spellings: others of the option, e.g. "-K".
        panel: group in ``--help``.
        default: value if the option is not given.
    """
    declared = [f"--{name.replace('_', '-')}", *spellings]
    if kind is bool and len(declared) > 1 and declared[1].startswith("--no-"):
        declared = ["/".join(declared)]
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            annotation, typer.Option(*declared, help=help_text, rich_help_panel=panel)
        ],
    )


def flag(name: str, help_text: str, *spellings: str, panel: str) -> inspect.Parameter:
    """Return an option without a value."""
    return option(name, bool, help_text, *spellings, panel=panel, default=False)


def control_options() -> Parameters:
    """Return the options of every control: its text, a recording, when it counts, how much."""
    found: Parameters = []
    for kind, control in CONTROLS.items():
        names = (kind, *control.other_names)

        def spelt(suffix: str, names: tuple[str, ...] = names) -> list[str]:
            return [f"--{name}-{suffix}" for name in names[1:]]

        others = [f"--{name}" for name in names[1:]]
        found.append(option(kind, str, control.help, *others, panel=CONTROLS_PANEL))
        if control.like_help:
            found.append(
                option(
                    f"{kind}_like", Path, control.like_help, *spelt("like"), panel=CONTROLS_PANEL
                )
            )
        for own in control.options:
            if own.kind is bool:
                found.append(flag(own.name, own.help, *own.spellings, panel=CONTROLS_PANEL))
            else:
                parts = own.name, own.kind, own.help
                found.append(option(*parts, *own.spellings, panel=CONTROLS_PANEL))
        found.append(
            option(
                f"{kind}_during",
                str,
                "When it counts, in seconds: '2-6' or '0-1 4-6'; else always.",
                *spelt("during"),
                panel=CONTROLS_PANEL,
            )
        )
        found.append(
            option(
                f"{kind}_weight",
                float,
                "λ beside the other controls; as soon as one is given, the others' are 1.",
                *spelt("weight"),
                panel=CONTROLS_PANEL,
            )
        )
    found.append(
        option(
            "like_from",
            str,
            "Where in a recording to be like, in seconds; auto: from its first sound on.",
            "--like-begin",
            panel=CONTROLS_PANEL,
        )
    )
    return found


@dataclass(frozen=True)
class Setting:
    """A method's field as an option: its type and the methods that have it."""

    field: str
    kind: Any
    methods: tuple[str, ...]
    about: str
    default: Any

    @property
    def name(self) -> str:
        """Name of the option: the field's, unless the request has one of that name."""
        return f"{self.methods[0]}_{self.field}".replace("-", "_") if self.taken else self.field

    @property
    def taken(self) -> bool:
        """Whether the request has a field of that name."""
        return self.field in {f.name for f in fields(Request)}


def method_settings() -> list[Setting]:
    """Return the fields of all methods, each once."""
    found: dict[str, Setting] = {}
    for name, method in METHODS.items():
        kinds, about = get_type_hints(method), attributes(method)
        for field in fields(method):
            old = found.get(field.name)
            found[field.name] = Setting(
                field.name,
                kinds[field.name],
                (*(old.methods if old else ()), name),
                old.about if old else about[field.name],
                old.default if old else field.default,
            )
    return list(found.values())


def method_options() -> Parameters:
    """Return ``--method`` and the options of every method's fields."""
    names = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    found = [
        option(
            "method",
            str,
            f"By default ditto2 if the model has a student, else ditto. {names}.",
            panel=METHOD_PANEL,
        )
    ]
    for setting in method_settings():
        kinds = [
            kind for kind in get_args(setting.kind) or (setting.kind,) if kind is not type(None)
        ]
        # A number or a word ("adaptive") is read from text.
        kind = kinds[0] if len(kinds) == 1 and kinds[0] in (int, float, str, bool) else str
        others = [name for name in METHODS if name not in setting.methods]
        few = len(setting.methods) < len(others)
        who = ", ".join(setting.methods) if few else f"all but {', '.join(others)}"
        about = f"{who}: {setting.about}"
        if setting.default is not None:
            about += f" Default: {setting.default}."
        short = [SHORT[setting.field]] if setting.field in SHORT else []
        if kind is bool:
            short = [f"--no-{setting.name.replace('_', '-')}"]
        found.append(option(setting.name, kind, about, *short, panel=METHOD_PANEL))
    return found


REQUEST_OPTIONS: Parameters = [
    option(
        "iterations",
        int,
        "Optimisation iterations; by default 40 or 70 for ditto2, else the papers' 70 or 150.",
        "-K",
        panel=METHOD_PANEL,
    ),
    option(
        "guidance",
        float,
        "CFG scale w: 0 ignores the tags, 1 follows them; default: the model's.",
        panel=METHOD_PANEL,
    ),
]
TAGS = option(
    "tags", str, 'Tags, e.g. "genre=jazz mood=calm tempo=110".', panel=CONTROLS_PANEL, default=""
)
LYRICS = option(
    "lyrics",
    str,
    "Words to sing, or a .txt file of them; for models that sing.",
    panel=CONTROLS_PANEL,
)
KEY = option("key", str, "Such as 'C minor'; for models that know keys.", panel=CONTROLS_PANEL)
TAG_OPTIONS: Parameters = [TAGS, LYRICS, KEY]
SEED = option("seed", int, "Seed of the first clip or window.", panel=OUTPUT_PANEL, default=0)
FORCE = flag("force", "Replace outputs that exist.", panel=OUTPUT_PANEL)
START = option("start", Path, "Begin from this .latent in place of noise.", panel=METHOD_PANEL)
DEVICE = option("device", str, DEVICE_HELP, panel=MODEL_PANEL, default="auto")
LOW_MEMORY = flag("low_memory", "Need less memory, for one more forward pass.", panel=MODEL_PANEL)
MODEL_OPTIONS: Parameters = [
    option(
        "model",
        str,
        "A model's folder, or its name on the Hub; the embedded model by default.",
        panel=MODEL_PANEL,
    ),
    option(
        "student",
        Path,
        "A student's folder, from `ditto-music distill pack --alone`.",
        panel=MODEL_PANEL,
    ),
    option(
        "controlnet",
        Path,
        "A ControlNet's folder, from `ditto-music train controlnet`.",
        panel=MODEL_PANEL,
    ),
    option("heads", Path, "A folder of heads, from `ditto-music train heads`.", panel=MODEL_PANEL),
    DEVICE,
    option(
        "precision",
        str,
        "Of the networks: float32, bfloat16, float16; auto is bfloat16 where the processor has it.",
        panel=MODEL_PANEL,
        default="auto",
    ),
    option(
        "decoder_precision",
        str,
        "Of what makes the sound: float32, bfloat16 or float16.",
        panel=MODEL_PANEL,
        default="float32",
    ),
    LOW_MEMORY,
]


class Options(dict[str, Any]):
    """The values of a command's options by name, and what they ask for."""

    @cached_property
    def words(self) -> Tags:
        """The tags.

        Raises:
            TagError: they cannot be read.
        """
        tags = Tags.parse(self["tags"])
        lyrics, key = self.get("lyrics"), self.get("key")
        if key is not None:
            tags = replace(tags, key=key)
        return tags if lyrics is None else replace(tags, lyrics=_lyrics(lyrics))

    @cached_property
    def model(self) -> MusicModel:
        """The model, loaded when it is first needed."""
        model = load(
            self["model"],
            device=self["device"],
            precision=self["precision"],
            decoder_precision=self["decoder_precision"],
            low_memory=self["low_memory"],
        )
        if self["device"] == "auto" and model.device.type != "cpu":
            say(f"note: on {device_name(model.device)}; --device cpu is the processor")
        if self.get("student") is not None:
            model = model.with_student(self["student"])
        if self.get("heads") is not None:
            model = model.with_heads(self["heads"])
        if self.get("controlnet") is not None:
            from ditto.models.controlnet import with_controlnet

            model = with_controlnet(model, self["controlnet"])
        return model

    def keep_inputs(self, outputs: Iterable[Path], *inputs: Path | None) -> None:
        """Refuse to replace a file that the command reads, with ``--force`` too.

        Args:
            outputs: files that will be written.
            inputs: that are not options: those of the options are known.

        Raises:
            OutputError: one would be replaced.
        """
        given = {name: value for name, value in self.items() if name != "latent"}
        read = [value for value in (*inputs, *given.values()) if isinstance(value, str | Path)]
        refuse_inputs(outputs, read)

    def check_inputs(self) -> None:
        """Read the headers of the recordings among the options, before the model is loaded.

        Raises:
            AudioFileError: one is missing or no recording.
        """
        for name, value in self.items():
            # Both forms of one control are a mistake of their own, which comes first.
            both = self.get(name.removesuffix("_like")) is not None
            if name.endswith("_like") and value is not None and not both:
                info(value)

    def request(
        self, tags: Tags | None = None, *, controlled: bool = False, **more: Any
    ) -> Request:
        """Return the request that the options ask for.

        Args:
            tags: in place of ``--tags``.
            controlled: whether there will be a control besides the options' own.
            more: fields of the request that are not options.

        Raises:
            DittoError: an option cannot be read, or does not go with the others.
        """
        tags = self.words if tags is None else tags
        settings: dict[str, Any] = {
            name: self[name] for name in ("seed", "count", "seconds", "candidate") if name in self
        }
        if self.get("start") is not None:
            settings["start"] = Latent.load(self["start"])
        settings |= more
        controls = list(self.controls(tags.tempo, settings.get("seconds"), edit=controlled))
        return Request(
            controls,
            tags,
            guidance=self["guidance"],
            iterations=self["iterations"],
            method=self.method(controlled or bool(controls)),
            **settings,
        )

    def method(self, controlled: bool) -> Any:
        """Return the method that the options ask for, or None for the model's default.

        Without ``--method`` it is the first of the default methods that has all settings given.

        Args:
            controlled: whether there are controls to follow.

        Raises:
            RequestError: the method is unknown, or has no such setting.
        """
        settings = {
            setting.field: _read(setting.kind, self[setting.name])
            for setting in method_settings()
            if self.get(setting.name) is not None
        }
        name = self["method"]
        if name is None and not settings:
            return None
        if name is None:
            names = ["ditto2", "ditto"] if self.model.distilled else ["ditto", "ditto2"]
            names = names if controlled else ["none"]
            having = {name: {field.name for field in fields(METHODS[name])} for name in names}
            name = next((name for name in names if set(settings) <= having[name]), names[0])
            if name == "ditto" and self.model.distilled:
                say(f"note: the method is ditto, for the sake of {', '.join(sorted(settings))}")
        return make_method(name, settings)

    def controls(
        self, tempo: float | None, seconds: float | None, *, edit: bool = False
    ) -> Iterator[Control]:
        """Yield the controls that the options ask for.

        Args:
            tempo: of the tags, beats per minute.
            seconds: length of the clip, if given.
            edit: whether they are for an edit.

        Raises:
            ControlError: an option cannot be read, or has nothing to go with.
        """
        context = ParseContext(lambda: self.model.spec, seconds, tempo, self, edit)
        like_from = self.get("like_from") is not None
        for kind, control in CONTROLS.items():
            text, like, during, weight = (
                self.get(f"{kind}{end}") for end in ("", "_like", "_during", "_weight")
            )
            if text is not None and like is not None:
                raise ControlError(f"give either --{kind} or --{kind}-like, not both")
            if text is None and like is None:
                own = [o.name for o in control.options if self.get(o.name) not in (None, False)]
                lonely = [f"{kind}_during"] * (during is not None) + own
                lonely += [f"{kind}_weight"] * (weight is not None)
                if lonely:
                    raise ControlError(
                        f"--{lonely[0].replace('_', '-')} needs {control.noun} to go with"
                    )
                continue
            if like is not None:
                found = control.parse_like(like, context)
            else:
                found = control.parse(str(text), context)
            if control.like_help and (like is not None or is_recording(str(text))):
                like_from = False
            if during is not None:
                found = found.during(*spans(during, f"--{kind}-during"))
            yield found if weight is None else found * weight
        if like_from:
            raise ControlError("--like-from needs a recording to be like to go with")


def _lyrics(text: str) -> str:
    r"""Return lyrics given as text, where ``\n`` is a new line, or as the name of a .txt file.

    Raises:
        TagError: the file cannot be read, or there are no words.
    """
    if text.lower().endswith(".txt"):
        try:
            text = Path(found_path(text)).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise TagError(f"cannot read the lyrics {printable(text)}: {one_line(error)}") from None
    words = text.replace("\\n", "\n").strip()
    if not words:
        raise TagError("the lyrics are empty: write the words to sing, or leave --lyrics out")
    return words


def _read(kind: Any, value: Any) -> Any:
    """Return an option's text as a number where its field may be one or a word ("adaptive")."""
    number = isinstance(value, str) and int in get_args(kind) and value.isdecimal()
    return int(value) if number else value


def spans(text: str, name: str) -> tuple[tuple[float, float], ...]:
    """Return spans of time from "2-6" or "0-1.5 4-6".

    Raises:
        ControlError: it cannot be read, or there is none.
    """
    found = []
    for word in text.replace(",", " ").split():
        start, _, end = word.partition("-")
        try:
            found.append((float(start), float(end)))
        except ValueError:
            raise ControlError(
                f"cannot read {word!r} in {name}: write seconds, from-to, e.g. '2-6' or '0-1 4-6'"
            ) from None
    if not found:
        raise ControlError(f"{name} is empty: write seconds, from-to, e.g. '2-6'")
    return tuple(found)


def command(
    app: typer.Typer, *groups: Parameters, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose last parameter, `options`, takes the values of some groups.

    Args:
        app: what the command belongs to.
        groups: options from this module.
        settings: of ``typer.Typer.command``.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        *own, _ = inspect.signature(function).parameters.values()
        shared = [parameter for group in groups for parameter in group]

        def flat(**values: Any) -> None:
            chosen = Options({parameter.name: values.pop(parameter.name) for parameter in shared})
            function(**values, options=chosen)

        flat.__signature__ = inspect.Signature([*own, *shared])  # pyright: ignore[reportFunctionMemberAccess]
        flat.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        flat.__doc__ = function.__doc__
        app.command(function.__name__, **settings)(flat)
        return function

    return register
