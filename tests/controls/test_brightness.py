import librosa
import numpy as np
import pytest
import torch

import ditto
from ditto.audio.spec import AudioSpec
from ditto.controls import control_from_dict
from ditto.controls.brightness import REFERENCE_HZ, Brightness, centroid_octaves
from ditto.controls.output import Output, Window
from ditto.errors import ControlError

SPEC = AudioSpec()


def chirp(seconds: float = 2.0) -> torch.Tensor:
    t = torch.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    noise = 0.01 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    return (0.3 * torch.sin(2 * torch.pi * (300 * t + 700 * t**2)) + noise)[None]


def test_the_centroid_is_librosas() -> None:
    audio = chirp()
    ours = REFERENCE_HZ * 2 ** centroid_octaves(audio, SPEC)[0]
    frames = {"n_fft": SPEC.n_fft, "hop_length": SPEC.hop, "sr": SPEC.sample_rate}
    theirs = librosa.feature.spectral_centroid(y=audio[0].numpy(), **frames)[0]
    # Frames at the ends see the edge of the file, which librosa pads with zeros.
    inside = slice(8, len(ours) - 8)
    np.testing.assert_allclose(ours[inside], theirs[: len(ours)][inside], rtol=2e-3)


def test_a_sine_is_as_bright_as_its_frequency() -> None:
    t = torch.arange(SPEC.sample_rate) / SPEC.sample_rate
    for hertz in (500.0, 1000.0, 4000.0):
        octaves = centroid_octaves(0.5 * torch.sin(2 * torch.pi * hertz * t)[None], SPEC)
        assert octaves[0, 20:-20].median().item() == pytest.approx(np.log2(hertz / 1000), abs=0.15)


def test_silence_has_a_finite_gradient() -> None:
    audio = torch.zeros(1, SPEC.sample_rate, requires_grad=True)
    centroid_octaves(audio, SPEC).sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_its_gradient_is_right() -> None:
    spec = AudioSpec(sample_rate=8000, n_fft=64, hop=16, n_mels=8, clip_frames=16)
    audio = 0.3 * torch.randn(1, 256, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(
        lambda x: centroid_octaves(x, spec), audio.requires_grad_(), atol=1e-6
    )


def test_a_window_sees_its_part_of_the_curve() -> None:
    whole = Brightness("0:500 10:2500")
    part = whole.in_window(Window(start=4.0, total=10.0, new=(0.0, 5.9)), SPEC)
    assert part.curve.points[0] == pytest.approx((0.0, 1300.0))
    seen = part.curve.levels(100, SPEC)
    expected = whole.curve.levels(1000, SPEC)
    shift = round(4.0 * SPEC.frame_rate)
    torch.testing.assert_close(seen, expected[shift : shift + 100], atol=2.5, rtol=0)


def test_it_reads_what_it_writes_and_refuses_what_it_cannot_reach() -> None:
    control = Brightness("open-close").during((1.0, 2.0))
    assert control_from_dict(control.to_dict()) == control
    with pytest.raises(ControlError, match="50 to 10000 Hz"):
        Brightness("0:20 3:400")
    with pytest.raises(ControlError, match="brighten, darken"):
        Brightness("louder")
    model = ditto.load()
    with pytest.raises(ControlError, match="the clip ends"):
        Brightness("0:500 30:2000").check(model, 512)


def test_the_embedded_model_follows_it() -> None:
    model, control = ditto.load(), Brightness("brighten")
    plain = ditto.generate(model, tags="genre=rock", seed=3, seconds=3.0)
    before = control.errors(Output(plain.x_0, model, plain.audio))
    steered = ditto.generate(model, control, tags="genre=rock", seed=3, seconds=3.0, iterations=30)
    name = "brightness_mse_octaves2"
    assert steered.errors[name].item() < before[name].item() / 4
    assert steered.errors["brightness_rho"].item() > 0.9
