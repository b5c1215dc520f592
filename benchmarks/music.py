"""Real, vocoded, generated and steered clips as foreign ears hear them, all with the same tags.

The tags are those of the held-out clips of the first row. The genre probe, the reference of the
Fréchet distances and their floor are of other held-out pieces, see `benchmarks.hearing`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hearing import EARS, PROBE, REFERENCE, joined
from benchmarks.measures import (
    CLAP_SCORE,
    FAD,
    RECOGNISED,
    Array,
    FrechetMeasure,
    Judge,
    Measure,
    RowResult,
)
from benchmarks.plots import spectrograms
from benchmarks.quality import real
from benchmarks.report import Claim, Row
from benchmarks.runner import Entry, Results, Table, Versus
from benchmarks.tasks import CONTROLS, PLAIN, Bench, Task, sound
from benchmarks.variants import CTM, PUBLISHED_CTM, TTM, Models
from ditto.audio.features import log_mel, mel_db
from ditto.eval.bootstrap import Interval, mean_interval, ratio_interval
from ditto.eval.ears.tempo import tempo_hits

REAL, VOCODED, TEACHER = "real", "real, through the vocoder", "teacher, T=20"
STUDENTS = {steps: f"student, {steps} step{'s' if steps > 1 else ''}" for steps in (1, 2, 3, 4, 8)}
DEFAULT = STUDENTS[3]
"""Of the embedded model."""
OTHER_SAMPLERS = {
    "teacher, DDIM in 20, even steps": {"sampler": "ddim"},
    "teacher, DDIM in 20": {"sampler": "ddim", "grid": "karras"},
    "teacher, DDIM in 50, even steps": {"sampler": "ddim", "steps": 50},
    "teacher, DPM-Solver++ in 20, even steps": {"sampler": "dpm++", "grid": "trailing"},
    "teacher, DDPM in 100, even steps": {"sampler": "ddpm", "steps": 100},
}
"""What the papers' chain, a finer one, and one with noise make of the same teacher, whose own is
DPM-Solver++ on Karras' grid."""
STEERED = {"loudness": "intensity", "melody": "melody", "form": "structure"}
"""Controls by their names in rows; their clips have the held-out clips' tags."""
FLOOR_ROW, CHANCE = "floor: other real clips", "chance: real, with others' tempi"
AS_VOCODED, AS_TEACHER = 1.3, 0.1
"""A Fréchet distance is at most the first times that of vocoded real clips; the student is at most
the second off its teacher."""


@dataclass(frozen=True, eq=False)
class OverFloor(FrechetMeasure):
    """A Fréchet distance in a foreign embedding, as a multiple of the floor at equal count.

    Attributes:
        ear: whose embedding.
    """

    ear: str = ""

    def embeddings(self, row: RowResult) -> Array:
        """Return the patches' embeddings (N, P, D)."""
        return row.heard[self.ear]

    def distance(self, row: RowResult) -> Callable[[Array], float]:
        """Return the distance over the floor."""
        ears = row.judge.foreign
        reference, floor = ears.references[self.ear], ears.floor(self.ear, row.count).value
        return lambda embeddings: reference.distance(embeddings) / floor


@dataclass(frozen=True, eq=False)
class OverReal(Measure):
    """A figure as a multiple of that of the real clips with the same tags.

    Attributes:
        heard: the figure's name among what is heard.
    """

    heard: str = ""

    def interval(self, row: RowResult) -> Interval:
        """Return the ratio with its interval."""
        return ratio_interval(self.values(row), _beside(row)[self.heard], paired=True)


def _beside(row: RowResult) -> dict[str, Array]:
    """Return what is heard in the real clips with the row's tags."""
    return row.judge.foreign.real(row.count)


def _heard(name: str) -> Callable[[RowResult], Array]:
    return lambda row: row.heard[name]


def _off(name: str) -> Callable[[RowResult], Array]:
    return lambda row: row.heard[name] - _beside(row)[name]


def _genre(row: RowResult) -> Array:
    genres = [str(row.judge.targets.tags(i).genre) for i in range(row.count)]
    return row.judge.foreign.probe.hits(joined(row.heard), genres)


def _tempi(judge: Judge, count: int) -> Array:
    return np.array([judge.targets.tags(i).tempo for i in range(count)], dtype=np.float64)


def _tempo(row: RowResult) -> Array:
    return tempo_hits(row.heard["tempo"], _tempi(row.judge, row.count)).with_octaves


GENRE = Measure("genre_by_probe", "", None, _genre)
FRECHET = {ear: OverFloor(f"frechet_over_floor_{ear}", like=FAD, ear=ear) for ear in EARS}
DISTANCES = (FAD, *FRECHET.values())
"""From real music: in the judge's embedding, and in both foreign ones."""
NOTES = OverReal("notes_over_real", "", None, _heard("notes_per_second"), heard="notes_per_second")
ONSETS = Measure("onset_peak", "", None, _heard("onset_peak"))
CONTRAST = Measure("contrast_off_by", "dB", 0.0, _off("contrast_db"))
PEAKS = Measure("peaks_off_by", "dB", 0.0, _off("peaks_db"))
TEMPO = Measure("tempo_with_octaves", "", None, _tempo)
CLASSIFIED = RECOGNISED[:3]
BESIDE = (*DISTANCES, NOTES, CLAP_SCORE)
"""What happened to the music, beside every error."""
KEPT: tuple[tuple[Measure, str, dict[str, Any]], ...] = (
    *(
        (measure, f"the Fréchet distance in {ear.upper()}_musicnn", {"most": 1.15})
        for ear, measure in FRECHET.items()
    ),
    (NOTES, "notes a second", {"least": 0.8}),
    (replace(CLAP_SCORE, ideal=None), "the CLAP score", {"least": 0.95}),
)
"""How much of the music of clips without control is left where it is kept."""
NOTES_UNDER_MELODY = 0.7
COLUMNS = (
    *(GENRE, *FRECHET.values(), NOTES, ONSETS, CONTRAST, PEAKS, TEMPO, CLAP_SCORE),
    *CLASSIFIED,
)
SHARES = {GENRE: (0.93, "genre by probe"), NOTES: (0.9, "notes a second"), TEMPO: (0.95, "tempo")}
"""At least so many times those of vocoded real clips."""
LEVELS = {CONTRAST: (0.3, "contrast"), PEAKS: (0.6, "peaks")}
"""In dB at most off those of real clips."""


def kept(row: str, plain: str, *measures: Measure, than: str = "no control") -> list[Versus]:
    """Return the claims that a row keeps the music of another, of clips without control.

    Args:
        row: its name; of a melody fewer notes are enough.
        plain: the other's.
        measures: of `KEPT`; without any, all.
        than: the other in words.
    """
    claims = []
    for measure, words, border in KEPT:
        if measures and measure not in measures:
            continue
        if measure is NOTES and "melody" in row:
            border = dict[str, Any](least=NOTES_UNDER_MELODY)
        side = "at most" if "most" in border else "at least"
        words = f"{row}: {words} {side} {next(iter(border.values())):g} times that of {than}"
        claims.append(Versus(words, row, plain, measure, **border))
    return claims


@dataclass(frozen=True)
class Near:
    """A claim that a figure lies near another one, on either side.

    Attributes:
        claim: the statement.
        row: whose figure.
        measure: what is compared.
        most: how far it is off, less than this.
        teacher: the row whose figure it is divided by, and then 1 is aimed at; otherwise 0 is.
    """

    claim: str
    row: str
    measure: Measure
    most: float
    teacher: str | None = None

    def __call__(self, rows: Results) -> list[Claim]:
        """Return the claim, if the rows have the figure."""
        aim = 0.0 if self.teacher is None else 1.0
        found = Versus(self.claim, self.row, self.teacher, self.measure)(rows)
        return [replace(c, **_off_by(c, aim), border=self.most, side="below") for c in found]


def _off_by(claim: Claim, aim: float) -> dict[str, float]:
    """Return the distances of a claim's figure and its interval from what is aimed at."""
    low, high = claim.low - aim, claim.high - aim
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return {"ratio": abs(claim.ratio - aim), "low": nearest, "high": max(abs(low), abs(high))}


def _against_real(row: str) -> list[Versus | Near]:
    """Return the claims that a row's clips are nearly as good as real ones."""
    bars = [
        Versus(
            f"{row}: the Fréchet distance in {ear.upper()}_musicnn is at most {AS_VOCODED} times "
            "that of real clips through the vocoder",
            *(row, VOCODED, measure),
            most=AS_VOCODED,
        )
        for ear, measure in FRECHET.items()
    ]
    shares = [
        Versus(
            f"{row}: {name} at least {least} times that of real clips through the vocoder",
            *(row, VOCODED, measure),
            least=least,
        )
        for measure, (least, name) in SHARES.items()
    ]
    levels = [
        Near(f"{row}: {name} within {most} dB of real clips", row, measure, most)
        for measure, (most, name) in LEVELS.items()
    ]
    return [*bars, *shares, *levels]


def _against_teacher() -> list[Versus | Near]:
    """Return the claims that the student's columns are at most 10 % worse than its teacher's."""
    lower = [*FRECHET.values()]
    higher = [GENRE, NOTES, ONSETS, TEMPO, replace(CLAP_SCORE, ideal=None), *CLASSIFIED]
    levels = {
        name: Measure(name, "dB", None, _heard(key))
        for name, key in (("contrast", "contrast_db"), ("peaks", "peaks_db"))
    }

    def words(name: str, how: str) -> str:
        return f"{DEFAULT}: {name.replace('_', ' ')} {how} its teacher's"

    return [
        *(
            Versus(words(m.name, "at most 1.1 times"), DEFAULT, TEACHER, m, most=1 + AS_TEACHER)
            for m in lower
        ),
        *(
            Versus(
                words(m.name, "at least 0.9 times"), *(DEFAULT, TEACHER, m), least=1 - AS_TEACHER
            )
            for m in higher
        ),
        *(
            Near(words(name, "within 10 % of"), DEFAULT, m, AS_TEACHER, TEACHER)
            for name, m in levels.items()
        ),
    ]


def beside(bench: Bench, judge: Judge, count: int) -> list[Row]:
    """Return the floor at this count, what is heard by chance, and how many clips have each role.

    Raises:
        ModelError: an ear is not installed.
        DataError: there is no held-out data, or too little.
    """
    ears = judge.foreign
    real_tempi, asked = ears.real(count)["tempo"], _tempi(judge, count)
    shuffled = np.random.default_rng(0).permutation(asked)
    chance = mean_interval(tempo_hits(real_tempi, shuffled).with_octaves)
    clips, genres = ears.others(count)
    hits = mean_interval(ears.probe.hits(joined(clips), genres))
    return [
        *(
            Row.of(FLOOR_ROW, f"frechet_{ear}", "", ears.floor(ear, count), count=len(genres))
            for ear in EARS
        ),
        Row.of(FLOOR_ROW, GENRE.name, "", hits, count=len(genres)),
        Row.of(CHANCE, TEMPO.name, "", chance, count=count),
        *(
            Row.of(f"{role}: real clips", "clips", "", len(ears.role(role)[1]))
            for role in (PROBE, REFERENCE)
        ),
    ]


MADE = (
    (REAL, Task("real", partial(real, vocoded=False)), TTM),
    (VOCODED, Task("real vocoded", partial(real, vocoded=True)), TTM),
    (TEACHER, PLAIN, TTM),
    *((name, PLAIN, TTM.with_(**settings)) for name, settings in OTHER_SAMPLERS.items()),
    *((name, PLAIN, PUBLISHED_CTM.with_(decode_steps=n)) for n, name in STUDENTS.items()),
    *((f"DITTO-2, {name}", CONTROLS[task], CTM) for name, task in STEERED.items()),
)
TABLE = Table(
    "music",
    "Music by foreign ears: musicnn 0.1.0 (MSD_musicnn, MTT_musicnn), basic-pitch 0.4.0",
    tuple(Entry("", task, variant.with_(name=name), COLUMNS) for name, task, variant in MADE),
    claims=(*_against_real(TEACHER), *_against_real(DEFAULT), *_against_teacher()),
    extra=beside,
    count=128,
)


def spectrogram_page(bench: Bench, path: Path, old: Models | None = None) -> Path:
    """Draw a clip of every genre: real, vocoded, and generated by the old model and the new one.

    Args:
        bench: of the new model.
        path: of the picture.
        old: models to compare with.

    Raises:
        DataError: there is no held-out data.
        OutputError: the picture cannot be written.
    """
    spec, count = bench.models.model.spec, bench.targets.real().count
    numbers: dict[str, int] = {}
    for i in range(count):
        numbers.setdefault(str(bench.targets.tags(i).genre), i)
    made = {MADE[i][0]: (bench, MADE[i]) for i in (0, 1)}
    made |= {"old model": (replace(bench, models=old), MADE[2])} if old is not None else {}
    made["new model" if old is not None else "generated"] = bench, MADE[2]
    pictures = {}
    for title, (made_by, (_, task, variant)) in made.items():
        clips = made_by.some(task, variant, list(numbers.values()))
        pictures[title] = mel_db(log_mel(sound(clips["audio"]), spec), spec).numpy()
    return spectrograms(pictures, list(numbers), path)
