"""A tiny model, and a data folder of short synthetic pieces, for the benches' tests."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from benchmarks.cache import ResultCache
from benchmarks.measures import Judge
from benchmarks.targets import Targets
from benchmarks.tasks import Bench
from benchmarks.variants import Models
from tests.conftest import randomised

from ditto.audio.spec import AudioSpec
from ditto.eval.classifier import ClipClassifier
from ditto.models.conditioning import TagVocabulary
from ditto.models.controlnet import ControlAdapter
from ditto.models.hub import load
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.student import Student
from ditto.models.transformer import PatchTransformer
from ditto.models.vocoder import Vocoder

GENRES, MOODS = ("jazz", "rock"), ("happy", "sad", "calm")
SPEC = AudioSpec(clip_frames=96)


@pytest.fixture(scope="session")
def model() -> MusicModel:
    """A model of random weights that knows 2 genres, 3 moods and 12 tempi; 1.1 s clips."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PatchTransformer(width=32, depth=1, heads=2, tag_sizes=(3, 4, 13))
        torch.nn.init.normal_(network.head.weight, std=0.05)
        vocoder = Vocoder(width=16, depth=1)
    parts = [part.requires_grad_(False).eval() for part in (network, vocoder)]
    return MusicModel(parts[0], parts[1], SPEC, TagVocabulary(GENRES, MOODS), guidance=1.5)


@pytest.fixture(scope="session")
def fast(model: MusicModel, tmp_path_factory: pytest.TempPathFactory) -> MusicModel:
    """The tiny model with a CTM student of random weights, saved and loaded."""
    network = PatchTransformer(
        width=32, depth=1, heads=2, tag_sizes=(3, 4, 13), guidance_embedded=True
    )
    network.load_state_dict({**network.state_dict(), **model.network.state_dict()})
    student = Student(
        network.requires_grad_(False).eval(), "ctm", (1.0, 5.0), hash_weights(model.network)
    )
    folder = tmp_path_factory.mktemp("model") / "fast"
    replace(model, distilled=student).save(folder)
    return load(folder)


@pytest.fixture(scope="session")
def classifier() -> ClipClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = ClipClassifier(genres=2, moods=3, width=16, embedding=8)
    return found.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pieces of 2.5 s, two clips each: noise bursts at a tempo."""
    return write_pieces(tmp_path_factory.mktemp("heldout"), 6)


def write_pieces(root: Path, count: int) -> Path:
    """Write a data folder of pieces of 2.5 s, two clips each."""
    (root / "audio").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        tempo, seconds = 65.0 + 15 * (i % 6), 2.5
        samples = int(seconds * SPEC.sample_rate)
        beat = np.arange(samples) / SPEC.sample_rate * tempo / 60 % 1
        audio = 0.2 * rng.standard_normal(samples) * np.exp(-6 * beat)
        file = root / "audio" / f"{i:06d}.flac"
        soundfile.write(file, audio, SPEC.sample_rate)
        lines.append(
            {
                "file": f"audio/{file.name}",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "seconds": seconds,
                "genre": GENRES[i % 2],
                "mood": MOODS[i % 3],
                "tempo": tempo,
            }
        )
    (root / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "kind": "composed",
        "count": count,
        "sample_rate": SPEC.sample_rate,
        "genres": GENRES,
        "moods": MOODS,
        "tempo_range": [60.0, 180.0],
    }
    (root / "dataset.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="session")
def whole(model: MusicModel) -> MusicModel:
    """The tiny model with a CTM student and a ControlNet of random weights."""
    network = PatchTransformer(
        width=32, depth=1, heads=2, tag_sizes=(3, 4, 13), guidance_embedded=True
    )
    network.load_state_dict({**network.state_dict(), **model.network.state_dict()})
    network.requires_grad_(False).eval()
    student = Student(network, "ctm", (1.0, 5.0), hash_weights(model.network))
    adapter = randomised(ControlAdapter.of(model.network, 1))  # pyright: ignore[reportArgumentType]
    return replace(model, distilled=student, controlnet=adapter)  # pyright: ignore[reportArgumentType]


QUICK = {"steps": 2, "iterations": 2, "lr": 0.05, "guidance": 1.0}


@pytest.fixture(scope="session")
def bench(whole: MusicModel, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Clips of two iterations that many tests share."""
    cache = ResultCache(tmp_path_factory.mktemp("clips"))
    return Bench(Models(whole), Targets(whole, data), cache, overrides=QUICK, show=False)


@pytest.fixture(scope="session")
def judge(bench: Bench, classifier: ClipClassifier) -> Judge:
    return Judge(bench.models.model, bench.targets, classifier=classifier)
