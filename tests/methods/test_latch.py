"""LatCH against TFG's formulas written out, that it lowers the error without a decoder, and what it
refuses."""

from dataclasses import replace

import pytest
import torch
from tests.methods.given import LOUDNESS, made, start
from tests.methods.test_guidance import level, make_chain, randn, zero
from torch import Tensor

import ditto
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.diffusion.samplers import ddim, ddim_step
from ditto.errors import RequestError
from ditto.methods.latch import LatCH, descended, latch
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.request import Request
from ditto.runner import run


def unit(gradient: Tensor) -> Tensor:
    """The gradient over its root mean square, by item."""
    return gradient / gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def test_it_is_tfgs_step_with_sizes_in_shares_of_the_noise(tiny_network: PatchTransformer) -> None:
    chain, x_t = replace(make_chain(tiny_network, 4), threshold=False), randn(0)
    expected, rho, mu = x_t, 0.02, 0.01
    for i, (t, t_next) in enumerate(chain.pairs()):
        leaf = expected.clone().requires_grad_()
        x_0 = chain.predict(leaf, t)
        (across,) = torch.autograd.grad(level(x_0).sum(), leaf)
        x_0, noise = x_0.detach(), (1 - chain.schedule.at(t, x_t)).sqrt()
        moved = ddim_step(chain.schedule, expected, x_0, t, t_next)
        if i in (1, 2):  # the window from 0.25 to 0.75
            delta = torch.zeros_like(x_0)
            for _ in range(3):
                at = (x_0 + delta).requires_grad_()
                (down,) = torch.autograd.grad(level(at).sum(), at)
                delta = delta - mu * noise * unit(down)
            moved = moved - rho * noise * unit(across)
            moved = moved + chain.schedule.at(t_next, x_t).sqrt() * delta
        expected = moved
    found = latch(x_t, chain, level, variance=rho, mean=mu, mean_steps=3, window=(0.25, 0.75))
    torch.testing.assert_close(found, expected)


def test_without_guidance_or_gradient_it_is_the_sampler(tiny_network: PatchTransformer) -> None:
    chain = make_chain(tiny_network, 4)
    plain = ddim(chain, randn(0))
    torch.testing.assert_close(latch(randn(0), chain, level, variance=0, mean=0), plain)
    torch.testing.assert_close(latch(randn(0), chain, zero), plain)


@pytest.mark.parametrize(("variance", "mean"), [(0.1, 0.0), (0.1, 0.002)])
def test_guidance_lowers_the_error(
    tiny_network: PatchTransformer, variance: float, mean: float
) -> None:
    chain = replace(make_chain(tiny_network, 20), threshold=False)
    plain = level(ddim(chain, randn(0)))
    x_0 = latch(randn(0), chain, level, variance=variance, mean=mean)
    assert (level(x_0) < 0.7 * plain).all()
    assert not x_0.requires_grad


def test_steps_in_x_0_descend() -> None:
    x_0 = randn(0)
    near, nearer = (descended(x_0, level, torch.tensor(0.02), n) for n in (2, 4))
    assert (level(nearer) < level(near)).all()
    assert (level(near) < level(x_0)).all()


def test_a_step_of_few_values_stays_where_data_are() -> None:
    x_0 = torch.zeros(1, 1, 16, 64)
    size = torch.tensor(0.1)
    one = lambda x: -x[..., 0, 0].sum(dim=1)  # noqa: E731
    far = descended(x_0, one, size, 2)
    held = descended(x_0, one, size, 2, lambda x: x.clamp(-1, 1))
    assert far.max() == pytest.approx(2 * 0.1 * 32)
    assert held.max() == 1


def test_it_follows_a_control_and_runs_no_decoder_until_the_end(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Guidance by the estimate, written by hand.
    chain, x_T, _ = start(tiny_model)
    expected = latch(x_T, chain, lambda x_0: LOUDNESS.proxy()(x_0, tiny_model), variance=0.05)
    calls: list[int] = []
    sound = MusicModel.to_audio
    monkeypatch.setattr(
        MusicModel,
        "to_audio",
        lambda self, x_0, seeds: calls.append(len(x_0)) or sound(self, x_0, seeds),
    )
    clip = made(tiny_model, ditto.LatCH(steps=4, variance=0.05), LOUDNESS)
    torch.testing.assert_close(clip.x_0, expected)
    assert sum(calls) == 2, "each clip once, at the end"
    plain = made(tiny_model, ditto.methods.Uncontrolled(steps=4))
    error = LOUDNESS.loss(Output(plain.x_0, tiny_model))
    assert (LOUDNESS.loss(Output(clip.x_0, tiny_model)) < error).all()


def test_what_it_refuses(tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="guides the sampling by a control"):
        made(tiny_model, ditto.LatCH(steps=2))
    with pytest.raises(
        RequestError, match=r"from guide_from to a later guide_to, not from 0\.6 to 0\.5"
    ):
        ditto.LatCH(guide_from=0.6, guide_to=0.5)
    monkeypatch.setattr(MusicModel, "has_mel", False)
    with pytest.raises(RequestError, match=r"has none: train them with `ditto-music train heads`"):
        made(replace(tiny_model), ditto.LatCH(steps=2), LOUDNESS)


@pytest.mark.parametrize("changed", [{"grid": "leading"}, {"threshold": "none"}])
def test_latch_has_the_grid_and_threshold_that_it_is_given(
    tiny_model: MusicModel, changed: dict[str, str]
) -> None:
    plain = Request(Intensity("swell"), method=LatCH(steps=4, variance=5.0))
    other = replace(plain, method=replace(plain.method, **changed))
    assert not torch.equal(run(plain, tiny_model).x_0, run(other, tiny_model).x_0)
