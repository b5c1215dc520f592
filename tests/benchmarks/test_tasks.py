"""Clips: what a request makes, alone and in batches, shared and kept."""

from dataclasses import replace

import pytest
import torch
from benchmarks.cache import ResultCache
from benchmarks.tasks import CONTROLS, FIXED, FREE, PLAIN, Bench, pcm, sound
from benchmarks.variants import CTM, DITTO, DOODL, PUBLISHED_CTM, TTM

from ditto.controls.intensity import Intensity
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2
from ditto.request import Request
from ditto.runner import run


def afresh(bench: Bench, folder, **changes) -> Bench:
    return replace(bench, cache=ResultCache(folder), **changes)


def test_a_clip_is_what_a_request_makes(bench):
    clip = bench.some(CONTROLS["intensity"], DITTO, [2])
    control = Intensity(bench.targets.curve(2))
    method = Ditto(steps=2, lr=0.05, checkpointing=False)
    tags = bench.targets.tags(2)
    request = Request([control], tags, seed=2, guidance=1.0, iterations=2, method=method)
    expected = run(request, bench.models.model)
    error = expected.errors["intensity_mse_db2"].item()
    assert clip["intensity_mse_db2"].item() == pytest.approx(error, rel=1e-4)
    torch.testing.assert_close(sound(clip["audio"]), expected.audio, atol=2e-4, rtol=0)
    torch.testing.assert_close(sound(pcm(expected.audio)), expected.audio, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", [TTM, DITTO, DOODL, CTM, PUBLISHED_CTM])
def test_a_batch_makes_what_its_clips_are_alone(bench, tmp_path, variant):
    alone = bench.clips(CONTROLS["loudness"], variant, 3)
    batch = afresh(bench, tmp_path, batch=2).clips(CONTROLS["loudness"], variant, 3)
    difference = (batch["audio"].float() - alone["audio"].float()).abs().mean()
    assert difference < 20
    name = "intensity_mse_db2"
    torch.testing.assert_close(batch[name], alone[name], rtol=1e-2, atol=1e-3)
    assert set(batch) == set(alone)
    assert (batch["seconds_per_clip"] > 0).all()


def test_what_only_decodes_otherwise_shares_an_optimisation(bench, tmp_path):
    fresh = afresh(bench, tmp_path)
    more = PUBLISHED_CTM.with_(decode_steps=4)
    clip = fresh.some(CONTROLS["loudness"], more, [0])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    fresh.some(CONTROLS["loudness"], PUBLISHED_CTM.with_(decode_steps=1), [0])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    curve, tags = bench.targets.loudness(0)
    method = Ditto2(decode_steps=4, corrections=0, lr=0.05)
    request = Request([Intensity(curve)], tags, guidance=1.0, iterations=2, method=method)
    expected = run(request, bench.models.model)
    torch.testing.assert_close(sound(clip["audio"]), expected.audio, atol=2e-4, rtol=0)
    assert CTM.optimised_alike() is None


def test_a_chain_can_decode_what_a_shorter_one_optimised(bench, tmp_path):
    variant = DITTO.with_(through=Ditto(steps=1))
    clip = afresh(bench, tmp_path, overrides={"iterations": 2}).some(PLAIN, variant, [0])
    assert "x_T" not in clip  # nothing to optimise
    clip = afresh(bench, tmp_path, overrides={"iterations": 2})
    long = clip.some(CONTROLS["loudness"], variant, [0])
    short = clip.some(CONTROLS["loudness"], DITTO.with_(method=Ditto(steps=1)), [0])
    assert torch.equal(long["x_T"], short["x_T"])
    assert not torch.equal(long["audio"], short["audio"])


def test_other_settings_never_meet_old_clips(bench):
    def path(changed=bench, task=CONTROLS["intensity"], variant=DITTO, i=0):
        return changed._path(task, variant, i, 1)

    paths = [
        path(),
        path(i=1),
        path(replace(bench, overrides={"iterations": 3})),
        path(replace(bench, threads=7)),
        path(variant=DITTO.with_(steps=50, checkpointing=True)),
        path(variant=DOODL),
        path(variant=DITTO.with_(guidance=3.0)),
        path(task=CONTROLS["melody"]),
        path(task=CONTROLS["loudness"]),
        path(task=CONTROLS["loudness, mel"]),
        path(variant=PUBLISHED_CTM.with_(through=Ditto())),
    ]
    assert len(set(paths)) == len(paths)
    assert path(variant=DITTO.with_(name="a name says nothing of a clip")) == path()


def test_more_clips_leave_the_first_as_they_are(bench):
    two = bench.clips(CONTROLS["intensity"], TTM, 2)
    three = bench.clips(CONTROLS["intensity"], TTM, 3)
    assert torch.equal(two["audio"], three["audio"][:2])


def test_a_shared_x_T_is_seen_in_the_variance(bench):
    fixed, free = (bench.clips(task, TTM, 2) for task in (FIXED, FREE))
    # A model that hardly hears its tags makes nearly the same of one x_T.
    assert (fixed["intensity_variance"] < free["intensity_variance"]).all()
