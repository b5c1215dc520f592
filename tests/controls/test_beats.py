from dataclasses import replace
from pathlib import Path

import mido
import mir_eval
import numpy as np
import pytest
import torch
from tests.conftest import Command

import ditto
from ditto.audio.features import log_mel
from ditto.audio.io import write
from ditto.audio.spec import AudioSpec
from ditto.controls import control_from_dict
from ditto.controls.beats import ACCENT, Beats, Grid, Hits
from ditto.controls.output import Output, Window
from ditto.controls.places import WHOLE, _places, places
from ditto.errors import ControlError
from ditto.methods.ditto2 import Ditto2
from ditto.models.model import MusicModel

SPEC = AudioSpec()


class Listener:
    """Stands in for a model whose x_0 is the log-mel of a given sound."""

    spec = SPEC

    def __init__(self, audio: torch.Tensor) -> None:
        self.audio = audio

    def to_audio(self, x_0: torch.Tensor, seeds: tuple[int, ...] = ()) -> torch.Tensor:
        return self.audio

    def to_mel(self, x_0: torch.Tensor) -> torch.Tensor:
        return x_0[:, 0]

    def output(self) -> Output:
        return Output(log_mel(self.audio, SPEC)[:, None], self)  # pyright: ignore[reportArgumentType]


def clicks(times: np.ndarray, seconds: float = 5.0) -> torch.Tensor:
    """Short bursts of noise over a soft bed, (1, samples)."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    sound = 0.003 * rng.standard_normal(len(t))
    for time in times:
        since = np.clip(t - time, 0, None)
        sound += (t > time) * np.exp(-since / 0.03) * 0.3 * rng.standard_normal(len(t))
    return torch.tensor(sound[None], dtype=torch.float32)


def midi(path: Path, channel: int = 9) -> Path:
    """A hit every half second from 0.5 s on at 120 beats per minute, and a note between them."""
    file = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    for _ in range(4):
        track.append(mido.Message("note_on", channel=0, note=60, velocity=90, time=240))
        track.append(mido.Message("note_on", channel=channel, note=36, velocity=100, time=240))
    file.save(path)
    return path


def test_a_sound_on_the_beats_has_met_them_and_one_beside_them_has_not() -> None:
    on = Listener(clicks(np.arange(0.25, 5, 0.5))).output()
    off = Listener(clicks(np.arange(0.5, 5, 0.5))).output()
    control = Beats(120, offset=0.25)
    assert control.loss(on).item() == 0
    assert control.loss(off).item() > 1.5
    assert control.errors(on)["beats_f_measure_percent"].item() == 100
    assert control.errors(off)["beats_f_measure_percent"].item() == 0
    assert control.errors(on)["beats_stand_out_times"].item() > 10
    correlation = Beats(120, "correlation", offset=0.25)
    assert correlation.loss(on).item() < -0.8
    assert correlation.loss(off).item() > -0.1


def test_soft_notes_between_the_beats_are_left_alone() -> None:
    beats, between = np.arange(0.5, 5, 0.5), np.arange(0.25, 5, 0.5)
    sound = Listener(clicks(beats) + 0.03 * clicks(between)).output()
    assert Beats(120, offset=0.5).loss(sound).item() < 0.05
    # The correlation would have them silent.
    assert Beats(120, "correlation", offset=0.5).loss(sound).item() > -0.95


@pytest.mark.parametrize("seed", range(4))
def test_its_f_measures_are_mir_evals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # At least 0.2 s apart, some missing and some moved.
    played = np.arange(0.3, 4.8, 0.5) + rng.uniform(-0.12, 0.12, 9)
    output = Listener(clicks(played)).output()
    hits = Hits(tuple((float(t), 1.0) for t in np.arange(0.3, 4.8, 0.5)))
    asked = np.arange(0.3, 4.8, 0.5)
    theirs, *_ = mir_eval.onset.f_measure(asked, played)
    ours = Beats(hits).errors(output)["beats_f_measure_percent"].item()
    # Onsets are heard to within 15 ms, which decides of a few at most.
    assert ours / 100 == pytest.approx(theirs, abs=0.23)


def test_the_accent_is_on_the_first_beat_of_a_bar() -> None:
    grid = Grid(120, offset=0.2, per_bar=3)
    times, strengths = zip(*grid.hits(3.0), strict=True)
    np.testing.assert_allclose(times, np.arange(0.2, 3.0, 0.5))
    assert strengths == (ACCENT, 1, 1, ACCENT, 1, 1)
    even = Listener(clicks(np.arange(0.2, 5, 0.5))).output()
    assert Grid(60, offset=2.0).hits(1.5) == ((0.0, 1.0), (1.0, 1.0))
    target = Beats(120, offset=0.2, per_bar=3).target(even)
    assert target.max().item() == pytest.approx(ACCENT)


def test_its_gradient_is_right(tiny_model: MusicModel) -> None:
    control = Beats(240, margin=3.0, offset=0.06)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(1, 1, 16, 24, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: control.loss(Output(x, tiny_model)), x_0)


def test_a_midi_file_gives_its_drums_and_without_any_all_notes(tmp_path: Path) -> None:
    drums = Beats.from_midi(midi(tmp_path / "drums.mid"))
    assert [round(time, 3) for time, _ in drums.rhythm.hits(9)] == [0.5, 1.0, 1.5, 2.0]
    whole = Beats.from_midi(midi(tmp_path / "tune.mid", channel=1))
    assert len(whole.rhythm.hits(9)) == 8
    assert len(whole.rhythm.hits(1.6)) == 6
    slow = Beats.from_midi(tmp_path / "drums.mid", bpm=60)
    assert [time for time, _ in slow.rhythm.hits(9)] == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ControlError, match="has no track 3"):
        Beats.from_midi(tmp_path / "drums.mid", track=3)
    (tmp_path / "broken.mid").write_bytes(b"MThd nothing")
    with pytest.raises(ControlError, match=r"cannot read the beats .* damaged"):
        Beats.from_midi(tmp_path / "broken.mid")


def test_a_recording_gives_its_onsets(tmp_path: Path) -> None:
    times = np.array([0.4, 1.0, 1.3, 2.2, 3.1])
    path = tmp_path / "played.wav"
    write(path, clicks(times, 4.0)[0].numpy(), SPEC.sample_rate)
    heard = np.array([time for time, _ in Beats.of_recording(path).rhythm.hits(9)])
    assert mir_eval.onset.f_measure(times, heard, window=0.03)[0] == 1


def test_a_window_sees_the_rhythm_go_on() -> None:
    whole = Beats(100, offset=0.1, per_bar=4)
    part = whole.in_window(Window(start=4.0, total=12.0, new=(0.0, 5.9)), SPEC)
    there = [(time - 4.0, s) for time, s in whole.rhythm.hits(4 + 5) if time >= 4.0]
    np.testing.assert_allclose(part.rhythm.hits(5), there, atol=1e-9)
    hits = Beats(Hits(((1.0, 1.0), (5.0, 1.5))))
    assert hits.in_window(Window(4.0, 12.0, (0.0, 5.9)), SPEC).rhythm.hits(9) == ((1.0, 1.5),)
    assert hits.in_window(Window(6.0, 12.0, (0.0, 5.9)), SPEC) is None


def test_during_a_span_only_its_beats_count() -> None:
    sound = Listener(clicks(np.arange(0.25, 2.5, 0.5))).output()
    control = Beats(120, offset=0.25)
    assert control.loss(sound).item() > 0.1
    assert control.during((0.0, 2.4)).loss(sound).item() == 0
    errors = control.during((0.0, 2.4)).errors(sound)
    assert errors["beats_f_measure_percent"].item() == 100


def test_it_reads_what_it_writes_and_refuses_what_is_no_rhythm(tiny_model: MusicModel) -> None:
    for control in (Beats(96, "correlation", offset=0.5, per_bar=3), Beats(Hits(((0.5, 1.25),)))):
        assert control_from_dict(control.to_dict()) == control
        assert control_from_dict(control.during((0.1, 1.0)).to_dict()).bare() == control
    for wrong, words in (
        ("fast", "give beats per minute, e.g. 120"),
        ("drums.wav", "a recording goes with --beats-like"),
        (5, "the tempo of beats must be 20 to 400 beats per minute"),
        (True, "cannot read the beats True"),
    ):
        with pytest.raises(ControlError, match=words):
            Beats(wrong)
    with pytest.raises(ControlError, match="beats per bar must be a whole number"):
        Beats(120, per_bar=2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ControlError, match="'margin' or 'correlation'"):
        Beats(120, "mse")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ControlError, match="falls before the clip ends"):
        Beats(Hits(((4.0, 1.0),))).check(tiny_model, 64)


def test_its_options(
    ditto_music: Command, model_folder: Path, tmp_path: Path, student_model: MusicModel
) -> None:
    base = "generate", "--model", model_folder, "--method", "ditto", "-T", 2, "-K", 2
    drums = midi(tmp_path / "drums.mid")
    code, _, error = ditto_music(*base, "--beats", 240, "--beats-per-bar", 2, "-o", "a.wav")
    assert code == 0, error
    assert "beats_f_measure_percent" in error
    code, _, error = ditto_music(*base, "--beats", drums, "--beats-offset", 1, "-o", "b.wav")
    assert (code, "go with a tempo" in error) == (2, True)
    code, _, error = ditto_music(*base, "--beats", 120, "--beats-track", 1, "-o", "b.wav")
    assert (code, "chooses a track" in error) == (2, True)
    code, _, error = ditto_music(*base, "--beats-offset", 1, "-o", "b.wav")
    assert (code, "--beats-offset needs a rhythm to go with" in error) == (2, True)


def test_it_adds_to_other_controls(student_model: MusicModel) -> None:
    both = ditto.Intensity("swell") / 40 + 2 * Beats(300)
    method = Ditto2(corrections=0)
    made = ditto.generate(student_model, both, iterations=2, method=method)
    assert {"intensity_mse_db2", "beats_f_measure_percent"} <= set(made.errors)
    assert replace(Beats(300), margin=2.0).margin == 2.0


def test_the_embedded_model_follows_it() -> None:
    model, control, tags = ditto.load(), Beats(120, offset=0.25), "genre=rock tempo=100"
    plain = ditto.generate(model, tags=tags, seed=11, seconds=3.0)
    before = control.error(plain.x_0, model)
    made = ditto.generate(model, control, tags=tags, seed=11, seconds=3.0, iterations=40)
    name = "beats_f_measure_percent"
    assert made.losses[-1].item() < made.losses[0].item() / 4
    assert made.errors[name].item() > max(80, before[name].item() + 30)


RHYTHMS = {
    "a steady tempo": Grid(97, offset=0.3, per_bar=4),
    "quick hits and gaps": Hits.of(
        [(float(t), 1.0) for t in (*np.arange(1, 9, 0.1), 12, 12.3, 20, *np.arange(25, 38, 0.11))],
        "hits",
    ),
    "two": Hits.of([(3.0, 1.0), (31.0, 1.5)], "two"),
    "one": Hits.of([(20.0, 1.0)], "one"),
}


@pytest.mark.parametrize("rhythm", RHYTHMS.values(), ids=RHYTHMS)
def test_a_long_song_s_beats_are_weighed_as_a_clip_s(rhythm: Grid | Hits) -> None:
    frames = SPEC.frames(40)
    hits = tuple(hit for hit in rhythm.hits(40) if hit[0] > 0.06)
    whole, split = (_places(hits, frames, SPEC, weights) for weights in (0, WHOLE + 1))
    envelope = torch.rand(
        2, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    assert len(whole.blocks) == 1
    assert len(split.blocks) > 1 or len(hits) == 1
    for ours, theirs in zip(split.heights(envelope), whole.heights(envelope), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split.bells(), whole.bells(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("apart", [0.11, 0.5])
def test_memory_grows_with_the_length_of_the_song_and_not_with_its_square(apart: float) -> None:
    def weights(seconds: int) -> int:
        hits = tuple((float(time), 1.0) for time in np.arange(1, seconds, apart))
        found = places(hits, SPEC.frames(seconds), SPEC)
        return sum(block.near.numel() + block.around.numel() for block in found.blocks)

    short, long = weights(600), weights(1200)
    assert long < 2.1 * short
    assert long < 50 * SPEC.frames(1200)
