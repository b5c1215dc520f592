"""Real clips in halves without a common piece; generated ones with a seed and tags an item."""

import numpy as np
import pytest
import soundfile
import torch
from benchmarks.clips import drawn_tags, generated, generated_by_student, real_clips, weights_digest

from ditto.errors import DataError
from ditto.request import Request, run


def pieces_of(clips, root, spec):
    """Which piece each clip is cut from, found by searching the files."""
    whole = [
        soundfile.read(file, dtype="float32")[0] for file in sorted((root / "audio").glob("*.flac"))
    ]
    size = spec.samples(spec.clip_frames)
    cuts = {
        w[k * size : (k + 1) * size].tobytes(): (i, k)
        for i, w in enumerate(whole)
        for k in range(2)
    }
    return [cuts[np.ascontiguousarray(clip).tobytes()] for clip in clips.audio.numpy()]


def test_halves_share_no_piece_and_no_clip_comes_twice(model, data):
    clips = real_clips(data, model.spec, model.vocabulary, 6, seed=0)
    found = pieces_of(clips, data, model.spec)
    assert clips.count == 6
    assert len(set(found)) == 12
    assert {i for i, _ in found[:6]}.isdisjoint({i for i, _ in found[6:]})
    tags = [model.vocabulary.decode(row.tolist()) for row in clips.tags]
    assert [t.genre for t in tags] == [("jazz", "rock")[i % 2] for i, _ in found]


def test_every_piece_gives_a_clip_before_any_gives_two(model, data):
    clips = real_clips(data, model.spec, model.vocabulary, 3, seed=1)
    assert len({i for i, _ in pieces_of(clips, data, model.spec)}) == 6


def test_asks_for_no_more_than_there_is_and_depends_on_the_seed(model, data):
    many = real_clips(data, model.spec, model.vocabulary, 100, seed=0)
    assert many.count == 6
    other = real_clips(data, model.spec, model.vocabulary, 100, seed=1)
    assert many.digest != other.digest
    assert many.digest == real_clips(data, model.spec, model.vocabulary, 100, seed=0).digest


def test_too_few_pieces_are_refused(model, data, tmp_path):
    for name in ("dataset.json", "labels.jsonl"):
        (tmp_path / name).write_text((data / name).read_text().split("\n")[0] + "\n")
    with pytest.raises(DataError, match="two halves"):
        real_clips(tmp_path, model.spec, model.vocabulary, 4, seed=0)


def test_tags_are_drawn_as_whole_rows(model, data):
    tags = real_clips(data, model.spec, model.vocabulary, 6, seed=0).tags
    drawn = drawn_tags(tags, 50, seed=0)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in tags.tolist()}
    assert drawn.equal(drawn_tags(tags, 50, seed=0))


def test_an_item_does_not_depend_on_its_batch(model):
    tags = torch.tensor([[1, 1, 5], [2, 3, 9], [1, 2, 1]])
    whole = generated(model, tags, 10, steps=2)
    alone = generated(model, tags[2:], 12, steps=2)
    torch.testing.assert_close(whole.x_0[2:], alone.x_0, atol=1e-5, rtol=1e-4)
    assert whole.audio.shape == (3, model.spec.samples(96))
    assert whole.audio.abs().max() <= 1


def test_the_guidance_matters(model):
    tags = torch.tensor([[1, 1, 5]])
    plain, strong = (generated(model, tags, 0, steps=2, guidance=w).x_0 for w in (1.0, 4.0))
    assert not torch.allclose(plain, strong)


def test_weights_digest_follows_the_weights(model):
    before = weights_digest(model)
    with torch.no_grad():
        model.network.head.bias[0] += 1
    after = weights_digest(model)
    with torch.no_grad():
        model.network.head.bias[0] -= 1
    assert before != after


def test_a_students_clip_is_what_a_request_without_control_makes(fast):
    tags = torch.tensor([[1, 1, 5, 0, 0], [2, 3, 9, 0, 0]])
    found = generated_by_student(fast, tags, 10, steps=3)
    words = fast.vocabulary.decode(tags[1].tolist())
    request = Request(tags=words, seed=11, method="ditto2", decode_steps=3)
    torch.testing.assert_close(found.x_0[1:], run(request, fast).x_0, rtol=1e-4, atol=1e-4)
