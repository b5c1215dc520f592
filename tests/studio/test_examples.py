"""The calls that docs/studio.md shows, on a running studio; K alone is smaller."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.studio.conftest import ROOT, Running

BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$",
    (ROOT / "docs" / "studio.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def block(language: str, holding: str, studio: Running) -> str:
    """Return the block that holds a text, for this studio."""
    (found,) = (text for kind, text in BLOCKS if kind == language and holding in text)
    return found.replace("http://127.0.0.1:7860/", studio.address)


def shell(text: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-ec", text], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode()


def test_a_post_answers_with_the_sound(studio: Running, tmp_path: Path) -> None:
    text = block("sh", "-o out.wav", studio)
    shell(text.replace('"seed": 7', '"seed": 7, "iterations": 2'), tmp_path)
    samples, rate = soundfile.read(tmp_path / "out.wav")
    assert (len(samples), rate) == (131_072, 22_050)


def test_an_upload_answers_with_its_token(studio: Running, tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(44_100)
    soundfile.write(tmp_path / "song.wav", noise, 22_050)
    found = json.loads(shell(block("sh", "studio/upload", studio), tmp_path))
    assert len(found["token"]) == 24
    assert found["seconds"] == 2


def test_gradios_client_generates_and_varies(
    studio: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio_client")
    text = block("python", "gradio_client", studio)
    text = text.replace("seed=7", "seed=7, iterations=1").replace("count=4", "count=1")
    names: dict = {}
    exec(text, names)
    assert "intensity_mse_db2" in names["clip"]["errors"]
    assert re.search(r"studio/files/[\w-]{24}/out.wav", capsys.readouterr().out)
    assert len(names["clips"]) == 1


def test_gradios_calls_by_curl(studio: Running, tmp_path: Path) -> None:
    first, second = block("sh", "EVENT_ID", studio).rstrip().rsplit("\n", 1)
    event = json.loads(shell(first.replace("20}", "1}"), tmp_path))["event_id"]
    told = shell(second.replace("EVENT_ID", event), tmp_path)
    assert "event: complete" in told
    assert "structure_mse" in told
