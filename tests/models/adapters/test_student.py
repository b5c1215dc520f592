"""Students of pipelines: what they start as, that they learn, are saved, loaded, and serve
DITTO-2."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diffusers import StableAudioPipeline, UNet2DConditionModel
from tests.models.adapters.tiny_pipelines import PROMPT, make_musicldm, make_stable_audio, noise_of
from torch import Tensor

from ditto.controls.intensity import Intensity
from ditto.diffusion.consistency import euler_jump
from ditto.diffusion.denoiser import Denoiser
from ditto.diffusion.schedule import CLEAN
from ditto.errors import DataError, ModelError, RequestError
from ditto.latents import draw_x_T
from ditto.methods.base import Problem
from ditto.methods.ditto2 import Ditto2
from ditto.methods.proxies import proxied
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt, load
from ditto.models.network import hash_weights
from ditto.models.student import Student
from ditto.request import Request
from ditto.runner import run
from ditto.training.distill import DistillConfig, distillation_loss, draw, train_from_folder
from ditto.training.loop import Ema
from ditto.training.pack import pack_student
from ditto.training.student_init import copy_sharing_frozen, init_student, merge_lora, trainable

TINY = DistillConfig(
    guidance=(1.0, 8.0),
    data_std=1.0,
    grid=4,
    steps=2,
    batch_size=2,
    warmup=1,
    log_every=1,
    evaluate_count=1,
    lr=3e-3,
    loss="pseudo_huber",
)
FRAMES = 8


def with_student(model: PipelineModel, kind: str = "ctm") -> PipelineModel:
    """The model with a student that is not quite its denoiser, and hears w."""
    network = model.new_student()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    network.requires_grad_(False).eval()
    return replace(model, distilled=Student(network, kind, (1.0, 8.0), hash_weights(model.network)))


def estimates(model: PipelineModel, w: float, t: int | None = None) -> Tensor:
    """The student's x̂_0 of noise, at its first timestep or another."""
    assert model.student is not None
    t = model.student_schedule.timesteps(1)[0] if t is None else t
    with torch.no_grad():
        return model.student(noise_of(model, 0), torch.tensor([t]), model.cond(PROMPT), w)


def test_a_student_starts_as_its_teacher_whatever_w(model: PipelineModel) -> None:
    network = model.new_student()
    x_T, cond, (t,) = (
        noise_of(model, 0, 1),
        model.cond(PROMPT, 2),
        model.student_schedule.timesteps(1),
    )
    times = torch.full((2,), t)
    with torch.no_grad():
        expected = model.denoiser(x_T, times, cond, 1.0)
        found = model.student_denoiser(network)(x_T, times, cond, torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(found, expected)
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert not any(p.requires_grad for p in model.network.parameters())


def test_a_student_hears_w_and_the_prompt(model: PipelineModel) -> None:
    model = with_student(model)
    assert model.student is not None
    assert (estimates(model, 1.0) - estimates(model, 5.0)).abs().max() > 1e-4
    x_T, times = noise_of(model, 0, 0), torch.tensor(model.student_schedule.timesteps(1) * 2)
    with torch.no_grad():
        one, other = model.student(
            x_T, times, model.encode_prompts(["calm jazz", "loud rock"]), 2.0
        )
    assert (one - other).abs().max() > 1e-4


def test_the_boundary_conditions_hold_exactly(model: PipelineModel) -> None:
    """CM: g(x, t→0) is x. CTM: G(x, t→t) is x, here in VE coordinates."""
    model, x = with_student(model), noise_of(model, 0)
    assert torch.equal(estimates(model, 3.0, CLEAN), x)
    schedule = model.student_schedule
    for t in schedule.timesteps(3):
        jumped = euler_jump(
            schedule, x, estimates(model, 3.0, t), t, schedule.sigma(t, x).squeeze()
        )
        assert torch.equal(jumped, x / schedule.at(t, x).sqrt())


def test_the_grids_of_a_student_begin_at_noise_and_end_at_clean_data(model: PipelineModel) -> None:
    schedule, like = model.student_schedule, torch.zeros(1, dtype=torch.float64)
    for steps in (1, 2, 4):
        grid = schedule.timesteps(steps)
        assert grid[0] == schedule.num_train - 1
        assert set(grid) <= set(schedule.timesteps(20))
    assert schedule.sigma(CLEAN, like).item() == 0


class Once:
    """A frozen denoiser that is always asked the same, and answers from memory."""

    limit = None

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.answer = denoiser, None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        if self.answer is None:
            self.answer = self.denoiser(x_t, t, cond, guidance)
        return self.answer


@pytest.mark.parametrize(
    ("base", "kind", "rank"),
    [
        ("audioldm2", "cm", 0),
        ("musicldm", "ctm", 2),
        ("stable_audio", "cm", 2),
        ("stable_audio", "ctm", 0),
    ],
)
def test_the_loss_of_a_batch_falls_in_50_steps(
    request: pytest.FixtureRequest, base: str, kind: str, rank: int
) -> None:
    model: PipelineModel = request.getfixturevalue(base)
    config = replace(TINY, kind=kind, loss="mse", lora_rank=rank, lr=1e-2, guidance=(1.0, 3.0))
    x_0 = torch.randn(2, *model.latent_shape, FRAMES, generator=torch.Generator().manual_seed(0))
    cond = model.encode_prompts(["calm jazz", "loud rock"])
    example = draw(config, model, config.grid_of(model.student_schedule), x_0, cond, 0)
    network = init_student(model, rank)
    average, target, teacher = (
        Ema(network, config.target_ema),
        copy_sharing_frozen(network),
        Once(model.denoiser),
    )
    adamw = torch.optim.AdamW(trainable(network).values(), lr=config.lr, fused=True)
    losses = []
    for step in range(50):
        average.copy_to(target)
        loss = distillation_loss(
            model.student_denoiser(network),
            model.student_denoiser(target),
            teacher,
            config,
            example,
        )
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        average.update(network, step)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("base", ["musicldm", "stable_audio"])
def test_lora_trains_few_weights_shares_the_rest_and_merges_into_a_plain_network(
    request: pytest.FixtureRequest, base: str
) -> None:
    model: PipelineModel = request.getfixturevalue(base)
    network, plain = init_student(model, 2), init_student(model)
    own = trainable(network)
    assert all(".lora_" in name or "cond_proj" in name or "guidance_proj" in name for name in own)
    assert sum(p.numel() for p in own.values()) < 0.4 * sum(p.numel() for p in plain.parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    other = copy_sharing_frozen(network)
    for (name, a), b in zip(network.named_parameters(), other.parameters(), strict=True):
        assert (a is b) == (name not in own)
    x_T, cond, times = (
        noise_of(model, 0),
        model.cond(PROMPT),
        torch.tensor(model.student_schedule.timesteps(2)[1:]),
    )
    with torch.no_grad():
        before = model.student_denoiser(network)(x_T, times, cond, 2.0)
        after = model.student_denoiser(merge_lora(other))(x_T, times, cond, 2.0)
        untouched = model.student_denoiser(network)(x_T, times, cond, 2.0)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
    assert torch.equal(untouched, before)
    assert other.state_dict().keys() == plain.state_dict().keys()


def test_the_same_seed_begins_with_the_same_lora_and_leaves_the_process_alone(
    stable_audio: PipelineModel,
) -> None:
    state = torch.get_rng_state()
    one, again, other = (trainable(init_student(stable_audio, 2, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_peft_lora_is_refused_in_one_line(
    stable_audio: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DataError, match=r"LoRA needs peft: pip install"):
        init_student(stable_audio, 2)


def test_a_student_is_not_distilled_again(musicldm: PipelineModel) -> None:
    with pytest.raises(ModelError, match="is a student already"):
        replace(musicldm, network=musicldm.new_student()).new_student()


def test_dropped_conditions_are_those_of_the_negative_prompt(musicldm: PipelineModel) -> None:
    cond = musicldm.encode_prompts(["calm jazz"] * 200)
    lost = musicldm.drop_conditions(cond, 0.3, torch.Generator().manual_seed(0))
    null = musicldm.denoiser.null_cond(cond)
    gone = (lost == null).all(dim=1)
    assert 0.2 < gone.double().mean() < 0.4
    assert torch.equal(lost[~gone], cond[~gone])


# Saved and loaded.


def test_a_saved_student_plays_the_same_when_loaded(model: PipelineModel, tmp_path: Path) -> None:
    before = with_student(model, "cm")
    digest = before.save(tmp_path / "whole")
    after = load(tmp_path / "whole")
    assert isinstance(after, PipelineModel)
    assert after.sha256 == digest != model.sha256
    assert after.distilled is not None
    assert (after.distilled.kind, after.distilled.guidance) == ("cm", (1.0, 8.0))
    assert torch.equal(estimates(after, 3.0), estimates(before, 3.0))
    card = (tmp_path / "whole" / "README.md").read_text()
    assert f"license: {model.licence['license']}" in card
    assert "distilled to few steps (CM)" in card


def test_a_student_alone_joins_its_base_and_has_its_licence(
    stable_audio: PipelineModel, tmp_path: Path
) -> None:
    both = with_student(stable_audio)
    assert both.distilled is not None
    both.distilled.save(tmp_path / "alone", both.student_card())
    joined = stable_audio.with_student(tmp_path / "alone")
    assert isinstance(joined, PipelineModel)
    assert joined.sha256 == both.save(tmp_path / "whole")
    assert torch.equal(estimates(joined, 3.0), estimates(both, 3.0))
    assert "license_name: stable-audio-community" in (tmp_path / "alone" / "README.md").read_text()
    other = replace(stable_audio, network=adapt(make_stable_audio()).new_student())
    with pytest.raises(ModelError, match="distilled from another model"):
        other.with_student(tmp_path / "alone")


def test_diffusers_loads_base_and_student(
    musicldm: PipelineModel, stable_audio: PipelineModel, tmp_path: Path
) -> None:
    with_student(musicldm).save(tmp_path / "musicldm")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "musicldm", subfolder="student")
    assert unet.config.time_cond_proj_dim == 32
    with_student(stable_audio).save(tmp_path / "stable")
    pipe = StableAudioPipeline.from_pretrained(tmp_path / "stable")
    assert adapt(pipe).sha256 == stable_audio.sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved base with its student."""
    place = tmp_path_factory.mktemp("students") / "whole"
    with_student(adapt(make_musicldm())).save(place)
    return place


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (
        lambda f: (f / "student" / "diffusion_pytorch_model.safetensors").unlink(),
        "is incomplete: student/diffusion_pytorch_model.safetensors is missing",
    ),
    "other weights": (
        lambda f: shutil.copy(f / "unet" / "diffusion_pytorch_model.safetensors", f / "student"),
        "is damaged",
    ),
    "other class": (lambda f: rewrite(f, "class", "Popen"), "names the unknown class 'Popen'"),
    "not described": (lambda f: rewrite(f, "guidance", None), "does not describe its student"),
}


def rewrite(folder: Path, key: str, value: object) -> None:
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    index["_ditto_student"]["student"][key] = value
    file.write_text(json.dumps(index))


@pytest.mark.parametrize("how", SPOILT)
def test_what_a_students_folder_lacks_is_named_in_one_line(
    folder: Path, tmp_path: Path, how: str
) -> None:
    spoil, message = SPOILT[how]
    spoil(Path(shutil.copytree(folder, tmp_path / "spoilt")))
    with pytest.raises(ModelError, match=message) as error:
        load(tmp_path / "spoilt")
    assert "\n" not in str(error.value)


# DITTO-2.


def test_ditto2_runs_on_any_pipeline_with_a_student(model: PipelineModel) -> None:
    seconds = model.spec.seconds(24)
    request = Request(
        controls=(Intensity("0:-20 0.1:-45"),),
        tags=PROMPT,
        guidance=2.0,
        seconds=seconds,
        iterations=5,
        seed=3,
        method=Ditto2(lr=0.02, decode_steps=1),
    )
    result = run(request, with_student(model))
    assert isinstance(result.request.method, Ditto2)
    assert result.losses[-1] < result.losses[1]
    two = run(replace(request, method=Ditto2(), controls=()), with_student(model))
    assert two.audio.shape == result.audio.shape
    assert result.audio.shape == (1, model.spec.samples(24))
    assert bool(result.audio.isfinite().all())


def test_a_guidance_that_the_student_was_not_taught_is_refused(stable_audio: PipelineModel) -> None:
    with pytest.raises(RequestError, match="student knows guidance from 1 to 8, not 9"):
        run(Request(tags=PROMPT, method=Ditto2(), guidance=9.0), with_student(stable_audio))


# From recordings to a model.


def test_a_run_on_recordings_becomes_a_model_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.training.student_gap.SCALES", (3.0,))
    (tmp_path / "songs").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal((12_000, 2))
    soundfile.write(tmp_path / "songs" / "one.wav", noise, 8000)
    (tmp_path / "songs" / "one.txt").write_text("a calm jazz song")
    adapt(make_stable_audio()).save(tmp_path / "base")
    config = replace(TINY, lora_rank=2, seconds=0.2, checkpoint_every=1)
    teacher = load(tmp_path / "base")
    train_from_folder(replace(config, steps=1), teacher, tmp_path / "songs", tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "samples").iterdir()] == ["00000001.png"]
    network = train_from_folder(config, teacher, tmp_path / "songs", tmp_path / "run")
    digest = pack_student(tmp_path / "run", tmp_path / "base", tmp_path / "student")
    model = load(tmp_path / "student")
    assert model.sha256 == digest
    assert model.distilled is not None
    assert type(model.distilled.network) is type(network)
    assert_weights(model.distilled.network, network)
    assert_weights(model.network, teacher.network)
    assert run(Request(tags=PROMPT, method=Ditto2(), seconds=0.2), model).audio.abs().max() > 0


def assert_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())


def test_corrections_hear_the_sound_where_x_0_is_no_mel(musicldm: PipelineModel) -> None:
    control = Intensity("swell")
    x_0 = draw_x_T(musicldm.shape(), 0, 1, musicldm.noise)
    cond = musicldm.cond(PROMPT, 1)
    problem = Problem(
        model=musicldm,
        controls=(control,),
        control=control,
        cond=cond,
        guidance=1.0,
        iterations=1,
        new_noise=lambda: lambda: x_0,
    )
    objective, calibrate = proxied(problem)
    torch.testing.assert_close(objective(x_0, x_0), control(x_0, musicldm))
    torch.testing.assert_close(calibrate(x_0)(x_0), control(x_0, musicldm))
