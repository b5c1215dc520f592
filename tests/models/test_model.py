"""The model folder: what is saved comes back, and whatever is wrong with a folder is one clear
line."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ditto.audio.bands import Bands
from ditto.audio.features import log_mel
from ditto.audio.limiter import limited
from ditto.diffusion.samplers import Chain
from ditto.errors import DittoError, ModelError, RequestError, TagError
from ditto.models import hub
from ditto.models.conditioning import Tags
from ditto.models.folder import INDEX
from ditto.models.model import MusicModel
from ditto.models.network import WEIGHTS, hash_weights

load = partial(hub.load, precision="float32")


def outputs(model: MusicModel) -> list[torch.Tensor]:
    x = torch.randn(2, *model.shape(), generator=torch.Generator().manual_seed(0))
    x_0 = model.denoiser(x, torch.tensor([100, 900]), model.cond(Tags("jazz", tempo=100), 2), 2.0)
    return [x_0, model.to_audio(x_0)]


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be spoiled."""
    return shutil.copytree(model_folder, tmp_path / "copy")


def test_saving_and_loading_gives_the_same_outputs(model_folder: Path, tmp_path: Path) -> None:
    first = load(model_folder)
    assert first.save(str(tmp_path / "again")) == first.sha256
    second = load(tmp_path / "again")
    assert second.sha256 == first.sha256
    for name in ("denoiser", "vocoder"):
        assert (tmp_path / "again" / name / WEIGHTS).read_bytes() == (
            model_folder / name / WEIGHTS
        ).read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(outputs(first), outputs(second), strict=True))
    settings = ("spec", "vocabulary", "guidance", "shift", "spacing", "sampler")
    assert all(getattr(first, name) == getattr(second, name) for name in settings)


def test_a_folder_says_how_its_model_is_sampled(
    student_model: MusicModel, tmp_path: Path, folder: Path
) -> None:
    assert student_model.distilled is not None
    student = replace(student_model.distilled, steps=4, spacing="few")
    replace(student_model, spacing="karras", sampler="dpm++", distilled=student).save(
        tmp_path / "new"
    )
    model = load(tmp_path / "new")
    assert model.distilled is not None
    assert (model.spacing, model.own_sampler, model.distilled.steps) == ("karras", "dpm++", 4)
    assert model.student_schedule.timesteps(4) == model.schedule.timesteps(4, "few")
    said = json.loads((tmp_path / "new" / INDEX).read_text())
    said["student"]["spacing"] = "linspace"
    (tmp_path / "new" / INDEX).write_text(json.dumps(said))
    with pytest.raises(ModelError, match="no spacing linspace of a student's steps"):
        load(tmp_path / "new")
    # As those of version 0.1, which say none of it.
    index = json.loads((folder / INDEX).read_text())
    assert (index.pop("sampler"), index.get("spacing")) == ("ddim", None)
    (folder / INDEX).write_text(json.dumps(index))
    old = load(folder)
    assert (old.spacing, old.own_sampler) == (None, "ddim")


def test_half_precision_weights_are_near_the_originals(
    tiny_model: MusicModel, model_folder: Path
) -> None:
    for ours, loaded in zip(outputs(tiny_model)[:1], outputs(load(model_folder))[:1], strict=True):
        assert 0 < (ours - loaded).norm() < 0.01 * ours.norm()


def test_a_weight_beyond_half_precision_is_refused(tiny_model: MusicModel, tmp_path: Path) -> None:
    network = copy.deepcopy(tiny_model.network)
    next(network.parameters()).data.flatten()[0] = 7e4  # float16 ends at 65 504
    with pytest.raises(ModelError, match="a weight of the denoiser does not fit float16"):
        replace(tiny_model, network=network).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_is_frozen_float32_and_in_evaluation_mode(model_folder: Path) -> None:
    before = torch.get_rng_state()
    model = load(model_folder)
    for part in (model.network, model.vocoder):
        assert not part.training
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in part.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_leaves_the_model_as_it_is(tiny_model: MusicModel, tmp_path: Path) -> None:
    before = [p.clone() for p in tiny_model.network.parameters()]
    tiny_model.save(tmp_path / "model")
    assert all(
        torch.equal(a, b) for a, b in zip(before, tiny_model.network.parameters(), strict=True)
    )


@pytest.fixture
def student_folder(student_model: MusicModel, tmp_path: Path) -> Path:
    """The tiny model with its student, on disk."""
    student_model.save(tmp_path / "student")
    return tmp_path / "student"


def student_output(model: MusicModel, w: float = 2.0) -> torch.Tensor:
    assert model.student is not None
    x = torch.randn(2, *model.shape(), generator=torch.Generator().manual_seed(0))
    return model.student(x, torch.tensor([100, 900]), model.cond(Tags("jazz"), 2), w)


def test_a_student_is_a_part_of_its_model(
    student_model: MusicModel, model_folder: Path, student_folder: Path
) -> None:
    plain, model = load(model_folder), load(student_folder)
    assert plain.student is None
    assert plain.distilled is None
    assert model.distilled is not None
    assert (model.distilled.kind, model.distilled.guidance) == ("ctm", (1.0, 5.0))
    assert plain.sha256 != model.sha256 == student_model.save(student_folder)
    ours = student_output(student_model)
    assert 0 < (student_output(model) - ours).norm() < 0.01 * ours.norm()
    assert not torch.allclose(student_output(model, 4.0), student_output(model), atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(outputs(plain), outputs(model), strict=True))
    assert model.distilled.teacher == hash_weights(plain.network)


def test_a_student_alone_is_no_model_and_a_model_no_student_alone(
    student_model: MusicModel, model_folder: Path, tmp_path: Path
) -> None:
    assert student_model.distilled is not None
    student_model.distilled.save(tmp_path / "alone")
    with pytest.raises(ModelError, match="another kind of model"):
        load(tmp_path / "alone")
    joined = load(model_folder).with_student(tmp_path / "alone")
    assert torch.equal(
        student_output(joined), student_output(student_model.with_student(tmp_path / "alone"))
    )
    with pytest.raises(ModelError, match="another kind of model than a student alone"):
        joined.with_student(model_folder)
    with pytest.raises(ModelError, match="no model folder"):
        joined.with_student(tmp_path / "missing")


STUDENT = {"class": "PatchTransformer", "kind": "cm", "guidance": [1, 2], "teacher": ""}
STUDENT_SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights damaged": (lambda f: damage(f / "student" / WEIGHTS), "damaged"),
    "weights missing": (
        lambda f: (f / "student" / WEIGHTS).unlink(),
        "student/diffusion_pytorch_model.* is missing",
    ),
    "description missing": (lambda f: edit_index(f, student=None), "does not describe its student"),
    "guidance is one number": (
        lambda f: edit_index(f, student={"guidance": [1]}),
        "does not describe its student",
    ),
    "no steps": (
        lambda f: edit_index(f, student=STUDENT | {"steps": 0}),
        "does not describe its student: steps must be between 1 and 20, not 0",
    ),
    "unknown class": (
        lambda f: edit_index(
            f, student={"class": "os", "kind": "cm", "guidance": [1, 2], "teacher": ""}
        ),
        "unknown class 'os' for student",
    ),
}


@pytest.mark.parametrize("spoil", STUDENT_SPOILS)
def test_a_spoiled_student_is_one_clear_line(student_folder: Path, spoil: str) -> None:
    action, message = STUDENT_SPOILS[spoil]
    action(student_folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(student_folder)
    assert len(str(caught.value).splitlines()) == 1


def edit_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | changes))


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def other_width(folder: Path) -> None:
    config = folder / "denoiser" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depth": 3}))


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights damaged": (lambda f: damage(f / "denoiser" / WEIGHTS), "damaged"),
    "weights cut short": (lambda f: (f / "vocoder" / WEIGHTS).write_bytes(b"1234"), "damaged"),
    "weights missing": (
        lambda f: (f / "vocoder" / WEIGHTS).unlink(),
        "vocoder/diffusion_pytorch_model.* is missing",
    ),
    "config missing": (lambda f: (f / "denoiser" / "config.json").unlink(), "damaged"),
    "config is no JSON": (lambda f: (f / "denoiser" / "config.json").write_text("{"), "damaged"),
    "config of a deeper network": (other_width, "does not fit its weights"),
    "index missing": (lambda f: (f / INDEX).unlink(), "not a model folder"),
    "index is no JSON": (lambda f: (f / INDEX).write_text("{\n\n"), "cannot read"),
    "index is no text": (lambda f: (f / INDEX).write_bytes(b"\xff\xfe\x00"), "cannot read"),
    "index is a list": (lambda f: (f / INDEX).write_text("[]"), "another kind of model"),
    "another pipeline": (
        lambda f: edit_index(f, _class_name="StableDiffusionPipeline"),
        "another kind of model",
    ),
    "unknown class": (lambda f: edit_index(f, denoiser="os"), "unknown class 'os'"),
    "class is a list": (
        lambda f: edit_index(f, denoiser=["diffusers", "UNet2DModel"]),
        "unknown class",
    ),
    "class of another part": (
        lambda f: edit_index(f, denoiser="Vocoder"),
        "unknown class 'Vocoder' for denoiser",
    ),
    "another network": (lambda f: edit_index(f, denoiser="TagUNet"), "does not fit its weights"),
    "hashes missing": (lambda f: edit_index(f, sha256=None), "damaged"),
    "hashes are a list": (lambda f: edit_index(f, sha256=[1]), "damaged"),
    "spec unknown": (lambda f: edit_index(f, spec={"rate": 3}), "not a Ditto model's index"),
    "vocabulary missing": (lambda f: edit_index(f, vocabulary=None), "not a Ditto model's index"),
    "unknown grid": (lambda f: edit_index(f, spacing="even"), "its spacing is none of trailing, l"),
    "unknown sampler": (lambda f: edit_index(f, sampler=[1]), "its sampler is none of ddim, dpm"),
    "guidance is a word": (lambda f: edit_index(f, guidance="much"), "not a Ditto model's index"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoiled_folder_is_one_clear_line(folder: Path, spoil: str) -> None:
    action, message = SPOILS[spoil]
    action(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ModelError, match="no model folder"):
            load(path)


def test_shape_is_whole_patches_of_at_most_the_window(tiny_model: MusicModel) -> None:
    assert tiny_model.shape() == (1, 16, 64)
    assert tiny_model.shape(0.266) == (1, 16, 34)  # 33.25 frames, patches of 2
    assert tiny_model.shape(0.512) == (1, 16, 64)
    for seconds in (0.0, -1.0, 0.6, 100.0, math.inf, math.nan):
        with pytest.raises(RequestError, match=r"at most 0\.51"):
            tiny_model.shape(seconds)


def test_conditioning_is_the_tags_for_every_item(tiny_model: MusicModel) -> None:
    assert tiny_model.cond(Tags("rock", "calm", 61), 2).tolist() == [[2, 1, 1, 610, 0]] * 2
    with pytest.raises(TagError):
        tiny_model.cond(Tags("polka"))


def test_encoding_is_the_log_mel(tiny_model: MusicModel) -> None:
    audio = torch.randn(2, 640, generator=torch.Generator().manual_seed(0)) * 0.1
    x_0 = tiny_model.encode(audio)
    assert x_0.shape == (2, 1, 16, 10)
    assert torch.equal(tiny_model.to_mel(x_0), log_mel(audio, tiny_model.spec))
    assert tiny_model.to_audio(x_0).shape == (2, 640)


def banded(model: MusicModel) -> MusicModel:
    """The model with normalised bands."""
    mean, std = (tuple(start + 0.01 * i for i in range(16)) for start in (-0.1, 0.1))
    return replace(model, bands=Bands(mean, std))


def test_normalised_bands_are_a_part_of_the_folder(tiny_model: MusicModel, tmp_path: Path) -> None:
    model = banded(tiny_model)
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.bands == model.bands
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    index["bands"]["std"][3] = 0.0
    (tmp_path / "model" / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="statistics are damaged"):
        load(tmp_path / "model")


def test_the_hash_covers_the_bands(tiny_model: MusicModel, tmp_path: Path) -> None:
    model = banded(tiny_model)
    digest = model.save(tmp_path / "model")
    assert load(tmp_path / "model").sha256 == digest != tiny_model.save(tmp_path / "plain")
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    index["bands"]["mean"][3] += 0.01
    (tmp_path / "model" / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="the bands' hash is not the one promised"):
        load(tmp_path / "model")


def test_a_folder_without_bands_has_the_log_mel_as_its_x_0(model_folder: Path) -> None:
    assert "bands" not in json.loads((model_folder / INDEX).read_text())
    assert not load(model_folder).bands


def test_encoding_and_to_mel_are_the_two_ways_between_the_spaces(tiny_model: MusicModel) -> None:
    model = banded(tiny_model)
    audio = 0.1 * torch.randn(2, 64 * 64, generator=torch.Generator().manual_seed(0))
    x_0 = model.encode(audio)
    mel = log_mel(audio, model.spec)
    torch.testing.assert_close(x_0[:, 0, 3], (mel[:, 3] - model.bands.mean[3]) / model.bands.std[3])
    torch.testing.assert_close(model.to_mel(x_0), mel)
    torch.testing.assert_close(
        model.to_audio(x_0), tiny_model.to_audio(mel[:, None]), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("distilled", [False, True])
def test_chains_hold_normalised_clips_to_the_log_mels_range(
    student_model: MusicModel, distilled: bool
) -> None:
    model = banded(student_model)
    denoiser = model.student if distilled else model.denoiser
    assert denoiser is not None
    chain = Chain(
        denoiser, model.schedule, model.schedule.timesteps(2), model.cond(Tags("jazz"), 1)
    )
    x_0 = chain.predict(100 * torch.ones(1, *model.shape()), 999)
    mel = model.to_mel(x_0)
    assert mel.abs().max() <= 1 + 1e-5
    assert x_0.abs().max() > 1.2
    plain = student_model.student if distilled else student_model.denoiser
    assert (
        replace(chain, denoiser=plain).predict(100 * torch.ones(1, *model.shape()), 999).abs().max()
        <= 1
    )


def test_schedule_is_the_shifted_one(tiny_model: MusicModel) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert tiny_model.schedule.sigma(999, like).item() == pytest.approx(0.5 * 20291.0, rel=0.01)
    assert issubclass(ModelError, DittoError)


def test_the_fast_model_omits_the_vocoders_feedback_alone(tiny_model: MusicModel) -> None:
    x_0 = tiny_model.noise(tiny_model.shape(), torch.Generator().manual_seed(0))[None]
    fast = tiny_model.fast
    expected = limited(tiny_model.vocoder(tiny_model.to_mel(x_0), feedback=0))
    assert torch.equal(fast.to_audio(x_0), expected)
    assert fast is tiny_model.fast
    assert (fast.network, fast.spec) == (tiny_model.network, tiny_model.spec)
    other = replace(tiny_model, vocoder=torch.nn.Identity())  # pyright: ignore[reportArgumentType]
    assert other.fast is other


def test_a_model_in_bfloat16_is_the_same_model_that_computes_otherwise(
    student_model: MusicModel,
) -> None:
    low = replace(student_model, precision=torch.bfloat16)
    x_t, t = (
        torch.randn(1, 1, 16, 64, generator=torch.Generator().manual_seed(0)),
        torch.tensor([900]),
    )
    for name in ("denoiser", "student"):
        plain, rough = (
            getattr(m, name)(x_t, t, m.cond(Tags("jazz")), 1.5) for m in (student_model, low)
        )
        assert rough.dtype == torch.float32
        assert 0 < (rough - plain).abs().max() < 0.05 * plain.abs().max()
    assert hash_weights(low.network) == hash_weights(student_model.network)
    assert torch.equal(low.to_audio(x_t), student_model.to_audio(x_t)), (
        "what is heard is decoded in float32"
    )
    assert {p.dtype for p in low.fast.vocoder.parameters()} == {torch.float32, torch.bfloat16}
    fast, rough = student_model.fast.to_audio(x_t), low.fast.to_audio(x_t)
    assert 0 < (rough - fast).square().mean() < 1e-2 * fast.square().mean()
    assert low.describe() == student_model.describe() | {"precision": "bfloat16"}


def test_what_is_called_the_windows_length_is_the_window() -> None:
    model = load()
    assert model.shape(6.0) == model.shape(5.944) == model.shape()
    assert model.shape(5.5)[-1] < model.shape()[-1]
    with pytest.raises(RequestError, match=r"at most 5\.94 in one window, not 6\.1"):
        model.shape(6.1)
