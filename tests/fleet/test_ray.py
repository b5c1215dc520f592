"""Batches on a Ray cluster of two local nodes: every row and the same sound, whatever is killed.
Data sets and benchmarks, too, are what one process makes.

The command on a cluster is in `test_scripts`.
"""

import json
import signal
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
import torch
from benchmarks.tasks import Bench
from safetensors.torch import load_file
from tests.benchmarks.conftest import classifier, data, model
from tests.benchmarks.test_main import call, common, figures
from tests.composer.test_corpus import contents
from tests.conftest import Command
from tests.fleet.batches import differences, kill_in_the_middle, make, wishes
from tests.fleet.nodes import NoClusterError, Nodes, refuse, started, whoami

from ditto.errors import WorkerError
from ditto.models.model import MusicModel
from ditto.workers import work

pytest.importorskip("ray", reason="Ray is not installed: ditto-music[fleet]")
__all__ = ["call", "classifier", "common", "data", "model"]

TIMES = {"seconds", "seconds_per_clip", "seconds_per_step"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes of two cores each."""
    try:
        with started() as found:
            yield found
    except NoClusterError as error:
        pytest.skip(str(error))


def test_jobs_are_done_on_all_nodes_and_their_errors_raised(nodes: Nodes) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="not 1"):
        list(work([1], refuse, workers=1, ray=nodes.address))
    assert signal.getsignal(signal.SIGTERM) is handler
    seen: set[tuple[str, int]] = set()
    last = time.monotonic() + 120
    jobs = work(
        repeat(0.1),
        whoami,
        ray=nodes.address,
        ended=lambda: len(seen) == 4 or time.monotonic() > last,
    )
    for done in jobs:
        assert done.outcome is not None
        seen.add(done.outcome)
    assert len({node for node, _ in seen}) == 2
    assert len({process for _, process in seen}) == 4


def test_a_composed_data_set_is_what_one_process_makes(
    nodes: Nodes, soundfont: Path, composed: Path, ditto_music: Command
) -> None:
    words = ("data", "compose", "--count", 2, "--soundfont", soundfont)
    code, _, err = ditto_music(*words, "--out", "ray", "--ray", nodes.address, "--workers", 1)
    assert code == 0, err
    alone, ours = contents(composed), contents(Path("ray"))
    assert json.loads(ours.pop("dataset.json"))["count"] == 2
    labels = ours.pop("labels.jsonl").splitlines()
    assert labels == alone["labels.jsonl"].splitlines()[:2]
    assert len(ours) == 2
    assert ours == {name: alone[name] for name in ours}


def test_a_benchmarks_clips_are_what_one_process_makes(
    nodes: Nodes, call: Command, common: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files are relative to this process's folder, which is not that of Ray's."""
    made = []
    real = Bench._make
    monkeypatch.setattr(Bench, "_make", lambda *words: made.append(words) or real(*words))
    words = ("d1-table6", *common, "--count", 2, "--rows", "DITTO (MSE")
    for name, more in (("ray", ("--ray", nodes.address, "--workers", 1)), ("one", ())):
        code, _, err = call(*words, *more, "--out", name, "--cache", f"{name}-clips")
        assert code == 0, err
        assert len(made) == (0 if name == "ray" else 2)  # none of them here, where Ray made them
    clips = [sorted(Path(f"{name}-clips").iterdir()) for name in ("ray", "one")]
    assert [len(each) for each in clips] == [2, 2]
    for ours, theirs in zip(*(map(load_file, each) for each in clips), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - TIMES:
            assert torch.equal(ours[name], theirs[name]), name
    assert figures(Path("ray"), "d1-table6") == figures(Path("one"), "d1-table6")


def test_a_killed_worker_and_a_killed_node_cost_no_row(
    nodes: Nodes, tiny_model: MusicModel, tmp_path: Path
) -> None:
    requests = wishes(24)
    kill_in_the_middle(nodes, tiny_model, requests, tmp_path / "ray", places=(4, 10))
    make(tiny_model, requests, tmp_path / "one")
    assert differences(tmp_path / "ray", tmp_path / "one", len(requests)) == []


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "refused"), ("nonsense", "HOST:PORT"), ("host:", "HOST:PORT")],
)
def test_where_there_is_no_cluster(address: str, why: str) -> None:
    with pytest.raises(WorkerError, match=f"there is no Ray cluster at {address}.*{why}") as caught:
        list(work([1], refuse, ray=address))
    assert "\n" not in str(caught.value)
