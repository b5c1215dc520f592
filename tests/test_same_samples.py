"""The same seeds give the same samples as before the rebuild of methods and controls.

``golden/samples_v01.safetensors`` was made by version 0.1 at commit e369dfa with the embedded
model: every 97th sample as int16, one thread, bfloat16. On a CPU with the instructions of the one
that made it (AVX-512's for bfloat16, no AMX), samples are equal to within two steps of the last
bit, with the rotary embedding rounded as it was then: it has since been fused for training, which
changes the last bits of bfloat16. Elsewhere, or with the fused embedding, the optimisation makes
such differences grow; the controls' errors are then still those of 0.1 to within 8 %, and the
loudness to within 15 %.

To be dropped, with its golden file, when the next model ships.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

import ditto
from ditto.methods.ditto2 import Ditto2
from ditto.methods.guidance import FreeDoM
from ditto.methods.none import Uncontrolled
from ditto.models import transformer
from ditto.models.model import MusicModel

OLD = load_file(Path(__file__).parent / "golden" / "samples_v01.safetensors")
MELODY = ditto.Melody.from_notes("C4:1 E4:1 G4:2")
NEW = {
    "none": ditto.Request(method=Uncontrolled(steps=4)),
    "ditto2": ditto.Request(ditto.Intensity("crescendo"), iterations=12, count=2),
    "ditto2-adaptive": ditto.Request(
        ditto.Intensity("swell"),
        iterations=8,
        method=Ditto2(surrogate_steps="adaptive", decode_steps=4),
    ),
    # Since then estimates have taken the fast vocoder's place.
    "ditto2-melody": ditto.Request(MELODY, iterations=6, method=Ditto2(hear="draft")),
    "ditto2-structure": ditto.Request(
        ditto.Structure("ABA"), iterations=6, method=Ditto2(hear="draft")
    ),
    "freedom": ditto.Request(ditto.Intensity("crescendo"), method=FreeDoM(steps=6)),
}


ERRORS = {
    "none": {},
    "ditto2": {"intensity_mse_db2": [3.334567, 2.406196], "intensity_rho": [0.969204, 0.964597]},
    "ditto2-adaptive": {"intensity_mse_db2": [3.174862], "intensity_rho": [0.951068]},
    "ditto2-melody": {"melody_accuracy_percent": [75.144508], "melody_nll": [0.924303]},
    "ditto2-structure": {"structure_mse": [0.052788]},
    "freedom": {"intensity_mse_db2": [5.863881], "intensity_rho": [0.931867]},
}


def rounds_as_then() -> bool:
    """Whether the CPU has the instructions for bfloat16 of the one that made the golden file."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """The rotary embedding as version 0.1 rounded it in bfloat16; training's is fused since."""
    (cosine, sine), (a, b) = rotation, x.unflatten(-1, (heads, 2, -1)).unbind(dim=-2)
    cosine, sine = cosine.to(x.dtype)[:, None], sine.to(x.dtype)[:, None]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1).flatten(-2)


@pytest.fixture(scope="module")
def model() -> Iterator[MusicModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield replace(ditto.load(), precision=torch.bfloat16)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NEW)
def test_samples_are_those_of_version_0_1(
    model: MusicModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rounds_as_then():
        monkeypatch.setattr(transformer, "rotate", rotate)
    # Batches shared their arithmetic then.
    for module in ("runner", "result"):
        monkeypatch.setattr(f"ditto.{module}.one_by_one", lambda *_: False)
    request = replace(NEW[name], tags=ditto.Tags("jazz", "calm", 110), seed=7, seconds=2.0)
    old = OLD[name].astype(np.int32)
    made = ditto.run(request, model)
    assert set(made.errors) == set(ERRORS[name])
    for error, expected in ERRORS[name].items():
        np.testing.assert_allclose(made.errors[error], expected, rtol=0.08)
    new = np.round(made.audio.numpy()[:, ::97] * 32767).astype(np.int32)
    assert new.shape == old.shape
    if rounds_as_then():
        assert np.abs(new - old).max() <= 2
    loudness = np.sqrt((new**2).mean(axis=1) / (old**2).mean(axis=1))
    np.testing.assert_allclose(loudness, 1, atol=0.15)
