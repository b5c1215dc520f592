"""The listening test: what the page holds, and what its CSV files come to."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from benchmarks.listening import COLUMNS, Trial, _url, analysed, export, read_ratings, rendered
from benchmarks.report import verdicts
from benchmarks.tasks import Bench, pcm
from benchmarks.variants import Models

from ditto.errors import DataError
from ditto.models.model import MusicModel

QUICK = {"steps": 2, "iterations": 1, "guidance": 1.0}


def write(path: Path, lines: Iterable[Iterable[Any]], head: Iterable[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return path


def told(page: str) -> Any:
    found = re.search(
        r'<script id="trials" type="application/json">(.*?)</script>', page, re.DOTALL
    )
    assert found
    return json.loads(found[1])


def test_the_page_holds_every_sound_and_needs_no_network(
    bench: Bench, model: MusicModel, tmp_path: Path
) -> None:
    bench = replace(bench, models=Models(model), overrides=QUICK)
    page, missing = export(bench, tmp_path, count=2)
    text = page.read_text()
    assert page.name == "d1-table4.html"
    assert "src=" not in text.replace("audio.src =", "")
    assert "http" not in text
    trials = told(text)
    # Without a ControlNet the others are still compared.
    assert set(missing) == {"intensity, ControlNet", "melody, ControlNet"}
    assert all("no weights" in reason for reason in missing.values())
    assert [(t["application"], t["clip"]) for t in trials] == [
        (name, i) for name in ("intensity", "outpainting", "melody") for i in (0, 1)
    ]
    assert [set(t["sounds"]) for t in trials[1:3]] == [
        {"DITTO", "FreeDoM"},
        {"DITTO", "MD-50", "FreeDoM"},
    ]
    samples, rate = soundfile.read(
        io.BytesIO(base64.b64decode(trials[0]["sounds"]["DITTO"].partition(",")[2]))
    )
    assert rate == model.spec.sample_rate
    assert len(samples) == model.spec.samples(96)
    assert ",".join(COLUMNS) in text


def test_sounds_have_one_loudness_and_never_clip() -> None:
    tone = torch.sin(torch.arange(8000) * 0.3)
    peaked = torch.zeros(8000)
    peaked[::1000] = 0.5
    for sound, level in ((tone * 0.001, -23), (tone * 0.9, -23), (peaked, None)):
        samples, _ = soundfile.read(
            io.BytesIO(base64.b64decode(_url(pcm(sound), 8000).partition(",")[2]))
        )
        assert np.abs(samples).max() < 1
        if level is not None:
            assert 10 * np.log10(np.mean(samples**2)) == pytest.approx(level, abs=0.5)


def test_a_name_cannot_end_the_script() -> None:
    page = rendered([Trial("</script><b>", 0, {"a": "data:,", "b": "data:,"})])
    assert told(page)[0]["application"] == "</script><b>"


def test_ratings_are_counted_by_hand(tmp_path: Path) -> None:
    """Three listeners: DITTO over FreeDoM by 20, 10 and 0 on melody; the last rated nothing
    else."""
    files = [
        write(
            tmp_path / "a.csv",
            [("Ann", "melody", 0, "DITTO", 70), ("Ann", "melody", 0, "FreeDoM", 50)],
        ),
        write(
            tmp_path / "b.csv",
            [("Ann", "melody", 0, "FreeDoM", 30), ("Ann", "melody", 0, "DITTO", 40)],
        ),
        write(
            tmp_path / "c.csv", [("Bo", "melody", 1, "DITTO", 5), ("Bo", "melody", 1, "FreeDoM", 5)]
        ),
    ]
    report = analysed(read_ratings(files), command="a command")
    row = "melody, DITTO against FreeDoM"
    assert report.value(row, "wins") == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert report.value(row, "difference") == pytest.approx(10.0)
    assert report.settings["listeners"] == 3
    assert {r.error for r in report.rows if r.row != row} == {"no ratings"}
    assert {r.paper for r in report.rows if r.row == row} == {61, 9.55}
    assert len(report.claims) == 1


def test_listeners_without_a_name_are_as_many_as_their_files(tmp_path: Path) -> None:
    """The page calls both files alike: the second's ratings took the place of the first's."""
    files = []
    for folder, rating in (("one", 90), ("two", 20)):
        (tmp_path / folder).mkdir()
        lines = [
            ("anonymous", "melody", 1, "DITTO", rating),
            ("anonymous", "melody", 1, "FreeDoM", 50),
        ]
        files.append(write(tmp_path / folder / "ratings-anonymous.csv", lines))
    files[1].write_bytes(b"\xef\xbb\xbf" + files[1].read_bytes())  # as a spreadsheet saves it
    report = analysed(read_ratings(files), command="")
    assert report.settings["listeners"] == 2
    assert report.value("melody, DITTO against FreeDoM", "wins") == pytest.approx(50)


def test_a_clear_preference_is_reproduced_and_its_opposite_is_not(tmp_path: Path) -> None:
    for better, worse, verdict in (
        ("DITTO", "MD-50", "reproduced"),
        ("MD-50", "DITTO", "not reproduced"),
    ):
        lines = [
            line
            for i in range(20)
            for line in (
                ("Cy", "outpainting", i, better, 60 + i),
                ("Cy", "outpainting", i, worse, 30),
            )
        ]
        found = analysed(read_ratings([write(tmp_path / "d.csv", lines)]), command="")
        assert verdicts(found.claims) == [verdict]


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        ([("Ann", "melody", 0, "DITTO", 101)], COLUMNS, "beyond 0 to 100"),
        ([("Ann", "melody", 0, "DITTO", "nan")], COLUMNS, "beyond 0 to 100"),
        ([("Ann", "melody", 0, "DITTO", "good")], COLUMNS, "holds no ratings"),
        ([("Ann", 3)], ("who", "what"), "holds no ratings"),
        ([], COLUMNS, "holds no ratings"),
        ([("A" * 200_000, "melody", 0, "DITTO", 5)], COLUMNS, "holds no ratings"),
    ],
)
def test_what_is_no_rating_is_refused(tmp_path: Path, lines: Any, head: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_ratings([write(tmp_path / "e.csv", lines, head)])
    with pytest.raises(DataError, match="holds no ratings"):
        read_ratings([tmp_path / "missing.csv"])
