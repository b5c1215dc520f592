import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ditto.composer.compose import compose
from ditto.composer.corpus import compose_dataset
from ditto.errors import DataError
from ditto.paths import TEMPORARY


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, but for the cache that other tests fill."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if not name.startswith("cache/")}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]


def test_labels_state_what_the_files_are(composed: Path) -> None:
    labels = lines(composed)
    assert [label["index"] for label in labels] == [0, 1, 2]
    for label in labels:
        path = composed / label["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == label["sha256"]
        header = soundfile.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (22_050, 1, "PCM_16")
        assert header.duration == pytest.approx(label["seconds"], abs=1e-3)
        piece = compose(label["index"])
        assert (label["genre"], label["mood"], label["tempo"]) == (
            piece.genre,
            piece.mood,
            piece.tempo,
        )


def test_two_workers_make_the_same_bytes_as_one(
    composed: Path, soundfont: Path, tmp_path: Path
) -> None:
    calls = []
    compose_dataset(
        tmp_path / "two",
        count=3,
        workers=2,
        soundfonts=[soundfont],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert contents(tmp_path / "two") == contents(composed)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_data_set_can_grow_and_keeps_its_files(
    soundfont: Path, tmp_path: Path, composed: Path
) -> None:
    out = tmp_path / "grown"
    compose_dataset(out, count=1, soundfonts=[soundfont])
    written = (out / "audio/000000.flac").stat().st_mtime_ns
    compose_dataset(out, count=3, soundfonts=[soundfont])
    assert (out / "audio/000000.flac").stat().st_mtime_ns == written
    assert contents(out) == contents(composed)
    compose_dataset(out, count=2, soundfonts=[soundfont])  # a smaller count changes nothing
    assert contents(out) == contents(composed)


def test_the_held_out_split_is_other_music(soundfont: Path, tmp_path: Path, composed: Path) -> None:
    out = compose_dataset(tmp_path / "heldout", count=2, split="heldout", soundfonts=[soundfont])
    assert not {x["sha256"] for x in lines(out)} & {x["sha256"] for x in lines(composed)}
    assert not {str(x["melody"]) for x in lines(out)} & {str(x["melody"]) for x in lines(composed)}


def test_kill_9_at_any_point_leaves_a_folder_that_a_restart_completes(
    composed: Path, soundfont: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    code = "from pathlib import Path; from ditto.composer.corpus import compose_dataset\n"
    code += f"compose_dataset(Path({str(out)!r}), count=3, soundfonts=[Path({str(soundfont)!r})])"
    rng = np.random.default_rng(0)
    for files in (0, 1, 2):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        while (
            not (out / "dataset.json").exists() or len(list((out / "audio").glob("*.flac"))) < files
        ):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.2)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    # what a kill in the middle of a write leaves
    (out / "audio" / f"{TEMPORARY}0123.flac").write_bytes(b"half a file")
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contents(out) == contents(composed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed"),
        ({"split": "heldout"}, "split"),
        ({"sample_rate": 16_000}, "sample_rate"),
        ({"count": 0}, "count from 1 to 1000000, or hours above 0 and at most 7500, not 0"),
        ({"count": 10**12}, "count from 1 to 1000000"),
        ({"count": None, "hours": math.nan}, "hours above 0 and at most 7500, not nan"),
        ({"count": None, "hours": math.inf}, "not inf"),
        ({"count": None, "hours": -1.0}, "not -1"),
        ({"seed": -1}, "the seed must be 0 or more"),
        ({"hours": 1.0}, "either hours or count"),
        ({"split": "test"}, "unknown split"),
        ({"soundfonts": [Path("none.sf2")]}, "no SoundFont"),
    ],
)
def test_other_settings_are_refused_in_one_line(
    composed: Path, soundfont: Path, change: dict, message: str
) -> None:
    before = contents(composed)
    with pytest.raises(DataError, match=message) as caught:
        compose_dataset(composed, **{"count": 3, "soundfonts": [soundfont], **change})
    assert "\n" not in str(caught.value)
    assert contents(composed) == before


def test_an_unwritable_folder_is_one_line(soundfont: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot make the folder") as caught:
        compose_dataset(tmp_path / "file", count=1, soundfonts=[soundfont])
    assert "\n" not in str(caught.value)
