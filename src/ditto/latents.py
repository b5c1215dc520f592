"""Latents: x_T with the request and the model that it belongs to (DITTO appendix I).

A ``.latent`` file is a safetensors file: one tensor ``x_T`` and JSON in its metadata.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ditto.diffusion.consistency import Noise
from ditto.diffusion.schedule import GridName
from ditto.errors import OutputError, RequestError
from ditto.models.model import MusicModel
from ditto.paths import StrPath, atomic_file, check_output, found_path, printable

ENDING = ".latent"
FORMAT = "ditto-latent-1"


@dataclass(frozen=True, eq=False)
class Latent:
    """One item's x_T.

    Attributes:
        x_T: shape (1, …, frames), float32.
        model: hash of the model's weights.
        request: what it was made by, as JSON; empty if unknown.
        name: where it came from.
    """

    x_T: Tensor
    model: str
    request: dict[str, Any] = field(default_factory=dict)
    name: str = "latent"

    def save(self, path: StrPath, *, force: bool = False) -> Path:
        """Write a .latent file, whole or not at all.

        Raises:
            OutputError: the name's ending is another, the file exists (without `force`), or it
                cannot be written.
        """
        check_latent(path, force=force)
        metadata = {"format": FORMAT, "model": self.model, "request": json.dumps(self.request)}
        with atomic_file(path, force=force) as temporary:
            save_file({"x_T": self.x_T.detach().cpu().float().contiguous()}, temporary, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: StrPath) -> "Latent":
        """Read a .latent file.

        Raises:
            RequestError: it is missing, damaged, or something else.
        """
        name = printable(path)
        path = found_path(path)
        if not Path(path).is_file():
            raise RequestError(f"cannot read the latent {name}: there is no such file")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                x_T = file.get_tensor("x_T").clone()  # else a view of the file, which stays open
            if metadata.get("format") != FORMAT:
                raise ValueError
            request = json.loads(metadata["request"])
            if not isinstance(request, dict):
                raise ValueError
            model = metadata["model"]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError):
            raise RequestError(
                f"cannot read the latent {name}: it is damaged or no latent of Ditto's"
            ) from None
        if not x_T.dtype.is_floating_point or x_T.ndim < 3 or len(x_T) != 1 or not x_T.numel():
            kind = f"{str(x_T.dtype).removeprefix('torch.')} of shape {tuple(x_T.shape)}"
            raise RequestError(
                f"the latent {name} holds {kind}, and not one clip's x_T: make it again with "
                "--latent or `invert`"
            )
        x_T = x_T.float()
        if not bool(torch.isfinite(x_T).all()):
            raise RequestError(f"the latent {name} holds values that are not finite: make it again")
        return cls(x_T, model, request, Path(path).name)

    @property
    def grid(self) -> Any:
        """The grid that x_T begins, where its request names one that a method can have."""
        method = self.request.get("method")
        grid = method.get("grid") if isinstance(method, Mapping) else None
        return grid if grid in get_args(GridName) else None

    def check(self, model: MusicModel, shape: tuple[int, ...]) -> None:
        """Refuse a latent of another model or length.

        Raises:
            RequestError: with what to change.
        """
        if self.model != model.sha256:
            theirs, ours = self.model[:12] or "not saved", model.sha256[:12] or "not saved"
            raise RequestError(
                f"{printable(self.name)} is a latent of another model ({theirs}, and this one is "
                f"{ours}): give that one with --model"
            )
        if tuple(self.x_T.shape[1:-1]) != tuple(shape[:-1]):
            raise RequestError(
                f"{printable(self.name)} has an x_T of shape {tuple(self.x_T.shape)}, but this "
                f"model's is (1, {', '.join(map(str, shape[:-1]))}, frames): give the latent's own"
            )
        if self.x_T.shape[-1] != shape[-1]:
            length = model.spec.seconds(self.x_T.shape[-1])
            raise RequestError(
                f"{printable(self.name)} is a latent of {length:.2f} s: give --seconds "
                f"{length:.2f}, or leave it out"
            )


def check_latent(path: StrPath, *, force: bool = False) -> None:
    """Find out early whether a latent may be written to `path`.

    Raises:
        OutputError: its ending is not .latent, or it may not be written.
    """
    if Path(path).suffix.lower() != ENDING:
        raise OutputError(f"cannot write {printable(path)}: a latent's name must end in {ENDING}")
    check_output(path, force=force)


NOISE_SEED, VARIATION_SEED, CANDIDATE_SEED = 2**31, 2**32, 2**33
"""Generators of later noise, of that of variations, and of that of samplers that begin at a
candidate, are seeded this far above those of x_T, whose seeds end below."""


def item_seed(seed: int, item: int) -> int:
    """Return the seed of an item of a batch, or of a window: after the last the first comes."""
    return (seed + item) % NOISE_SEED


def item_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the seeds of the first items of a batch."""
    return tuple(item_seed(seed, i) for i in range(count))


def draw_x_T(  # noqa: N802 - the papers' name
    shape: Sequence[int],
    seed: int,
    count: int,
    noise: Callable[[Sequence[int], torch.Generator], Tensor] | None = None,
) -> Tensor:
    """Draw x_T (count, *shape) ~ N(0, 1), float32; item i by a generator seeded with ``seed + i``.

    Args:
        shape: of one item.
        seed: of the first item.
        count: items.
        noise: draws one item: `MusicModel.noise`, so that a seed means what it means in the
            model's own pipeline.
    """
    draw = noise or (lambda shape, generator: torch.randn(tuple(shape), generator=generator))
    generators = (torch.Generator().manual_seed(item_seed(seed, i)) for i in range(count))
    return torch.stack([draw(shape, generator) for generator in generators])


def item_noise(
    shape: Sequence[int],
    seed: int,
    count: int,
    device: torch.device | str = "cpu",
    *,
    first: int = NOISE_SEED,
) -> Noise:
    """Return a source of noise (count, *shape); item i has a generator of its own, as alone.

    Args:
        shape: of one item.
        seed: of the first item.
        count: items.
        device: of the noise.
        first: what the seeds are counted from.
    """
    seeds = (first + item_seed(seed, i) for i in range(count))
    generators = [torch.Generator().manual_seed(each) for each in seeds]

    def draw() -> Tensor:
        drawn = [torch.randn(tuple(shape), generator=generator) for generator in generators]
        return torch.stack(drawn).to(device)

    return draw
