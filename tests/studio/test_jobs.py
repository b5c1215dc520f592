"""Users' files and the queue: what is kept, what goes, and who is next."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ditto.errors import RequestError
from ditto.studio.files import Store, UploadError, safe_name
from ditto.studio.jobs import Job, Jobs


def test_files_go_after_their_time(tmp_path: Path) -> None:
    store = Store(keep=0.2, root=tmp_path)
    folder = store.new()
    (folder / "a.wav").write_bytes(b"x")
    assert store.find(folder.name).name == "a.wav"
    until = time.monotonic() + 10
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(UploadError, match="no longer here"):
        store.find(folder.name, "a.wav")
    store.close()
    assert not tmp_path.exists()


def test_files_that_are_used_stay_and_one_that_vanishes_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(keep=1000, root=tmp_path)
    old, used, gone = (store.new() for _ in range(3))
    for folder in (old, used, gone):
        (folder / "a.wav").write_bytes(b"x")
        os.utime(folder, (0, 0))
    assert store.find(used.name).exists()
    plain = Path.stat

    def stat(path: Path, **how: Any) -> Any:
        if path == gone or path.parent == gone:  # removed between being listed and looked at
            raise FileNotFoundError(path)
        return plain(path, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        assert store.size() == 2
        store.sweep()
    assert not old.exists()
    assert used.exists()
    store.close()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd.wav", "passwd.wav"),
        ("C:\\music\\a.wav", "a.wav"),
        ("~a$(x);`y`.wav", "_a_(x)__y_.wav"),
        ("", "file"),
        ("x" * 300 + ".wav", "x" * 200 + ".wav"),
        ("曲" * 90 + ".wav", "曲" * 66 + ".wav"),
        ("süß – Don't Stop!.mid", "süß – Don't Stop!.mid"),
        ("-rf.wav", "rf.wav"),
        ("a\0b\u202e.wav", "a_x00b_u202e.wav"),
    ],
)
def test_names_are_made_safe(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_the_queue_is_bounded_and_takes_turns() -> None:
    jobs, done, go = Jobs(size=2), [], []

    def work(job: Job) -> None:
        while not go:
            time.sleep(0.01)
        done.append(job.id)

    first = jobs.submit(work)
    while first.state == "queued":
        time.sleep(0.01)
    waiting = [jobs.submit(work) for _ in range(2)]
    assert [jobs.before(job) for job in waiting] == [1, 2]
    with pytest.raises(RequestError, match="the queue is full, 2 jobs are waiting"):
        jobs.submit(work)
    go.append(1)
    until = time.monotonic() + 10
    while not waiting[-1].over and time.monotonic() < until:
        time.sleep(0.01)
    assert done == [first.id, *(job.id for job in waiting)]
    jobs.close()


def test_a_job_that_fails_tells_one_line_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = Jobs(clean=lambda text: text.replace("/secret/", ""))

    def wrong(job: Job) -> None:
        raise RequestError("cannot read /secret/a.wav")

    def broken(job: Job) -> None:
        raise KeyError("a bug")

    made = [jobs.submit(wrong), jobs.submit(broken), jobs.submit(lambda job: None)]
    until = time.monotonic() + 10
    while not made[-1].over and time.monotonic() < until:
        time.sleep(0.01)
    assert [job.state for job in made] == ["failed", "failed", "done"]
    assert made[0].line == "cannot read a.wav"
    assert made[1].line == "something went wrong in the studio: its log says what"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    jobs.close()
