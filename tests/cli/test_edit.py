"""The controls and edits on the command line: what they make, and that every mistake is one
line."""

import json
import re
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
from tests.conftest import Command


@pytest.fixture
def run(ditto_music: Command, model_folder: Path, tmp_path: Path) -> Command:
    """A command on the tiny model, quickly, beside a recording ``song.wav`` (1.2 s, stereo) and a
    MIDI file."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((9600, 2))
    soundfile.write(tmp_path / "song.wav", samples, 8000, subtype="PCM_24")
    soundfile.write(tmp_path / "short.wav", samples[:1000], 8000)
    (tmp_path / "text.latent").write_text("no latent")
    midi = mido.MidiFile()
    notes = [
        mido.Message(kind, note=72, time=480 * (kind == "note_off"))
        for kind in ("note_on", "note_off")
    ]
    midi.tracks.append(mido.MidiTrack(notes))
    midi.save(tmp_path / "tune.mid")
    mido.MidiFile().save(tmp_path / "empty.mid")
    quick = {"vary": ("-T", 2)}

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        return ditto_music(
            command, *arguments, "--model", model_folder, *quick.get(command, ("-K", 2, "-T", 2))
        )

    return call


def report(name: str = "out.json") -> dict:
    return json.loads(Path(name).read_text())


def test_controls_compose_with_their_masks_and_weights(run: Command) -> None:
    code, _, err = run(
        "generate",
        "--melody",
        "C5:1 E5:1",
        "--tags",
        "tempo=120",
        "--structure",
        "AB",
        "--structure-during",
        "0.1-0.4",
        "--intensity",
        "swell",
        "--intensity-during",
        "0-0.2 0.3-0.5",
        "-o",
        "out.wav",
    )
    assert code == 0, err
    kept = report()["request"]["controls"]
    assert [control["control"] for control in kept] == ["intensity", "melody", "structure"]
    assert kept[0]["during"] == [[0.0, 0.2], [0.3, 0.5]]
    assert kept[1]["notes"] == [[0.0, 0.5, 72], [0.5, 0.5, 76]]
    assert kept[2]["during"] == [[0.1, 0.4]]
    assert set(report()["errors"]) == {
        "intensity_mse_db2",
        "intensity_rho",
        "melody_accuracy_percent",
        "melody_nll",
        "structure_mse",
    }
    assert (
        "note: the melody lasts 1.00 s: what comes after 0.51 s was cut (0 of its notes whole)"
        in err
    )


def test_melody_and_structure_from_files(run: Command) -> None:
    code, _, err = run(
        "generate", "--melody", "tune.mid", "--structure-like", "song.wav", "-o", "out.wav"
    )
    assert code == 0, err
    assert [c["control"] for c in report()["request"]["controls"]] == ["melody", "structure"]
    assert run("generate", "--melody", "song.wav", "-o", "heard.wav")[0] == 0


def test_inpaint_outpaint_and_loop(run: Command) -> None:
    assert (
        run("inpaint", "song.wav", "--from", 0.3, "--to", 0.5, "--overlap", 0.2, "-o", "out.wav")[0]
        == 0
    )
    before, after = (soundfile.read(name, dtype="int32")[0] for name in ("song.wav", "out.wav"))
    np.testing.assert_array_equal(after[: 2400 - 800], before[: 2400 - 800])
    assert report()["new"] == [[0.3, 0.5]]
    code, _, err = run(
        "outpaint",
        "song.wav",
        "--seconds",
        1.5,
        "--overlap",
        0.2,
        "--backwards",
        "-o",
        "longer.wav",
    )
    assert code == 0, err
    assert "1.50 s at 8000 Hz, outpaint_mse" in err
    assert soundfile.info("longer.wav").frames == 12_000
    assert (
        run(
            "loop",
            "song.wav",
            "--seconds",
            1.4,
            "--overlap",
            0.1,
            "--repeats",
            2,
            "-o",
            "round.wav",
        )[0]
        == 0
    )
    assert soundfile.info("round.wav").frames == 2 * 11_200
    assert soundfile.info("round.wav").subtype == "PCM_24"


def test_a_loop_of_one_bar_is_exact(run: Command) -> None:
    code, _, err = run("loop", "--bpm", 400, "--bars", 1, "--overlap", 0.1, "-o", "bar.wav")
    assert code == 0, err
    assert soundfile.info("bar.wav").frames == 4800
    assert run("loop", "--seconds", 0.3, "--overlap", 0.1, "--repeats", 3, "-o", "out.wav")[0] == 0
    assert soundfile.info("out.wav").frames == 3 * 2400


def test_latents_are_kept_varied_and_started_from(run: Command) -> None:
    assert (
        run("generate", "--intensity", "swell", "--latent", "out.latent", "-o", "out.wav")[0] == 0
    )
    code, _, err = run(
        "vary", "out.latent", "--count", 2, "--how", "ddpm+freedom", "-o", "varied/a"
    )
    assert code == 0, err
    assert sorted(path.name for path in Path("varied/a").glob("*.wav")) == ["000.wav", "001.wav"]
    assert report("varied/a/001.json")["request"]["vary"] == "ddpm+freedom"
    assert run("vary", "out.latent", "--count", 2, "--random-tags", "-o", "varied/b")[0] == 0
    assert report("varied/b/001.json")["request"]["tags"]["genre"] is not None
    assert run("generate", "--start", "out.latent", "--intensity", "dip", "-o", "again.wav")[0] == 0
    assert report("again.json")["request"]["start"] == "out.latent"


def test_a_recording_is_inverted_and_edited(run: Command) -> None:
    code, _, err = run("invert", "song.wav", "--begin", 0.2, "--guidance", 1, "-o", "song.latent")
    assert code == 0, err
    # The recording beside the latent is kept.
    assert "song-again.wav" in err
    code, _, err = run("invert", "song.wav", "--from", 0.2, "--guidance", 1, "-o", "found.latent")
    assert code == 0, err
    assert "invert_mse" in err
    assert (
        run("generate", "--start", "found.latent", "--tags", "genre=rock", "-o", "rock.wav")[0] == 0
    )


MISTAKES: dict[str, tuple[list[object], str]] = {
    "empty MIDI": (["generate", "--melody", "empty.mid", "-o", "a.wav"], "has no notes"),
    "no such track": (
        ["generate", "--melody", "tune.mid", "--melody-track", 3, "-o", "a.wav"],
        "no track 3",
    ),
    "no such track, in short": (
        ["generate", "--melody", "tune.mid", "--track", 3, "-o", "a.wav"],
        "no track 3",
    ),
    "no such melody": (["generate", "--melody", "missing.mid", "-o", "a.wav"], "missing.mid"),
    "no note names": (["generate", "--melody", "do re mi", "-o", "a.wav"], "write notes such as"),
    "forty sections": (["generate", "--structure", "AXB!" * 10, "-o", "a.wav"], "cannot read"),
    "too many sections": (
        ["generate", "--structure", "AB" * 20, "-o", "a.wav"],
        "2 to 16 sections, not 40",
    ),
    "short recording": (
        ["generate", "--structure-like", "short.wav", "-o", "a.wav"],
        "give a longer one",
    ),
    "two structures": (
        ["generate", "--structure", "AB", "--structure-like", "song.wav", "-o", "a.wav"],
        "not both",
    ),
    "mask alone": (
        ["generate", "--melody-during", "0-1", "-o", "a.wav"],
        "--melody-during needs a melody",
    ),
    "mask beyond": (
        ["generate", "--structure", "AB", "--structure-during", "3-4", "-o", "a.wav"],
        "nothing of 3 to 4 s",
    ),
    "mask of words": (
        ["generate", "--structure", "AB", "--structure-during", "end", "-o", "a.wav"],
        "from-to",
    ),
    "damaged latent": (
        ["generate", "--start", "text.latent", "-o", "a.wav"],
        "no latent of Ditto's",
    ),
    "latent's name": (["generate", "--latent", "a.npy", "-o", "a.wav"], "must end in .latent"),
    "region outside": (
        ["inpaint", "song.wav", "--from", 1, "--to", 3, "-o", "a.wav"],
        "outside song.wav",
    ),
    "one end too few": (
        ["inpaint", "song.wav", "--from", 0, "--from", 1, "--to", 0.5, "-o", "a.wav"],
        "one --to",
    ),
    "overlap too long": (
        ["outpaint", "song.wav", "--seconds", 3, "--overlap", 2, "-o", "a.wav"],
        "at most the 1.20 s",
    ),
    "shorter than it is": (
        ["outpaint", "song.wav", "--seconds", 1, "--overlap", 0.1, "-o", "a.wav"],
        "above the 1.20 s",
    ),
    "no such song": (["outpaint", "missing.wav", "--seconds", 3, "-o", "a.wav"], "missing.wav"),
    "loop of no length": (["loop", "-o", "a.wav"], "give the loop's length"),
    "bars without tempo": (["loop", "--bars", 2, "-o", "a.wav"], "--bars together with --bpm"),
    "loop of no tempo": (
        ["loop", "song.wav", "--bpm", "nan", "-o", "a.wav"],
        "bpm must be a number",
    ),
    "loop of tempo 0": (
        ["loop", "--seconds", 1, "--bpm", 0, "-o", "a.wav"],
        "bpm must be a number",
    ),
    "inverting too much": (["invert", "short.wav", "-o", "a.latent"], "give fewer --seconds"),
    "inverting to a sound": (["invert", "song.wav", "-o", "a.wav"], "must end in .latent"),
    "no such latent": (["vary", "missing.latent", "-o", "varied"], "no such file"),
    "structure of an edit": (
        ["outpaint", "song.wav", "--seconds", 3, "--melody", "x", "-o", "a.wav"],
        "write notes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_no_file(
    run: Command, tmp_path: Path, mistake: str
) -> None:
    arguments, message = MISTAKES[mistake]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2, err
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        "inpaint song.wav --from 0.4 --to 0.6 -o song.wav",
        "outpaint song.wav --seconds 1.5 -o ./song.wav",
        "loop song.wav --seconds 1.5 -o link.wav",
        "generate --intensity-like song.wav -o song.wav",
        "generate --melody song.wav -o song.wav",
        "generate --loudness curve.json -o curve.wav",
        "generate --start kept.latent --latent kept.latent -o out.wav",
        "invert song.wav -o again.latent",
    ],
)
def test_an_input_is_never_replaced(run: Command, words: str) -> None:
    Path("link.wav").symlink_to("song.wav")
    Path("again.wav").symlink_to("song.wav")
    Path("again-again.wav").symlink_to("song.wav")
    Path("curve.json").write_text("0:-30")
    assert run("generate", "--latent", "kept.latent", "-o", "first.wav")[0] == 0
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, _, err = run(*words.split(), "--force")
    assert code == 2
    assert re.search("this command reads it, choose another name|that Ditto did not write", err)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_failed_vary_leaves_no_folder(run: Command) -> None:
    assert run("generate", "--latent", "kept.latent", "-o", "first.wav")[0] == 0
    code, _, err = run("vary", "kept.latent", "--sampling", "magic", "-o", "new/folder")
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("new").exists()
    Path("mine").mkdir()
    assert run("vary", "kept.latent", "--seed", -1, "-o", "mine")[0] == 2
    assert Path("mine").is_dir()


def test_long_music_is_made_in_windows_and_goes_on_after_a_stop(
    ditto_music: Command, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ditto.cli import optimising

    arguments = ["generate", "--model", str(model_folder), "--method", "ditto", "-T", "2"]
    arguments += ["--seconds", "1.4", "--loudness", "0:-60 1.4:-30", "-K", "2", "--fade", "0.2"]
    code, out, err = ditto_music(*arguments, "-o", "whole.wav")
    assert code == 0, err
    assert "whole.wav  1.40 s, intensity_mse_db2" in out + err
    assert not Path("whole.part").exists()

    made = 0
    shown = optimising.Optimisation.progress

    def interrupted(self: Any, window: int, windows: int, step: Any) -> None:
        nonlocal made
        shown(self, window, windows, step)
        made += 1
        self.stopped = made == 3

    monkeypatch.setattr(optimising.Optimisation, "progress", interrupted)
    code, out, err = ditto_music(*arguments, "-o", "again.wav")
    assert code == 130
    assert "the same command goes on from again.part" in out + err
    assert 0.4 < soundfile.info("again.wav").duration < 1.3
    monkeypatch.setattr(optimising.Optimisation, "progress", shown)
    soundfile.write("again.flac", np.full(8000, 0.1), 8000)  # the user's own, of the same stem
    mine = Path("again.flac").read_bytes()
    code, out, err = ditto_music(*arguments, "-o", "again.flac")
    assert (code, "that Ditto did not write" in err) == (2, True), err
    assert Path("again.flac").read_bytes() == mine
    code, out, err = ditto_music(*arguments, "-o", "again.wav")
    assert code == 0, err
    assert soundfile.read("again.wav")[0].tolist() == soundfile.read("whole.wav")[0].tolist()
    assert not Path("again.part").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--latent", "x.latent"], "no single latent"),
        (["--count", "2"], "one at a time"),
        (["--fade", "9"], "fade must be"),
    ],
)
def test_what_long_music_does_not_take(
    ditto_music: Command, model_folder: Path, extra: list[str], message: str
) -> None:
    code, _, err = ditto_music(
        "generate", "--model", str(model_folder), "--seconds", "1.4", "-o", "out.wav", *extra
    )
    assert code == 2
    assert message in err
    assert not Path("out.wav").exists()


def test_what_was_understood_is_said_before_the_work_and_kept(run: Command) -> None:
    Path("curve.csv").write_text("Zeit;Pegel\n0;-30,5\n0,4;-20\n")
    code, _, err = run(
        "generate", "--melody", "tune.mid", "--loudness", "curve.csv", "-o", "out.wav"
    )
    assert code == 0, err
    tune = "1 note, C5, 120 BPM, since the file has no tempo"
    curve = (
        "2 points, 0 to 0.4 s, -30.5 to -20 dB, columns 'Zeit' and 'Pegel', semicolons, decimal "
        "commas of curve.csv"
    )
    assert f"intensity: {curve}" in err
    assert f"melody: {tune}" in err
    assert err.index("melody: ") < err.index("made in")
    kept = report()["request"]["controls"]
    assert [control["understood"] for control in kept] == [curve, tune]


def test_a_recording_where_a_curve_or_form_is_asked_for_is_one_to_be_like(run: Command) -> None:
    late = np.concatenate([np.zeros(8000), np.sin(np.arange(8000)) * 0.1])
    soundfile.write("late.wav", late, 8000)
    code, _, err = run("generate", "--intensity", "late.wav", "-o", "out.wav")
    assert code == 2
    assert "--like-from: seconds" in err
    for kind in ("--intensity", "--loudness-like", "--structure"):
        code, _, err = run(
            "generate", kind, "late.wav", "--like-from", "auto", "--force", "-o", "out.wav"
        )
        assert code == 0, err
        assert "late.wav, 0.90 to 1." in report()["request"]["controls"][0]["understood"]
    code, _, err = run("generate", "--loudness", "swell", "--like-from", 1, "-o", "no.wav")
    assert (code, err) == (2, "error: --like-from needs a recording to be like to go with\n")


def test_where_a_melody_begins_and_on_which_channel(run: Command) -> None:
    track = mido.MidiTrack()
    for channel, pitches in ((0, (60, 62, 64, 65)), (1, (72, 76, 79, 76))):
        for i, pitch in enumerate(pitches):
            wait = 4800 if not i else 0
            track.append(mido.Message("note_on", note=pitch, channel=channel, time=wait))
            track.append(mido.Message("note_off", note=pitch, channel=channel, time=120))
    mido.MidiFile(type=0, tracks=[track]).save("late.mid")
    code, _, err = run("generate", "--melody", "late.mid", "--melody-channel", 1, "-o", "out.wav")
    assert code == 2
    assert "begins at 5.00 s, so let it begin there (begin, --melody-from" in err
    late = ("generate", "--melody", "late.mid", "--melody-from")
    assert run(*late, "auto", "--melody-channel", 1, "-o", "out.wav")[0] == 0
    assert [n[2] for n in report()["request"]["controls"][0]["notes"]] == [60, 62, 64, 65]
    assert run(*late, 5, "--melody-track", "all", "--force", "-o", "out.wav")[0] == 0
    assert len(report()["request"]["controls"][0]["notes"]) == 8
    code, _, err = run(*late, "now", "-o", "no.wav")
    assert code == 2
    assert '--melody-from is a second, from 0 on, or "auto", not now' in err


@pytest.mark.parametrize(
    ("bpm", "told", "said"),
    [(200, 100, "for 200 it is told 100"), (90, 90, ""), (45, 90, "is told 90")],
)
def test_a_loop_keeps_its_tempo(run: Command, bpm: int, told: float, said: str) -> None:
    code, _, err = run(
        *("loop", "--seconds", 0.3, "--overlap", 0.1, "--bpm", bpm),
        *("--melody", "C4:0.25 E4:0.25", "-o", "out.wav"),
    )
    assert code == 0, err
    assert said in err
    (part,) = report()["parts"]
    assert part["request"]["tags"]["tempo"] == told
    melody = next(c for c in part["request"]["controls"] if c["control"] == "melody")
    assert melody["notes"][1][0] == pytest.approx(0.25 * 60 / bpm, abs=1e-3)
