"""Eight clients with twenty-five small jobs each, by Gradio's own client."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.studio.conftest import start

CLIENTS, JOBS = 8, 25


@pytest.mark.slow
def test_eight_clients_get_all_their_clips(model_folder: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("gradio_client")
    process, studio = start(tmp_path, "--model", model_folder)

    def one(number: int) -> list[str]:
        connected, sounds = client.Client(studio.address, verbose=False), []
        for job in range(JOBS):
            seed = 100 * number + job
            clip = connected.predict(
                loudness="swell", seed=seed, iterations=1, api_name="/generate"
            )
            assert f"Seed {seed}," in clip["title"]
            sounds.append(clip["sound"])
        with pytest.raises(client.exceptions.AppError, match="unknown genre 'polka'"):
            connected.predict(tags="genre=polka", api_name="/generate")
        return sounds

    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            made = [sound for sounds in pool.map(one, range(CLIENTS)) for sound in sounds]
        assert len(set(made)) == CLIENTS * JOBS
        assert "Traceback" not in studio.lines()
    finally:
        process.terminate()
        process.wait(timeout=30)
