"""What is committed about a run: its config, its log, its loss curves, and its newest samples."""

import shutil
from pathlib import Path

from ditto.errors import DataError, OutputError
from ditto.paths import printable, reason, same_file
from ditto.plots import loss_picture
from ditto.training.loop import read_log

REPORT = ("config.json", "samples.png", "loss.png")
"""What a report consists of, beside the log."""


def write_report(run: Path, out: Path) -> list[Path]:
    """Copy config, log and the newest sample picture of `run` to `out`, and draw ``loss.png``.

    Raises:
        DataError: the run has logged nothing yet.
        OutputError: `out` cannot be written, is the run's own folder, or holds something else.
    """
    rows = read_log(run / "log.jsonl")
    if not rows or not (run / "config.json").is_file():
        raise DataError(f"{printable(run)} is not a run that has logged anything yet")
    if same_file(run, out):
        raise OutputError(f"{printable(out)} is the run itself: choose another folder")
    if not (out / "log.jsonl").is_file() and any((out / name).exists() for name in REPORT):
        raise OutputError(
            f"{printable(out)} holds files of these names that are no report: choose another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "log.jsonl"):
            shutil.copyfile(run / name, out / name)
        samples = sorted((run / "samples").glob("*.png"))
        if samples:
            shutil.copyfile(samples[-1], out / "samples.png")
    except OSError as error:
        raise OutputError(f"cannot write {printable(out)}: {reason(error)}") from None
    loss_picture(out / "loss.png", _curves(rows), f"{run.name}: {int(rows[-1]['step'])} steps")
    return sorted(out.iterdir())


def _curves(rows: list[dict[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Return ``name -> (steps, values)`` of every number that a logarithmic axis can show."""
    names = {name for row in rows for name in row} - {"step", "seconds"}
    curves = {}
    for name in sorted(names):
        points = [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0]
        if points:
            curves[name] = ([step for step, _ in points], [value for _, value in points])
    return curves
