"""The cost of a run, against the same count on real tensors and against autograd's own."""

from contextlib import nullcontext

import pytest
import torch
from tests.models.adapters.tiny_pipelines import make_stable_audio

from ditto.models import profile as module
from ditto.models.adapters.common import PipelineModel
from ditto.models.hub import adapt
from ditto.models.model import MusicModel
from ditto.models.profile import MemoryTracker, describe_model, estimate_cost


@pytest.fixture(scope="module")
def pipeline() -> PipelineModel:
    return adapt(make_stable_audio())


@pytest.fixture
def on_real_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearse with arithmetic, which for tiny models is the quicker way."""
    monkeypatch.setattr(module, "FakeTensorMode", lambda **_: nullcontext())


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


def test_a_rehearsal_counts_what_a_real_iteration_takes(
    pipeline: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed = estimate_cost(pipeline, steps=2)
    monkeypatch.setattr(module, "FakeTensorMode", lambda **_: nullcontext())
    real = estimate_cost(pipeline, steps=2)
    assert rehearsed.working == pytest.approx(real.working, rel=0.15)


@pytest.mark.usefixtures("on_real_tensors")
def test_checkpointing_saves_memory_and_a_batch_costs_some(pipeline: PipelineModel) -> None:
    lean, rich = (estimate_cost(pipeline, steps=6, checkpointing=c) for c in (True, False))
    assert rich.working > 1.5 * lean.working
    assert estimate_cost(pipeline, steps=3, checkpointing=False).working < rich.working
    assert (
        estimate_cost(pipeline, count=2, steps=2).working
        > 1.5 * estimate_cost(pipeline, steps=2).working
    )
    assert rich.weights == lean.weights > 100_000
    assert lean.encoders > 0


@pytest.mark.usefixtures("on_real_tensors")
def test_time_grows_with_steps_and_iterations(pipeline: PipelineModel) -> None:
    cost = estimate_cost(pipeline, steps=10, iterations=20)
    once = 10 * cost.step_seconds + cost.decode_seconds
    assert cost.seconds == pytest.approx(once * 81)
    assert any("GiB" in line for line in cost.lines())
    assert "T=10 K=20" in cost.lines()[1]


def test_our_own_models_are_estimated_and_left_usable(tiny_model: MusicModel) -> None:
    cost = estimate_cost(tiny_model, steps=4)
    assert cost.encoders == 0
    assert cost.working > 0
    x = torch.zeros(1, *tiny_model.shape(), requires_grad=True)
    (gradient,) = torch.autograd.grad(tiny_model.to_audio(x).square().sum(), x)
    assert type(gradient) is torch.Tensor


def test_a_model_is_described(pipeline: PipelineModel, tiny_model: MusicModel) -> None:
    assert "prompts    any text" in describe_model(pipeline)
    assert any(line.startswith("genres     jazz") for line in describe_model(tiny_model))
