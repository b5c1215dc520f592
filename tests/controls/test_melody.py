"""The melody control: loss and accuracy against torch's and numpy's, its gradient, and what it
refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from ditto.audio.chroma import log_chroma, octave_power
from ditto.audio.spec import AudioSpec
from ditto.controls.base import ParseContext
from ditto.controls.melody import Melody, hinge, log_octaves
from ditto.controls.notes import REST, Note, NoteSequence
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.methods.ditto import Ditto
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.panels import ChromaPanel
from ditto.request import Request
from ditto.runner import run

SPEC = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=12, clip_frames=64)
TUNE = NoteSequence((Note(0.05, 0.15, 72), Note(0.25, 0.2, 67)))
SECONDS = np.arange(64) * 0.008
CLASSES = np.select(
    [(SECONDS >= 0.05) & (SECONDS < 0.2), (SECONDS >= 0.25) & (SECONDS < 0.45)], [0, 7], REST
)


class Organ(nn.Module):
    """A vocoder that any framework could differentiate: a sine for each pitch class of octave 5, as
    loud as x_0."""

    def forward(self, x_0: Tensor) -> Tensor:
        amplitude = (2 * x_0).exp().repeat_interleave(SPEC.hop, dim=-1)
        time = torch.arange(amplitude.shape[-1], dtype=x_0.dtype) / SPEC.sample_rate
        hertz = 440 * 2 ** ((torch.arange(12, dtype=x_0.dtype)[:, None] + 3) / 12)
        return 0.01 * (amplitude * torch.sin(2 * math.pi * hertz * time)).sum(dim=1)


MODEL = MusicModel(nn.Identity(), Organ(), SPEC, TagVocabulary((), ()))  # pyright: ignore[reportArgumentType]


def x_0(batch: int = 2, frames: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 1, 12, frames, generator=generator, dtype=torch.float64)


def test_loss_is_torchs_nll_and_accuracy_numpys_over_the_frames_with_a_note() -> None:
    log_shares = log_chroma(MODEL.to_audio(x_0()), SPEC)
    target = torch.from_numpy(CLASSES)
    expected = [
        nn.functional.nll_loss(item.T, target, ignore_index=REST).item() for item in log_shares
    ]
    np.testing.assert_allclose(Melody(TUNE, "nll")(x_0(), MODEL), expected, rtol=1e-6)
    errors = Melody(TUNE).error(x_0(), MODEL)
    np.testing.assert_allclose(errors["melody_nll"], expected, rtol=1e-6)
    right = [
        (item.argmax(dim=0).numpy() == CLASSES)[CLASSES != REST].mean() * 100 for item in log_shares
    ]
    np.testing.assert_allclose(errors["melody_accuracy_percent"], right, rtol=1e-5)


def test_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda x: Melody(TUNE)(x, MODEL), (x_0().requires_grad_(),), fast_mode=True
    )


def test_a_melody_taken_from_a_clip_has_accuracy_100_on_it(tmp_path: Path) -> None:
    audio = MODEL.to_audio(x_0(1))
    soundfile.write(tmp_path / "own.wav", audio[0].numpy(), 8000, subtype="DOUBLE")
    control = Melody.of_recording(tmp_path / "own.wav", SPEC)
    control.check(MODEL, 64)
    assert control.error(x_0(1), MODEL)["melody_accuracy_percent"].item() == 100


def test_a_melody_that_is_played_has_accuracy_near_100() -> None:
    played = torch.full((1, 1, 12, 64), -3.0)
    for frame, value in enumerate(CLASSES):
        played[0, 0, value, frame] = 1.0 if value != REST else -3.0
    assert Melody(TUNE).error(played, MODEL)["melody_accuracy_percent"].item() > 85


def test_only_the_frames_within_a_mask_count() -> None:
    masked = Melody(TUNE).during((0.25, 0.45))
    x = x_0().requires_grad_()
    alone = Melody(NoteSequence((Note(0.25, 0.2, 67),)))
    torch.testing.assert_close(masked(x, MODEL), alone(x, MODEL))


def test_a_melody_outside_the_time_when_it_counts_is_said(tiny_model: MusicModel) -> None:
    inside, outside = (Melody(TUNE).during(span) for span in ((0.1, 0.3), (0.46, 0.5)))
    assert inside.warnings(tiny_model, 64) == []
    assert outside.warnings(tiny_model, 64) == [
        "nothing of a melody lies within 0.46 to 0.5 s: it has no effect"
    ]


def test_a_melody_beyond_the_clip_is_refused_and_one_that_is_cut_says_so() -> None:
    Melody(TUNE).check(MODEL, 64)
    assert Melody(TUNE).warnings(MODEL, 64) == []
    with pytest.raises(ControlError, match=r"no note before the clip ends at 0\.51 s"):
        Melody(NoteSequence((Note(1.0, 1.0, 60),))).check(MODEL, 64)
    long = Melody(NoteSequence((Note(0.0, 1.0, 60), Note(1.0, 2.0, 62))))
    long.check(MODEL, 64)
    assert long.warnings(MODEL, 64) == [
        "the melody lasts 3.00 s: what comes after 0.51 s was cut (1 of its notes whole)"
    ]


def test_description_and_panel() -> None:
    described = Melody.from_notes("C4:1 R G4", bpm=120).to_dict()
    assert described == {
        "control": "melody",
        "tune": "C4:1 R G4",
        "seconds": 1.5,
        "notes": [[0.0, 0.5, 60], [1.0, 0.5, 67]],
        "measure": "margin",
        "margin": 0.6,
        "understood": "2 notes, C4–G4, 120 BPM",
    }
    (panel,) = Melody(TUNE).panels(Output(x_0(), MODEL), 1)
    assert isinstance(panel, ChromaPanel)
    np.testing.assert_array_equal(panel.target, CLASSES)
    np.testing.assert_allclose(panel.shares.sum(axis=0), 1, rtol=1e-6)


def test_in_a_window_the_melody_goes_on_or_is_over() -> None:
    seen = {
        start: Melody(TUNE).in_window(Window(start, 9.0, (0.0, 0.5)), SPEC)
        for start in (-0.1, 0.1, 0.3, 0.45, -0.5)
    }
    assert [seen[0.45], seen[-0.5]] == [None, None]
    notes = {
        start: [(round(n.onset, 6), round(n.duration, 6), n.pitch) for n in melody.tune.notes]
        for start, melody in seen.items()
        if isinstance(melody, Melody)
    }
    assert notes == {
        -0.1: [(0.15, 0.15, 72), (0.35, 0.2, 67)],
        0.1: [(0.0, 0.1, 72), (0.15, 0.2, 67)],
        0.3: [(0.0, 0.15, 67)],
    }


def test_the_loss_falls(tiny_model: MusicModel) -> None:
    found = run(
        Request(Melody(TUNE), iterations=8, seed=1, method=Ditto(steps=2, lr=0.05)), tiny_model
    )
    assert found.losses.amin() < found.losses[0] - 0.02


MARGIN = Melody(TUNE, "margin", 0.4)


def lead(log_shares: np.ndarray) -> np.ndarray:
    """By how much the tune's class leads in each frame with a note, in nats."""
    found = []
    for frame in np.flatnonzero(CLASSES != REST):
        others = np.delete(log_shares[:, frame], CLASSES[frame])
        found.append(log_shares[CLASSES[frame], frame] - others.max())
    return np.array(found)


def test_a_margin_counts_only_frames_that_lead_by_less() -> None:
    x = x_0()
    x[:, :, 0, 5:20] += 2.0  # the first note is played
    log_shares = log_chroma(MODEL.to_audio(x), SPEC).numpy()
    leads = [lead(item) for item in log_shares]
    assert any((one < 0.4).any() for one in leads)
    assert any((one > 0.4).any() for one in leads)
    expected = [np.maximum(0, 0.4 - one).mean() for one in leads]
    np.testing.assert_allclose(MARGIN(x, MODEL), expected, rtol=1e-6)
    errors, papers = MARGIN.error(x, MODEL), Melody(TUNE).error(x, MODEL)
    assert {name: value.tolist() for name, value in errors.items()} == {
        name: value.tolist() for name, value in papers.items()
    }


def test_a_frame_that_leads_has_no_gradient_and_a_rest_neither() -> None:
    shares = torch.tensor([[[0.6, 0.45, 0.2, 0.3], [0.3, 0.44, 0.5, 0.4], [0.1, 0.11, 0.3, 0.3]]])
    shares = shares.log().requires_grad_()
    loss = hinge(shares, torch.tensor([0, 0, 0, REST]), 0.3)
    by_hand = (0 + 0.3 - math.log(0.45 / 0.44) + 0.3 - math.log(0.2 / 0.5)) / 3
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), shares)
    third = 1 / 3
    expected = [[0, -third, -third, 0], [0, third, third, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(gradient[0], torch.tensor(expected))


@pytest.mark.parametrize("octave", [False, True])
@pytest.mark.parametrize("measure", ["nll", "margin"])
def test_gradients_of_all_losses_are_those_of_finite_differences(measure, octave: bool) -> None:
    control = Melody(TUNE, measure, 0.4, octave)
    assert torch.autograd.gradcheck(
        lambda x: control(x, MODEL), (x_0().requires_grad_(),), fast_mode=True
    )


def test_octaves_of_the_bass_do_not_count_unless_the_tune_is_there() -> None:
    power = torch.full((1, 128, 3), 1e-3)
    power[:, 36] = 5.0  # C2, C4, C5
    power[:, 60] = 1.0
    power[:, 72] = 2.0
    shares, octaves = log_octaves(power, torch.tensor([60, REST, 36]))
    assert octaves.tolist() == [5, REST, 3]
    rest = 1e-3  # each of C6 to C9; of C3 too where the tune is at C2
    assert shares[0, 5, 0].exp().item() == pytest.approx(1 / (3 + 4 * rest), rel=1e-5)
    assert shares[0, 3, 0].item() < -15
    assert shares[0, 3, 2].exp().item() == pytest.approx(5 / (8 + 5 * rest), rel=1e-5)


def test_the_octave_is_asked_for_where_it_is_written() -> None:
    played = torch.full((1, 1, 12, 64), -3.0, dtype=torch.float64)
    for frame, value in enumerate(CLASSES):
        played[0, 0, value, frame] = 1.0 if value != REST else -3.0
    there = NoteSequence((Note(0.25, 0.2, 79),))
    high = NoteSequence((Note(0.25, 0.2, 91),))
    for measure in ("nll", "margin"):
        losses = [Melody(tune, measure, 0.3, True)(played, MODEL) for tune in (there, high)]
        free = Melody(there, measure)(played, MODEL)
        torch.testing.assert_close(losses[0], free, atol=0.05, rtol=0)
        assert losses[1] > free + 1
    shares, octaves = log_octaves(
        octave_power(MODEL.to_audio(played), SPEC) + 1e-10, there.pitches(64, SPEC)
    )
    heard = hinge(shares, octaves, 0.3)
    torch.testing.assert_close(
        Melody(there, "margin", 0.3, True)(played, MODEL),
        Melody(there, "margin", 0.3)(played, MODEL) + heard,
    )


def test_losses_are_described_read_and_refused() -> None:
    control = Melody(TUNE, "margin", 0.5, True)
    described = control.to_dict()
    assert (described["measure"], described["margin"], described["octave"]) == ("margin", 0.5, True)
    assert Melody.from_dict(described) == control
    assert Melody.from_dict(Melody(TUNE).to_dict()) == Melody(TUNE)
    with pytest.raises(ControlError, match="'nll' or 'margin', not mse"):
        Melody(TUNE, "mse")  # pyright: ignore[reportArgumentType]
    for margin in (0.0, 11.0, math.nan):
        with pytest.raises(ControlError, match="at most 10 nats"):
            Melody(TUNE, "margin", margin)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("margin", 0.6, False)),
        ({"melody_loss": "nll"}, ("nll", 0.6, False)),
        ({"melody_margin": 0.5}, ("margin", 0.5, False)),
        ({"melody_octave": True}, ("margin", 0.6, True)),
    ],
)
def test_options_choose_the_loss(options: dict, expected: tuple) -> None:
    control = Melody.parse("C4:1", ParseContext(lambda: SPEC, options=options))
    assert (control.measure, control.margin, control.octave) == expected
    nll = ParseContext(lambda: SPEC, options={"melody_loss": "nll", "melody_margin": 0.1})
    with pytest.raises(ControlError, match="needs --melody-loss margin"):
        Melody.parse("C4:1", nll)


def test_written_notes_take_the_tempo_whatever_they_end_with() -> None:
    context = ParseContext(AudioSpec, tempo=60.0)
    for text in ("C4:1 E4:0.5", "C4:1 E4:.25", "C4", "C4:1.5 E4"):
        first = Melody.parse(text, context).tune.notes[0]
        assert first.duration == Melody.from_notes(text, bpm=60).tune.notes[0].duration
