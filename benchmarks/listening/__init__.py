"""DITTO's Table 4, the listening test: a page that anybody can open, and what came back.

The page holds everything, sounds included: one file, no network. Each trial plays three clips with
one target, in an order drawn anew for every listener and under letters; all three are rated from 0
to 100, and the ratings are saved as a CSV file. Which letter was which method only the CSV tells.
"""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import soundfile
from torch import Tensor

from benchmarks.report import Claim, Report, Row, make_folder, paper
from benchmarks.tasks import CONTROLS, OUTPAINTING, Bench, Task, sound
from benchmarks.variants import CONTROLNET, DITTO, FREEDOM, MD50, Variant
from ditto.errors import DataError, DittoError
from ditto.eval.bootstrap import mean_interval
from ditto.paths import atomic_file, printable

NAME = "d1-table4"
APPLICATIONS: dict[str, tuple[Task, tuple[Variant, ...]]] = {
    "intensity": (CONTROLS["intensity"], (DITTO, CONTROLNET, FREEDOM)),
    "outpainting": (OUTPAINTING[1], (DITTO, MD50, FREEDOM)),
    "melody": (CONTROLS["melody"], (DITTO, CONTROLNET, FREEDOM)),
}
"""DITTO, section 6.3: what is compared, each with the same targets and tags for all methods."""
COLUMNS = ("listener", "application", "clip", "method", "rating")
EQUAL = 55.0
"""Percent of wins below which the paper finds two methods equal."""
PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Trial:
    """Clips that are rated side by side.

    Attributes:
        application: of `APPLICATIONS`.
        clip: its number.
        sounds: by method, as data URLs.
    """

    application: str
    clip: int
    sounds: dict[str, str]


def export(bench: Bench, out: Path, *, count: int = 10) -> tuple[Path, dict[str, str]]:
    """Write the page.

    Args:
        bench: makes the clips, unless it has them already.
        out: folder that receives d1-table4.html.
        count: clips of each application (the paper: 10).

    Returns:
        The page, and why methods are missing from it, by "application, method".

    Raises:
        DittoError: no application has two methods, or the page cannot be written.
    """
    count, missing, trials = min(count, bench.targets.real().count), {}, []
    for application, (task, variants) in APPLICATIONS.items():
        clips: dict[str, Tensor] = {}
        for variant in variants:
            try:
                clips[variant.name] = bench.clips(task, variant, count)["audio"]
            except DittoError as error:
                missing[f"{application}, {variant.name}"] = str(error)
        if len(clips) > 1:
            rate = bench.models.model.spec.sample_rate
            trials += [
                Trial(application, i, {name: _url(audio[i], rate) for name, audio in clips.items()})
                for i in range(count)
            ]
    if not trials:
        raise DittoError("there is nothing to compare: every application needs two methods or more")
    make_folder(out)
    with atomic_file(page := out / f"{NAME}.html", force=True) as temporary:
        temporary.write_text(rendered(trials), encoding="utf-8")
    return page, missing


def rendered(trials: Sequence[Trial]) -> str:
    """Return the page of some trials."""
    data = [{"application": t.application, "clip": t.clip, "sounds": t.sounds} for t in trials]
    # Within a script element only "</" could end it.
    told = json.dumps(data).replace("</", "<\\/")
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        trials=told, columns=",".join(COLUMNS), title=html.escape("Ditto: a listening test")
    )


def _url(kept: Tensor, rate: int) -> str:
    """Return a sound as a data URL (FLAC, lossless), at one loudness for all methods."""
    samples = sound(kept).numpy()
    loudness = float(np.sqrt(np.mean(np.square(samples))))
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        np.clip(samples * _gain(loudness, samples), -1, 1),
        rate,
        format="FLAC",
        subtype="PCM_16",
    )
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _gain(loudness: float, samples: np.ndarray, target_db: float = -23.0) -> float:
    """Return the gain to one RMS level, as far as full scale allows: louder is rated better."""
    peak = float(np.abs(samples).max(initial=1e-9))
    return min(10 ** (target_db / 20) / max(loudness, 1e-6), 0.99 / peak)


def read_ratings(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the ratings of some CSV files that the page saved.

    Raises:
        DataError: a file is none of these, or a rating is not from 0 to 100.
    """
    ratings = []
    for file in files:
        try:
            lines = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
            found = [
                {**line, "clip": int(line["clip"]), "rating": float(line["rating"])}
                for line in lines
            ]
            if not found or set(found[0]) != set(COLUMNS):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            raise DataError(
                f"{printable(file)} holds no ratings: give what the listening test's page saved"
            ) from None
        if not all(math.isfinite(line["rating"]) and 0 <= line["rating"] <= 100 for line in found):
            raise DataError(f"{printable(file)} has ratings beyond 0 to 100")
        # Two people may have one name, and so may their files, in two folders.
        ratings += [{**line, "listener": f"{file.resolve()}: {line['listener']}"} for line in found]
    return ratings


def analysed(ratings: Sequence[dict[str, Any]], *, command: str) -> Report:
    """Return how often DITTO was rated higher, ties as half, and by how much."""
    rows, claims = [], []
    for application, (_, variants) in APPLICATIONS.items():
        for other in variants[1:]:
            differences = _differences(ratings, application, other.name)
            found, claim = _comparison(application, other.name, differences)
            rows += found
            claims += claim
    return Report(
        name=NAME,
        command=command,
        model={"name": "as on the page", "sha256": ""},
        embedding="none",
        count=len({(line["application"], line["clip"]) for line in ratings}),
        seed=0,
        seconds=0.0,
        settings={"listeners": len({line["listener"] for line in ratings})},
        rows=tuple(rows),
        claims=tuple(claims),
    )


def _differences(ratings: Sequence[dict[str, Any]], application: str, other: str) -> list[float]:
    """Return DITTO's rating less the other's, for every listener and clip that rated both."""
    by_trial: dict[tuple[str, int], dict[str, float]] = {}
    for line in ratings:
        if line["application"] == application:
            trial = by_trial.setdefault((line["listener"], line["clip"]), {})
            trial[line["method"]] = line["rating"]
    both = [trial for trial in by_trial.values() if {DITTO.name, other} <= set(trial)]
    return [trial[DITTO.name] - trial[other] for trial in both]


def _comparison(
    application: str, other: str, differences: list[float]
) -> tuple[list[Row], list[Claim]]:
    name, key = f"{application}, DITTO against {other}", f"{application} {other}"
    published = {c: paper("d1_table4_listening", key, c) for c in ("wins %", "difference")}
    wins, difference = published.values()
    if not differences:
        missing = "no ratings"
        return [
            Row(name, "wins", "%", paper=wins, error=missing),
            Row(name, "difference", "", paper=difference, error=missing),
        ], []
    won = mean_interval([50 * (1 + np.sign(value)) for value in differences])
    by = mean_interval(differences)
    rows = [Row.of(name, "wins", "%", won, wins), Row.of(name, "difference", "", by, difference)]
    if wins is None or wins < EQUAL:
        return rows, []
    words = f"{name}: DITTO is rated higher (the paper: in {wins:g} % of trials)"
    return rows, [Claim(words, *by, count=len(differences), border=0.0)]
