"""Memory and time of a computation: a counter of live tensors, and an estimate before a run.

`estimate_cost` rehearses one iteration (a step or two of the chain, decoding, loss, gradient) on
PyTorch's fake tensors, which have shapes and no values, and counts what is alive at any moment. So
the figure includes what recomputing and the backward pass allocate, for the library's real graph.
It leaves out the allocator's slack and cuDNN's workspaces.
"""

import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint

from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel

BACKWARD = 2.0
"""Time of a backward pass over that of its forward pass."""


class MemoryTracker(TorchDispatchMode):
    """Tracks live and peak tensor memory allocated inside the `with` block, in bytes.

    It counts storages, so views are free. Fake tensors count as if they had values.

    Attributes:
        now: bytes that are alive at present.
        peak: the most that ever were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages that it allocates."""
        inputs = {_key(leaf) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_iter(outputs):
            if isinstance(leaf, Tensor) and _key(leaf) not in inputs:
                self._add(_key(leaf), leaf.untyped_storage())
        return outputs

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        if key in self._storages:
            return
        self._storages.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one request.

    Attributes:
        weights: bytes of denoiser and decoders.
        encoders: bytes of prompt encoders, which stay on the CPU.
        working: bytes that an iteration needs at its peak besides.
        step_seconds: one guided denoiser call, without gradients.
        decode_seconds: one decoding, without gradients.
        steps, iterations: T and K that were asked about.
        checkpointing: whether model calls are made twice.
    """

    weights: int
    encoders: int
    working: int
    step_seconds: float
    decode_seconds: float
    steps: int
    iterations: int
    checkpointing: bool

    @property
    def memory(self) -> int:
        """Bytes on the device at the peak."""
        return self.weights + self.working

    @property
    def seconds(self) -> float:
        """Seconds of K iterations of DITTO and of decoding the clip."""
        once = self.steps * self.step_seconds + self.decode_seconds
        return once * (1 + self.iterations * (1 + BACKWARD + self.checkpointing))

    def lines(self) -> list[str]:
        """Return two lines for people: memory and time."""
        total, weights, working, encoders = (
            f"{size / 2**30:.2f}"
            for size in (self.memory, self.weights, self.working, self.encoders)
        )
        return [
            f"memory     {total} GiB = {weights} weights + {working} at the peak of an iteration; "
            f"prompt encoders on the CPU: {encoders}",
            f"time       {self.seconds:.0f} s for T={self.steps} K={self.iterations}: a guided "
            f"step takes {self.step_seconds:.3g} s, decoding {self.decode_seconds:.3g} s",
        ]


def estimate_cost(
    model: MusicModel,
    *,
    seconds: float | None = None,
    count: int = 1,
    guidance: float | None = None,
    steps: int = 20,
    iterations: int = 70,
    checkpointing: bool = True,
) -> Cost:
    """Estimate what DITTO on this model costs on the device where it is.

    Args:
        model: from `ditto.load`.
        seconds: length of the clips; None is the model's window.
        count: clips at once.
        guidance: CFG scale w; None is the model's default.
        steps: T.
        iterations: K.
        checkpointing: as in `ditto.Request`.

    Raises:
        DittoError: the model cannot make clips of that length.
    """
    w = model.guidance if guidance is None else guidance
    x_T = torch.zeros(count, *model.shape(seconds), device=model.device)
    t = torch.full((count,), model.schedule.timesteps(1)[0], device=model.device)
    cond = model.cond(Tags(), count, seconds)
    decoders, encoders = _decoders_and_encoders(model)

    def step(x_t: Tensor) -> Tensor:
        return model.denoiser(x_t, t, cond, w)

    calls = 2 if steps > 1 and not checkpointing else 1
    working = _peak(model, x_T, step, calls, checkpointing)
    if not checkpointing:  # each further step keeps what the second added to the first
        working += max(0, steps - calls) * max(0, working - _peak(model, x_T, step, 1, False))
    with torch.no_grad():
        return Cost(
            weights=sum(map(_bytes, (model.network, *decoders))),
            encoders=sum(map(_bytes, encoders)),
            working=working + steps * x_T.nbytes * 3,
            step_seconds=_seconds(step, x_T),
            decode_seconds=_seconds(model.to_sound, x_T),
            steps=steps,
            iterations=iterations,
            checkpointing=checkpointing,
        )


def describe_model(model: MusicModel) -> list[str]:
    """Describe a model line by line: name, hash, window, tags, size."""
    names = model.vocabulary
    parts = {"denoiser": model.network, "vocoder": model.vocoder}
    student = model.distilled
    parts |= {"student": student.network} if student is not None and not student.own else {}
    millions = {
        part: sum(p.numel() for p in network.parameters()) / 1e6 for part, network in parts.items()
    }
    tags = [
        f"genres     {', '.join(names.genres)}",
        f"moods      {', '.join(names.moods)}",
        f"tempo      {names.tempo_low:g} to {names.tempo_high:g} beats per minute",
    ]
    return [
        f"name       {model.name}",
        f"sha256     {model.sha256}",
        f"window     {model.spec.clip_seconds:.2f} s at {model.spec.sample_rate} Hz",
        *(tags if names.genres else ["prompts    any text"]),
        f"guidance   {model.guidance:g}",
        *(f"{part:10s} {size:.1f} M parameters" for part, size in millions.items()),
        *([OWN_STUDENT.format(steps=student.steps)] if student is not None and student.own else []),
    ]


OWN_STUDENT = (
    "student    the denoiser itself, distilled by its makers: ditto2 decodes in {steps} steps of "
    "Euler's method (gamma 0), for noise added on the way would forget x_T"
)


def _peak(
    model: MusicModel,
    x_T: Tensor,
    step: Callable[[Tensor], Tensor],
    calls: int,
    checkpointing: bool,
) -> int:
    """Return the most bytes alive at once in an iteration, besides those before it."""
    # Vocoders of our own keep tables that must not be made of fake tensors; they are small enough
    # to run.
    fake = FakeTensorMode(allow_non_fake_inputs=True) if hasattr(model, "pipe") else nullcontext()
    with fake, MemoryTracker() as memory:
        x = torch.zeros(x_T.shape, device=x_T.device, requires_grad=True)
        x_0 = x
        for _ in range(calls):
            once = checkpoint(step, x_0, use_reentrant=False) if checkpointing else step(x_0)
            x_0 = 0.5 * (x_0 + cast(Tensor, once))
        torch.autograd.grad(model.to_audio(x_0).square().mean(), x)
    return memory.peak


def _decoders_and_encoders(model: MusicModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """Split a model's networks besides the denoiser: what decodes x_0, and what encodes prompts."""
    pipe: Any = getattr(model, "pipe", None)
    if pipe is None:
        return [model.vocoder], []
    networks = {id(n): n for n in pipe.components.values() if isinstance(n, nn.Module)}
    decoders = {id(n): n for n in (model.vocoder, pipe.components.get("vae")) if n is not None}
    used = decoders.keys() | {id(model.network)}
    return list(decoders.values()), [n for key, n in networks.items() if key not in used]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Time one call, the faster of two."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        function(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        times.append(time.perf_counter() - start)
    return min(times)
