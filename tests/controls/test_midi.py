"""MIDI files as people have them: damaged, wrapped, of one track with many channels."""

import struct
from itertools import pairwise
from pathlib import Path

import mido
import numpy as np
import pytest

from ditto.audio.spec import AudioSpec
from ditto.controls import Melody
from ditto.controls.lines import Line, tune_of
from ditto.controls.midi import parse_midi, read_midi
from ditto.controls.notes import Note, NoteSequence
from ditto.controls.tunes import parse_melody
from ditto.errors import ControlError

TUNE = (62, 64, 66, 62, 69, 67, 66, 64, 62, 59, 62, 62)
BEATS = (1, 0.5, 0.5, 1, 1.5, 0.5, 1, 1, 2, 1, 0.5, 1.5)


def line(pitches: tuple[int, ...], beats: tuple[float, ...], channel: int = 0) -> mido.MidiTrack:
    """A track of notes one after the other, 480 ticks a beat."""
    track = mido.MidiTrack()
    for pitch, length in zip(pitches, beats, strict=True):
        track.append(mido.Message("note_on", note=pitch, channel=channel, velocity=90))
        ticks = round(480 * length)
        track.append(mido.Message("note_off", note=pitch, channel=channel, time=ticks))
    return track


def arpeggio(channel: int = 1) -> mido.MidiTrack:
    """A chord broken above the tune, four notes a beat."""
    return line((74, 78, 81, 78) * 12, (0.25,) * 48, channel)


def merged(*tracks: mido.MidiTrack) -> mido.MidiTrack:
    return mido.merge_tracks(tracks)


def saved(path: Path, *tracks: mido.MidiTrack, kind: int = 1) -> Path:
    mido.MidiFile(type=kind, tracks=list(tracks)).save(path)
    return path


def tempo(bpm: float) -> mido.MidiTrack:
    return mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm))])


def starts(tune: NoteSequence) -> list[tuple[float, int]]:
    return sorted((round(note.onset, 4), note.pitch) for note in tune.notes)


def midos(path: Path) -> list[tuple[float, int]]:
    """What mido plays."""
    now, found = 0.0, []
    for message in mido.MidiFile(path):
        now += message.time
        if message.type == "note_on" and message.velocity:
            found.append((round(now, 4), message.note))
    return sorted(found)


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    key = mido.MetaMessage("key_signature", key="C")
    track = merged(mido.MidiTrack([key]), tempo(92), line(TUNE, BEATS))
    return saved(tmp_path / "good.mid", track).read_bytes()


def damage(data: bytes) -> dict[str, tuple[bytes, str]]:
    """Faults by name: the file, and what is said of it."""
    riff = b"RIFF" + struct.pack("<I", len(data) + 12) + b"RMIDdata" + struct.pack("<I", len(data))
    wrong_length = data[:18] + struct.pack(">I", 99_999) + data[22:]
    return {
        "key": (data.replace(b"\xff\x59\x02\x00\x00", b"\xff\x59\x02\xfe\xff"), ""),
        "chunk": (data[:14] + b"XFIH\0\0\0\4abcd" + data[14:], ""),
        "junk": (data[:14] + b"\0\1garbage" + data[14:], "between its tracks was skipped"),
        "after": (data + b"\0" * 7, ""),
        "riff": (riff + data, ""),
        "length": (wrong_length, ""),
        "cut": (data[:-3], "cut short"),
    }


@pytest.mark.parametrize("kind", damage(b""))
def test_a_damaged_file_gives_the_notes_of_the_sound_one(
    tmp_path: Path, good: bytes, kind: str
) -> None:
    content, said = damage(good)[kind]
    path = tmp_path / "odd.mid"
    path.write_bytes(content)
    tune = read_midi(path)
    assert starts(tune) == midos(tmp_path / "good.mid")
    assert tune.about.startswith("12 notes, B3–A4, 92 BPM from the file")
    assert said in tune.about


@pytest.mark.parametrize("ending", [".rmi", ".kar", ".smf", ".MIDI", ".xyz"])
def test_midi_by_any_name(tmp_path: Path, good: bytes, ending: str) -> None:
    path = tmp_path / f"tune{ending}"
    path.write_bytes(damage(good)["riff"][0] if ending == ".rmi" else good)
    assert starts(parse_melody(str(path), AudioSpec())) == midos(tmp_path / "good.mid")


def test_a_track_cut_within_its_header_is_none(tmp_path: Path, good: bytes) -> None:
    for size in range(5):  # "\0" before it is junk, behind which a track is looked for
        (tmp_path / "cut.mid").write_bytes(good + b"\0MTrk" + b"\0" * size)
        assert starts(read_midi(tmp_path / "cut.mid"))


def test_a_file_cut_within_gives_what_comes_before(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "cut.mid").write_bytes(good[: len(good) // 2])
    found = starts(read_midi(tmp_path / "cut.mid"))
    assert 3 < len(found) < 12
    assert found == midos(tmp_path / "good.mid")[: len(found)]


@pytest.mark.parametrize("seed", range(8))
def test_sound_files_are_read_as_mido_reads_them(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracks = [tempo(float(rng.uniform(50, 200)))]
    for channel in range(3):
        pitches = tuple(rng.integers(40, 90, 20).tolist())
        tracks.append(line(pitches, tuple(rng.uniform(0.1, 2, 20).tolist()), channel))
    path = saved(tmp_path / "a.mid", *tracks)
    assert starts(read_midi(path, track="all")) == midos(path)


def test_film_frames_are_counted_as_the_standard_says(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mid", line((60, 62), (1, 2)))
    data = bytearray(path.read_bytes())
    data[12:14] = struct.pack(">bB", -25, 40)  # 1000 ticks a second
    path.write_bytes(bytes(data))
    tune = read_midi(path)
    assert starts(tune) == [(0.0, 60), (0.48, 62)]
    assert "film frames" in tune.about
    with pytest.raises(ControlError, match="counts film frames, not beats"):
        read_midi(path, bpm=90)


def test_of_one_track_the_channel_with_the_tune_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mid", merged(tempo(92), line(TUNE, BEATS), arpeggio()), kind=0)
    tune = read_midi(path)
    assert [n.pitch for n in sorted(tune.notes, key=lambda n: n.onset)] == list(TUNE)
    assert tune.about == (
        "12 notes, B3–A4, 92 BPM from the file, channel 1 of 2; there are also: channel 2 48 "
        "notes, D5–A5"
    )


def test_a_channel_a_track_or_all_can_be_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mid", merged(line(TUNE, BEATS), arpeggio()), kind=0)
    assert {n.pitch for n in read_midi(path, channel=2).notes} == {74, 78, 81}
    assert len(read_midi(path, track="all").notes) == 60
    assert len(read_midi(path, track=0).notes) == 60
    assert Melody.from_midi(path, channel=1).tune == read_midi(path)
    with pytest.raises(ControlError, match="no notes on channel 5: it has channels 1, 2"):
        read_midi(path, channel=5)
    with pytest.raises(ControlError, match="from 1 to 16, not 0"):
        read_midi(path, channel=0)


def test_drums_are_named_and_never_the_tune(tmp_path: Path) -> None:
    drums = line((38, 42), (1, 1), channel=9)
    path = saved(tmp_path / "a.mid", line(TUNE, BEATS), drums)
    assert read_midi(path).about.endswith("there are also: track 1 channel 10 drums")
    only = saved(tmp_path / "b.mid", drums)
    with pytest.raises(ControlError, match="no notes but drums"):
        read_midi(only)


def test_names_of_tracks_help(tmp_path: Path) -> None:
    lead, other = line(TUNE, BEATS), line(tuple(p + 7 for p in TUNE), BEATS)
    lead.insert(0, mido.MetaMessage("track_name", name="Lead vocal"))
    other.insert(0, mido.MetaMessage("track_name", name="Backing"))
    tune = read_midi(saved(tmp_path / "a.mid", other, lead))
    assert min(n.pitch for n in tune.notes) == min(TUNE)
    assert "track 1 (Lead vocal) of 2" in tune.about


def test_separate_pieces_of_one_file_are_not_mixed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mid", line((60, 62), (1, 1)), line((70, 72), (1, 1)), kind=2)
    assert starts(read_midi(path)) == [(0.0, 60), (0.5, 62)]
    assert starts(read_midi(path, track=1)) == [(0.0, 70), (0.5, 72)]
    assert "separate pieces" in read_midi(path).about


def test_a_note_of_no_length_does_not_last_for_ever(tmp_path: Path) -> None:
    grace = mido.MidiTrack(
        [mido.Message("note_on", note=61), mido.Message("note_off", note=61), *line((60,), (4,))]
    )
    assert starts(read_midi(saved(tmp_path / "a.mid", grace))) == [(0.0, 60)]


@pytest.mark.parametrize("data", [b"", b"MThd", b"MThd\0\0\0\6\0\0\0\1\0\0MTrk", b"RIFF" * 40])
def test_what_is_no_midi_is_one_line(data: bytes) -> None:
    with pytest.raises(ControlError, match="damaged") as caught:
        parse_midi(data)
    assert len(str(caught.value).splitlines()) == 1


def test_the_tune_of_composed_pieces_is_found() -> None:
    from ditto.composer.compose import compose

    right = []
    for index in range(24):
        lines = [
            Line(
                track.role,
                "",
                tuple(Note(n.start, n.duration, n.pitch) for n in track.notes),
                track.is_drums,
            )
            for track in compose(index, seed=11).tracks
            if track.notes
        ]
        if any(line.where == "lead" for line in lines):
            right.append(tune_of(lines).where == "lead")
    assert len(right) >= 15
    assert sum(right) >= 0.9 * len(right)


def test_a_tune_that_starts_late_can_begin_at_its_first_note(tmp_path: Path) -> None:
    late = line(TUNE, BEATS)
    late[0].time = 480 * 16  # 8 s at 120 BPM
    path = saved(tmp_path / "late.mid", late)
    spec = AudioSpec()
    for begin in (8.0, "auto"):
        tune = parse_melody(str(path), spec, begin=begin)  # pyright: ignore[reportArgumentType]
        assert starts(tune) == [(round(at - 8, 4), pitch) for at, pitch in midos(path)]
        assert "from 8.00 s on" in tune.about
    with pytest.raises(ControlError, match=r"ends at 14.00 s: it cannot begin at 20 s"):
        parse_melody(str(path), spec, begin=20)
    with pytest.raises(ControlError, match='second, from 0 on, or "auto", not soon'):
        parse_melody(str(path), spec, begin="soon")  # pyright: ignore[reportArgumentType]


def test_times_never_go_backwards(tmp_path: Path) -> None:
    changes = mido.MidiTrack(
        mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm), time=480) for bpm in (60, 200, 90)
    )
    path = saved(tmp_path / "a.mid", changes, line(TUNE, BEATS))
    onsets = [at for at, _ in starts(read_midi(path))]
    assert all(a < b for a, b in pairwise(onsets))
    assert starts(read_midi(path)) == midos(path)
    assert "60–200 BPM from the file" in read_midi(path).about
