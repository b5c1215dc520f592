"""Measures and judges: embeddings that have names, distances, scores, seams."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.measures import CLAP_SCORE, FAD, MSE, RECOGNISED, WITHIN, Judge, RowResult
from benchmarks.tasks import CONTROLS, pcm
from tests.models.tiny_clap import make_clap

from ditto.errors import DittoError
from ditto.eval.frechet import frechet_distance


def row(judge, **columns):
    tensors = {name: torch.as_tensor(values) for name, values in columns.items()}
    count = len(next(iter(tensors.values())))
    return RowResult({**tensors, "seconds": torch.ones(count)}, judge)


def test_distances_are_in_the_named_embedding(bench, judge, classifier):
    assert judge.name == f"classifier {classifier.sha256()[:12]}"
    real = bench.targets.real()
    reference = judge.embed(real.reference).double().numpy()
    clips = judge.embed(real.audio[:5]).double().numpy()
    expected = frechet_distance(clips, reference)
    assert judge.reference.distance(clips) == pytest.approx(expected, rel=1e-6)
    assert Judge(judge.model, judge.targets).name == "none"
    with pytest.raises(DittoError, match="--clap or --classifier"):
        Judge(judge.model, judge.targets).embed(real.audio)


def test_a_distance_has_an_interval_where_there_are_enough_clips(bench, judge):
    few = row(judge, audio=pcm(bench.targets.real().audio[:5]))
    with pytest.raises(DittoError, match="needs 32 clips or more"):
        FAD.interval(few)
    few = row(replace(judge, fewest=3), audio=pcm(bench.targets.real().audio[:5]))
    value, low, high = FAD.interval(few)
    assert 0 < low <= value <= high
    noise = row(few.judge, audio=pcm(torch.randn(5, few.audio.shape[1]) * 0.3))
    assert FAD.ratio(noise, few).value == pytest.approx(FAD.interval(noise).value / value)
    assert FAD.ratio(few, few) == (1.0, 1.0, 1.0)
    assert FAD.ratio(few, few, paired=False).high > 1


def test_clap_scores_are_by_the_judge(bench, judge):
    audio = pcm(bench.targets.real().audio[:2])
    with pytest.raises(DittoError, match="a CLAP score needs a CLAP"):
        CLAP_SCORE.values(row(judge, audio=audio))
    heard = row(replace(judge, clap=make_clap()), audio=audio)
    scores = CLAP_SCORE.values(heard)
    assert scores.shape == (2,)
    assert (np.abs(scores) <= 1).all()
    # The captions are of the tags that the task asked for.
    tags = [CONTROLS["loudness"].tags(bench.targets, i) for i in range(2)]
    assert tags == [bench.targets.loudness(i)[1] for i in range(2)]
    other = CLAP_SCORE.values(replace(heard, tags=tags.__getitem__))
    assert other.tolist() != scores.tolist()


def test_tags_are_recognised_in_sound_and_in_log_mels(bench, judge):
    real = bench.targets.real()
    x_0 = bench.models.model.encode(real.audio[:4])
    by_sound, by_mel = row(judge, audio=pcm(real.audio[:4])), row(judge, x_0=x_0)
    for measure in RECOGNISED:
        values = measure.values(by_mel)
        assert set(values) <= {0.0, 1.0}
        assert measure.values(by_sound).tolist() == values.tolist()


def test_seams_are_held_against_real_music_of_the_genre(judge):
    limit = judge.seam_limit(0)
    jumps = [[limit - 0.1, limit + 0.1]]
    assert WITHIN.values(row(judge, seam_jumps=jumps)).tolist() == [0.5]


def test_ratios_are_of_distances_from_the_ideal(judge):
    near, far = row(judge, intensity_mse_db2=[1.0, 3.0]), row(judge, intensity_mse_db2=[4.0, 8.0])
    assert MSE.ratio(far, near).value == pytest.approx(3)
    accuracy = replace(MSE, ideal=100.0)
    assert accuracy.ratio(near, far).value == pytest.approx(98 / 94)
