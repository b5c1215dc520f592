"""Music of several windows on a tiny model (0.512 s at 8 kHz): curves in the time of the whole,
form, stopping and going on, and refusals."""

import json
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ditto.audio.features import log_mel
from ditto.audio.limiter import limited
from ditto.audio.similarity import self_similarity
from ditto.controls.base import Control
from ditto.controls.brightness import Brightness
from ditto.controls.curves import Curve
from ditto.controls.form import Form
from ditto.controls.intensity import Intensity
from ditto.controls.melody import Melody
from ditto.controls.output import Output, Window
from ditto.controls.structure import Structure, StructureInSong, StructureLike
from ditto.controls.text import Text
from ditto.edit import result
from ditto.edit.loops import loop
from ditto.edit.song import song
from ditto.errors import ControlError, OutputError, RequestError
from ditto.methods.base import Method
from ditto.methods.ditto import Ditto
from ditto.methods.guidance import FreeDoM
from ditto.methods.masking import NaiveMasking
from ditto.models.model import MusicModel, needs_windows
from ditto.optimize import Step
from ditto.panels import CurvePanel
from ditto.request import Request

NEW = "notes", "followed"
"""What the files of kept windows did not hold at first."""
TAGS = "genre=jazz tempo=120"
QUICK: dict[str, Any] = {"tags": TAGS, "iterations": 3, "method": Ditto(steps=2, lr=0.05)}
RAMP = Intensity("0:-60 2:-30")


def quick(model: MusicModel, seconds: float = 2.0, **more: Any) -> Any:
    return song(model, seconds, overlap=0.1, **{"controls": RAMP, **QUICK, **more})


def test_a_song_has_its_length_and_windows(tiny_model: MusicModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    edit = quick(tiny_model, progress=lambda i, of, step: seen.append((i, of)))
    assert edit.samples.shape == (1, 16_000)
    assert len(edit.parts) == 5
    assert seen == [(i, 5) for i in range(5) for _ in range(3)]
    assert [part.request.seed for part in edit.parts] == [0, 1, 2, 3, 4]
    assert [seam["seconds"] for seam in edit.seams()] == pytest.approx(
        [0.504, 0.908, 1.312, 1.716], abs=0.002
    )
    sound, picture, report = edit.save(tmp_path / "song.wav")
    assert sound.exists()
    assert picture.stat().st_size > 10_000
    assert '"edit": "song"' in report.read_text()


def test_the_first_window_is_the_clip_of_the_same_seed(tiny_model: MusicModel) -> None:
    from ditto.runner import run

    edit = song(tiny_model, 1.0, tags=TAGS, overlap=0.1, iterations=2)
    alone = run(Request(tags=TAGS), tiny_model).audio[0]
    assert len(edit.parts[0].losses) == 0
    assert len(edit.parts[1].losses) == 2
    expected = limited(alone[:3000]).numpy()
    np.testing.assert_array_equal(edit.samples[0, :3000], expected)


def test_beats_are_counted_through_all_windows(tiny_model: MusicModel) -> None:
    starts = [part.request.tags.beat for part in quick(tiny_model).parts]
    # 120 beats a minute are two a second; a window goes on 0.404 s after the one before.
    assert starts == pytest.approx([0, 0.808, 1.616, 2.424, 3.232], abs=0.01)


def test_the_errors_are_those_of_the_whole(tiny_model: MusicModel) -> None:
    """Recomputed with librosa from the samples."""
    edit = quick(tiny_model, controls=Intensity("0:-60 2:-30", domain="sound"))
    spec = tiny_model.spec
    rms = librosa.feature.rms(
        y=edit.samples[0], frame_length=spec.n_fft, hop_length=spec.hop, pad_mode="reflect"
    )[0]
    output = Output(torch.zeros(1, 1, spec.n_mels, 250), tiny_model, torch.from_numpy(edit.samples))
    control = edit.request.controls[0]
    theirs = 20 * np.log10(rms[:250])
    ours = control.feature(output)[0].numpy()
    # The control's curve is smoothed over a second: the means must agree.
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.5)
    wanted = control.target(output).numpy()
    assert edit.errors["intensity_mse_db2"] == pytest.approx(
        ((ours - wanted) ** 2).mean(), rel=0.02
    )


def test_a_song_that_ended_early_is_measured_by_what_its_windows_followed(
    tiny_model: MusicModel,
) -> None:
    third = iter([False, False, True])
    rise = Intensity("crescendo", domain="sound")
    late = RAMP.during((1.8, 2.0))
    edit = quick(tiny_model, controls=[rise, late], iterations=1, stop=lambda step: next(third))
    assert edit.ended_early
    (panel,) = edit.panels  # of the other control nothing lies in what was made
    assert isinstance(panel, CurvePanel)
    assert panel.target is not None
    made = len(panel.target)
    wanted = Curve(rise.curve.points, relative=True).levels(250, tiny_model.spec)[:made].numpy()
    assert made < 200
    # The target is smoothed: beside its ends, a straight line stays as it is.
    np.testing.assert_allclose(panel.target[60:-60], wanted[60:-60], atol=0.3)
    error = ((panel.achieved - panel.target) ** 2).mean()
    assert edit.errors["intensity_mse_db2"] == pytest.approx(error, rel=1e-3)
    assert not quick(tiny_model, iterations=1).ended_early


@pytest.mark.parametrize(
    "control", [RAMP, Brightness("0:200 2:1000"), Structure("ABA"), Structure("AB") + RAMP]
)
def test_every_window_comes_nearer_to_what_it_is_asked(
    tiny_model: MusicModel, control: Control
) -> None:
    edit = quick(tiny_model, controls=control, iterations=6)
    assert all(part.losses.min() < part.losses[0] for part in edit.parts if len(part.losses))


def test_an_interrupted_song_goes_on_to_the_same_samples(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    whole, steps, keep = quick(tiny_model, fade=0.3), 0, tmp_path / "song.part"

    def third_window(step: Step) -> bool:
        nonlocal steps
        steps += 1
        return steps == 8

    begun = quick(tiny_model, fade=0.3, keep=keep, stop=third_window)
    assert len(begun.parts) == 3
    assert begun.samples.shape[1] < 16_000
    assert keep.exists()
    seen: list[int] = []
    again = quick(tiny_model, fade=0.3, keep=keep, progress=lambda i, of, step: seen.append(i))
    assert min(seen) == 2, "the finished windows are not made again"
    np.testing.assert_array_equal(again.samples, whole.samples)
    assert [part.errors for part in again.parts] == [part.errors for part in whole.parts]
    again.save(tmp_path / "song.wav", picture=False)
    assert not keep.exists()


def test_finished_windows_are_kept_until_the_sound_is_written(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "song.part"
    edit = quick(tiny_model, keep=keep)

    def full(*args: Any, **more: Any) -> None:
        raise OutputError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(result, "write", full)
        with pytest.raises(OutputError):
            edit.save(tmp_path / "song.wav")
    again = quick(tiny_model, keep=keep, progress=lambda i, of, step: pytest.fail("made again"))
    np.testing.assert_array_equal(again.samples, edit.samples)
    again.save(tmp_path / "song.wav", picture=False)
    assert not keep.exists()
    quick(tiny_model, keep=keep, seed=1, stop=lambda step: True)
    again.save(tmp_path / "other.wav", picture=False)
    assert keep.exists(), "it is another song's by now"


@pytest.mark.parametrize("old", [False, True], ids=["now", "of an older version"])
def test_a_resumed_song_tells_what_one_in_one_go_tells(
    tiny_model: MusicModel, tmp_path: Path, old: bool
) -> None:
    keep, tune = tmp_path / "song.part", Melody.from_notes("C4:1 E4:1", bpm=480)  # 0.25 s
    given: dict[str, Any] = {"controls": [tune, RAMP], "iterations": 1}
    third = iter([False, False, True])
    begun = quick(tiny_model, keep=keep, stop=lambda step: next(third), **given)
    assert len(begun.parts) == 3
    with safe_open(keep, framework="numpy") as file:
        metadata, samples = file.metadata(), file.get_tensor("samples")
    metadata["notes"] = json.dumps(["window 1 of 5: it was windy"])
    kept = {name: metadata[name] for name in metadata if not old or name not in NEW}
    save_file({"samples": samples}, keep, kept)
    resumed, whole = quick(tiny_model, keep=keep, **given), quick(tiny_model, **given)
    assert not any("no effect" in note for note in (*whole.notes, *resumed.notes))
    assert ("window 1 of 5: it was windy" in resumed.notes) != old
    assert resumed.seconds == whole.seconds


def test_kept_windows_of_another_request_are_not_replaced(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    keep = tmp_path / "song.part"
    quick(tiny_model, keep=keep, stop=lambda step: True)
    before = keep.read_bytes()
    with pytest.raises(RequestError, match="another request"):
        quick(tiny_model, keep=keep, seed=1)
    assert keep.read_bytes() == before
    keep.write_bytes(b"my own file")
    with pytest.raises(RequestError, match="move it away"):
        quick(tiny_model, keep=keep)
    assert keep.read_bytes() == b"my own file"


def test_a_place_that_cannot_be_written_is_known_at_once(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    with pytest.raises(OutputError):
        quick(tiny_model, keep=tmp_path / "missing" / "song.part", stop=lambda step: 1 / 0 > 1)


def test_the_end_fades_out(tiny_model: MusicModel) -> None:
    plain, faded = quick(tiny_model), quick(tiny_model, fade=0.5)
    np.testing.assert_array_equal(plain.samples[:, :12_000], faded.samples[:, :12_000])
    np.testing.assert_allclose(faded.samples[0, 14_000], plain.samples[0, 14_000] / 2, rtol=0.01)
    assert faded.samples[0, -1] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0.5}, r"longer than the model's window of 0\.51 s"),
        ({"seconds": 4000.0}, "at most 3600 s"),
        ({"fade": 3.0}, "fade must be from 0"),
        ({"count": 2}, "one at a time"),
    ],
)
def test_what_cannot_be_a_song(tiny_model: MusicModel, settings: dict[str, Any], message: str):
    with pytest.raises(RequestError, match=message):
        quick(tiny_model, **settings)


def test_which_lengths_need_windows(tiny_model: MusicModel) -> None:
    assert not needs_windows(tiny_model, None)
    assert not needs_windows(tiny_model, 0.3)
    assert not needs_windows(tiny_model, 0.512)
    assert needs_windows(tiny_model, 0.6)


def test_a_long_loop_returns_to_its_start(tiny_model: MusicModel) -> None:
    edit = loop(tiny_model, 1.5, overlap=0.1, repeats=2, **QUICK)
    assert edit.samples.shape == (1, 24_000)
    np.testing.assert_array_equal(edit.samples[:, :12_000], edit.samples[:, 12_000:])
    assert len(edit.parts) >= 3
    assert (edit.gaps, edit.repeats) == (((0, 12_000),), 2)
    assert edit.report()["new"] == [[0.0, 1.5], [1.5, 3.0]]
    # At the end the sound leads into the start as it does within: no larger step than elsewhere.
    steps = np.abs(np.diff(edit.samples[0]))
    assert steps[11_999] <= steps.max()


def in_window(tiny_model: MusicModel, past: int, start: float = 0.5) -> Control | None:
    mel = torch.rand(16, past, generator=torch.Generator().manual_seed(0)) - 0.5
    window = Window(start, 2.0, (0.1, 0.512), lambda: (mel, 4))
    return Structure("ABA").in_window(window, tiny_model.spec)


def test_the_form_in_a_window_is_that_of_the_whole(tiny_model: MusicModel) -> None:
    """With all of a clip in one window, feature and target are those of the whole clip's form."""
    spec = tiny_model.spec
    control = StructureInSong(Form((("A", 1), ("B", 1))), torch.zeros(16, 0), 1, 0.0, 0.512)
    x_0 = torch.rand(2, 1, 16, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    output = Output(x_0, tiny_model)
    target = control.target(output)
    np.testing.assert_array_equal(target.numpy(), Form((("A", 1), ("B", 1))).matrix(64).numpy())
    # Compared with librosa in tests/audio/test_similarity.py.
    torch.testing.assert_close(control.feature(output), self_similarity(output.mel, spec))


def test_the_form_looks_back(tiny_model: MusicModel) -> None:
    control = in_window(tiny_model, past=75)
    assert control is not None
    x_0 = torch.rand(1, 1, 16, 64, dtype=torch.float64).requires_grad_()
    output = Output(x_0, tiny_model).during(((0.1, 0.512),))
    columns = control.feature(output).shape
    assert columns[1:] == control.target(output).shape
    assert columns[2] == columns[1] + 75
    assert torch.autograd.gradcheck(
        lambda x: control.loss(Output(x, tiny_model).during(((0.1, 0.512),))),
        x_0[..., :],
        atol=1e-5,
    )


def test_a_first_section_alone_asks_for_nothing(tiny_model: MusicModel) -> None:
    assert in_window(tiny_model, past=0, start=0.0) is None
    assert in_window(tiny_model, past=0, start=0.4) is not None


def test_a_recording_s_form_and_a_form_in_an_edit_are_refused(tiny_model: MusicModel) -> None:
    like = StructureLike(log_mel(torch.randn(1, 4096), tiny_model.spec)[0])
    with pytest.raises(ControlError, match="of one clip as a whole"):
        quick(tiny_model, controls=like)
    with pytest.raises(ControlError, match="of one clip as a whole"):
        Structure("ABA").in_window(Window(0, 2, (0, 1)), tiny_model.spec)


def test_a_control_that_knows_no_time_counts_in_every_window(tiny_model: MusicModel) -> None:
    control = Text.__new__(Text)
    assert control.in_window(Window(0, 2, (0, 1)), tiny_model.spec) is control


@pytest.mark.parametrize("method", [FreeDoM(steps=2), NaiveMasking(steps=2)])
def test_a_method_that_keeps_what_is_there_goes_on_from_a_first_window_that_has_nothing(
    tiny_model: MusicModel, method: Method
) -> None:
    edit = song(tiny_model, 0.8, method=method, overlap=0.1)
    methods = [part.request.method for part in edit.parts]
    assert [made.name for made in methods if made] == ["none", method.name]
    assert edit.parts[0].errors == {}
    assert f", {method.name}." in repr(edit)
