"""Users' files and the queue: what is kept, what goes, and who is next."""

import logging
import os
import shutil
import subprocess
import tempfile
import threading
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


def test_files_that_a_job_needs_stay_until_it_is_over(tmp_path: Path) -> None:
    store, jobs, go = Store(keep=1000, root=tmp_path), Jobs(), threading.Event()
    store.in_use = jobs.folders
    given, made, other = (store.new() for _ in range(3))

    def work(job: Job) -> None:
        job.folders.append(made)
        assert go.wait(30)

    running, waiting = jobs.submit(work), jobs.submit(work, given)
    until = time.monotonic() + 10
    while made not in jobs.folders() and time.monotonic() < until:
        time.sleep(0.01)
    for folder in (given, made, other):
        os.utime(folder, (0, 0))
    store.sweep()
    assert (given.exists(), made.exists(), other.exists()) == (True, True, False)
    go.set()
    while not (running.over and waiting.over) and time.monotonic() < until:
        time.sleep(0.01)
    assert jobs.folders() == []
    store.sweep()
    assert given.exists()  # its time began anew
    os.utime(given, (0, 0))
    store.sweep()
    assert not given.exists()
    jobs.close()
    store.close()


def test_files_of_killed_studios_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()
    left, new, runs, early = (
        tmp_path / f"ditto-studio-{name}"
        for name in (f"{ended}-a", f"{ended}-b", "1-c", "1abcdefg")
    )
    for folder in (left, new, runs, early):
        (folder / "token").mkdir(parents=True)
        (folder / "token/a.wav").write_bytes(b"x")
        if folder != new:
            os.utime(folder, (0, 0))
    store = Store()
    assert sorted(tmp_path.iterdir()) == sorted([new, runs, early, store.root])
    assert store.root.name.startswith(f"ditto-studio-{os.getpid()}-")
    store.close()


def test_a_store_whose_folder_was_cleaned_away_goes_on(tmp_path: Path) -> None:
    store = Store(root=tmp_path / "root")
    assert store.new().is_dir()
    shutil.rmtree(store.root)
    assert store.new().is_dir()
    assert store.root.stat().st_mode & 0o777 == 0o700
    store.close()
    with pytest.raises(FileNotFoundError):
        store.new()
    assert not store.root.exists()


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


def test_jobs_that_are_not_over_are_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditto.studio.jobs.KEPT_JOBS", 3)
    jobs, go = Jobs(size=10), threading.Event()
    first = jobs.submit(lambda job: None)
    until = time.monotonic() + 10
    while not first.over and time.monotonic() < until:
        time.sleep(0.01)
    waiting = [jobs.submit(lambda job: assert_waited(go)) for _ in range(6)]
    assert jobs.find(first.id) is None
    assert [jobs.find(job.id) for job in waiting] == waiting
    go.set()
    while not waiting[-1].over and time.monotonic() < until:
        time.sleep(0.01)
    last = jobs.submit(lambda job: None)
    assert [job for job in waiting if jobs.find(job.id)] == waiting[-2:]
    assert jobs.find(last.id) is last
    jobs.close()


def assert_waited(go: threading.Event) -> None:
    assert go.wait(30)


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
