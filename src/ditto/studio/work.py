"""What the studio does: carries out wishes on its one model, and looks into uploads."""

import math
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditto.audio.io import info, read, write
from ditto.controls.base import Control
from ditto.diffusion.samplers import ddim
from ditto.edit.result import Edit
from ditto.errors import AudioFileError, DittoError, RequestError
from ditto.latents import Latent
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step
from ditto.request import Request
from ditto.result import Result
from ditto.runner import Run, checked_shape, problem_of
from ditto.studio import show, tunes
from ditto.studio.files import OURS, Store
from ditto.studio.jobs import Job, Jobs
from ditto.studio.wishes import EditWish, Generate, Vary, read_wish

PREVIEW_SECONDS = 3.0
"""Time between two previews; the first one comes after the first iteration."""
MAX_SECONDS, MAX_CHANNELS, MAX_VALUES = 300.0, 2, 60_000_000
"""Of an upload; samples times channels are five minutes in stereo at 96 kHz. A small flac file may
hold any number of them.
"""
PLAYED = {("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("MP3", "")}
"""Formats that every browser plays as they are; of MP3 any encoding."""


@dataclass
class Studio:
    """One model, one queue, one store of files.

    Attributes:
        model: that makes everything.
        options: how the model was loaded, by the words of `ditto.load` ("model" is its source).
        store: of users' files.
        jobs: the queue.
    """

    model: MusicModel
    options: dict[str, str] = field(default_factory=dict)
    store: Store = field(default_factory=Store)
    jobs: Jobs = field(default_factory=Jobs)

    def __post_init__(self) -> None:
        """Let one upload be decoded at a time, and keep the files that jobs need."""
        self._decoding = threading.Lock()
        self.store.in_use = self.jobs.folders

    @property
    def window(self) -> float:
        """The model's window in seconds."""
        return self.model.spec.seconds(self.model.shape(None)[-1])

    def spelt(self, command: str, python: str) -> dict[str, str]:
        """Return a wish's command and snippet, with the model that the studio has."""
        flags = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        settings = [
            repr(value) if name == "model" else f"{name}={value!r}"
            for name, value in self.options.items()
        ]
        return {
            "command": f"{command} {shlex.join(flags)}".strip(),
            "python": python.replace("ditto.load()", f"ditto.load({', '.join(settings)})"),
        }

    # Wishes.

    def wish(self, what: str, values: dict[str, Any], *, compare: bool = True) -> Job:
        """Queue what is asked for in words.

        Args:
            what: "generate", "edit" or "vary".
            values: of the wish.
            compare: make that of the same noise without control too.

        Raises:
            DittoError: a value is wrong, it cannot be made, or the queue is full.
        """
        self.store.check_room()
        if what == "vary":
            return self.vary(read_wish(Vary, values))
        if what == "edit":
            return self.edit(read_wish(EditWish, values), compare=compare)
        return self.generate(read_wish(Generate, values), compare=compare)

    def generate(self, wish: Generate, *, compare: bool = True) -> Job:
        """Queue a clip.

        Args:
            wish: what it is.
            compare: make the clip of the same noise without control too.

        Raises:
            DittoError: it cannot be, or the queue is full.
        """
        model = self.model
        spelt = self.spelt(wish.command(), wish.python(model))
        if wish.long(model):
            making = Making(lambda given, *how: given.song(model, *how), wish, compare=compare)
            return self._edited(making, wish.request(model.spec), spelt)
        request = wish.request(model.spec, seconds=wish.seconds).resolved(model)
        check(request, model)

        def work(job: Job) -> None:
            folder = self._folder_of(job)
            result = self._carry_out(request, job, folder)
            clip = show.show_clip(result, 0, folder) | spelt
            control, frames = result.request.control, result.x_0.shape[-1]
            job.line = "; ".join(control.warnings(model, frames) if control else [])
            job.line = job.line or self._kept(job)
            job.clips = [clip]
            if compare and request.controls and not job.stopping():
                job.phase = "the same noise without control"
                plain = show.show_plain(uncontrolled(result), model.spec.sample_rate, folder)
                job.clips = [clip | {"others": [plain]}]

        return self.jobs.submit(work)

    def edit(self, wish: EditWish, *, compare: bool = True) -> Job:
        """Queue an edit.

        Args:
            wish: what it is.
            compare: make that of the same noises without control too.

        Raises:
            DittoError: it cannot be, or the queue is full.
        """
        model = self.model
        recording = None if wish.recording is None else self.store.find(wish.recording)
        name = None if recording is None else recording.name
        making = Making(
            lambda given, *how: given.edit(model, recording, *how), wish, recording, compare
        )
        request = wish.request(model.spec, wish.whole_tags(model))
        return self._edited(
            making, request, self.spelt(wish.command(name), wish.python(model, name))
        )

    def _edited(self, making: "Making", request: Request, spelt: dict[str, str]) -> Job:
        """Queue what is made window by window."""
        model, wish = self.model, making.wish
        request = request.resolved(model)
        iterations = wish.iterations or max(request.iterations or 0, Control.iterations)

        def work(job: Job) -> None:
            folder, previews = self._folder_of(job), Previews(model, request, self.store)

            def progress(window: int, windows: int, step: Step) -> None:
                job.step(step, window=window, windows=windows, total=iterations)
                previews.after(step, job)

            job.phase = "making what is new"
            edit = making.make(wish, progress, job.stopping)
            job.phase = "writing files"
            before = None if making.recording is None else self._played(making.recording)
            clip = show.show_edit(edit, before, folder, wish.tempo_of("melody", request.tags))
            job.line, job.clips = self._kept(job) or "; ".join(edit.notes), [clip | spelt]
            if edit.kind == "song" and job.stopping():
                job.line = f"stopped: this is the beginning, {edit.seconds:.2f} s"
            if making.compare and request.controls and not job.stopping():
                job.phase = "the same noise without control"
                plain = making.uncontrolled(edit, job)
                if plain is not None:
                    sound = np.clip(plain.timeline.samples, -1, 1)
                    shown = show.show_plain(sound, plain.sample_rate, folder)
                    job.clips = [clip | spelt | {"others": [*clip["others"], shown]}]

        needs = [] if making.recording is None else [making.recording.parent]
        return self.jobs.submit(work, *needs)

    def vary(self, wish: Vary) -> Job:
        """Queue other clips from one latent.

        Raises:
            DittoError: it cannot be, or the queue is full.
        """
        model, latent = self.model, self.store.find(wish.latent, None)
        if latent.suffix != ".latent":
            latent = self.store.find(wish.latent, "out.latent")
        self.latent(latent)
        spelt = self.spelt(wish.command(latent.name), wish.python(latent.name))

        def work(job: Job) -> None:
            job.phase = "sampling"
            result = wish.vary(model, latent)
            for item in range(wish.count):
                job.phase = f"writing clip {item + 1} of {wish.count}"
                clip = show.show_clip(result, item, self.store.new()) | spelt
                # An upload is a latent alone.
                sound = latent.with_name(show.SOUND)
                sources = [show.show_source(sound)] if sound.exists() else []
                job.clips = [*job.clips, clip | {"side": "Variation", "others": sources}]

        return self.jobs.submit(work, latent.parent)

    def _folder_of(self, job: Job) -> Path:
        """Return a new folder, which stays until a job is over."""
        folder = self.store.new()
        job.folders.append(folder)
        return folder

    def _carry_out(self, request: Request, job: Job, folder: Path) -> Result:
        """Run a request; a stop or a failure after the first iteration keeps the best so far."""
        run = Run(request, self.model, job.stopping)
        previews = Previews(self.model, run.request, self.store)
        job.total, job.phase = run.total, "optimising" if run.total else "sampling"
        try:
            for step in run:
                job.step(step, total=run.total)
                previews.after(step, job)
        except GradientError as error:
            if not run.losses:
                raise
            job.line = str(error)
        job.phase = "decoding"
        return run.result()

    def _kept(self, job: Job) -> str:
        """Return the note of a wish that was stopped."""
        if job.stopping() and job.i < job.total:
            return f"stopped: this is the best of {len(job.losses)} iterations"
        return job.line

    # Uploads.

    def look_into(self, file: Path) -> dict[str, Any]:
        """Return what the page shows of an uploaded recording.

        Raises:
            AudioFileError: it is no sound, or too long, or of too many channels or samples.
        """
        about = info(file)
        if about.channels > MAX_CHANNELS:
            raise AudioFileError(
                f"{file.name} has {about.channels} channels: mono and stereo can be edited here"
            )
        if about.seconds > MAX_SECONDS:
            raise AudioFileError(
                f"{file.name} lasts {about.seconds / 60:.0f} minutes: at most "
                f"{MAX_SECONDS / 60:.0f} can be edited here"
            )
        if about.frames * about.channels > MAX_VALUES:
            raise AudioFileError(
                f"{file.name} holds too many samples to be edited here: give a shorter part, or "
                f"save it at 48000 Hz in place of {about.sample_rate}"
            )
        with self._decoding:
            audio = read(file, require_sound=True)
            played = self._played(file)
        return {
            "token": file.parent.name,
            "name": file.name,
            "seconds": audio.seconds,
            "rate": audio.sample_rate,
            "channels": about.channels,
            "sound": show.address(played),
            "peaks": show.peaks(audio.samples, 8000),
        }

    def _played(self, file: Path) -> Path:
        """Return a recording as browsers play it: itself, or a WAV beside it."""
        about = info(file)
        if {(about.format, about.subtype), (about.format, "")} & PLAYED:
            return file
        copy = file.with_name(f"{OURS}{file.stem}-played.wav")
        if not copy.exists():
            audio = read(file)
            write(copy, np.clip(audio.samples, -1, 1), audio.sample_rate, force=True)
        return copy

    def tune(self, file: Path, tempo: float | None, seconds: float | None = None) -> dict[str, Any]:
        """Return the notes of an uploaded score, or of a recording, for the piano roll.

        Args:
            file: the upload.
            tempo: that beats are counted by; None is the file's own, or the default.
            seconds: how much of it; None is the model's window.

        Raises:
            ControlError, AudioFileError: there are none, or the file cannot be read.
        """
        seconds = self.window if seconds is None else seconds
        if file.suffix.lower() in (*tunes.scores.ENDINGS, ".mid", ".midi"):
            notes = tunes.read_tune(file, tempo, seconds)
        else:
            self.look_into(file)
            notes = tunes.hear_tune(file, self.model.spec, tempo, seconds)
        return {"name": file.name, "notes": notes}

    def latent(self, file: Path) -> dict[str, Any]:
        """Return what the page shows of an uploaded latent.

        Raises:
            RequestError: it is damaged, or of another model.
        """
        latent = Latent.load(file)
        latent.check(self.model, tuple(latent.x_T.shape[1:]))
        try:
            made = Request.from_dict(latent.request, strict=False)
        except RequestError:
            made = Request()
        return {
            "token": file.parent.name,
            "name": file.name,
            "about": made.tags.caption(),
            "controls": [control.bare().kind for control in made.controls],
        }


@dataclass(frozen=True)
class Making:
    """How something is made window by window.

    Attributes:
        make: makes a wish, given what is told of every step, and asked whether to stop.
        wish: that is made.
        recording: that is edited, if there is one.
        compare: whether it is made without control too.
    """

    make: Callable[..., Edit]
    wish: Generate | EditWish
    recording: Path | None = None
    compare: bool = True

    def uncontrolled(self, edit: Edit, job: Job) -> Edit | None:
        """Return the same without control; None if it is stopped, or cannot be.

        What is there already is not lost by that.

        Args:
            edit: with control: every window begins at the noise that it began from.
            job: that may be stopped.
        """
        wish = self.wish.uncontrolled([part.about.get("candidate") for part in edit.parts])
        try:
            plain = self.make(wish, lambda *_: None, job.stopping)
        except (DittoError, GradientError):
            return None
        return None if job.stopping() else plain


def check(request: Request, model: MusicModel) -> None:
    """Refuse a resolved request that does not fit the model, before it waits for its turn.

    Raises:
        DittoError: it does not.
    """
    problem = problem_of(request, model, checked_shape(request, model))
    if request.method is not None:
        request.method.check(problem)


def uncontrolled(result: Result) -> np.ndarray:
    """Return the sound of a clip's noise and decoder, of which nothing was optimised.

    Of methods that follow controls while they sample it is plain sampling.

    Args:
        result: of one clip with control.
    """
    sound = result.uncontrolled()
    if sound is not None:
        return sound
    steps = getattr(result.request.method, "steps", 20)
    plain = replace(result.request, controls=(), method=Uncontrolled(steps=steps, sampler="ddim"))
    return Run(plain, result.model).result().samples()


@dataclass
class Previews:
    """Makes the sound so far, at once and every few seconds: x_0 in one step, by the fast vocoder.

    Attributes:
        model: what makes it.
        request: resolved.
        store: of files.
    """

    model: MusicModel
    request: Request
    store: Store

    def __post_init__(self) -> None:
        """Begin to count time."""
        self._last, self._folder, self._count = -math.inf, None, 0

    def after(self, step: Step, job: Job) -> None:
        """Make a preview after a step, if it is time for one."""
        if time.monotonic() - self._last < PREVIEW_SECONDS:
            return
        sound = one_step_sound(self.model, self.request, step.best_x_T[:1])
        self._folder = self._folder or self.store.new()
        file = self._folder / f"preview-{self._count}.wav"
        write(file, sound, self.model.spec.sample_rate)
        job.preview, self._count, self._last = show.address(file), self._count + 1, time.monotonic()


@torch.no_grad()
def one_step_sound(model: MusicModel, request: Request, x_T: torch.Tensor) -> np.ndarray:
    """Return x_0 of x_T (1, …) in one step as sound, shape (channels, samples)."""
    problem = problem_of(replace(request, count=1), model, x_T.shape[1:])
    chain = problem.chain(1) if model.student is None else problem.student_chain(1)
    return model.fast.to_sound(ddim(chain, x_T.to(model.device)))[0].float().cpu().numpy()
