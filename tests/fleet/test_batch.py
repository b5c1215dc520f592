"""Batches in Python: the same results wherever they are made, whatever is killed."""

import errno
import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ditto
from ditto.errors import ControlError, OutputError, RequestError
from ditto.fleet.batch import FaultyRequestsError
from ditto.models.model import MusicModel
from ditto.result import Result


def wishes(count: int) -> list[ditto.Request]:
    """Requests without checkpointing, for which each process would import PyTorch's compiler."""
    return [
        ditto.Request(
            ditto.Intensity("swell"),
            "genre=jazz",
            seed=i,
            iterations=2,
            method=ditto.Ditto(steps=2, checkpointing=False),
        )
        for i in range(count)
    ]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def sounds(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: soundfile.read(path)[0] for path in folder.glob("*.wav")}


def test_results_are_as_alone_here_and_in_other_processes(tiny_model: MusicModel) -> None:
    requests = wishes(3)
    alone = [ditto.run(request, tiny_model) for request in requests]
    for workers in (0, 1):
        made = sorted(
            ditto.batch(tiny_model, requests, workers=workers), key=lambda each: each.number
        )
        assert [each.number for each in made] == [0, 1, 2]
        for each, expected in zip(made, alone, strict=True):
            assert isinstance(each.result, Result)
            assert torch.equal(each.result.audio, expected.audio)
            assert each.result.model is tiny_model
            ours, theirs = each.result.report(), expected.report()
            for report in (ours, theirs):
                del report["timings"]
            assert ours == theirs


def test_a_killed_workers_request_is_made_again(tiny_model: MusicModel, tmp_path: Path) -> None:
    requests = wishes(5)
    list(ditto.batch(tiny_model, requests, out=tmp_path / "one", pictures=False))
    killed = 0
    for _ in ditto.batch(tiny_model, requests, out=tmp_path / "two", workers=1, pictures=False):
        if not killed:
            (process,) = multiprocessing.active_children()
            killed = process.pid or 0
            os.kill(killed, signal.SIGKILL)
    assert killed
    made = rows(tmp_path / "two")
    assert sorted(row["name"] for row in made) == [f"{i:05d}.wav" for i in range(5)]
    assert not any("error" in row for row in made)
    one, two = sounds(tmp_path / "one"), sounds(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "two").glob(".*"))


def test_what_is_missing_is_made(tiny_model: MusicModel, tmp_path: Path) -> None:
    out, requests = tmp_path / "clips", wishes(4)
    running = ditto.batch(tiny_model, requests, out=out, pictures=False)
    next(running), next(running)
    running.close()  # pyright: ignore[reportAttributeAccessIssue]
    index = out / "index.jsonl"
    (out / "00000.wav").unlink()
    index.write_bytes(index.read_bytes() + b'{"name": "000')  # a kill within a line
    again = [each.name for each in ditto.batch(tiny_model, requests, out=out, pictures=False)]
    assert again == ["00000.wav", "00002.wav", "00003.wav"]
    assert sorted(row["name"] for row in rows(out) if row["number"]) == [
        f"{i:05d}.wav" for i in range(1, 4)
    ]
    assert list(ditto.batch(tiny_model, requests, out=out)) == []
    assert len({row["name"] for row in rows(out)}) == len(rows(out)) == 4
    other = [replace(requests[0], seed=99), *requests[1:]]
    with pytest.raises(FaultyRequestsError, match=r"request 0: .* was made from another request"):
        list(ditto.batch(tiny_model, other, out=out))
    assert [each.name for each in ditto.batch(tiny_model, other, out=out, force=True)] == [
        "00000.wav"
    ]


def test_a_failure_is_a_row_and_made_again_later(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ditto.runner.run  # pyright: ignore[reportAttributeAccessIssue]

    def run(request: ditto.Request, *args: object, **more: object) -> Result:
        if request.seed == 1:
            raise RuntimeError("out of luck\nentirely")
        return real(request, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr("ditto.jobs.run", run)
        made = list(ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False))
    assert [each.error for each in made] == [None, "RuntimeError: out of luck entirely", None]
    assert rows(tmp_path)[1]["error"] == "RuntimeError: out of luck entirely"
    (again,) = ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False)
    assert (again.number, again.error) == (1, None)
    assert sorted(row["name"] for row in rows(tmp_path)) == [f"{i:05d}.wav" for i in range(3)]
    assert not any("error" in row for row in rows(tmp_path))


def test_a_full_disk_ends_the_batch_and_loses_nothing(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False)
    next(running)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ditto.paths._sync", full)
        with pytest.raises(OutputError, match="No space left"):
            list(running)
    assert [row["name"] for row in rows(tmp_path)] == ["00000.wav"]
    left = ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False)
    assert [each.name for each in left] == ["00001.wav", "00002.wav"]


def test_a_row_that_does_not_fit_leaves_no_part_of_itself(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk with room for half a row: the system writes that half, and says so."""
    running = ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False)
    next(running)
    index, write = tmp_path / "index.jsonl", os.write
    before = index.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda to, data: write(to, data[: len(data) // 2]))
        with pytest.raises(OutputError, match=r"index\.jsonl: No space left on device: what is"):
            list(running)
    assert index.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"index.jsonl", "00000.json", "00000.wav"}
    left = ditto.batch(tiny_model, wishes(3), out=tmp_path, pictures=False)
    assert [each.name for each in left] == ["00001.wav", "00002.wav"]
    assert [row["name"] for row in rows(tmp_path)] == [f"{i:05d}.wav" for i in range(3)]


def test_files_of_others_stay(tiny_model: MusicModel, tmp_path: Path) -> None:
    (tmp_path / "00001.json").write_text("mine")
    with pytest.raises(FaultyRequestsError, match=r"request 1: .*00001\.json exists already"):
        list(ditto.batch(tiny_model, wishes(2), out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["00001.json"]


def test_what_cannot_be_is_said_before_the_work(tiny_model: MusicModel, tmp_path: Path) -> None:
    good = wishes(1)[0]
    faulty = [
        good,
        replace(good, tags=ditto.Tags("polka")),
        ("00000.wav", good),
        ("a/b.wav", good),
        ("b.txt", good),
        {"controls": [{"control": "nothing"}]},
    ]
    with pytest.raises(ControlError, match="the nothing control cannot be restored"):
        list(ditto.batch(tiny_model, faulty, out=tmp_path / "clips"))
    with pytest.raises(FaultyRequestsError) as caught:
        list(ditto.batch(tiny_model, faulty[:-1], out=tmp_path / "clips"))
    said = caught.value.problems
    assert len(said) == 4
    for place, words in zip(
        said, ("polka", "is that of request 0", "no name", "must end in"), strict=True
    ):
        assert words in place, place
    assert not (tmp_path / "clips").exists()
    for wrong, words in ((replace(good, count=2), "one for each"), (3, "is none")):
        with pytest.raises(RequestError, match=words):
            ditto.batch(tiny_model, [wrong]).__next__()  # pyright: ignore[reportArgumentType]


def test_two_batches_do_not_share_a_folder(tiny_model: MusicModel, tmp_path: Path) -> None:
    running = ditto.batch(tiny_model, wishes(2), out=tmp_path, pictures=False)
    next(running)
    with pytest.raises(OutputError, match="another batch writes to"):
        next(iter(ditto.batch(tiny_model, wishes(2), out=tmp_path)))
    assert len(list(running)) == 1


def test_a_disk_that_is_full_at_the_index_leaves_no_clip_behind(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if data.startswith(b'{"name": '):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    request = ditto.Request(method=ditto.Uncontrolled(steps=1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutputError, match="No space left"):
            list(ditto.batch(tiny_model, [request], out=tmp_path, pictures=False))
    assert [path.name for path in tmp_path.iterdir()] in ([], ["index.jsonl"])
    (made,) = ditto.batch(tiny_model, [request], out=tmp_path, pictures=False)
    assert made.error is None
    assert (tmp_path / made.name).is_file()


@pytest.mark.usefixtures("together")
def test_requests_of_one_kind_are_made_together(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = ditto.fleet.together.run_together  # pyright: ignore[reportAttributeAccessIssue]

    def together(requests: list, *args: object, **more: object) -> list:
        sizes.append(len(requests))
        return real(requests, *args, **more)

    monkeypatch.setattr("ditto.fleet.making.run_together", together)
    plain = [replace(request, controls=(), method=None) for request in wishes(2)]
    requests = [*wishes(3), *plain, *wishes(5)[3:]]
    made = list(ditto.batch(tiny_model, requests, out=tmp_path, pictures=False, together=4))
    assert sizes == [4, 2]
    assert sorted(each.number for each in made) == list(range(7))
    report = json.loads((tmp_path / "00001.json").read_text())
    assert report["request"]["seed"] == 1
    assert "made together with 3 others" in report["notes"][0]
