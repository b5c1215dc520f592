"""Targets by seed: curves, tags, tunes, and real clips in halves without a common piece."""

import sys

import numpy as np
import pytest
import soundfile
from benchmarks.targets import (
    BEATS,
    HIGHEST_DB,
    HIGHEST_PITCH,
    LOWEST_DB,
    LOWEST_PITCH,
    Targets,
    beginnings,
    random_curve,
    random_tags,
    random_tune,
    real_clips,
)

from ditto.controls.notes import parse_notes
from ditto.errors import ControlError, DataError

CHEVY_CHASE = "D5:.5 C5 B4:.5 A4 D4:.5 F#4 G4:.5 A4 B4:.5 C5 D5:.5"
"""Of the ABC text ``d|c2B A2D|F2G A2 B|c2d`` in G major, where a 1 is an eighth."""


def test_curves_are_many_in_range_and_fit_the_clip(model):
    seconds = model.spec.clip_seconds
    curves = [random_curve(np.random.default_rng(i), seconds) for i in range(300)]
    assert len({c.points for c in curves}) == 300
    assert {len(c.points) for c in curves if not c.relative} == {2, 3, 4, 5}
    levels = np.array([level for c in curves for _, level in c.points])
    assert levels.min() >= LOWEST_DB
    assert levels.max() <= HIGHEST_DB
    assert levels.min() < -38
    assert levels.max() > -16
    assert all(c.last <= seconds for c in curves)


def test_tags_are_never_null_and_cover_the_vocabulary(model):
    drawn = [random_tags(np.random.default_rng(i), model.vocabulary) for i in range(300)]
    indices = np.array([model.vocabulary.encode(tags).tolist() for tags in drawn])
    assert indices[:, :3].min(axis=0).tolist() == [1, 1, 1]
    assert indices[:, :3].max(axis=0).tolist() == [n - 1 for n in model.vocabulary.sizes]
    assert not indices[:, 4].any()


def test_tunes_are_many_long_enough_and_in_range():
    assert len(beginnings()) > 100
    assert len({tune.name for tune in beginnings()}) > 80
    for i in range(200):
        tune = random_tune(np.random.default_rng(i), 60 + i)
        pitches = [note.pitch for note in tune.notes]
        assert min(pitches) >= LOWEST_PITCH
        assert max(pitches) <= HIGHEST_PITCH
        assert tune.notes[0].onset == 0
        assert tune.notes[-1].onset < BEATS * 60 / (60 + i)


def test_the_first_one_is_the_books():
    written = parse_notes(CHEVY_CHASE, 60.0).notes
    found = next(tune for tune in beginnings() if "Chevy Chase 1" in tune.name).notes
    assert [(n.onset, n.duration, n.pitch) for n in found[: len(written)]] == [
        (n.onset, n.duration, n.pitch) for n in written
    ]


def test_a_tune_is_the_seeds_and_of_the_tempo():
    slow, fast = (random_tune(np.random.default_rng(5), bpm) for bpm in (60.0, 120.0))
    assert slow == random_tune(np.random.default_rng(5), 60.0)
    assert [n.pitch for n in slow.notes] == [n.pitch for n in fast.notes]
    assert [n.onset for n in slow.notes] == pytest.approx([2 * n.onset for n in fast.notes])


def test_without_music21_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(ControlError, match="pip install"):
        beginnings.__wrapped__()


def test_a_target_is_the_seeds(model, data):
    first, second = Targets(model, data, seed=0), Targets(model, data, seed=1)
    for name in ("intensity", "structure", "loudness"):
        assert first.control(1, name).to_dict() == second.control(0, name).to_dict()
    assert first.loudness(1)[1] == second.loudness(0)[1]
    assert len({len(set(dict(first.curve(i).points).values())) for i in range(30)} & {1}) == 0


def pieces_of(clips, root, spec):
    """Which piece and slot each clip is cut from, found by searching the files."""
    files = sorted((root / "audio").glob("*.flac"))
    whole = [soundfile.read(file, dtype="float32")[0] for file in files]
    size = spec.samples(spec.clip_frames)
    cuts = {
        w[k * size : (k + 1) * size].tobytes(): (i, k)
        for i, w in enumerate(whole)
        for k in range(2)
    }
    return [cuts[np.ascontiguousarray(clip).tobytes()] for clip in clips.audio.numpy()]


def test_halves_share_no_piece_and_no_clip_comes_twice(model, data):
    clips = real_clips(data, model.spec, model.vocabulary, 100, seed=0)
    found = pieces_of(clips, data, model.spec)
    assert clips.count == 6
    assert len(set(found)) == 12
    assert {i for i, _ in found[:6]}.isdisjoint({i for i, _ in found[6:]})
    assert clips.reference.equal(clips.audio[6:])
    tags = [model.vocabulary.decode(row.tolist()) for row in clips.tags]
    assert [t.genre for t in tags] == [("jazz", "rock")[i % 2] for i, _ in found]


def test_every_piece_gives_a_clip_before_any_gives_two(model, data):
    clips = real_clips(data, model.spec, model.vocabulary, 3, seed=1)
    assert len({i for i, _ in pieces_of(clips, data, model.spec)}) == 6
    more = real_clips(data, model.spec, model.vocabulary, 5, seed=1)
    assert more.audio[:3].equal(clips.audio[:3])


def test_too_few_pieces_are_refused(model, data, tmp_path):
    for name in ("dataset.json", "labels.jsonl"):
        (tmp_path / name).write_text((data / name).read_text().split("\n")[0] + "\n")
    with pytest.raises(DataError, match="two halves"):
        real_clips(tmp_path, model.spec, model.vocabulary, 4, seed=0)
