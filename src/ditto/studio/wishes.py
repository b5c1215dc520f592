"""What a tab asks for, in three spellings: a request, a command, a Python snippet.

All three are made from one description, whose words are those of the command line; texts of
controls are read by the controls themselves.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ditto.audio import opening
from ditto.audio.spec import AudioSpec
from ditto.controls import CONTROLS, midi, scores, tables
from ditto.controls.base import Control, ParseContext
from ditto.controls.melody import Melody
from ditto.controls.notes import DEFAULT_BPM
from ditto.edit import edits, loops, variations
from ditto.edit import song as songs
from ditto.edit.result import Edit
from ditto.errors import ControlError, RequestError
from ditto.latents import Latent
from ditto.methods import make_method
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel, needs_windows
from ditto.optimize import Step, Stop
from ditto.request import Request
from ditto.studio.facts import LONGEST, first_fault

WORDS = {
    "loudness": "intensity",
    "melody": "melody",
    "structure": "structure",
    "text": "text",
    "brightness": "brightness",
    "beats": "beats",
    "chords": "chords",
}
"""Control as the page and the command line call it → its kind; in the order of `CONTROLS`, in which
the command line adds them up.
"""
FILES = (*tables.ENDINGS, *opening.ENDINGS, *midi.ENDINGS, *scores.ENDINGS)
"""Endings of names that the command line reads files of: of this machine, which are not the
page's.
"""
MAX_TEXT = 20_000
MAX_ITERATIONS, MAX_COUNT, MAX_REPEATS, MAX_SECONDS = 500, 16, 16, 180.0

Progress = Callable[[int, int, Step], None]


class Words(BaseModel):
    """A part of a wish; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Asked(Words):
    """A control.

    Attributes:
        text: what its option takes.
        during: when it counts, "2-6" or "0-1 4-6"; empty is always.
        weight: λ beside the others; None is the default.
    """

    text: str = Field(max_length=MAX_TEXT)
    during: str = Field("", max_length=500)
    weight: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False)


class Music(Words):
    """What all wishes share.

    Attributes:
        tags: "genre=jazz mood=calm tempo=110".
        loudness, melody, structure, text, brightness, beats, chords: controls.
        seed: of the first clip or window.
        iterations: K; None is the default for the controls.
        guidance: w; None is the model's.
        method: by its name; None is the model's default.
    """

    tags: str = Field("", max_length=1000)
    loudness: Asked | None = None
    melody: Asked | None = None
    structure: Asked | None = None
    text: Asked | None = None
    brightness: Asked | None = None
    beats: Asked | None = None
    chords: Asked | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    iterations: int | None = Field(None, ge=1, le=MAX_ITERATIONS)
    guidance: float | None = Field(None, ge=0, le=30)
    method: str | None = None
    _candidates: tuple[int | None, ...] = PrivateAttr(())

    def asked(self) -> dict[str, Asked]:
        """Return the controls by their words."""
        found = {word: getattr(self, word) for word in WORDS}
        return {word: asked for word, asked in found.items() if asked is not None}

    def uncontrolled(self, candidates: Sequence[int | None] = ()) -> Self:
        """Return the same wish without its controls.

        Args:
            candidates: noises that the windows begin from, see `Request.candidate`.
        """
        plain = self.model_copy(update=dict.fromkeys(WORDS))
        plain._candidates = tuple(candidates)
        return plain

    def tempo_of(self, word: str, tags: Tags) -> float | None:
        """Return the tempo that a control's beats are counted by; None is the default."""
        return tags.tempo

    def request(self, spec: AudioSpec, tags: Tags | None = None, **more: Any) -> Request:
        """Return the request.

        Raises:
            DittoError: a text cannot be read.
        """
        tags = Tags.parse(self.tags) if tags is None else tags
        controls = [
            control_of(word, asked, spec, self.tempo_of(word, tags))
            for word, asked in self.asked().items()
        ]
        return Request(
            controls,
            tags,
            seed=self.seed,
            iterations=self.iterations,
            guidance=self.guidance,
            method=None if self.method is None else make_method(self.method),
            candidate=self._candidates or None,
            **more,
        )

    def flags(self) -> list[str]:
        """Return the options of the command line."""
        found = ["--tags", self.tags] if self.tags else []
        for word, asked in self.asked().items():
            found += [f"--{word}", asked.text]
            found += [f"--{word}-during", asked.during] if asked.during else []
            found += [f"--{word}-weight", number(asked.weight)] if asked.weight is not None else []
        found += ["--seed", str(self.seed)]
        for name in ("iterations", "guidance", "method"):
            value = getattr(self, name)
            found += [] if value is None else [f"--{name}", str(value)]
        return found

    def arguments(self, tags: Tags | None = None) -> list[str]:
        """Return the arguments of a call in Python, one a line.

        Args:
            tags: in place of the wish's own.
        """
        counted = Tags.parse(self.tags) if tags is None else tags
        controls = [
            python_of(word, asked, self.tempo_of(word, counted))
            for word, asked in self.asked().items()
        ]
        found = []
        if controls:
            listed = "".join(f"        {control},\n" for control in controls)
            found.append(f"controls=[\n{listed}    ]")
        if tags is not None:
            plain = vars(Tags())
            kept = {name: value for name, value in vars(tags).items() if value != plain[name]}
            found += [f"tags={kept!r}"] if kept else []
        elif self.tags:
            found.append(f"tags={self.tags!r}")
        found.append(f"seed={self.seed}")
        for name in ("iterations", "guidance"):
            value = getattr(self, name)
            found += [] if value is None else [f"{name}={value!r}"]
        if self.method is not None:
            found.append(f"method=ditto.{type(make_method(self.method)).__name__}()")
        return found


class Generate(Music):
    """A clip, or a song of several windows.

    Attributes:
        seconds: length; None is the model's window.
        fade: seconds in which a song fades out.
    """

    seconds: float | None = Field(None, gt=0, le=MAX_SECONDS)
    fade: float = Field(0.0, ge=0, le=MAX_SECONDS)

    def long(self, model: MusicModel) -> bool:
        """Tell whether it is a song of several windows.

        Raises:
            RequestError: it is none, but is to fade out.
        """
        several = needs_windows(model, self.seconds)
        if self.fade and not several:
            raise RequestError("a fade goes with music of several windows: give more seconds")
        return several

    def song(self, model: MusicModel, progress: Progress, stop: Stop) -> Edit:
        """Make the song.

        Raises:
            DittoError: see `ditto.song`.
        """
        assert self.seconds is not None
        request = self.request(model.spec, seconds=self.seconds)
        return songs.song(
            model, self.seconds, request, fade=self.fade, progress=progress, stop=stop
        )

    def command(self) -> str:
        """Return the command line."""
        length = [] if self.seconds is None else ["--seconds", number(self.seconds)]
        length += ["--fade", number(self.fade)] if self.fade else []
        return shlex.join(["ditto-music", "generate", *self.flags(), *length, "-o", "out.wav"])

    def python(self, model: MusicModel) -> str:
        """Return the same in Python."""
        length = [] if self.seconds is None else [f"seconds={self.seconds!r}"]
        if not self.long(model):
            return snippet("clip = ditto.generate", ["model", *self.arguments(), *length])
        length += [f"fade={self.fade!r}"] if self.fade else []
        return snippet("clip = ditto.song", ["model", *length, *self.arguments()])


class EditWish(Music):
    """An edit of a recording, or a loop from nothing.

    Attributes:
        kind: what is done.
        recording: token of the upload; None is a loop from nothing.
        regions: of "inpaint", (from, to) in seconds.
        seconds: length of the whole in the end, of "outpaint"; of "loop" it may be given.
        backwards: whether "outpaint" grows at the start.
        bpm, bars: of "loop", in place of `seconds`.
        repeats: how often a loop is written.
        overlap: seconds that new and old share; None is the default.
        beat: of the bar, from 0, on which the recording starts.
    """

    kind: Literal["inpaint", "outpaint", "loop"]
    recording: str | None = Field(None, max_length=60)
    regions: list[tuple[float, float]] = Field(default_factory=list, max_length=32)
    seconds: float | None = Field(None, gt=0, le=LONGEST)
    backwards: bool = False
    bpm: float | None = None
    bars: int | None = None
    repeats: int = Field(1, ge=1, le=MAX_REPEATS)
    overlap: float | None = Field(None, gt=0, le=10)
    beat: float = Field(0.0, ge=0, le=1000)

    def length(self) -> float | None:
        """Return the length of the whole in seconds, if it is given.

        Raises:
            RequestError: tempo or bars make no sense.
        """
        if self.kind == "loop" and self.bars is not None:
            if self.bpm is None or self.seconds is not None:
                raise RequestError("give bars together with bpm, and without seconds")
            return loops.loop_seconds(self.bpm, self.bars)
        return self.seconds

    def tempo_of(self, word: str, tags: Tags) -> float | None:
        """Return the loop's own tempo for its melody, else the tags'."""
        looped = self.kind == "loop" and word == "melody" and self.bpm is not None
        return self.bpm if looped else tags.tempo

    def whole_tags(self, model: MusicModel) -> Tags:
        """Return the tags with the beat, and of a loop with its tempo if the model knows it."""
        tags = Tags.parse(self.tags)
        tempo = tags.tempo
        words = model.vocabulary
        if self.kind == "loop" and tempo is None and self.bpm is not None:
            tempo = words.tempo_like(self.bpm)
        return replace(tags, tempo=tempo, beat=self.beat)

    def edit(
        self, model: MusicModel, recording: Path | None, progress: Progress, stop: Stop
    ) -> Edit:
        """Make the edit.

        Raises:
            DittoError: see the edits.
        """
        request = self.request(model.spec, self.whole_tags(model))
        more: dict[str, Any] = {"progress": progress, "stop": stop}
        more |= {} if self.overlap is None else {"overlap": self.overlap}
        seconds = self.length()
        if seconds is not None and seconds > MAX_SECONDS:
            raise RequestError(
                f"at most {MAX_SECONDS:g} s can be made here, not {seconds:g}: for more use "
                f"ditto-music {self.kind}"
            )
        if self.kind == "loop" and recording is None:
            if seconds is None:
                raise RequestError("give the loop's length: seconds, or bpm and bars")
            return loops.loop(model, seconds, request, repeats=self.repeats, **more)
        if recording is None:
            raise RequestError("give a recording first: a wav, flac, ogg or mp3 file")
        if self.kind == "loop":
            more |= {"seconds": seconds, "repeats": self.repeats}
            return loops.loop_recording(model, recording, request, **more)
        if self.kind == "inpaint":
            return edits.inpaint(model, recording, self.regions, request, **more)
        if seconds is None:
            raise RequestError("give the length of the whole in seconds")
        direction = "backwards" if self.backwards else "forwards"
        return edits.outpaint(model, recording, seconds, request, direction=direction, **more)

    def command(self, name: str | None = None) -> str:
        """Return the command line.

        Args:
            name: of the recording.
        """
        own: list[str] = [] if name is None else [f"./{name}" if name.startswith("-") else name]
        for start, end in self.regions if self.kind == "inpaint" else ():
            own += ["--from", number(start), "--to", number(end)]
        if self.kind == "loop" and self.bpm is not None:
            own += ["--bpm", number(self.bpm)]
        if self.kind == "loop" and self.bars is not None:
            own += ["--bars", str(self.bars)]
        elif self.seconds is not None and self.kind != "inpaint":
            own += ["--seconds", number(self.seconds)]
        own += ["--backwards"] * (self.kind == "outpaint" and self.backwards)
        own += ["--repeats", str(self.repeats)] * (self.kind == "loop" and self.repeats > 1)
        own += [] if self.overlap is None else ["--overlap", number(self.overlap)]
        own += ["--beat", number(self.beat)] * bool(self.beat)
        return shlex.join(["ditto-music", self.kind, *own, *self.flags(), "-o", "out.wav"])

    def python(self, model: MusicModel, name: str | None = None) -> str:
        """Return the same in Python."""
        first = ["model", *([] if name is None else [repr(name)])]
        if self.kind == "inpaint":
            first.append(repr([tuple(region) for region in self.regions]))
        elif self.kind == "outpaint":
            first += [f"seconds={self.seconds!r}"]
            first += ["direction='backwards'"] if self.backwards else []
        else:
            first += [] if self.length() is None else [f"seconds={self.length()!r}"]
            first += [f"repeats={self.repeats}"] if self.repeats > 1 else []
        first += [] if self.overlap is None else [f"overlap={self.overlap!r}"]
        verb = "loop_recording" if self.kind == "loop" and name is not None else self.kind
        arguments = [*first, *self.arguments(self.whole_tags(model))]
        return snippet(f"edit = ditto.{verb}", arguments, result="edit")


class Vary(Words):
    """Other clips from one latent.

    Attributes:
        latent: token of the upload.
        count: clips.
        sampling: "ddpm", or "ddpm+freedom", which follows the latent's controls too.
        tags: new ones; empty keeps the latent's own.
        seed: of the first clip.
        steps: T; None is the latent's own.
    """

    latent: str = Field(max_length=60)
    count: int = Field(4, ge=1, le=MAX_COUNT)
    sampling: str = "ddpm"
    tags: str = Field("", max_length=1000)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    steps: int | None = Field(None, ge=1, le=200)

    def vary(self, model: MusicModel, latent: Path) -> variations.Variations:
        """Make the clips.

        Raises:
            DittoError: see `ditto.vary`.
        """
        how: Any = self.sampling
        return variations.vary(
            model,
            Latent.load(latent),
            count=self.count,
            how=how,
            seed=self.seed,
            prompts=self.tags or None,
            steps=self.steps,
        )

    def command(self, name: str) -> str:
        """Return the command line."""
        found = ["ditto-music", "vary", name, "--count", str(self.count)]
        found += ["--sampling", self.sampling] if self.sampling != "ddpm" else []
        found += ["--tags", self.tags] if self.tags else []
        found += ["--steps", str(self.steps)] if self.steps is not None else []
        return shlex.join([*found, "--seed", str(self.seed), "-o", "variations/"])

    def python(self, name: str) -> str:
        """Return the same in Python."""
        found = ["model", f"ditto.Latent.load({name!r})", f"count={self.count}"]
        found += [f"how={self.sampling!r}"] if self.sampling != "ddpm" else []
        found += [f"prompts={self.tags!r}"] if self.tags else []
        found += [f"steps={self.steps}"] if self.steps is not None else []
        call = snippet("clips = ditto.vary", [*found, f"seed={self.seed}"], result="")
        return call + f'for i in range({self.count}):\n    clips.save(f"{{i:03d}}.wav", i)\n'


def control_of(word: str, asked: Asked, spec: AudioSpec, tempo: float | None) -> Control:
    """Return a control as the command line would read it; names of files are refused.

    Raises:
        ControlError: the text cannot be read.
    """
    kind = CONTROLS[WORDS[word]]
    if kind is Melody:
        control: Control = Melody.from_notes(asked.text, bpm=tempo or DEFAULT_BPM)
    elif word != "text" and names_a_file(asked.text):
        raise ControlError(f"give the {word} itself here, not the name of a file")
    else:
        control = kind.parse(asked.text, ParseContext(lambda: spec, tempo=tempo))
    if asked.during:
        control = control.during(*spans_of(asked.during, word))
    return control if asked.weight is None else control * asked.weight


def names_a_file(text: str) -> bool:
    """Tell whether a control might take a text for a file's name, by its ending.

    Of "song.wav/" a path has the ending too.
    """
    return text.lower().endswith(FILES) or Path(text).suffix.lower() in FILES


def spans_of(text: str, word: str) -> list[tuple[float, float]]:
    """Return spans of time from "2-6" or "0-1 4-6".

    Raises:
        ControlError: it cannot be read.
    """
    try:
        pairs = [part.split("-") for part in text.replace(",", " ").split()]
        return [(float(start), float(end)) for start, end in pairs]
    except ValueError:
        raise ControlError(
            f"cannot read {text!r}, when the {word} counts: write seconds, '2-6' or '0-1 4-6'"
        ) from None


def python_of(word: str, asked: Asked, tempo: float | None) -> str:
    """Return a control as it is written in Python."""
    name = CONTROLS[WORDS[word]].__name__
    name += ".from_notes" if word == "melody" else ""
    bpm = f", bpm={number(tempo)}" if tempo and word in ("melody", "chords") else ""
    text = f"ditto.{name}({asked.text!r}{bpm})"
    if asked.during:
        text += f".during({', '.join(map(str, spans_of(asked.during, word)))})"
    return text if asked.weight is None else f"{text} * {asked.weight!r}"


def number(value: float) -> str:
    """Return a number as it is read again, to its last digit."""
    return repr(float(value)).removesuffix(".0")


def snippet(call: str, arguments: Sequence[str], result: str = "clip") -> str:
    """Return a Python snippet that calls something of Ditto's and saves what it returns."""
    lines = "".join(f"    {argument},\n" for argument in arguments)
    save = f'{result}.save("out.wav")\n' if result else ""
    return f"import ditto\n\nmodel = ditto.load()\n{call}(\n{lines})\n{save}"


Wish = TypeVar("Wish", bound=BaseModel)


def read_wish(kind: type[Wish], values: dict[str, Any]) -> Wish:
    """Return a wish of these values.

    Raises:
        RequestError: with what is wrong, in one line.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise RequestError(first_fault(error.errors())) from None
