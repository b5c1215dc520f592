"""What a result shows of itself at a prompt and in a notebook."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import ditto
from ditto import notebook
from ditto.models.model import MusicModel
from ditto.result import Result

TAG = re.compile(r'src="data:(\w+/\w+);base64,([^"]+)"')


@pytest.fixture(scope="module")
def result(tiny_model: MusicModel) -> Result:
    return ditto.generate(tiny_model, ditto.Intensity("swell"), seed=7, count=2, iterations=2)


def files(html: str, kind: str) -> list[bytes]:
    return [base64.b64decode(text) for found, text in TAG.findall(html) if found == kind]


def test_a_page_holds_the_clips_and_their_pictures(result: Result) -> None:
    html = result._repr_html_()
    for item, sound in enumerate(files(html, "audio/flac")):
        heard, rate = soundfile.read(io.BytesIO(sound))
        assert rate == 8000
        np.testing.assert_allclose(heard, result.samples(item), atol=2**-15)
    assert len(files(html, "audio/flac")) == len(files(html, "image/png")) == 2
    for picture in files(html, "image/png"):
        assert Image.open(io.BytesIO(picture)).width > 500
    assert "&lt;Result: " in html


def test_a_page_holds_the_first_of_many(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "MOST", 1)
    html = result._repr_html_()
    assert len(files(html, "audio/flac")) == 1
    assert "and 1 more" in html


def test_a_page_says_where_a_sound_is_too_long_for_it(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "LARGEST", 100)
    html = result._repr_html_()
    assert not files(html, "audio/flac")
    assert html.count("save(path)") == 2


def test_an_edit_shows_itself(tiny_model: MusicModel, tmp_path: Path) -> None:
    path = tmp_path / "<b>.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((8000, 2)), 8000)
    edit = ditto.inpaint(tiny_model, path, [(0.4, 0.6)], overlap=0.1, iterations=2)
    saved = []
    html = replace(edit, saved=lambda: saved.append(1))._repr_html_()
    assert not saved  # what a song is made again from stays
    (sound,) = files(html, "audio/flac")
    assert soundfile.read(io.BytesIO(sound))[0].shape == (8000, 2)
    assert "<b>" not in html


def test_a_page_says_what_it_cannot_play(result: Result, tmp_path: Path) -> None:
    def refuse(path: Path) -> list[Path]:
        raise ditto.DittoError("12 channels & more")

    assert notebook.page("line", [refuse]) == "<p>line</p>\n<p>12 channels &amp; more</p>"


def test_each_is_one_line_at_a_prompt(result: Result) -> None:
    error = result.errors["intensity_mse_db2"][0].item()
    assert repr(result).startswith("<Result: ")
    assert f"2 × 0.51 s, intensity_mse_db2 {error:.3g}" in repr(result)
    named = replace(result.model, name="mine")
    assert re.fullmatch(r"<MusicModel 'mine': 0\.\d M, 0\.51 s, .*cpu, sha256 \w*>", repr(named))
    assert max(len(repr(each)) for each in (result, named, result.request.controls[0])) < 250
