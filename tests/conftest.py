"""Small things that many tests share: a music model of random weights that runs in milliseconds."""

import gc
import os
import re
from functools import cache
from pathlib import Path

# One thread a process: pytest-xdist has the cores already, and sums come out the same in every
# process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# librosa's compiled functions are kept in files. Two processes that write them at once may each
# read half of the other's, and crash (numba's #10128): each has a folder of its own.
os.environ["NUMBA_CACHE_DIR"] = str(
    Path(__file__).parents[1]
    / ".pytest_cache"
    / "numba"
    / os.environ.get("PYTEST_XDIST_WORKER", "")
)

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tests.tiny_soundfont import make_tiny_soundfont
from torch import nn

from ditto import cli
from ditto.audio.spec import AudioSpec
from ditto.composer.corpus import compose_dataset
from ditto.composer.render import Renderer
from ditto.models.conditioning import TagVocabulary
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.student import Student
from ditto.models.transformer import PatchTransformer
from ditto.models.vocoder import Vocoder

torch.set_num_threads(1)
# Time limits would fail on a machine that is busy with other things.
settings.register_profile("ditto", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ditto")

SPEC = AudioSpec(sample_rate=8000, n_fft=256, hop=64, n_mels=16, clip_frames=64)
VOCABULARY = TagVocabulary(("jazz", "rock", "folk"), ("calm", "happy"))

TOGETHER = {"tests/studio/test_browser.py": "studio", "tests/studio/test_examples.py": "studio"}
"""Files whose tests run in one process, since they share a studio and a browser."""
USES_LIBROSA = re.compile(r"^\s*(import|from) librosa\b", re.MULTILINE)
"""Such files' tests run in one process, too: librosa's functions take 25 s to compile in each."""

Command = Callable[..., tuple[int, str, str]]
"""Runs a command: its words to exit code, standard output and standard error."""


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.15) -> nn.Module:
    """Every parameter drawn anew: networks that begin as zero would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.requires_grad_(False).eval()


def make_network(**changes: object) -> PatchTransformer:
    settings = {
        "n_mels": 16,
        "patch": 2,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "tag_sizes": VOCABULARY.sizes,
    }
    return randomised(PatchTransformer(**settings | changes))  # pyright: ignore[reportReturnType]


def make_vocoder() -> Vocoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocoder = Vocoder(
            sample_rate=8000, mel_n_fft=256, hop=64, n_mels=16, n_fft=128, width=8, depth=1
        )
    return vocoder.requires_grad_(False).eval()


def tiny() -> MusicModel:
    """A float32 model: 16 mels, 64 frames (0.512 s at 8 kHz)."""
    return MusicModel(
        make_network(), make_vocoder(), SPEC, VOCABULARY, guidance=1.5, shift=0.5, name="tiny"
    )


@pytest.fixture(scope="session")
def tiny_model() -> MusicModel:
    """What `tiny` makes."""
    return tiny()


@pytest.fixture(scope="session")
def student_model(tiny_model: MusicModel) -> MusicModel:
    """The tiny model with a student, which like the rest of it has random weights."""
    network = make_network(guidance_embedded=True)
    return replace(
        tiny_model, distilled=Student(network, "ctm", (1.0, 5.0), hash_weights(tiny_model.network))
    )


@pytest.fixture(scope="session")
def model_folder(tiny_model: MusicModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model on disk."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model.save(folder)
    return folder


@pytest.fixture
def tiny_network() -> PatchTransformer:
    """A patch transformer of random weights in float64, for 16 mels and even numbers of frames."""
    return make_network().double()


@pytest.fixture
def ditto_music(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ditto-music", *(str(argument) for argument in arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def soundfont(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_soundfont(tmp_path_factory.mktemp("soundfont") / "tiny.sf2")


@pytest.fixture(scope="session")
def renderer(soundfont: Path) -> Renderer:
    return Renderer(soundfont)


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory, soundfont: Path) -> Path:
    """A finished training set of three pieces; read only."""
    return compose_dataset(
        tmp_path_factory.mktemp("composed") / "train", count=3, soundfonts=[soundfont]
    )


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a batch's items together, as on an accelerator; a CPU makes them one by one."""
    for module in ("runner", "result", "models.profile"):
        monkeypatch.setattr(f"ditto.{module}.one_by_one", lambda device, count: False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give out tests one by one, and those of a group to one process.

    xdist's own groups (`--dist loadgroup`) are suffixes of the tests' names, which pytest 9.2 no
    longer lets it write.
    """
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def group(file: str) -> str | None:
        if file in TOGETHER:
            return TOGETHER[file]
        text = (config.rootpath / file).read_text(encoding="utf-8")
        return "librosa" if USES_LIBROSA.search(text) else None

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.split("::")[0]) or nodeid

    return Groups(config, log)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Take what a file leaves behind, such as its imports, out of Python's search for garbage.

    Some thousand tests look through all of it again and again: a sixth of their time.
    """
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
