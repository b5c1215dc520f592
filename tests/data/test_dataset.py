import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ditto.audio.features import log_mel
from ditto.audio.spec import AudioSpec
from ditto.composer.corpus import compose_dataset
from ditto.composer.moods import MOOD_NAMES
from ditto.composer.styles import GENRES
from ditto.data.dataset import AudioCrops, ClipDataset, mel_cache, read_labels, vocabulary_of
from ditto.errors import DataError, TagError
from ditto.models.conditioning import Tags, TagVocabulary

SPEC = AudioSpec()


@pytest.fixture(scope="module")
def clips(composed: Path) -> ClipDataset:
    return ClipDataset(composed, SPEC, frames=256, seed=3)


def test_the_cache_is_the_log_mel_of_each_file(composed: Path) -> None:
    for path, label in zip(mel_cache(composed, SPEC), read_labels(composed), strict=True):
        mel = np.load(path, allow_pickle=False)
        audio, _ = soundfile.read(composed / label["file"], dtype="float32")
        expected = log_mel(torch.from_numpy(audio)[None], SPEC)[0].T.numpy()
        assert mel.dtype == np.float16
        assert mel.shape == expected.shape
        assert np.abs(mel - expected).max() < 5e-4  # half of float16's last place near 1


def test_a_batch_is_a_function_of_seed_and_step(composed: Path, clips: ClipDataset) -> None:
    x_0, tags = clips.batch(7, 5)
    assert (x_0.shape, x_0.dtype) == ((5, 1, SPEC.n_mels, 256), torch.float32)
    assert (tags.shape, tags.dtype) == ((5, 5), torch.int64)
    fresh = ClipDataset(composed, SPEC, frames=256, seed=3)
    fresh.batch(1, 2)
    again, same_tags = fresh.batch(7, 5)
    assert torch.equal(x_0, again)
    assert torch.equal(tags, same_tags)
    assert not torch.equal(x_0, clips.batch(8, 5)[0])
    assert not torch.equal(x_0, ClipDataset(composed, SPEC, frames=256, seed=4).batch(7, 5)[0])


def test_clips_are_stretches_of_their_pieces_with_their_tags(
    composed: Path, clips: ClipDataset
) -> None:
    mels = [
        torch.from_numpy(np.load(p, allow_pickle=False).T.astype(np.float32))
        for p in mel_cache(composed, SPEC)
    ]
    vocabulary = vocabulary_of(composed)
    for clip, tags in zip(*clips.batch(0, 6), strict=True):
        where = [
            (i, s)
            for i, mel in enumerate(mels)
            for s in (mel[:, : mel.shape[1] - 255] == clip[0, :, :1])
            .all(dim=0)
            .nonzero()
            .flatten()
            .tolist()
            if torch.equal(mel[:, s : s + 256], clip[0])
        ]
        assert len(where) == 1
        label = read_labels(composed)[where[0][0]]
        beat = (where[0][1] / SPEC.frame_rate - label["beat_offset"]) * label["tempo"] / 60
        assert torch.equal(
            tags, vocabulary.encode(Tags(label["genre"], label["mood"], label["tempo"], beat))
        )


def test_the_first_and_the_last_place_of_a_piece_can_be_drawn(
    composed: Path, clips: ClipDataset
) -> None:
    mel = np.load(mel_cache(composed, SPEC)[1], allow_pickle=False).astype(np.float32).T
    assert np.array_equal(clips.clip(1, 0.0)[0][0], mel[:, :256])
    assert np.array_equal(clips.clip(1, np.nextafter(1.0, 0.0))[0][0], mel[:, -256:])


def test_an_interrupted_cache_continues_and_a_grown_data_set_leaves_an_open_one_alone(
    composed: Path, soundfont: Path, tmp_path: Path
) -> None:
    root = tmp_path / "grown"
    compose_dataset(root, count=1, soundfonts=[soundfont])
    opened = ClipDataset(root, SPEC, frames=256)
    before = opened.batch(0, 3)[0]
    first = mel_cache(root, SPEC)[0]
    written = first.stat().st_mtime_ns
    shutil.copytree(composed / "audio", root / "audio", dirs_exist_ok=True)
    compose_dataset(root, count=2, soundfonts=[soundfont])
    calls = []
    assert len(mel_cache(root, SPEC, lambda done, total: calls.append((done, total)))) == 2
    assert calls == [(1, 2), (2, 2)]
    assert first.stat().st_mtime_ns == written
    assert torch.equal(opened.batch(0, 3)[0], before)
    assert len(ClipDataset(root, SPEC, frames=256)) == 2


def test_another_spec_has_another_cache(composed: Path) -> None:
    half = AudioSpec(n_mels=80)
    assert {p.parent for p in mel_cache(composed, half)}.isdisjoint(
        {p.parent for p in mel_cache(composed, SPEC)}
    )
    longer = AudioSpec(clip_frames=2048)
    assert mel_cache(composed, longer) == mel_cache(composed, SPEC)


def test_audio_crops_are_stretches_of_the_files(composed: Path) -> None:
    crops = AudioCrops(composed, SPEC, samples=4096, seed=5)
    batch = crops.batch(2, 4)
    assert (batch.shape, batch.dtype) == ((4, 4096), torch.float32)
    assert torch.equal(batch, AudioCrops(composed, SPEC, samples=4096, seed=5).batch(2, 4))
    assert not torch.equal(batch, crops.batch(3, 4))
    files = [
        soundfile.read(composed / label["file"], dtype="float32")[0]
        for label in read_labels(composed)
    ]
    for crop in batch.numpy():
        probe = crop[:64]
        found = False
        for audio in files:
            starts = np.flatnonzero(audio[: len(audio) - 4095] == probe[0])
            found |= any(np.array_equal(audio[s : s + 4096], crop) for s in starts)
        assert found


def test_the_vocabulary_is_the_composers(composed: Path) -> None:
    assert vocabulary_of(composed) == TagVocabulary(GENRES, MOOD_NAMES)


def test_a_vocabulary_of_no_tags_leaves_all_out(composed: Path) -> None:
    none = TagVocabulary((), (), tempo_bins=0)
    clips = ClipDataset(composed, SPEC, none, frames=256, seed=3)
    x_0, tags = clips.batch(7, 5)
    assert tags.tolist() == [[0] * 5] * 5
    assert torch.equal(x_0, ClipDataset(composed, SPEC, frames=256, seed=3).batch(7, 5)[0])


def test_a_foreign_vocabulary_is_refused(composed: Path) -> None:
    with pytest.raises(TagError):
        ClipDataset(composed, SPEC, TagVocabulary(("polka",), MOOD_NAMES), frames=256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: ClipDataset(root, AudioSpec(sample_rate=16_000)), "16000 Hz"),
        (lambda root: AudioCrops(root, AudioSpec(sample_rate=16_000), samples=99), "16000 Hz"),
        (lambda root: ClipDataset(root, SPEC, frames=4096), "shorter than a clip"),
        (lambda root: AudioCrops(root, SPEC, samples=10**7), "shorter than a clip"),
        (lambda root: ClipDataset(root / "audio", SPEC), "missing"),
    ],
)
def test_data_that_do_not_fit_are_one_line(composed: Path, make, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make(composed)
    assert "\n" not in str(caught.value)


def test_an_unfinished_or_damaged_folder_is_one_line(composed: Path, tmp_path: Path) -> None:
    config = json.loads((composed / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**config, "count": 0}))
    with pytest.raises(DataError, match="not a finished data set"):
        ClipDataset(tmp_path, SPEC)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        ClipDataset(tmp_path, SPEC)
