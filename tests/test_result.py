"""Results and their files: sound, picture, report, tags, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Command

from ditto.audio.io import read, read_tags
from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.errors import OutputError
from ditto.latents import Latent, draw_x_T
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.guidance import FreeDoM
from ditto.methods.none import Uncontrolled
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.result import Result, output_files
from ditto.runner import run


@pytest.fixture(scope="module")
def result(tiny_model: MusicModel) -> Result:
    """Two clips of 5 iterations."""
    tags, method = Tags("jazz", tempo=100), Ditto(steps=3, lr=0.05)
    request = Request(Intensity("swell"), tags, seed=7, count=2, iterations=5, method=method)
    return run(request, tiny_model)


def test_what_a_result_holds(result: Result) -> None:
    assert result.x_T.shape == result.x_0.shape == (2, 1, 16, 64)
    assert result.audio.shape == (2, 4096)
    assert result.audio.abs().max() <= 1
    assert result.losses.shape == (5, 2)
    assert set(result.errors) == {"intensity_mse_db2", "intensity_rho"}
    assert set(result.timings) == {"optimize", "decode"}
    assert not result.x_0.requires_grad
    assert not result.audio.requires_grad


def test_a_clip_that_ends_farther_from_what_was_asked_says_so(
    result: Result, ditto_music: Command
) -> None:
    control = result.request.controls[0]
    assert result.ended is not None
    torch.testing.assert_close(result.ended, control(result.x_0, result.model, seeds=result.seeds))
    torch.testing.assert_close(result.ended, result.losses.amin(dim=0), rtol=1e-3, atol=0)
    assert result.farther(1) is None
    assert "notes" not in result.report(1)
    worse = replace(result, losses=0.9 * result.ended[None])
    said = worse.farther(1)
    assert said is not None
    assert f"(loss {result.ended[1]:.3g}) than where it began ({worse.losses[0, 1]:.3g})" in said
    assert worse.report(1)["notes"] == [said]
    words = "generate", "--loudness", "0:-40 3:-14 6:-40", "--seed", 3, "-o", "clip.wav", "--force"
    code, _, err = ditto_music(*words, "--no-compare", "-K", 6, "--lr", 1)
    assert code == 0
    assert "note: it is farther from what was asked (loss " in err
    code, _, err = ditto_music(*words, "--no-compare", "-K", 6)
    assert "farther" not in err


def test_saving_writes_sound_picture_and_report(result: Result, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "clip.wav", 1)
    assert [path.name for path in paths] == ["clip.wav", "clip.png", "clip.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.json", "clip.png", "clip.wav"]
    sound = read(tmp_path / "clip.wav")
    assert sound.sample_rate == 8000
    np.testing.assert_allclose(sound.samples[0], result.samples(1), atol=1 / 32768)
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "clip.json").read_text())
    assert report["request"]["seed"] == 8
    assert report["request"]["count"] == 1
    assert report["request"]["tags"] == {"genre": "jazz", "mood": None, "tempo": 100}
    described = {"name": "tiny", "sha256": "", "precision": "float32", "device": "cpu"}
    assert report["model"] == described
    assert report["errors"]["intensity_mse_db2"] == pytest.approx(
        result.errors["intensity_mse_db2"][1].item(), rel=1e-4
    )
    assert report["loss"] == pytest.approx(result.losses[:, 1].tolist(), rel=1e-4)
    assert {"torch", "diffusers", "ditto"} <= set(report["versions"])


def test_the_report_says_how_much_is_kept_of_the_clip_without_control(
    student_model: MusicModel, tmp_path: Path
) -> None:
    method = Ditto2(corrections=0, lr=0.1)
    request = Request(Intensity("swell"), seed=7, count=2, iterations=3, method=method)
    made, without = (run(request, student_model, compare=compare) for compare in (True, False))
    assert np.array_equal(made.audio, without.audio)
    assert "compare" not in made.timings
    report = made.report(1)["kept"]
    assert report == made.kept.to_dict(1)
    assert report["words"] == made.kept.words(1)
    assert set(report) == {
        "onsets_per_second",
        "uncontrolled_onsets_per_second",
        "onsets_percent",
        "clap_similarity",
        "words",
    }
    assert "compare" in made.timings
    assert "kept" not in without.report(1)
    started = run(replace(request, iterations=1, count=1, seed=8), student_model)
    np.testing.assert_allclose(started.kept.mel[0], made.kept.mel[1], atol=1e-3)
    made.save(tmp_path / "clip.wav", 1)
    without.save(tmp_path / "plain.wav", 1)
    wide, narrow = (width(tmp_path / name) for name in ("clip.png", "plain.png"))
    assert wide > narrow


def test_there_is_nothing_to_compare_without_control_and_in_edits(
    student_model: MusicModel,
) -> None:
    plain = Request(iterations=1)
    region = Region.invert(torch.zeros(1, 16, 64))
    kept = Request((region,), iterations=1, method=Ditto2(corrections=0))
    guided = Request(Intensity("swell"), method=FreeDoM(steps=2))
    for request in (plain, kept, guided):
        made = run(request, student_model)
        assert made.kept is None
        assert "kept" not in made.report()


def width(path: Path) -> int:
    """The width of a PNG, from its header."""
    return int.from_bytes(path.read_bytes()[16:20], "big")


def test_a_report_remakes_its_clip(result: Result) -> None:
    report = json.loads(json.dumps(result.report(1)))
    again = run(Request.from_dict(report["request"]), result.model)
    np.testing.assert_allclose(again.samples(), result.samples(1), atol=2e-3)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg"])
def test_the_sound_files_tags_hold_the_request(result: Result, tmp_path: Path, ending: str) -> None:
    result.save(tmp_path / f"clip{ending}")
    tags = read_tags(tmp_path / f"clip{ending}")
    assert tags["title"] == "A jazz song at 100 beats per minute. Seed 7, ditto."
    assert tags["software"].startswith("ditto-music")
    kept = json.loads(tags["comment"])
    assert kept["request"] == result.report()["request"]
    assert kept["model"] == result.report()["model"]
    assert Request.from_dict(kept["request"]).controls == result.request.controls


def test_a_request_too_long_for_a_tag_is_shortened(tiny_model: MusicModel, tmp_path: Path) -> None:
    text = " ".join(f"{i * 0.007:.5f}:-{20 + i / 7:.6f}" for i in range(60))
    made = run(Request(Intensity(text), iterations=1, method=Ditto(steps=1)), tiny_model)
    made.save(tmp_path / "clip.wav")
    kept = json.loads(read_tags(tmp_path / "clip.wav")["comment"])
    assert kept["request"]["seed"] == 0
    assert kept["request"]["controls"] == "intensity (in full in the .json)"
    report = json.loads((tmp_path / "clip.json").read_text())
    assert len(report["request"]["controls"][0]["points"]) == 60


@pytest.mark.parametrize("existing", ["clip.wav", "clip.png", "clip.json"])
def test_nothing_is_written_where_a_file_exists(
    result: Result, tmp_path: Path, existing: str
) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        result.save(tmp_path / "clip.wav")
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"
    if existing != "clip.wav":  # a name that the user did not give: what is there is not Ditto's
        with pytest.raises(OutputError, match="Ditto did not write"):
            result.save(tmp_path / "clip.wav", force=True)
        assert (tmp_path / existing).read_text() == "mine"
        (tmp_path / existing).unlink()
    result.save(tmp_path / "clip.wav", force=True)
    assert len(list(tmp_path.iterdir())) == 3
    result.save(tmp_path / "clip.wav", force=True)  # its own picture and report


@pytest.mark.parametrize(
    "name", ["clip.png", "clip.json", "clip", "clip.xyz", ".", "..", "", ".wav"]
)
def test_names_that_are_no_sound_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"must end in \.wav"):
        output_files(tmp_path / name if name not in ("", ".", "..") else name)


def test_each_clip_has_the_vocoders_noise_of_its_own_seed(tiny_model: MusicModel) -> None:
    latent = Latent(draw_x_T(tiny_model.shape(), 0, 1), tiny_model.sha256)
    made = run(Request(seed=3, count=2, start=latent, method=Uncontrolled(steps=2)), tiny_model)
    assert torch.equal(made.x_0[0], made.x_0[1])
    for i, seed in enumerate((3, 4)):
        assert torch.equal(made.audio[i], tiny_model.to_audio(made.x_0[:1], (seed,))[0])
    assert (made.audio[0] - made.audio[1]).square().mean() > 0.01 * made.audio.square().mean()
