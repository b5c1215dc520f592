"""Data sets in shards: the folder's batches, read by URL."""

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from tests.conftest import Command

from ditto.audio.spec import AudioSpec
from ditto.composer.corpus import compose_dataset
from ditto.data.dataset import (
    AudioCrops,
    ClipDataset,
    band_statistics,
    mel_cache,
    read_labels,
    vocabulary_of,
)
from ditto.data.sharding import write_shards
from ditto.data.shards import Shards, find_data, folder_of
from ditto.errors import DataError, OutputError

SPEC = AudioSpec()
SMALL = 10**6
"""Bytes of a shard of one piece or two."""


@pytest.fixture
def url(composed: Path) -> Iterator[str]:
    """Shards in fsspec's memory."""
    place = "memory://bucket/train"
    write_shards(composed, place, shard_bytes=SMALL)
    yield place
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


class Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, as object storage does; every third request fails."""

    count = 0

    def do_GET(self) -> None:
        type(self).count += 1
        if type(self).count % 3 == 0:
            return self.send_error(503)
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(composed: Path, tmp_path: Path) -> Iterator[str]:
    """Shards behind a web server."""
    write_shards(composed, tmp_path / "web/train", shard_bytes=SMALL)
    handler = partial(Ranges, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/train"
        server.shutdown()


def assert_same_draws(found: Shards, composed: Path) -> None:
    ours = ClipDataset(found, SPEC, frames=256, seed=3)
    theirs = ClipDataset(composed, SPEC, frames=256, seed=3)
    for step in (0, 1, 2, 3, 9, 0):  # in order they are read ahead
        for a, b in zip(ours.batch(step, 5), theirs.batch(step, 5), strict=True):
            assert torch.equal(a, b)
    ours = AudioCrops(found, SPEC, samples=4096, seed=3)
    theirs = AudioCrops(composed, SPEC, samples=4096, seed=3)
    assert torch.equal(ours.batch(7, 4), theirs.batch(7, 4))


def test_shards_give_the_folders_batches(composed: Path, url: str) -> None:
    found = find_data(url)
    assert isinstance(found, Shards)
    assert_same_draws(found, composed)
    assert vocabulary_of(found) == vocabulary_of(composed)
    assert band_statistics(found, SPEC) == band_statistics(composed, SPEC)
    assert len(found.facts["shards"]) > 1


def test_shards_are_read_from_a_server_that_fails_now_and_then(
    composed: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http by aiohttp: ditto-music[fleet]")
    monkeypatch.setattr("ditto.data.shards.WAITS", (0.0,) * 9)
    assert_same_draws(Shards(served), composed)
    with pytest.raises(DataError, match=r"there is no http://.*/none/dataset.json"):
        find_data(f"{served}/none")


def test_a_part_of_a_batch_is_read_alone(composed: Path, url: str) -> None:
    whole, tags = ClipDataset(composed, SPEC, frames=256, seed=3).batch(4, 6)
    clips = ClipDataset(Shards(url), SPEC, frames=256, seed=3)
    part, same_tags = clips.batch(4, 6, slice(2, 4))
    assert torch.equal(tags, same_tags)
    assert torch.equal(part[2:4], whole[2:4])
    assert not part[:2].any()
    assert not part[4:].any()


def test_the_tars_are_what_others_read(composed: Path, tmp_path: Path) -> None:
    write_shards(composed, tmp_path / "shards", shard_bytes=SMALL)
    found: dict[str, bytes] = {}
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    mels = mel_cache(composed, SPEC)
    labels = read_labels(composed)
    assert len(found) == 3 * len(labels)
    for i, (label, mel) in enumerate(zip(labels, mels, strict=True)):
        assert json.loads(found[f"{i:08d}.json"]) == label
        assert found[f"{i:08d}.flac"] == (composed / label["file"]).read_bytes()
        array = np.load(io.BytesIO(found[f"{i:08d}.mel.npy"]), allow_pickle=False)
        assert np.array_equal(array, np.load(mel, allow_pickle=False))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_follows_from_the_folder_and_grows_with_it(
    composed: Path, soundfont: Path, tmp_path: Path
) -> None:
    root, out, other = tmp_path / "root", tmp_path / "out", tmp_path / "other"
    write_shards(composed, other, shard_bytes=SMALL)
    compose_dataset(root, count=1, soundfonts=[soundfont])
    write_shards(root, out, shard_bytes=SMALL)
    before = ClipDataset(Shards(out), SPEC, frames=256)
    first = before.batch(0, 2)[0]
    shutil.copytree(composed / "audio", root / "audio", dirs_exist_ok=True)
    compose_dataset(root, count=3, soundfonts=[soundfont])
    written = write_shards(root, out, shard_bytes=SMALL)
    assert written.pieces == 3
    assert contents(out) == contents(other)
    assert torch.equal(before.batch(0, 2)[0], first)  # of a training that had begun
    (out / "shard-00000.tar").write_bytes(b"half")
    (out / "labels.jsonl").unlink()
    write_shards(root, out, shard_bytes=SMALL)
    assert contents(out) == contents(other)


def test_the_command_writes_what_a_training_reads(
    ditto_music: Command, composed: Path, tmp_path: Path
) -> None:
    code, out, err = ditto_music("data", "shard", composed, "--out", "shards")
    assert code == 0, err
    assert "3 pieces in 1 shards" in out
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    words = ("train", "base", "--config", "recipe.json", "--device", "cpu")
    place = (tmp_path / "shards").as_uri()
    for data, run in ((composed, "one"), (place, "two")):
        code, _, err = ditto_music(*words, "--data", data, "--held-out", data, "--out", run)
        assert code == 0, err
    one, two = (tmp_path / run / "step-00000002" for run in ("one", "two"))
    assert contents(one) == contents(two)
    for name in ("controlnet", "clap"):
        code, _, err = ditto_music("train", name, "--data", "shards", "--device", "cpu")
        assert (code, "reads a folder: give --data the one" in err) == (2, True), err
        assert err.strip().splitlines()[-1].startswith("error: ")
        assert "Traceback" not in err


RECIPE = {
    "network": {"patch": 8, "width": 16, "depth": 1, "heads": 2, "n_mels": 160}
    | {"tag_sizes": [9, 7, 13]},
    "frames": 64,
    "steps": 2,
    "batch_size": 2,
    "warmup": 1,
    "checkpoint_every": 2,
    "evaluate_every": 2,
    "normalised": True,
}


def test_what_cannot_be_read_or_written_is_one_line(
    composed: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.data.shards.WAITS", ())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "list").mkdir()
    (tmp_path / "list/dataset.json").write_text('["shards"]')
    other = AudioSpec(n_mels=80)
    cases = (
        (lambda: find_data("memory://bucket/none"), DataError, "there is no memory://bucket/none"),
        (lambda: find_data("nothing://bucket"), DataError, "nothing://bucket"),
        (lambda: ClipDataset(Shards(url), other), DataError, "log-mels of other sizes"),
        (lambda: AudioCrops(Shards(url), SPEC, samples=10**7), DataError, "is shorter than a clip"),
        (lambda: folder_of(url, "it"), DataError, "it reads a folder"),
        (lambda: Shards(composed), DataError, "no data set in shards"),
        (lambda: write_shards(composed, tmp_path / "mine"), DataError, "holds other files"),
        (lambda: write_shards(composed, composed), DataError, "holds other files"),
        (lambda: write_shards(composed, tmp_path / "file/out"), OutputError, "cannot write"),
        (lambda: write_shards(tmp_path, tmp_path / "out"), DataError, "dataset.json is missing"),
        (lambda: vocabulary_of(find_data(tmp_path / "list")), DataError, "does not name genres"),
    )
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert contents(tmp_path / "mine") == {"notes.txt": b"mine"}
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/train/shard-00001.tar", b"short")
    with pytest.raises(DataError, match=r"shard-00001.tar gives \d+ bytes for"):
        ClipDataset(Shards(url), SPEC, frames=256).batch(0, 16)
    files.rm("/bucket/train/shard-00001.tar")
    with pytest.raises(DataError, match=r"there is no .*shard-00001.tar"):
        ClipDataset(Shards(url), SPEC, frames=256).batch(0, 16)


def test_a_sound_in_a_shard_is_the_piece(composed: Path, url: str) -> None:
    (found,) = Shards(url).sounds([1])
    expected, _ = soundfile.read(composed / read_labels(composed)[1]["file"])
    assert np.array_equal(soundfile.read(found)[0], expected)
