"""Melodies from names, MIDI, MusicXML and recordings: what is read, and what is refused."""

from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from ditto.audio.spec import AudioSpec
from ditto.controls.midi import read_midi
from ditto.controls.notes import REST, Note, NoteSequence, parse_notes
from ditto.controls.scores import read_score
from ditto.controls.tunes import parse_melody
from ditto.errors import AudioFileError, ControlError

SPEC = AudioSpec()


def midi(path: Path, *tracks: list[mido.Message | mido.MetaMessage], ticks: int = 480) -> Path:
    file = mido.MidiFile(ticks_per_beat=ticks)
    file.tracks.extend(mido.MidiTrack(track) for track in tracks)
    file.save(path)
    return path


def on(note: int, time: int = 0, channel: int = 0, velocity: int = 90) -> mido.Message:
    return mido.Message("note_on", note=note, time=time, channel=channel, velocity=velocity)


def off(note: int, time: int = 0, channel: int = 0) -> mido.Message:
    return mido.Message("note_off", note=note, time=time, channel=channel)


def tempo(bpm: float, time: int = 0) -> mido.MetaMessage:
    return mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm), time=time)


def times(tune: NoteSequence) -> list[tuple[float, float, int]]:
    return [
        (round(n.onset, 4), round(n.duration, 4), n.pitch)
        for n in sorted(tune.notes, key=lambda n: (n.onset, n.pitch))
    ]


def test_names_with_octaves_beats_and_rests() -> None:
    assert times(parse_notes("C4:1 F#4:0.5, Bb3 R:1 g:2 E♭5:.5 B8:1", bpm=120)) == [
        (0.0, 0.5, 60),
        (0.5, 0.25, 66),
        (0.75, 0.5, 58),
        (1.75, 1.0, 67),
        (2.75, 0.25, 75),
        (3.0, 0.5, 119),
    ]


@pytest.mark.parametrize("text", ["H4:1", "C4:", "C4:-1", "C4:1:2", "4C", "do re mi", "C4:nan"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ControlError, match="write notes such as"):
        parse_notes(text)


@pytest.mark.parametrize("text", ["", "R:4", "R R"])
def test_a_melody_without_a_note_is_refused(text: str) -> None:
    with pytest.raises(ControlError, match="no notes"):
        parse_notes(text)


def test_classes_are_the_top_line_frame_by_frame() -> None:
    tune = NoteSequence((Note(0.1, 0.4, 61), Note(0.2, 0.1, 70), Note(0.2, 0.2, 40)))
    seconds = np.arange(100) / SPEC.frame_rate
    expected = np.full(100, REST)
    expected[(seconds >= 0.1) & (seconds < 0.5)] = 1
    expected[(seconds >= 0.2) & (seconds < 0.3)] = 10
    np.testing.assert_array_equal(tune.classes(100, SPEC), expected)


def test_a_tune_can_be_moved() -> None:
    tune = NoteSequence((Note(0.0, 1.0, 60), Note(1.0, 1.0, 62)))
    earlier = tune.later(-1.5)
    assert earlier is not None
    assert earlier.notes == (Note(0.0, 0.5, 62),)
    assert tune.later(-2.0) is None
    assert tune.later(1.0) == NoteSequence((Note(1.0, 1.0, 60), Note(2.0, 1.0, 62)))


def test_midi_keeps_its_own_tempo_changes_unless_one_is_given(tmp_path: Path) -> None:
    conductor = [tempo(60), tempo(120, time=480)]
    path = midi(tmp_path / "a.mid", conductor, [on(60), off(60, 480), on(62), off(62, 480)])
    assert times(read_midi(path)) == [(0.0, 1.0, 60), (1.0, 0.5, 62)]
    assert times(read_midi(path, bpm=240)) == [(0.0, 0.25, 60), (0.25, 0.25, 62)]


def test_midi_agrees_with_midos_own_clock(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = zip(rng.integers(50, 80, 20).tolist(), rng.integers(0, 300, 20).tolist(), strict=True)
    notes = [message for pitch, wait in drawn for message in (on(pitch, wait), off(pitch, 97))]
    path = midi(tmp_path / "a.mid", [tempo(93), tempo(141, 1000)], notes, ticks=192)
    now, starts = 0.0, []
    for message in mido.MidiFile(path):
        now += message.time
        if message.type == "note_on":
            starts.append((round(now, 4), message.note))
    assert [(t, p) for t, _, p in times(read_midi(path))] == starts


def test_midi_takes_all_tracks_or_one_and_no_drums(tmp_path: Path) -> None:
    path = midi(
        tmp_path / "a.mid",
        [on(60), off(60, 480)],
        [on(72), on(72, 240, velocity=0)],
        [on(99, channel=9), off(99, 480, 9)],
    )
    assert times(read_midi(path, track="all")) == [(0.0, 0.5, 60), (0.0, 0.25, 72)]
    assert times(read_midi(path, track=0)) == [(0.0, 0.5, 60)]
    with pytest.raises(ControlError, match="no notes"):
        read_midi(path, track=2)
    with pytest.raises(ControlError, match="has no track 3: it has tracks 0 to 2"):
        read_midi(path, track=3)


def test_notes_that_are_held_to_the_end_or_struck_again(tmp_path: Path) -> None:
    path = midi(
        tmp_path / "a.mid", [on(60), on(60, 480), mido.MetaMessage("end_of_track", time=480)]
    )
    assert times(read_midi(path)) == [(0.0, 0.5, 60), (0.5, 0.5, 60)]


def bad_midis(folder: Path) -> dict[str, Path]:
    good = midi(folder / "good.mid", [on(60), off(60, 480)]).read_bytes()
    (folder / "text.mid").write_text("this is no melody")
    (folder / "cut.mid").write_bytes(good[:26])
    (folder / "none.mid").touch()
    (folder / "folder.mid").mkdir()
    midi(folder / "empty.mid", [tempo(100)])
    return {path.name: path for path in (*folder.glob("*.mid"), folder / "missing.mid")}


def test_bad_midi_files_are_one_line(tmp_path: Path) -> None:
    for name, path in bad_midis(tmp_path).items():
        if name == "good.mid":
            continue
        with pytest.raises(ControlError) as caught:
            read_midi(path)
        assert name in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("seed", range(30))
def test_damaged_midi_files_never_raise_anything_else(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(
        midi(
            tmp_path / "a.mid", [tempo(90), on(60), off(60, 480), on(64), off(64, 480)]
        ).read_bytes()
    )
    for _ in range(3):
        data[int(rng.integers(14, len(data)))] = int(rng.integers(256))
    (tmp_path / "a.mid").write_bytes(bytes(data))
    try:
        read_midi(tmp_path / "a.mid")
    except ControlError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - any other error must come through


SCORE = """<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="3.1"><part-list>
<score-part id="P1"><part-name>a</part-name></score-part>
<score-part id="P2"><part-name>b</part-name></score-part>
</part-list>
<part id="P1"><measure number="1">
<attributes><divisions>2</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>
<direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>60</per-minute></metronome>
</direction-type><sound tempo="60"/></direction>
<note><pitch><step>C</step><octave>5</octave></pitch><duration>4</duration><type>half</type></note>
<note><rest/><duration>2</duration><type>quarter</type></note>
<note><pitch><step>B</step><alter>-1</alter><octave>4</octave></pitch><duration>1</duration><type>eighth</type></note>
<note><chord/><pitch><step>D</step><octave>5</octave></pitch><duration>1</duration><type>eighth</type></note>
<note><pitch><step>E</step><octave>5</octave></pitch><duration>1</duration><type>eighth</type></note>
</measure></part>
<part id="P2"><measure number="1"><attributes><divisions>1</divisions></attributes>
<note><pitch><step>G</step><octave>3</octave></pitch><duration>4</duration><type>whole</type></note>
</measure></part></score-partwise>"""


def test_musicxml_gives_the_top_line_of_all_parts_or_one(tmp_path: Path) -> None:
    pytest.importorskip("music21")
    (tmp_path / "a.musicxml").write_text(SCORE)
    line = [(0.0, 2.0, 72), (3.0, 0.5, 74), (3.5, 0.5, 76)]
    assert times(read_score(tmp_path / "a.musicxml", part=0)) == line
    assert set(times(read_score(tmp_path / "a.musicxml", part="all"))) == {*line, (0.0, 4.0, 55)}
    assert times(read_score(tmp_path / "a.musicxml")) == line
    assert times(read_score(tmp_path / "a.musicxml", part=0, bpm=120)) == [
        (t / 2, d / 2, p) for t, d, p in line
    ]
    with pytest.raises(ControlError, match="no part 2"):
        read_score(tmp_path / "a.musicxml", part=2)


@pytest.mark.parametrize("text", ["no score", "<score-partwise/>", "<html><b/></html>"])
def test_what_is_no_score_is_one_line(tmp_path: Path, text: str) -> None:
    pytest.importorskip("music21")
    (tmp_path / "a.musicxml").write_text(text)
    with pytest.raises(ControlError) as caught:
        read_score(tmp_path / "a.musicxml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_recording_is_heard(tmp_path: Path) -> None:
    time = np.arange(22_050) / 22_050
    audio = np.concatenate(
        [0.3 * np.sin(2 * np.pi * 523.25 * time), 0 * time, 0.3 * np.sin(2 * np.pi * 440 * time)]
    )
    soundfile.write(tmp_path / "hum.wav", audio, 22_050)
    classes = parse_melody(str(tmp_path / "hum.wav"), SPEC).classes(258, SPEC)
    assert (classes[5:75] == 0).all()
    assert (classes[110:150] == REST).all()
    assert (classes[185:250] == 9).all()


def test_a_tunes_text_may_be_a_path(tmp_path: Path) -> None:
    path = midi(tmp_path / "a.MID", [on(60), off(60, 480)])
    assert times(parse_melody(str(path), SPEC, bpm=60)) == [(0.0, 1.0, 60)]
    assert times(parse_melody("C4", SPEC, bpm=60)) == [(0.0, 1.0, 60)]
    with pytest.raises(AudioFileError):
        parse_melody(str(tmp_path / "missing.wav"), SPEC)
    with pytest.raises(ControlError, match="MIDI or MusicXML file only"):
        parse_melody("C4", SPEC, track=1)
    with pytest.raises(ControlError, match="10 to 1000"):
        parse_melody("C4", SPEC, bpm=0)
