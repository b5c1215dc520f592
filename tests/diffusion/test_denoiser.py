"""Classifier-free guidance by its formula, and thresholding against diffusers."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ditto.diffusion.denoiser import GuidedDenoiser, dynamic_threshold
from ditto.diffusion.schedule import Prediction, Schedule

SCHEDULE = Schedule.cosine()


class Network:
    """A function of everything that it is given, which counts its calls and their batch sizes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        shape = (-1, *[1] * (x_t.ndim - 1))
        return torch.sin(x_t + t.reshape(shape) / 300) + cond.sum(dim=1).reshape(shape)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x_t = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x_t, torch.tensor([10, 500, 900]), torch.tensor([[1, 2, 3], [4, 0, 0], [0, 1, 0]])


def guided(network: Network, prediction: Prediction = "sample") -> GuidedDenoiser:
    return GuidedDenoiser(network, SCHEDULE, prediction, torch.zeros_like)


@pytest.mark.parametrize(("guidance", "batches"), [(0.0, [3]), (1.0, [3]), (4.0, [6]), (0.5, [6])])
def test_guidance_is_the_formula_in_one_call(guidance: float, batches: list[int]) -> None:
    network, (x_t, t, cond) = Network(), inputs()
    result = guided(network)(x_t, t, cond, guidance)
    assert network.batches == batches
    expected = guidance * network(x_t, t, cond) + (1 - guidance) * network(
        x_t, t, torch.zeros_like(cond)
    )
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_guiding_x_0_is_guiding_the_output(prediction: Prediction) -> None:
    network, (x_t, t, cond) = Network(), inputs()
    result = guided(network, prediction)(x_t, t, cond, 3.0)
    given, null = (
        SCHEDULE.to_x_0(network(x_t, t, c), x_t, t, prediction)
        for c in (cond, torch.zeros_like(cond))
    )
    torch.testing.assert_close(result, 3.0 * given - 2.0 * null, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("ratio", "maximum"), [(0.995, 1.0), (0.995, 1.5), (0.9, 10.0), (0.5, 3.0)]
)
def test_threshold_is_diffusers(ratio: float, maximum: float) -> None:
    theirs = DDIMScheduler(
        thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=maximum
    )
    scale = torch.tensor([0.1, 1.0, 5.0]).reshape(3, 1, 1, 1)
    x_0 = torch.randn(3, 1, 16, 20, generator=torch.Generator().manual_seed(0)) * scale
    torch.testing.assert_close(
        dynamic_threshold(x_0, ratio, maximum), theirs._threshold_sample(x_0)
    )


def test_threshold_lets_gradients_through_inside_the_range() -> None:
    x_0 = torch.tensor([[0.2, -0.9, 3.0]], dtype=torch.float64, requires_grad=True)
    dynamic_threshold(x_0).sum().backward()
    assert x_0.grad is not None
    assert x_0.grad.tolist() == [[1.0, 1.0, 0.0]]
