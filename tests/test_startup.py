"""Loading the embedded model imports PyTorch and little else."""

import subprocess
import sys
from pathlib import Path

SLOW = ("diffusers", "transformers", "scipy", "matplotlib", "huggingface_hub", "torch._dynamo")


def modules_after(program: str) -> set[str]:
    listing = f"{program}\nimport sys\nprint()\nprint(*sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", listing], text=True)
    return set(said.splitlines()[-1].split())


def test_loading_the_embedded_model_imports_nothing_slow() -> None:
    loaded = modules_after("import ditto; ditto.load()")
    assert {"torch", "ditto.models.model"} <= loaded
    assert loaded.isdisjoint(SLOW)


def test_the_package_alone_does_not_import_torch() -> None:
    loaded = modules_after("import ditto; assert 'generate' in dir(ditto)")
    assert "torch" not in loaded


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from ditto import *", names)
    assert {"generate", "Intensity", "Ditto2", "load"} <= names.keys()
    assert "Path" not in names


def test_optimising_imports_neither_the_compiler_nor_scipy() -> None:
    loaded = modules_after(
        "import ditto\n"
        "model = ditto.load()\n"
        "ditto.generate(model, ditto.Intensity('crescendo'), seconds=1, iterations=2)"
    )
    assert loaded.isdisjoint(SLOW)


def test_a_command_that_clap_reads_and_hears_for_imports_only_what_draws(tmp_path: Path) -> None:
    loaded = modules_after(
        "from ditto.cli import app\n"
        "words = 'generate --intensity crescendo --text jazz --seconds 2 -K 1 -o'.split()\n"
        f"app([*words, {str(tmp_path / 'out.wav')!r}], standalone_mode=False)"
    )
    assert "clap_similarity" in (tmp_path / "out.json").read_text()
    assert loaded & set(SLOW) == {"matplotlib"}
