"""The melody control: loss and accuracy against torch's and numpy's, its gradient, and what it
refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from ditto.audio.chroma import log_chroma
from ditto.audio.spec import AudioSpec
from ditto.controls.base import Output, Window
from ditto.controls.melody import Melody
from ditto.controls.notes import REST, Note, NoteSequence
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
    np.testing.assert_allclose(Melody(TUNE)(x_0(), MODEL), expected, rtol=1e-6)
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
