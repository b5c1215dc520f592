"""No file and no minute of a user's is lost: outputs never equal inputs, formats are tried before
the work, windows that are done are kept, a full disk is one line, and no debris stays."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import soundfile
from tests.conftest import Command

import ditto
from ditto import paths
from ditto.audio.io import check_format, kept_subtype
from ditto.cli.optimising import Optimisation
from ditto.edit import windows
from ditto.edit.timeline import FADE_SECONDS
from ditto.edit.windows import ModelWindow, plan_windows
from ditto.errors import OutputError
from ditto.methods.ditto import Ditto
from ditto.models.model import MusicModel
from ditto.optimize import GradientError, Step
from ditto.request import Request
from ditto.result import keep_foreign

QUICK = Request(iterations=2, method=Ditto(steps=2))
RATE = 8000


@pytest.fixture
def run(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    """A command on the tiny model, beside a recording ``song.wav`` of 1.2 s in stereo."""
    sound(tmp_path / "song.wav")
    return lambda *words: ditto_music(*words, "--model", model_folder, "-K", 2, "-T", 2)


def sound(path: Path, seconds: float = 1.2, peak: float = 0.3, **form: Any) -> np.ndarray:
    channels = form.pop("channels", 2)
    samples = np.random.default_rng(0).uniform(-peak, peak, (int(RATE * seconds), channels))
    soundfile.write(path, samples, form.pop("rate", RATE), **form)
    return samples


# Outputs and inputs.


def test_a_recording_is_not_replaced_by_its_own_edit(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    sound(tmp_path / "song.wav")
    before = (tmp_path / "song.wav").read_bytes()
    (tmp_path / "link.wav").symlink_to("song.wav")
    edit = ditto.inpaint(tiny_model, tmp_path / "song.wav", [(0.3, 0.5)], QUICK, overlap=0.1)
    for name in ("song.wav", "link.wav"):
        with pytest.raises(OutputError, match="reads it, choose another name"):
            edit.save(tmp_path / name, force=True)
    assert (tmp_path / "song.wav").read_bytes() == before


@pytest.mark.parametrize("name", ["out.png", "out.json"])
def test_force_replaces_only_what_ditto_wrote(run: Command, name: str) -> None:
    words = "generate", "--method", "none", "--force", "-o", "out.wav"
    figure = matplotlib.figure.Figure()
    figure.savefig("out.png")  # a picture by the library that Ditto draws with is not Ditto's yet
    Path("out.json").write_text('{"artist": "me"}')
    mine = Path(name).read_bytes()
    for other in {"out.png", "out.json"} - {name}:
        Path(other).unlink()
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name}: a file of that name is there that Ditto did not write" in err
    assert Path(name).read_bytes() == mine
    assert not Path("out.wav").exists()
    Path(name).unlink()
    for _ in range(2):  # its own files it may replace
        assert run(*words)[0] == 0


def test_the_sound_of_an_inversion_replaces_no_recording(run: Command) -> None:
    Path("other.wav").write_bytes(Path("song.wav").read_bytes())
    words = "invert", "song.wav", "--force"
    code, _, err = run(*words, "-o", "other.latent")
    assert code == 2
    assert "other.wav: a file of that name is there that Ditto did not write" in err
    assert Path("other.wav").read_bytes() == Path("song.wav").read_bytes()
    for _ in range(2):
        assert run(*words, "-o", "mine.latent")[0] == 0


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_sound_of_ditto_s_is_known_by_its_tags(run: Command, ending: str) -> None:
    """An mp3 has no software among its tags."""
    assert run("generate", "--method", "none", "-T", 1, "-o", f"a{ending}")[0] == 0
    keep_foreign(Path(f"a{ending}"))
    soundfile.write(f"b{ending}", np.full(8000, 0.1), 8000)
    with pytest.raises(OutputError, match="that Ditto did not write"):
        keep_foreign(Path(f"b{ending}"))


# Formats.


@pytest.mark.parametrize(
    "command", ["inpaint --from 0.3 --to 0.5", "outpaint --seconds 1.5", "loop"]
)
def test_an_edit_of_an_mp3_can_be_a_wav(run: Command, command: str) -> None:
    sound(Path("song.mp3"))
    name, *words = command.split()
    code, _, err = run(name, "song.mp3", *words, "--overlap", 0.2, "-o", "out.wav")
    assert code == 0, err
    assert soundfile.info("out.wav").subtype == "PCM_24"


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_adpcm_is_not_encoded_again(tiny_model: MusicModel, tmp_path: Path, subtype: str) -> None:
    sound(tmp_path / "song.wav", subtype=subtype, channels=1)
    edit = ditto.inpaint(tiny_model, tmp_path / "song.wav", [(0.4, 0.6)], QUICK, overlap=0.1)
    edit.save(tmp_path / "out.wav")
    before, after = (soundfile.read(tmp_path / name)[0] for name in ("song.wav", "out.wav"))
    np.testing.assert_array_equal(after[:2000], before[:2000])


def test_mp3_data_is_not_offered_for_a_wav() -> None:
    assert kept_subtype("out.wav", "MPEG_LAYER_III") == "PCM_24"
    assert kept_subtype("out.mp3", "MPEG_LAYER_III") == "MPEG_LAYER_III"
    with pytest.raises(OutputError, match="WAV takes"):
        check_format("out.wav", 2, 44_100, "MPEG_LAYER_III")


@pytest.mark.parametrize(
    ("name", "channels", "rate", "able"),
    [
        ("a.mp3", 6, 44_100, ".wav or .flac or .ogg"),
        ("a.flac", 32, 44_100, ".wav or .ogg"),
        ("a.mp3", 2, 96_000, ".wav or .flac or .ogg"),
        ("a.ogg", 2, 384_000, ".wav or .flac"),  # libvorbis would end the process
    ],
)
def test_what_a_container_cannot_hold_is_refused_with_those_that_can(
    name: str, channels: int, rate: int, able: str
) -> None:
    with pytest.raises(OutputError, match=f"name it {able}$"):
        check_format(name, channels, rate)


def test_six_channels_to_mp3_are_refused_before_the_work(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditto.cli.options.load", lambda *_, **__: pytest.fail("it was loaded"))
    sound(Path("six.wav"), channels=6)
    code, _, err = run("outpaint", "six.wav", "--seconds", 2, "--overlap", 0.2, "-o", "out.mp3")
    assert code == 2
    assert err.count("\n") == 1
    assert "mp3 holds no sound of 6 channels" in err


@pytest.mark.parametrize(
    "words",
    [
        "inpaint no.wav --from 0 --to 1",
        "invert no.wav -o a.latent",
        "generate --loudness-like no.wav",
        "loop no.wav",
    ],
)
def test_inputs_are_looked_for_before_the_model_is_loaded(
    run: Command, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr("ditto.cli.options.load", lambda *_, **__: pytest.fail("it was loaded"))
    code, _, err = run(*words.split(), *([] if "-o" in words else ["-o", "out.wav"]))
    assert (code, err.count("\n")) == (2, 1)
    assert "no.wav" in err


# Windows, overlaps, seeds.


@pytest.mark.parametrize("share", [0.4, 0.5, 0.505, 0.6, 0.75])
@pytest.mark.parametrize("size", [1, 10, 900, 4000, 50_000])
def test_windows_are_planned_for_any_overlap(share: float, size: int) -> None:
    window = ModelWindow(64, 4000, round(share * 4000))
    gap = (10_000, 10_000 + size)
    found = plan_windows(gap, window, True, True, 10_000 + size + 10_000)
    edges = sorted(piece.gap for piece in found)
    assert (edges[0][0], edges[-1][1]) == gap
    assert len(found) <= 2 + size // 400
    for piece in found:
        assert piece.start <= piece.gap[0] < piece.gap[1] <= piece.start + window.length


def test_an_overlap_over_half_the_window_works(run: Command) -> None:
    code, _, err = run(
        "inpaint", "song.wav", "--from", 0.5, "--to", 0.7, "--overlap", 0.3, "-o", "o.wav"
    )
    assert code == 0, err


def test_the_last_seed_has_windows_after_it(run: Command) -> None:
    words = "--from", 0.2, "--to", 0.3, "--from", 0.8, "--to", 0.9, "--overlap", 0.1
    code, _, err = run("inpaint", "song.wav", *words, "--seed", 2**31 - 1, "-o", "o.wav")
    assert code == 0, err
    parts = json.loads(Path("o.json").read_text())["parts"]
    assert [part["request"]["seed"] for part in parts] == [2**31 - 1, 0]


@pytest.mark.parametrize("backwards", [[], ["--backwards"]])
def test_windows_that_are_done_are_kept_at_ctrl_c(
    run: Command, monkeypatch: pytest.MonkeyPatch, backwards: list[str]
) -> None:
    original = Optimisation.progress

    def interrupted(self: Optimisation, window: int, windows: int, step: Step) -> None:
        original(self, window, windows, step)
        if window == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Optimisation, "progress", interrupted)
    words = "outpaint", "song.wav", "--seconds", 3, "--overlap", 0.1, *backwards
    code, _, err = run(*words, "-o", "longer.wav")
    assert code == 130, err
    assert "stopped after window 2 of 5" in err
    after, before = (soundfile.read(name)[0] for name in ("longer.wav", "song.wav"))
    assert 1.8 < len(after) / RATE < 2.1
    kept = slice(-9600 + 800, None) if backwards else slice(0, 9600 - 800)
    np.testing.assert_array_equal(after[kept], before[-8800:] if backwards else before[:8800])
    assert np.abs(after[100:-100]).max(axis=1).min() >= 0


@pytest.mark.parametrize("failure", ["halt", "gradient"])
def test_what_is_not_filled_stays_as_it_was(
    tiny_model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    before = sound(tmp_path / "song.wav", 2.0, subtype="PCM_24")
    calls = []
    if failure == "gradient":
        whole = windows.run

        def failing(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise GradientError("a loss is not finite")
            return whole(*args, **kwargs)

        monkeypatch.setattr(windows, "run", failing)
    edit = ditto.inpaint(
        tiny_model,
        tmp_path / "song.wav",
        [(0.5, 1.2), (1.5, 1.6)],
        QUICK,
        overlap=0.1,
        halt=(lambda: True) if failure == "halt" else None,
    )
    assert len(edit.parts) == 1
    ((start, end),) = edit.gaps
    assert start == 4000 < end < 1.1 * RATE
    assert any(("stopped after" in note) or ("ended before" in note) for note in edit.notes)
    after = edit.samples.T
    np.testing.assert_allclose(after[end:], before[end:], atol=1e-6)
    np.testing.assert_allclose(after[: 4000 - 800], before[: 4000 - 800], atol=1e-6)
    fade = round(FADE_SECONDS * RATE)
    # It ends in a fade: near the end of what was made the old sound is nearly all.
    assert np.abs(after[end - 8 : end] - before[end - 8 : end]).max() < 0.1
    assert np.abs(after[start : end - fade] - before[start : end - fade]).max() > 0.05
    assert edit.before is not None
    np.testing.assert_allclose(edit.before.samples.T, before, atol=1e-6)


def test_a_song_whose_window_fails_ends_as_a_clip_that_fails(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = windows.run

    def failing(request: Request, *args: Any, **more: Any) -> Any:
        if request.seed == 2:
            raise GradientError("a loss is not finite")
        return whole(request, *args, **more)

    words = "generate", "--seconds", 1.6, "-o", "long.wav"
    with monkeypatch.context() as window:
        window.setattr(windows, "run", failing)
        code, _, err = run(*words)
    assert code == 1, err
    assert "ended before window 3: a loss is not finite" in err
    assert "this is the beginning; the same command goes on from long.part" in err
    assert soundfile.info("long.wav").duration < 1.3
    assert Path("long.part").exists()
    code, _, err = run(*words)
    assert code == 0, err
    assert soundfile.info("long.wav").duration == pytest.approx(1.6)
    assert not Path("long.part").exists()


@pytest.mark.parametrize(
    ("right", "told"), [(-1.0, True), (-0.98, True), (-0.5, False), (0.5, False), (1.0, False)]
)
def test_channels_that_nearly_cancel_are_told_of(run: Command, right: float, told: bool) -> None:
    left = np.random.default_rng(0).uniform(-0.3, 0.3, 9600)
    soundfile.write("side.wav", np.stack([left, right * left], axis=1), RATE)
    words = "side.wav", "--from", 0.5, "--to", 0.6, "--overlap", 0.2
    code, _, err = run("inpaint", *words, "-o", "o.wav")
    assert code == 0, err
    assert ("the channels cancel out" in err) == told
    notes = json.loads(Path("o.json").read_text())["notes"]
    assert any("the channels cancel out" in note for note in notes) == told


# A full disk, kills, debris.


FULL = """
import resource, sys
sys.argv = ["ditto-music", *sys.argv[2:]]
limit = int(sys.orig_argv[3]) if sys.orig_argv[1] == "-c" else 0
from ditto.cli import main
import ditto.models.hub, ditto.plots, soundfile, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main()
"""


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (2000, "generate --method none -T 1 -o out.wav"),
        (100, "generate --method none -T 1 -o out.mp3"),
        (2000, "generate --method none -T 1 -o out.ogg"),
        (20_000, "generate --method none -T 1 -o out.flac"),
        (12_000, "generate --method none -T 1 --latent out.latent -o out.wav"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_debris(
    model_folder: Path, tmp_path: Path, limit: int, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *words.split(), "--model", str(model_folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "300", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") <= 2  # a clip of several files may have said what it made
    assert "File too large" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(paths.TEMPORARY)]


def test_what_a_killed_save_left_goes_with_the_next_of_that_name(
    tiny_model: MusicModel, tmp_path: Path
) -> None:
    write = "import sys, os, signal\nfrom ditto.paths import atomic_file\n"
    write += "with atomic_file(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    for name in ("a.wav", "b.wav"):
        subprocess.run([sys.executable, "-c", write, str(tmp_path / name)])
    assert len(list(tmp_path.glob(".ditto-*"))) == 2
    ditto.generate(tiny_model, method=ditto.Uncontrolled(steps=1)).save(tmp_path / "a.wav")
    (left,) = tmp_path.glob(".ditto-*")
    assert paths._key(tmp_path / "b.wav") in left.name


def test_a_folder_whose_swap_was_killed_is_put_in_place_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom ditto import paths\n"
        "final = Path(sys.argv[1])\nreplace = os.replace\n"
        "def once(a, b):\n    replace(a, b)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "with paths.atomic_folder(final) as new:\n"
        "    (new / 'weights').write_text('new')\n    paths.os.replace = once\n"
    )
    final = tmp_path / "model"
    final.mkdir()
    (final / "weights").write_text("old")
    subprocess.run([sys.executable, "-c", code, str(final)])
    assert not final.exists()  # between the two renames
    with pytest.raises(RuntimeError), paths.atomic_folder(final):
        raise RuntimeError
    assert (final / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


def test_a_latent_has_the_permissions_of_any_file(tiny_model: MusicModel, tmp_path: Path) -> None:
    made = ditto.generate(tiny_model, method=ditto.Uncontrolled(steps=1))
    made.latent().save(tmp_path / "a.latent")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.latent").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Memory.


GROWTH = """
import gc
import sys
from pathlib import Path

import ditto

model = ditto.load(sys.argv[1])

def peak(song, out):
    gc.collect()  # pictures are cycles
    Path("/proc/self/clear_refs").write_text("5")  # it begins anew
    {code}
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

peak(sys.argv[2], sys.argv[4])  # what is loaded at first use is no part of the growth
short, long = (peak(song, sys.argv[4]) for song in sys.argv[2:4])
print(long - short)
"""


def growth(code: str, *words: object) -> int:
    """Return by how many bytes more a program needs for the second song than for the first."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH.format(code=code), *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        # What is freed goes back at once; else glibc keeps tens of megabytes, now more, now less.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
    )
    return 1024 * int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it there")
def test_inpainting_a_long_recording_needs_little_more_than_its_samples(
    model_folder: Path, tmp_path: Path
) -> None:
    minutes, channels = 20, 2
    block = np.random.default_rng(0).uniform(-0.3, 0.3, (60 * RATE, channels))
    for name, count in (("short.wav", 2), ("long.wav", minutes)):
        with soundfile.SoundFile(tmp_path / name, "w", RATE, channels) as file:
            for _ in range(count):
                file.write(block)
    reading = "sound = ditto.read(song)"
    editing = (
        "ditto.inpaint(model, song, [(60.0, 60.2)], overlap=0.1, iterations=1,"
        " method=ditto.Ditto(steps=1)).save(out, force=True)"
    )
    samples = (minutes - 2) * 60 * RATE * channels * 4
    files = (model_folder, tmp_path / "short.wav", tmp_path / "long.wav", tmp_path / "o.wav")
    assert 0.9 < growth(reading, *files) / samples < 1.1
    assert 0.9 < growth(editing, *files) / samples < 1.2


def test_a_loop_of_many_repeats_is_held_once(tiny_model: MusicModel, tmp_path: Path) -> None:
    edit = ditto.loop(tiny_model, 0.3, QUICK, overlap=0.1, repeats=1000)
    assert edit.timeline.samples.nbytes < 2 * 4 * 2400
    edit.save(tmp_path / "loop.wav")
    assert soundfile.info(tmp_path / "loop.wav").frames == 1000 * 2400
    whole = soundfile.read(tmp_path / "loop.wav")[0]
    np.testing.assert_array_equal(whole[:2400], whole[-2400:])
    assert json.loads((tmp_path / "loop.json").read_text())["samples"] == 2_400_000


def test_reports_of_very_short_recordings_are_json(tiny_model: MusicModel, tmp_path: Path) -> None:
    sound(tmp_path / "song.wav", 0.1)
    edit = ditto.outpaint(tiny_model, tmp_path / "song.wav", 0.3, QUICK, overlap=0.08)
    edit.save(tmp_path / "out.wav")
    text = (tmp_path / "out.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_the_length_is_the_one_that_was_asked_for(tiny_model: MusicModel, tmp_path: Path) -> None:
    for seconds in (0.2, 0.201, 0.33):
        made = ditto.generate(tiny_model, seconds=seconds, method=ditto.Uncontrolled(steps=1))
        made.save(tmp_path / "a.wav", force=True)
        length = soundfile.info(tmp_path / "a.wav").frames
        assert -0.5 * tiny_model.spec.hop <= length - seconds * RATE <= 0.5


def test_a_long_loudness_curve_comes_back_from_its_report(tmp_path: Path) -> None:
    curve = ditto.Intensity(" ".join(f"{i / 100}:{-30 + i % 7}" for i in range(600)))
    again = Request.from_dict(json.loads(json.dumps(Request(curve).to_dict())))
    assert again.controls == (curve,)
