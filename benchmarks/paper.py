"""The figures that the two papers print, table by table (``paper.json``)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("paper.json")


@cache
def _tables() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def paper(table: str, row: str, column: str) -> float | None:
    """One published figure; None where the paper has a dash.

    Raises:
        KeyError: there is no such table, row or column.
    """
    found = _tables()[table]
    if column not in found["columns"]:
        raise KeyError((table, column))
    return found["rows"][row][found["columns"].index(column)]
