"""The panels of controls and edits: what they draw, checked on matplotlib's own objects."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ditto.audio.spec import AudioSpec
from ditto.plots import (
    ChromaPanel,
    MatrixPanel,
    Panel,
    RegionPanel,
    Trace,
    clip_picture,
    edit_picture,
)

SPEC = AudioSpec()
CURVE = np.linspace(-30, -20, 86)
CHROMA = ChromaPanel("melody", np.full((12, 86), 1 / 12), np.array([-1] * 40 + [7] * 46))
MATRIX = MatrixPanel("structure", np.eye(86), np.zeros((86, 86)))
REGION = RegionPanel("outpaint", np.zeros((160, 86)), ((0, 10), (40, 50)))


def drawn(panel: Panel):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    panel.draw(axes, SPEC)
    return axes


def test_a_melodys_line_is_drawn_over_its_chroma_only_where_there_is_a_note() -> None:
    axes = drawn(CHROMA)
    line = axes.lines[0].get_ydata()
    assert np.isnan(line[:40]).all()
    assert (line[40:] == 7).all()
    assert axes.images[0].get_array().shape == (12, 86)


def test_matrices_stand_side_by_side() -> None:
    first, second = drawn(MATRIX).images
    np.testing.assert_array_equal(first.get_array(), np.eye(86))
    assert second.get_extent()[0] > first.get_extent()[1]


def test_a_region_is_empty_outside_its_spans() -> None:
    shown = drawn(REGION).images[0].get_array()
    assert np.ma.masked_invalid(shown)[:, 0].count() == 160
    assert np.ma.masked_invalid(shown)[:, 20].count() == 0


def test_what_does_not_count_is_shaded() -> None:
    masked = Trace("intensity", "dB", CURVE, CURVE, during=((0.2, 0.4),))
    assert len(drawn(masked).patches) == 2
    assert len(drawn(Trace("intensity", "dB", CURVE, CURVE)).patches) == 0


def test_pictures_hold_every_panel(tmp_path: Path) -> None:
    mel = torch.zeros(160, 86)
    panels = [Trace("intensity", "dB", CURVE, CURVE), CHROMA, MATRIX, REGION]
    clip_picture(tmp_path / "clip.png", mel, SPEC, panels, [3.0, 2.0], "all")
    edit_picture(
        tmp_path / "edit.png", mel, SPEC, [(0.2, 0.5)], [[2.0, 1.0], []], "edit", before=mel
    )
    edit_picture(tmp_path / "loop.png", mel, SPEC, [(0.2, 0.5)], [], "loop")
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.png"))) == 3
