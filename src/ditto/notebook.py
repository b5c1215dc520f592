"""How a result shows itself in a notebook: its sound to play, and its picture."""

import base64
import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ditto.errors import DittoError

MOST, LARGEST = 4, 32 * 2**20
"""Clips of a batch that are shown, and bytes of a sound that goes into a page."""


def page(line: str, saves: Sequence[Callable[[Path], list[Path]]]) -> str:
    """Return HTML of clips to hear and see, which needs no other file.

    Args:
        line: on the whole.
        saves: each writes a sound to the path that it is given, and its picture beside it.
    """
    parts = [_paragraph(line)]
    with tempfile.TemporaryDirectory() as folder:
        for i, save in enumerate(saves[:MOST]):
            sound = Path(folder) / f"{i}.flac"
            try:
                save(sound)
            except DittoError as error:  # such as more channels than a page can play
                parts.append(_paragraph(str(error)))
                continue
            parts += [_player(sound), _picture(sound.with_suffix(".png"))]
    if len(saves) > MOST:
        parts.append(_paragraph(f"and {len(saves) - MOST} more: samples(item), save(path, item)"))
    return "\n".join(parts)


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _player(sound: Path) -> str:
    if sound.stat().st_size > LARGEST:
        return _paragraph("the sound is too long for a page: save(path) writes it")
    return f'<audio controls src="data:audio/flac;base64,{_text(sound)}"></audio>'


def _picture(path: Path) -> str:
    return f'<img style="max-width: 100%" src="data:image/png;base64,{_text(path)}">'


def _text(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
