"""bfloat16, where a processor has it and where it has none."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.runs import assert_same, weights
from tests.training.test_base import TINY, Clips

from ditto.cli.train import say_precision
from ditto.training import place
from ditto.training.base import train_base


def test_bfloat16_is_float32_where_a_processor_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "has_bf16", lambda device: False)
    for precision in ("no", "bf16"):
        recipe = replace(TINY, steps=2, precision=precision)
        train_base(recipe, Clips(), tmp_path / precision, show=False)
    assert_same(weights(tmp_path / "no", "model"), weights(tmp_path / "bf16", "model"))


@pytest.mark.parametrize(
    ("native", "said"), [(True, ""), (False, "no bfloat16 here: training in float32\n")]
)
def test_a_training_says_that_it_has_no_bfloat16(
    native: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(place, "has_bf16", lambda device: native)
    say_precision(replace(TINY, precision="bf16"), "cpu")
    assert capsys.readouterr().err == said
    say_precision(replace(TINY, precision="no"), "cpu")
    assert not capsys.readouterr().err
