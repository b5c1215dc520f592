import torch

from ditto.audio.limiter import CEILING, KNEE, limited


def test_what_is_within_the_knee_is_left_bit_for_bit() -> None:
    audio = torch.linspace(-KNEE, KNEE, 1001)
    assert torch.equal(limited(audio), audio)


def test_nothing_passes_the_ceiling_and_order_is_kept() -> None:
    audio = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    bent = limited(audio)
    assert bent.abs().max() < CEILING
    assert bool((bent.diff() > 0).all())
    torch.testing.assert_close(bent, -bent.flip(0))
    assert limited(torch.tensor([1e6, -1e6])).abs().max() <= CEILING


def test_gradient() -> None:
    audio = torch.tensor(
        [0.0, 0.3, -0.79, 0.81, -0.95, 1.7], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(limited, audio)


def test_the_slope_goes_on_smoothly_at_the_knee() -> None:
    audio = torch.tensor([KNEE - 1e-9, KNEE + 1e-9], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(limited(audio).sum(), audio)[0]
    torch.testing.assert_close(slope, torch.ones(2, dtype=torch.float64))
