"""A slice of the campaign; the whole of it is ``make campaign``. A failure names kind and seed."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaign.mutations import STRUCTURED, mutated
from tests.campaign.trials import TRIALS, attempt
from tests.campaign.world import World, digest

CHILDREN = ("checkpoint", "two at once", "full disk", "kill")
"""Kinds that fork: they have a process without pytest's threads."""
FIRST = int(os.environ.get("CAMPAIGN_SEED", "0"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("campaign") / "world")


@pytest.mark.xdist_group("campaign")
@pytest.mark.parametrize("kind", [kind for kind in TRIALS if kind not in CHILDREN])
def test_a_slice(world: World, kind: str) -> None:
    for seed in range(FIRST, FIRST + 12):
        try:
            attempt(world, kind, seed)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}") from error


@pytest.mark.xdist_group("campaign")
def test_inputs_that_are_not_changed_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise that a changed one is refused would say nothing."""
    monkeypatch.setattr("tests.campaign.trials.mutated", lambda rng, content, ending: content)
    for kind, (trial, _) in TRIALS.items():
        if trial.__qualname__.startswith("mutated_file"):
            assert attempt(world, kind, 0) == "read", kind


def test_of_a_training_the_newest_weights_are_to_be_equal(tmp_path: Path) -> None:
    """One that was stopped in step 5 keeps those of 5 and 6, one that was not those of 4 and 6."""

    def run(name: str, **weights: str) -> dict[str, str]:
        for step, content in weights.items():
            place = tmp_path / name / f"step-{step[1:]:0>8}" / "ema.safetensors"
            place.parent.mkdir(parents=True)
            place.write_text(content)
        return digest(sorted((tmp_path / name).rglob("*.safetensors")))

    whole = run("whole", s4="four", s6="six")
    assert run("stopped", s5="five", s6="six") == whole
    assert run("other", s5="five", s6="another six") != whole


def test_changed_structures_are_still_such(world: World) -> None:
    for name, content in world.inputs.items():
        ending = Path(name).suffix
        if ending in STRUCTURED:
            changed = [mutated(random.Random(seed), content, ending) for seed in range(20)]
            assert len({*changed, content}) > 5, name


def test_kills_two_at_once_and_full_disks() -> None:
    words = [word for kind in CHILDREN for word in ("--only", kind)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", "--share", "0.015", "--seed", str(FIRST), *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
