"""The page is served before PyTorch and the model are there, and says the same as after."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.studio.conftest import free_port

import ditto
from ditto.errors import ModelError, RequestError
from ditto.methods import METHODS
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.studio import command, facts
from ditto.studio.command import check_port
from ditto.studio.facts import Facts
from ditto.studio.files import Store, UploadError
from ditto.studio.front import Front
from ditto.studio.jobs import Jobs
from ditto.studio.work import Studio

pytest.importorskip("gradio")
import gradio
from fastapi.testclient import TestClient

from ditto.studio import page
from ditto.studio.guard import SOON, STATIC, Guard
from ditto.studio.server import make_app, serve

HOST = "127.0.0.1"
KNOWN = Facts(("jazz",), ("calm",), (60.0, 180.0), 2.0)
ADAPTED = ("controlnet", "naive", "multidiffusion", "md50")
"""Methods that need a ControlNet, or a region to keep."""


def test_what_serves_the_page_is_imported_without_pytorch() -> None:
    program = (
        "import sys, ditto.studio.command, ditto.studio.server as server\n"
        "from ditto.studio.front import Front\n"
        "from ditto.studio.facts import Facts\n"
        "server.make_app(Front(lambda *given: 1 / 0, facts=Facts.embedded()), '127.0.0.1')\n"
        "print('gradio' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_the_page_says_of_the_embedded_model_what_is_so() -> None:
    assert Facts.embedded() == Facts.of(Studio(ditto.load()))


@pytest.mark.parametrize(
    ("words", "prompts", "tempo"),
    [
        (TagVocabulary(("jazz",), ("calm",)), False, True),
        (TagVocabulary((), ()), True, True),  # a pipeline's
        (TagVocabulary((), (), tempo_bins=0), False, False),  # that never saw a tag
    ],
)
def test_the_page_asks_for_what_the_model_reads(
    tiny_model: MusicModel, words: TagVocabulary, prompts: bool, tempo: bool
) -> None:
    studio = Studio(replace(tiny_model, vocabulary=words))
    front = Front(lambda *given: studio, facts=Facts.of(studio))
    with gradio.Blocks():
        fields = page.music(front, "create", ["tempo", "seconds"]).props
    assert fields["prompts"] is prompts
    assert ("tempo" in fields["fields"]) is tempo
    assert "seconds" in fields["fields"]


def test_the_page_offers_every_method_that_needs_nothing_more() -> None:
    assert tuple(name for name in METHODS if name not in ADAPTED) == facts.METHODS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"vocabulary": {}, "spec": {"hop": 1}}', "\xff"])
def test_a_damaged_index_leaves_the_page_to_the_model(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model_index.json"
    assert Facts.embedded(file) is None
    file.write_bytes(text.encode("latin-1"))
    assert Facts.embedded(file) is None


class Late:
    """Makes a studio when it is told to."""

    def __init__(self, model: MusicModel) -> None:
        self.model, self.go, self.asked = model, threading.Event(), 0

    def __call__(self, store: Store, jobs: Jobs) -> Studio:
        self.asked += 1
        assert self.go.wait(60)
        return Studio(self.model, {}, store, jobs)


@pytest.fixture
def late(student_model: MusicModel) -> Iterator[tuple[Late, Front]]:
    late = Late(student_model)
    front = Front(late, facts=KNOWN)
    yield late, front
    late.go.set()
    front.close()


def test_a_wish_waits_for_the_model_and_the_page_does_not(late: tuple[Late, Front]) -> None:
    made, front = late
    with TestClient(Guard(make_app(front, HOST), HOST), base_url=f"http://{HOST}:7860") as client:
        assert "window.gradio_config" in client.get("/").text
        assert made.asked == 0
        answers: list[Any] = []
        values = {"seed": 3, "iterations": 1}
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/studio/generate", json=values))
        )
        asking.start()
        asking.join(0.5)
        assert answers == []
        assert client.get("/").status_code == 200
        made.go.set()
        asking.join(60)
        assert answers[0].content[:4] == b"RIFF"
    assert made.asked == 1
    assert front.over


def test_without_facts_the_page_waits_for_the_model(student_model: MusicModel) -> None:
    front = Front(lambda store, jobs: Studio(student_model, {}, store, jobs))
    assert not front.early
    assert front.facts.window == front.studio.window
    front.close()


def failing(store: Store, jobs: Jobs) -> Studio:
    raise ModelError("there is no such model")


def test_a_model_that_is_missing_is_told_each_time() -> None:
    front = Front(failing)
    for _ in range(2):
        with pytest.raises(ModelError, match="no such model"):
            _ = front.studio
    with pytest.raises(ModelError, match="no such model"):
        _ = front.facts
    front.close()


def test_a_model_that_fails_after_the_page_is_there_ends_the_studio() -> None:
    front, addresses = Front(failing, facts=KNOWN), []

    def ready(address: str) -> None:
        addresses.append(address)
        front.begin()

    # In a thread of its own: where a browser runs beside it, this one has an event loop already.
    with ThreadPoolExecutor(1) as pool, pytest.raises(ModelError, match="no such model"):
        pool.submit(serve, front, HOST, free_port(), ready).result()
    assert len(addresses) == 1
    assert not front.store.root.exists()


def test_files_of_the_page_come_at_once_and_unpacked_on_this_machine() -> None:
    front = Front(failing, facts=KNOWN)
    packing = {"accept-encoding": "br, gzip"}
    own = "/studio/static/result.js"
    with TestClient(Guard(make_app(front, HOST), HOST), base_url=f"http://{HOST}:7860") as client:
        page = client.get("/", headers=packing)
        assert "content-encoding" not in page.headers
        asset = next(path for path in page.text.split('"') if "assets/index-" in path)
        for path in (asset.removeprefix("."), own):
            answer = client.get(path, headers=packing)
            assert answer.headers["content-type"].startswith("text/javascript")
            assert "content-encoding" not in answer.headers
            assert "content-security-policy" in answer.headers
        assert answer.content == (STATIC / "result.js").read_bytes()
        assert answer.headers["cache-control"] == "no-cache"
        assert page.headers["link"] == SOON.decode()
        soon = {part.split("<")[1].split(">")[0] for part in SOON.decode().split(", ")}
        assert soon == {f"studio/static/{file.name}" for file in STATIC.iterdir()}
        for path in ("/studio/static/nothing.js", "/assets/nothing.js"):
            assert client.get(path).status_code == 404
    # To other machines a packed file travels faster.
    with TestClient(Guard(make_app(front, "0.0.0.0"), "0.0.0.0")) as client:
        packed = client.get(asset.removeprefix("."), headers=packing)
        assert packed.headers["content-encoding"] in ("br", "gzip")
        assert client.get(own).content == answer.content
    front.close()


def test_a_job_that_lasts_longer_than_files_are_kept_keeps_its_own(
    student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(student_model)

    def hours_pass(*given: Any) -> None:
        for folder in studio.store.root.iterdir():
            os.utime(folder, (0, 0))
        studio.store.sweep()

    monkeypatch.setattr("ditto.studio.work.Previews.after", hours_pass)
    recording = studio.store.new() / "song.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal(student_model.spec.sample_rate)
    soundfile.write(recording, noise, student_model.spec.sample_rate)
    made = {"iterations": 1, "loudness": {"text": "swell"}}
    edit = {"kind": "inpaint", "recording": recording.parent.name, "regions": [[0.4, 0.6]]}
    jobs = [
        studio.wish("generate", made, compare=False),
        studio.wish("edit", made | edit | {"overlap": 0.1}, compare=False),
    ]
    until = time.monotonic() + 100
    while not jobs[-1].over and time.monotonic() < until:
        time.sleep(0.05)
    assert [(job.state, job.line) for job in jobs] == [("done", ""), ("done", "")]
    studio.jobs.close()
    studio.store.close()


def test_a_full_store_takes_no_wish(
    student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(student_model)
    monkeypatch.setattr("ditto.studio.files.MAX_STORE", 3)
    (studio.store.new() / "a.wav").write_bytes(b"1234")
    with pytest.raises(UploadError, match="disk space is taken"):
        studio.wish("generate", {})
    studio.jobs.close()
    studio.store.close()


@pytest.mark.parametrize("host", ["", "none.invalid", "ü" * 70])
def test_a_host_that_is_none_is_one_line(host: str) -> None:
    with pytest.raises(RequestError, match=r"^(give --host an|cannot listen on)"):
        check_port(host, 7860)


def test_a_studio_that_is_interrupted_while_it_begins_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders = []

    @contextmanager
    def interrupted() -> Iterator[None]:
        folders.extend(tmp_path.iterdir())
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(command, "without_stubs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.studio(port=free_port())
    assert len(folders) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_models_folder_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []

    def caught(model: str, device: str, precision: str, options: dict[str, str]) -> None:
        told.append(options)
        raise KeyboardInterrupt

    (tmp_path / "mine" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr(command, "maker", caught)
    for model in (".", "inner/..", "../mine/", "a/hub-id"):
        with pytest.raises(KeyboardInterrupt):
            command.studio(port=free_port(), model=model)
    assert told == [{"model": "mine"}] * 3 + [{"model": "a/hub-id"}]
