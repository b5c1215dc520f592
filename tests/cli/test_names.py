"""Names that the file system refuses, in every option that takes one: one line, exit code 2."""

from pathlib import Path
from typing import Any

import pytest

LONG = 300 * "9"
COMMANDS = (
    ("batch", "requests.jsonl", "--out", LONG),
    ("batch", LONG, "--out", "o"),
    ("data", "prepare", ".", "--out", LONG),
    ("data", "prepare", LONG, "--out", "o"),
    ("train", "base", "--data", LONG, "--out", "o"),
    ("train", "base", "--data", ".", "--config", LONG, "--out", "o"),
    ("train", "report", LONG, "--out", "o"),
    ("distill", "ctm", "--data", ".", "--teacher", LONG, "--out", "o"),
    ("generate", "--model", LONG, "-o", "o.wav"),
    ("generate", "--loudness", "swell", "-o", f"{LONG}.wav"),
    ("generate", "--loudness", "swell", "--latent", f"{LONG}.latent", "-o", "o.wav"),
    ("generate", "--loudness", f"{LONG}.csv", "-o", "o.wav"),
    ("generate", "--melody", f"{LONG}.mid", "-o", "o.wav"),
    ("generate", "--loudness-like", f"{LONG}.wav", "-o", "o.wav"),
    ("generate", "--start", f"{LONG}.latent", "-o", "o.wav"),
    ("inpaint", f"{LONG}.wav", "--from", "0", "--to", "1", "-o", "o.wav"),
    ("invert", f"{LONG}.wav", "-o", "o.latent"),
    ("vary", f"{LONG}.latent", "-o", "o"),
    ("again", f"{LONG}.json"),
    ("models", "--model", LONG),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).replace(LONG, "LONG"))
def test_a_name_that_is_too_long_is_one_line(
    ditto_music: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text('{"tags": "genre=jazz", "name": "a"}\n')
    code, _, error = ditto_music(*words)
    last = error.strip().splitlines()[-1]
    assert (code, last.startswith("error: ")) == (2, True), error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["requests.jsonl"]
