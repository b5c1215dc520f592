"""Students of flows: what they start as, that they learn, and from recordings to a clip."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diffusers import AceStepPipeline, StableAudio3Pipeline
from tests.conftest import Command
from tests.models.adapters.test_student import TINY, Once, estimates, with_student
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import PROMPT, noise_of

from ditto.controls.intensity import Intensity
from ditto.diffusion.consistency import euler_jump
from ditto.diffusion.denoiser import ProjectedDenoiser
from ditto.diffusion.schedule import CLEAN
from ditto.errors import DataError, ModelError, RequestError
from ditto.methods.ditto2 import Ditto2
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt, load
from ditto.models.network import hash_weights
from ditto.request import Request
from ditto.runner import run
from ditto.training.consistency_loss import guided
from ditto.training.distill import distillation_loss, draw, train_from_folder
from ditto.training.loop import Ema
from ditto.training.student_init import copy_sharing_frozen, init_student, merge_lora, trainable

MAKERS = {"stable_audio_3": make_stable_audio_3, "ace_step": make_ace_step}
SECONDS = {"stable_audio_3": 0.3, "ace_step": 0.8}
GUIDED = {"stable_audio_3": "GuidedStableAudio3DiT", "ace_step": "GuidedAceStepTransformer"}


@pytest.fixture(scope="module")
def bases() -> dict[str, PipelineModel]:
    return {name: adapt(make(base=True)) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def base(request: pytest.FixtureRequest, bases: dict[str, PipelineModel]) -> PipelineModel:
    return bases[request.param]


def test_a_student_starts_as_its_teacher_hears_w_and_keeps_the_boundaries(
    base: PipelineModel,
) -> None:
    network = base.new_student()
    x_T, cond = noise_of(base, 0, 1), base.cond(PROMPT, 2)
    times = torch.tensor(base.student_schedule.timesteps(3)[:2])
    with torch.no_grad():
        expected = base.denoiser(x_T, times, cond, 1.0)
        found = base.student_denoiser(network)(x_T, times, cond, torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(found, expected)
    stirred, x = with_student(base), noise_of(base, 0)
    assert (estimates(stirred, 1.0) - estimates(stirred, 5.0)).abs().max() > 1e-4
    assert torch.equal(estimates(stirred, 3.0, CLEAN), x)
    schedule = base.student_schedule
    for t in schedule.timesteps(3):
        sigma = schedule.sigma(t, x).squeeze()
        jumped = euler_jump(schedule, x, estimates(stirred, 3.0, t), t, sigma)
        assert torch.equal(jumped, x / schedule.at(t, x).sqrt())


def test_a_student_is_not_distilled_again(base: PipelineModel) -> None:
    with pytest.raises(ModelError, match="is a student already"):
        replace(base, network=base.new_student()).new_student()


@pytest.mark.parametrize(
    ("turbo", "changes", "message"),
    [
        (True, {}, "its own student"),
        (False, {"student_spacing": "few"}, "no grid by noise levels"),
        (False, {"spacing": "karras"}, "no grid by noise levels"),
        (False, {"start_from": "student"}, "has no student to start from"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_recordings_are_encoded(
    turbo: bool,
    changes: dict[str, Any],
    message: str,
    bases: dict[str, PipelineModel],
    tmp_path: Path,
) -> None:
    teacher = adapt(make_ace_step()) if turbo else bases["ace_step"]
    noise = 0.1 * np.random.default_rng(0).standard_normal((16_000, 2))
    soundfile.write(tmp_path / "one.wav", noise, 8000)
    config = replace(TINY, seconds=SECONDS["ace_step"], **changes)
    with pytest.raises((DataError, ModelError), match=message):
        train_from_folder(config, teacher, tmp_path, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["one.wav"]


def test_decoding_that_forgets_x_T_is_refused_of_a_cm_student_too(base: PipelineModel) -> None:
    asked = Request(Intensity("swell"), PROMPT, guidance=2.0, iterations=1)
    with pytest.raises(RequestError, match="gamma 1 in 4 steps forgets x_T"):
        run(replace(asked, method=Ditto2(decode_steps=4)), with_student(base, "cm"))


def test_each_example_is_guided_by_its_own_scale_as_the_teacher_guides(base: PipelineModel) -> None:
    """Of ACE-Step by APG: in its first step, where it remembers nothing yet."""
    denoiser, x_T = base.denoiser, torch.cat([noise_of(base, seed) for seed in range(3)])
    assert isinstance(denoiser, ProjectedDenoiser) == base.sings
    cond, times = base.cond(PROMPT, 3), torch.tensor(base.student_schedule.timesteps(3))
    w = torch.tensor([0.5, 1.0, 6.0])
    with torch.no_grad():
        found = guided(denoiser, x_T, times, cond, denoiser.null_cond(cond), w)
        one_by_one = [
            denoiser(x_T[i : i + 1], times[i : i + 1], cond[i : i + 1], w[i].item())
            for i in range(3)
        ]
    torch.testing.assert_close(found, torch.cat(one_by_one), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "kind", "rank"),
    [
        ("stable_audio_3", "cm", 0),
        ("stable_audio_3", "ctm", 2),
        ("ace_step", "cm", 2),
        ("ace_step", "ctm", 0),
    ],
)
def test_the_loss_of_a_batch_falls_in_50_steps(
    bases: dict[str, PipelineModel], name: str, kind: str, rank: int
) -> None:
    model = bases[name]
    config = replace(TINY, kind=kind, loss="mse", lora_rank=rank, lr=1e-2, guidance=(1.0, 3.0))
    x_0 = torch.randn(2, *model.latent_shape, 8, generator=torch.Generator().manual_seed(0))
    cond = model.encode_prompts(["calm jazz", "loud rock"])
    example = draw(config, model, config.grid_of(model.student_schedule), x_0, cond, 0)
    network = init_student(model, rank)
    average, target = Ema(network, config.target_ema), copy_sharing_frozen(network)
    teacher = Once(model.denoiser) if not model.sings else model.denoiser
    adamw = torch.optim.AdamW(trainable(network).values(), lr=config.lr, fused=True)
    losses = []
    for step in range(50):
        average.copy_to(target)
        students = (model.student_denoiser(net) for net in (network, target))
        loss = distillation_loss(*students, teacher, config, example)
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        average.update(network, step)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert merge_lora(network).state_dict().keys() == init_student(model).state_dict().keys()


@pytest.mark.parametrize(("name", "kind"), [("stable_audio_3", "cm"), ("ace_step", "ctm")])
def test_from_recordings_to_a_clip_by_commands(
    name: str, kind: str, ditto_music: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.training.student_gap.SCALES", (3.0,))
    adapt(MAKERS[name](base=True)).save(Path("base"))
    Path("songs").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal((16_000, 2))
    soundfile.write("songs/one.wav", noise, 8000)
    Path("songs/one.txt").write_text("a calm jazz song")
    recipe = {"kind": kind, "seconds": SECONDS[name], "guidance": [1, 8], "data_std": 1.0}
    few = {"grid": 4, "steps": 2, "batch_size": 2, "evaluate_count": 1, "lora_rank": 2}
    Path("recipe.json").write_text(json.dumps(recipe | few))
    given = ["--config", "recipe.json", "--teacher", "base", "--data", "songs", "--out", "run"]
    code, _, error = ditto_music("distill", kind, *given, "--device", "cpu")
    assert code == 0, error
    pack = ["distill", "pack", "--run", "run", "--teacher", "base"]
    code, out, error = ditto_music(*pack, "--out", "model")
    assert code == 0, error
    model, teacher = load("model"), load("base")
    assert out.split() == ["sha256", model.sha256]
    assert model.distilled is not None
    assert (model.distilled.kind, model.distilled.guidance) == (kind, (1.0, 8.0))
    assert type(model.distilled.network).__name__ == GUIDED[name]
    assert model.distilled.teacher == hash_weights(teacher.network)
    assert ditto_music(*pack, "--alone", "--out", "alone")[0] == 0
    assert teacher.with_student("alone").sha256 == model.sha256
    pipeline = {"stable_audio_3": StableAudio3Pipeline, "ace_step": AceStepPipeline}[name]
    assert adapt(pipeline.from_pretrained("model")).sha256 == teacher.sha256
    seconds, control = SECONDS[name], Intensity("0:-20 0.2:-45")
    asked = Request(control, PROMPT, seconds=seconds, guidance=3.0, iterations=8, seed=3)
    result = run(asked, model)
    assert isinstance(result.request.method, Ditto2)
    assert result.losses[-1] < result.losses[0]
    assert bool(result.audio.isfinite().all())
    clip = ["generate", "--model", "model", "--seconds", seconds, "--guidance", 2, "-K", 2]
    code, _, error = ditto_music(
        *clip, "--loudness", "swell", "--tags", "prompt=calm", "-o", "a.wav"
    )
    assert code == 0, error
