"""DITTO-2: one-step surrogate, several steps for decoding, the adaptive budget."""

from dataclasses import replace

import pytest
import torch
from tests.methods.given import LOUDNESS, SEEDS, SHAPE, problem
from torch import Tensor

from ditto.controls.intensity import Intensity
from ditto.controls.output import Output
from ditto.controls.per_item import PerItem
from ditto.diffusion.denoiser import GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim
from ditto.diffusion.schedule import Schedule
from ditto.errors import RequestError
from ditto.latents import draw_x_T, item_noise
from ditto.methods.corrections import EVERY_STEP, phases_of
from ditto.methods.ditto2 import Decode, Ditto2, Surrogate, adaptive_schedule, decode2, ditto2
from ditto.methods.proxies import proxied
from ditto.models.conditioning import null_tags
from ditto.models.model import MusicModel
from ditto.models.transformer import PatchTransformer
from ditto.optimize import GradientError, Objective, Step, plateau, stop_when, tolerance
from ditto.request import Request
from ditto.runner import Run, run

SCHEDULE = Schedule.cosine(shift=0.5)


def make_chain(network: PatchTransformer, steps: int) -> Chain:
    denoiser = GuidedDenoiser(network, SCHEDULE, "sample", null_tags)
    return Chain(
        denoiser, SCHEDULE, SCHEDULE.timesteps(steps), torch.tensor([[1, 2, 3], [2, 0, 5]])
    )


def latent() -> Tensor:
    return torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def loss(x_0: Tensor, x_T: Tensor | None = None) -> Tensor:
    return (x_0 - 0.3).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("surrogate_steps", [1, 2])
def test_the_surrogate_is_m_steps_of_the_student(
    tiny_network: PatchTransformer, surrogate_steps: int
) -> None:
    chain, x_T = make_chain(tiny_network, 4), latent()
    first = next(ditto2(x_T, chain, loss, iterations=1, surrogate_steps=surrogate_steps))
    expected = loss(ddim(make_chain(tiny_network, surrogate_steps), x_T))
    torch.testing.assert_close(first.loss, expected.float())


def test_the_loss_falls(tiny_network: PatchTransformer) -> None:
    steps = list(ditto2(latent(), make_chain(tiny_network, 4), loss, iterations=30, lr=0.05))
    assert bool((steps[-1].best_loss < 0.9 * steps[0].loss).all())


@pytest.mark.parametrize(
    ("iterations", "expected"), [(70, (35, 26, 9)), (8, (4, 3, 1)), (1, (0, 0, 1))]
)
def test_the_adaptive_budget_is_the_papers(iterations: int, expected: tuple[int, int, int]) -> None:
    schedule = adaptive_schedule(iterations)
    assert tuple(schedule.count(m) for m in (1, 2, 4)) == expected
    assert schedule == sorted(schedule)


def test_a_budget_of_another_length_is_refused(tiny_network: PatchTransformer) -> None:
    with pytest.raises(ValueError, match="3 entries for 4 iterations"):
        next(
            ditto2(
                latent(), make_chain(tiny_network, 4), loss, iterations=4, surrogate_steps=[1, 1, 2]
            )
        )


def test_decoding_with_gamma_0_is_the_chain(tiny_network: PatchTransformer) -> None:
    chain, x_T = make_chain(tiny_network, 4), latent()
    found = decode2(x_T, chain, 0.0, lambda: torch.zeros_like(x_T))
    torch.testing.assert_close(found, ddim(chain, x_T), rtol=1e-9, atol=1e-9)


def test_the_best_is_that_of_the_present_budget(tiny_network: PatchTransformer) -> None:
    # so large a step that losses go up and down
    steps = list(
        ditto2(
            latent(),
            make_chain(tiny_network, 4),
            loss,
            iterations=12,
            lr=0.5,
            surrogate_steps=[1, 2] * 6,
        )
    )
    assert all(torch.equal(step.best_loss, step.loss) for step in steps)
    budget = [1] * 5 + [4] * 7
    steps = list(
        ditto2(
            latent(),
            make_chain(tiny_network, 4),
            loss,
            iterations=12,
            lr=0.5,
            surrogate_steps=budget,
        )
    )
    losses = torch.stack([step.loss for step in steps])
    for first, last in ((0, 5), (5, 12)):
        best = losses[first:last].min(dim=0)
        assert torch.equal(steps[last - 1].best_loss, best.values)
        for item, i in enumerate(best.indices.tolist()):
            assert torch.equal(steps[last - 1].best_x_T[item], steps[first + i].x_T[item])
    rendered = loss(ddim(make_chain(tiny_network, 4), steps[-1].best_x_T.double()))
    torch.testing.assert_close(rendered.float(), steps[-1].best_loss)


def test_a_change_of_budget_is_no_plateau_and_tolerance_ends_it(
    tiny_network: PatchTransformer,
) -> None:
    chain = make_chain(tiny_network, 4)

    def run(stop) -> int:
        steps = ditto2(latent(), chain, loss, iterations=24, lr=0.05, surrogate_steps=budget)
        return len(list(stop_when(steps, [stop])))

    budget = [1] * 12 + [4] * 12
    plain = list(ditto2(latent(), chain, loss, iterations=24, lr=0.05, surrogate_steps=budget))
    assert (plain[12].loss > plain[11].best_loss).any(), "the budgets' losses should differ here"
    assert run(plateau(4, 1e-6)) == 24
    assert run(tolerance(plain[5].best_loss.max().item())) <= 6


def test_decoding_draws_as_much_noise_as_gamma_says(tiny_network: PatchTransformer) -> None:
    chain, x_T = make_chain(tiny_network, 4), latent()
    shapes = tuple(x_T.shape[1:])
    plain, some, all_ = (
        decode2(x_T, chain, gamma, item_noise(shapes, 0, 2)) for gamma in (0.0, 0.2, 1.0)
    )
    assert 0 < (some - plain).norm() < (all_ - plain).norm()
    assert torch.equal(some, decode2(x_T, chain, 0.2, item_noise(shapes, 0, 2)))


def corrected(
    network: PatchTransformer, corrections: int, iterations: int = 28
) -> tuple[list[Step], Decode]:
    chain = make_chain(network, 4)

    def decode(x_T: Tensor) -> Tensor:
        return decode2(x_T, chain, 0.3, item_noise(x_T.shape[1:], 5, len(x_T)))

    steps = ditto2(
        latent(),
        chain,
        loss,
        iterations=iterations,
        lr=0.05,
        decode=decode,
        corrections=corrections,
    )
    return list(steps), decode


def test_a_correction_makes_the_surrogate_agree_with_decoding_there(
    tiny_network: PatchTransformer,
) -> None:
    steps, decode = corrected(tiny_network, 3)
    for i in (2, 8, 17):
        torch.testing.assert_close(steps[i].loss, loss(decode(steps[i].x_T.double())).float())
        assert torch.equal(steps[i].best_loss, steps[i].loss), "the best must begin anew"
    for i in (7, 9):
        assert (steps[i].loss - loss(decode(steps[i].x_T.double())).float()).abs().max() > 1e-5


def test_without_corrections_it_is_the_papers_algorithm(tiny_network: PatchTransformer) -> None:
    plain = ditto2(latent(), make_chain(tiny_network, 4), loss, iterations=9, lr=0.05)
    without, _ = corrected(tiny_network, 0, iterations=9)
    assert [step.loss.tolist() for step in plain] == [step.loss.tolist() for step in without]
    with_them, _ = corrected(tiny_network, 1, iterations=9)
    equal = [torch.equal(a.loss, b.loss) for a, b in zip(with_them, without, strict=True)]
    assert equal == [True] * 2 + [False] * 7


@pytest.mark.parametrize(("iterations", "corrections"), [(70, 6), (3, 6), (1, 6), (5, 0)])
def test_corrections_lie_ever_further_apart_and_never_come_first(
    iterations: int, corrections: int
) -> None:
    phases = phases_of([1] * iterations, corrections)
    assert phases[0] == (1, 0)
    begins = [i for i in range(1, iterations) if phases[i] != phases[i - 1]]
    assert begins == (
        [2, 8, 16, 27, 39, 53]
        if iterations == 70
        else list(range(1, iterations)) * (corrections > 0)
    )


def test_a_proxy_objective_is_calibrated_at_what_is_decoded(tiny_network: PatchTransformer) -> None:
    chain, seen = make_chain(tiny_network, 4), []

    def decode(x_T: Tensor) -> Tensor:
        return ddim(chain, x_T)

    def calibrate(decoded: Tensor) -> Objective:
        seen.append(decoded)
        return lambda x_0, x_T: 2 * loss(x_0)

    steps = list(
        ditto2(
            latent(), chain, loss, iterations=4, decode=decode, calibrate=calibrate, corrections=1
        )
    )
    (decoded,) = seen
    assert not decoded.requires_grad
    torch.testing.assert_close(decoded, decode(steps[1].x_T.double()))
    torch.testing.assert_close(steps[1].loss, 2 * loss(decoded).float())


def make_surrogate(network: PatchTransformer, calibrated: list[Tensor]) -> tuple[Surrogate, list]:
    """A surrogate of 5 corrections, with lists of what was calibrated and what was decoded."""
    chain, decoded = make_chain(network, 4), []

    def decode(x_T: Tensor) -> Tensor:
        decoded.append(x_T)
        return ddim(chain, x_T)

    def calibrate(x_0: Tensor) -> Objective:
        calibrated.append(x_0)
        return lambda x, x_T: len(calibrated) * loss(x)

    return Surrogate(chain, loss, decode, calibrate, last=5), decoded


def test_each_due_correction_is_made_once_even_if_it_is_rendered_twice(
    tiny_network: PatchTransformer,
) -> None:
    calibrated: list[Tensor] = []
    surrogate, decoded = make_surrogate(tiny_network, calibrated)
    plain, whole = (ddim(make_chain(tiny_network, steps), latent()) for steps in (1, 4))
    torch.testing.assert_close(surrogate.render(latent()), plain)
    surrogate.enter(1, 1)
    for _ in range(2):
        torch.testing.assert_close(surrogate.render(latent()), whole)
    assert (len(decoded), len(calibrated), surrogate.made) == (1, 1, 1)
    # The objective changed with the correction, and the shift stays between corrections.
    torch.testing.assert_close(surrogate.objective(whole, latent()), loss(whole))
    moved = latent().roll(1, dims=-1)
    shift = surrogate.render(moved) - ddim(make_chain(tiny_network, 1), moved)
    torch.testing.assert_close(shift, whole - plain)
    # Two that fall due at once are made as one.
    surrogate.enter(2, 3)
    surrogate.render(latent())
    surrogate.render(latent())
    assert (len(decoded), surrogate.made) == (2, 3)


def test_the_last_correction_calibrates_and_every_fourth_before_it(
    tiny_network: PatchTransformer,
) -> None:
    calibrated: list[Tensor] = []
    surrogate, decoded = make_surrogate(tiny_network, calibrated)
    counts = []
    for due in range(1, 6):
        surrogate.enter(1, due)
        surrogate.render(latent())
        counts.append(len(calibrated))
    assert counts == [1, 1, 1, 1, 2]
    assert len(decoded) == 5
    assert not any(x_0.requires_grad for x_0 in calibrated)


def test_a_proxy_is_taken_only_where_the_model_has_a_mel(
    student_model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_0 = 0.1 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    given = problem(student_model, LOUDNESS, method=Ditto2())
    objective, calibrate = proxied(given)
    torch.testing.assert_close(objective(x_0, x_0), LOUDNESS.proxy()(x_0, student_model))
    torch.testing.assert_close(calibrate(x_0)(x_0, x_0), LOUDNESS(x_0, student_model, seeds=SEEDS))
    monkeypatch.setattr(MusicModel, "has_mel", False)
    objective, _ = proxied(given)
    torch.testing.assert_close(objective(x_0, x_0), LOUDNESS(x_0, student_model.fast, seeds=SEEDS))


class Poisoned(Intensity):
    """A loudness whose loss has a value and a gradient of NaN."""

    def loss(self, output: Output) -> Tensor:
        return super().loss(output) * torch.nan


@pytest.mark.usefixtures("together")
def test_a_batch_with_one_poisoned_item_returns_the_others(student_model: MusicModel) -> None:
    seconds = {"seed": 5, "count": 3, "iterations": 5, "method": Ditto2(corrections=2)}
    fine = run(Request(PerItem([LOUDNESS] * 3), **seconds), student_model)
    poisoned = PerItem([LOUDNESS, Poisoned("swell"), LOUDNESS])
    steps = Run(Request(poisoned, **seconds), student_model)
    said = [step.warnings for step in steps]
    found = steps.result()
    assert [len(words) for words in said] == [1, 0, 0, 0, 0]
    assert torch.equal(found.audio[[0, 2]], fine.audio[[0, 2]])
    assert torch.equal(found.x_T[1], draw_x_T(SHAPE, 5, 3)[1])
    assert found.audio.isfinite().all()
    assert found.report(1)["loss"] == []
    with pytest.raises(GradientError, match="not finite"):
        run(Request(Poisoned("swell"), **seconds), student_model)


def judged(network: PatchTransformer, lr: float = 0.4, iterations: int = 28, corrections=3):
    """Steps that keep what is decoded, and what was decoded for it, with the losses."""
    chain, seen = make_chain(network, 4), []

    def decode(x_T: Tensor) -> Tensor:
        return decode2(x_T, chain, 0.3, item_noise(x_T.shape[1:], 5, len(x_T)))

    def judge(x_0: Tensor, x_T: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        torch.testing.assert_close(x_0, decode(x_T))
        seen.append((x_T, loss(x_0)))
        return seen[-1][1]

    steps = ditto2(
        latent(),
        chain,
        loss,
        iterations=iterations,
        lr=lr,
        decode=decode,
        corrections=corrections,
        judge=judge,
    )
    return list(steps), seen


def test_the_best_that_was_decoded_is_kept(tiny_network: PatchTransformer) -> None:
    # so large a step that decoding often disagrees
    steps, seen = judged(tiny_network)
    assert len(seen) == 1 + 3 + 1, "x_T, the corrections, and the last"
    assert torch.equal(seen[0][0], latent())
    losses = torch.stack([value for _, value in seen])
    best = losses.argmin(dim=0)
    torch.testing.assert_close(steps[-1].best_loss, losses.amin(dim=0).float())
    for item, i in enumerate(best.tolist()):
        assert torch.equal(steps[-1].best_x_T[item], seen[i][0][item])
    assert [step.i for step in steps if step.judged] == [0, 2, 8, 17, 27]
    told = torch.stack([step.best_loss for step in steps])
    assert (told.diff(dim=0) <= 0).all()


def test_a_correction_that_does_not_help_is_taken_back(tiny_network: PatchTransformer) -> None:
    steps, seen = judged(tiny_network)
    best, refused = seen[0][1].clone(), 0
    halves = torch.ones(2)
    for number, i in enumerate((2, 8, 17), start=1):
        for item in range(2):
            helps = bool(seen[number][1][item] < best[item])
            if helps:
                best[item] = seen[number][1][item]
                assert torch.equal(steps[i].x_T[item], seen[number][0][item])
            else:
                refused += 1
                halves[item] /= 2
                torch.testing.assert_close(steps[i].loss[item], best[item].float())
            # Adam moves a value by about lr: by less where steps are halved.
            moved = (steps[i + 1].x_T[item] - steps[i].x_T[item]).abs().mean()
            if not helps:
                assert moved <= 0.4 * halves[item] * 1.01
    assert refused, "no correction was refused: the test shows nothing"


def test_early_stops_look_at_what_was_decoded(tiny_network: PatchTransformer) -> None:
    steps, _ = judged(tiny_network, lr=0.05)
    level = steps[-1].best_loss.max().item()
    assert (steps[0].best_loss > level).any(), "the first is too good for the test"
    stopped = list(stop_when(iter(steps), [tolerance(level)]))
    assert stopped[-1].judged
    assert (stopped[-1].best_loss <= level).all()
    assert any((step.loss <= level).all() for step in stopped[:-1]), "the surrogate was there first"
    assert len(list(stop_when(iter(steps), [plateau(4, 1e-9)]))) == 28
    flat = [replace(step, best_loss=steps[0].best_loss) for step in steps]
    # Nothing new by iteration 8, which is the first that was judged 4 or more after another.
    assert list(stop_when(iter(flat), [plateau(4)]))[-1].i == 8


def test_corrected_at_every_step_it_has_the_value_of_what_is_decoded(
    tiny_network: PatchTransformer,
) -> None:
    steps, decode = corrected(tiny_network, EVERY_STEP, iterations=9)  # pyright: ignore[reportArgumentType]
    for step in steps:
        torch.testing.assert_close(step.loss, loss(decode(step.x_T.double())).float())
    assert torch.equal(steps[-1].best_loss, torch.stack([s.loss for s in steps]).amin(dim=0))
    x = latent().requires_grad_()
    surrogate = ddim(make_chain(tiny_network, 1), x)
    held = surrogate + (decode(latent()) - surrogate).detach()
    (gradient,) = torch.autograd.grad(loss(held).sum(), x)
    moved = (steps[1].x_T - steps[0].x_T).sign()
    assert (moved == -gradient.sign()).float().mean() > 0.999


def test_settings_of_what_is_kept(student_model: MusicModel) -> None:
    settings = {"seed": 5, "count": 2, "iterations": 12}
    method = Ditto2(keep="decoded", corrections=3, lr=0.05)
    steps = Run(Request(LOUDNESS, method=method, **settings), student_model)
    told = list(steps)
    found = steps.result()
    heard = LOUDNESS(found.x_0, student_model, seeds=SEEDS)
    torch.testing.assert_close(told[-1].best_loss, heard, atol=1e-4, rtol=1e-4)
    assert (told[-1].best_loss <= told[0].best_loss).all()
    straight = Ditto2(corrections="every step", lr=0.05)
    assert (
        run(Request(LOUDNESS, method=straight, **settings), student_model).losses.isfinite().all()
    )
    resolved = Request(LOUDNESS, method=Ditto2(max_travel=0.06), **settings).resolved(student_model)
    assert resolved.method is not None
    assert resolved.method.lr == pytest.approx(0.005)  # pyright: ignore[reportAttributeAccessIssue]
    assert Request.from_dict(resolved.to_dict()).method == resolved.method
    for wrong, message in (
        ({"keep": "best"}, '"surrogate" or "decoded"'),
        ({"keep": "decoded", "corrections": 0}, "needs corrections"),
        ({"corrections": "often"}, '0 to 1000, or "every step"'),
        ({"corrections": -1}, "from 0 to 1000"),
    ):
        with pytest.raises(RequestError, match=message):
            Ditto2(**wrong)
