"""The panels of controls and edits: what they draw, checked on matplotlib's own objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ditto import plots
from ditto.audio.spec import AudioSpec
from ditto.panels import ChromaPanel, CurvePanel, MatrixPanel, Panel, RegionPanel, Spans
from ditto.plots import clip_picture, draw_panel, edit_picture

SPEC = AudioSpec()
CURVE = np.linspace(-30, -20, 86)
CHROMA = ChromaPanel(
    title="melody", shares=np.full((12, 86), 1 / 12), target=np.array([-1] * 40 + [7] * 46)
)
MATRIX = MatrixPanel(title="structure", target=np.eye(86), achieved=np.zeros((86, 86)))
REGION = RegionPanel(title="outpaint", target=np.zeros((160, 86)), spans=((0, 10), (40, 50)))


def loudness(during: Spans = ()) -> CurvePanel:
    return CurvePanel(title="intensity", unit="dB", target=CURVE, achieved=CURVE, during=during)


def drawn(panel: Panel):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_panel(panel, axes, SPEC)
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
    assert len(drawn(loudness(((0.2, 0.4),))).patches) == 2
    assert len(drawn(loudness()).patches) == 0
    assert len(drawn(loudness(((0.0, 0.2), (0.5, 0.7)))).patches) == 2
    for spans, outside in (
        (((0.0, 0.6), (0.1, 0.2)), (0.6, SPEC.seconds(86))),  # a span within another
        (((0.3, 0.6), (0.5, 9.0)), (0.0, 0.3)),
        (((8.0, 9.0),), (0.0, SPEC.seconds(86))),
    ):
        (grey,) = drawn(loudness(spans)).patches
        ends = grey.get_patch_transform().transform([[0, 0], [1, 1]])[:, 0]
        assert tuple(ends) == pytest.approx(outside)


def test_a_panel_of_another_kind_is_refused_until_it_has_a_drawing() -> None:
    class Dots(Panel):
        """A panel of someone else's."""

    with pytest.raises(TypeError, match="no drawing for a Dots"):
        drawn(Dots(title="dots"))
    draw_panel.register(Dots, lambda panel, axes, spec: axes.plot([0, 1], [0, 1]))
    assert len(drawn(Dots(title="dots")).lines) == 1


def test_the_clip_without_control_is_drawn_small_beside_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_on = []
    monkeypatch.setattr(plots, "_save", lambda figure, path, force: drawn_on.append(figure))
    mels = torch.zeros(160, 86), torch.full((160, 86), -0.5)
    for uncontrolled, chosen in ((None, False), (mels[1], False), (mels[1], True)):
        clip_picture(
            tmp_path / "clip.png",
            mels[0],
            SPEC,
            panels=[loudness()],
            losses=[2.0, 1.0],
            title="both",
            uncontrolled=uncontrolled,
            candidate=7 if chosen else None,
        )
    without, beside, of_chosen = drawn_on
    assert [axes.get_title() for axes in without.axes].count("without control") == 0
    assert "candidate 7 without control" in [axes.get_title() for axes in of_chosen.axes]
    (small,) = [axes for axes in beside.axes if axes.get_title() == "without control"]
    large = beside.axes[0]
    np.testing.assert_allclose(small.images[0].get_array(), (-0.5 - 1) * 80)
    np.testing.assert_allclose(large.images[0].get_array(), -80)
    beside.canvas.draw()
    assert 0 < small.get_position().width < large.get_position().width / 2
    assert small.get_position().y0 == pytest.approx(large.get_position().y0, abs=0.02)


def test_pictures_hold_every_panel(tmp_path: Path) -> None:
    mel = torch.zeros(160, 86)
    panels = [loudness(), CHROMA, MATRIX, REGION]
    losses = [3.0, 2.0]
    path = tmp_path / "clip.png"
    clip_picture(path, mel, SPEC, panels=panels, losses=losses, title="all")
    edit_picture(
        tmp_path / "edit.png", mel, SPEC, [(0.2, 0.5)], [[2.0, 1.0], []], "edit", before=mel
    )
    edit_picture(tmp_path / "loop.png", mel, SPEC, [(0.2, 0.5)], [], "loop")
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize("losses", [[90.0, 3.0, 0.04], [0.9, 0.5, 0.3]])
def test_a_losses_numbers_are_written_as_numbers(
    losses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = plots._save

    def noted(figure: Figure, path: Path, force: bool) -> None:
        figures.append(figure)
        save(figure, path, force)

    monkeypatch.setattr(plots, "_save", noted)
    plots.loss_picture(tmp_path / "loss.png", {"loss": ([0, 1, 2], losses)}, "a run")
    (axes,) = figures[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
    numbers = [float(label) for label in labels if label]
    assert numbers
    assert min(losses) / 100 < min(numbers) < max(numbers) < 100 * max(losses)
