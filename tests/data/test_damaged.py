"""Data folders of which a file is missing or damaged: one line that names it, no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ditto.audio.spec import AudioSpec
from ditto.data.captioned import CaptionedClips
from ditto.data.dataset import AudioCrops, ClipDataset, read_labels
from ditto.data.sharding import write_shards
from ditto.errors import DataError
from ditto.eval.clap_scores import held_out_pairs
from ditto.models.clap_frontend import ClapFrontEnd

SPEC = AudioSpec(clip_frames=64)


@pytest.fixture
def data(composed: Path, tmp_path: Path) -> Path:
    """A data folder of one's own, without a cache."""
    return shutil.copytree(composed, tmp_path / "data", ignore=lambda *_: ["cache"])


def refused(make: Callable[[], object], name: str) -> None:
    with pytest.raises(DataError, match=name) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_sound_that_is_gone_or_damaged_is_named(
    data: Path, tmp_path: Path, damaged: bool
) -> None:
    for sound in (data / "audio").iterdir():
        if damaged:
            sound.write_bytes(b"no sound")
        else:
            sound.unlink()
    for make in (
        lambda: ClipDataset(data, SPEC, frames=64),
        lambda: AudioCrops(data, SPEC, samples=4096).batch(0, 2),
        lambda: CaptionedClips(data, ClapFrontEnd(22_050, seconds=6), seconds=5.9),
        lambda: held_out_pairs(data, seconds=5.9),
        lambda: write_shards(data, tmp_path / "shards"),
    ):
        refused(make, r"\d\.flac is missing or damaged")


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_a_damaged_cache_is_named(data: Path, content: bytes) -> None:
    clips = ClipDataset(data, SPEC, frames=64)
    for array in (data / "cache").rglob("*.npy"):
        array.write_bytes(content)
    refused(lambda: clips.batch(0, 2), r"\.npy is missing or damaged")


@pytest.mark.parametrize("line", ['{"file": "audio/00', "[]", '{"file": "audio/000000.flac"}'])
def test_labels_that_are_cut_or_none_are_named(data: Path, line: str) -> None:
    first, *_ = (data / "labels.jsonl").read_text().splitlines()
    (data / "labels.jsonl").write_text(f"{first}\n{line}\n")
    refused(lambda: read_labels(data), r"labels\.jsonl is missing or damaged")


@pytest.mark.parametrize("facts", [[], {"count": None}, {"count": 0}])
def test_what_is_no_data_set_says_so(data: Path, facts: object) -> None:
    (data / "dataset.json").write_text(json.dumps(facts))
    refused(lambda: read_labels(data), "is not a finished data set")


def test_a_folder_of_two_lines_is_shown_on_one(tmp_path: Path) -> None:
    refused(lambda: read_labels(tmp_path / "a\nb"), r"a\\nb.*is missing")
