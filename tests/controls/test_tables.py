"""Tables of two columns in every dress that spreadsheets give them."""

import csv
from pathlib import Path

import pytest

from ditto.audio.scales import FREQUENCY
from ditto.audio.spec import AudioSpec
from ditto.controls import Intensity
from ditto.controls.curves import parse_curve, read_curve
from ditto.errors import ControlError

POINTS = ((0.0, -36.5), (3.0, -14.0), (5.9, -30.0))
PLAIN = "seconds,dB\n0,-36.5\n3,-14\n5.9,-30\n"
GERMAN = "Zeit (s);Pegel (dB)\n0;-36,5\n3;-14\n5,9;-30\n"
INDEXED = ",time,level\n0,0,-36.5\n1,3,-14\n2,5.9,-30\n"
TABLES = {
    "semicolons and commas": (GERMAN.encode(), "semicolons, decimal commas"),
    "tabs": (PLAIN.replace(",", "\t").encode(), "tabs"),
    "tabs and commas": (PLAIN.replace(",", "\t").replace(".", ",").encode(), "decimal commas"),
    "spaces": (PLAIN.replace(",", "  ").encode(), "spaces"),
    "utf-16": (PLAIN.encode("utf-16"), "'seconds' and 'dB'"),
    "utf-16, no mark": (PLAIN.encode("utf-16-le"), "'seconds'"),
    "utf-16 big": (PLAIN.encode("utf-16-be"), "'seconds'"),
    "cp1252": (
        "Größe;Zeit;Lautstärke dB\n9;0;-36,5\n9;3;-14\n9;5,9;-30\n".encode("cp1252"),
        "Zeit",
    ),
    "index": (INDEXED.encode(), "columns 'time' and 'level'"),
    "bare index": (INDEXED.partition("\n")[2].encode(), "columns 2 and 3"),
    "swapped": (b"level,time\n-36.5,0\n-14,3\n-30,5.9\n", "columns 'time' and 'level'"),
    "more columns": (b"time,bars,rms_db\n0,1,-36.5\n3,2,-14\n5.9,3,-30\n", "'rms_db'"),
    "excel": (b"sep=;\n" + GERMAN.encode(), "semicolons"),
    "units": (b"t,level\n0 s,-36.5 dB\n3 s,-14dB\n5.9s,\xe2\x88\x9230 dB\n", "'t' and 'level'"),
    "quoted commas": (b'"0","-36,5"\n"3","-14"\n"5,9","-30"\n', "decimal commas"),
    "milliseconds": (b"time_ms,dB\n0,-36.5\n3000,-14\n5900,-30\n", "'time_ms'"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_one_curve_in_many_tables(tmp_path: Path, kind: str) -> None:
    content, said = TABLES[kind]
    path = tmp_path / "curve.csv"
    path.write_bytes(content)
    curve = read_curve(path)
    assert sum(curve.points, ()) == pytest.approx(sum(POINTS, ()))
    assert said in curve.about
    assert curve.about.startswith("3 points, 0 to 5.9 s, -36.5 to -14 dB, columns ")
    assert Intensity(str(path)).understood() == [curve.about]
    assert Intensity(str(path)).to_dict()["understood"] == curve.about


@pytest.mark.parametrize("text", [PLAIN, GERMAN, PLAIN.replace(",", "\t")])
def test_separators_are_those_of_pythons_sniffer(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    dialect = csv.Sniffer().sniff(text, delimiters=",;\t")
    rows = [
        tuple(float(cell.replace(",", ".")) for cell in row)
        for row in list(csv.reader(text.splitlines(), dialect))[1:]
    ]
    assert read_curve(tmp_path / "a.csv").points == tuple(rows)


def test_a_mistyped_first_row_is_no_heading(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,-3o\n3,-12\n")
    with pytest.raises(ControlError, match="needs numbers, seconds and dB, on line 1 of"):
        read_curve(tmp_path / "a.csv")


def test_breakpoints_with_units() -> None:
    assert parse_curve("0:-20dB 3s:-10 4.5s:-12 dB").points == ((0, -20), (3, -10), (4.5, -12))
    assert parse_curve("0:1.4kHz 3:700Hz", FREQUENCY).points == ((0, 1400), (3, 700))
    with pytest.raises(ControlError, match="needs numbers, seconds and dB"):
        parse_curve("0:-20Hz 3:-10")


def test_two_points_at_one_time_are_a_step() -> None:
    spec = AudioSpec()
    curve = parse_curve("0:-40 3:-40 3:-20 6:-20")
    levels = curve.levels(512, spec)
    step = int(3 * spec.frame_rate) + 1
    assert set(levels[:step].tolist()) == {-40.0}
    assert set(levels[step:].tolist()) == {-20.0}
    later = curve.between(2.0, 5.0, 6.0)
    assert later.levels(10, spec)[0] == -40
    assert set(later.levels(512, spec)[-step:].tolist()) == {-20.0}
    step = int(1 * spec.frame_rate) + 1
    assert later.levels(512, spec)[step - 1] == -40
    assert later.levels(512, spec)[step] == -20
