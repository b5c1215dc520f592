import pytest

from ditto.composer.theory import (
    NAMES,
    nearest,
    parse_progression,
    parse_roman,
    playable_classes,
    voicing,
)

C = 0


def names(classes: tuple[int, ...]) -> list[str]:
    return [NAMES[c] for c in classes]


@pytest.mark.parametrize(
    ("roman", "tonic", "name", "tones"),
    [
        ("IIm7", C, "Dm7", ["D", "F", "A", "C"]),
        ("V7b9", C, "G7b9", ["G", "B", "D", "F", "Ab"]),
        ("bVII", 2, "C", ["C", "E", "G"]),
        ("IIm7b5", 9, "Bm7b5", ["B", "D", "F", "A"]),
        ("IVmaj9", 5, "Bbmaj9", ["Bb", "D", "F", "A", "C"]),
        ("bIImaj7", C, "Dbmaj7", ["Db", "F", "Ab", "C"]),
        ("V13", C, "G13", ["G", "B", "F", "A", "E"]),
    ],
)
def test_numerals_are_the_chords_of_the_textbook(
    roman: str, tonic: int, name: str, tones: list[str]
) -> None:
    chord = parse_roman(roman, tonic)
    assert chord.name == name
    assert names(chord.pitch_classes) == tones


def test_a_progression_splits_bars_and_chords() -> None:
    bars = parse_progression("IIm7 V7 | Imaj7", C)
    assert [[c.name for c in bar] for bar in bars] == [["Dm7", "G7"], ["Cmaj7"]]


def test_chromatic_chord_tones_displace_the_scale_tones_they_clash_with() -> None:
    # over A7 in C major C# is a chord tone, so C natural (and D, a semitone above) must not be
    # played against it
    classes = playable_classes(parse_roman("VI7", C), C, "major")
    assert 1 in classes
    assert not classes & {0, 2}


def test_voice_leading_moves_less_than_root_positions_do() -> None:
    chords = [bar[0] for bar in parse_progression("I | VIm | IV | V7 | I", C)]
    led, rooted, last = 0, 0, None
    previous_root: list[int] | None = None
    for chord in chords:
        notes = voicing(chord, last, 48, 72)
        root_position = [nearest(54, (chord.root,)) + i for i in chord.intervals]
        assert {n % 12 for n in notes} <= set(chord.pitch_classes)
        assert min(notes) >= 48
        assert max(notes) <= 72
        if last and previous_root:
            led += sum(abs(a - b) for a, b in zip(notes, last, strict=False))
            rooted += sum(abs(a - b) for a, b in zip(root_position, previous_root, strict=False))
        last, previous_root = notes, root_position
    assert led < 0.5 * rooted


def test_nearest_takes_the_closest_member() -> None:
    assert nearest(61.9, (0, 4, 7)) == 60
    assert nearest(62.1, (0, 4, 7)) == 64
