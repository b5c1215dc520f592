"""Files that anybody may have made, and wrong calls of the API: one line, before any work."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import Command, make_network

import ditto
from ditto.audio.bands import Bands
from ditto.audio.spec import AudioSpec
from ditto.errors import DittoError, ModelError, RequestError
from ditto.latents import FORMAT, Latent
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.student import Student

PLAIN = ditto.Uncontrolled(steps=1)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("denoiser", {"depth": 10**9}),
        ("denoiser", {"width": 9600}),
        ("denoiser", {"width": 32}),
        ("denoiser", {"tag_sizes": [10**9, 3, 13]}),
        ("denoiser", {"depth": 1}),
        ("denoiser", {"depth": -1}),
        ("denoiser", {"width": "wide"}),
        ("denoiser", {"heads": 0}),
        ("denoiser", {"heads": 3}),
        ("denoiser", {"heads": 16}),
        ("denoiser", {"gelu": None}),
        ("denoiser", {"gelu": "x"}),
        ("denoiser", {"skip_std": "0"}),
        ("denoiser", {"guidance_embedded": 0}),
        ("vocoder", {"feedback": "3"}),
        ("vocoder", {"feedback": True}),
        ("vocoder", {"n_fft": 10**12}),
        ("vocoder", {"width": 10**6}),
        ("vocoder", {"unknown": 1}),
        ("vocoder", {"feedback": 10**6}),
        ("vocoder", {"feedback": -1}),
        ("vocoder", {"n_fft": 64}),
    ],
)
def test_a_config_that_asks_for_more_than_its_weights_is_refused_unbuilt(
    model_folder: Path, tmp_path: Path, part: str, changes: dict[str, Any]
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match="does not fit its weights") as caught:
        ditto.load(tmp_path / "model")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"sample_rate": -1}},
        {"spec": {"hop": 0}},
        {"spec": {"n_mels": 80}},
        {"spec": {"clip_frames": 10**12}},
        {"vocabulary": {"genres": ["a"] * 9}},
        {"vocabulary": {"genres": [1, 2, 3]}},
        {"guidance": float("nan")},
        {"guidance": None},
        {"shift": 0.0},
        {"shift": 1e300},
        {"spec": {"sample_rate": 16_000}},
        {"spec": {"hop": 32}},
        {"spec": {"clip_frames": 63}},
        {"vocabulary": {"tempo_low": "slow"}},
        {"vocabulary": {"tempo_low": 180.0}},
        {"vocabulary": {"tempo_high": float("nan")}},
        {"vocabulary": {"tempo_bins": 12.0}},
        *(
            {"bands": asdict(bands), "sha256": {"bands": bands.sha256}}
            for bands in (
                Bands((0.0,) * 3, (1.0,) * 3),
                Bands((float("nan"),) * 16, (1.0,) * 16),
                Bands((0.0,) * 16, (float("inf"),) * 16),
            )
        ),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "model_index.json"
    index = json.loads(path.read_text())
    for name, value in changes.items():
        index[name] = index.get(name, {}) | value if isinstance(value, dict) else value
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is not a Ditto model's index"):
        ditto.load(tmp_path / "model")


def test_a_network_that_predicts_who_knows_what_is_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "denoiser" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction": "x"}))
    with pytest.raises(ModelError, match="its network predicts none of sample"):
        ditto.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"n_mels": 8}, "number of bands than its student"),
        ({"tag_sizes": (2, 2, 2)}, "another size than its student"),
        ({"guidance_embedded": False}, "none of its network"),
        ({"kind": "own"}, "no student of kind own"),
        ({"guidance": (float("nan"), 3.0)}, "for w nan to 3"),
        ({"guidance": (3.0, 1.0)}, "for w 3 to 1"),
    ],
)
def test_a_student_of_something_else_is_refused(
    tiny_model: MusicModel, tmp_path: Path, student: dict[str, Any], message: str
) -> None:
    said = {"kind": "ctm", "guidance": (1.0, 5.0)}
    network = make_network(
        **{"guidance_embedded": True} | {n: v for n, v in student.items() if n not in said}
    )
    said |= {name: value for name, value in student.items() if name in said}
    distilled = Student(network, teacher=hash_weights(tiny_model.network), **said)
    replace(tiny_model, distilled=distilled).save(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        ditto.load(tmp_path / "model")


@pytest.mark.parametrize("changes", [{"sample_rate": 0}, {"n_fft": 1.5}, {"hop": 4096}])
def test_a_spectrogram_of_nonsense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AudioSpec(**changes)


def latent(path: Path, x_T: torch.Tensor, request: str = "{}", model: str = "") -> Path:
    save_file({"x_T": x_T}, path, {"format": FORMAT, "model": model, "request": request})
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_any_floating_point_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    loaded = Latent.load(latent(tmp_path / "a.latent", torch.zeros(1, 1, 16, 64, dtype=dtype)))
    assert loaded.x_T.dtype == torch.float32


@pytest.mark.parametrize(
    ("x_T", "message"),
    [
        (torch.zeros(1, 1, 16, 0), r"float32 of shape \(1, 1, 16, 0\)"),
        (torch.zeros(1, 1, 16, 64, dtype=torch.int32), "int32"),
        (torch.zeros(4), "of shape"),
    ],
)
def test_what_is_no_latent_says_what_it_is(tmp_path: Path, x_T: torch.Tensor, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Latent.load(latent(tmp_path / "a.latent", x_T))


def test_a_latent_of_another_rank_is_no_matter_of_seconds(tiny_model: MusicModel) -> None:
    for shape in ((1, 16, 64), (1, 2, 16, 64), (1, 1, 1, 16, 64)):
        with pytest.raises(RequestError, match="has an x_T of shape"):
            ditto.generate(tiny_model, start=Latent(torch.zeros(shape), ""), method=PLAIN)


@pytest.mark.parametrize(
    "request_",
    [
        "[]",
        "[" * 100_000,
        '{"controls": 3}',
        '{"seed": "x"}',
        '{"tags": {"genre": 3}}',
        '{"method": {"name": "ditto", "steps": "x"}}',
        '{"controls": [{"control": 3}]}',
    ],
)
def test_a_latent_with_a_malformed_request_is_one_line(
    ditto_music: Command, model_folder: Path, tmp_path: Path, request_: str
) -> None:
    sha256 = ditto.load(model_folder).sha256
    latent(tmp_path / "a.latent", torch.zeros(1, 1, 16, 64), request_, sha256)
    words = "vary", "a.latent", "--count", 1, "-T", 1, "-o", "v", "--model", model_folder
    code, _, err = ditto_music(*words)
    assert (code, err.count("\n")) == (2, 1) or "controls" in request_, err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        "vary a.latent --random-tags --seed -1 -o v",
        "vary a.latent -T 0 -o v",
        "vary a.latent --count 0 -o v",
        "loop --seconds 0.3 --overlap 0.1 --beat nan --tags tempo=100 -o o.wav",
        "loop --seconds 0.3 --overlap 0.1 --repeats 1001 -o o.wav",
    ],
)
def test_numbers_out_of_range_are_one_line(
    ditto_music: Command, model_folder: Path, tmp_path: Path, words: str
) -> None:
    sha256 = ditto.load(model_folder).sha256
    latent(tmp_path / "a.latent", torch.zeros(1, 1, 16, 64), "{}", sha256)
    code, _, err = ditto_music(*words.split(), "--model", model_folder)
    assert (code, err.count("\n")) == (2, 1), err


WRONG: dict[str, Any] = {
    "no model": lambda m, s: ditto.generate(None),
    "a path as a model": lambda m, s: ditto.generate("model"),
    "a word as controls": lambda m, s: ditto.generate(m, "crescendo"),
    "a word as tempo": lambda m, s: ditto.generate(m, tags={"tempo": "110"}),
    "a number as a curve": lambda m, s: ditto.Intensity(3),
    "a weight of NaN": lambda m, s: ditto.Intensity("swell") * float("nan"),
    "half a seed": lambda m, s: ditto.generate(m, seed=0.5),
    "a seed of a word": lambda m, s: ditto.generate(m, seed="7"),
    "a flag as count": lambda m, s: ditto.generate(m, count=True),
    "a word as start": lambda m, s: ditto.generate(m, start="a.latent"),
    "a class as method": lambda m, s: ditto.generate(m, method=ditto.Ditto),
    "regions that are none": lambda m, s: ditto.inpaint(m, s, 3),
    "a region of one number": lambda m, s: ditto.inpaint(m, s, [(0.2,)]),
    "a region of words": lambda m, s: ditto.inpaint(m, s, [("a", "b")]),
    "an overlap of a word": lambda m, s: ditto.inpaint(m, s, [(0.3, 0.4)], overlap="1"),
    "a number as a recording": lambda m, s: ditto.inpaint(m, 3, [(0.3, 0.4)]),
    "an edit of no model": lambda m, s: ditto.inpaint(None, s, [(0.3, 0.4)]),
    "up": lambda m, s: ditto.outpaint(m, s, 2.0, direction="up", overlap=0.1),
    "seconds of a word": lambda m, s: ditto.outpaint(m, s, "2"),
    "a request that is none": lambda m, s: ditto.outpaint(m, s, 2.0, request=3),
    "half a repeat": lambda m, s: ditto.loop(m, 0.3, repeats=1.5),
    "an inversion from NaN": lambda m, s: ditto.invert(m, s, begin=float("nan")),
    "a latent of a word": lambda m, s: ditto.vary(m, "a.latent"),
    "a strength of NaN": lambda m, s: ditto.vary(
        m,
        Latent(torch.zeros(1, 1, 16, 64), m.sha256),
        how="ddpm+freedom",
        controls=[ditto.Intensity("swell")],
        strength=float("nan"),
    ),
    "no such item": lambda m, s: ditto.generate(m, method=PLAIN).save("a.wav", item=-1),
    "an item past the last": lambda m, s: ditto.generate(m, method=PLAIN).latent(1),
    "an item's report": lambda m, s: ditto.generate(m, method=PLAIN).report(2),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_line(tiny_model: MusicModel, tmp_path: Path, name: str) -> None:
    ditto.write(tmp_path / "s.wav", 0.1 * torch.randn(1, 8000).numpy(), 8000)
    with pytest.raises(DittoError) as caught:
        WRONG[name](tiny_model, tmp_path / "s.wav")
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_of_numpy_are_welcome(tiny_model: MusicModel, tmp_path: Path) -> None:
    ditto.write(tmp_path / "s.wav", 0.1 * torch.randn(1, 8000).numpy(), 8000)
    made = ditto.generate(
        tiny_model,
        tags={"tempo": np.float32(100)},
        seed=np.int64(3),
        count=np.int32(2),
        seconds=np.float64(0.3),
        method=PLAIN,
    )
    assert made.report(np.int64(1))["request"]["seed"] == 4
    region = np.array([[0.3, 0.4]])
    ditto.inpaint(tiny_model, tmp_path / "s.wav", region, overlap=np.float32(0.1), method=PLAIN)


def test_controls_can_be_summed() -> None:
    a, b = ditto.Intensity("swell"), ditto.Structure("AB")
    assert sum([a, b]) == a + b
    with pytest.raises(TypeError):
        1 + a
