"""What docstrings say of settings, for the help of their options."""

import inspect
import re


def attributes(cls: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say of their attributes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.getdoc(base) if "__doc__" in vars(base) else None
        block = re.search(r"Attributes:\n((?: {4}.*\n?)+)", text or "")
        if block is None:
            continue
        for entry in re.split(r"\n(?= {4}\w)", block[1].rstrip()):
            names, _, about = entry.strip().partition(": ")
            about = " ".join(about.split())
            found |= {name.strip(): about for name in names.split(",")}
    return found
