"""Clips of a pipeline's latent, from data folders and from recordings."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests.models.adapters.tiny_pipelines import SAMPLE_RATE, make_musicldm, make_stable_audio

from ditto.data.latents import LatentClips
from ditto.errors import DataError, RequestError
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt


@pytest.fixture(scope="module")
def stable() -> PipelineModel:
    return adapt(make_stable_audio())


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A stereo recording of 1 s with a caption, and in a subfolder a mono one of 0.3 s without."""
    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    soundfile.write(
        tmp_path / "long.wav",
        0.1 * rng.standard_normal((SAMPLE_RATE, 2)),
        SAMPLE_RATE,
        subtype="FLOAT",
    )
    soundfile.write(
        tmp_path / "more" / "short.wav",
        0.1 * rng.standard_normal(2400),
        SAMPLE_RATE,
        subtype="FLOAT",
    )
    (tmp_path / "long.txt").write_text("\ufeffcalm\njazz ", encoding="utf-8")  # as on Windows
    return tmp_path


def test_a_batch_is_of_windows_that_overlap_by_half(songs: Path, stable: PipelineModel) -> None:
    clips = LatentClips(songs, stable, seconds=0.25)
    assert clips.frames == 32
    samples = stable.spec.samples(32)
    assert len(clips) == 6 + 1
    long = soundfile.read(songs / "long.wav", dtype="float32")[0].T
    wanted = [long[:, start : start + samples] for start in range(0, 8000 - samples, samples // 2)]
    with torch.no_grad():
        encoded = [
            stable.encode(torch.from_numpy(np.ascontiguousarray(sound))[None])[0]
            for sound in wanted
        ]
    prompts = stable.encode_prompts(["calm jazz", ""], clips.seconds)
    seen = set()
    for step in range(12):
        x_0, cond = clips.batch(step, 2)
        assert x_0.shape == (2, *stable.latent_shape, 32)
        assert x_0.dtype == torch.float32
        for x, c in zip(x_0, cond, strict=True):
            near = [i for i, y in enumerate(encoded) if (x - y).abs().max() < 2e-3]
            seen.update(near or ["short"])
            torch.testing.assert_close(c, prompts[0 if near else 1])
    assert seen == {0, 1, 2, 3, 4, 5, "short"}


def test_a_batch_depends_on_seed_and_step_alone_and_the_sound_is_encoded_once(
    songs: Path, stable: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LatentClips(songs, stable, seconds=0.25, seed=1)
    monkeypatch.setattr(type(stable), "encode", None)  # all is cached
    again, other = (LatentClips(songs, stable, seconds=0.25, seed=seed) for seed in (1, 2))
    for a, b in zip(first.batch(3, 4), again.batch(3, 4), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.batch(3, 4)[0], other.batch(3, 4)[0])
    assert not torch.equal(first.batch(3, 4)[0], first.batch(4, 4)[0])


def test_songs_of_one_name_size_and_time_are_not_taken_for_each_other(
    tmp_path: Path, stable: PipelineModel
) -> None:
    for seed, album in enumerate(("a", "b")):
        (tmp_path / album).mkdir()
        noise = 0.1 * np.random.default_rng(seed).standard_normal(2100)
        soundfile.write(tmp_path / album / "1.wav", noise, SAMPLE_RATE)
        os.utime(tmp_path / album / "1.wav", (0, 0))
    clips = LatentClips(tmp_path, stable, seconds=0.25)
    assert len(clips) == 2
    seen = torch.cat([clips.batch(step, 4)[0] for step in range(4)]).flatten(1)
    assert len(seen.unique(dim=0)) == 2


def test_a_data_folders_labels_are_the_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heard = adapt(make_musicldm()), []
    (tmp_path / "audio").mkdir()
    rate = 2 * SAMPLE_RATE
    soundfile.write(
        tmp_path / "audio" / "0.flac", 0.1 * np.random.default_rng(0).standard_normal(rate), rate
    )
    label = {
        "file": "audio/0.flac",
        "seconds": 1.0,
        "sha256": "ab",
        "genre": "jazz",
        "mood": "calm",
        "tempo": None,
    }
    (tmp_path / "labels.jsonl").write_text(json.dumps(label) + "\n")
    (tmp_path / "dataset.json").write_text(json.dumps({"count": 1, "sample_rate": rate}))
    plain = type(model).encode_prompts

    def listening(
        self: PipelineModel, prompts: list[str], seconds: float | None = None
    ) -> torch.Tensor:
        heard.extend(prompts)
        return plain(self, prompts, seconds)

    monkeypatch.setattr(type(model), "encode_prompts", listening)
    clips = LatentClips(tmp_path, model, seconds=0.2)
    x_0, cond = clips.batch(0, 8)
    assert x_0.shape == (8, *model.shape(0.2))
    assert len(cond) == 8
    assert all("jazz" in said for said in heard)
    assert len(set(heard)) > 1


def test_what_cannot_be_used_is_said_in_one_line(
    songs: Path, stable: PipelineModel, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        LatentClips(songs / "none", stable)
    (songs / "more" / "short.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot read the caption"):
        LatentClips(songs, stable, seconds=0.2)
    (songs / "more" / "short.txt").unlink()
    with pytest.raises(
        DataError, match=r"no recording in .* is as long as a clip of 0\.35 s: set seconds"
    ):
        LatentClips(songs / "more", stable, seconds=0.35)
    with pytest.raises(RequestError, match="seconds must be at least"):
        LatentClips(songs, stable, seconds=9.0)
