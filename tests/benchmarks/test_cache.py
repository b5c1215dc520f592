"""Finished clips: kept whole, by everything that determines them."""

import pytest
import torch
from benchmarks.cache import ResultCache, git_commit, machine

from ditto.errors import DataError, OutputError

CLIP = {"x": torch.arange(3)}


def test_a_clip_is_read_again_under_the_same_identity_alone(tmp_path):
    cache = ResultCache(tmp_path)
    path = cache.path("Intensity, DITTO 0000", {"seed": 0, "model": "a"})
    assert path.name.startswith("intensity-ditto-0000-")
    assert cache.read(path) is None
    cache.write(path, CLIP)
    again = ResultCache(tmp_path)
    found = again.read(again.path("Intensity, DITTO 0000", {"model": "a", "seed": 0}))
    assert found is not None
    assert found["x"].tolist() == [0, 1, 2]
    assert again.path("Intensity, DITTO 0000", {"seed": 1, "model": "a"}) != path


def test_a_run_afresh_reads_its_own_clips_only(tmp_path):
    old, new = ResultCache(tmp_path), ResultCache(tmp_path, resume=False)
    path = old.path("a", {})
    old.write(path, CLIP)
    assert new.read(path) is None
    new.write(path, CLIP)
    assert new.read(path) is not None


def test_a_damaged_clip_is_named(tmp_path):
    cache = ResultCache(tmp_path)
    path = cache.path("a", {})
    cache.write(path, CLIP)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"is damaged .*delete it, or give --no-resume"):
        cache.read(path)


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ResultCache(tmp_path / "file" / "cache")
    with pytest.raises(OutputError, match="cannot make the folder"):
        cache.write(cache.path("a", {}), CLIP)


def test_where_a_result_came_from():
    assert set(machine()) == {"cpu", "cores", "threads", "gpu", "torch"}
    commit = git_commit()
    assert commit is None or len(commit.rstrip("+")) == 40
