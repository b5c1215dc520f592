"""Clips: what a request makes, alone and in batches, shared and kept."""

from dataclasses import replace

import pytest
import torch
from benchmarks.ablation import ADAMS, GAIN, LADDER, REGULARISED, TABLE
from benchmarks.cache import ResultCache, code_digest
from benchmarks.helped import HELPED_DITTO, Helped
from benchmarks.measures import STRUCTURE, TIME, RowResult
from benchmarks.tasks import (
    CONTROLS,
    FIXED,
    FREE,
    INPAINTING,
    MUSICGEN,
    MUSICGEN_MELODY,
    OUTPAINTING,
    PLAIN,
    REUSE,
    TRIAL,
    Bench,
    _reference,
    _region,
    consecutive,
    pcm,
    sound,
)
from benchmarks.variants import CTM, DITTO, DOODL, GG, PUBLISHED_CTM, TTM, searched

from ditto.audio.features import log_mel
from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.pulls import LatentStatistics
from ditto.edit.variations import vary
from ditto.errors import DittoError
from ditto.latents import draw_x_T
from ditto.methods.corrections import CalibratedProxies, phases_of
from ditto.methods.ditto import Ditto
from ditto.methods.ditto2 import Ditto2, Surrogate
from ditto.request import Request
from ditto.runner import Run, run


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
    if variant is DOODL:  # every step of EDICT multiplies rounding, which differs by processor
        bench = replace(bench, overrides={**bench.overrides, "steps": 1})
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


def test_clips_made_together_have_their_own_seeds_whatever_is_there_already(bench, tmp_path):
    alone = bench.clips(CONTROLS["intensity"], TTM, 4)
    gap = afresh(bench, tmp_path, batch=4)
    gap.some(CONTROLS["intensity"], TTM, [1])
    filled = gap.clips(CONTROLS["intensity"], TTM, 4)
    name = "intensity_mse_db2"
    torch.testing.assert_close(filled[name], alone[name], rtol=1e-2, atol=1e-3)
    assert consecutive([0, 2, 3, 4, 5, 9], 3) == [[0], [2, 3, 4], [5], [9]]


def test_a_search_has_as_many_candidates_as_there_is_time_for(bench, tmp_path):
    fresh = afresh(bench, tmp_path)
    search = searched(PUBLISHED_CTM)
    timed = fresh.settled(CONTROLS["loudness"], search)
    task = CONTROLS["loudness"]
    other = fresh.some(task, PUBLISHED_CTM, [0])["seconds_per_clip"].item()
    trial = search.with_(as_long_as=None, count=TRIAL)
    short = fresh.some(task, trial, [0])["seconds_per_clip"].item()
    assert timed.method.count == max(1, round(TRIAL * other / short))
    clips = fresh.some(task, search, [0, 1])
    assert clips["candidates"].tolist() == [timed.method.count] * 2
    assert fresh.settled(task, search) == timed
    assert fresh.settled(task, CTM) is CTM


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


def test_times_are_of_the_clips_that_this_run_made(bench, judge, tmp_path):
    first = afresh(bench, tmp_path)
    task = CONTROLS["loudness"]
    row = RowResult(first.clips(task, PUBLISHED_CTM, 2), judge)
    assert TIME.values(row).min() > 0
    again = afresh(bench, tmp_path)
    with pytest.raises(DittoError, match="timed in another run: give --timed"):
        TIME.interval(RowResult(again.clips(task, PUBLISHED_CTM, 2), judge))
    row = RowResult(again.clips(task, PUBLISHED_CTM, 3), judge)  # one of them is new
    assert row.timed.tolist() == [False, False, True]
    assert (row.count, TIME.count(row)) == (3, 1)
    assert TIME.interval(row).value == row.tensors["seconds_per_clip"][2]
    # A new decoding of what another run optimised was not timed as a whole either.
    longer = again.clips(task, PUBLISHED_CTM.with_(decode_steps=4), 1)
    assert longer["timed"].tolist() == [0]
    alone = ResultCache(tmp_path, resume=False)
    row = RowResult(replace(bench, cache=alone).clips(task, PUBLISHED_CTM, 1), judge)
    assert TIME.values(row).min() > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_the_first_clips_are_timed_again_and_nothing_else_of_them_is_new(
    bench, tmp_path, monkeypatch, batch
):
    task, longer = CONTROLS["loudness"], PUBLISHED_CTM.with_(decode_steps=4)
    earlier = afresh(bench, tmp_path, batch=batch).clips(task, longer, 3)
    timing = afresh(bench, tmp_path, batch=batch, timed=2)
    made, make = [], Bench._make

    def counted(self, task, variant, chunk):
        made.append((variant.method.decode_steps, chunk))
        (clip,) = make(self, task, variant, chunk)
        return [clip | {"audio": torch.zeros_like(clip["audio"])}]  # as other code would make it

    monkeypatch.setattr(Bench, "_make", counted)
    clips = timing.clips(task, longer, 3)
    # Its optimisation is another variant's, so that is timed again too.
    assert made == [(4, [0]), (1, [0]), (4, [1]), (1, [1])]
    assert clips["timed"].tolist() == [1, 1, 0]
    for name in ("audio", "x_T", "losses", "intensity_mse_db2"):
        assert torch.equal(clips[name], earlier[name])
    differs = clips["seconds_per_clip"] != earlier["seconds_per_clip"]
    assert differs.tolist() == [True, True, False]
    optimised = timing.clips(task, PUBLISHED_CTM.with_(decode_steps=1), 2)
    whole = optimised["seconds_per_step"] * optimised["losses"].shape[1]
    assert (clips["seconds_per_clip"][:2] > whole).all()
    assert len(made) == 4  # once in a run


def test_what_is_new_is_timed_once(bench, tmp_path, monkeypatch):
    timing = afresh(bench, tmp_path, timed=2)
    made, make = [], Bench._make
    monkeypatch.setattr(Bench, "_make", lambda self, *job: made.append(job[2]) or make(self, *job))
    clips = timing.clips(CONTROLS["intensity"], TTM, 3)
    assert made == [[0], [1], [2]]
    assert clips["timed"].tolist() == [1, 1, 0]


def test_a_search_is_as_long_as_a_clip_that_was_timed_again(bench, tmp_path, monkeypatch):
    task, search = CONTROLS["loudness"], searched(PUBLISHED_CTM)
    afresh(bench, tmp_path).clips(task, search, 2)
    make = Bench._make

    def slowly(self, task, variant, chunk):
        seconds = 3.0 if isinstance(variant.method, Ditto2) else 2.0
        took = {"seconds_per_clip": torch.tensor([seconds], dtype=torch.float64)}
        return [clip | took for clip in make(self, task, variant, chunk)]

    monkeypatch.setattr(Bench, "_make", slowly)
    timing = afresh(bench, tmp_path, timed=1)
    clips = timing.clips(task, search, 2)
    assert clips["candidates"].tolist() == [TRIAL * 3 / 2] * 2
    assert clips["timed"].tolist() == [1, 0]
    # The next run finds the same number, and its clips.
    monkeypatch.undo()
    monkeypatch.setattr(Bench, "_make", None)
    later = afresh(bench, tmp_path).clips(task, search, 2)
    assert torch.equal(later["audio"], clips["audio"])


@pytest.mark.parametrize("folder", ["audio", "controls", "diffusion", "edit", "methods"])
def test_what_no_request_names_is_in_a_clips_identity(bench, tmp_path, monkeypatch, folder):
    root = tmp_path / "package"
    (root / folder).mkdir(parents=True)
    file = root / folder / "guidance.py"
    texts = [
        '"""A module."""\nSTRENGTH = 0.02\n"""Default."""\n',
        '"""Other words."""\n# a comment\nSTRENGTH = 0.02\n',
        '"""A module."""\nSTRENGTH = 0.04\n',
    ]
    digests = []
    for text in texts:
        file.write_text(text)
        digests.append(code_digest.__wrapped__(root))
    assert digests[0] == digests[1] != digests[2]
    before = bench._path(PLAIN, GG, 0, 1)
    monkeypatch.setattr("benchmarks.tasks.code_digest", lambda: "other")
    assert bench._path(PLAIN, GG, 0, 1) != before


def test_the_clap_that_holds_clips_to_their_tags_is_in_their_identity(bench, monkeypatch):
    task, free = CONTROLS["intensity"], CTM.with_(tag_pull=0.0)
    before = [bench._path(task, variant, 0, 1) for variant in (CTM, free)]
    monkeypatch.setattr("benchmarks.variants.embedded_clap", lambda: "another")
    after = [bench._path(task, variant, 0, 1) for variant in (CTM, free)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_clips_can_be_decoded_with_other_noise(bench, tmp_path):
    fresh = afresh(bench, tmp_path)
    variant = CTM.with_(gamma=1.0)
    same = fresh.some(CONTROLS["loudness"], variant, [0])
    other = fresh.some(CONTROLS["loudness"], variant.with_(other_noise=True), [0])
    assert torch.equal(same["x_T"], other["x_T"])
    assert torch.equal(same["losses"], other["losses"])
    assert not torch.equal(same["audio"], other["audio"])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_no_reflected_sound_is_asked_for(bench):
    """Of frames whose windows pass the clip's end, one does not know how the piece went on."""
    spec, whole = bench.models.model.spec, bench.targets.real().audio[:1]
    other = torch.cat([whole[0], torch.randn(spec.n_fft)])[None]
    reflected = log_mel(whole, spec)
    known = log_mel(other, spec)[..., : reflected.shape[-1]]
    differs = (reflected - known)[0].abs().amax(dim=0) > 1e-5
    assert differs[-spec.margin_frames :].any()
    assert not differs[: -spec.margin_frames].any()
    reference = _reference(bench, TTM, 0)[0]
    frames, margin = reference.shape[-1], spec.margin_frames
    inner = reference[..., margin : frames - margin].flatten(0, 1).T
    for kind, seconds in (("outpaint", 0.4), ("loop", 0.2), ("inpaint", 0.3)):
        region, _ = _region(kind, seconds, reference, spec)
        asked = torch.cat([region.reference[..., a:b] for a, b in region.spans], dim=-1)
        for column in asked.flatten(0, 1).T:
            assert ((inner - column).abs().amax(dim=1) == 0).any()
    assert bench.clips(OUTPAINTING[1], TTM, 1)["seam_jump"].isfinite().all()


def test_structure_is_in_the_papers_scale(bench, judge):
    """Errors of T·Tᵀ, not of (1 + cos) / 2."""
    row = RowResult(bench.clips(CONTROLS["structure"], TTM, 1), judge)
    control, model = bench.targets.control(0, "structure"), bench.models.model
    x_0 = run(CONTROLS["structure"].request(bench, TTM, 0), model).x_0
    output = Output(x_0, model)
    difference = (2 * control.feature(output) - 1) - (2 * control.target(output) - 1)
    assert STRUCTURE.values(row)[0] == pytest.approx(difference.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("melody", [False, True])
def test_musicgen_is_reached_by_the_option_of_its_kind(bench, tmp_path, melody):
    calls = []

    class Stub:
        name, sample_rate = "stub", 16_000

        def generate(self, texts, seconds, *, seed):
            calls.append((texts, seed))
            return torch.full((1, round(seconds * self.sample_rate)), 0.25)

    task = MUSICGEN_MELODY if melody else MUSICGEN
    given = {"musicgen_melody" if melody else "musicgen": Stub()}
    other = {"musicgen" if melody else "musicgen_melody": Stub()}
    named = afresh(bench, tmp_path, models=replace(bench.models, **given))
    clip = named.some(task, TTM, [3])
    assert calls == [([bench.targets.tags(3).caption()], bench.targets.seed + 3)]
    assert sound(clip["audio"])[0, 1000:2000].mean().item() == pytest.approx(0.25, abs=0.01)
    without = afresh(bench, tmp_path, models=replace(bench.models, **other))
    with pytest.raises(DittoError, match="give it with --musicgen" + "-melody" * melody):
        without.some(task, TTM, [3])


def test_clips_of_two_latents_share_no_noise(bench, tmp_path, monkeypatch):
    seen, latents = [], []

    def counted(*args, **settings):
        seen.append((settings["seed"], settings["count"]))
        latents.append(args[1].x_T)
        return vary(*args, **settings)

    monkeypatch.setattr("benchmarks.tasks.vary", counted)
    fresh = afresh(bench, tmp_path)
    task = REUSE["intensity", "ddpm", "fixed prompt", False]
    assert len(fresh.clips(task, TTM, 2)["reuse_loss"]) == 2
    noises = [{seed + k for k in range(count)} for seed, count in seen]
    assert not noises[0] & noises[1]
    seen.clear()
    latents.clear()
    control = fresh.clips(REUSE["intensity", "ddpm", "fixed prompt", True], TTM, 1)
    assert [count for _, count in seen] == [1] * 10  # each from an x_T of its own
    assert {seed for seed, _ in seen} == noises[0]
    model = fresh.models.model
    drawn = draw_x_T(model.shape(), bench.targets.seed, 20, model.noise)  # DITTO began with these
    assert not any(torch.equal(x_T[0], one) for x_T in latents for one in drawn)
    assert control["reuse_loss"].isfinite().all()


def test_a_constant_gain_takes_the_mean_error_away(bench):
    plain = bench.clips(CONTROLS["intensity"], TTM, 2)
    louder = bench.clips(GAIN, TTM, 2)
    assert (louder["intensity_mse_db2"] < plain["intensity_mse_db2"]).all()
    torch.testing.assert_close(louder["intensity_rho"], plain["intensity_rho"], atol=0.05, rtol=0)


def test_the_ablation_is_every_correction_by_either_adam():
    rows = {entry.name: entry.variant.method for entry in TABLE.entries}
    ladder = [rows[variant.name] for variant in LADDER.values()]
    assert {m.decode_steps for m in ladder} == {2}
    assert len(ladder) == 22
    assert {(m.corrections, m.lr, m.momentum, m.hear) for m in ladder if m.corrections} == {
        (n, adam["lr"], adam["momentum"], heard)
        for n in (1, 2, 4, 8, "every step")
        for adam in ADAMS.values()
        for heard in ("estimate", "sound")
    }
    assert {m.lr for m in ladder if not m.corrections} == {5e-3, 1.5e-2}
    helped = [method for name, method in rows.items() if name.startswith("DITTO, proxies")]
    assert all(method.proxies and not method.checkpointing for method in helped)
    assert {e.variant.guidance for e in TABLE.entries if e.group.startswith("w=")} == {3.0}
    for versus in TABLE.claims:
        assert {versus.above, versus.below} <= set(rows)


@pytest.mark.parametrize("name", ["intensity", "melody", "structure", "inpainting"])
def test_helped_ditto_has_all_that_ditto2_has(bench, name):
    bench = replace(bench, overrides={})
    task = INPAINTING[4] if name == "inpainting" else CONTROLS[name]
    corrected = task.request(bench, CTM, 0).resolved(bench.models.model)
    helped = Helped.of(task).request(bench, HELPED_DITTO, 0).resolved(bench.models.model)
    assert helped.iterations == corrected.iterations
    theirs, ours = corrected.method, helped.method
    assert (ours.lr, ours.momentum) == (theirs.lr, theirs.momentum)
    assert ours.candidates == theirs.candidates
    assert ours.proxies
    assert not ours.checkpointing
    if theirs.regulariser:
        (own, weight), (pull, pulled), (text, held) = helped.control.terms()
        assert own.to_dict() == corrected.control.to_dict()
        assert (weight, pull, pulled) == (1.0, LatentStatistics(), theirs.regulariser)
        assert (text.text, held) == (helped.tags.caption(), theirs.tag_pull)
    else:
        assert helped.controls == corrected.controls == ()  # a region comes when it is painted


def test_a_helped_clip_follows_its_control(bench, tmp_path):
    fresh = afresh(bench, tmp_path, batch=2)
    clips = fresh.clips(Helped.of(CONTROLS["intensity"]), HELPED_DITTO, 2)
    plain = fresh.clips(CONTROLS["intensity"], HELPED_DITTO, 2)
    assert clips["intensity_mse_db2"].isfinite().all()
    # The pull is in its losses.
    assert not torch.equal(clips["losses"], plain["losses"])
    assert set(clips) >= set(plain)


def test_others_regularisers_are_beside_the_control(bench, tmp_path):
    rows = {variant.name: (variant, task) for variant, task in REGULARISED}
    variant, task = rows["CTM-1/2, DNO's statistics"]
    request = task.request(bench, variant, 0)
    (control, weight), (pull, pulled) = request.control.terms()
    assert control.to_dict() == bench.targets.control(0, "intensity").to_dict()
    assert (weight, pull, pulled) == (1.0, LatentStatistics(), 10.0)
    fresh = afresh(bench, tmp_path, overrides={**bench.overrides, "lr": 1.0, "iterations": 3})
    near = fresh.clips(task, variant, 1)["x_T"]
    free = fresh.clips(CONTROLS["intensity"], variant, 1)["x_T"]
    assert LatentStatistics().of(near) < LatentStatistics().of(free)


def test_ditto_hears_by_proxies_when_ditto2_does(bench):
    request = CONTROLS["loudness"].request(bench, CTM, 0)
    plan = Run(replace(request, iterations=70), bench.models.model)
    due, made, at = CalibratedProxies(plan.problem).due, [], []
    surrogate = Surrogate(
        plan.problem.student_chain(2),
        lambda x_0, x_T: x_0.flatten(1).mean(dim=1),
        lambda x_T: x_T,
        lambda x_0: made.append(x_0) or surrogate.objective,
        last=8,
    )
    with torch.no_grad():
        for i, phase in enumerate(phases_of([1] * 70, 8)):
            surrogate.enter(*phase)
            count = len(made)
            surrogate.render(plan.x_T)
            at += [i] if len(made) > count else []
    assert due == set(at)
    assert len(due) == 2
    helped = bench.clips(CONTROLS["loudness"], DITTO.with_(proxies=True), 1)
    plain = bench.clips(CONTROLS["loudness"], DITTO, 1)
    assert not torch.equal(helped["losses"], plain["losses"])
