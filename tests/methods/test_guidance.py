"""FreeDoM and Guidance Gradients against formulas written out, and that they lower the control's
error."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.methods.given import HELD_OUT, LOUDNESS, REGION, SEEDS, made, start
from torch import Tensor

import ditto
from ditto.audio.features import mel_rms_db
from ditto.controls.pulls import LatentNorm
from ditto.controls.regions import Region
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import Chain, ancestral, ddim, ddpm
from ditto.diffusion.schedule import CLEAN, Schedule
from ditto.errors import RequestError
from ditto.methods import Method
from ditto.methods.guidance import (
    FREEDOM_STRENGTH,
    FreeDoM,
    GuidanceGradients,
    back_to,
    freedom,
    guidance_gradients,
    scaled,
)
from ditto.methods.latch import LatCH
from ditto.methods.masking import Known, known_region
from ditto.models.conditioning import null_tags
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.request import Request
from ditto.runner import run

pytestmark = pytest.mark.usefixtures("together")

SCHEDULE = Schedule.cosine(shift=0.5)
TAGS = torch.tensor([[1, 2, 3, 0, 0], [2, 0, 5, 0, 0]])


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = shape or (2, 1, 16, 8)
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def no_noise() -> Tensor:
    return torch.zeros(2, 1, 16, 8, dtype=torch.float64)


def make_chain(network: PatchTransformer, steps: int = 6, guidance: float = 1.0) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), TAGS, guidance)


def level(x_0: Tensor) -> Tensor:
    """A non-linear loss of two numbers, the levels of the clip's halves, that are to be 0.2 and
    −0.2."""
    target = torch.tensor([0.2, -0.2], dtype=x_0.dtype)
    return (
        (torch.stack([h.tanh().mean(dim=(1, 2, 3)) for h in x_0.chunk(2, -1)], dim=1) - target)
        .square()
        .mean(1)
    )


def zero(x_0: Tensor) -> Tensor:
    return 0 * x_0.flatten(1).sum(dim=1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_guidance_lowers_the_error(tiny_network: PatchTransformer, guidance: float) -> None:
    chain = make_chain(tiny_network, 20, guidance)
    plain = level(ddim(chain, randn(0)))
    seeds = iter(range(1000))
    noise = lambda: randn(next(seeds))  # noqa: E731
    for x_0 in (
        freedom(randn(0), chain, level, noise, strength=0.1, time_travel=1),
        freedom(randn(0), chain, level, noise, strength=0.1),
        guidance_gradients(randn(0), chain, level, strength=0.5),
    ):
        assert (level(x_0) < 0.7 * plain).all()
        assert not x_0.requires_grad


def test_a_first_step_of_freedom_is_its_formula(tiny_network: PatchTransformer) -> None:
    chain = replace(make_chain(tiny_network), timesteps=[600])
    x_t = randn(0).requires_grad_()
    x_hat = chain.predict(x_t, 600)
    (slope,) = torch.autograd.grad(level(x_hat).sum(), x_t)
    for i in range(2):
        size = 0.2 * (1 - SCHEDULE.alpha_bar[600]).sqrt() / slope[i].square().mean().sqrt()
        ours = freedom(randn(0), chain, level, no_noise, strength=0.2, time_travel=1)[i]
        torch.testing.assert_close(ours, (x_hat[i] - size * slope[i]).detach())


def test_without_a_gradient_both_are_their_sampler(tiny_network: PatchTransformer) -> None:
    chain, plain = make_chain(tiny_network), ddim(make_chain(tiny_network), randn(0))
    for x_0 in (
        freedom(randn(0), chain, zero, no_noise, time_travel=1),
        guidance_gradients(randn(0), chain, zero),
    ):
        torch.testing.assert_close(x_0, plain)
    seeds, same = iter(range(1, 100)), iter(range(1, 100))
    stochastic = freedom(
        randn(0),
        chain,
        zero,
        no_noise,
        time_travel=1,
        advance=ancestral(lambda: randn(next(seeds))),
    )
    torch.testing.assert_close(stochastic, ddpm(chain, randn(0), lambda: randn(next(same))))


def test_time_travel_repeats_the_middle_steps_only(tiny_network: PatchTransformer) -> None:
    seen = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        seen.append(int(t[0]))
        return 0.1 * x_t

    chain = Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(10), TAGS)
    freedom(randn(0), chain, level, lambda: randn(1), time_travel=3)
    grid = chain.timesteps
    assert seen == [*grid[:3], *(t for t in grid[3:7] for _ in range(3)), *grid[7:]]


def test_travelling_back_is_the_forward_process() -> None:
    # q(x_t | x_s) q(x_s | x_0) = q(x_t | x_0), in mean and variance
    alpha_bar, x_0, many = (
        SCHEDULE.alpha_bar,
        torch.full((1,), 0.7, dtype=torch.float64),
        (200_000,),
    )
    for s in (300, CLEAN):
        kept = alpha_bar[s] if s >= 0 else torch.ones(())
        x_s = kept.sqrt() * x_0 + (1 - kept).sqrt() * randn(1, *many)
        x_t = back_to(SCHEDULE, x_s, s, 500, randn(2, *many))
        assert x_t.mean().item() == pytest.approx(0.7 * alpha_bar[500].sqrt().item(), abs=0.01)
        assert x_t.var().item() == pytest.approx(1 - alpha_bar[500].item(), rel=0.01)


def test_data_consistency_keeps_the_known_region(tiny_network: PatchTransformer) -> None:
    mask = torch.zeros(1, 1, 1, 8, dtype=torch.float64)
    mask[..., 2:5] = 1
    known = Known(mask, 0.3 * randn(7).tanh())

    def mismatch(x_0: Tensor) -> Tensor:
        return (mask * (x_0 - known.reference)).square().flatten(1).mean(dim=1)

    chain = make_chain(tiny_network, 10)
    x_0 = guidance_gradients(randn(0), chain, mismatch, known=known)
    assert torch.equal((mask * x_0), mask * known.reference)
    guided = guidance_gradients(randn(0), chain, mismatch)
    assert (mismatch(guided) < mismatch(ddim(chain, randn(0)))).all()


@pytest.mark.parametrize("size", [0.1, 5.0, 1000.0])
def test_gradients_are_scaled_whatever_their_size(size: float) -> None:
    gradient = randn(3, 4, 1, 5, dtype=torch.float32)
    gradient[0] = 0
    for i, factor in enumerate((1e-30, 1e-15, 1e15), start=1):
        gradient[i] *= factor
    step = scaled(gradient, torch.full((4, 1, 1), size))
    assert (step[0] == 0).all()
    spread = step[1:].double().square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(
        spread, torch.full((3,), size, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_freedom_of_any_strength_survives_a_loss_without_gradient(
    tiny_network: PatchTransformer,
) -> None:
    chain = make_chain(tiny_network.float())
    start_at = randn(0, dtype=torch.float32)
    noise = lambda: 0 * start_at  # noqa: E731
    x_0 = freedom(start_at, chain, zero, noise, strength=1000.0, time_travel=1)
    torch.testing.assert_close(x_0, ddim(chain, start_at))


@pytest.mark.parametrize("overlap", [1, 3, 8])
def test_a_step_of_guidance_gradients_is_as_long_whatever_the_overlap(overlap: int) -> None:
    """A known value comes nearer by the same share, however many are known."""

    def denoiser(x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        return x_t

    chain = Chain(denoiser, SCHEDULE, [600], TAGS, threshold=False)
    mask = torch.zeros(1, 1, 1, 8, dtype=torch.float64)
    mask[..., :overlap] = 1
    known = Known(mask, 0.3 * randn(7).tanh())
    seen = []

    def advance(schedule: Schedule, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
        seen.append(x_t)
        return x_0

    def mismatch(x_0: Tensor) -> Tensor:
        return (x_0 - known.reference)[..., :overlap].square().flatten(1).mean(dim=1)

    guidance_gradients(randn(0), chain, mismatch, strength=0.1, known=known, advance=advance)
    share = (randn(0) - seen[0]) / (randn(0) - known.reference)
    torch.testing.assert_close(share[..., :overlap], 0.2 + 0 * share[..., :overlap])
    assert (share[..., overlap:] == 0).all()


def test_on_the_embedded_model_guidance_gradients_follow_every_overlap() -> None:
    """Without data consistency, which would hide it."""
    model, clips = ditto.load(), load_file(HELD_OUT)
    mel = model.bands.normalised(clips["mel"][2].float() / 127)
    x_T = randn(0, 1, 1, 160, 256, dtype=torch.float32)
    grid = model.schedule.timesteps(20)
    chain = Chain(model.denoiser, model.schedule, grid, clips["cond"][2:], 1.0)
    with torch.no_grad():
        plain = ddim(chain, x_T)
    for overlap in (22, 86, 192):
        region = Region.outpaint(mel, overlap, 256)
        known = known_region([region])
        assert known is not None

        def loss(x_0: Tensor, region: Region = region) -> Tensor:
            return region(x_0, model)

        values = known.values(x_T)
        assert values == 160 * overlap
        guided = guidance_gradients(x_T, chain, loss, values=values)
        assert loss(guided) < 0.5 * loss(plain)
        assert guided.std() < 1.35 * model.data_std


def test_on_the_embedded_model_the_loudness_follows() -> None:
    model = ditto.load()
    shape, dtype = (1, *model.shape(1.5)), torch.float32
    chain = Chain(
        model.denoiser, model.schedule, model.schedule.timesteps(8), model.cond(ditto.Tags()), 1.0
    )
    ramp = torch.linspace(-40, -20, shape[-1])

    def loudness(x_0: Tensor) -> Tensor:
        return (mel_rms_db(x_0[:, 0], model.spec) - ramp).square().mean(dim=1)

    with torch.no_grad():
        plain = loudness(ddim(chain, randn(0, *shape, dtype=dtype)))
    seeds = iter(range(1, 100))
    noise = lambda: randn(next(seeds), *shape, dtype=dtype)  # noqa: E731
    guided = loudness(freedom(randn(0, *shape, dtype=dtype), chain, loudness, noise, time_travel=2))
    assert guided.item() < 0.3 * plain.item()


@pytest.mark.parametrize("sampler", FreeDoM.samplers)
def test_the_freedom_object_is_the_function(whole_model: MusicModel, sampler: str) -> None:
    chain, x_T, noise = start(whole_model)
    advance = {"advance": ancestral(noise, 2.6)} if sampler == "ddpm" else {}
    expected = freedom(
        x_T,
        chain,
        lambda x_0: LOUDNESS(x_0, whole_model, seeds=SEEDS),
        noise,
        strength=0.3,
        **advance,
    )
    result = made(whole_model, FreeDoM(steps=4, strength=0.3, sampler=sampler), LOUDNESS)
    torch.testing.assert_close(result.x_0, expected)
    assert not result.x_0.requires_grad


def test_freedoms_settings_reach_the_function(whole_model: MusicModel) -> None:
    chain, x_T, noise = start(whole_model)
    expected = freedom(
        x_T,
        chain,
        lambda x_0: LOUDNESS(x_0, whole_model, seeds=SEEDS),
        noise,
        strength=FREEDOM_STRENGTH,
        time_travel=1,
    )
    for strength in (FREEDOM_STRENGTH, None):
        result = made(whole_model, FreeDoM(steps=4, time_travel=1, strength=strength), LOUDNESS)
        torch.testing.assert_close(result.x_0, expected)


def test_guidance_gradients_keep_a_region_and_want_a_strength_for_the_rest(
    whole_model: MusicModel,
) -> None:
    chain, x_T, _ = start(whole_model)
    expected = guidance_gradients(
        x_T, chain, lambda x_0: REGION(x_0, whole_model), known=known_region([REGION])
    )
    result = made(whole_model, GuidanceGradients(steps=4), REGION)
    torch.testing.assert_close(result.x_0, expected)
    assert (result.errors["inpaint_mse"] == 0).all()
    expected = guidance_gradients(
        x_T, chain, lambda x_0: LOUDNESS(x_0, whole_model, seeds=SEEDS), strength=1e-5
    )
    result = made(whole_model, GuidanceGradients(steps=4, strength=1e-5), LOUDNESS)
    torch.testing.assert_close(result.x_0, expected)


@pytest.mark.parametrize("method", [FreeDoM(steps=3), LatCH(steps=3)])
def test_guidance_by_pulls_on_the_latent_alone_is_refused(
    tiny_model: MusicModel, method: Method
) -> None:
    with pytest.raises(RequestError, match="nothing is asked of the music"):
        run(Request(LatentNorm(), method=method), tiny_model)
