"""A clip again from its report: the same, or what differs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests.conftest import Command

import ditto
from ditto import plots, repeat
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result


@pytest.fixture
def run(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    soundfile.write(tmp_path / "song.wav", samples, 8000)
    return lambda *words: ditto_music(*words, "--model", model_folder)


QUICK = "-K", 2, "-T", 2


@pytest.mark.parametrize("ending", [".wav", ".mp3", ".ogg", ".flac"])
def test_an_item_of_a_batch_is_made_again(run: Command, ending: str) -> None:
    words = "generate", "--loudness", "swell", "--count", 3, "--seed", 5, "--seconds", 0.4
    assert run(*words, *QUICK, "-o", f"a{ending}")[0] == 0
    for name in (f"a-2{ending}", "a-2.json"):
        code, _, err = run("again", name)
        assert (code, err) == (0, f"a-2{ending}: the same, sample for sample\n")
    Path("a-1.json").unlink()  # its tags say enough
    assert run("again", f"a-1{ending}", "-o", "b.wav")[0] == 0
    assert {"b.wav", "b.png", "b.json"} <= {path.name for path in Path().iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        "inpaint song.wav --from 0.4 --to 0.6 --overlap 0.2",
        "outpaint song.wav --seconds 1.5 --overlap 0.2 --backwards",
        "loop song.wav --overlap 0.1 --repeats 2",
        "loop --seconds 0.3 --overlap 0.1",
        "generate --seconds 1.2 --loudness 0:-60 --fade 0.1 --tags genre=jazz",
    ],
)
@pytest.mark.parametrize("ending", [".flac", ".mp3"])
def test_an_edit_is_made_again(run: Command, words: str, ending: str) -> None:
    assert run(*words.split(), *QUICK, "-o", f"a{ending}")[0] == 0
    for _ in ("by its report", "by its tags"):
        code, _, err = run("again", f"a{ending}")
        assert (code, err) == (0, f"a{ending}: the same, sample for sample\n")
        Path("a.json").unlink(missing_ok=True)


@pytest.mark.usefixtures("together")
def test_what_was_made_together_is_made_together_again(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    """Sums of a batch are rounded otherwise than a clip's: its whole batch makes it again."""
    request = Request(
        ditto.Intensity("swell"), seed=5, count=5, iterations=2, method=Ditto(steps=2)
    )
    made = ditto.run(request, tiny_model)
    path = tmp_path / "a.wav"
    made.save(path, 3, picture=False)
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["batch"] == {"seed": 5, "count": 5, "item": 3}
    assert (report["request"]["seed"], report["request"]["count"]) == (8, 1)
    for _ in ("by its report", "by its tags"):
        again = repeat.again(tiny_model, path)
        assert (again.same, again.item) == (True, 3)
        assert isinstance(again.made, Result)
        assert torch.equal(again.made.audio, made.audio)
        path.with_suffix(".json").unlink(missing_ok=True)
    alone = ditto.run(replace(request, count=1, seed=8), tiny_model)
    assert "batch" not in alone.report()


def test_a_comparison_draws_no_picture(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("generate", "--method", "none", "-T", 2, "-o", "a.wav")[0] == 0
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path, force: drawn.append(path))
    assert run("again", "a.wav")[0] == 0
    assert drawn == []


def test_controls_that_tags_have_no_room_for_are_said(run: Command) -> None:
    tune = " ".join(["C4:0.05 E4:0.05"] * 50)
    for words in (
        ["generate", "--melody", tune],
        ["outpaint", "song.wav", "--seconds", 1.5, "--overlap", 0.2, "--melody", tune],
    ):
        assert run(*words, *QUICK, "--force", "-o", "a.wav")[0] == 0
        assert run("again", "a.wav")[0] == 0
        Path("a.json").unlink()
        code, _, err = run("again", "a.wav")
        assert (code, err.count("\n")) == (2, 1)
        assert "the tags of a.wav have no room for its controls" in err


def test_a_report_of_somebody_else_beside_a_sound_is_passed_over(run: Command) -> None:
    assert run("generate", "--method", "none", "-T", 2, "-o", "a.wav")[0] == 0
    for text in ('{"artist": "me"}', "no JSON"):
        Path("a.json").write_text(text)
        assert run("again", "a.wav")[0] == 0
        assert run("again", "a.json")[0] == 2


def test_a_variation_and_what_began_from_a_latent_need_it(run: Command) -> None:
    assert run("generate", "--latent", "x.latent", *QUICK, "-o", "x.wav")[0] == 0
    assert run("vary", "x.latent", "--count", 2, "-T", 2, "-o", "v")[0] == 0
    code, _, err = run("again", "v/001.json")
    assert code == 2
    assert "began from the latent x.latent: give it" in err
    code, _, err = run("again", "v/001.json", "--start", "x.latent")
    assert (code, "the same" in err) == (0, True), err


@pytest.mark.parametrize("how", ["ditto", "ddim", "naive", "null-text"])
def test_an_inversion_is_made_again(run: Command, how: str) -> None:
    Path("song.wav").rename("caf\udce9.wav")
    words = "invert", "caf\udce9.wav", "--from", 0.2, "--how", how, "--seed", 3
    assert run(*words, *QUICK, "-o", "found.latent")[0] == 0
    for _ in ("by its report", "by its tags"):
        code, _, err = run("again", "found.wav")
        assert (code, err) == (0, "found.wav: the same, sample for sample\n")
        Path("found.json").unlink(missing_ok=True)
    Path("caf\udce9.wav").rename("elsewhere.wav")
    code, _, err = run("again", "found.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert "found.wav is an edit of caf\\udce9.wav: give it" in err
    assert run("again", "found.wav", "--recording", "elsewhere.wav")[0] == 0


def test_a_form_like_a_recording_s_is_made_again(run: Command) -> None:
    late = np.concatenate([np.zeros(4000), soundfile.read("song.wav")[0][:, 0]])
    soundfile.write("late.wav", late, 8000)
    words = "generate", "--structure-like", "late.wav", "--like-from", "auto", "--loudness", "swell"
    assert run(*words, "--structure-tolerance", 0.1, *QUICK, "-o", "a.wav")[0] == 0
    assert run("again", "a.wav")[1:] == ("", "a.wav: the same, sample for sample\n")
    Path("late.wav").rename("elsewhere.wav")
    code, _, err = run("again", "a.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert "a.wav is like late.wav: give it" in err
    assert run("again", "a.wav", "--recording", "elsewhere.wav")[0] == 0
    code, _, err = run("again", "a.wav", "--recording", "song.wav")
    assert code == 1, err


@pytest.mark.parametrize("words", ["", "--recording elsewhere.wav"])
def test_a_recording_that_is_read_is_not_replaced(run: Command, words: str) -> None:
    """With --force, a form's recording was written over, and an edit's refused after the work."""
    form = "generate", "--structure-like", "song.wav", "--no-compare", "-K", 1, "-T", 1
    assert run(*form, "-o", "a.wav")[0] == 0
    edit = "inpaint", "song.wav", "--from", 0.4, "--to", 0.6, "--overlap", 0.2, "-K", 1, "-T", 1
    assert run(*edit, "-o", "b.wav")[0] == 0
    Path("elsewhere.wav").write_bytes(Path("song.wav").read_bytes())
    name = words.split()[-1] if words else "song.wav"
    before = Path(name).read_bytes()
    for report in ("a.json", "b.json"):
        code, _, err = run("again", report, *words.split(), "-o", name, "--force")
        assert (code, err) == (
            2,
            f"error: cannot write {name}: this command reads it, choose another name\n",
        )
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("was", ["../song.wav", "/etc/hosts", "", "a/b", "..", "x\0y"])
def test_a_report_names_no_recording_elsewhere(run: Command, was: str) -> None:
    words = "inpaint", "song.wav", "--from", 0.4, "--to", 0.6, "--overlap", 0.2
    assert run(*words, *QUICK, "-o", "a.wav")[0] == 0
    report = json.loads(Path("a.json").read_text())
    Path("a.json").write_text(json.dumps(report | {"recording": was}))
    code, _, err = run("again", "a.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "give it (recording, --recording)" in err


def test_what_differs_is_said(run: Command) -> None:
    assert run("generate", "--method", "none", "-T", 2, "-o", "a.wav")[0] == 0
    report = json.loads(Path("a.json").read_text())
    report["versions"]["ditto"], report["model"]["sha256"] = "0.0.1", "f" * 64
    report["request"]["seed"] = 9
    Path("a.json").write_text(json.dumps(report))
    code, _, err = run("again", "a.json")
    assert code == 1
    assert "version ditto: 0.0.1 then, " in err
    assert "model sha256: ffffffffffffffff then, " in err
    assert "a.wav: differs (up to " in err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"model": {}}',
        '{"model": {}, "request": {"seed": "x"}}',
        '{"model": {}, "request": {"tags": 3}}',
        '{"edit": "loop", "model": {}}',
        '{"model": {}, "request": {}, "versions": 3}',
        "[" * 100_000,
        '{"model": {}, "request": {"controls": [3]}}',
        '{"model": {}, "request": {"controls": [' + '{"terms": [' * 450 + "]}" * 450 + "]}}",
        '{"model": {}, "request": {"controls": [{"control": "structure", "like": 3, "from": 0}]}}',
        '{"model": {}, "invert": {"recording": 3}, "request": {}}',
    ],
)
def test_what_is_no_report_is_one_line(run: Command, text: str) -> None:
    Path("a.json").write_text(text)
    code, _, err = run("again", "a.json", "-o", "b.wav")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert run("again", "none.json")[0] == 2
    assert run("again", "song.wav")[0] == 2


def test_a_clip_that_was_stopped_is_made_again_as_far(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    control, path = ditto.Intensity("swell"), tmp_path / "a.wav"
    settings = {"seed": 3, "iterations": 10, "method": Ditto(steps=2, lr=0.05)}
    clip = ditto.generate(tiny_model, control, stop=lambda step: step.i == 2, **settings)
    assert len(clip.losses) == 3
    clip.save(path)
    again = ditto.again(tiny_model, path.with_suffix(".json"))
    assert again.same
    assert isinstance(again.made, Result)
    assert len(again.made.losses) == 3


def test_a_clip_like_a_longer_recording_is_made_again(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    samples = np.linspace(0.01, 0.2, 16000) * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "long.wav", samples, 8000)
    like = ditto.Intensity.of_recording(tmp_path / "long.wav", tiny_model.spec)
    path = tmp_path / "a.wav"
    ditto.generate(tiny_model, like, iterations=2, method=Ditto(steps=2)).save(path)
    assert ditto.again(tiny_model, path.with_suffix(".json")).same


def test_a_variation_by_freedom_is_made_again_with_its_strength(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    plain = ditto.generate(
        tiny_model, ditto.Intensity("swell"), iterations=2, method=Ditto(steps=2)
    )
    plain.latent().save(tmp_path / "a.latent")
    latent = ditto.Latent.load(tmp_path / "a.latent")
    clips = ditto.vary(tiny_model, latent, count=1, how="ddpm+freedom", steps=3, strength=0.5)
    clips.save(tmp_path / "b.wav", 0)
    again = ditto.again(tiny_model, tmp_path / "b.json", start=latent)
    assert again.same
