"""README, docs and docstrings: every snippet is read out of the page and run, every link leads
somewhere.

Snippets run as they are printed, in an empty folder that holds a recording, a tune, a curve and a
file of requests under the names that the pages use. The work alone is not the printed one:
where a snippet gives none, controls ask for `K` iterations by every method, and for two noises
where they begin at the best of many.

A block that cannot run has ``<!-- not run: reason -->`` on the line above it, and a page may hold
no other reason than `REASONS`; its command lines are parsed nevertheless.
"""

import ast
import contextlib
import doctest
import importlib.util
import json
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any
from unittest import mock

import mido
import numpy as np
import pytest
import soundfile
import typer

import ditto
from ditto import cli
from ditto.controls.base import Control
from ditto.controls.weights import corrected_effort, default_iterations
from ditto.models.hub import KINDS
from ditto.models.profile import CARDS, GIB, Cost

K = 1
ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SOURCES = sorted((ROOT / "src" / "ditto").rglob("*.py"))
REASONS = (
    "installs the package",
    "needs weights that the package does not carry",
    "needs a data set",
    "takes hours",
    "runs the tests",
    "serves until it is stopped",
    "sketch",
)
SKETCHES = {"ditto/training/run.py": "the loop of a training, without its data and loss"}
RESULTS = {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
BENCHMARKS = RESULTS | {"all", "sounds", "d1-table4", "gpu"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.*?) -->\n\Z")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: its file.
        line: of its first line within the page.
        language: "python", "sh", or another.
        text: of the block.
        reason: why it is not run, or None.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()]
        mark = _MARK.search(before)
        line = before.count("\n") + 2
        found.append(Block(page, line, fence[1], fence[2], mark[1] if mark else None))
    return found


def commands(block: Block) -> list[list[str]]:
    """Return the command lines of a block, as words."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of(language: str, *, run: bool = True) -> list[Any]:
    """Return the pages that hold blocks of a language which run (or do not), as parameters."""
    kept = {
        page: [b for b in blocks(page) if b.language == language and (b.reason is None) is run]
        for page in PAGES
    }
    return [pytest.param(found, id=page.name) for page, found in kept.items() if found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for what pages call song, tune, curve and requests; K is small."""
    monkeypatch.chdir(tmp_path)
    time = np.arange(int(6.4 * 22_050)) / 22_050
    beats = np.exp(-6 * (time % 0.5))
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220.0, 277.2, 329.6))
    for name in ("song.wav", "song.mp3", "song.flac"):
        soundfile.write(name, 0.15 * beats * tones, 22_050)
    track = mido.MidiTrack()
    for pitch in (60, 64, 67, 64):
        track.append(mido.Message("note_on", note=pitch, velocity=80))
        track.append(mido.Message("note_off", note=pitch, time=480))
    mido.MidiFile(tracks=[track]).save("tune.mid")
    Path("curve.csv").write_text("seconds,dB\n0,-36\n3,-14\n5.9,-30\n")
    (requests,) = (b.text for b in blocks(ROOT / "docs" / "scale.md") if b.language == "json")
    Path("requests.jsonl").write_text(requests)
    kinds, known = [Control], {Control}
    while kinds:
        kind = kinds.pop()
        if "iterations" in vars(kind):
            monkeypatch.setattr(kind, "iterations", K)
        if "corrected" in vars(kind):
            effort, noises = kind.corrected, min(2, kind.corrected.candidates)
            quick = replace(effort, iterations=K, candidates=noises)
            monkeypatch.setattr(kind, "corrected", quick)
        kinds += [sub for sub in kind.__subclasses__() if sub not in known]
        known.update(kinds)
    assert default_iterations(()) == corrected_effort(()).iterations == K
    return tmp_path


@contextlib.contextmanager
def no_old_names() -> Iterator[None]:
    """Fail where a snippet uses what will be removed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*will be removed", DeprecationWarning)
        yield


def execute(code: str, where: str, line: int, names: dict[str, Any]) -> None:
    """Run Python so that errors name the page's line."""
    with no_old_names(), contextlib.redirect_stdout(sys.stderr):
        exec(compile("\n" * (line - 1) + code, where, "exec"), names)


def parsed_only() -> Any:
    """Let command lines be parsed and checked, but do nothing."""
    return mock.patch.object(typer.core.TyperCommand, "invoke", return_value=None)


def command_line(words: list[str], *, run: bool = True) -> None:
    """Run a ``ditto-music`` line, or only parse it."""
    with no_old_names(), contextlib.nullcontext() if run else parsed_only():
        cli.app(words[1:], standalone_mode=False)


def check_command(words: list[str], *, run: bool) -> None:
    """Run or parse a command line of a page."""
    if words[0] == "ditto-music":
        command_line(words, run=run)
        if "--config" in words:
            name = words[words.index("--config") + 1]
            recipe = resources.files("ditto") / "training" / "recipes" / f"{name}.json"
            assert recipe.is_file(), name
    elif words[:3] == ["python", "-m", "benchmarks"]:
        assert words[3] in BENCHMARKS, words
        if importlib.util.find_spec("benchmarks.__main__") and words[3] != "sounds":
            with parsed_only():
                importlib.import_module("benchmarks.__main__").app(words[3:], standalone_mode=False)
    else:
        assert not run, f"{shlex.join(words)} is no command of Ditto's: mark its block"


@pytest.mark.parametrize("page", of("python"))
def test_the_python_of_a_page_runs(page: list[Block], folder: Path) -> None:
    names: dict[str, Any] = {}
    for block in page:
        execute(block.text, block.page.name, block.line, names)


@pytest.mark.parametrize("page", of("sh"))
def test_the_commands_of_a_page_run(page: list[Block], folder: Path) -> None:
    for block in page:
        for words in commands(block):
            check_command(words, run=True)


@pytest.mark.parametrize("page", of("sh", run=False))
def test_the_commands_that_are_not_run_are_parsed(page: list[Block]) -> None:
    for block in page:
        for words in commands(block):
            check_command(words, run=False)


@pytest.mark.parametrize("page", of("python", run=False))
def test_python_that_is_not_run_is_python(page: list[Block]) -> None:
    for block in page:
        ast.parse(block.text)


def test_every_block_runs_or_says_why_not() -> None:
    for page in PAGES:
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            assert block.language in ("python", "sh", "bibtex", "json", "text"), where
            if block.reason is not None:
                assert block.reason in REASONS, where
                print(f"not run: {where} ({block.reason})")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_to_files_and_headings(page: Path) -> None:
    def anchors(path: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
        return {heading.replace(" ", "-") for heading in kept}

    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in _LINK.findall(text):
        if target.startswith(("http", "mailto:")):
            continue
        path = page.parent / target
        assert path.exists(), target
        assert not anchor or anchor[1:] in anchors(path), target + anchor


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []


SPELT = {
    "AudioLDM2Pipeline": "AudioLDM2",
    "MusicLDMPipeline": "MusicLDM",
    "StableAudioPipeline": "Stable Audio Open",
    "StableAudio3Pipeline": "Stable Audio 3",
    "AceStepPipeline": "ACE-Step",
}


def test_the_readme_names_every_base_model_in_three_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Other base models\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in section.splitlines() if line.strip()]) == 3
    assert SPELT.keys() == KINDS.keys()
    names = re.split(r", | and ", section.strip().partition(" run through ")[0])
    assert len(names) == len(SPELT)
    for name in SPELT.values():
        assert any(found == name or found.startswith(f"{name} ") for found in names), name


def measured_memory() -> dict[str, dict[str, float]]:
    """What the committed report of memory says, GiB: row → column → value."""
    report = json.loads((ROOT / "docs" / "results" / "memory.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, float]] = {}
    for row in report["rows"]:
        found.setdefault(row["row"], {})[row["column"]] = row["value"]
    return found


ELSEWHERE = "embedded, 5.9 s", "AudioLDM2 music, 10.2 s"
"""Of the page of hardware, what the report of memory does not have."""


def test_the_page_of_hardware_has_the_committed_figures_and_what_follows_of_them() -> None:
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    table = page.partition("## Your model, your card")[2].partition("\n|---")[2]
    rows = [line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines()[1:]]
    told = {row[0].replace(" turbo", "").rpartition(", ")[0]: row[1:] for row in rows}
    report = {name.rpartition(", ")[0]: row for name, row in measured_memory().items()}
    assert told.keys() == report.keys() | set(ELSEWHERE)
    for name, row in report.items():
        weights, iteration, *cards = told[name][:5]
        figures = ", ".join(f"{row[column]:.1f}" for column in ("estimated", "low_memory"))
        assert (weights, iteration) == (f"{row['weights']:.1f}", figures), name
        cost = Cost(
            weights=int(row["weights"] * GIB),
            encoders=0,
            working=int(row["estimated"] * GIB),
            low_working=int(row["low_memory"] * GIB),
            step_seconds=0.0,
            decode_seconds=0.0,
            steps=1,
            iterations=1,
            checkpointing=True,
        )
        for size, said in zip(CARDS, cards, strict=True):
            fits = cost.fits(size)
            smaller = "--decoder-precision" in said  # weights of which the report knows nothing
            assert said.replace("`", "").removeprefix("just, ") == fits or (
                smaller and fits == "no"
            ), (name, size, fits)


def test_sounds_and_pictures_are_small() -> None:
    sounds = list((ROOT / "docs" / "audio").glob("*.mp3"))
    assert max(sound.stat().st_size for sound in sounds) <= 60_000
    assert sum(sound.stat().st_size for sound in sounds) <= 600_000
    assert (ROOT / "docs" / "picture.png").stat().st_size <= 300_000


def docstrings(source: Path) -> Iterator[tuple[str, int]]:
    """Yield the docstrings of a file with their first lines."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text, node.body[0].lineno


def examples(text: str) -> list[str]:
    """Return the Python of a docstring: its ``>>>`` lines, and its literal blocks that use Ditto.

    Formulae and listings of files are literal blocks too; an example names a class or the package.
    """
    prompted = [example.source for example in doctest.DocTestParser().get_examples(text)]
    found = ["".join(prompted)] if prompted else []
    for block in re.findall(r"::\n\n((?:(?: {4}.*)?\n|    .*\Z)+)", text + "\n"):
        code = re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
        with contextlib.suppress(SyntaxError):
            tree = ast.parse(code)
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            if used & {"ditto", *ditto.__all__}:
                found.append(code)
    return found


def source_examples() -> list[Any]:
    """Return every example of the package, as parameters, but for `SKETCHES`."""
    return [
        pytest.param(source, line, code, id=f"{source.relative_to(ROOT / 'src')}:{line}")
        for source in SOURCES
        if str(source.relative_to(ROOT / "src")) not in SKETCHES
        for text, line in docstrings(source)
        for code in examples(text)
    ]


@pytest.mark.parametrize(("source", "line", "code"), source_examples())
def test_the_examples_of_docstrings_run(source: Path, line: int, code: str, folder: Path) -> None:
    module = ".".join(source.relative_to(ROOT / "src").with_suffix("").parts)
    public = {name: getattr(ditto, name) for name in ditto.__all__}
    own = vars(importlib.import_module(module.removesuffix(".__init__")))
    execute(code, source.name, line, public | own | {"ditto": ditto, "model": ditto.load()})


def test_examples_are_found() -> None:
    text = "Say.\n\n>>> import ditto\n>>> ditto.load(\n... )\n\nOr::\n\n    ditto.load()\n\nEnd.\n"
    assert examples(text) == ["import ditto\nditto.load(\n)\n", "ditto.load()\n\n"]
    assert examples("So::\n\n    x = (1 − σ)·y\n") == []
    assert len(source_examples()) >= 4
