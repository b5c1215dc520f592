"""What a request came to, and its files: the sound, a picture and a report."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ditto.audio.io import SUBTYPES, check_format, fitting_tag, read_tags, write
from ditto.controls.base import Control
from ditto.controls.output import Output
from ditto.errors import AudioFileError, OutputError
from ditto.eval.kept import Kept, kept
from ditto.latents import Latent, item_seed, item_seeds
from ditto.methods.base import check_number
from ditto.models.device import native_precision, one_by_one
from ditto.models.model import MusicModel
from ditto.notebook import page
from ditto.paths import StrPath, atomic_file, check_output, output_errors, printable
from ditto.request import Request

OURS = "ditto-music "
"""Begins the software that the tags of sounds and pictures name."""
LOSS = "loss"
FARTHER = 0.1
"""Share by which a clip's loss exceeds that at the start before it is said."""
MAX_COMMENT = 1900
"""Bytes of a report that go into a sound file's comment (wav holds 2000)."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a request came to.

    Attributes:
        request: the resolved request.
        model: what made it.
        x_T: the latents decoded, (B, …, frames) of the model's `shape`.
        x_0: shape (B, …, frames).
        audio: (B, samples) float32 within ±1: what the controls were measured on.
        losses: (K, B) of the optimisation; K = 0 without one; NaN where an item had ended.
        errors: per-control errors of the decoded output, each (B,).
        timings: seconds by phase.
        sound: (B, channels, samples) as it is saved, where that is more than `audio`.
        notes: what a user should know about how it went.
        candidate: (B,) which of its seed's noises each clip began from, from 0, where one was
            chosen or asked for.
        without: makes x_0 (B, …) of the same noises without control; None if there is none.
        ended: (B,) the controls' loss of what was decoded; None without a control.
    """

    request: Request
    model: MusicModel
    x_T: Tensor
    x_0: Tensor
    audio: Tensor
    losses: Tensor
    errors: dict[str, Tensor]
    timings: dict[str, float]
    sound: Tensor | None = None
    notes: tuple[str, ...] = ()
    candidate: Tensor | None = None
    without: Callable[[], Tensor | None] | None = None
    ended: Tensor | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        model: MusicModel,
        x_T: Tensor,
        x_0: Tensor,
        losses: Tensor,
        timings: dict[str, float],
        seeds: Sequence[int] | None = None,
        **more: Any,
    ) -> Self:
        """Return the result of a decoded x_0: makes its sound and measures its controls' errors.

        Its items have the request's seed and those after it, or these `seeds`.
        """
        with torch.no_grad():
            sizes = 1 if one_by_one(model.device, len(x_0)) else len(x_0)
            sound = _sound(model, x_0, seeds or item_seeds(request.seed, len(x_0)))
            audio = sound.mean(dim=1)
            control = request.control
            errors = _errors(control, x_0, model, audio, x_T, sizes) if control else {}
            ended = errors.pop(LOSS, None)
        return cls(
            request=request,
            model=model,
            x_T=x_T.cpu(),
            x_0=x_0.detach().cpu(),
            audio=audio.cpu(),
            losses=losses.cpu(),
            errors={name: values.cpu() for name, values in errors.items()},
            timings=timings,
            sound=sound.cpu() if sound.shape[1] > 1 else None,
            ended=None if ended is None else ended.cpu(),
            **more,
        )

    def __repr__(self) -> str:
        """Return one line: what was asked, how many clips there are, and the first one's errors."""
        errors = [f", {name} {value[0].item():.3g}" for name, value in self.errors.items()]
        seconds = self.samples().shape[-1] / self.model.spec.sample_rate
        clips = f"{len(self.x_0)} × {seconds:.2f} s{''.join(errors)}"
        return f"<{type(self).__name__}: {self.title()} {clips}>"

    def _repr_html_(self) -> str:
        """Return the clips to hear and see, for a notebook."""
        return page(repr(self), [partial(self.save, item=i) for i in range(len(self.x_0))])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The items' seeds, which their x_T and their decoder's noise are of."""
        return item_seeds(self.request.seed, len(self.x_0))

    @cached_property
    def kept(self) -> Kept | None:
        """How much is left of the clips without control; found out when it is first asked for.

        These are what the noises give that the clips began from, of all those it chose from.
        None where there is no such clip: without a control, in edits, and of guidance.
        """
        started = time.perf_counter()
        with torch.no_grad():
            x_0 = None if self.without is None else self.without()
            if x_0 is None:
                return None
            plain = _sound(self.model, x_0, self.seeds).cpu()
            found = kept(self.audio, plain.mean(dim=1), self.model.spec)
            found = replace(found, sound=plain, candidate=self.candidate)
        self.timings["compare"] = time.perf_counter() - started
        return found

    def farther(self, item: int = 0) -> str | None:
        """Say so if a clip is farther from what was asked than where it began; None if it is not.

        The best iteration is decoded, but while optimising a method may hear something else than
        what is decoded, such as a student's one step.
        """
        if self.ended is None or not len(self.losses):
            return None
        start, end = self.losses[0, item].item(), self.ended[item].item()
        if not end - start > FARTHER * abs(start):
            return None
        return (
            f"it is farther from what was asked (loss {end:.3g}) than where it began "
            f"({start:.3g}): a smaller lr may help"
        )

    def remarks(self, item: int = 0) -> list[str]:
        """Return `notes`, and what `farther` says of one item."""
        farther = self.farther(item)
        return [*self.notes, *([] if farther is None else [farther])]

    def report(self, item: int = 0) -> dict[str, Any]:
        """Return everything about one item as JSON: request, model, versions, errors, timings."""
        item = self.checked_item(item)
        beside = {} if self.kept is None else {"kept": self.kept.to_dict(item)}
        whole = {
            **self._made(item),
            "machine": machine(),
            "sample_rate": self.model.spec.sample_rate,
            "seconds": self.samples(item).shape[-1] / self.model.spec.sample_rate,
            "errors": {name: _json(value[item].item()) for name, value in self.errors.items()},
            **beside,
            "loss": [_json(value) for value in self.curve(item)],
            **({} if self.candidate is None else {"candidate": int(self.candidate[item])}),
            "timings": {name: round(value, 3) for name, value in self.timings.items()},
        }
        if notes := self.remarks(item):
            whole["notes"] = notes
        return whole

    def _made(self, item: int) -> dict[str, Any]:
        """Return what one item was made with."""
        seed, count = self.request.seed, len(self.x_0)
        made = {
            "request": self.request.to_dict() | {"seed": item_seed(seed, item), "count": 1},
            "model": self.model.describe(),
            "versions": versions(),
        }
        if count > 1 and not one_by_one(self.model.device, count):
            # Arithmetic is shared there: only the whole batch gives the same samples again.
            made["batch"] = {"seed": seed, "count": count, "item": item}
        return made

    def checked_item(self, item: int) -> int:
        """Return an item's number as a plain one.

        Raises:
            RequestError: there is no such item.
        """
        return int(check_number("item", item, 0, len(self.x_0) - 1))

    def curve(self, item: int = 0) -> list[float]:
        """Return the losses of one item, up to where it ended."""
        return [value for value in self.losses[:, item].tolist() if not math.isnan(value)]

    def save(
        self, path: StrPath, item: int = 0, *, force: bool = False, picture: bool = True
    ) -> list[Path]:
        """Write one item's sound, and beside it its picture (.png) and report (.json).

        Request, seed and hashes are in the sound file's own tags too.

        Args:
            path: the sound file; its ending chooses the format.
            item: of the batch.
            force: replace files that exist.
            picture: whether there is to be one; it takes a while.

        Returns:
            The paths.

        Raises:
            OutputError: a file exists already (without `force`), cannot be written, or is not a
                sound file by its name; nothing is then written.
        """
        item = self.checked_item(item)
        channels = 1 if self.sound is None else self.sound.shape[1]
        rate = self.model.spec.sample_rate
        sound, drawn, report = output_files(path, channels, rate, force=force)
        title = self.title(item)
        tags = {
            "title": fitting_tag(title),
            "software": f"ditto-music {version('ditto-music')}",
            "comment": self._comment(item),
        }
        text = json.dumps(self.report(item), indent=2)
        write(sound, self.samples(item), self.model.spec.sample_rate, tags=tags, force=force)
        with atomic_file(report, force=force) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        if not picture:
            return [sound, report]
        self._draw(drawn, item, title, force=force)
        return [sound, drawn, report]

    def _draw(self, path: Path, item: int, title: str, *, force: bool) -> None:
        """Write an item's picture."""
        from ditto.plots import clip_picture  # matplotlib is slow to import

        control = self.request.control
        with torch.no_grad():
            output = Output(self.x_0, self.model, self.audio)
            clip_picture(
                path,
                output.mel[item],
                self.model.spec,
                panels=control.panels(output, item) if control else [],
                losses=self.curve(item),
                title=title,
                uncontrolled=None if self.kept is None else self.kept.mel[item],
                candidate=None if self.candidate is None else int(self.candidate[item]),
                force=force,
            )

    def title(self, item: int = 0) -> str:
        """Return one line about an item: tags, seed and method."""
        method = self.request.method.name if self.request.method else "none"
        seed = item_seed(self.request.seed, item)
        return f"{self.request.tags.caption()} Seed {seed}, {method}."

    def latent(self, item: int = 0) -> Latent:
        """Return x_T of one item, to keep, vary, or start from again."""
        item = self.checked_item(item)
        request = self._made(item)["request"]
        x_T = self.x_T[item : item + 1].clone()
        return Latent(x_T, self.model.sha256, request, f"seed {request['seed']}")

    def samples(self, item: int = 0) -> np.ndarray:
        """Return the sound of one item: (samples,), or (channels, samples) in stereo, float32.

        The model makes whole frames, and groups of them; what is beyond the length that was asked
        for is left out.
        """
        return self._cut(self.audio if self.sound is None else self.sound, item)

    def uncontrolled(self, item: int = 0) -> np.ndarray | None:
        """Return the sound of the clip without control that `kept` compares with one item.

        Its shape is that of `samples`. None where there is no such clip, see `kept`.
        """
        if self.kept is None or self.kept.sound is None:
            return None
        mono = self.sound is None
        return self._cut(self.kept.sound.mean(dim=1) if mono else self.kept.sound, item)

    def _cut(self, sounds: Tensor, item: int) -> np.ndarray:
        """Return one item of sounds (B, …, samples), as long as was asked for."""
        sound, seconds = sounds[self.checked_item(item)], self.request.seconds
        whole = sound.shape[-1]
        wanted = whole if seconds is None else round(seconds * self.model.spec.sample_rate)
        return sound[..., :wanted].numpy()

    def _comment(self, item: int) -> str:
        """Return request, model and versions as JSON, less what a tag has no room for."""
        whole = self._made(item)
        text = json.dumps(whole, separators=(",", ":"))
        if len(text.encode()) <= MAX_COMMENT:
            return text
        names = ", ".join(control["control"] for control in whole["request"]["controls"])
        whole["request"] |= {"controls": f"{names} (in full in the .json)"}
        del whole["versions"]
        text = json.dumps(whole, separators=(",", ":"))
        if len(text.encode()) <= MAX_COMMENT:
            return text
        tags = {key: printable(str(value))[:100] for key, value in whole["request"]["tags"].items()}
        whole["request"] |= {"tags": tags, "controls": "in full in the .json"}
        text = json.dumps(whole, separators=(",", ":"))
        return text if len(text.encode()) <= MAX_COMMENT else json.dumps({"model": whole["model"]})


def _sound(model: MusicModel, x_0: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the sounds (B, channels, samples), each as it would be alone where items are."""
    if not one_by_one(model.device, len(x_0)):
        return model.to_sound(x_0, seeds)
    clips = zip(x_0.split(1), seeds, strict=True)
    return torch.cat([model.to_sound(x.clone(), (seed,)) for x, seed in clips])


def _errors(
    control: Control, x_0: Tensor, model: MusicModel, audio: Tensor, x_T: Tensor, size: int
) -> dict[str, Tensor]:
    """Return a control's errors and its `LOSS`, each (B,), of `size` items at once."""
    if size == len(x_0):
        return _measured(control, Output(x_0, model, audio, x_T=x_T))
    each = [
        _measured(control.for_item(i), Output(x, model, sound, x_T=latent))
        for i, (x, sound, latent) in enumerate(
            zip(x_0.split(1), audio.split(1), x_T.split(1), strict=True)
        )
    ]
    common = [name for name in each[0] if all(name in errors for errors in each)]
    return {name: torch.cat([errors[name] for errors in each]) for name in common}


def _measured(control: Control, output: Output) -> dict[str, Tensor]:
    return control.errors(output) | {LOSS: control.loss(output).float()}


def output_files(
    path: StrPath,
    channels: int = 1,
    sample_rate: int | None = None,
    subtype: str | None = None,
    *,
    force: bool = False,
) -> tuple[Path, Path, Path]:
    """Return the sound, picture and report that saving to `path` writes, after checking each.

    The sound is named by the user; what is beside it is not, and is replaced only where Ditto wrote
    it.

    Args:
        path: the sound file.
        channels: of the sound.
        sample_rate: in Hz; None if it is not known yet.
        subtype: libsndfile's name of the encoding.
        force: whether files may be replaced.

    Raises:
        OutputError: the name's ending is not that of a sound file, or a file may not be written.
    """
    sound = Path(path)
    if sound.suffix.lower() not in SUBTYPES:
        raise OutputError(
            f"cannot write {printable(path)}: its name must end in {', '.join(SUBTYPES)}"
        )
    files = sound, sound.with_suffix(".png"), sound.with_suffix(".json")
    for file in files:
        check_output(file, force=force)
    for file in files[1:]:
        keep_foreign(file)
    if sample_rate is not None:
        check_format(sound, channels, sample_rate, subtype)
    return files


def keep_foreign(path: Path) -> None:
    """Refuse to replace a file of a name that the user did not give, unless Ditto wrote it.

    Raises:
        OutputError: it is there, and not Ditto's.
    """
    with output_errors(path):
        if path.exists() and not _is_ours(path):
            raise OutputError(
                f"cannot write {printable(path)}: a file of that name is there that Ditto did not "
                "write; move it away, or choose another name for the sound"
            )


def _is_ours(path: Path) -> bool:
    """Tell whether Ditto wrote a picture, a report or a sound."""
    if path.suffix.lower() in SUBTYPES:
        try:
            tags = read_tags(path)
        except AudioFileError:
            return False
        # An mp3 has no software among its tags, but what it was made by.
        return tags.get("software", "").startswith(OURS) or _is_told(tags.get("comment", ""))
    if path.suffix != ".png":
        return _is_report(path)
    with path.open("rb") as file:
        head = file.read(4096)
    if f"Software\0{OURS}".encode() in head:
        return True
    # Before 0.2 pictures named only what they were drawn with; a report was beside them.
    return b"Software\0Matplotlib" in head and _is_report(path.with_suffix(".json"))


def _is_told(comment: str) -> bool:
    """Tell whether a sound's comment is what it was made by."""
    try:
        values = json.loads(comment)
    except (ValueError, RecursionError):
        return False
    model = values.get("model") if isinstance(values, dict) else None
    return isinstance(model, dict) and "sha256" in model


def _is_report(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"model", "versions"} <= values.keys()


def numbered(path: Path, count: int) -> list[Path]:
    """Return `path` itself for one clip; ``name-0.wav``, ``name-1.wav``, … for more."""
    names = [f"{path.stem}-{i}{path.suffix}" for i in range(count)]
    return [path] if count == 1 else [path.parent / name for name in names]


def versions() -> dict[str, str]:
    """Return the versions that numbers depend on."""
    return {
        "ditto": version("ditto-music"),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "python": platform.python_version(),
    }


@cache
def machine() -> dict[str, str]:
    """Return what the last bits of samples depend on besides versions and weights."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": "native" if native_precision("cpu") is torch.bfloat16 else "emulated",
    }


def _json(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
