"""Memory and time of a computation: a counter of live tensors, and an estimate before a run.

`estimate_cost` rehearses one iteration (a step or two of the chain, decoding, loss, gradient) on
tensors that have shapes and no values, and counts what is alive at any moment. So
the figure includes what recomputing and the backward pass allocate, for the library's real graph.
It leaves out the allocator's slack and cuDNN's workspaces, for which `fits` leaves `SLACK`.
"""

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint

from ditto.diffusion.samplers import Chain, ddim, plain_call
from ditto.models.conditioning import Tags
from ditto.models.device import is_out_of_memory, memory_of, one_by_one, synchronise
from ditto.models.low_memory import rehearsed_low_memory
from ditto.models.model import MusicModel

BACKWARD = 2.0
"""Time of a backward pass over that of its forward pass."""

GIB = 2**30
CARDS = (8, 12, 24)
"""Memory of common graphics cards, GiB."""
SLACK = GIB
"""Of a card's memory, what is left to the driver, the allocator and the libraries' workspaces."""

Loss = Callable[[Tensor, MusicModel], Tensor]
"""x_0 and the model → losses (B,), as a control's."""


class MemoryTracker(TorchDispatchMode):
    """Tracks live and peak tensor memory allocated inside the `with` block, in bytes.

    It counts storages, so views are free. Fake tensors count as if they had values.

    Attributes:
        now: bytes that are alive at present.
        peak: the most that ever were.
    """

    def __init__(self, counts: Callable[[Tensor], bool] = lambda tensor: True) -> None:
        """Start at zero; only tensors for which `counts` is True count."""
        super().__init__()
        self._counts = counts
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages that it allocates."""
        inputs = {_key(leaf) for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_iter(outputs):
            if not isinstance(leaf, Tensor) or not self._counts(leaf):
                continue
            if _key(leaf) not in inputs:
                self._add(_key(leaf), leaf.untyped_storage())
        return outputs

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count the storages of these tensors, which must stay alive, nor their views."""
        self._storages |= {_key(tensor) for tensor in tensors}

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
        working: bytes that an iteration of DITTO needs at its peak besides.
        low_working: the same with ``low_memory``.
        student_working, low_student_working: the same of DITTO-2; None without a student.
        step_seconds: one guided denoiser call, without gradients.
        decode_seconds: one decoding, without gradients.
        steps, iterations: T and K that were asked about.
        checkpointing: whether model calls are made twice.
    """

    weights: int
    encoders: int
    working: int
    low_working: int
    step_seconds: float
    decode_seconds: float
    steps: int
    iterations: int
    checkpointing: bool
    student_working: int | None = None
    low_student_working: int | None = None

    @property
    def memory(self) -> int:
        """Bytes on the device at the peak."""
        return self.weights + self.working

    @property
    def low_memory(self) -> int:
        """Bytes on the device at the peak with ``low_memory``."""
        return self.weights + self.low_working

    @property
    def seconds(self) -> float:
        """Seconds of K iterations of DITTO and of decoding the clip."""
        once = self.steps * self.step_seconds + self.decode_seconds
        return once * (1 + self.iterations * (1 + BACKWARD + self.checkpointing))

    def fits(self, gigabytes: float) -> str:
        """Tell whether a card of this memory (GiB) is enough: "yes", "with --low-memory" or "no".

        The method is DITTO-2 where there is a student, else DITTO.
        """
        student = self.student_working is not None
        plain = self.student_working if student else self.working
        low = self.low_student_working if student else self.low_working
        room = gigabytes * GIB - SLACK - self.weights
        if (plain or 0) <= room:
            return "yes"
        return "with --low-memory" if (low or 0) <= room else "no"

    def lines(self) -> list[str]:
        """Return lines for people: memory, cards and time."""
        total, weights, working, encoders, low = (
            f"{size / GIB:.2f}"
            for size in (self.memory, self.weights, self.working, self.encoders, self.low_memory)
        )
        ditto2 = []
        if self.student_working is not None and self.low_student_working is not None:
            sizes = self.student_working, self.low_student_working
            one, less = (f"{(self.weights + size) / GIB:.2f}" for size in sizes)
            ditto2 = [f"ditto2     {one} GiB, with --low-memory {less}"]
        times = f"time       {self.seconds:.0f} s for T={self.steps} K={self.iterations}: a guided "
        times += f"step takes {self.step_seconds:.3g} s, decoding {self.decode_seconds:.3g} s"
        if math.isinf(self.seconds):
            times = "time       unknown: there is not enough memory here to time a step"
        return [
            f"memory     {total} GiB = {weights} weights + {working} at the peak of an iteration; "
            f"prompt encoders on the CPU: {encoders}",
            f"low memory {low} GiB with --low-memory",
            *ditto2,
            "fits       " + ", ".join(f"{size} GB: {self.fits(size)}" for size in CARDS),
            times,
        ]


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """An iteration to be rehearsed.

    Attributes:
        model: what runs.
        x_T: latents (B, …), whose values do not count.
        cond: of the batch.
        guidance: CFG scale w.
        loss: of a control.
        proxy: what DITTO-2 takes in its place.
        others: clips that are made one by one with this one, and only keep their latents.
    """

    model: MusicModel
    x_T: Tensor
    cond: Tensor
    guidance: float
    loss: Loss
    proxy: Loss
    others: int = 0

    @classmethod
    def of(
        cls,
        model: MusicModel,
        seconds: float | None,
        count: int,
        guidance: float | None,
        loss: Loss | None = None,
        proxy: Loss | None = None,
    ) -> "Rehearsal":
        """Return that of a request; see `estimate_cost`."""
        together = 1 if one_by_one(model.device, count) else count
        x_T = torch.zeros(together, *model.shape(seconds), device=model.device)
        w = model.guidance if guidance is None else guidance
        cond = model.cond(Tags(), together, seconds)
        loss = _sound_power if loss is None else loss
        proxy = loss if proxy is None else proxy
        return cls(model, x_T, cond, w, loss, proxy, others=count - together)

    def ditto(self, steps: int, checkpointing: bool) -> int:
        """Return the bytes that an iteration of DITTO takes at its peak, besides the weights."""
        one = self._peak(1, checkpointing)
        if steps == 1:
            return one
        # a checkpointed step keeps its latents; another all that the second adds to the first
        more = self.x_T.nbytes if checkpointing else self._peak(2, False) - one
        return one + (steps - 1) * max(0, more)

    def ditto2(self, *, fast: bool = True) -> int | None:
        """Return the same of DITTO-2 with one step of the student; None without one.

        Without corrections (``fast=False``) it hears the whole vocoder.
        """
        model = self.model
        if model.student is None:
            return None
        return self._peak(1, False, student=True, fast=fast)

    def _peak(
        self, steps: int, checkpointing: bool, *, student: bool = False, fast: bool = True
    ) -> int:
        grid = (self.model.student_schedule if student else self.model.schedule).timesteps(steps)
        with _without_values(self.model) as (model, memory):
            heard = model.fast if student and fast else model
            denoiser = model.student if student else model.denoiser
            schedule = model.student_schedule if student else model.schedule
            assert denoiser is not None
            call = _checkpointed_call if checkpointing else plain_call
            cond = self.cond.to(model.device)
            chain = Chain(denoiser, schedule, grid, cond, self.guidance, call=call)
            shape = self.x_T.shape
            with memory:
                latent = torch.zeros(shape, device=model.device, requires_grad=True)
                kept = [torch.zeros(shape, device=model.device) for _ in range(LATENTS)]
                x_0 = ddim(chain, latent)
                if student:  # a correction hears what was decoded, while the graph is alive
                    with torch.no_grad():
                        self.loss(x_0.detach(), model)
                loss = (self.proxy if student else self.loss)(x_0, heard)
                torch.autograd.grad(loss.sum(), latent)
        del kept
        return memory.peak + self.others * LATENTS * self.x_T.nbytes


@contextmanager
def _without_values(model: MusicModel) -> Iterator[tuple[MusicModel, MemoryTracker]]:
    """Yield a model that computes without values in the block, and what counts its memory.

    Our own networks are copied to the meta device. A pipeline's stay, in a mode that lets any
    tensor be one without values; code of other people's often asks what device it is on.
    """
    model = replace(model)  # what it keeps of the rehearsal goes with it
    _ = model.schedule, model.student_schedule  # tables are to be real
    if not hasattr(model, "pipe"):
        yield _on_meta(model), MemoryTracker(lambda tensor: tensor.device.type == "meta")
        return
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # The mode takes a weight for a tensor of its own, of which a view would count as new.
    # Heads that were loaded in the mode would stay without values.
    heads = [] if model.readers is None else [model.readers.on(model.device)]
    parts = [*model.computing(), *heads]
    weights = [mode.from_tensor(t) for part in parts for t in _tensors(part)]
    memory = MemoryTracker(lambda tensor: isinstance(tensor, FakeTensor))
    memory.ignore(weights)
    with mode:
        yield model, memory


def _on_meta(model: MusicModel) -> MusicModel:
    def moved(network: nn.Module) -> nn.Module:
        return copy.deepcopy(network).to("meta")

    student = model.distilled and replace(model.distilled, network=moved(model.distilled.network))
    changed = {"network": moved(model.network), "vocoder": moved(model.vocoder)}
    readers = model.readers and model.readers.on_meta()
    copied = replace(model, **changed, distilled=student, readers=readers)
    copied.computing()  # makes those in lower precision
    for name in ("schedule", "student_schedule"):
        schedule = copy.copy(getattr(model, name))
        object.__setattr__(schedule, "alpha_bar", schedule.alpha_bar.to("meta"))
        copied.__dict__[name] = schedule
    return copied


LATENTS = 6
"""Tensors of x_T's size that an optimisation keeps: Adam's moments, the gradient, the best."""


def _checkpointed_call(function: Callable[..., Tensor], *args: object) -> Tensor:
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


def _sound_power(x_0: Tensor, model: MusicModel) -> Tensor:
    return model.to_audio(x_0).square().mean(dim=1)


def estimate_cost(
    model: MusicModel,
    *,
    seconds: float | None = None,
    count: int = 1,
    guidance: float | None = None,
    steps: int = 20,
    iterations: int = 70,
    checkpointing: bool = True,
    loss: Loss | None = None,
    proxy: Loss | None = None,
) -> Cost:
    """Estimate what DITTO, and DITTO-2 if there is a student, on this model costs where it is.

    Args:
        model: from `ditto.load`.
        seconds: length of the clips; None is the model's window.
        count: clips at once.
        guidance: CFG scale w; None is the model's default.
        steps: T.
        iterations: K.
        checkpointing: as in `ditto.Request`.
        loss: a control; None is any that hears the sound.
        proxy: what DITTO-2 takes in its place, if it takes one.

    Raises:
        DittoError: the model cannot make clips of that length.
    """
    plain = Rehearsal.of(model, seconds, count, guidance, loss, proxy)
    with rehearsed_low_memory(model) as lean:
        low = replace(plain, model=lean)
        low_working, low_student = low.ditto(steps, checkpointing), low.ditto2()
    working, student = plain.ditto(steps, checkpointing), plain.ditto2()
    x_T, cond, w = plain.x_T, plain.cond, plain.guidance
    t = torch.full((len(x_T),), model.schedule.timesteps(1)[0], device=model.device)
    times = count // len(x_T)
    encoders = getattr(model, "encoders", [])
    with torch.no_grad():
        return Cost(
            weights=weights_of(model),
            encoders=_bytes(encoders),
            working=working,
            low_working=low_working,
            student_working=student,
            low_student_working=low_student,
            step_seconds=times * _seconds(lambda x: model.denoiser(x, t, cond, w), x_T),
            decode_seconds=times * _seconds(model.to_sound, x_T),
            steps=steps,
            iterations=iterations,
            checkpointing=checkpointing,
        )


def what_fits(model: MusicModel, seconds: float, count: int, guidance: float) -> str:
    """Say what of a request that ran out of memory would fit, in a few words with the options.

    Args:
        model: what ran out.
        seconds: length of its clips.
        count: clips at once.
        guidance: CFG scale w.
    """
    room = memory_of(model.device)
    plain = "give fewer --seconds or a smaller --count"
    plain += "" if model.low_memory else ", or --low-memory (low_memory=True)"
    if room is None:
        return plain
    try:
        return _what_fits(model, room, seconds, count, guidance)
    except (RuntimeError, MemoryError):  # not even that
        return plain


def _what_fits(model: MusicModel, room: int, seconds: float, count: int, guidance: float) -> str:
    room -= weights_of(model) + SLACK
    length, shortest = seconds, _shortest(model)
    half = max(seconds / 2, shortest)
    low = "" if model.low_memory else " with --low-memory (low_memory=True)"
    with rehearsed_low_memory(model) as lean:
        whole, part = (_rehearsed(lean, s, guidance) for s in (length, half))
        # what an iteration needs grows with the sound in all: a constant, and so much a second
        each = (whole - part) / (length - half) if length > half else whole / length
        possible = (room - whole + each * length) / each
        if low and possible >= count * length:
            return "it would fit" + low
        if possible >= length:
            return f"--count {min(count - 1, int(possible / length))} would fit{low}"
        # attention grows faster than that, so a shorter clip is tried
        while (possible := math.floor(10 * possible) / 10) >= shortest:
            needed = _rehearsed(lean, possible, guidance)
            if needed <= room:
                return f"{possible:g} --seconds would fit{low}"
            possible *= min(0.9, room / needed)
    return f"not even a short clip would fit{low}: give a smaller model, or --device cpu"


def _rehearsed(model: MusicModel, seconds: float, guidance: float) -> int:
    """Return the bytes of an iteration for one clip, by the method that is the default."""
    rehearsal = Rehearsal.of(model, seconds, 1, guidance)
    return rehearsal.ditto2() or rehearsal.ditto(2, True)


def _shortest(model: MusicModel) -> float:
    """Return the seconds of a clip that every model can make: half a window of the features."""
    return (model.spec.n_fft // 2 + 2 * model.spec.hop) / model.spec.sample_rate


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
    prompts = "tags       none" if names.empty else "prompts    any text"
    if getattr(model, "sings", False):
        prompts += "; lyrics, tempo and key are conditions of their own"
    return [
        f"name       {model.name}",
        f"sha256     {model.sha256}",
        f"window     {model.spec.clip_seconds:.2f} s at {model.spec.sample_rate} Hz",
        *(tags if names.genres else [prompts]),
        f"guidance   {model.guidance:g}",
        *(f"{part:10s} {size:.1f} M parameters" for part, size in millions.items()),
        *([OWN_STUDENT.format(steps=student.steps)] if student is not None and student.own else []),
        *([f"heads      {', '.join(model.readers.features)}"] if model.readers else []),
    ]


OWN_STUDENT = (
    "student    the denoiser itself, distilled by its makers: ditto2 decodes in {steps} steps of "
    "Euler's method (gamma 0), for noise added on the way would forget x_T"
)


def weights_of(model: MusicModel) -> int:
    """Return the bytes of a model's networks, prompt encoders apart."""
    return _bytes(model.computing())


def _bytes(modules: list[nn.Module]) -> int:
    tensors = (t for module in modules for t in _tensors(module))
    return sum({t.data_ptr(): t.nbytes for t in tensors}.values())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Time one call, the faster of two; infinite if there is not enough memory for it."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        try:
            function(x)
            synchronise(x.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        times.append(time.perf_counter() - start)
    return min(times)
