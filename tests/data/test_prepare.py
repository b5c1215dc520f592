import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.audio.spec import AudioSpec
from ditto.data.dataset import ClipDataset, read_labels, vocabulary_of
from ditto.data.prepare import Row, prepare_folder, read_tags_csv
from ditto.errors import DataError


def tone(hertz: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave] * channels, axis=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    (root / "more").mkdir(parents=True)
    soundfile.write(root / "a.wav", tone(220, 8, 44_100, 2), 44_100)
    soundfile.write(root / "b.flac", tone(330, 15, 16_000), 16_000)
    soundfile.write(root / "more" / "c.ogg", tone(440, 7, 48_000), 48_000)
    soundfile.write(root / "short.wav", tone(440, 1, 8_000), 8_000)
    soundfile.write(root / "silent.wav", np.zeros(8_000 * 7), 8_000)
    (root / "notes.txt").write_text("not a recording")
    return root


@pytest.fixture
def tags(tmp_path: Path) -> Path:
    path = tmp_path / "tags.csv"
    path.write_text("file,genre,mood,tempo\na.wav,Polka,happy,120\nmore/c.ogg,,sad,\n")
    return path


def test_a_folder_becomes_a_data_set_with_its_own_vocabulary(
    folder: Path, tags: Path, tmp_path: Path
) -> None:
    calls = []
    made = prepare_folder(
        folder,
        tmp_path / "out",
        tags_csv=tags,
        heldout=0.0,
        segment_seconds=8.0,
        progress=lambda *c: calls.append(c),
    )
    assert (made.train, made.heldout) == (4, 0)
    assert any("short.wav is shorter than 6.1 s" in line for line in made.skipped)
    assert any("silent.wav is silent" in line for line in made.skipped)
    assert calls[-1] == (5, 5)
    labels = read_labels(tmp_path / "out" / "train")
    assert [(x["source"], x["genre"], x["mood"], x["tempo"]) for x in labels] == [
        ("a.wav", "polka", "happy", 120.0),
        ("b.flac", None, None, None),
        ("b.flac", None, None, None),
        ("more/c.ogg", None, "sad", None),
    ]
    vocabulary = vocabulary_of(tmp_path / "out" / "train")
    assert (vocabulary.genres, vocabulary.moods) == (("polka",), ("happy", "sad"))
    x_0, indices = ClipDataset(tmp_path / "out" / "train", AudioSpec()).batch(0, 8)
    assert x_0.shape == (8, 1, 160, 512)
    assert {0, 1} >= set(indices[:, 0].tolist())


def test_segments_hold_the_sound_of_their_place(folder: Path, tmp_path: Path) -> None:
    prepare_folder(folder, tmp_path / "out", heldout=0.0, segment_seconds=8.0)
    for label, hertz in zip(
        read_labels(tmp_path / "out" / "train"), (220, 330, 330, 440), strict=True
    ):
        audio, rate = soundfile.read(tmp_path / "out" / "train" / label["file"])
        assert rate == 22_050
        assert len(audio) == pytest.approx(label["seconds"] * rate, abs=2)
        spectrum = np.abs(np.fft.rfft(audio))
        assert spectrum.argmax() * rate / len(audio) == pytest.approx(hertz, abs=0.5)


def test_whole_recordings_are_held_out_by_name_and_growing_moves_none(
    folder: Path, tmp_path: Path
) -> None:
    for k in range(12):
        soundfile.write(folder / f"song{k}.wav", tone(300, 6.5, 8_000), 8_000)
    made = prepare_folder(folder, tmp_path / "one", heldout=0.4)
    assert made.heldout > 1
    assert made.train > 1

    def sources(out: Path, split: str) -> set[str]:
        return {x["source"] for x in read_labels(out / split)}

    assert not sources(tmp_path / "one", "train") & sources(tmp_path / "one", "heldout")
    soundfile.write(folder / "another.wav", tone(300, 6.5, 8_000), 8_000)
    prepare_folder(folder, tmp_path / "two", heldout=0.4)
    assert sources(tmp_path / "one", "heldout") <= sources(tmp_path / "two", "heldout")
    assert sources(tmp_path / "one", "train") <= sources(tmp_path / "two", "train")


def test_a_restart_completes_to_the_same_bytes_and_other_settings_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_folder(folder, out, heldout=0.0)
    whole = {p.name: p.read_bytes() for p in (out / "train").rglob("*") if p.is_file()}
    (out / "train" / "labels.jsonl").unlink()
    (out / "train" / "audio" / "000001.flac").unlink()
    config = json.loads((out / "train" / "dataset.json").read_text())
    (out / "train" / "dataset.json").write_text(json.dumps({**config, "count": 0}))
    prepare_folder(folder, out, heldout=0.0)
    assert {p.name: p.read_bytes() for p in (out / "train").rglob("*") if p.is_file()} == whole
    with pytest.raises(DataError, match="heldout"):
        prepare_folder(folder, out, heldout=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,genre,mood,tempo\na.wav,polka,happy,fast\n", "line 2: tempo must be a number"),
        ("file,genre,mood,tempo\na.wav,polka,happy,500\n", "line 2: tempo must be 60 to 180"),
        ("file,genre,mood,tempo\na.wav,polka,happy,nan\n", "line 2: tempo must be 60 to 180"),
        (
            "file,genre\na.wav,jazz\nb.flac,opera\n",
            "line 3: unknown genre 'opera'; allowed are polka, jazz",
        ),
        ("file,genre\nx.wav,jazz\n", "line 2: there is no file 'x.wav'"),
        ("file,genre\na.wav,jazz\na.wav,jazz\n", "line 3: the file 'a.wav' is listed twice"),
        ("file,genre\na.wav\n", "line 2: the number of cells"),
        ("file,genre\na.wav,jazz,happy\n", "line 2: the number of cells"),
        ("file,gender\na.wav,jazz\n", "line 1: the columns must be"),
        ("name,genre\na.wav,jazz\n", "line 1: the columns must be"),
        ("file,ge\x1cnre\na.wav,jazz\n", "line 1: the columns must be"),
        ("", "line 1: the columns must be"),
        ('file,genre\n"a.wav,jazz\n', "not a CSV file"),
    ],
)
def test_a_bad_tags_file_is_one_line_that_names_the_place(
    folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        prepare_folder(folder, tmp_path / "out", tags_csv=path, genres=("polka", "jazz"))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_tags_file_may_come_from_a_spreadsheet(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes("\ufefffile, genre, tempo\r\na.wav, Jazz , 90.5\r\n".encode())
    assert read_tags_csv(path, folder) == {"a.wav": Row("jazz", None, 90.5)}


def test_bytes_that_are_not_text_are_one_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes(b"file\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_tags_csv(path, folder)
    with pytest.raises(DataError, match="there is no tags file"):
        read_tags_csv(tmp_path / "none.csv", folder)


def test_bad_folders_and_shares_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        prepare_folder(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="there is no folder"):
        prepare_folder(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="held-out share"):
        prepare_folder(folder, tmp_path / "out", heldout=1.0)


def test_damaged_recordings_are_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.wav").write_bytes(b"this is no sound" * 100)
    whole = (folder / "b.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "._a.wav").write_bytes(b"a Mac's shadow of a.wav")
    made = prepare_folder(folder, tmp_path / "out", heldout=0.0)
    assert made.train > 0
    for name in ("broken.wav", "cut.flac"):
        assert any(line.startswith(f"{name} is left out") for line in made.skipped), name
    assert not any("._a.wav" in line for line in made.skipped)


def test_where_nothing_can_be_read_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.wav").write_bytes(b"this is no sound" * 100)
    with pytest.raises(DataError, match=r"nothing could be prepared: broken\.wav is left out"):
        prepare_folder(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["/etc/hostname.wav", "../a.wav", "x/../../a.wav"])
def test_tags_are_of_files_within_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "tags.csv").write_text(f"file,genre\n{name},jazz\n")
    with pytest.raises(DataError, match="by its path within"):
        prepare_folder(folder, tmp_path / "out", tags_csv=tmp_path / "tags.csv")


def test_data_made_before_are_no_recordings(folder: Path) -> None:
    first = prepare_folder(folder, folder / "out", heldout=0.0)
    assert prepare_folder(folder, folder / "out", heldout=0.0) == first
