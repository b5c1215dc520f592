"""Nodes for ComfyUI: load a model of Ditto's, generate, inpaint, outpaint, loop.

Copy or link this folder into ComfyUI's ``custom_nodes`` and install ``ditto-music`` into its
Python. Sound is ComfyUI's AUDIO, a dict of ``waveform`` (B, channels, samples) and
``sample_rate``; every node also gives its report, the JSON of Ditto's commands.

ComfyUI runs nodes in PyTorch's inference mode, where nothing can be optimised: these leave it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

import ditto
from ditto.cli.edit import known_tempo
from ditto.controls import CONTROLS
from ditto.controls.base import ParseContext
from ditto.edit.edits import inpaint, outpaint
from ditto.edit.loops import loop, loop_recording, loop_seconds
from ditto.edit.result import Edit
from ditto.edit.song import song
from ditto.edit.timeline import Known, Timeline
from ditto.errors import RequestError
from ditto.latents import item_seed
from ditto.methods import METHODS
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel, needs_windows
from ditto.optimize import Step
from ditto.request import LIMITS, MAX_SEED, Request
from ditto.runner import run

MODEL, AUDIO = "DITTO_MODEL", "AUDIO"
AUTO = "auto"
LONGEST = 3600.0
Field = tuple[Any, dict[str, Any]]
Sound = dict[str, Any]


def number(default: float, low: float, high: float, about: str, step: float = 0.01) -> Field:
    """Return the field of a number, whole where its default is."""
    kind = "INT" if isinstance(default, int) else "FLOAT"
    given = {"default": default, "min": low, "max": high, "tooltip": about}
    return kind, given | ({} if kind == "INT" else {"step": step})


def words(about: str, *, long: bool = False) -> Field:
    """Return the field of a text, empty at first."""
    return "STRING", {"default": "", "multiline": long, "tooltip": about}


def choice(options: list[str], about: str) -> Field:
    """Return the field of one of several words, the first at first."""
    return options, {"default": options[0], "tooltip": about}


NAMES = {(*kind.other_names, name)[0]: kind for name, kind in CONTROLS.items()}
"""Controls by the names of their fields."""

MUSIC: dict[str, Field] = {
    "tags": words("Such as: genre=jazz tempo=110, or prompt=lo-fi piano.", long=True),
    **{name: words(kind.help) for name, kind in NAMES.items()},
    "method": choice([AUTO, *METHODS], "How; auto is ditto2 where the model has a student."),
    "iterations": number(0, 0, 10_000, "K; 0 is the method's and the controls' own."),
    "guidance": number(-1.0, -1.0, LIMITS["guidance"][1], "Of the tags; -1 is the model's."),
    "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}),
}
"""Fields of every node that makes music."""


@contextmanager
def optimising() -> Iterator[None]:
    """Let gradients be computed within the block, whatever mode ComfyUI is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class Watch:
    """ComfyUI's progress bar and its cancel button, where there is a ComfyUI."""

    def __init__(self, request: Request, model: MusicModel) -> None:
        """Begin without a bar: how many parts there are is known with the first iteration."""
        self.bar, self.total = None, max(request.resolved(model).iterations or 1, 1)

    def __call__(self, part: int, parts: int, step: Step) -> None:
        """Show an iteration; an exception of ComfyUI's cancels what goes on."""
        try:
            from comfy import model_management, utils  # pyright: ignore
        except ImportError:
            return
        model_management.throw_exception_if_processing_interrupted()
        if self.bar is None:
            self.bar = utils.ProgressBar(self.total * parts)
        self.bar.update_absolute(part * self.total + step.i + 1, self.total * parts)


class LoadModel:
    """Loads a model: Ditto's own, a folder, or a name on the Hub."""

    CATEGORY = "audio/Ditto"
    DESCRIPTION = __doc__
    FUNCTION = "load"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the fields."""
        fields = {
            "source": words("A model's folder or Hub id; empty is the embedded model."),
            "device": words("cpu, cuda, cuda:1 or mps; empty is the first that is there."),
            "precision": choice([AUTO, "float32", "bfloat16", "float16"], "Of the denoiser."),
            "low_memory": ("BOOLEAN", {"default": False, "tooltip": "Slower, and smaller."}),
        }
        return {"required": fields}

    def load(self, source: str, device: str, precision: Any, low_memory: bool) -> tuple[MusicModel]:
        """Load it."""
        place = device.strip() or AUTO
        with optimising():
            model = ditto.load(
                source.strip() or None, device=place, precision=precision, low_memory=low_memory
            )
        return (model,)


class Node:
    """What nodes that make music share; a subclass's `make` is called with all of its fields."""

    CATEGORY = "audio/Ditto"
    FUNCTION = "run"
    RETURN_TYPES = (AUDIO, "STRING")
    RETURN_NAMES = ("audio", "report")
    own: ClassVar[dict[str, Field]] = {}
    optional: ClassVar[dict[str, Field]] = {}
    edits: ClassVar[bool] = True  # controls may then count beyond the model's window

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return the fields: the model, the node's own, and the music's."""
        model = {"model": (MODEL, {"tooltip": "From Ditto's loader."})}
        return {"required": {**model, **cls.own, **MUSIC}, "optional": cls.optional}

    def run(self, model: MusicModel, **fields: Any) -> tuple[Sound, str]:
        """Make what the fields ask for."""
        with optimising():
            sounds, rate, reports = self.make(model, self.request(model, fields), fields)
        waveform = torch.stack([torch.from_numpy(np.atleast_2d(each).copy()) for each in sounds])
        told = reports[0] if len(reports) == 1 else reports
        return {"waveform": waveform.float(), "sample_rate": rate}, json.dumps(told, indent=2)

    def make(
        self, model: MusicModel, request: Request, fields: dict[str, Any]
    ) -> tuple[list[np.ndarray], int, list[Any]]:
        """Return sounds (channels, samples), their sample rate, and their reports."""
        raise NotImplementedError

    def request(self, model: MusicModel, fields: dict[str, Any]) -> Request:
        """Return what the music's fields ask for."""
        tags, bpm = Tags.parse(" ".join(fields["tags"].split())), fields.get("bpm")
        if bpm is not None and tags.tempo is None:  # a loop's
            tags = replace(tags, tempo=known_tempo(bpm, model.vocabulary))
        seconds = None if self.edits else fields.get("seconds") or None
        context = ParseContext(lambda: model.spec, seconds, tags.tempo, {"bpm": bpm}, self.edits)
        given = {name: fields[name].strip() for name in NAMES}
        method = fields["method"]
        return Request(
            [NAMES[name].parse(text, context) for name, text in given.items() if text],
            tags,
            seed=fields["seed"],
            guidance=None if fields["guidance"] < 0 else fields["guidance"],
            iterations=fields["iterations"] or None,
            method=None if method == AUTO else METHODS[method](),
        )

    def edited(
        self, model: MusicModel, audio: Sound, request: Request, edit: Callable[..., Edit]
    ) -> tuple[list[np.ndarray], int, list[Any]]:
        """Edit every item of a sound, each with a seed of its own."""
        made = []
        for i, item in enumerate(audio["waveform"]):
            samples = item.detach().cpu().float().numpy().copy()
            timeline = Timeline(samples, Known(samples.shape[1]), audio["sample_rate"])
            one = replace(request, seed=item_seed(request.seed, i))
            made.append(edit(model, timeline, request=one, progress=Watch(one, model)))
        return [e.samples for e in made], audio["sample_rate"], [e.report() for e in made]


class Generate(Node):
    """Makes music that follows the controls."""

    DESCRIPTION = __doc__
    own: ClassVar[dict[str, Field]] = {
        "seconds": number(0.0, 0.0, LONGEST, "Length; 0 is the model's window."),
        "count": number(1, 1, 64, "Clips at once, of one seed after the other."),
    }
    edits = False

    def make(self, model: MusicModel, request: Request, fields: dict[str, Any]) -> Any:
        """Generate."""
        seconds, watch = fields["seconds"] or None, Watch(request, model)
        if seconds is not None and needs_windows(model, seconds):
            if fields["count"] > 1:
                raise RequestError("music of several windows is made one by one: give count 1")
            edit = song(model, seconds, request, progress=watch)
            return [edit.samples], edit.sample_rate, [edit.report()]
        request = replace(request, seconds=seconds, count=fields["count"])
        result = run(request, model, watch=lambda step: watch(0, 1, step))
        items = range(fields["count"])
        reports = [result.report(i) for i in items]
        return [result.samples(i) for i in items], model.spec.sample_rate, reports


class Inpaint(Node):
    """Makes a part of a sound anew, so that it fits what is around it."""

    DESCRIPTION = __doc__
    own: ClassVar[dict[str, Field]] = {
        "audio": (AUDIO, {"tooltip": "What is edited."}),
        "begin": number(1.0, 0.0, LONGEST, "Where what is new begins, in seconds."),
        "end": number(2.0, 0.0, LONGEST, "Where it ends."),
        "overlap": number(1.0, 0.0, 60.0, "Seconds of context on each side, at least."),
    }

    def make(self, model: MusicModel, request: Request, fields: dict[str, Any]) -> Any:
        """Inpaint."""
        regions = [(fields["begin"], fields["end"])]
        edit = partial(inpaint, regions=regions, overlap=fields["overlap"])
        return self.edited(model, fields["audio"], request, edit)


class Outpaint(Node):
    """Makes a sound longer."""

    DESCRIPTION = __doc__
    own: ClassVar[dict[str, Field]] = {
        "audio": (AUDIO, {"tooltip": "What is continued."}),
        "seconds": number(12.0, 0.0, LONGEST, "Length of the whole in the end."),
        "overlap": number(1.0, 0.0, 60.0, "Seconds that a window shares with what is there."),
        "direction": choice(["forwards", "backwards"], "Where it grows."),
    }

    def make(self, model: MusicModel, request: Request, fields: dict[str, Any]) -> Any:
        """Outpaint."""
        given = {name: fields[name] for name in ("seconds", "overlap", "direction")}
        return self.edited(model, fields["audio"], request, partial(outpaint, **given))


class Loop(Node):
    """Makes a loop, exact to the sample: from nothing, or a sound led back into its start."""

    DESCRIPTION = __doc__
    own: ClassVar[dict[str, Field]] = {
        "bpm": number(120.0, 20.0, 400.0, "Beats per minute."),
        "bars": number(2, 1, 256, "Bars of four beats."),
        "repeats": number(1, 1, 1000, "How often the loop is in the sound."),
        "overlap": number(0.0, 0.0, 60.0, "Seconds made twice; 0 is 0.5, or 1 with a sound."),
    }
    optional: ClassVar[dict[str, Field]] = {
        "audio": (AUDIO, {"tooltip": "A sound that becomes a loop."})
    }

    def make(self, model: MusicModel, request: Request, fields: dict[str, Any]) -> Any:
        """Loop."""
        given: Any = {"seconds": loop_seconds(fields["bpm"], fields["bars"])}
        given |= {name: fields[name] for name in ("repeats", "overlap") if fields[name]}
        if fields.get("audio") is not None:
            edit = partial(loop_recording, **given)
            return self.edited(model, fields["audio"], request, edit)
        made = loop(model, request=request, progress=Watch(request, model), **given)
        return [made.samples], made.sample_rate, [made.report()]


NODE_CLASS_MAPPINGS = {
    "DittoLoadModel": LoadModel,
    "DittoGenerate": Generate,
    "DittoInpaint": Inpaint,
    "DittoOutpaint": Outpaint,
    "DittoLoop": Loop,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DittoLoadModel": "Ditto: load a model",
    "DittoGenerate": "Ditto: generate",
    "DittoInpaint": "Ditto: inpaint",
    "DittoOutpaint": "Ditto: outpaint",
    "DittoLoop": "Ditto: loop",
}
