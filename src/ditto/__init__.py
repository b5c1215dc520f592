"""Ditto: control a music diffusion model at inference time by optimising only its initial noise.

>>> import ditto
>>> model = ditto.load()
>>> clip = ditto.generate(model, ditto.Intensity("crescendo"), tags="genre=jazz tempo=110", seed=7)
>>> paths = clip.save("out.wav")

Public names are listed in ``__init__.pyi``, which type checkers read. They are imported at first
use, so that ``ditto-music --help`` need not wait for torch.
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

_IMPORTS = [
    (f"ditto.{node.module}", alias.name)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]
_HOMES = {name: module for module, name in _IMPORTS}
_PACKAGES = [module for module, name in _IMPORTS if name == "*"]
"""Packages all of whose public names are ours too: a new control or method needs no line here."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("ditto-music")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if not name.startswith("_"):
        for package in map(import_module, _PACKAGES):
            if name in package.__all__:
                return getattr(package, name)
    raise AttributeError(f"module 'ditto' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = [name for package in map(import_module, _PACKAGES) for name in package.__all__]
    return sorted({*names, *_HOMES} - {"*"})
