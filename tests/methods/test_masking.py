"""Naïve masking and MultiDiffusion: what the region holds after every step, and what the rest is
left to."""

import pytest
import torch
from tests.methods.given import REGION, made, start
from torch import Tensor

import ditto
from ditto.controls.intensity import Intensity
from ditto.controls.regions import Region
from ditto.diffusion.samplers import Chain, ddim, ddim_step
from ditto.diffusion.schedule import CLEAN, Schedule
from ditto.methods.base import Method
from ditto.methods.masking import (
    Known,
    MultiDiffusion,
    MultiDiffusion50,
    NaiveMasking,
    known_region,
    multidiffusion,
    naive_masking,
)
from ditto.models.model import MusicModel

pytestmark = pytest.mark.usefixtures("together")

SCHEDULE = Schedule.cosine(shift=0.5)
COND = torch.zeros(2, 5, dtype=torch.long)
MASK = torch.zeros(1, 1, 1, 8)
MASK[..., :3] = 1


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 1, 4, 8)), generator=torch.Generator().manual_seed(seed))


KNOWN = Known(MASK, 0.5 * randn(9).tanh())


class Pixelwise:
    """The exact denoiser of independent values ~ N(0, 0.3²), which keeps every x_t that it was
    asked about."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor, guidance: float) -> Tensor:
        self.seen.append(x_t)
        alpha_bar = SCHEDULE.at(t, x_t)
        return alpha_bar.sqrt() * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar) * x_t


class Drawn:
    """Noise that keeps what it gave."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self) -> Tensor:
        self.given.append(randn(100 + len(self.given)))
        return self.given[-1]


def make_chain(denoiser: Pixelwise, steps: int = 6) -> Chain:
    return Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(steps), COND)


def region(x: Tensor) -> Tensor:
    return x[..., :3]


def rest(x: Tensor) -> Tensor:
    return x[..., 3:]


def test_naive_masking_holds_the_region_at_its_noise_level_and_at_last_exactly() -> None:
    denoiser, noise = Pixelwise(), Drawn()
    x_0 = naive_masking(randn(0), make_chain(denoiser), KNOWN, noise)
    assert torch.equal(region(x_0), region(KNOWN.reference))
    for x_t, epsilon, (t, _) in zip(
        denoiser.seen[1:], noise.given, make_chain(denoiser).pairs()[1:], strict=False
    ):
        alpha_bar = SCHEDULE.alpha_bar[t]
        expected = alpha_bar.sqrt() * KNOWN.reference + (1 - alpha_bar).sqrt() * epsilon
        torch.testing.assert_close(region(x_t), region(expected).float(), rtol=1e-6, atol=1e-6)


def test_outside_the_region_only_the_model_speaks() -> None:
    # This model treats every value for itself, so the rest must be what it is without a reference,
    # bit for bit.
    plain = ddim(make_chain(Pixelwise()), randn(0))
    for x_0 in (
        naive_masking(randn(0), make_chain(Pixelwise()), KNOWN, Drawn()),
        multidiffusion(randn(0), make_chain(Pixelwise()), KNOWN, Drawn()),
        multidiffusion(randn(0), make_chain(Pixelwise()), KNOWN, Drawn(), until=0.5),
    ):
        assert torch.equal(rest(x_0), rest(plain))
        assert not torch.equal(region(x_0), region(plain))


def md_path(until: float) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    """Every x_t and x_0; the noises; the steps."""
    denoiser, noise = Pixelwise(), Drawn()
    x_0 = multidiffusion(randn(0), make_chain(denoiser), KNOWN, noise, until=until)
    return [*denoiser.seen, x_0], noise.given, make_chain(denoiser).pairs()


def own_step(x_t: Tensor, t: int, t_next: int) -> Tensor:
    return ddim_step(SCHEDULE, x_t, make_chain(Pixelwise()).predict(x_t, t), t, t_next)


def test_multidiffusion_averages_after_every_step() -> None:
    path, noises, pairs = md_path(1.0)
    for x_t, x_next, epsilon, (t, t_next) in zip(path[:-1], path[1:], noises, pairs, strict=True):
        reference = SCHEDULE.add_noise(KNOWN.reference, epsilon, t_next)
        expected = (own_step(x_t, t, t_next) + reference) / 2
        torch.testing.assert_close(region(x_next), region(expected), rtol=1e-6, atol=1e-6)
    assert pairs[-1][1] == CLEAN


def test_md_50_leaves_the_second_half_to_the_model() -> None:
    path, noises, pairs = md_path(0.5)
    assert len(noises) == 3
    for x_t, x_next, (t, t_next) in list(zip(path[:-1], path[1:], pairs, strict=True))[3:]:
        assert torch.equal(x_next, own_step(x_t, t, t_next))


@pytest.mark.parametrize(("one_noise", "low", "high"), [(False, 0.5, 0.75), (True, 0.95, 1.05)])
def test_one_noise_leaves_the_region_the_noise_that_the_model_expects(
    one_noise: bool, low: float, high: float
) -> None:
    """Two fresh noises average to less: at a fixed point to 1/√3."""
    shape = (1, 1, 40, 40)
    draws = iter(range(1, 100))
    known = Known(torch.ones(40), 0.3 * randn(99, *shape))
    denoiser = Pixelwise()
    chain = Chain(denoiser, SCHEDULE, SCHEDULE.timesteps(20), COND[:1])
    noise = lambda: randn(next(draws), *shape)  # noqa: E731
    multidiffusion(randn(0, *shape), chain, known, noise, one_noise=one_noise)
    for x_t, t in list(zip(denoiser.seen, chain.timesteps, strict=True))[4:12]:
        signal, spread = SCHEDULE.scales(t, x_t)
        nominal = (signal**2 * 0.09 + spread**2).sqrt()
        assert low < (x_t.std() / nominal).item() < high


def test_spans_of_frames_make_a_mask() -> None:
    known = Known.of_spans(KNOWN.reference[0], [(0, 2), (6, 8)])
    assert known.mask.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    x_0 = naive_masking(randn(0), make_chain(Pixelwise()), known, Drawn())
    for kept in (slice(0, 2), slice(6, 8)):
        assert torch.equal(x_0[..., kept], KNOWN.reference[:1, ..., kept].expand(2, -1, -1, -1))


def test_a_region_control_says_what_is_known() -> None:
    region = Region.inpaint(KNOWN.reference[0], ((2, 6),))
    known = known_region([region])
    assert known is not None
    assert known.mask.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert known.reference is region.reference
    for controls in ([], [region, region], [Intensity("swell")], [region / 2]):
        assert known_region(controls) is None


def test_on_the_embedded_model_the_known_half_is_kept_and_the_other_half_follows() -> None:
    model = ditto.load()
    shape = (1, *model.shape(2.0))
    chain = Chain(
        model.denoiser, model.schedule, model.schedule.timesteps(8), model.cond(ditto.Tags()), 1.0
    )
    mask = torch.zeros(1, 1, 1, shape[-1])
    mask[..., : shape[-1] // 2] = 1
    with torch.no_grad():
        clip = ddim(chain, randn(1, *shape))
        plain = ddim(chain, randn(2, *shape))
        known, draws = Known(mask, clip), iter(range(3, 100))
        naive = naive_masking(randn(2, *shape), chain, known, lambda: randn(next(draws), *shape))
        averaged = multidiffusion(
            randn(2, *shape), chain, known, lambda: randn(next(draws), *shape)
        )

    def errors(x_0: Tensor) -> list[float]:
        return [(part(x_0) - part(clip)).square().mean().item() for part in (first, second)]

    def first(x: Tensor) -> Tensor:
        return x[..., : shape[-1] // 2]

    def second(x: Tensor) -> Tensor:
        return x[..., shape[-1] // 2 :]

    assert errors(naive)[0] == 0
    assert errors(averaged)[0] < 0.5 * errors(plain)[0]
    assert not torch.equal(second(naive), second(plain))


@pytest.mark.parametrize(
    ("method", "until"),
    [
        (NaiveMasking(steps=4), None),
        (MultiDiffusion(steps=4), 1.0),
        (MultiDiffusion50(steps=4), 0.5),
        (MultiDiffusion(steps=4, until=0.25), 0.25),
        (MultiDiffusion(steps=4, one_noise=True), 1.0),
    ],
)
def test_the_objects_are_the_functions(
    whole_model: MusicModel, method: Method, until: float | None
) -> None:
    chain, x_T, noise = start(whole_model)
    known = known_region([REGION])
    assert known is not None
    with torch.no_grad():
        if until is None:
            expected = naive_masking(x_T, chain, known, noise)
        else:
            one_noise = isinstance(method, MultiDiffusion) and method.one_noise
            settings = {"until": until, "one_noise": one_noise}
            expected = multidiffusion(x_T, chain, known, noise, **settings)
    result = made(whole_model, method, REGION)
    assert torch.equal(result.x_0, expected)
    assert result.losses.shape == (0, 2)
    assert (result.errors["inpaint_mse"] == 0).all() == (until is None)
