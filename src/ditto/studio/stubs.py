"""Gradio without the stubs that it writes for editors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WRITER, FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


@contextmanager
def without_stubs() -> Iterator[None]:
    """Let Gradio be imported in the block without its ``.pyi`` files.

    At every start it reads the source of each of its components, and writes a stub beside it: half
    of the time that its import takes, and files in the user's environment, in which two studios
    that start together get in each other's way.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Find the module that writes them, and take the function away when it is there."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != WRITER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            setattr(module, FUNCTION, _nothing)

        spec.loader.exec_module = exec_module
        return spec


def _nothing(*given: Any) -> None:
    """Write no stub."""
