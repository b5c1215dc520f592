import pytest
import torch

from ditto.controls import Intensity
from ditto.errors import RequestError
from ditto.methods import make_method
from ditto.methods.best_of import BestOf
from ditto.methods.ditto2 import Ditto2
from ditto.models.model import MusicModel
from ditto.request import Request
from ditto.runner import Run, run

CURVE = Intensity("0:-30 0.3:-12")
SHORT = {"seconds": 0.4, "seed": 5}


def test_it_is_the_best_of_its_candidates(student_model: MusicModel) -> None:
    steps = Run(Request(CURVE, method=BestOf(count=7, batch=3), **SHORT), student_model)
    assert steps.total == 3
    losses = [step.best_loss.item() for step in steps]
    assert losses == sorted(losses, reverse=True)
    result = steps.result()
    # What is decoded in the end is what was found.
    assert result.errors["intensity_mse_db2"].item() == pytest.approx(losses[-1], rel=1e-4)


def test_the_first_candidate_is_the_requests_own_clip(student_model: MusicModel) -> None:
    one = run(Request(CURVE, method=BestOf(count=1), **SHORT), student_model)
    method = Ditto2(corrections=0)
    first = next(iter(Run(Request(CURVE, method=method, iterations=1, **SHORT), student_model)))
    assert torch.equal(one.x_T, first.x_T)


def test_a_larger_search_is_no_worse_and_its_batches_do_not_matter(
    student_model: MusicModel,
) -> None:
    errors = {
        (count, batch): run(
            Request(CURVE, method=BestOf(count=count, batch=batch), **SHORT), student_model
        ).errors["intensity_mse_db2"]
        for count, batch in ((1, 1), (8, 1), (8, 4), (8, 8))
    }
    assert errors[8, 4] <= errors[1, 1]
    torch.testing.assert_close(errors[8, 1], errors[8, 4])
    torch.testing.assert_close(errors[8, 4], errors[8, 8])


def test_item_1_of_2_is_what_it_would_be_alone(student_model: MusicModel) -> None:
    both = run(Request(CURVE, count=2, method=BestOf(count=4), **SHORT), student_model)
    alone = run(Request(CURVE, method=BestOf(count=4), seconds=0.4, seed=6), student_model)
    torch.testing.assert_close(both.x_T[1:], alone.x_T)


def test_it_wants_a_control_and_a_sane_count(student_model: MusicModel) -> None:
    with pytest.raises(RequestError, match="give a control"):
        run(Request(method=BestOf(), **SHORT), student_model)
    with pytest.raises(RequestError, match="count must be a whole number from 1 to 100000"):
        BestOf(count=0)
    assert make_method("best-of", {"count": 3}) == BestOf(count=3)
