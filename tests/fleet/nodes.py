"""A Ray cluster of several nodes on this machine, by ``ray start`` once for each."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
SECONDS = 180.0
"""A node that is not there by then has not started."""
MEMORY = 80_000_000
"""Bytes of a node's shared memory, hardly more than the least that Ray takes."""


class NoClusterError(Exception):
    """Ray does not start on this machine."""


@dataclass(frozen=True)
class Nodes:
    """A cluster that runs.

    Attributes:
        address: of its head.
        nodes: the process that each node's others are children of, the head's first.
    """

    address: str
    nodes: Sequence[subprocess.Popen[str]]

    def workers(self, node: int) -> list[int]:
        """Return the processes of a node that do a batch's jobs."""
        found = _family(self.nodes[node].pid)
        return [each.pid for each in found if _name(each).startswith("ray::_RayActor")]

    def kill(self, node: int) -> None:
        """Kill all processes of a node, as when its machine loses power."""
        _kill(self.nodes[node])


@contextmanager
def started(nodes: int = 2, cores: int = 2) -> Iterator[Nodes]:
    """Start a cluster for the block, and leave no process behind.

    Raises:
        NoClusterError: it does not start, for instance where there are no local sockets.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    size = ["--num-cpus", str(cores), "--num-gpus", "0", "--object-store-memory", str(MEMORY)]
    # Short, since the names of sockets are: below pytest's folders they would be too long.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    head = [*size, "--head", "--port", str(port), "--include-dashboard=false"]
    head += ["--temp-dir", str(folder)]
    running: list[subprocess.Popen[str]] = []
    try:
        running.append(_begin(head, folder / "head"))
        _wait(running[0], folder / "head", lambda: _answers(port))
        more = [folder / f"node-{number}" for number in range(1, nodes)]
        running += [_begin([*size, "--address", address], said) for said in more]
        for node, said in zip(running, [folder / "head", *more], strict=True):
            _wait(node, said, lambda said=said: "Ray runtime started" in said.read_text())
        yield Nodes(address, running)
    finally:
        for node in reversed(running):
            _kill(node)
        shutil.rmtree(folder, ignore_errors=True)


def _begin(options: list[str], said: Path) -> subprocess.Popen[str]:
    """Begin to start a node, which writes what it says to a file."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    quiet["RAY_worker_niceness"] = "0"  # as all the rest of a test
    quiet["RAY_agent_register_timeout_ms"] = str(int(1000 * SECONDS))  # on a machine that is busy
    with said.open("w") as out:
        return subprocess.Popen(
            [*START, *options], env=os.environ | quiet, stdout=out, stderr=out, text=True
        )


def _wait(node: subprocess.Popen[str], said: Path, ready: Callable[[], bool]) -> None:
    before = time.monotonic()
    while not ready():
        if node.poll() is not None or time.monotonic() > before + SECONDS:
            last = ["it said nothing", *filter(str.strip, said.read_text().splitlines())][-1]
            raise NoClusterError(f"`ray start` fails here: {last}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _kill(node: subprocess.Popen[str]) -> None:
    """Kill a process and its descendants, and wait for their end."""
    family = _family(node.pid)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    node.wait()
    psutil.wait_procs(family, timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return (process.cmdline() or [""])[0]
    return ""


def whoami() -> Callable[[float], tuple[str, int]]:
    """Begin jobs that take so many seconds, and tell their node and process."""
    import ray

    def do(job: float) -> tuple[str, int]:
        time.sleep(job)
        return ray.get_runtime_context().get_node_id(), os.getpid()

    return do


def refuse() -> Callable[[int], None]:
    """Begin jobs that fail."""

    def do(job: int) -> None:
        raise ValueError(f"not {job}")

    return do
