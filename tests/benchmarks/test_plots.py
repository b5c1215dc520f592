"""Pictures of results that can be read: what is written, and what it stands beside."""

from itertools import combinations
from typing import Any

from benchmarks.plots import scatter
from benchmarks.report import Report, Row
from matplotlib.collections import PathCollection


def budgets(points: dict[str, tuple[float, float, float]]) -> Report:
    columns = ("seconds_per_clip", "intensity_mse_db2", "frechet_distance")
    rows = [
        Row(name, column, value=value)
        for name, figures in points.items()
        for column, value in zip(columns, figures, strict=True)
    ]
    fields: dict[str, Any] = {"model": {}, "embedding": "", "seed": 0, "seconds": 0, "settings": {}}
    return Report("d2-table2", "", **fields, count=1, rows=tuple(rows), claims=())


def test_names_of_near_points_do_not_meet_and_points_are_seen() -> None:
    near = {f"CTM-1/{i} corrected": (2 + i / 50, 1 + i / 100, 0.2) for i in range(8)}
    far = {f"w=3, CTM-1/{i}": (20 + i / 10, 1 + i / 10, 0.1) for i in range(8)}
    figure = scatter(budgets({**near, **far, "alone": (6.0, 0.1, 0.4)}))
    axes = figure.axes[0]
    names = [label for label in axes.texts if label.get_text()]
    assert len(names) == 17
    extents = [label.get_window_extent() for label in names]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
    whole = axes.get_window_extent()
    assert all(whole.x0 <= extent.x0 < extent.x1 <= whole.x1 for extent in extents)
    dots = [each for each in axes.collections if isinstance(each, PathCollection)]
    sizes = [float(dot.get_sizes()[0]) for dot in dots]
    assert len(sizes) == 17
    assert min(sizes) > 20
    assert len({round(size) for size in sizes}) == 3


def test_a_table_without_figures_is_drawn_too() -> None:
    assert not scatter(budgets({})).axes[0].collections
