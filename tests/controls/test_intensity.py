"""Intensity against numpy and scipy, its gradient, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import savgol_filter
from scipy.stats import pearsonr
from torch import Tensor, nn

from ditto.audio.features import mel_rms_db, smooth
from ditto.audio.spec import AudioSpec
from ditto.controls.base import ParseContext
from ditto.controls.curves import Curve
from ditto.controls.intensity import Intensity, mse, pearson
from ditto.controls.output import Output, Window
from ditto.controls.per_item import PerItem
from ditto.controls.pulls import LatentNorm
from ditto.errors import ControlError
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.panels import CurvePanel

SPEC = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=16, clip_frames=64)


class Tones(nn.Module):
    """A vocoder that any framework could differentiate: a sine a band, as loud as x_0 says."""

    def forward(self, x_0: Tensor) -> Tensor:
        amplitude = (0.5 * x_0).exp().repeat_interleave(SPEC.hop, dim=-1)
        time = torch.arange(amplitude.shape[-1], dtype=x_0.dtype) / SPEC.sample_rate
        hertz = 200 * torch.arange(1, x_0.shape[1] + 1, dtype=x_0.dtype)[:, None]
        return 0.05 * (amplitude * torch.sin(2 * math.pi * hertz * time)).sum(dim=1)


MODEL = MusicModel(nn.Identity(), Tones(), SPEC, TagVocabulary((), ()))  # pyright: ignore[reportArgumentType]


def x_0(frames: int = 64, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 1, 16, frames, generator=generator, dtype=torch.float64)


def loudness(audio: np.ndarray) -> np.ndarray:
    """20·log10 RMS of centred frames of 256 samples, smoothed over 1 s or what there is, of one
    signal."""
    padded = np.pad(audio, 128)
    frames = np.stack([padded[i * 64 : i * 64 + 256] for i in range(len(audio) // 64)])
    levels = 10 * np.log10((frames**2).mean(axis=1) + 1e-10)
    return savgol_filter(levels, min(125, len(levels) - 1 + len(levels) % 2), 3, mode="interp")


def target(points: list[tuple[float, float]], frames: int = 64) -> np.ndarray:
    raw = np.interp(np.arange(frames) * 0.008, *zip(*points, strict=True))
    return savgol_filter(raw, min(125, frames - 1 + frames % 2), 3, mode="interp")


POINTS = [(0.1, -30.0), (0.2, -12.0), (0.4, -40.0)]
TEXT = " ".join(f"{t}:{v}" for t, v in POINTS)


@pytest.mark.parametrize("frames", [64, 200, 17])
def test_losses_are_numpys_and_scipys(frames: int) -> None:
    points = [(t * frames / 64, v) for t, v in POINTS]
    text = " ".join(f"{t}:{v}" for t, v in points)
    audio = MODEL.to_audio(x_0(frames)).numpy()
    y = target(points, frames)
    squares = [((loudness(a) - y) ** 2).mean() for a in audio]
    rhos = [pearsonr(loudness(a), y).statistic for a in audio]
    np.testing.assert_allclose(Intensity(text)(x_0(frames), MODEL), squares, rtol=1e-5)
    np.testing.assert_allclose(
        -Intensity(text, "correlation")(x_0(frames), MODEL), rhos, rtol=1e-5, atol=1e-6
    )
    errors = Intensity(text).error(x_0(frames), MODEL)
    np.testing.assert_allclose(errors["intensity_mse_db2"], squares, rtol=1e-5)
    np.testing.assert_allclose(errors["intensity_rho"], rhos, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", ["mse", "correlation"])
def test_gradient_is_that_of_finite_differences(measure) -> None:
    control = Intensity(TEXT, measure)
    assert torch.autograd.gradcheck(
        lambda x: control(x, MODEL), (x_0(12).requires_grad_(),), fast_mode=True
    )


def test_gradient_reaches_x_0_through_the_real_vocoder(tiny_model: MusicModel) -> None:
    x = (x_0() * 0.1).float().requires_grad_()
    Intensity("swell")(x, tiny_model).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.abs().amax(dim=(1, 2)) > 0).all()


def test_losses_are_float32_and_one_an_item(tiny_model: MusicModel) -> None:
    loss = Intensity("swell")(x_0(64, 3).float(), tiny_model)
    assert loss.shape == (3,)
    assert loss.dtype == torch.float32


def test_a_recording_fits_its_own_loudness(tmp_path: Path) -> None:
    audio = MODEL.to_audio(x_0(64, 1))
    soundfile.write(tmp_path / "own.wav", audio[0].numpy(), 8000, subtype="DOUBLE")
    control = Intensity.of_recording(tmp_path / "own.wav", SPEC)
    control.check(MODEL, 64)
    assert control.loss(Output(x_0(64, 1), MODEL)).item() < 1e-4


def test_a_recording_is_cut_to_the_clip(tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "long.wav", MODEL.to_audio(x_0(500, 1))[0].numpy(), 8000, subtype="DOUBLE"
    )
    Intensity.of_recording(tmp_path / "long.wav", SPEC, seconds=0.3).check(MODEL, SPEC.frames(0.3))
    assert (
        Intensity.of_recording(tmp_path / "long.wav", SPEC, measure="correlation").measure
        == "correlation"
    )


def test_a_curve_beyond_the_clips_end_is_refused() -> None:
    Intensity("0:-30 0.5:-20").check(MODEL, 64)
    Intensity("swell").check(MODEL, 64)
    with pytest.raises(ControlError, match=r"goes on to 2 s, but the clip ends at 0\.51 s"):
        Intensity("0:-30 2:-20").check(MODEL, 64)


def test_the_correlation_with_a_level_curve_is_refused() -> None:
    for text in ("flat", "0:-20", "0:-20 0.3:-20"):
        Intensity(text).check(MODEL, 64)
        with pytest.raises(ControlError, match="no shape"):
            Intensity(text, "correlation").check(MODEL, 64)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ControlError, match="'mse' or 'correlation', not 'mae'"):
        Intensity("swell", "mae")  # pyright: ignore[reportArgumentType]


def test_pearson_of_a_constant_is_zero_with_a_finite_gradient() -> None:
    feature = torch.full((2, 8), -20.0, requires_grad=True)
    rho = pearson(feature, torch.arange(8.0))
    assert rho.tolist() == [0, 0]
    rho.sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


def test_mse_is_over_frames() -> None:
    assert mse(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0])).tolist() == [
        2.5,
        0.5,
    ]


def test_description_is_json_with_the_points_unless_they_are_many() -> None:
    short = Intensity("0:-30 3:-12").to_dict()
    assert short == {
        "control": "intensity",
        "measure": "mse",
        "domain": "sound",
        "curve": "0:-30 3:-12",
        "relative": False,
        "points": [[0.0, -30.0], [3.0, -12.0]],
    }
    many = Intensity(" ".join(f"{i / 100}:-20" for i in range(4097))).to_dict()
    assert many["points"] == 4097


def test_the_panel_is_target_and_feature() -> None:
    control = Intensity(TEXT)
    (panel,) = control.panels(Output(x_0(), MODEL), 1)
    assert isinstance(panel, CurvePanel)
    np.testing.assert_allclose(panel.target, target(POINTS), atol=1e-3)
    np.testing.assert_allclose(
        panel.achieved, loudness(MODEL.to_audio(x_0())[1].numpy()), atol=1e-4
    )
    assert panel.unit == "dB"


def test_the_mel_domain_spares_the_vocoder_while_optimising_only() -> None:
    class Counted(Tones):
        calls = 0

        def forward(self, x_0: Tensor) -> Tensor:
            Counted.calls += 1
            return super().forward(x_0)

    model = MusicModel(nn.Identity(), Counted(), SPEC, TagVocabulary((), ()))  # pyright: ignore[reportArgumentType]
    control = Intensity(TEXT, domain="mel")
    loss = control.loss(Output(x_0(), model))
    assert Counted.calls == 0
    levels = smooth(mel_rms_db(x_0()[:, 0], SPEC), SPEC).numpy()
    np.testing.assert_allclose(
        loss.numpy(), np.square(levels - target(POINTS)).mean(axis=1), rtol=1e-6
    )
    errors = control.errors(Output(x_0(), model))
    assert Counted.calls == 1
    assert torch.equal(errors["intensity_mse_db2"], Intensity(TEXT).loss(Output(x_0(), model)))


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ControlError, match="'sound' or 'mel', not 'taste'"):
        Intensity(TEXT, domain="taste")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("measure", ["mse", "correlation"])
def test_a_proxy_calibrated_at_an_output_is_the_sounds_loss_there_and_spares_the_vocoder(
    measure,
) -> None:
    control = Intensity(TEXT, measure)
    here, there = x_0(), x_0() + 0.1
    proxy = control.proxy().calibrate(Output(here, MODEL))
    torch.testing.assert_close(proxy(here, MODEL), control(here, MODEL))
    assert not torch.allclose(control.proxy()(here, MODEL), control(here, MODEL), rtol=1e-3), (
        "they should differ"
    )
    deaf = MusicModel(nn.Identity(), nn.Identity(), SPEC, TagVocabulary((), ()))  # pyright: ignore[reportArgumentType]
    assert torch.isfinite(proxy(there, deaf)).all()
    slope = torch.autograd.grad(proxy(there.requires_grad_(), deaf).sum(), there)[0]
    assert slope.abs().sum() > 0
    again = proxy.calibrate(Output(there, MODEL))
    torch.testing.assert_close(again(there, MODEL), control(there, MODEL))


def test_sums_spans_and_batches_of_controls_are_calibrated_part_by_part() -> None:
    here = x_0(batch=2)
    control = Intensity(TEXT) / 2 + Intensity("0.1:-20 0.4:-10", "correlation").during((0.1, 0.3))
    each = PerItem([control, 3 * Intensity(TEXT)])
    torch.testing.assert_close(
        each.proxy().calibrate(Output(here, MODEL))(here, MODEL), each(here, MODEL)
    )
    assert control.proxy().calibrate(Output(here, MODEL)).to_dict() == control.proxy().to_dict()


def test_a_control_without_a_proxy_is_its_own() -> None:
    control = LatentNorm()
    assert control.proxy() is control
    assert control.calibrate(Output(x_0(), MODEL)) is control


def old_curve(curve: Curve, start: float, total: float, window: float) -> np.ndarray:
    """Points (n, 2) of a curve from `start` on, as version 0.1 cut it."""
    times, levels = np.array(curve.points, dtype=np.float64).T
    times = times * (total if curve.relative else 1.0)
    inside = times[(times > start) & (times < start + window)]
    at = np.unique(np.concatenate([[start], inside, [math.nextafter(start + window, 0)]]))
    return np.stack([at - start, np.interp(at, times, levels)], axis=1)


@pytest.mark.parametrize("text", ["0:-40 1.2:-12 1.4:-30 3:-20", "swell", "steps", "1.1:-25"])
@pytest.mark.parametrize("measure", ["mse", "correlation"])
@pytest.mark.parametrize("start", [-0.25, 0.0, 1.0, 1.2, 2.9])
def test_in_a_window_the_curve_goes_on_from_its_start(text: str, measure, start: float) -> None:
    control = Intensity(text, measure, "mel")
    moved = control.in_window(Window(start, 3.0, (0.1, 0.3)), SPEC)
    expected = old_curve(control.curve, start, 3.0, SPEC.clip_seconds)
    np.testing.assert_allclose(moved.curve.points, expected, rtol=1e-12)
    assert (moved.measure, moved.domain, moved.curve.name) == (measure, "mel", text)
    assert not moved.curve.relative
    seconds = start + np.arange(64) * 64 / 8000
    points = [(t * (3 if control.curve.relative else 1), v) for t, v in control.curve.points]
    np.testing.assert_allclose(
        moved.curve.levels(64, SPEC), np.interp(seconds, *zip(*points, strict=True)), atol=1e-3
    )
    if measure == "mse":
        moved.check(MODEL, 64)


def test_a_dead_zone_leaves_frames_alone_that_are_near_enough() -> None:
    y = target(POINTS)
    errors = [np.abs(loudness(a) - y) for a in MODEL.to_audio(x_0()).numpy()]
    zone = float(np.median(errors))
    expected = [(np.maximum(0, e - zone) ** 2).mean() for e in errors]
    control = Intensity(TEXT, dead_zone=zone)
    np.testing.assert_allclose(control(x_0(), MODEL), expected, rtol=1e-5)
    assert control.error(x_0(), MODEL)["intensity_mse_db2"].tolist() == (
        Intensity(TEXT)(x_0(), MODEL).tolist()
    )
    f = torch.tensor([[1.0, 3.0, -0.5, -4.0]], requires_grad=True)
    loss = mse(f, torch.zeros(4), 1.0)
    assert loss.item() == (0 + 4 + 0 + 9) / 4
    (gradient,) = torch.autograd.grad(loss.sum(), f)
    assert gradient.tolist() == [[0.0, 1.0, 0.0, -1.5]]


def test_a_correlation_that_is_enough_has_no_gradient() -> None:
    rho = -Intensity(TEXT, "correlation")(x_0(), MODEL)
    enough = rho.mean().item()
    x = x_0().requires_grad_()
    loss = Intensity(TEXT, "correlation", enough=enough)(x, MODEL)
    torch.testing.assert_close(loss.detach(), (enough - rho).clamp(min=0))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert [bool(g.any()) for g in gradient] == (rho < enough).tolist()
    assert sorted((rho < enough).tolist()) == [False, True]


@pytest.mark.parametrize(
    "control", [Intensity(TEXT, dead_zone=1.0), Intensity(TEXT, "correlation", enough=0.9)]
)
def test_gradients_with_a_target_that_can_be_met(control: Intensity) -> None:
    assert torch.autograd.gradcheck(
        lambda x: control(x, MODEL), (x_0().requires_grad_(),), fast_mode=True
    )
    read = Intensity.from_dict(control.to_dict())
    assert (read.dead_zone, read.enough, read.measure) == (
        control.dead_zone,
        control.enough,
        control.measure,
    )
    assert control.proxy().calibrate(Output(x_0(), MODEL)).dead_zone == control.dead_zone


def test_what_is_near_enough_is_refused_where_it_makes_no_sense() -> None:
    for settings in ({"dead_zone": -1.0}, {"dead_zone": math.nan}):
        with pytest.raises(ControlError, match="from 0 to 40 dB"):
            Intensity(TEXT, **settings)
    with pytest.raises(ControlError, match="give enough"):
        Intensity(TEXT, "correlation", dead_zone=1.0)
    for settings in ({"enough": 0.9}, {"measure": "correlation", "enough": 1.5}):
        with pytest.raises(ControlError, match="enough"):
            Intensity(TEXT, **settings)


def test_options_say_what_is_near_enough() -> None:
    near = Intensity.parse(
        "swell", ParseContext(lambda: SPEC, options={"intensity_dead_zone": 1.0})
    )
    assert (near.measure, near.dead_zone) == ("mse", 1.0)
    options = {"correlation": True, "intensity_enough": 0.9}
    alike = Intensity.parse("swell", ParseContext(lambda: SPEC, options=options))
    assert (alike.measure, alike.enough) == ("correlation", 0.9)
