"""The cost of a run, against the same count on real tensors and against autograd's own."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tests.models.adapters.tiny_pipelines import make_stable_audio

from ditto.controls.intensity import Intensity
from ditto.methods.base import Method
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.models import profile as module
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt
from ditto.models.low_memory import low_memory
from ditto.models.model import MusicModel
from ditto.models.profile import (
    GIB,
    Cost,
    MemoryTracker,
    Rehearsal,
    describe_model,
    estimate_cost,
    what_fits,
)
from ditto.request import Request
from ditto.runner import run


@pytest.fixture(scope="module")
def pipeline() -> PipelineModel:
    return adapt(make_stable_audio())


def test_the_peak_is_what_is_alive_at_once() -> None:
    with MemoryTracker() as alive:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1
        del a
        c = b.view(10, 100) * 2  # a view is no memory
        del b, c
        d = torch.zeros(500)
    assert (alive.peak, alive.now) == (8000, 2000)
    del d
    assert alive.now == 0


def counted(model: MusicModel, method: Method, seconds: float | None, count: int) -> int:
    """Peak of what is alive while a request is carried out and its sound made."""
    request = Request(
        Intensity("crescendo"), method=method, iterations=3, seconds=seconds, count=count
    )
    run(request, model)  # makes all tables
    with MemoryTracker() as memory:
        run(request, model)
    return memory.peak


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_an_estimate_is_what_a_run_takes(student_model: MusicModel, low: bool, count: int) -> None:
    loudness = Intensity("crescendo")
    cost = estimate_cost(student_model, steps=4, count=count, loss=loudness, proxy=loudness.proxy())
    model = low_memory(deepcopy(student_model)) if low else student_model
    whole, one = (counted(model, method, None, count) for method in (Ditto(steps=4), Ditto2()))
    assert whole == pytest.approx(cost.low_working if low else cost.working, rel=0.15)
    one_step = cost.low_student_working if low else cost.student_working
    assert one == pytest.approx(one_step, rel=0.15)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("low", [False, True])
def test_the_same_of_a_pipeline(low: bool) -> None:
    model = adapt(make_stable_audio(), low_memory=low)
    cost = estimate_cost(model, steps=3, seconds=0.4, count=2, loss=Intensity("crescendo"))
    whole = counted(model, Ditto(steps=3), 0.4, 2)
    assert whole == pytest.approx(cost.working, rel=0.15)
    assert cost.encoders > 0
    assert cost.student_working is None


def test_low_memory_saves_what_blocks_keep_and_leaves_the_model_as_it_was(
    pipeline: PipelineModel,
) -> None:
    before = [type(module) for module in pipeline.network.modules()]
    cost = estimate_cost(pipeline, steps=6, seconds=0.4, checkpointing=False)
    assert cost.low_working < cost.working
    assert cost.weights > 100_000
    assert [type(module) for module in pipeline.network.modules()] == before


def test_time_grows_with_steps_and_iterations(pipeline: PipelineModel) -> None:
    cost = estimate_cost(pipeline, steps=10, iterations=20, seconds=0.4)
    once = 10 * cost.step_seconds + cost.decode_seconds
    assert cost.seconds == pytest.approx(once * 81)
    assert any("GiB" in line for line in cost.lines())
    assert "T=10 K=20" in cost.lines()[-1]


def test_where_not_even_a_step_fits_the_memory_is_told(
    pipeline: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(pipeline), "to_sound", full)
    cost = estimate_cost(
        pipeline, steps=2, seconds=0.4, loss=lambda x_0, model: x_0.sum().reshape(1)
    )
    assert cost.lines()[-1].startswith("time       unknown: there is not enough memory here")
    assert cost.working > 0


def test_a_card_is_enough_or_with_low_memory_or_not() -> None:
    sizes = {"working": 9 * GIB, "low_working": 5 * GIB, "encoders": 0, "weights": 2 * GIB}
    cost = Cost(
        **sizes, step_seconds=1, decode_seconds=1, steps=1, iterations=1, checkpointing=True
    )
    assert [cost.fits(size) for size in (7, 8, 11, 12)] == [
        "no",
        "with --low-memory",
        "with --low-memory",
        "yes",
    ]
    assert "fits       8 GB: with --low-memory, 12 GB: yes, 24 GB: yes" in cost.lines()
    student = replace(cost, student_working=4 * GIB, low_student_working=GIB)
    assert [student.fits(size) for size in (3, 4, 7)] == ["no", "with --low-memory", "yes"]


def test_our_own_models_are_estimated_and_left_usable(tiny_model: MusicModel) -> None:
    cost = estimate_cost(tiny_model, steps=4)
    assert cost.encoders == 0
    assert cost.working > 0
    x = torch.zeros(1, *tiny_model.shape(), requires_grad=True)
    (gradient,) = torch.autograd.grad(tiny_model.to_audio(x).square().sum(), x)
    assert type(gradient) is torch.Tensor
    assert gradient.device.type == "cpu"


def test_what_would_fit_is_said_in_options(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kilobytes = {"room": 0}
    weights = module.weights_of(tiny_model)
    monkeypatch.setattr(module, "SLACK", weights)
    monkeypatch.setattr(module, "memory_of", lambda device: 2 * weights + 1024 * kilobytes["room"])
    # 100 KB, and 10 more for each of a clip's 64 frames
    monkeypatch.setattr(
        Rehearsal, "ditto", lambda self, *_: 1024 * (100 + 10 * self.x_T[..., 0, :].numel())
    )
    low = " with --low-memory (low_memory=True)"
    seconds = tiny_model.spec.clip_seconds
    for room, count, words in (
        (740, 1, f"it would fit{low}"),
        (739, 1, f"0.5 --seconds would fit{low}"),
        (420, 1, f"0.2 --seconds would fit{low}"),
        (120, 1, f"not even a short clip would fit{low}: give a smaller model, or --device cpu"),
        (100 + 640 * 3, 8, f"--count 3 would fit{low}"),
    ):
        kilobytes["room"] = room
        assert what_fits(tiny_model, seconds, count, 1.5) == words
    lean = replace(tiny_model, low_memory=True)
    assert what_fits(lean, seconds, 8, 1.5) == "--count 3 would fit"
    monkeypatch.setattr(module, "memory_of", lambda device: None)
    words = "give fewer --seconds or a smaller --count"
    assert what_fits(lean, seconds, 1, 1.5) == words
    assert what_fits(tiny_model, seconds, 1, 1.5) == f"{words}, or --low-memory (low_memory=True)"


def test_a_model_is_described(pipeline: PipelineModel, tiny_model: MusicModel) -> None:
    assert "prompts    any text" in describe_model(pipeline)
    assert any(line.startswith("genres     jazz") for line in describe_model(tiny_model))
