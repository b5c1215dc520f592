"""Pulls on x_T and towards the uncontrolled clip: values by hand and by scipy, gradients, and that
they hold."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from tests.methods.given import LOUDNESS, SHAPE
from torch import Tensor

from ditto.controls import LatentNorm, LatentStatistics, NearUncontrolled, control_from_dict
from ditto.controls.base import Control
from ditto.controls.output import Output
from ditto.controls.per_item import PerItem
from ditto.errors import ControlError
from ditto.latents import draw_x_T
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.doodl import Doodl
from ditto.methods.guidance import FreeDoM
from ditto.methods.none import Uncontrolled
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import run


def noise(batch: int = 2, *, frames: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 1, 16, frames, generator=generator, dtype=torch.float64)


def value(control: Control, x_T: Tensor, model: MusicModel) -> Tensor:
    return control(torch.zeros_like(x_T), model, x_T)


def test_the_norms_loss_is_the_density_of_chi(tiny_model: MusicModel) -> None:
    x_T = noise() * torch.tensor([1.1, 0.8]).view(2, 1, 1, 1)
    d, r = 16 * 64, x_T.flatten(1).norm(dim=1).numpy()
    density = scipy.stats.chi(d).logpdf
    expected = density(math.sqrt(d - 1)) - density(r)
    np.testing.assert_allclose(value(LatentNorm(), x_T, tiny_model), expected, rtol=1e-9)
    single = value(LatentNorm(), x_T.float(), tiny_model)
    np.testing.assert_allclose(single, expected, rtol=1e-3)
    most = x_T * torch.from_numpy(math.sqrt(d - 1) / r).view(2, 1, 1, 1)
    np.testing.assert_allclose(value(LatentNorm(), most, tiny_model), 0, atol=1e-9)


def by_numpy(x: np.ndarray, k: int) -> float:
    z = x.reshape(-1, k)
    m = len(z)
    first = np.linalg.norm(z.mean(axis=0))
    second = np.linalg.norm(z.T @ z / m - np.eye(k), 2)
    p1 = 2 * math.exp(-m * first**2 / (2 * k))
    p2 = 2 * math.exp(-m * max(math.sqrt(1 + second) - 1 - math.sqrt(k / m), 0) ** 2 / 2)
    return -math.log(min(p1, 1)) - math.log(min(p2, 1))


@pytest.mark.parametrize("k", [1, 4, 8])
def test_the_statistics_are_numpys(tiny_model: MusicModel, k: int) -> None:
    smooth = noise()
    smooth = 0.8 * smooth + 0.6 * smooth.roll(1, dims=-1) + 0.2
    expected = [by_numpy(item.numpy().ravel(), k) for item in smooth]
    assert min(expected) > 1
    control = LatentStatistics(k, 0)
    np.testing.assert_allclose(value(control, smooth, tiny_model), expected, rtol=1e-7)


def test_statistics_see_what_lies_side_by_side_and_shuffles_what_does_not(
    tiny_model: MusicModel,
) -> None:
    plain = noise()
    assert (value(LatentStatistics(4, 3), plain, tiny_model) < 1).all()
    ordered = plain.flatten(1).sort(dim=1).values.view_as(plain)
    assert (value(LatentStatistics(4, 0), ordered, tiny_model) > 50).all()
    loud = 1.3 * plain
    near, mixed = (value(LatentStatistics(4, n), loud, tiny_model) for n in (0, 3))
    assert (near > 1).all()
    assert (mixed > 1).all()
    lone = value(LatentStatistics(4, 3), ordered, tiny_model)
    alone = value(LatentStatistics(4, 0), ordered, tiny_model)
    torch.testing.assert_close(lone, alone / 4, atol=0.5, rtol=0)


@pytest.mark.parametrize("control", [LatentNorm(), LatentStatistics(4, 2)])
def test_gradients_of_x_T(tiny_model: MusicModel, control: Control) -> None:
    x_T = (1.2 * noise(frames=16) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value(control, x, tiny_model), (x_T,), fast_mode=True)
    ordinary = noise().requires_grad_()
    (gradient,) = torch.autograd.grad(
        value(LatentStatistics(), ordinary, tiny_model).sum(), ordinary
    )
    assert not gradient.any()


def test_near_in_mel_is_the_mean_over_blocks_of_levels(tiny_model: MusicModel) -> None:
    clip, other = 0.1 * noise(), 0.1 * noise().flip(-1)
    control = NearUncontrolled(other)
    # A quarter of a second is 31 frames of this model: blocks of 31, 31 and 2 frames; 3 groups of
    # bands, of 6, 6 and 6 that overlap.
    levels = [(x.numpy()[:, 0] - 1) * 8 for x in (clip, other)]
    edges, groups = (0, 31, 62, 64), ((0, 6), (5, 11), (10, 16))
    blocks = [
        np.array(
            [
                [[x[lo:hi, a:b].mean() for a, b in pairwise(edges)] for lo, hi in groups]
                for x in both
            ]
        )
        for both in levels
    ]
    expected = ((blocks[0] - blocks[1]) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(control(clip, tiny_model), expected, rtol=1e-6)
    assert control(other, tiny_model).tolist() == [0, 0]
    assert torch.autograd.gradcheck(
        lambda x: control(x, tiny_model), (clip.requires_grad_(),), fast_mode=True
    )


class Ear:
    """In place of CLAP: the direction of the first five samples."""

    def embed_audio(self, audio: Tensor, rate: int) -> Tensor:
        return torch.nn.functional.normalize(audio[:, 1000:1005], dim=-1)


def test_near_in_clap_is_one_minus_cos(tiny_model: MusicModel) -> None:
    clip, other = (0.1 * noise()).float(), (0.1 * noise().flip(-1)).float()
    control = NearUncontrolled(other, "clap", Ear())  # pyright: ignore[reportArgumentType]
    a, b = (tiny_model.to_audio(x)[:, 1000:1005] for x in (clip, other))
    expected = 1 - torch.nn.functional.cosine_similarity(a, b)
    torch.testing.assert_close(control(clip, tiny_model), expected, atol=1e-5, rtol=1e-4)


def test_pulls_add_are_described_and_refused(tiny_model: MusicModel) -> None:
    both = LOUDNESS + 0.1 * LatentStatistics(8, 2) + 0.5 * LatentNorm()
    assert control_from_dict(both.to_dict()).to_dict() == both.to_dict()
    x_T = 1.2 * noise().float()
    total = both(torch.zeros_like(x_T), tiny_model, x_T)
    parts = [c(torch.zeros_like(x_T), tiny_model, x_T) for c, _ in both.terms()]
    torch.testing.assert_close(total, (parts[0] + 0.1 * parts[1] + 0.5 * parts[2]) / 3)
    each = PerItem([LatentNorm(), LatentNorm()])
    torch.testing.assert_close(
        each(torch.zeros_like(x_T), tiny_model, x_T), value(LatentNorm(), x_T, tiny_model)
    )
    output = Output(torch.zeros_like(x_T), tiny_model, x_T=x_T)
    assert set(both.errors(output)) >= {"latent_statistics", "latent_norm", "intensity_mse_db2"}
    assert LatentNorm().errors(Output(x_T, tiny_model)) == {}
    with pytest.raises(ControlError, match="size from 1 to 64"):
        LatentStatistics(0)
    with pytest.raises(ControlError, match="'mel' or 'clap'"):
        NearUncontrolled(x_T, "cepstrum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ControlError, match="32 frames, and this 64"):
        NearUncontrolled(x_T[..., :32]).check(tiny_model, 64)


@pytest.mark.parametrize(
    "method",
    [Ditto(steps=2, lr=0.05), Doodl(steps=2, lr=0.05), Ditto2(lr=0.05, corrections=2)],
    ids=["ditto", "doodl", "ditto2"],
)
@pytest.mark.usefixtures("together")
def test_every_method_that_optimises_gives_x_T_to_the_pull(student_model, method) -> None:
    seen = []

    class Witness(LatentNorm):
        def loss(self, output: Output) -> Tensor:
            assert output.x_T is not None
            seen.append((output.x_T.detach().clone(), output.x_T.requires_grad))
            return super().loss(output)

    settings = {"seed": 5, "count": 2, "iterations": 3, "method": method}
    found = run(Request(LOUDNESS + Witness(), **settings), student_model)
    assert len(seen) >= 4
    torch.testing.assert_close(seen[0][0], draw_x_T(SHAPE, 5, 2), atol=0.02, rtol=0)
    assert all(requires_grad for _, requires_grad in seen[:3])
    assert torch.equal(seen[-1][0], found.x_T)
    torch.testing.assert_close(
        found.errors["latent_norm"], LatentNorm()(found.x_0, student_model, found.x_T)
    )


def test_guidance_has_no_x_T_and_is_not_pulled(student_model: MusicModel) -> None:
    settings = {"seed": 5, "count": 1, "method": FreeDoM(steps=2)}
    free = run(Request(LOUDNESS / 2, **settings), student_model)
    held = run(Request((LOUDNESS + 9 * LatentNorm()), **settings), student_model)
    torch.testing.assert_close(free.audio, held.audio)


def test_it_stays_near_the_clip_without_control(student_model: MusicModel) -> None:
    settings = {"seed": 5, "count": 2}
    plain = run(Request(method=Uncontrolled(steps=4), **settings), student_model)
    near = NearUncontrolled(plain.x_0)
    settings |= {"iterations": 12, "method": Ditto(steps=4, lr=0.05)}
    free = run(Request(LOUDNESS, **settings), student_model)
    held = run(Request(LOUDNESS + 1e4 * near, **settings), student_model)
    assert (near(held.x_0, student_model) < near(free.x_0, student_model)).all()
