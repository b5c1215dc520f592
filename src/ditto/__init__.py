"""Ditto: control a music diffusion model at inference time by optimising only its initial noise.

>>> import ditto
>>> model = ditto.load()
>>> clip = ditto.generate(model, ditto.Intensity("crescendo"), tags="genre=jazz tempo=110", seed=7)
>>> paths = clip.save("out.wav")

Public names are listed in ``__init__.pyi``, which type checkers read too. They are imported at
first use, so that ``ditto-music --help`` need not wait for PyTorch.
"""

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path


def _public_names() -> Iterator[tuple[str, str]]:
    """Yield name and module of everything public; ``*`` stands for a package's ``__all__``."""
    here = Path(__file__).parent
    for node in ast.parse((here / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if names == ["*"]:
                package = here / str(node.module) / "__init__.py"
                (names,) = (
                    ast.literal_eval(line.value)
                    for line in ast.parse(package.read_text(encoding="utf-8")).body
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__"
                )
            yield from ((name, f"ditto.{node.module}") for name in names)


_HOMES = dict(_public_names())


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("ditto-music")
    if name == "__all__":
        return sorted(_HOMES)
    if name not in _HOMES:
        raise AttributeError(f"module 'ditto' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOMES])
