"""MusicXML: what sounds, when, and what is said; music21 and the standard are the judges."""

import zipfile
from pathlib import Path

import pytest

from ditto.controls.notes import NoteSequence
from ditto.controls.scores import read_score
from ditto.errors import ControlError

music21 = pytest.importorskip("music21")

D5 = (
    "<note><pitch><step>D</step><octave>5</octave></pitch><duration>2</duration>"
    "<type>quarter</type></note>"
)
E5 = D5.replace("D</step>", "E</step>")
BACK = '<barline location="right"><repeat direction="backward"/></barline>'
SWING = (
    "<metronome><metronome-note><metronome-type>quarter</metronome-type></metronome-note>"
    "<metronome-relation>equals</metronome-relation><metronome-note>"
    "<metronome-type>half</metronome-type></metronome-note></metronome>"
)


def part(body: str, number: int = 1, attributes: str = "", divisions: int = 2) -> str:
    return (
        f'<part id="P{number}"><measure number="1"><attributes><divisions>{divisions}</divisions>'
        f"{attributes}</attributes>{body}</measure></part>"
    )


def score(path: Path, *parts: str, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    listed = "".join(
        f'<score-part id="P{i}"><part-name>{name}</part-name></score-part>'
        for i, name in enumerate(names[: len(parts)], 1)
    )
    path.write_text(
        f'<score-partwise version="3.1"><part-list>{listed}</part-list>{"".join(parts)}'
        "</score-partwise>"
    )
    return path


def metronome(unit: str, sound: str = "") -> str:
    mark = unit if "metronome-note" in unit else f"<metronome>{unit}</metronome>"
    return f"<direction><direction-type>{mark}</direction-type>{sound}</direction>"


def read(tune: NoteSequence) -> list[tuple[float, float, int]]:
    return [(round(n.onset, 3), round(n.duration, 3), n.pitch) for n in tune.notes]


def test_a_transposing_part_sounds_as_it_sounds(tmp_path: Path) -> None:
    down = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    tune = read_score(score(tmp_path / "clarinet.xml", part(D5, attributes=down)))
    assert [n.pitch for n in tune.notes] == [72]


QUARTER = "<beat-unit>quarter</beat-unit>"
SOUND = '<sound tempo="92"/>'
TEMPI = {
    "circa": (metronome(f"{QUARTER}<per-minute>c. 92</per-minute>", SOUND), 92, "92 BPM from the"),
    "circa alone": (metronome(f"{QUARTER}<per-minute>c. 92</per-minute>"), 120, "has no tempo"),
    "sound": (SOUND, 92, "92 BPM from the score"),
    "none": ("", 120, "120 BPM, since the score has no tempo"),
    "modulation": (metronome(f"{QUARTER}<beat-unit>half</beat-unit>"), 120, "has no tempo"),
    "relation": (metronome(SWING), 120, "has no tempo"),
    "dotted": (
        metronome(f"{QUARTER}<beat-unit-dot/><per-minute>60</per-minute>"),
        90,
        "90 BPM from the score",
    ),
    "half": (metronome("<beat-unit>half</beat-unit><per-minute>46</per-minute>"), 92, "92 BPM"),
}


@pytest.mark.parametrize("kind", TEMPI)
def test_tempi_however_they_are_written(tmp_path: Path, kind: str) -> None:
    mark, bpm, said = TEMPI[kind]
    tune = read_score(score(tmp_path / "a.xml", part(mark + D5 + E5)))
    beat = round(60 / bpm, 3)
    assert read(tune) == [(0.0, beat, 74), (beat, beat, 76)]
    assert said in tune.about


def test_a_tempo_in_another_part_counts_for_all(tmp_path: Path) -> None:
    path = score(tmp_path / "a.xml", part(SOUND + D5), part(E5, 2))
    assert read(read_score(path, part=1)) == [(0.0, round(60 / 92, 3), 76)]


def test_nonsense_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="damaged or no MusicXML") as caught:
        read_score(score(tmp_path / "a.xml", part(D5, divisions=0)))
    assert len(str(caught.value).splitlines()) == 1


def test_repeats_are_played(tmp_path: Path) -> None:
    body = D5 * 4 + BACK + '</measure><measure number="2">' + E5 * 4
    tune = read_score(score(tmp_path / "a.xml", part(body)))
    assert [n.pitch for n in tune.notes] == [74] * 8 + [76] * 4
    assert tune.seconds == pytest.approx(6.0)


def test_repeats_within_each_other_are_no_bomb(tmp_path: Path) -> None:
    begin = '<barline location="left"><repeat direction="forward"/></barline>'
    deep = measures(*[begin + D5 * 4] * 12, *[D5 * 4 + BACK] * 12)
    tune = read_score(score(tmp_path / "a.xml", part(deep)))
    assert len(tune.notes) == 24 * 4
    assert "its repeats come to over 2000 measures and are not played" in tune.about
    often = D5 * 4 + BACK.replace("/>", ' times="1000000"/>', 1)
    assert len(read_score(score(tmp_path / "a.xml", part(often))).notes) == 4


def test_a_repeat_without_a_start_goes_back_to_the_one_before(tmp_path: Path) -> None:
    tune = read_score(
        score(tmp_path / "a.xml", part(measures(*[D5 * 4 + BACK, E5 * 4 + BACK] * 6)))
    )
    assert [n.pitch for n in tune.notes] == ([74] * 8 + [76] * 8) * 6
    # After a second ending too.
    first, second = (
        f'<barline location="left"><ending number="{i}" type="start"/></barline>{E5 * 4}'
        f'<barline location="right"><ending number="{i}" type="stop"/>{back}</barline>'
        for i, back in ((1, '<repeat direction="backward"/>'), (2, ""))
    )
    body = measures(D5 * 4, first, second, D5 * 4, E5 * 4 + BACK)
    tune = read_score(score(tmp_path / "a.xml", part(body)))
    assert [n.pitch for n in tune.notes] == ([74] * 4 + [76] * 4) * 4


def measures(*bodies: str) -> str:
    """Return the bodies of measures 1, 2, … as `part` takes them."""
    return bodies[0] + "".join(
        f'</measure><measure number="{i}">{body}' for i, body in enumerate(bodies[1:], 2)
    )


def test_a_score_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    assert read(read_score(score(path, part(D5)))) == [(0.0, 0.5, 74)]
    assert read(read_score(score(path, part(E5)))) == [(0.0, 0.5, 76)]


def test_the_tune_is_guessed_and_the_others_are_named(tmp_path: Path) -> None:
    path = score(tmp_path / "a.xml", part(E5 * 4), part(D5 + E5, 2), names=("Piano", "Voice"))
    assert read_score(path).about == (
        "2 notes, D5–E5, 120 BPM, since the score has no tempo, part 1 (Voice) of 2; there are "
        "also: part 0 (Piano) 4 notes, E5"
    )
    assert len(read_score(path, part="all").notes) == 6


def test_sopranos_of_chorales_and_voices_of_songs_are_the_tune() -> None:
    from ditto.controls.lines import Line, tune_of
    from ditto.controls.scores import score_notes

    for name in ("bach/bwv66.6", "bach/bwv269", "schubert/lindenbaum", "mozart/k80/movement1"):
        parts = music21.corpus.parse(name).stripTies().parts
        lines = [Line(str(i), "", tuple(score_notes(p, 90.0))) for i, p in enumerate(parts)]
        assert tune_of(lines).where == "0"


def test_compressed_scores(tmp_path: Path) -> None:
    plain = score(tmp_path / "a.musicxml", part(D5))
    with zipfile.ZipFile(tmp_path / "a.mxl", "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="s/a.xml"/></rootfiles></container>',
        )
        archive.writestr("s/a.xml", plain.read_text())
    assert read(read_score(tmp_path / "a.mxl")) == read(read_score(plain))
    (tmp_path / "b.mxl").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(ControlError, match="damaged"):
        read_score(tmp_path / "b.mxl")
