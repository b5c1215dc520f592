"""The lines of a score or MIDI file, and which of them is the tune.

The guess weighs what melody finders for symbolic music measure (Rizo et al., "A pattern recognition
approach for melody track selection in MIDI files", ISMIR 2006): a name that says so, one note at a
time, a middle or high range, steps rather than leaps, a rhythm that is neither a pulse nor rare.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ditto.controls.notes import Note, summary
from ditto.paths import printable

_TUNES = re.compile(
    r"melod|voice|vocal|voc\b|vox|lead|solo|tune|theme|sing|sopran|cantus|gesang|stimme|chant"
    r"|right|\brh\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"bass|drum|perc|pad\b|strings|chord|accomp|arp|harmon|backing|comp\b|rhythm|left|\blh\b"
    r"|tenor|alto",
    re.IGNORECASE,
)
MAX_LISTED = 6
"""Lines that a message lists."""
UPPER = 0.7
"""What lying above all others counts: as much as half a tune's steps."""


@dataclass(frozen=True)
class Line:
    """Notes that belong together: a track's on one channel, or a part's.

    Attributes:
        where: how to choose it, e.g. "channel 2" or "part 0".
        name: that the file gives it.
        notes: in seconds.
        drums: whether its pitches are drums.
    """

    where: str
    name: str
    notes: tuple[Note, ...]
    drums: bool = False

    @property
    def label(self) -> str:
        """Return where it is, and its name if it has one."""
        name = printable(self.name.strip())[:24]
        return f"{self.where} ({name})" if name else self.where


def tune_of(lines: Sequence[Line]) -> Line:
    """Return the line that is most like a tune; the first of equals.

    Args:
        lines: at least one that has notes and is no drums.
    """
    pitched = [line for line in lines if line.notes and not line.drums]
    below = sorted(_mean_pitch(line.notes) for line in pitched)
    height = {id(line): below.index(_mean_pitch(line.notes)) for line in pitched}
    most = max(len(pitched) - 1, 1)
    return max(pitched, key=lambda line: tune_likeness(line) + UPPER * height[id(line)] / most)


def others(chosen: Line, lines: Sequence[Line]) -> str:
    """Return the lines that were not chosen in a few words, "" if there is none."""
    rest = [line for line in lines if line is not chosen and line.notes]
    said = [
        f"{line.label} {'drums' if line.drums else summary(line.notes)}"
        for line in rest[:MAX_LISTED]
    ]
    more = [f"{len(rest) - MAX_LISTED} more"] if len(rest) > MAX_LISTED else []
    return "; ".join([*said, *more])


def tune_likeness(line: Line) -> float:
    """Return how much a line is like a tune; the number has no unit.

    It needs at least one note.
    """
    top = _top_line(line.notes)
    named = 2.0 * bool(_TUNES.search(line.name)) - 2.0 * bool(_OTHERS.search(line.name))
    return named + _single(line.notes) + _range(top) + _motion(top) + _rhythm(top)


def _top_line(notes: Sequence[Note]) -> list[Note]:
    """Return the highest note of each onset."""
    highest: dict[float, Note] = {}
    for note in notes:
        at = round(note.onset, 2)
        if at not in highest or note.pitch > highest[at].pitch:
            highest[at] = note
    return [highest[at] for at in sorted(highest)]


def _single(notes: Sequence[Note]) -> float:
    """Return 0 where notes are alone, to −2 where all sound with others."""
    events = sorted(
        [(n.onset, 1) for n in notes] + [(max(n.end - 0.03, n.onset), -1) for n in notes]
    )
    together, sounding, count = 0.0, 0.0, 0
    for (at, change), (after, _) in pairwise([*events, (events[-1][0], 0)]):
        count += change
        sounding += (after - at) * (count > 0)
        together += (after - at) * (count > 1)
    return -2.0 * together / max(sounding, 1e-6)


def _range(top: Sequence[Note]) -> float:
    """Return 0 for a mean pitch within two octaves from middle C on, less outside."""
    mean = _mean_pitch(top)
    return -max(60 - mean, 0, mean - 84) / 8


def _mean_pitch(notes: Sequence[Note]) -> float:
    return sum(n.pitch * n.duration for n in notes) / sum(n.duration for n in notes)


def _motion(top: Sequence[Note]) -> float:
    """Return the share of steps among moves, from 0 to 1; less the more one move prevails."""
    moves = [b.pitch - a.pitch for a, b in pairwise(top)]
    changing = [move for move in moves if move]
    if len(changing) < 2:
        return -1.0
    steps = sum(abs(move) <= 2 for move in changing) / len(changing)
    wide = sum(abs(move) > 7 for move in changing) / len(changing)
    return 1.5 * steps - wide - _sameness([n.pitch for n in top])


def _sameness(pitches: Sequence[int]) -> float:
    """Return how much of a line repeats in groups of 3, 4, 6, 8 notes, 0 to 1 (an arpeggio)."""
    best = 0.0
    for period in (2, 3, 4, 6, 8):
        pairs = list(zip(pitches, pitches[period:], strict=False))
        if len(pairs) >= 2 * period:
            best = max(best, sum(a == b for a, b in pairs) / len(pairs))
    return best


def _rhythm(top: Sequence[Note]) -> float:
    """Return the entropy of the onsets' distances (in bits, at most 1.5), less for odd rates."""
    gaps = [round((b.onset - a.onset) * 16) for a, b in pairwise(top)]
    if not gaps:
        return -2.0
    shares = [count / len(gaps) for count in Counter(gaps).values()]
    entropy = min(-sum(share * math.log2(share) for share in shares), 1.5)
    rate = len(gaps) / max(top[-1].onset - top[0].onset, 1e-6)
    return 0.6 * entropy - max(math.log2(rate / 4), math.log2(0.7 / rate), 0)
