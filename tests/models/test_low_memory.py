"""Checkpointed blocks: the same numbers, fewer activations, and nothing changed for others."""

import pickle
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.conftest import make_network
from tests.models.adapters.tiny_flows import make_ace_step, make_stable_audio_3
from tests.models.adapters.tiny_pipelines import make_audioldm2, make_musicldm, make_stable_audio
from torch import Tensor

from ditto.diffusion.samplers import Chain, ddim
from ditto.methods.ditto import checkpointed_call
from ditto.models.conditioning import Tags
from ditto.models.hub import adapt
from ditto.models.low_memory import checkpoint_blocks, low_memory, networks_of, rehearsed_low_memory
from ditto.models.model import MusicModel
from ditto.models.network import in_precision
from ditto.models.profile import MemoryTracker

PIPELINES = {
    "audioldm2": make_audioldm2,
    "musicldm": make_musicldm,
    "sao": make_stable_audio,
    "sa3": make_stable_audio_3,
    "sa3 base": partial(make_stable_audio_3, base=True),
    "ace-step": make_ace_step,
    "ace-step base": partial(make_ace_step, base=True),
}


def sound_and_gradient(model: MusicModel) -> tuple[Tensor, Tensor, int]:
    """Sound of two checkpointed steps, its gradient, and the peak of memory."""
    shape = model.shape(None if not hasattr(model, "pipe") else 0.4)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    grid = model.schedule.timesteps(2)
    cond = model.cond(Tags(), 2)
    chain = Chain(model.denoiser, model.schedule, grid, cond, 2.0, call=checkpointed_call)
    with MemoryTracker() as memory:
        sound = model.to_audio(ddim(chain, x))
        (gradient,) = torch.autograd.grad(sound.square().sum(), x)
    return sound.detach(), gradient, memory.peak


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipelines_sound_and_gradient_stay_the_same(name: str) -> None:
    plain, lean = adapt(PIPELINES[name]()), adapt(PIPELINES[name](), low_memory=True)
    assert lean.low_memory
    assert lean.chunk == plain.chunk // 2
    (sound, gradient, much), (same, alike, little) = map(sound_and_gradient, (plain, lean))
    torch.testing.assert_close(same, sound, rtol=0, atol=1e-5)
    torch.testing.assert_close(alike, gradient, rtol=1e-4, atol=1e-6)
    assert little <= 1.02 * much


def peak_of(model: MusicModel, steps: int) -> int:
    """The peak of memory of a gradient through checkpointed steps, without a decoder."""
    x = torch.randn(1, *model.shape(0.4), generator=torch.Generator().manual_seed(0))
    chain = Chain(
        *(model.denoiser, model.schedule, model.schedule.timesteps(steps)),
        *(model.cond(Tags()), 2.0),
        call=checkpointed_call,
    )
    with MemoryTracker() as memory:
        torch.autograd.grad(ddim(chain, x.requires_grad_()).square().sum(), x)
    return memory.peak


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipelines_step_keeps_no_more_than_without(name: str) -> None:
    """What blocks are given by keyword must go with the step, as all else of it does."""
    models = adapt(PIPELINES[name]()), adapt(PIPELINES[name](), low_memory=True)
    (one, many), (lean_one, lean_many) = ([peak_of(m, T) for T in (1, 3)] for m in models)
    assert lean_many - lean_one <= many - one
    assert lean_many < many


def test_a_deep_network_needs_far_less(tiny_model: MusicModel) -> None:
    plain = replace(tiny_model, network=make_network(depth=8, width=64))
    lean = low_memory(deepcopy(plain))
    (sound, gradient, much), (same, alike, little) = map(sound_and_gradient, (plain, lean))
    torch.testing.assert_close(same, sound)
    torch.testing.assert_close(alike, gradient)
    assert little < 0.9 * much


def test_our_own_needs_less_and_a_copy_is_a_copy(student_model: MusicModel) -> None:
    plain = deepcopy(student_model)
    lean = low_memory(deepcopy(student_model))
    (sound, gradient, much), (same, alike, little) = map(sound_and_gradient, (plain, lean))
    torch.testing.assert_close(same, sound)
    torch.testing.assert_close(alike, gradient)
    assert little < much
    # a copy in lower precision computes with its own weights, not with those it was copied from
    low = in_precision(lean.network, torch.bfloat16)
    x, t, tags = torch.randn(1, 1, 16, 64), torch.tensor([500]), torch.zeros(1, 5).long()
    before = low(x, t, tags)
    with torch.no_grad():
        for weight in lean.network.parameters():
            weight.zero_()
    torch.testing.assert_close(low(x, t, tags), before)


def test_a_rehearsal_leaves_the_networks_as_they_were(tiny_model: MusicModel) -> None:
    model = deepcopy(tiny_model)
    for given in (model, low_memory(model)):
        classes = [type(module) for module in given.network.modules()]
        with rehearsed_low_memory(given) as lean:
            assert lean.low_memory
        assert [type(module) for module in given.network.modules()] == classes


def test_it_goes_to_another_process(tiny_model: MusicModel) -> None:
    lean = low_memory(deepcopy(tiny_model))
    there = pickle.loads(pickle.dumps(lean))
    for ours, theirs in zip(networks_of(lean), networks_of(there), strict=True):
        assert [type(m) for m in theirs.modules()] == [type(m) for m in ours.modules()]
    torch.testing.assert_close(sound_and_gradient(there)[:2], sound_and_gradient(lean)[:2])


def test_it_is_done_once(tiny_model: MusicModel) -> None:
    network = deepcopy(tiny_model.network)
    classes = [type(module) for module in network.modules()]
    checkpoint_blocks(network)
    once = [type(module) for module in network.modules()]
    checkpoint_blocks(network)
    assert [type(module) for module in network.modules()] == once != classes
    assert [cls.__name__ for cls in once] == [cls.__name__ for cls in classes]


def test_a_student_that_comes_later_is_lean_too(student_model: MusicModel) -> None:
    student = deepcopy(student_model.distilled)
    assert student is not None
    lean = low_memory(deepcopy(replace(student_model, distilled=None)))
    joined = lean.attach_student(student, "0")
    assert all(
        any(hasattr(type(module), "without_checkpoint") for module in network.modules())
        for network in networks_of(joined)
    )
