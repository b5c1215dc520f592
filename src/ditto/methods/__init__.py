"""Every method by its name, on the command line and in reports.

"naive", "multidiffusion", "md50" and "native" keep a region (inpaint, outpaint, a recording's loop)
and take no other control; "controlnet" takes a loudness curve, a melody or both; the others take
any control.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ditto.errors import RequestError
from ditto.methods.base import Method, Problem
from ditto.methods.best_of import BestOf
from ditto.methods.controlnet import MusicControlNet
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.doodl import Doodl
from ditto.methods.guidance import FreeDoM, GuidanceGradients
from ditto.methods.latch import LatCH
from ditto.methods.masking import MultiDiffusion, MultiDiffusion50, NaiveMasking
from ditto.methods.native import NativeInpainting
from ditto.methods.none import Uncontrolled

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Ditto2,
        Ditto,
        Doodl,
        BestOf,
        FreeDoM,
        LatCH,
        GuidanceGradients,
        MultiDiffusion,
        MultiDiffusion50,
        NaiveMasking,
        NativeInpainting,
        MusicControlNet,
        Uncontrolled,
    )
}


def make_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Return a method by name.

    Args:
        name: one of `METHODS`.
        settings: of the method; None leaves the defaults.

    Raises:
        RequestError: the method, or one of its settings, is unknown, or a setting out of range.
    """
    if name not in METHODS:
        raise RequestError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    cls, settings = METHODS[name], settings or {}
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise RequestError(
            f"the method {name} has no setting {', '.join(unknown)}: it has {', '.join(known)}"
        )
    return cls(**settings)


__all__ = [
    "METHODS",
    "BestOf",
    "Ditto",
    "Ditto2",
    "Doodl",
    "FreeDoM",
    "GuidanceGradients",
    "LatCH",
    "Method",
    "MultiDiffusion",
    "MultiDiffusion50",
    "MusicControlNet",
    "NaiveMasking",
    "NativeInpainting",
    "Problem",
    "Uncontrolled",
    "make_method",
]
