"""The server on the tiny model: uploads, files, jobs, plain REST calls, and what is closed."""

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
import torch

from ditto.latents import Latent
from ditto.models.model import MusicModel
from ditto.optimize import Step
from ditto.studio.front import Front
from ditto.studio.jobs import Job
from ditto.studio.wishes import EditWish, Generate, Vary, read_wish
from ditto.studio.work import Studio

gradio = pytest.importorskip("gradio")
from fastapi.testclient import TestClient  # noqa: E402 - comes with gradio
from starlette.websockets import WebSocketDisconnect  # noqa: E402

from ditto.studio.server import Guard, make_app  # noqa: E402

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def front(student_model: MusicModel) -> Iterator[Front]:
    made = Front(lambda store, jobs: Studio(student_model, {}, store, jobs), queue=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def studio(front: Front) -> Studio:
    return front.studio


@pytest.fixture(scope="module")
def client(front: Front) -> Iterator[TestClient]:
    guarded = Guard(make_app(front, HOST), HOST)
    with TestClient(guarded, base_url=f"http://{HOST}:7860") as client:
        yield client


def wav(channels: int = 1, seconds: float = 1.2, rate: int = 8000) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


ENTITIES = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
BOMB = f'<!DOCTYPE a [<!ENTITY l0 "lol">{ENTITIES}]><score-partwise>&l9;</score-partwise>'.encode()


def sent(client: TestClient, kind: str, name: str, body: bytes, **query: Any) -> Any:
    return client.post(f"/studio/upload/{kind}", params={"name": name} | query, content=body)


def test_a_recording_is_looked_into_and_played(client: TestClient) -> None:
    found = sent(client, "sound", "../../my song.wav", wav(2)).json()
    assert (found["name"], found["channels"], found["rate"]) == ("my song.wav", 2, 8000)
    assert found["seconds"] == pytest.approx(1.2)
    assert max(found["peaks"]["high"]) > 20
    played = client.get(f"/{found['sound']}", headers={"range": "bytes=0-43"})
    assert played.status_code == 206
    assert played.content[:4] == b"RIFF"
    # What browsers do not play is there as a WAV too.
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.ones((8000, 1)), 8000, format="AIFF", subtype="PCM_16")
    found = sent(client, "sound", "a.aiff", buffer.getvalue()).json()
    assert client.get(f"/{found['sound']}").content[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("kind", "name", "body", "message"),
    [
        ("sound", "a.wav", b"no sound", "cannot read a.wav: it is damaged or no sound file"),
        ("sound", "a.wav", b"", "a.wav is empty"),
        ("sound", "a.exe", b"MZ", "a.exe is no sound file: its name must end in"),
        ("sound", "a.wav", wav(6), "a.wav has 6 channels"),
        ("sound", "a.wav", wav(seconds=301), "a.wav lasts 5 minutes"),
        ("sound", "a.wav", wav(seconds=0.001), "a.wav"),
        ("sound", "/", b"x", "file is no sound file"),
        ("score", "a.xml", BOMB, "cannot read the melody a.xml: it is damaged or no MusicXML"),
        ("sound", "a.wav", wav()[:-2000], ""),
        ("score", "a.mid", b"MThd", "cannot read the melody a.mid"),
        ("latent", "a.latent", b"nothing", "cannot read the latent a.latent: it is damaged"),
        ("magic", "a.wav", b"x", "unknown kind of upload"),
    ],
)
def test_a_bad_upload_is_one_line_and_is_not_kept(
    client: TestClient,
    studio: Studio,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    name: str,
    body: bytes,
    message: str,
) -> None:
    before = set(studio.store.root.iterdir())
    answer = sent(client, kind, name, body)
    if not message:  # libsndfile mends a header that promises too much
        return
    assert answer.status_code == 422
    line = answer.json()["error"]
    assert line.startswith(message)
    assert "\n" not in line
    assert str(studio.store.root) not in line
    assert set(studio.store.root.iterdir()) == before
    assert caplog.get_records("call") == [] or "Traceback" not in caplog.text


def test_an_upload_of_two_gigabytes_is_refused_by_its_header(client: TestClient) -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    request = client.build_request(
        "POST",
        "/studio/upload/sound?name=big.wav",
        content=never(),
        headers={"content-length": "2000000000"},
    )
    request.headers.pop("transfer-encoding", None)
    try:
        answer = client.send(request)
    except AssertionError:
        pytest.skip("this test client reads the body before it sends it")
    assert answer.json()["error"].startswith("big.wav is too large")


def test_an_upload_that_hides_its_length_is_cut_off(client: TestClient, studio: Studio) -> None:
    before = studio.store.size()
    answer = sent(client, "score", "a.mid", b"\0" * 2_000_001)
    assert answer.json()["error"] == (
        "a.mid is too large: a MIDI or MusicXML may have at most 2 MB here"
    )
    assert studio.store.size() == before


def test_a_score_becomes_beats_of_one_voice(client: TestClient, tmp_path: Path) -> None:
    track = mido.MidiTrack([mido.Message("note_on", note=60, velocity=9)])
    track.append(mido.Message("note_on", note=67, velocity=9, time=120))
    track.append(mido.Message("note_off", note=67, time=120))
    track.append(mido.Message("note_off", note=60, time=240))
    mido.MidiFile(tracks=[track]).save(tmp_path / "a.mid")
    found = sent(client, "score", "a.mid", (tmp_path / "a.mid").read_bytes(), tempo=240).json()
    assert found["notes"] == [[0, 0.25, 60], [0.25, 0.25, 67], [0.5, 0.5, 60]]


def test_a_tune_may_be_longer_than_a_window(client: TestClient, tmp_path: Path) -> None:
    track = mido.MidiTrack()
    for pitch in (60, 62, 64):  # of a second each: the tiny model's window is half of one
        track.append(mido.Message("note_on", note=pitch, velocity=80))
        track.append(mido.Message("note_off", note=pitch, time=960))
    mido.MidiFile(tracks=[track]).save(tmp_path / "a.mid")
    score = (tmp_path / "a.mid").read_bytes()
    whole = [[0, 2, 60], [2, 2, 62], [4, 2, 64]]
    assert sent(client, "score", "a.mid", score, tempo=120, seconds=3).json()["notes"] == whole
    cut = sent(client, "score", "a.mid", score, tempo=120, seconds=1.25).json()["notes"]
    assert cut == [whole[0], [2, 0.5, 62]]
    assert len(sent(client, "score", "a.mid", score, tempo=120).json()["notes"]) == 1

    time = np.arange(8000) / 8000
    tones = [0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (523.25, 659.26, 783.99)]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(tones), 8000, format="WAV")
    sung = buffer.getvalue()
    for seconds, classes in ((3, [0, 4, 7]), (1, [0])):
        found = sent(client, "melody", "a.wav", sung, tempo=120, seconds=seconds).json()["notes"]
        lasting = [pitch % 12 for _, length, pitch in found if length >= 1]
        assert lasting == classes


@pytest.mark.parametrize("method", ["ditto", "ditto2"])
def test_a_stopped_clip_is_its_best(
    method: str, client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []
    plain = Job.step

    def step(job: Job, now: Step, **how: Any) -> None:
        plain(job, now, **how)
        steps.append(now)
        # Without corrections at one that is not the best.
        if len(steps) > 8 and (method == "ditto2" or now.loss > now.best_loss):
            job.stop()

    monkeypatch.setattr(Job, "step", step)
    wish = {"loudness": {"text": "swell"}, "iterations": 200, "method": method}
    job = over(studio.generate(read_wish(Generate, wish)), "stopped")
    links = {one["label"]: one["url"] for one in job.clips[0]["downloads"]}
    losses = json.loads(client.get(f"/{links['JSON']}").content)["loss"]
    assert 8 < len(losses) == len(steps) < 200
    kept = Latent.load(studio.store.find(job.clips[0]["latent"], "out.latent"))
    # x_T that made the clip has the lowest loss; with corrections, of those that compare with it.
    (at,) = [i for i, one in enumerate(steps) if torch.equal(one.x_T, kept.x_T)]
    assert method == "ditto2" or at < len(steps) - 1
    assert losses[at] == min(losses[at:] if method == "ditto2" else losses)


def test_a_song_is_shown_like_an_edit(client: TestClient, studio: Studio) -> None:
    wish = {"seconds": 1.2, "fade": 0.2, "iterations": 1, "melody": {"text": "C4:1 E4:1"}}
    clip = over(studio.generate(read_wish(Generate, wish))).clips[0]
    assert clip["seconds"] == pytest.approx(1.2)
    assert "--seconds 1.2 --fade 0.2" in clip["command"]
    assert "ditto.song(" in clip["python"]
    assert [panel["title"] for panel in clip["panels"]] == ["melody"]
    report = next(one["url"] for one in clip["downloads"] if one["label"] == "JSON")
    assert json.loads(client.get(f"/{report}").content)["edit"] == "song"


def test_a_stopped_song_is_its_beginning(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Job.step

    def step(job: Job, now: Step, **how: Any) -> None:
        plain(job, now, **how)
        job.stop()

    monkeypatch.setattr(Job, "step", step)
    wish = {"seconds": 1.2, "iterations": 5, "loudness": {"text": "swell"}}
    job = over(studio.generate(read_wish(Generate, wish)), "stopped")
    (clip,) = job.clips
    assert clip["seconds"] < 0.6
    assert job.line == f"stopped: this is the beginning, {clip['seconds']:.2f} s"
    assert clip["others"] == []  # nothing is made without control after a stop


def over(job: Job, state: str = "done") -> Job:
    """Return a job once it is over, in this state."""
    until = time.monotonic() + 60
    while not job.over and time.monotonic() < until:
        time.sleep(0.02)
    assert job.state == state, job.line
    return job


def test_an_edit_with_controls_shows_target_midi_and_itself_without(
    client: TestClient, studio: Studio
) -> None:
    token = sent(client, "sound", "song.wav", wav(2)).json()["token"]
    controls = {"loudness": {"text": "0:-40 1.2:-10"}, "melody": {"text": "C4:1 E4:1"}}
    edit = {"kind": "inpaint", "recording": token, "regions": [[0.5, 0.7]], "overlap": 0.1}
    edit |= {"iterations": 2, "tags": "tempo=100"}
    job = over(studio.edit(read_wish(EditWish, edit | controls)))
    clip = job.clips[0]
    # The curve is over the whole, and counts in what is new; so is the tune.
    curve, chroma = clip["panels"]
    assert (curve["title"], chroma["title"]) == ("intensity", "melody")
    assert [*curve["during"]] == [(pytest.approx(0.5), pytest.approx(0.7))]
    assert len(curve["target"]) == len(curve["achieved"]) == pytest.approx(1.2 * 125, abs=2)
    assert curve["target"][0] < curve["target"][-1] - 20
    target = next(one["url"] for one in clip["downloads"] if one["label"] == "MIDI of the target")
    notes = mido.MidiFile(file=io.BytesIO(client.get(f"/{target}").content))
    assert [message.note for message in notes if message.type == "note_on"] == [60, 64]
    assert notes.length == pytest.approx(2 * 60 / 100, abs=0.01)

    assert (clip["side"], [side["name"] for side in clip["others"]]) == (
        "After",
        ["Before", "Without control"],
    )
    made, plain = (
        soundfile.read(io.BytesIO(client.get(f"/{one['sound']}").content), dtype="int16")[0]
        for one in (clip, clip["others"][1])
    )
    assert (made != plain).any()
    uncontrolled = over(studio.edit(read_wish(EditWish, edit))).clips[0]
    assert [side["name"] for side in uncontrolled["others"]] == ["Before"]
    assert uncontrolled["panels"] == []


def test_a_loop_is_drawn_once_however_often_it_is_written(studio: Studio) -> None:
    wish = {"kind": "loop", "bpm": 400, "bars": 1, "repeats": 3, "overlap": 0.1, "iterations": 1}
    wish |= {"loudness": {"text": "swell"}}
    clip = over(studio.edit(read_wish(EditWish, wish))).clips[0]
    assert clip["seconds"] == pytest.approx(0.6)
    once = {**wish, "repeats": 1}
    assert clip["peaks"] == over(studio.edit(read_wish(EditWish, once))).clips[0]["peaks"]
    assert [panel["title"] for panel in clip["panels"]] == ["intensity"]
    assert [side["name"] for side in clip["others"]] == ["Without control"]


def test_variations_stand_beside_the_clip_they_are_of(client: TestClient, studio: Studio) -> None:
    source = over(studio.generate(read_wish(Generate, {}))).clips[0]
    job = over(studio.vary(read_wish(Vary, {"latent": source["latent"], "count": 2, "steps": 2})))
    for clip in job.clips:
        assert [(side["name"], side["sound"]) for side in clip["others"]] == [
            ("Source", source["sound"])
        ]
    # An upload is a latent alone.
    address = next(one["url"] for one in source["downloads"] if one["label"] == ".latent")
    token = sent(client, "latent", "a.latent", client.get(f"/{address}").content).json()["token"]
    clip = over(studio.vary(read_wish(Vary, {"latent": token, "count": 1, "steps": 2}))).clips[0]
    assert clip["others"] == []


def test_rest_calls_give_a_sound_or_all_about_it(client: TestClient) -> None:
    wish = {"tags": "genre=jazz", "loudness": {"text": "swell"}, "iterations": 2, "seed": 3}
    answer = client.post("/studio/generate", json=wish)
    assert answer.status_code == 200, answer.text
    sound, rate = soundfile.read(io.BytesIO(answer.content))
    assert (len(sound), rate) == (64 * 64, 8000)
    told = client.post("/studio/generate", json=wish, headers={"accept": "application/json"}).json()
    assert client.get(f"/{told['sound']}").content == answer.content
    assert "intensity_mse_db2" in told["errors"]
    report = next(one["url"] for one in told["downloads"] if one["label"] == "JSON")
    assert json.loads(client.get(f"/{report}").content)["request"]["seed"] == 3
    named = client.get(f"/{told['sound']}?download=true").headers["content-disposition"]
    assert "out.wav" in named

    token = sent(client, "sound", "song.wav", wav(2)).json()["token"]
    edit = {"kind": "inpaint", "recording": token, "regions": [[0.5, 0.7]], "iterations": 1}
    answer = client.post("/studio/edit", json=edit | {"overlap": 0.1})
    edited, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    before, _ = soundfile.read(io.BytesIO(wav(2)), dtype="int16")
    np.testing.assert_array_equal(edited[:3200], before[:3200])
    assert (edited != before).any()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "send one JSON object"),
        (b"{", "send one JSON object"),
        (b"[" * 100_000, "send one JSON object"),
        (b'{"\\ud800": 1, "tags": "\\ud800"}', "input should be a valid string"),
        (b'{"guidance": NaN}', "guidance: input should be"),
        (b'{"loudness": {"text": "loud"}}', "cannot read the loudness curve 'loud'"),
        (b'{"loudness": "swell"}', "loudness: input should be"),
        (b'{"tags": "genre=polka"}', "unknown genre 'polka'"),
        (b'{"loudness": {"text": "0:-30 99:-20"}}', "the loudness curve goes on to 99 s"),
        (b'{"seconds": 181}', "seconds: input should be less than or equal to 180"),
        (b'{"seconds": 0.5, "fade": 0.1}', "a fade goes with music of several windows"),
        (b'{"seconds": 1.2, "fade": 2}', "the fade must be from 0 to the 1.2 s, not 2"),
        (b'{"method": "controlnet", "loudness": {"text": "swell"}}', "has no ControlNet"),
    ],
)
def test_a_wrong_call_is_one_line(client: TestClient, body: bytes, message: str) -> None:
    answer = client.post("/studio/generate", content=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"name": "a.mid", "tempo": "nan"}, "tempo must be from 20 to 400 BPM, not nan"),
        ({"name": "a.mid", "tempo": "-5"}, "tempo must be from 20 to 400 BPM, not -5"),
        ({"name": "a.mid", "tempo": "0"}, "tempo must be from 20 to 400 BPM, not 0"),
        ({"name": "a.mid", "tempo": "fast"}, "tempo: input should be a valid number"),
        ({"name": "a.mid", "seconds": "nan"}, "seconds must be above 0 and at most 900, not nan"),
        ({"name": "a.mid", "seconds": "0"}, "seconds must be above 0 and at most 900, not 0"),
        ({"name": "a.mid", "seconds": "1e9"}, "seconds must be above 0 and at most 900, not 1e+09"),
        ({}, "name: field required"),
    ],
)
def test_a_wrong_query_is_one_line(client: TestClient, query: dict, message: str) -> None:
    answer = client.post("/studio/upload/score", params=query, content=b"MThd")
    assert (answer.status_code, answer.json().keys()) == (422, {"error"})
    assert answer.json()["error"].startswith(message)


def test_a_bug_is_one_line_and_stands_in_the_log(
    front: Front, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "look_into", lambda file: 1 / 0)
    app = Guard(make_app(front, HOST), HOST)
    client = TestClient(app, base_url=f"http://{HOST}:7860", raise_server_exceptions=False)
    before = set(studio.store.root.iterdir())
    answer = sent(client, "sound", "a.wav", wav())
    assert answer.status_code == 500
    assert answer.json() == {"error": "something went wrong in the studio: its log says what"}
    assert set(studio.store.root.iterdir()) == before


@pytest.mark.parametrize("name", ["C# minor 100%.wav", "what's +1 & more?.wav", "曲" * 90 + ".wav"])
def test_any_name_can_be_played(client: TestClient, name: str) -> None:
    found = sent(client, "sound", name, wav()).json()
    assert client.get(f"/{found['sound']}").content == wav()


def test_a_sound_of_too_many_samples_is_not_decoded(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.studio.work.MAX_VALUES", 19_199)  # wav(2) has one more
    monkeypatch.setattr("ditto.studio.work.read", lambda *_, **__: pytest.fail("it was decoded"))
    line = sent(client, "sound", "a.wav", wav(2)).json()["error"]
    assert line.startswith("a.wav holds too many samples to be edited here")


def test_a_score_is_not_kept(client: TestClient, studio: Studio, tmp_path: Path) -> None:
    track = mido.MidiTrack([mido.Message("note_on", note=60), mido.Message("note_off", time=480)])
    mido.MidiFile(tracks=[track]).save(tmp_path / "a.mid")
    before = set(studio.store.root.iterdir())
    assert sent(client, "score", "a.mid", (tmp_path / "a.mid").read_bytes()).status_code == 200
    assert set(studio.store.root.iterdir()) == before


def test_no_path_of_the_machine_is_told(client: TestClient, studio: Studio) -> None:
    for address in ("/", "/config", "/gradio_api/info", "/studio/static/base.js"):
        text = client.get(address).text
        assert str(Path.home()) + "/" not in text
        assert str(studio.store.root) not in text
        assert str(Path(__file__).parent.parent.parent) not in text


@pytest.mark.parametrize(
    "address",
    [
        "/gradio_api/upload",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/vibe-edit/",
        "/studio/static/../work.py",
        "/studio/files/../x/y",
        "/studio/files/aaaaaaaaaaaaaaaaaaaaaaaa/out.wav",
        "/docs",
        "/openapi.json",
    ],
)
def test_what_is_not_needed_is_closed(client: TestClient, address: str) -> None:
    for answer in (client.get(address), client.post(address)):
        assert answer.status_code in (403, 404, 405), (address, answer.status_code)
        assert "root:" not in answer.text


def test_other_sites_may_not_use_it(client: TestClient) -> None:
    wish = {"iterations": 1}
    for headers in ({"origin": "http://example.org"}, {"host": "example.org:7860"}):
        answer = client.post("/studio/generate", json=wish, headers=headers)
        assert answer.status_code == 403
    for headers in ({"origin": "null"}, {"host": "[::1"}):
        assert client.get("/config", headers=headers).status_code == 403
    assert client.get("/config", headers={b"origin": b"http://\xff"}).status_code == 403
    # Gradio alone would let any page of this machine read it.
    assert client.get("/config", headers={"origin": "http://localhost:3000"}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/join"):
        pass
    own = {"origin": f"http://{HOST}:7860"}
    assert client.post("/studio/jobs/x/stop", headers=own).status_code == 404


def test_a_policy_lets_the_page_fetch_from_here_only(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not source.startswith(("./", "/", "studio/", "data:", f"http://{HOST}", "assets/")):
            assert source == "https://gradio.app/", source  # metadata, never fetched


def test_a_job_that_nobody_waits_for_is_stopped(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.studio.jobs.UNWATCHED_SECONDS", 0.2)
    job = studio.generate(
        Generate.model_validate({"loudness": {"text": "swell"}, "iterations": 500})
    )
    until = time.monotonic() + 60
    while not job.over and time.monotonic() < until:
        time.sleep(0.05)
    assert job.state in ("stopped", "failed")
    assert len(job.losses) < 500


def test_the_first_iteration_is_heard(studio: Studio, client: TestClient) -> None:
    job = studio.generate(Generate.model_validate({"loudness": {"text": "swell"}, "iterations": 1}))
    until = time.monotonic() + 60
    while not job.over and time.monotonic() < until:
        time.sleep(0.05)
    assert job.state == "done"
    sound, rate = soundfile.read(io.BytesIO(client.get(f"/{job.preview}").content))
    assert (len(sound), rate) == (64 * 64, 8000)
    assert sound.any()
