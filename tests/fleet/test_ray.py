"""Batches on a Ray cluster of two local nodes: every row and the same sound, whatever is killed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

import ditto
from ditto.errors import WorkerError
from ditto.models.model import MusicModel
from ditto.workers import work

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Two nodes of two cores each; this machine alone reaches them."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 2, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        os.environ.clear()
        os.environ.update(before)


def whoami():
    def do(job: float) -> tuple[float, str, int]:
        time.sleep(job)
        return job, ray.get_runtime_context().get_node_id(), os.getpid()

    return do


def refuse():
    def do(job: int) -> int:
        raise ValueError(f"not {job}")

    return do


def test_a_killed_worker_and_a_killed_node_cost_no_row(
    cluster, tiny_model: MusicModel, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=80_000_000, node_ip_address="127.0.0.1")
    cluster.wait_for_nodes()
    address = cluster.address
    # As errors, and where jobs run: the driver leaves the cluster each time.
    with pytest.raises(ValueError, match="not 1"):
        list(work([1], refuse, workers=1, ray=address))
    seen = [done.outcome for done in work([0.3] * 12, whoami, ray=address)]
    assert len(seen) == 12
    assert len({where for _, where, _ in seen}) == 2
    assert len({pid for *_, pid in seen}) == 4

    requests = [
        ditto.Request(ditto.Intensity("swell"), seed=i, iterations=2, method=ditto.Ditto(steps=2))
        for i in range(60)
    ]
    settings = {"pictures": False, "compare": False}
    made = ditto.batch(tiny_model, requests, out=tmp_path / "ray", ray=address, **settings)
    for count, _ in enumerate(made, start=1):
        if count == 5:  # a worker: of those of the node that stays
            os.kill(_worker(), signal.SIGKILL)
        if count == 15:
            cluster.remove_node(node, allow_graceful=False)
    rows = [json.loads(line) for line in (tmp_path / "ray/index.jsonl").read_text().splitlines()]
    assert sorted(row["number"] for row in rows) == list(range(60))
    assert not any("error" in row for row in rows)
    for _ in ditto.batch(tiny_model, requests, out=tmp_path / "one", **settings):
        pass
    for i in range(60):
        one, other = (soundfile.read(tmp_path / place / f"{i:05d}.wav") for place in ("one", "ray"))
        assert np.array_equal(one[0], other[0])
    assert not list((tmp_path / "ray").glob(".*"))


def _worker() -> int:
    """Return the process of one of the batch's workers."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_RayActor"):
            return process.pid
    raise AssertionError("there is no worker")


def test_where_there_is_no_cluster() -> None:
    with pytest.raises(WorkerError, match="there is no Ray cluster at 127"):
        list(work([1], refuse, ray="127.0.0.1:1"))
