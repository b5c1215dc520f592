"""Batches on a Ray cluster of two local nodes: every row and the same sound, whatever is killed.

The command on a cluster is in `test_scripts`.
"""

import signal
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from tests.fleet.batches import differences, kill_in_the_middle, make, wishes
from tests.fleet.nodes import NoClusterError, Nodes, refuse, started, whoami

from ditto.errors import WorkerError
from ditto.models.model import MusicModel
from ditto.workers import work

pytest.importorskip("ray", reason="Ray is not installed: ditto-music[fleet]")


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
