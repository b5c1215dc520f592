"""Normalised mel bands: there and back, their bounds, and what damaged statistics say."""

import json
from dataclasses import asdict

import pytest
import torch

from ditto.audio.bands import PLAIN, Bands
from ditto.errors import DataError

BANDS = Bands((0.5, -0.25), (0.1, 0.4))


def mel() -> torch.Tensor:
    return (
        torch.rand(3, 1, 2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
        - 1
    )


def test_each_band_is_normalised_by_its_own_statistics() -> None:
    x = BANDS.normalised(mel())
    torch.testing.assert_close(x[..., 0, :], (mel()[..., 0, :] - 0.5) / 0.1)
    torch.testing.assert_close(x[..., 1, :], (mel()[..., 1, :] + 0.25) / 0.4)
    torch.testing.assert_close(BANDS.mel(x), mel())
    assert BANDS.variance == pytest.approx((0.01 + 0.16) / 2)


def test_limits_are_those_of_the_log_mel() -> None:
    far = 100 * torch.randn(
        2, 1, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    torch.testing.assert_close(BANDS.mel(BANDS.limited(far)), BANDS.mel(far).clamp(-1, 1))
    x = BANDS.normalised(mel())
    assert torch.equal(BANDS.limited(x), x)


def test_without_statistics_nothing_changes() -> None:
    assert not PLAIN
    assert PLAIN.variance == 1.0
    x = mel()
    assert PLAIN.normalised(x) is x
    assert PLAIN.mel(x) is x


def test_statistics_go_through_json() -> None:
    assert Bands.of(json.loads(json.dumps(asdict(BANDS)))) == BANDS
    assert Bands.of(None) == PLAIN


@pytest.mark.parametrize(
    "found",
    [
        {"mean": [0.0], "std": []},
        {"mean": [0.0], "std": [0.0]},
        {"mean": 3},
        {"middle": [1.0]},
        [1.0],
    ],
)
def test_damaged_statistics_are_one_line(found: object) -> None:
    with pytest.raises(DataError, match="the bands' statistics are damaged"):
        Bands.of(found)  # pyright: ignore[reportArgumentType]
