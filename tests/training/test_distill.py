"""Distillation: the student starts as its teacher and comes nearer, runs resume bit for bit, what
is packed."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import randomised
from tests.training.runs import assert_same, weights
from torch import Tensor

from ditto.errors import DataError, ModelError
from ditto.models import hub
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel, student_denoiser
from ditto.models.network import hash_weights
from ditto.models.student import Student
from ditto.models.unet import TagUNet
from ditto.training.consistency_loss import Grid
from ditto.training.distill import DistillConfig, draw, load_distilled, train_student, weight
from ditto.training.loop import RECIPES, load_config, read_log, start_run
from ditto.training.pack import pack_student
from ditto.training.student_gap import TeacherStudentGap, detail

load = partial(hub.load, precision="float32")

TINY = DistillConfig(
    steps=8,
    batch_size=4,
    lr=3e-3,
    warmup=2,
    ema=0.9,
    log_every=1,
    checkpoint_every=4,
    evaluate_every=100,
    evaluate_count=3,
    grid=4,
    data_std=0.3,
)
CONFIGS = RECIPES


class Clips:
    """Clips that are noise around a level that the genre gives, from the step alone; or a kill at a
    step."""

    def __init__(self, last: int = 1_000_000) -> None:
        self.last = last

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        if step > self.last:
            raise InterruptedError
        generator = torch.Generator().manual_seed(step)
        tags = torch.randint(1, 3, (batch_size, 5), generator=generator)
        noise = torch.randn(batch_size, 1, 16, 16, generator=generator)
        return 0.1 * noise + 0.3 * tags[:, :1, None, None] - 0.5, tags


@pytest.fixture(scope="module")
def run(tiny_model: MusicModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 steps."""
    folder = tmp_path_factory.mktemp("distill") / "run"
    train_student(TINY, tiny_model, Clips(), folder, show=False)
    return folder


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finished run of the module has its picture; the others need not take the time."""
    monkeypatch.setattr("ditto.plots.mel_grid", lambda *args, **settings: None)


def test_what_a_run_leaves(run: Path) -> None:
    names = sorted(path.name for path in run.iterdir())
    assert names == [
        "config.json",
        "log.jsonl",
        "samples",
        "step-00000004",
        "step-00000008",
        "tensorboard",
    ]
    assert load_config(run / "config.json", DistillConfig).grid == 4
    assert [path.name for path in (run / "samples").iterdir()] == ["00000008.png"]
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))
    first, last = rows[0], rows[-1]
    gaps = {f"gap_{steps}_w{w}" for steps in (1, 2, 4, 8) for w in (1, 3)}
    assert gaps <= set(last)
    assert {f"teacher_{name}" for name in gaps} <= set(first)
    assert (first["step"], last["step"]) == (0, 8)


def test_a_student_starts_as_its_teacher_whatever_w(tiny_model: MusicModel) -> None:
    network = tiny_model.new_student()
    assert dict(network.config)["guidance_embedded"] is True  # pyright: ignore[reportArgumentType]
    student = student_denoiser(network, tiny_model.schedule)
    x, t = (
        torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)),
        torch.tensor([100, 900]),
    )
    cond = tiny_model.cond(Tags("jazz", tempo=100), 2)
    for w in (1.0, 4.0):
        torch.testing.assert_close(student(x, t, cond, w), tiny_model.denoiser(x, t, cond, 1.0))


def test_a_student_may_start_as_the_one_that_is_there(
    student_model: MusicModel, tiny_model: MusicModel, tmp_path: Path
) -> None:
    """And be taught by the more exact chain; a step at a rate of nothing leaves it as it was."""
    assert student_model.distilled is not None
    config = replace(
        TINY,
        steps=1,
        lr=1e-12,
        evaluate_every=10,
        spacing="karras",
        solver="dpm++",
        start_from="student",
    )
    network = train_student(config, student_model, Clips(), tmp_path / "run", show=False)
    for name, began in student_model.distilled.network.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], began, atol=1e-9, rtol=0)
    with pytest.raises(DataError, match="'tiny' has no student to start from"):
        train_student(config, tiny_model, Clips(), tmp_path / "none", show=False)


@pytest.mark.parametrize(("kind", "loss"), [("cm", "pseudo_huber"), ("ctm", "mse")])
def test_the_student_comes_nearer_to_its_teacher(
    tiny_model: MusicModel, tmp_path: Path, kind: str, loss: str
) -> None:
    config = replace(
        TINY,
        kind=kind,
        loss=loss,
        steps=40,
        lr=2e-2,
        batch_size=8,
        evaluate_count=8,
        checkpoint_every=99,
    )
    train_student(config, tiny_model, Clips(), tmp_path, show=False)
    rows = read_log(tmp_path / "log.jsonl")
    for w in (1, 3):
        assert rows[-1][f"gap_1_w{w}"] < 0.7 * rows[0][f"teacher_gap_1_w{w}"]


def test_the_networks_of_a_run_are_three(run: Path, tiny_model: MusicModel) -> None:
    raw, target, averaged = (weights(run, group) for group in ("model", "target", "ema"))
    assert raw.keys() == target.keys() == averaged.keys()
    for a, b in ((raw, target), (raw, averaged)):
        assert not any(torch.equal(a[name], b[name]) for name in raw)
    assert_same(dict(load_distilled(run, tiny_model).network.state_dict()), averaged)


def test_the_target_follows_its_average(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch
) -> None:
    """The loss must see φ⁻ as it is now, not as it was when the run began."""
    import ditto.training.distill as distill

    seen: list[Tensor] = []
    plain = distill.distillation_loss

    def spied(student, target, *rest):
        seen.append(target.network.embed.weight.clone())
        return plain(student, target, *rest)

    monkeypatch.setattr(distill, "distillation_loss", spied)
    train_student(
        replace(TINY, steps=3, checkpoint_every=2), tiny_model, Clips(), tmp_path, show=False
    )
    assert torch.equal(
        seen[2], load_file(tmp_path / "step-00000002" / "target.safetensors")["embed.weight"]
    )
    assert not torch.equal(seen[0], seen[1])


def test_a_killed_run_ends_with_the_same_weights_and_log(
    run: Path, tiny_model: MusicModel, tmp_path: Path
) -> None:
    for last in (2, 5):
        with pytest.raises(InterruptedError):
            train_student(TINY, tiny_model, Clips(last), tmp_path, show=False, held_out=Clips())
    train_student(TINY, tiny_model, Clips(), tmp_path, show=False)
    for group in ("model", "target", "ema", "optimizer"):
        assert_same(weights(tmp_path, group), weights(run, group))
    rows = [read_log(folder / "log.jsonl") for folder in (tmp_path, run)]
    kept = [
        [{k: v for k, v in row.items() if k not in ("seconds", "loss")} for row in log]
        for log in rows
    ]
    assert kept[0] == kept[1]


def test_another_teacher_is_refused(run: Path, tiny_model: MusicModel) -> None:
    other = replace(tiny_model, network=tiny_model.new_student())
    for parameter in other.network.parameters():
        parameter.data.mul_(1.5)
    with pytest.raises(DataError, match="begun with another teacher"):
        train_student(replace(TINY, steps=9), other, Clips(), run, show=False)


def test_the_teacher_and_the_process_stay_as_they_are(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before, print_before = torch.get_rng_state(), hash_weights(tiny_model.network)
    train_student(replace(TINY, steps=1), tiny_model, Clips(), tmp_path, show=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert hash_weights(tiny_model.network) == print_before
    assert not any(p.requires_grad for p in tiny_model.network.parameters())


def test_the_papers_unet_can_be_distilled_too(tiny_model: MusicModel, tmp_path: Path) -> None:
    unet = randomised(TagUNet([8, 8], [1, 1], 1, 2, 4, 8, (4, 3, 13), "v_prediction"), scale=0.05)  # pyright: ignore[reportArgumentType]
    teacher = replace(tiny_model, network=unet)  # pyright: ignore[reportArgumentType]
    student, x = (
        teacher.new_student(),
        torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    t, cond = torch.tensor([100, 900]), tiny_model.cond(Tags("jazz"), 2)
    at_first = teacher.student_denoiser(student)(x, t, cond, 4.0)
    torch.testing.assert_close(at_first, teacher.denoiser(x, t, cond, 1.0))
    config = replace(TINY, steps=3, evaluate_every=9, checkpoint_every=9)
    network = train_student(config, teacher, Clips(), tmp_path, show=False)
    found = [teacher.student_denoiser(network)(x, t, cond, w) for w in (1.0, 4.0)]
    assert not torch.equal(found[0], found[1])
    student = Student(network, "ctm", (1.0, 5.0), hash_weights(unet))  # pyright: ignore[reportArgumentType]
    student.save(tmp_path / "alone")
    loaded = teacher.with_student(tmp_path / "alone").student
    assert loaded is not None
    torch.testing.assert_close(loaded(x, t, cond, 4.0), found[1], rtol=1e-2, atol=1e-2)


def test_a_steps_draws_are_its_own(tiny_model: MusicModel) -> None:
    schedule = tiny_model.schedule
    config, grid = (
        replace(TINY, batch_size=64, guidance=(2.0, 5.0), tag_dropout=0.3),
        Grid.of(schedule, 4, 0.5),
    )
    x_0, cond = Clips().batch(0, 64)
    one = draw(config, tiny_model, grid, x_0, cond, 3)
    again, other = (draw(config, tiny_model, grid, x_0, cond, step) for step in (3, 4))
    assert torch.equal(one.x_t, again.x_t)
    assert not torch.equal(one.x_t, other.x_t)
    assert one.w.min() >= 2
    assert one.w.max() <= 5
    assert one.w.std().item() == pytest.approx(3 / 12**0.5, rel=0.2)
    assert sorted(set(one.t.tolist())) == sorted(schedule.timesteps(4))
    lost = (one.cond == 0).all(dim=1).double().mean().item()
    assert 0.1 < lost < 0.6
    assert not one.null.any()
    # the last of the grid has σ far below σ_data, so its weight is at the bound
    assert weight(config, schedule, torch.tensor([999])).item() == pytest.approx(1)
    assert (
        weight(replace(config, data_std=100.0), schedule, torch.tensor([0])).item()
        == config.max_weight
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "gan"}, "kind: Input should be 'cm' or 'ctm'"),
        ({"loss": "l3"}, "loss: Input should be 'mse' or 'pseudo_huber'"),
        ({"grid": 81}, "grid: Input should be less than or equal to 80"),
        ({"guidance": [5.0, 1.0]}, "guidance must be a rising pair"),
        ({"whole_chains": 3}, "whole_chains must be 0 or at least the batch's 16"),
        ({"clean_share": 1.5}, "clean_share: Input should be less than or equal to 1"),
        ({"lora_rank": -1}, "lora_rank: Input should be greater than or equal to 0"),
    ],
)
def test_what_a_config_may_not_say(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=message):
        load_config(tmp_path / "config.json", DistillConfig)


@pytest.mark.parametrize("kind", ["cm", "ctm"])
def test_committed_configs_load(kind: str) -> None:
    for form in ("{}", "pipeline-{}", "pipeline-{}-lora"):
        config = load_config(CONFIGS / f"{form.format(kind)}.json", DistillConfig)
        assert config.kind == kind
        assert bool(config.lora_rank) == form.endswith("lora")


# The gap.


def test_the_gap_of_the_teacher_to_itself_is_zero_and_fewer_steps_are_further(
    tiny_model: MusicModel,
) -> None:
    cond = tiny_model.cond(Tags("jazz"), 3)
    gap = TeacherStudentGap(
        tiny_model.denoiser, tiny_model.schedule, cond, (1, 16, 16), grid=8, data_std=0.3, batch=2
    )
    found = gap.measure(tiny_model.denoiser, (1, 4, 8))
    assert found["gap_8_w3"] == 0
    assert found["detail_8_w3"] == 1
    assert found["gap_1_w3"] > found["gap_4_w3"] > 0
    other = TeacherStudentGap(
        tiny_model.denoiser, tiny_model.schedule, cond, (1, 16, 16), grid=8, data_std=0.6
    )
    assert other.measure(tiny_model.denoiser, (1,))["gap_1_w3"] == pytest.approx(
        found["gap_1_w3"] / 4, rel=1e-4
    )


def test_detail_is_the_energy_of_differences() -> None:
    x_0 = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert detail(x_0) == 1 + 16
    assert detail(0.5 * x_0) == 17 / 4


# Packing.


@pytest.fixture
def distilled(model_folder: Path, tmp_path: Path) -> Path:
    """A short run on the model of a folder."""
    train_student(replace(TINY, steps=2), load(model_folder), Clips(), tmp_path / "run", show=False)
    return tmp_path / "run"


def test_a_packed_student_is_the_runs_and_leaves_the_rest_as_it_was(
    distilled: Path, model_folder: Path, tmp_path: Path
) -> None:
    digest = pack_student(distilled, model_folder, tmp_path / "with")
    plain, model = load(model_folder), load(tmp_path / "with")
    assert model.sha256 == digest != plain.sha256
    assert model.distilled is not None
    assert (model.distilled.kind, model.distilled.guidance) == ("ctm", (1.0, 5.0))
    for name, value in load_distilled(distilled, plain).network.state_dict().items():
        assert torch.equal(model.distilled.network.state_dict()[name], value.half().float())
    for name in ("denoiser", "vocoder"):
        a, b = (
            folder / name / "diffusion_pytorch_model.safetensors"
            for folder in (model_folder, tmp_path / "with")
        )
        assert a.read_bytes() == b.read_bytes()
    pack_student(distilled, tmp_path / "with", tmp_path / "with")
    assert load(tmp_path / "with").sha256 == digest


def test_a_student_alone_joins_its_model_and_no_other(
    distilled: Path, model_folder: Path, student_model: MusicModel, tmp_path: Path
) -> None:
    pack_student(distilled, model_folder, tmp_path / "alone", alone=True)
    whole = pack_student(distilled, model_folder, tmp_path / "with")
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [
        "model_index.json",
        "student",
    ]
    joined = load(model_folder).with_student(tmp_path / "alone")
    assert joined.sha256 == whole
    assert joined.distilled is not None
    with pytest.raises(ModelError, match="distilled from another model"):
        replace(student_model, network=student_model.new_student()).with_student(tmp_path / "alone")


def test_a_run_of_another_teacher_is_not_packed(
    run: Path, model_folder: Path, tmp_path: Path
) -> None:
    state = sorted(run.glob("step-*"))[-1] / "state.json"
    kept = state.read_text()
    state.write_text(json.dumps(json.loads(kept) | {"teacher": "another"}))
    try:
        with pytest.raises(DataError, match="another teacher"):
            pack_student(run, model_folder, tmp_path / "with")
    finally:
        state.write_text(kept)
    assert not (tmp_path / "with").exists()


def test_a_run_without_a_checkpoint_has_nothing_to_export(
    tmp_path: Path, tiny_model: MusicModel
) -> None:
    start_run(tmp_path, TINY)
    with pytest.raises(DataError, match="no checkpoint yet"):
        load_distilled(tmp_path, tiny_model)


def test_lora_on_a_student_is_packed_upon_that_student(
    student_model: MusicModel, tmp_path: Path
) -> None:
    config = replace(TINY, steps=2, lora_rank=2, start_from="student")
    trained = train_student(config, student_model, Clips(), tmp_path, show=False)
    packed = load_distilled(tmp_path, student_model)
    assert_same(dict(trained.state_dict()), dict(packed.network.state_dict()))
    assert packed.teacher == hash_weights(student_model.network)
    assert student_model.distilled is not None
    other = randomised(student_model.new_student(), seed=3)
    instead = replace(student_model, distilled=replace(student_model.distilled, network=other))
    for again in (
        lambda: load_distilled(tmp_path, instead),
        lambda: load_distilled(tmp_path, replace(student_model, distilled=None)),
        lambda: train_student(config, instead, Clips(), tmp_path, show=False),
    ):
        with pytest.raises(DataError, match="another teacher"):
            again()
