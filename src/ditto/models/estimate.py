"""What a run will cost, before it is begun: memory from a rehearsal without arithmetic, time from a
call or two.

The rehearsal is one real iteration (a step or two of the chain, decoding, loss, gradient) on
PyTorch's fake tensors, which have shapes and no values; what is alive at any moment is counted. So
the figure includes what recomputing and the backward pass allocate, for the library's real graph.
It leaves out the allocator's slack and cuDNN's workspaces.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ditto.models.alive import Alive
from ditto.models.conditioning import Tags
from ditto.models.music_model import MusicModel

BACKWARD = 2.0
"""Time of a backward pass over that of its forward pass."""


@dataclass(frozen=True)
class Estimate:
    """Cost of one request.

    Attributes:
        weights: bytes of denoiser and decoders.
        encoders: bytes of what only encodes prompts, and stays on the CPU.
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
        """K iterations of DITTO, and the clip."""
        once = self.steps * self.step_seconds + self.decode_seconds
        return once * (1 + self.iterations * (1 + BACKWARD + self.checkpointing))

    def lines(self) -> list[str]:
        """For people."""
        gigabytes = 2**30
        return [
            f"memory     {self.memory / gigabytes:.2f} GiB = {self.weights / gigabytes:.2f} weights + "
            f"{self.working / gigabytes:.2f} at the peak of an iteration; prompt encoders on the CPU: "
            f"{self.encoders / gigabytes:.2f}",
            f"time       {self.seconds:.0f} s for T={self.steps} K={self.iterations}: a guided step takes "
            f"{self.step_seconds:.3g} s, decoding {self.decode_seconds:.3g} s",
        ]


def estimate(
    model: MusicModel,
    *,
    seconds: float | None = None,
    count: int = 1,
    guidance: float | None = None,
    steps: int = 20,
    iterations: int = 70,
    checkpointing: bool = True,
) -> Estimate:
    """What DITTO on this model costs on the device where it is.

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
    step = partial(_guided, model.denoiser, t, model.cond(Tags(), count, seconds), w)
    trained = _bytes(model.network), sum(_bytes(part) for part in _decoders(model))
    calls = 2 if steps > 1 and not checkpointing else 1
    working = _peak(model, x_T, step, calls, checkpointing)
    if not checkpointing:  # each further step keeps what the second added to the first
        working += max(0, steps - calls) * max(0, working - _peak(model, x_T, step, 1, False))
    with torch.no_grad():
        return Estimate(
            sum(trained),
            sum(_bytes(part) for part in _encoders(model)),
            working + steps * x_T.nbytes * 3,
            _seconds(step, x_T),
            _seconds(model.to_sound, x_T),
            steps,
            iterations,
            checkpointing,
        )


def about(model: MusicModel) -> list[str]:
    """What a model is, line by line: name, hash, window, words, size."""
    words = model.vocabulary
    parts = {"denoiser": model.network, "vocoder": model.vocoder}
    parts |= {"student": model.distilled.network} if model.distilled else {}
    tags = [
        f"genres     {', '.join(words.genres)}",
        f"moods      {', '.join(words.moods)}",
        f"tempo      {words.tempo_low:g} to {words.tempo_high:g} beats per minute",
    ]
    return [
        f"name       {model.name}",
        f"sha256     {model.sha256}",
        f"window     {model.spec.clip_seconds:.2f} s at {model.spec.sample_rate} Hz",
        *(tags if words.genres else ["prompts    any text"]),
        f"guidance   {model.guidance:g}",
        *(f"{name:10s} {_parameters(part) / 1e6:.1f} M parameters" for name, part in parts.items()),
    ]


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _guided(
    denoiser: Callable[..., Tensor], t: Tensor, cond: Tensor, guidance: float, x_t: Tensor
) -> Tensor:
    return denoiser(x_t, t, cond, guidance)


def _peak(
    model: MusicModel,
    x_T: Tensor,
    step: Callable[[Tensor], Tensor],
    calls: int,
    checkpointing: bool,
) -> int:
    """Most bytes alive at once in an iteration, besides what was there before."""
    # Vocoders of our own keep tables that must not be made of fake tensors; they are small enough
    # to run.
    fake = FakeTensorMode(allow_non_fake_inputs=True) if hasattr(model, "pipe") else nullcontext()
    with fake, Alive() as alive:
        x = torch.zeros(x_T.shape, device=x_T.device, requires_grad=True)
        x_0 = x
        for _ in range(calls):
            once = checkpoint(step, x_0, use_reentrant=False) if checkpointing else step(x_0)
            x_0 = 0.5 * (x_0 + cast(Tensor, once))
        torch.autograd.grad(model.to_audio(x_0).square().mean(), x)
    return alive.peak


def _decoders(model: MusicModel) -> list[nn.Module]:
    components = model.pipe.components if hasattr(model, "pipe") else {}  # pyright: ignore[reportAttributeAccessIssue]
    return list(
        {
            id(part): part for part in (model.vocoder, components.get("vae")) if part is not None
        }.values()
    )


def _encoders(model: MusicModel) -> list[nn.Module]:
    used = {id(model.network), *map(id, _decoders(model))}
    components = model.pipe.components.values() if hasattr(model, "pipe") else ()  # pyright: ignore[reportAttributeAccessIssue]
    return [part for part in components if isinstance(part, nn.Module) and id(part) not in used]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of one call, the faster of two."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        function(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        found.append(time.perf_counter() - began)
    return min(found)
