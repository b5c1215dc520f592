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
    from ditto.models.conditioning import Tags as Tags
    from ditto.models.loading import adapt as adapt
    from ditto.models.loading import load as load
    from ditto.models.music_model import MusicModel as MusicModel
    from ditto.optimize import Step as Step
    from ditto.request import Request as Request
    from ditto.request import Result as Result
    from ditto.request import generate as generate
    from ditto.request import run as run

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
    "Result": "request",
    "Step": "optimize",
    "Structure": "controls.structure",
    "StructureLike": "controls.structure",
    "Tags": "models.conditioning",
    "Text": "controls.text",
    "adapt": "models.loading",
    "generate": "request",
    "inpaint": "edit.edits",
    "invert": "edit.latents",
    "load": "models.loading",
    "loop": "edit.edits",
    "loop_recording": "edit.edits",
    "outpaint": "edit.edits",
    "read": "audio.io",
    "run": "request",
    "vary": "edit.latents",
    "write": "audio.io",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ditto' has no attribute {name!r}")
    return getattr(import_module(f"ditto.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
