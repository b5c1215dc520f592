import pytest
import torch

from ditto.audio.framing import frames_of, overlap_add, real_fft


def signal(samples: int) -> torch.Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("samples", "n_fft", "hop"), [(4096, 1024, 256), (64, 64, 16), (48, 16, 16)]
)
def test_frames_are_those_of_unfold(samples: int, n_fft: int, hop: int) -> None:
    assert torch.equal(
        frames_of(signal(samples), n_fft, hop), signal(samples).unfold(1, n_fft, hop)
    )


def test_overlap_add_is_that_of_fold() -> None:
    frames = signal(7 * 64).reshape(2, 7, 64)
    folded = torch.nn.functional.fold(
        frames.transpose(1, 2), (1, 6 * 16 + 64), (1, 64), stride=(1, 16)
    )
    torch.testing.assert_close(overlap_add(frames, 16), folded[:, 0, 0])


def test_overlap_add_is_the_transpose_of_framing() -> None:
    # <F x, y> = <x, F* y>, and so each is the other's gradient
    x, y = signal(160), signal(7 * 64).reshape(2, 7, 64)
    torch.testing.assert_close((frames_of(x, 64, 16) * y).sum(), (x * overlap_add(y, 16)).sum())
    assert torch.autograd.gradcheck(lambda s: frames_of(s, 64, 16), signal(160).requires_grad_())


@pytest.mark.parametrize(("samples", "n_fft", "hop"), [(100, 64, 16), (96, 60, 16), (48, 64, 16)])
def test_what_does_not_fit_is_refused(samples: int, n_fft: int, hop: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        frames_of(signal(samples), n_fft, hop)


@pytest.mark.parametrize("n_fft", [16, 15, 2])
def test_real_fft_is_rfft_with_its_gradient(n_fft: int) -> None:
    x = signal(3 * n_fft).reshape(2, 3, n_fft).requires_grad_()
    weights = torch.randn(
        2, 3, n_fft // 2 + 1, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(real_fft(x), torch.fft.rfft(x))
    ours, theirs = (
        torch.autograd.grad((f(x) * weights).abs().square().sum() + (f(x) * weights).real.sum(), x)[
            0
        ]
        for f in (real_fft, torch.fft.rfft)
    )
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(real_fft, x)
    assert torch.autograd.gradgradcheck(real_fft, x)
