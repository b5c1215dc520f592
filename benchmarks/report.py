"""What a bench found, as files: NAME.json (everything), NAME.md (a table for people), NAME.png, and
the page of all.

A bench is a list of rows (figures with their confidence intervals) and of claims with verdicts.
Nothing is left out: a row that could not run says why in `error`.
"""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditto.errors import DataError, OutputError
from ditto.eval.bootstrap import Interval
from ditto.paths import atomic_file, printable

Tensors = dict[str, Tensor]
Verdict = Literal["reproduced", "not reproduced", "undecided"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        row: what was measured, e.g. a method.
        column: the figure's name.
        unit: its unit; "" for a pure number.
        value, low, high: the figure and its 95 % confidence interval; None where there is none.
        paper: what the paper reports.
        error: why there is no value.
    """

    row: str
    column: str
    unit: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    error: str | None = None

    @classmethod
    def of(
        cls, row: str, column: str, unit: str, found: Interval | float, paper: float | None = None
    ) -> "Row":
        """A row from an interval or a bare number; a value that is not finite becomes an error."""
        value, low, high = found if isinstance(found, Interval) else (found, None, None)
        if not math.isfinite(value):
            return cls(row, column, unit, paper=paper, error=f"the result is {value}")
        return cls(row, column, unit, value, _finite(low), _finite(high), paper)


@dataclass(frozen=True)
class Claim:
    """A statement that the bench was run to test: the ratio it turns on, its interval, and the
    verdict.
    """

    claim: str
    verdict: Verdict
    ratio: float
    low: float
    high: float

    @classmethod
    def at_least(cls, claim: str, ratio: Interval, border: float) -> "Claim":
        """Reproduced if the whole interval is at `border` or above, undecided if it crosses it."""
        verdict = _verdict(ratio.low >= border, ratio.high < border)
        return cls(claim, verdict, *ratio)

    @classmethod
    def at_most(cls, claim: str, ratio: Interval, border: float) -> "Claim":
        """Reproduced if the whole interval is at `border` or below."""
        verdict = _verdict(ratio.high <= border, ratio.low > border)
        return cls(claim, verdict, *ratio)


@dataclass(frozen=True)
class Report:
    """The one object of a result's JSON.

    Attributes:
        name: of the bench, and of its files.
        command: what to run to get it again.
        model: name and sha256.
        embedding: the space of Fréchet distances, or "none".
        count: clips.
        seed: of the first clip.
        seconds: what the measuring took, summed over resumed runs.
        settings: everything else that determines the figures.
        rows, claims: what was found.
        date, ditto_version, git_commit, machine: where and when.
    """

    name: str
    command: str
    model: dict[str, str]
    embedding: str
    count: int
    seed: int
    seconds: float
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ditto_version: str = field(default_factory=lambda: version("ditto-music"))
    git_commit: str | None = field(default_factory=lambda: git_commit())
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    def value(self, row: str, column: str) -> float | None:
        """The value of one figure.

        Raises:
            KeyError: the report has no such figure.
        """
        for r in self.rows:
            if (r.row, r.column) == (row, column):
                return r.value
        raise KeyError((row, column))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON, fields without a value left out of the rows."""
        first = (
            "name",
            "command",
            "date",
            "ditto_version",
            "git_commit",
            "model",
            "machine",
            "embedding",
        )
        whole = asdict(self)
        rows = [
            {key: _rounded(v) for key, v in row.items() if v is not None}
            for row in whole.pop("rows")
        ]
        claims = [{key: _rounded(v) for key, v in claim.items()} for claim in whole.pop("claims")]
        whole["seconds"] = round(self.seconds, 1)
        return {**{key: whole.pop(key) for key in first}, **whole, "rows": rows, "claims": claims}

    def write(self, out: Path, figure: Figure | None = None) -> Path:
        """Write NAME.json, NAME.md and, with a figure, NAME.png into `out`, then the page
        ``OUT.md`` beside it.

        Each file is replaced in one step; the JSON comes last. The page lists all results in `out`.

        Raises:
            OutputError: if a file cannot be written.
        """
        make_folder(out)
        if figure is not None:
            with atomic_file(out / f"{self.name}.png", force=True) as temporary:
                figure.savefig(temporary, format="png", dpi=80)
        data = self.to_json()
        _write_text(out / f"{self.name}.md", markdown(data, picture=figure is not None))
        _write_text(
            path := out / f"{self.name}.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        )
        write_page(out)
        return path


def machine() -> dict[str, Any]:
    """What the timings depend on: processor, cores that this process may use, accelerator,
    torch.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in, with "+" if tracked files differ; None
    outside one.
    """
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


class Partial:
    """Finished parts of a bench on disk, so that a killed run goes on where it stopped.

    Parts live in a folder named after everything that determines them; other settings never meet
    old parts.

    Args:
        folder: where to keep them.
        name: of the bench.
        settings: JSON of everything that determines the parts.
        batch: items in a part.
        resume: whether to use what an earlier run finished.
        show: a progress bar over the parts.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: dict[str, Any],
        *,
        batch: int,
        resume: bool = True,
        show: bool = True,
    ) -> None:
        digest = hashlib.sha256(json.dumps([settings, batch], sort_keys=True).encode()).hexdigest()[
            :16
        ]
        self.folder, self.batch, self.resume, self.show = (
            folder / f"{name}-{digest}",
            batch,
            resume,
            show,
        )
        make_folder(self.folder)

    def gathered(
        self, name: str, count: int, make: Callable[[int, int], Tensors], *, workers: int = 1
    ) -> Tensors:
        """Tensors of `count` items, batch by batch, concatenated along their first dimension.

        Args:
            name: of the parts.
            count: items.
            make: tensors of the items from `first` to before `last`.
            workers: processes that make parts side by side, sharing the threads that torch would
                use; `make` must then be picklable.

        Returns:
            What `make` returned, and ``seconds``, what each part took when it was made.
        """
        spans = [(first, min(first + self.batch, count)) for first in range(0, count, self.batch)]
        parts = map(partial(self._part, name, make), spans)
        with ExitStack() as stack:
            if workers > 1:
                parts = stack.enter_context(_pool(workers)).map(
                    partial(self._part, name, make), spans
                )
            shown_parts = track(
                parts,
                description=name,
                total=len(spans),
                disable=not self.show,
                transient=True,
                console=_console(),
            )
            found = list(shown_parts)
        return {key: torch.cat([f[key] for f in found]) for key in found[0]}

    def _part(
        self, name: str, make: Callable[[int, int], Tensors], span: tuple[int, int]
    ) -> Tensors:
        first, last = span
        return self.get(
            f"{name}-{first:04d}-{last:04d}", partial(timed, partial(make, first, last))
        )

    def get(self, key: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of one part: read if an earlier run finished it, otherwise made and saved."""
        path = self.folder / f"{key}.safetensors"
        found = self._read(path) if self.resume else None
        if found is not None:
            return found
        made = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        with atomic_file(path, force=True) as temporary:
            save_file(made, temporary)
        return made

    @staticmethod
    def _read(path: Path) -> Tensors | None:
        if not path.exists():
            return None
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{printable(path)} is damaged ({type(error).__name__}): delete it, or bench afresh"
            ) from None


def markdown(report: dict[str, Any], *, picture: bool, level: int = 1, folder: str = "") -> str:
    """One result, as `Report.to_json` gives it, as Markdown; `folder` is where its picture lies."""
    lines = [
        f"{'#' * level} {report['name']}",
        "",
        f"`{report['command']}`",
        "",
        _circumstances(report),
        "",
    ]
    lines += _table(("claim", "ratio", "verdict"), [_claim_cells(c) for c in report["claims"]])
    lines += _table(
        ("", "figure", "value", "unit", "paper"), [_row_cells(r) for r in report["rows"]]
    )
    if picture:
        lines += [f"![{report['name']}]({folder}{report['name']}.png)", ""]
    return "\n".join(lines)


def write_page(out: Path) -> Path:
    """Collect every result in `out` on one page beside the folder: ``docs/results`` gives
    ``docs/results.md``.

    Raises:
        DataError: a JSON file in the folder is not a result.
        OutputError: the page cannot be written.
    """
    parts = [
        "# Results",
        "",
        "Written by `ditto-music bench`; every figure is in the JSON files of the folder too.",
        "",
    ]
    out = out.resolve()
    for path in sorted(out.glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            picture = path.with_suffix(".png").exists()
            parts.append(markdown(report, picture=picture, level=2, folder=f"{out.name}/"))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{printable(path)} is not a bench result: {' '.join(str(error).split())}"
            ) from None
    page = out.with_name(f"{out.name}.md")
    _write_text(page, "\n".join(parts))
    return page


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {printable(path)}: {error.strerror}") from None


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes of our own, so that their number of threads is ours to set."""
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)
    )


def timed(make: Callable[[], Tensors]) -> Tensors:
    """What `make` returns, and ``seconds``, what it took, (1,)."""
    started = time.perf_counter()
    made = make()
    return made | {"seconds": torch.tensor([time.perf_counter() - started], dtype=torch.float64)}


def _console() -> Console:
    return Console(stderr=True)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _verdict(holds: bool, fails: bool) -> Verdict:
    return "reproduced" if holds else "not reproduced" if fails else "undecided"


def _circumstances(report: dict[str, Any]) -> str:
    model, where = report["model"], report["machine"]
    device = f"{where['cores']} cores of {where['cpu']}" + (
        f" and {where['gpu']}" if where["gpu"] else ""
    )
    parts = [
        report["date"][:10],
        f"ditto-music {report['ditto_version']}",
        f"commit {(report['git_commit'] or 'unknown')[:8]}",
        f"model {model['name']} ({model['sha256'][:12] or 'not saved'})",
        f"{report['count']} clips",
        f"seed {report['seed']}",
        f"{report['seconds']:.0f} s on {device}",
    ]
    return ", ".join(parts) + ". Intervals are 95 %, by bootstrap over clips."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    ] + [""]


def _claim_cells(claim: dict[str, Any]) -> list[str]:
    return [
        claim["claim"],
        _with_interval(claim["ratio"], claim["low"], claim["high"]),
        f"**{claim['verdict']}**",
    ]


def _row_cells(row: dict[str, Any]) -> list[str]:
    value = row.get("error") or _with_interval(row["value"], row.get("low"), row.get("high"))
    return [row["row"], row["column"], value, row.get("unit", ""), _short(row.get("paper"))]


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return (
        _short(value)
        if low is None or high is None
        else f"{_short(value)} ({_short(low)} – {_short(high)})"
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
