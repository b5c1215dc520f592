"""The music table by stand-ins for the ears: roles that share no piece, equal counts, claims."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.cache import ResultCache
from benchmarks.hearing import FLOOR, PROBE, REFERENCE, ROLES, Heard, Hearing, joined
from benchmarks.measures import Judge, Measure, RowResult
from benchmarks.report import verdicts
from benchmarks.runner import run_table
from benchmarks.targets import Targets
from benchmarks.tasks import Bench
from benchmarks.variants import Models
from tests.benchmarks.conftest import QUICK, write_pieces
from torch import Tensor

from benchmarks import music
from ditto.audio.io import read_mono
from ditto.errors import DataError, ModelError
from ditto.eval.classifier import ClipClassifier
from ditto.models.model import MusicModel

COUNT = 4


def ears(audio: Tensor, sample_rate: int) -> Heard:
    """Hear levels and zero crossings of three patches a clip."""
    patches = audio[:, : audio.shape[1] // 3 * 3].reshape(len(audio), 3, -1)
    crossings = (patches[..., 1:].sign() != patches[..., :-1].sign()).float().mean(dim=2)
    level, peak = patches.square().mean(dim=2).sqrt(), patches.abs().amax(dim=2)
    embedding = torch.stack([level, peak, crossings], dim=2).numpy()
    clip = level.mean(dim=1).numpy().astype(np.float64)
    heard = {"msd": embedding, "mtt": embedding[..., ::-1].copy(), "tempo": 100 + 100 * clip}
    figures = ("notes_per_second", "onset_peak", "contrast_db", "peaks_db")
    return heard | {name: (1 + place) * clip for place, name in enumerate(figures)}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pieces(tmp_path_factory.mktemp("pieces"), 24)


@pytest.fixture(scope="module")
def bench(whole: MusicModel, pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    cache = ResultCache(tmp_path_factory.mktemp("clips"))
    return Bench(Models(whole), Targets(whole, pieces), cache, overrides=QUICK, show=False)


def hearing(bench: Bench, hear: Callable[[Tensor, int], Heard] = ears) -> Hearing:
    rate = bench.models.model.spec.sample_rate
    return Hearing(bench.targets, rate, bench.cache, hear, directions=2)


@pytest.fixture(scope="module")
def judge(bench: Bench, classifier: ClipClassifier) -> Judge:
    model = bench.models.model
    heard = hearing(bench)
    return Judge(model, bench.targets, classifier=classifier, fewest=3, hearing=heard)


def test_every_row_has_every_column_with_its_count(bench: Bench, judge: Judge) -> None:
    report = run_table(music.TABLE, bench, judge, count=COUNT, command="a command")
    names = [entry.name for entry in music.TABLE.entries]
    assert names == [
        *("real", "real, through the vocoder", "teacher, T=20"),
        *("teacher, DDIM in 20, even steps", "teacher, DDIM in 20"),
        *("teacher, DDIM in 50, even steps", "teacher, DPM-Solver++ in 20, even steps"),
        "teacher, DDPM in 100, even steps",
        *("student, 1 step", "student, 2 steps", "student, 3 steps"),
        *("student, 4 steps", "student, 8 steps"),
        *("DITTO-2, loudness", "DITTO-2, melody", "DITTO-2, form"),
    ]
    for row in report.rows:
        if row.column == "clap_score":
            assert "--clap" in (row.error or "")
        elif row.column == "clips":
            assert row.value
        else:
            assert (row.count, row.error) == (8 if row.row == music.FLOOR_ROW else COUNT, None)
            assert row.low is not None
            assert row.value is not None
            assert row.high is not None
            assert row.low <= row.value <= row.high
    for column, value in (("notes_over_real", 1), ("contrast_off_by", 0), ("peaks_off_by", 0)):
        assert report.value("real", column) == value
    assert judge.hearing is not None
    noisy = judge.hearing.heard(bench.clips(music.PLAIN, music.TTM, COUNT)["audio"] / 32767)
    for ear in ("msd", "mtt"):
        floor = report.value(music.FLOOR_ROW, f"frechet_{ear}")
        distance = judge.hearing.references[ear].distance(noisy[ear])
        over = report.value(music.TEACHER, f"frechet_over_floor_{ear}")
        assert over == pytest.approx(distance / (floor or 0.0), rel=1e-4)
    assert len(report.claims) == len(music.TABLE.claims) - 1  # there is no CLAP
    assert {claim.count for claim in report.claims} == {COUNT}


def test_all_rows_have_the_tags_of_the_real_clips(bench: Bench) -> None:
    for entry in music.TABLE.entries:
        for i in range(COUNT):
            assert entry.task.tags(bench.targets, i) == bench.targets.tags(i)


def test_no_piece_has_two_roles(bench: Bench, pieces: Path) -> None:
    size = bench.targets.real().audio.shape[1]
    roles = {role: bench.targets.role(ROLES, role).audio for role in (PROBE, FLOOR, REFERENCE)}
    roles["rows"] = bench.targets.real().audio[: bench.targets.real().count]
    owners = piece_of(pieces, size, bench)
    found = {
        role: {owners[clip.numpy().tobytes()] for clip in audio} for role, audio in roles.items()
    }
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 24


def piece_of(pieces: Path, size: int, bench: Bench) -> dict[bytes, str]:
    """Map every clip's samples to its piece."""
    owners = {}
    for file in sorted((pieces / "audio").iterdir()):
        samples = read_mono(file, bench.models.model.spec, require_sound=False)
        owners |= {samples[k * size : (k + 1) * size].tobytes(): file.name for k in (0, 1)}
    return owners


def test_floors_are_of_several_sets_of_equal_count(judge: Judge) -> None:
    assert judge.hearing is not None
    clips = judge.hearing.role(FLOOR)[0]["msd"]
    distance = judge.hearing.references["msd"].distance
    expected = np.mean([distance(clips[:4]), distance(clips[4:8])])  # four sets of 8 clips: twice
    assert judge.hearing.floor("msd", 4).value == pytest.approx(expected)
    with pytest.raises(DataError, match="the floor for 9 clips a row needs as many others, not 8"):
        judge.hearing.floor("msd", 9)


def test_the_probe_is_trained_on_its_own_clips(judge: Judge) -> None:
    assert judge.hearing is not None
    heard, genres = judge.hearing.role(PROBE)
    assert set(genres) == {"jazz", "rock"}
    assert judge.hearing.probe.mean == pytest.approx(joined(heard).mean(axis=0))


def test_a_sound_is_heard_once(bench: Bench, judge: Judge) -> None:
    clips, calls = torch.rand(3, 3000) - 0.5, []

    def counted(audio: Tensor, sample_rate: int) -> Heard:
        calls.append(len(audio))
        return ears(audio, sample_rate)

    first = hearing(bench, counted).heard(clips)
    again = hearing(bench, counted).heard(clips.flip(0))
    assert calls == [1, 1, 1]
    for name, value in first.items():
        assert np.array_equal(value, again[name][::-1])


def test_what_is_missing_is_one_line(bench: Bench, judge: Judge, data: Path, tmp_path) -> None:
    def deaf(audio: Tensor, sample_rate: int) -> Heard:
        raise ModelError("this ear needs musicnn, which is not installed")

    apart = replace(bench, cache=ResultCache(tmp_path))
    without = replace(judge, hearing=hearing(apart, deaf))
    with pytest.raises(ModelError, match="needs musicnn"):
        run_table(music.TABLE, apart, without, count=2, command="")
    few = replace(bench, targets=Targets(bench.models.model, data))
    with pytest.raises(DataError, match="too few held-out clips"):
        run_table(music.TABLE, few, replace(judge, hearing=hearing(few)), count=6, command="")
    none = replace(bench, targets=Targets(bench.models.model, tmp_path / "none"))
    with pytest.raises(DataError):
        run_table(music.TABLE, none, replace(judge, hearing=hearing(none)), count=2, command="")


@pytest.mark.parametrize(
    ("row", "teacher", "verdict"),
    [
        (0.1, None, "reproduced"),
        (-0.1, None, "reproduced"),
        (0.9, None, "not reproduced"),
        (-0.9, None, "not reproduced"),
        (0.3, None, "undecided"),
        (10.2, 10.0, "reproduced"),
        (6.0, 10.0, "not reproduced"),
        (14.0, 10.0, "not reproduced"),
    ],
)
def test_near_is_on_either_side(
    judge: Judge, row: float, teacher: float | None, verdict: str
) -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(20)
    values = {"row": row} | ({} if teacher is None else {"teacher": teacher})
    rows = {
        name: RowResult(
            {
                "off": torch.tensor(mean + noise * (1 if name == "row" else -1)),
                "seconds": torch.ones(20),
            },
            judge,
        )
        for name, mean in values.items()
    }
    most = 0.3 if teacher is None else 0.1
    near = music.Near("near", "row", Measure("off"), most, None if teacher is None else "teacher")
    (claim,) = near(rows)
    assert verdicts([claim]) == [verdict]
    assert claim.low <= claim.ratio <= claim.high
    assert (claim.border, claim.side) == (most, "below")
