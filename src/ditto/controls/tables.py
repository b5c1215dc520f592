"""Tables of two columns as people have them: any separator, decimal mark, encoding, headings."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ditto.controls.textfiles import decoded, file_bytes
from ditto.errors import ControlError
from ditto.paths import StrPath, printable

ENDINGS = (".csv", ".tsv", ".txt")
MAX_BYTES = 10_000_000

_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "spaces"}
_TIME = re.compile(r"(time|times|t|s|secs?|seconds?|zeit|sekunden?|temps|tiempo|tempo|ms)\b")
_INDEX = re.compile(r"(index|idx|id|no|nr|n|#|row|point|unnamed.*)?")
_NUMBER = re.compile(r"([-+]?)((?:\d[\d.,]*|[.,]\d+)(?:e[-+]?\d+)?)\s*([a-z]*)", re.IGNORECASE)
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Table:
    """Two columns of a file.

    Attributes:
        rows: (line number, cell of the first, cell of the second).
        decimal: the decimal mark of its numbers.
        milliseconds: whether the first column's heading says so.
        about: how it was read, in words.
    """

    rows: list[tuple[int, str, str]]
    decimal: str
    milliseconds: bool
    about: str


def read_table(path: StrPath, names: Sequence[str]) -> Table:
    """Read the columns of time and of some value.

    The separator is the first of tab, semicolon, bar and comma that is in every line, else blanks.
    A first row without any number holds headings; columns are found by them, or are the first two
    that are no index.

    Args:
        path: the file.
        names: what the value's heading may begin with, in small letters.

    Raises:
        ControlError: the file cannot be read as such.
    """
    data = _not_empty(path)
    text = decoded(data)
    if _CONTROL.search(text):
        raise ControlError(f"cannot read the curve {printable(path)}: it is not a CSV file")
    lines = text.splitlines()
    separator = _separator(lines)
    rows = _rows(path, lines, separator)
    decimal = "." if separator == "," and not any('"' in line for line in lines) else _mark(rows)
    headings = rows.pop(0)[1] if rows and not any(is_number(c, decimal) for c in rows[0][1]) else []
    time, value = _columns(headings, rows, names)
    found = []
    for number, row in rows:
        if len(row) <= max(time, value):
            raise ControlError(
                f"line {number} of {printable(path)} needs two columns: seconds and {names[0]}"
            )
        found.append((number, row[time], row[value]))
    said = [f"columns {_said(headings, time)} and {_said(headings, value)}"]
    said += [_SEPARATORS[separator]] * (separator != ",") + ["decimal commas"] * (decimal == ",")
    milliseconds = bool(headings) and re.search(r"\bms\b|_ms\b|milli", headings[time].lower())
    about = f"{', '.join(said)} of {printable(Path(path).name)}"
    return Table(found, decimal, bool(milliseconds), about)


def _not_empty(path: StrPath) -> bytes:
    try:
        return file_bytes(path, "the curve", MAX_BYTES)
    except ControlError as error:
        if "null character" in str(error):
            raise ControlError(f"{error}, and this is not a CSV file") from None
        raise


def _separator(lines: Sequence[str]) -> str:
    """Return what separates the cells."""
    if lines and (named := re.fullmatch(r"sep=(.)", lines[0].strip(), re.IGNORECASE)):
        return named[1]
    some = [line.strip() for line in lines if line.strip()][:100]
    for separator in "\t;|,":
        if some and all(separator in line for line in some):
            return separator
    return next((s for s in "\t;|," if any(s in line for line in some)), " ")


def _rows(path: StrPath, lines: Sequence[str], separator: str) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, with their line numbers."""
    known, cells = separator in _SEPARATORS, []
    marked = bool(lines) and lines[0].lower().startswith("sep=")
    try:
        cells = [
            (n, line.split() if separator == " " else next(csv.reader([line], delimiter=separator)))
            for n, line in enumerate(lines, 1)
            if line.strip() and not (marked and n == 1)
        ]
    except (csv.Error, StopIteration):
        known = False
    if not known:
        raise ControlError(f"cannot read the curve {printable(path)}: it is not a CSV file")
    stripped = [(n, [cell.strip() for cell in row]) for n, row in cells]
    return [(n, row) for n, row in stripped if any(row)]


def _mark(rows: Sequence[tuple[int, list[str]]]) -> str:
    """Return the decimal mark of cells that may hold either."""
    commas = any("," in cell for _, row in rows for cell in row if _NUMBER.fullmatch(_plain(cell)))
    return "," if commas else "."


def _columns(
    headings: Sequence[str], rows: Sequence[tuple[int, list[str]]], names: Sequence[str]
) -> tuple[int, int]:
    """Return where time and value are."""
    plain = [re.sub(r"[\s_\-.(\[]+", " ", heading.lower()).strip() for heading in headings]
    times = [i for i, name in enumerate(plain) if _TIME.match(name)]
    values = [
        i for i, name in enumerate(plain) if i not in times[:1] and name.startswith(tuple(names))
    ]
    first = 1 if _indexed(plain, rows) else 0
    time = times[0] if times else first
    others = [i for i in (first, first + 1) if i != time]
    return time, values[0] if values else others[0]


def _indexed(headings: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> bool:
    """Tell whether the first of at least three columns counts the rows."""
    if any(len(row) < 3 for _, row in rows) or len(rows) < 2:
        return False
    if headings:
        return bool(_INDEX.fullmatch(headings[0])) and len(headings) > 2
    first = [row[0] for _, row in rows]
    seconds = [row[1] for _, row in rows]
    counts = any(first == [str(i + start) for i in range(len(rows))] for start in (0, 1))
    rising = all(is_number(cell, ".") for cell in seconds) and sorted(seconds, key=float) == seconds
    return counts and rising and all(is_number(row[2], ".") for _, row in rows)


def _said(headings: Sequence[str], column: int) -> str:
    named = column < len(headings) and headings[column]
    return repr(printable(headings[column])[:24]) if named else str(column + 1)


def _plain(text: str) -> str:
    return text.strip().replace("−", "-").replace("–", "-")


def is_number(text: str, decimal: str = ".") -> bool:
    """Tell whether a text is a number, perhaps with a unit."""
    found = _NUMBER.fullmatch(_plain(text))
    return bool(found) or _float(_plain(text), decimal) is not None


def number(text: str, units: dict[str, float], decimal: str = ".") -> float | None:
    """Return a number, times the factor of the unit behind it; None if it is none, or of another.

    Args:
        text: e.g. "-20", "−20,5 dB".
        units: factors by unit, in small letters.
        decimal: its decimal mark.
    """
    plain = _plain(text)
    if (value := _float(plain, decimal)) is not None:
        return value
    found = _NUMBER.fullmatch(plain)
    if found is None or found[3].lower() not in units:
        return None
    value = _float(found[1] + found[2], decimal)
    return None if value is None else value * units[found[3].lower()]


def _float(text: str, decimal: str) -> float | None:
    try:
        if decimal == ",":
            text = text.replace(".", "") if "," in text else text
            text = text.replace(",", ".")
        return float(text)
    except ValueError:
        return None
