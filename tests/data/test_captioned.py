"""Clips with captions: against CLAP's own extractor, pure functions of the step, resumable
caches."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapFeatureExtractor

from ditto.data.captioned import CaptionedClips, clap_cache
from ditto.data.dataset import read_labels
from ditto.errors import DataError
from ditto.models.clap_frontend import ClapFrontEnd

SETTINGS = {
    "sampling_rate": 22_050,
    "fft_window_size": 1024,
    "hop_length": 518,
    "frequency_max": 10_000,
    "max_length_s": 6,
    "truncation": "rand_trunc",
}
FRONT_END = ClapFrontEnd.of(SETTINGS)


@pytest.fixture(scope="module")
def clips(composed: Path) -> CaptionedClips:
    return CaptionedClips(composed, FRONT_END, seconds=5.944, seed=3)


def test_the_cache_is_what_the_extractor_makes_of_each_file(composed: Path) -> None:
    path, label = clap_cache(composed, FRONT_END)[0], read_labels(composed)[0]
    audio, _ = soundfile.read(composed / label["file"], dtype="float32")
    extractor = ClapFeatureExtractor(**{**SETTINGS, "max_length_s": 40, "padding": "pad"})
    expected = extractor(audio, sampling_rate=22_050)["input_features"][0][0]
    found = np.load(path, allow_pickle=False)
    inside = len(found) - 2  # the last frames see the end, which is reflected here and silent there
    assert found.dtype == np.float16
    assert (
        np.abs(found[:inside] - expected[:inside]).max() < 0.05
    )  # float16's step at 64 to 128 dB, with room


def test_a_batch_is_a_function_of_seed_and_step(composed: Path, clips: CaptionedClips) -> None:
    levels, captions = clips.batch(7, 3)
    assert (levels.shape, levels.dtype) == ((3, 1, 256, 64), torch.float32)
    fresh = CaptionedClips(composed, FRONT_END, seconds=5.944, seed=3)
    fresh.batch(1, 2)
    again, same = fresh.batch(7, 3)
    assert torch.equal(levels, again)
    assert captions == same
    assert captions != clips.batch(8, 3)[1]
    assert captions != CaptionedClips(composed, FRONT_END, seconds=5.944, seed=4).batch(7, 3)[1]


def test_no_piece_is_twice_in_a_batch_while_there_are_enough(clips: CaptionedClips) -> None:
    for step in range(5):
        levels, _ = clips.batch(step, 3)
        means = levels.mean(dim=(1, 2, 3))
        assert len(set(means.tolist())) == 3
    assert clips.batch(0, 8)[0].shape[0] == 8


def test_half_of_the_clips_end_in_silence_as_short_ones_do(clips: CaptionedClips) -> None:
    levels = torch.cat([clips.batch(step, 3)[0] for step in range(20)])
    silent = (levels[:, 0, 254:] == -100).all(dim=(1, 2))
    assert 15 < silent.sum() < 45
    assert not (levels[:, 0, 253] == -100).all(dim=1).any()


def test_a_cache_is_kept_and_completed(composed: Path) -> None:
    paths = clap_cache(composed, FRONT_END)
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    calls: list[tuple[int, int]] = []
    assert clap_cache(composed, FRONT_END, lambda *a: calls.append(a)) == paths
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [path.stat().st_mtime_ns for path in (paths[0], paths[2])] == [before[0], before[2]]
    assert paths[1].exists()


def test_pieces_shorter_than_the_window_are_refused(composed: Path) -> None:
    with pytest.raises(DataError, match="shorter than CLAP's window of 40 s"):
        CaptionedClips(composed, ClapFrontEnd.of({**SETTINGS, "max_length_s": 40}), seconds=6)
