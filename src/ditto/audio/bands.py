"""The model space of a base whose mel bands are normalised.

Every band has mean 0 and deviation 1 over the training set.

Bands of a log-mel differ in level and in spread. With unit variance in each, one noise level means
the same for all, and none is learned before the others.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ditto.errors import DataError
from ditto.tables import table


@dataclass(frozen=True)
class Bands:
    """Mean and standard deviation of every mel band, in units of the log-mel in [−1, 1].

    Without any, x_0 is the mel.

    Attributes:
        mean, std: (n_mels,) each, or empty.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is a mean for every deviation.

        Raises:
            DataError: there is not, or a deviation is not above 0.
        """
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != len(self.std) or any(not value > 0 for value in self.std):
            raise DataError(
                "the bands' statistics are damaged: they need a mean and a deviation above 0 for "
                "each band"
            )

    def __bool__(self) -> bool:
        """Return whether there is anything to normalise by."""
        return bool(self.mean)

    @property
    def sha256(self) -> str:
        """Hash of the statistics, which a model's own hash takes in."""
        return hashlib.sha256(repr((self.mean, self.std)).encode()).hexdigest()

    @property
    def variance(self) -> float:
        """Square of what one unit of the model space is in log-mel, as a mean over the bands."""
        return sum(value**2 for value in self.std) / len(self.std) if self else 1.0

    def normalised(self, mel: Tensor) -> Tensor:
        """Convert log-mel (…, n_mels, frames) to model space, of the same shape."""
        return (mel - self._column(self.mean, mel)) / self._column(self.std, mel) if self else mel

    def mel(self, x: Tensor) -> Tensor:
        """Convert model space (…, n_mels, frames) to log-mel, of the same shape."""
        return (
            torch.addcmul(self._column(self.mean, x), x, self._column(self.std, x)) if self else x
        )

    def limited(self, x: Tensor) -> Tensor:
        """Hold model space (…, n_mels, frames) to where the log-mel is in [−1, 1]."""
        if not self:
            return x.clamp(-1, 1)
        low, high = (self.normalised(torch.full_like(x[..., :1], bound)) for bound in (-1.0, 1.0))
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return _tensor(values, like.dtype, like.device)[:, None]

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> "Bands":
        """Read what a JSON file says, None being nothing.

        Raises:
            DataError: it says something else.
        """
        try:
            return cls(**{n: tuple(map(float, values)) for n, values in (found or {}).items()})
        except (TypeError, ValueError, AttributeError):
            raise DataError(
                "the bands' statistics are damaged: they must be two lists of numbers"
            ) from None


@table()
def _tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(device)


PLAIN = Bands()
"""No normalisation: x_0 is the log-mel itself."""
