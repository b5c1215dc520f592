"""Files changed at random, by bytes or within their structure, and random words."""

import json
import random
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

WORDS = (
    *("", "0", "-1", "1", "2", "0.3", "1e9", "nan", "inf", "-inf", "²", "٣", "true", "$x$", "[/b]"),
    *("crescendo", "0:-30 0.3:-20", "C4:1 E4:1", "ABA", "song.wav", "none.wav", ".", "a\nb", "é"),
    *("genre=jazz", "genre=", "tempo=100", "0.1-0.3", "3-1", "x.latent", "tune.mid", "curve.csv"),
    *("ditto", "none", "freedom", "adaptive", "ddim", "\udce9", "--", "9" * 400),
    *("score.musicxml", "song.mp3", "clip.wav", "clip.json", "0.05", "64", "-0.0", "1e-300"),
)
"""What options are given."""
SENSIBLE: dict[object, tuple[str, ...]] = {
    float: ("0.3", "0.05", "1", "0.5", "-20", "1.2"),
    int: ("1", "2", "3", "0", "7"),
    Path: ("song.wav", "song.flac", "made.latent", "x.latent", "clip.json", "o.latent"),
}
"""What options are given that they may take, by their type."""
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**9, 10**40, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "nan", "../x", "\0", "\udce9", "9" * 400, [], [1], [None], {}, {"x": 1}, [[[]]]),
)
"""What values of JSON become."""


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return a file with some bytes changed, cut, doubled or put in front."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(max(len(data), 1))
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(64)]
        elif kind == 3:
            head = rng.randrange(min(64, max(len(data), 1)))
            data[head : head + 4] = rng.randbytes(4)
        else:
            data[0:0] = rng.randbytes(rng.randrange(16))
    return bytes(data)


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """Return a JSON file with some values changed, taken out or nested deeply."""
    whole = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        places = list(_places(whole))
        if not places:
            break
        within, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del within[key]
        elif kind == 1 and isinstance(within, dict):
            within[rng.choice(("", "x", f"{key}2"))] = within.pop(key)
        else:
            within[key] = rng.choice(VALUES)
    text = json.dumps(whole)
    if rng.randrange(20) == 0:
        text = "[" * 100_000 + text
    return text.encode(errors="replace")


def _places(value: Any) -> Any:
    """Yield every (container, key) of nested lists and objects."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def mutated_xml(rng: random.Random, content: bytes) -> bytes:
    """Return an XML file with elements taken out, doubled, or of another text or attribute."""
    root = ElementTree.fromstring(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parents = [element for element in root.iter() if len(element)]
        if not parents:
            break
        parent = rng.choice(parents)
        child = rng.choice(list(parent))
        kind = rng.randrange(5)
        if kind == 0:
            parent.remove(child)
        elif kind == 1:
            parent.insert(rng.randrange(len(parent) + 1), child)
        elif kind == 2 and child.attrib:
            child.set(rng.choice(list(child.attrib)), _word(rng))
        elif kind == 3:
            child.tag = rng.choice([element.tag for element in root.iter()])
        else:
            rng.choice([e for e in root.iter() if not len(e)] or [child]).text = _word(rng)
    return ElementTree.tostring(root)


def _word(rng: random.Random) -> str:
    word = rng.choice((*WORDS, "c. 92", "1/3", "1e400", "-4", "12"))
    return "".join(c for c in word if c.isprintable() and not 0xD800 <= ord(c) < 0xE000)


def mutated_table(rng: random.Random, content: bytes) -> bytes:
    """Return a table with cells changed, rows mixed, and other separators or encodings."""
    text = content.decode()
    rows = text.splitlines()
    for _ in range(rng.choice((0, 1, 1, 3))):
        at = rng.randrange(len(rows))
        cells = rows[at].split(",")
        kind = rng.randrange(5)
        if kind == 0:
            cells[rng.randrange(len(cells))] = rng.choice(WORDS)
        elif kind == 1:
            cells.append(rng.choice(WORDS))
        elif kind == 2:
            cells.pop()
        rows[at] = ",".join(cells)
        if kind == 3:
            rows.insert(at, rng.choice(rows))
        elif kind == 4:
            rng.shuffle(rows)
    text = rng.choice(("\n", "\r\n", "\r")).join(rows)
    if rng.randrange(3) == 0:
        text = text.replace(".", ",") if rng.randrange(2) else text
        text = text.replace(",", rng.choice(";\t|"))
    return text.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "cp1252")), "replace")


def mutated_tensors(rng: random.Random, content: bytes) -> bytes:
    """Return a safetensors file with another header, still of the length that it tells."""
    size = int.from_bytes(content[:8], "little")
    header = mutated_json(rng, content[8 : 8 + size])
    told = len(header) if rng.randrange(4) else rng.choice((0, 1, size, 2**40, 2**63))
    return struct.pack("<Q", told) + header + content[8 + size :]


STRUCTURED = {
    ".json": mutated_json,
    ".musicxml": mutated_xml,
    ".csv": mutated_table,
    ".safetensors": mutated_tensors,
    ".latent": mutated_tensors,
    ".part": mutated_tensors,
}


def mutated(rng: random.Random, content: bytes, ending: str) -> bytes:
    """Return a changed file: in its structure as often as in its bytes, where it has one."""
    if ending in STRUCTURED and rng.randrange(2):
        return STRUCTURED[ending](rng, content)
    return mutated_bytes(rng, content)
