from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch
from tests.conftest import Command

import ditto
from ditto.audio.spec import AudioSpec
from ditto.controls import control_from_dict
from ditto.controls.chords import (
    QUALITIES,
    Chords,
    Progression,
    chord_chroma,
    parse_chords,
    spelt,
    templates,
)
from ditto.controls.notes import REST
from ditto.controls.output import Output, Window
from ditto.errors import ControlError
from ditto.methods.ditto2 import Ditto2
from ditto.models.model import MusicModel

SPEC = AudioSpec()
HARTE = {
    "": "maj",
    "m": "min",
    "7": "7",
    "maj7": "maj7",
    "m7": "min7",
    "6": "maj6",
    "m6": "min6",
    "dim": "dim",
    "aug": "aug",
    "sus2": "sus2",
    "sus4": "sus4",
}
"""Qualities as mir_eval writes them."""


class Listener:
    """Stands in for a model whose sound is given."""

    spec = SPEC

    def __init__(self, audio: torch.Tensor) -> None:
        self.audio = audio

    def to_audio(self, x_0: torch.Tensor, seeds: tuple[int, ...] = ()) -> torch.Tensor:
        return self.audio

    def output(self) -> Output:
        frames = self.audio.shape[1] // SPEC.hop
        return Output(torch.zeros(1, 1, SPEC.n_mels, frames), self)  # pyright: ignore[reportArgumentType]


def played(text: str, bpm: float = 120) -> torch.Tensor:
    """The chords of a text in octaves 3 and 4, four partials a note, (1, samples)."""
    sounds = []
    for chord, seconds in parse_chords(text, bpm).chords:
        t = np.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
        sound = 1e-4 * np.sin(2 * np.pi * 3000 * t)
        steps = [] if chord is None else [chord[0] + step for step in QUALITIES[chord[1]]]
        for pitch in (octave + step for step in steps for octave in (48, 60)):
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            sound += sum(0.03 / k**2 * np.sin(2 * np.pi * hertz * k * t) for k in range(1, 5))
        sounds.append(sound)
    return torch.tensor(np.concatenate(sounds)[None], dtype=torch.float32)


def test_templates_are_the_notes_that_mir_eval_knows() -> None:
    for quality, name in HARTE.items():
        for root, row in enumerate(templates(tuple((root, quality) for root in range(12)))):
            number, bitmap, _ = mir_eval.chord.encode(f"C:{name}")
            assert number == 0
            theirs = mir_eval.chord.rotate_bitmap_to_root(bitmap, root)
            np.testing.assert_array_equal(row > 0, theirs > 0)
    assert HARTE.keys() | {"5"} == QUALITIES.keys()


@pytest.mark.parametrize(
    "text", ["C Am F G", "F#m7 B7 E", "Dm6 Bbmaj7 Gsus4 A", "Eb Cm Abaug Bdim"]
)
def test_a_played_progression_is_heard_as_itself(text: str) -> None:
    output = Listener(played(text, 60)).output()
    control = Chords(text, bpm=60)
    # Chords of the same notes count as one; the chroma's windows see both chords at a change.
    assert control.errors(output)["chords_accuracy_percent"].item() > 90
    assert control.loss(output).item() < 0.2
    other = Chords("G C Am Em", bpm=60).errors(output)["chords_accuracy_percent"]
    assert other.item() < 20


def test_chords_of_the_same_notes_are_one() -> None:
    for one, other in (("Caug", "Eaug"), ("C6", "Am7"), ("Csus2", "Gsus4")):
        output = Listener(played(other, 60)).output()
        control = Chords(f"{one} R {other}:0.1")
        assert control.errors(output)["chords_accuracy_percent"].item() == 100
        assert control.loss(output).item() < 0.1


def test_its_accuracy_is_mir_evals() -> None:
    asked, sounding = "C:2 Am:1 F:1.5 G:1.5", "C:1 Em:1 Am:1 F:1 Dm:1 G:1"
    output, control = Listener(played(sounding)).output(), Chords(asked)
    best = control.feature(output)[0].argmax(dim=0)
    heard = [control.progression.heard[i] for i in best.tolist()]
    edges = np.arange(len(heard) + 1) / SPEC.frame_rate
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)
    labels = [f"{spelt((root, ''))}:{HARTE[quality]}" for root, quality in heard]
    whole = control.progression
    ends = np.cumsum([0] + [seconds for _, seconds in whole.chords])
    ends[-1] = edges[-1]
    reference = np.stack([ends[:-1], ends[1:]], axis=1)
    names = [f"{spelt((c[0], ''))}:{HARTE[c[1]]}" for c, _ in whole.chords if c]
    theirs = mir_eval.chord.evaluate(reference, names, intervals, labels)["majmin"]
    ours = control.errors(output)["chords_accuracy_percent"].item()
    assert ours == pytest.approx(100 * theirs, abs=1.5)
    assert 40 < ours < 90


def test_a_bass_drum_and_noise_do_not_hide_a_chord() -> None:
    sound = played("C:4 Am:4", 120)
    t = torch.arange(sound.shape[1]) / SPEC.sample_rate
    sound = sound + 0.3 * torch.sin(2 * torch.pi * 60 * t) * (t % 0.5 < 0.1)
    errors = Chords("C:4 Am:4").errors(Listener(sound).output())
    assert errors["chords_accuracy_percent"].item() > 90


def test_chords_take_beats_or_seconds_and_repeat() -> None:
    classes = parse_chords("C:1s R:0.5s Am:1", bpm=120).classes(300, SPEC)
    at = [int(t * SPEC.frame_rate) + 1 for t in (0.0, 0.9, 1.1, 1.6, 2.05, 3.1)]
    c, a_minor = 0, 12 + 9
    assert classes[at].tolist() == [c, c, REST, a_minor, c, REST]
    once = parse_chords("C:1s R:0.5s Am:1", bpm=120, repeat=False).classes(300, SPEC)
    assert once[at].tolist() == [c, c, REST, a_minor, REST, REST]
    assert parse_chords("Bb B#7 Cmin Db-7").chords == parse_chords("A# C7 Cm C#m7").chords


def test_a_window_sees_the_chords_go_on() -> None:
    for repeat in (True, False):
        whole = Chords("C:3s Dm7:2s G:4s", repeat=repeat)
        part = whole.in_window(Window(4.0, 12.0, (0.0, 5.9)), SPEC)
        shift = round(4.0 * SPEC.frame_rate)
        expected = whole.progression.classes(shift + 400, SPEC)[shift:]
        assert (part.progression.classes(400, SPEC) == expected).float().mean() > 0.98
        late = whole.in_window(Window(10.0, 20.0, (0.0, 5.9)), SPEC)
        assert (late is None) != repeat


def test_its_gradient_is_right() -> None:
    spec = AudioSpec(sample_rate=8000, n_fft=512, hop=128, n_mels=16, clip_frames=16)
    generator = torch.Generator().manual_seed(0)
    audio = 0.3 * torch.randn(1, 2048, generator=generator).double().requires_grad_()
    fit = templates(Progression((((0, ""), 1.0),)).heard).double()
    weights = torch.randn(24, 16, generator=generator).double()
    assert torch.autograd.gradcheck(
        lambda x: (weights * (fit @ chord_chroma(x, spec))).sum(), audio, fast_mode=True
    )


def test_silence_has_a_finite_gradient() -> None:
    audio = torch.zeros(1, SPEC.sample_rate, requires_grad=True)
    Chords("C").loss(Listener(audio).output()).sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_it_reads_what_it_writes_and_refuses_what_is_no_chord(tiny_model: MusicModel) -> None:
    for control in (
        Chords("C:4 F#m7:2 R:1 Bb7:1s", bpm=120),
        Chords("C:4", "nll", margin=0.5, repeat=False),
        Chords("C:2s Am:2s").in_window(Window(1.0, 9.0, (0.0, 5.0)), SPEC),
    ):
        assert control_from_dict(control.to_dict()) == control
    for wrong in ("H:2", "C:4 am:4", "Cmaj13:2", "C/E:2", "C:x"):
        with pytest.raises(ControlError, match=r"cannot read .* in the chords: write names"):
            Chords(wrong)
    with pytest.raises(ControlError, match="1 to 10000 chords"):
        Chords("R:2")
    with pytest.raises(ControlError, match="must last some time"):
        Chords("C:0")
    with pytest.raises(ControlError, match="10 to 1000 beats per minute"):
        Chords("C", bpm=0)
    with pytest.raises(ControlError, match="'margin' or 'nll'"):
        Chords("C", "mse")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ControlError, match="no chord before the clip ends"):
        Chords("R:3s C:1").check(tiny_model, 64)
    assert Chords("C:3s", repeat=False).warnings(tiny_model, 64)


def test_its_options(ditto_music: Command, model_folder: Path) -> None:
    base = "generate", "--model", model_folder, "--method", "ditto", "-T", 2, "-K", 2
    code, _, error = ditto_music(*base, "--chords", "C:1 G7:1", "--chords-bpm", 240, "-o", "a.wav")
    assert code == 0, error
    assert "chords_accuracy_percent" in error
    assert Path("a.png").exists()
    code, _, error = ditto_music(*base, "--chords", "X", "-o", "b.wav")
    assert (code, error.count("\n")) == (2, 1)
    code, _, error = ditto_music(*base, "--chords-once", "-o", "b.wav")
    assert (code, "--chords-once needs chords to go with" in error) == (2, True)


def test_it_adds_to_other_controls(student_model: MusicModel) -> None:
    both = [ditto.Intensity("swell"), Chords("C Am", bpm=240), ditto.Beats(300)]
    weights = [weight for _, weight in ditto.Request(both).control.terms()]
    assert weights == [1 / 40, 1, 1]
    method = Ditto2(corrections=0)
    made = ditto.generate(student_model, both, iterations=2, method=method)
    assert {"intensity_mse_db2", "chords_accuracy_percent"} <= set(made.errors)


def test_the_embedded_model_follows_it() -> None:
    model, control, tags = ditto.load(), Chords("C:1.5s Am:1.5s"), "genre=jazz tempo=100"
    plain = ditto.generate(model, tags=tags, seed=11, seconds=3.0)
    before = control.error(plain.x_0, model)
    made = ditto.generate(model, control, tags=tags, seed=11, seconds=3.0, iterations=20)
    name = "chords_accuracy_percent"
    assert made.losses[-1].item() < made.losses[0].item() / 4
    assert made.errors[name].item() > max(75, before[name].item() + 30)
