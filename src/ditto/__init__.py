"""Ditto: control a music diffusion model at inference time by optimising only its initial noise.

>>> import ditto
>>> model = ditto.load()
>>> result = ditto.generate(model, [ditto.Intensity("crescendo")], tags=dict(genre="jazz",
tempo=110), seed=7)
>>> result.save("out.wav")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ditto.audio.io import Audio as Audio
    from ditto.audio.io import read as read
    from ditto.audio.io import write as write
    from ditto.audio.spec import AudioSpec as AudioSpec
    from ditto.controls.base import Control as Control
    from ditto.controls.curves import Curve as Curve
    from ditto.controls.intensity import Intensity as Intensity
    from ditto.controls.melody import Melody as Melody
    from ditto.controls.structure import Structure as Structure
    from ditto.controls.structure import StructureLike as StructureLike
    from ditto.controls.text import Text as Text
    from ditto.edit.edits import inpaint as inpaint
    from ditto.edit.edits import loop as loop
    from ditto.edit.edits import loop_recording as loop_recording
    from ditto.edit.edits import outpaint as outpaint
    from ditto.edit.variations import invert as invert
    from ditto.edit.variations import vary as vary
    from ditto.errors import DittoError as DittoError
    from ditto.latents import Latent as Latent
    from ditto.methods.base import Method as Method
    from ditto.methods.controlnet import MusicControlNet as MusicControlNet
    from ditto.methods.ditto import Ditto as Ditto
    from ditto.methods.ditto2 import Ditto2 as Ditto2
    from ditto.methods.doodl import Doodl as Doodl
    from ditto.methods.guidance import FreeDoM as FreeDoM
    from ditto.methods.guidance import GuidanceGradients as GuidanceGradients
    from ditto.methods.masking import MultiDiffusion as MultiDiffusion
    from ditto.methods.masking import NaiveMasking as NaiveMasking
    from ditto.methods.none import Uncontrolled as Uncontrolled
    from ditto.models.conditioning import Tags as Tags
    from ditto.models.loading import adapt as adapt
    from ditto.models.loading import load as load
    from ditto.models.music_model import MusicModel as MusicModel
    from ditto.optimize import Step as Step
    from ditto.request import Request as Request
    from ditto.result import Result as Result
    from ditto.runner import Run as Run
    from ditto.runner import generate as generate
    from ditto.runner import run as run
    from ditto.runner import steps as steps

# Imported on first use, so that `ditto-music --help` need not wait for torch.
_HOMES = {
    "Audio": "audio.io",
    "AudioSpec": "audio.spec",
    "Control": "controls.base",
    "Curve": "controls.curves",
    "DittoError": "errors",
    "Intensity": "controls.intensity",
    "Latent": "latents",
    "Melody": "controls.melody",
    "MusicModel": "models.music_model",
    "Request": "request",
    "Result": "result",
    "Run": "runner",
    "Method": "methods.base",
    "MusicControlNet": "methods.controlnet",
    "Ditto": "methods.ditto",
    "Ditto2": "methods.ditto2",
    "Doodl": "methods.doodl",
    "FreeDoM": "methods.guidance",
    "GuidanceGradients": "methods.guidance",
    "MultiDiffusion": "methods.masking",
    "NaiveMasking": "methods.masking",
    "Uncontrolled": "methods.none",
    "steps": "runner",
    "Step": "optimize",
    "Structure": "controls.structure",
    "StructureLike": "controls.structure",
    "Tags": "models.conditioning",
    "Text": "controls.text",
    "adapt": "models.loading",
    "generate": "runner",
    "inpaint": "edit.edits",
    "invert": "edit.variations",
    "load": "models.loading",
    "loop": "edit.edits",
    "loop_recording": "edit.edits",
    "outpaint": "edit.edits",
    "read": "audio.io",
    "run": "runner",
    "vary": "edit.variations",
    "write": "audio.io",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ditto' has no attribute {name!r}")
    return getattr(import_module(f"ditto.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
