"""Numbers of controls: NumPy's are taken; what is none is refused in a line with its limits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ditto.controls import (
    Beats,
    Chords,
    Control,
    Intensity,
    LatentStatistics,
    Melody,
    Structure,
    StructureLike,
    Text,
)
from ditto.controls.numbers import checked_number
from ditto.errors import ControlError

TUNE = Melody.from_notes("C4:1").tune
TAKEN: dict[str, tuple[Callable[[Any], Control], float]] = {
    "melody's margin": (lambda x: Melody(TUNE, margin=x), 0.5),
    "beats' margin": (lambda x: Beats(120, margin=x), 0.5),
    "chords' margin": (lambda x: Chords("C:1", margin=x), 0.5),
    "dead zone": (lambda x: Intensity("swell", dead_zone=x), 1.5),
    "correlation": (lambda x: Intensity("swell", "correlation", enough=x), 0.5),
    "tolerance": (lambda x: Structure("ABA", tolerance=x), 0.25),
    "density": (lambda x: Structure("ABA", density=x), 0.25),
    "recording's tolerance": (lambda x: StructureLike(np.zeros((2, 2)), tolerance=x), 0.25),
    "text": (lambda x: Text("jazz", enough=x), 0.5),
}


@pytest.mark.parametrize("make", [make for make, _ in TAKEN.values()], ids=list(TAKEN))
@pytest.mark.parametrize("wrong", ["a", [], True, math.nan, math.inf, 1e6, -2])
def test_what_is_no_number_in_its_limits_is_refused(
    make: Callable[[Any], Control], wrong: Any
) -> None:
    with pytest.raises(ControlError, match=r"must be (from|above) .*, not") as found:
        make(wrong)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("make", "good"), TAKEN.values(), ids=list(TAKEN))
def test_numbers_of_numpy_are_taken(make: Callable[[Any], Control], good: float) -> None:
    settings = vars(make(np.float32(good)))
    assert good in [value for value in settings.values() if type(value) is float]


def test_limits() -> None:
    assert checked_number("it", 0, 0, 1) == 0
    assert checked_number("it", 1, 0, 1, left_out="low") == 1
    for value, left_out, words in (
        (2, "none", "from 0 to 1 dB"),
        (0, "low", "above 0 and at most 1 dB"),
        (1, "high", "from 0 to below 1 dB"),
    ):
        with pytest.raises(ControlError, match=f"^it must be {words}, not {value}$"):
            checked_number("it", value, 0, 1, "dB", left_out=left_out)


@pytest.mark.parametrize("settings", [{"size": "a"}, {"size": 2.5}, {"shuffles": None}])
def test_latent_statistics_take_whole_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="need a size from 1 to 64"):
        LatentStatistics(**settings)
