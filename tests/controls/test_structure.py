"""The structure controls: matrices against numpy's, the gradient, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from torch import Tensor

from ditto.audio.features import log_mel
from ditto.audio.onsets import onset_activity
from ditto.controls.base import ParseContext
from ditto.controls.form import Form, parse_form
from ditto.controls.output import Output, Window
from ditto.controls.structure import DENSITY, KEEPS_PLAYING, TOLERANCE, Structure, StructureLike
from ditto.errors import AudioFileError, ControlError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.panels import MatrixPanel
from ditto.request import Request
from ditto.runner import run


def x_0(
    batch: int = 2, frames: int = 64, n_mels: int = 16, dtype: torch.dtype = torch.float32
) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (
        0.1 * torch.randn(batch, 1, n_mels, frames, generator=generator, dtype=torch.float64) - 0.2
    ).to(dtype)


def two_sounds(labels: np.ndarray) -> Tensor:
    """A clip that has one spectrum where the label is 0 and another where it is 1."""
    spectra = x_0(2, 1)[:, 0, :, 0]
    return spectra[torch.from_numpy(labels)].T[None, None].contiguous()


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("ABA", [("A", 1), ("B", 1), ("A", 1)]),
        ("abba", [("A", 1), ("B", 1), ("B", 1), ("A", 1)]),
        ("A:2 B:4 A:2", [("A", 2), ("B", 4), ("A", 2)]),
        ("A:.5, B", [("A", 0.5), ("B", 1)]),
    ],
)
def test_forms(text: str, sections: list[tuple[str, float]]) -> None:
    assert list(parse_form(text).sections) == sections


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write letters"),
        ("A", "2 to 16 sections, not 1"),
        ("AXB!", "cannot read 'AXB!'"),
        ("AB" * 20, "2 to 16 sections, not 40"),
        ("A:2 B:0", "above 0"),
        ("A:x B:2", "cannot read 'A:x'"),
        ("A1B2", "cannot read"),
    ],
)
def test_what_is_no_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(ControlError, match=message) as caught:
        Structure(text)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_and_matrix() -> None:
    form = parse_form("A:1 B:2 A:1")
    labels = np.array([0] * 16 + [1] * 32 + [0] * 16)
    np.testing.assert_array_equal(form.labels(64), labels)
    np.testing.assert_array_equal(form.matrix(64), labels[:, None] == labels[None])


def test_the_target_is_smoothed_by_scipys_filter_along_both_axes(tiny_model: MusicModel) -> None:
    control = Structure("ABBA")
    blocks = control.form.matrix(64).double().numpy()
    expected = scipy.signal.savgol_filter(
        scipy.signal.savgol_filter(blocks, 63, 3, axis=0), 63, 3, axis=1
    )
    np.testing.assert_allclose(control.target(Output(x_0(), tiny_model)), expected, atol=1e-4)


def test_loss_is_the_mean_square_of_the_difference(tiny_model: MusicModel) -> None:
    control, output = Structure("ABA", 0.0, 0.0), Output(x_0(), tiny_model)
    feature, target = (
        control.feature(output).double().numpy(),
        control.target(output).double().numpy(),
    )
    expected = [((f - target) ** 2).mean() for f in feature]
    np.testing.assert_allclose(control.loss(output), expected, rtol=1e-5)
    np.testing.assert_allclose(control.errors(output)["structure_mse"], expected, rtol=1e-5)


@pytest.mark.parametrize("text", ["AB", "ABBA", "A:1 B:3 A:2"])
def test_a_clip_of_two_sounds_in_that_order_has_error_0(tiny_model: MusicModel, text: str) -> None:
    control = Structure(text, 0.0, 0.0)
    clip = two_sounds(control.form.labels(64))
    assert control(clip, tiny_model).item() < 1e-6
    assert Structure("ABABAB")(clip, tiny_model).item() > 0.05


def test_gradients_are_those_of_finite_differences(tiny_model: MusicModel) -> None:
    x = x_0(1, 16, dtype=torch.float64).requires_grad_()
    for control in (Structure("ABA"), StructureLike(x_0(1, 40)[0, 0].double())):
        assert torch.autograd.gradcheck(
            lambda v, c=control: c(v, tiny_model), x, fast_mode=True, atol=1e-4
        )


def test_masks_leave_rows_and_columns_out(tiny_model: MusicModel) -> None:
    control, output = Structure("AB", 0.0, 0.0), Output(x_0(), tiny_model)
    difference = (control.feature(output) - control.target(output))[:, 20:40, 20:40]
    masked = control.during((20 / 125 - 1e-3, 40 / 125 - 1e-3))
    torch.testing.assert_close(masked.loss(output), difference.square().mean(dim=(1, 2)))


def test_a_recordings_structure_has_error_0_on_itself(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "own.wav", audio, 8000, subtype="DOUBLE")
    control = StructureLike.of_recording(tmp_path / "own.wav", tiny_model.spec)
    control.check(tiny_model, 64)
    clip = log_mel(torch.from_numpy(audio).float()[None], tiny_model.spec)[:, None, :, :64]
    assert control(clip, tiny_model).item() < 1e-10
    assert control(x_0(1), tiny_model).item() > 1e-3
    assert control.to_dict() == {
        "control": "structure",
        "like": "own.wav",
        "from": 0.0,
        "understood": "structure of own.wav, 0.00 to 0.71 s",
    }


def test_what_does_not_fit_is_refused(tiny_model: MusicModel, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="shortest section would last"):
        Structure("ABABABABAB").check(tiny_model, 64)
    with pytest.raises(ControlError, match=r"lasts 0\.24 s, but the clip 0\.51 s"):
        StructureLike(torch.zeros(16, 30), "a.wav").check(tiny_model, 64)
    with pytest.raises(ControlError, match="160 mels, but the model 16"):
        StructureLike(torch.zeros(160, 64)).check(tiny_model, 64)
    with pytest.raises(AudioFileError):
        StructureLike.of_recording(tmp_path / "missing.wav")


def test_description_and_panel(tiny_model: MusicModel) -> None:
    form = Form((("A", 1.0), ("B", 2.0)))
    described = {"control": "structure", "sections": [["A", 1.0], ["B", 2.0]]}
    assert Structure(form, 0.0, 0.0).to_dict() == described
    control = Structure(form)
    own = {"tolerance": TOLERANCE, "density": DENSITY}
    assert control.to_dict() == described | own
    (panel,) = control.panels(Output(x_0(), tiny_model), 1)
    assert isinstance(panel, MatrixPanel)
    assert panel.target.shape == panel.achieved.shape == (64, 64)


def test_the_loss_falls_without_a_vocoder(
    tiny_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(Request(Structure("ABA"), iterations=8, method=Ditto(steps=2, lr=0.05)), tiny_model)
    assert found.losses.amin() < 0.97 * found.losses[0]
    monkeypatch.setattr(MusicModel, "to_audio", lambda *_: pytest.fail("the vocoder ran"))
    Structure("ABA")(x_0(), tiny_model)


def test_a_window_of_a_recording_has_no_structure(tiny_model: MusicModel) -> None:
    window = Window(0.0, 2.0, (0.0, 0.5))
    for control in (Structure("ABA"), StructureLike(torch.zeros(16, 64))):
        for one in (control, control.during((0.0, 0.4)), control / 2):
            with pytest.raises(ControlError, match="structure cannot be asked of an edit"):
                one.in_window(window, tiny_model.spec)
    assert Structure("ABA").during((1.0, 1.4)).in_window(window, tiny_model.spec) is None


def test_pairs_within_the_tolerance_do_not_count(tiny_model: MusicModel) -> None:
    plain, control = Structure("ABA", 0.0, 0.0), Structure("ABA", tolerance=0.2, density=0.0)
    output = Output(x_0(), tiny_model)
    off = (plain.feature(output) - plain.target(output)).abs().numpy()
    expected = (np.maximum(0, off - 0.2) ** 2).mean(axis=(1, 2))
    assert (off < 0.2).any()
    np.testing.assert_allclose(control.loss(output), expected, rtol=1e-5)
    assert control.errors(output)["structure_mse"].tolist() == plain.loss(output).tolist()
    like = StructureLike(x_0(1)[0, 0], tolerance=0.2)
    zero = like.loss(Output(x_0(1), tiny_model))
    assert zero.tolist() == [0.0]


def test_activity_is_numpys_and_large_where_onsets_stand_out(tiny_model: MusicModel) -> None:
    strength = torch.tensor([[0.0, 4.0, 0.0, 4.0, 1.0, 1.0, 1.0]])
    section = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    assert onset_activity(strength, section).tolist() == [[1.0, 0.0]]
    held = torch.full((1, 1, 16, 64), 0.2)
    plucked = held.clone()
    plucked[..., ::8] += 0.3
    control, plain = Structure("AB", density=1.0), Structure("AB", density=0.0)
    assert control.activity(Output(held, tiny_model)).tolist() == [[0.0, 0.0]]
    assert (control.activity(Output(plucked, tiny_model)) > KEEPS_PLAYING).all()
    half = held.clone()
    half[..., :32] = plucked[..., :32]
    for clip, short in ((held, 1.0), (plucked, 0.0), (half, 0.5)):
        output = Output(clip, tiny_model)
        added = control.loss(output) - plain.loss(output)
        assert added.item() == pytest.approx(short, abs=1e-5)


def test_a_form_that_keeps_playing_has_gradient_description_and_limits(
    tiny_model: MusicModel,
) -> None:
    control = Structure("ABA", tolerance=0.1, density=0.5)
    clip = x_0(1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: control(x, tiny_model), (clip,), fast_mode=True)
    read = Structure.from_dict(control.to_dict())
    assert (read.tolerance, read.density) == (0.1, 0.5)
    assert "density" not in Structure("ABA", density=0.0).to_dict()
    during = control.during((0.0, 0.2))(x_0(), tiny_model)
    assert during.isfinite().all()
    for settings, message in (
        ({"tolerance": 1.0}, "0 to below 1"),
        ({"density": -1.0}, "weight of density"),
    ):
        with pytest.raises(ControlError, match=message):
            Structure("ABA", **settings)
    parsed = Structure.parse("ABA", ParseContext(lambda: tiny_model.spec))
    assert (parsed.tolerance, parsed.density) == (TOLERANCE, DENSITY)
    assert Structure.from_dict({"sections": [["A", 1.0], ["B", 1.0]]}).tolerance == 0.0
    options = {"structure_tolerance": 0.2, "structure_density": 2.0}
    parsed = Structure.parse("ABA", ParseContext(lambda: tiny_model.spec, options=options))
    assert (parsed.tolerance, parsed.density) == (0.2, 2.0)
