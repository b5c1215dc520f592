"""Many clients at once, by Gradio's own client: each gets its own clips, and memory stays.

`make test` runs a few; ``make crowd`` runs eight clients with twenty-five jobs each.
"""

import io
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
from tests.studio.conftest import start

CLIENTS, JOBS = (int(os.environ.get(name, few)) for name, few in (("CLIENTS", 4), ("JOBS", 2)))
GROWS = 1.15
"""At most, of the studio's memory from the first quarter of the jobs to the last one."""
IDLE_SECONDS = 3.0
LONG = 100
"""Jobs; in fewer, what is loaded at first use is the larger part of the growth."""


def resident(process: int) -> float:
    """Return the memory of a process that is in use, in MB; 0 where the system does not say."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except FileNotFoundError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def computed(process: int) -> float:
    """Return the seconds that a process has computed; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_all_clients_get_all_their_clips(model_folder: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("gradio_client")
    process, studio = start(tmp_path, "--model", model_folder)
    memory, counting = [], threading.Lock()

    def one(number: int) -> list[tuple[int, str, bytes]]:
        """Ask for clips, two clients at a time for the same ones; return seed, address, samples."""
        connected, clips = client.Client(studio.address, verbose=False), []
        for job in range(JOBS):
            seed = 100 * (number // 2) + job
            clip = connected.predict(
                loudness="swell", seed=seed, iterations=1, api_name="/generate"
            )
            assert f"Seed {seed}," in clip["title"]
            with urllib.request.urlopen(studio.address + clip["sound"]) as answer:
                samples = soundfile.read(io.BytesIO(answer.read()), dtype="int16")[0]
            assert samples.any()
            clips.append((seed, clip["sound"], samples.tobytes()))
            with counting:
                memory.append(resident(process.pid))
        with pytest.raises(client.exceptions.AppError, match="unknown genre 'polka'"):
            connected.predict(tags="genre=polka", api_name="/generate")
        return clips

    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            clips = [clip for clips in pool.map(one, range(CLIENTS)) for clip in clips]
        assert "Traceback" not in studio.lines()
        begun = computed(process.pid)
        time.sleep(IDLE_SECONDS)
        idle = computed(process.pid) - begun
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert idle < 0.04 * IDLE_SECONDS, "a studio that nobody asks anything takes a core's time"
    seeds, sounds, samples = zip(*clips, strict=True)
    count = CLIENTS * JOBS
    assert len(set(sounds)) == count
    assert len(set(seeds)) == len(set(samples)) == len(set(zip(seeds, samples, strict=True)))
    assert len(set(seeds)) == (CLIENTS + 1) // 2 * JOBS
    early, late = memory[count // 4 - 1], memory[-1]
    print(f"{count} clips; MB after {count // 4}: {early:.0f}, after {count}: {late:.0f}")
    assert count < LONG or late <= GROWS * early
