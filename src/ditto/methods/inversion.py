"""Inversion: the latent from which the model makes a given clip again (DITTO appendix D, Table 7).

*Naïve* adds noise. *DDIM* walks the sampler backwards (Dhariwal & Nichol 2021). *Null-text* (Mokady
et al. 2023) starts there and learns, step by step, the null embeddings that lead guided sampling
along DDIM's path. *DITTO* starts there too and optimises x_T.

DDIM inversion is made at w=1 whatever w the clip is sampled with after it, as null-text inversion
prescribes: guidance amplifies the error of walking backwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ditto.diffusion.consistency import Noise
from ditto.diffusion.denoiser import Cond, GuidedDenoiser
from ditto.diffusion.samplers import Chain, ddim_invert_path, ddim_step
from ditto.models.conditioning import NULL, TagEmbedding

Rows = tuple[Tensor, ...]
"""One null embedding an item for every tag: tensors (B, width)."""


def naive_inversion(chain: Chain, x_ref: Tensor, noise: Noise) -> Tensor:
    """Return x_T by the forward process: x_ref at the noise level of the first timestep.

    Args:
        chain: its grid counts.
        x_ref: the clip, (B, 1, n_mels, frames).
        noise: ε of its shape.
    """
    return chain.schedule.add_noise(x_ref, noise(), chain.timesteps[0])


def ddim_inversion(chain: Chain, x_ref: Tensor, guidance: float = 1.0) -> Tensor:
    """Return x_T by DDIM walked backwards at CFG scale `guidance`, not at the chain's own."""
    return ddim_path(chain, x_ref, guidance)[0]


@torch.no_grad()
def ddim_path(chain: Chain, x_ref: Tensor, guidance: float = 1.0) -> list[Tensor]:
    """Return all x_t of `ddim_inversion`, x_T first and x_ref last."""
    return ddim_invert_path(replace(chain, guidance=guidance), x_ref)


@dataclass(frozen=True)
class NullText:
    """What null-text inversion found.

    Attributes:
        x_T: (B, …), of DDIM inversion.
        rows: the null embeddings of every step of the chain.
    """

    x_T: Tensor
    rows: list[Rows]


def null_text_inversion(
    chain: Chain, x_ref: Tensor, *, inner: int = 10, lr: float = 1e-2
) -> NullText:
    """Run null-text inversion (Mokady et al. 2023, algorithm 1).

        x*_T, …, x*_0 ← DDIM inversion at w=1;  x̄_T ← x*_T
        for every step i from t to s:
            `inner` times: ∅_i ← Adam(∅_i, ∇ ‖x*_s − DDIM(x̄_t, w·ε̂(c) + (1−w)·ε̂(∅_i))‖²)
            x̄_s ← DDIM(x̄_t, ∅_i);  ∅_{i+1} ← ∅_i

    The learning rate falls as lr·(1 − i/2T): the authors' 1e-2·(1 − i/100) at T=50.

    Args:
        chain: a tag-conditioned model of ours; its CFG scale is what the clip will be sampled with.
        x_ref: the clip, (B, 1, n_mels, frames).
        inner: Adam steps at each timestep.
        lr: Adam's learning rate at the first timestep.

    Raises:
        TypeError: the chain's model has no tag embeddings to learn.
    """
    rows = null_rows(chain, len(x_ref))  # first: a model that has none is refused at once
    path = ddim_path(chain, x_ref)
    x_t, found = path[0], []
    for i, (t, t_next) in enumerate(chain.pairs()):
        rows = tuple(row.detach().clone().requires_grad_() for row in rows)
        adam = torch.optim.Adam(rows, lr=lr * (1 - i / (2 * len(chain.timesteps))))
        # At w=1 the null condition is not asked.
        for _ in range(inner if chain.guidance != 1.0 else 0):
            adam.zero_grad()
            with torch.enable_grad():
                (_step(chain, x_t, rows, t, t_next) - path[i + 1]).square().flatten(1).mean(
                    dim=1
                ).sum().backward()
            adam.step()
        rows = tuple(row.detach() for row in rows)
        with torch.no_grad():
            x_t = _step(chain, x_t, rows, t, t_next)
        found.append(rows)
    return NullText(path[0], found)


@torch.no_grad()
def decode_null_text(chain: Chain, found: NullText) -> Tensor:
    """Return x_0: DDIM from the latent, every step with its null embeddings."""
    x_t = found.x_T
    for rows, (t, t_next) in zip(found.rows, chain.pairs(), strict=True):
        x_t = _step(chain, x_t, rows, t, t_next)
    return x_t


def _step(chain: Chain, x_t: Tensor, rows: Rows, t: int, t_next: int) -> Tensor:
    return ddim_step(chain.schedule, x_t, with_null(chain, rows).predict(x_t, t), t, t_next)


def null_rows(chain: Chain, batch: int) -> Rows:
    """Return the model's own null embeddings: for every tag, a row per item."""
    return tuple(
        weight[NULL].detach().expand(batch, -1) for weight in _tables(_denoiser(chain)).values()
    )


def with_null(chain: Chain, rows: Sequence[Tensor]) -> Chain:
    """Return the chain with these null embeddings, differentiable with regard to them.

    They are appended to the tables of tags for the time of a call, and item i's null condition
    points at row i.
    """
    denoiser, batch = _denoiser(chain), len(rows[0])
    tables = _tables(denoiser)
    own = {
        name: torch.cat([weight, row])
        for (name, weight), row in zip(tables.items(), rows, strict=True)
    }
    sizes = [len(weight) for weight in tables.values()]

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return functional_call(_module(denoiser), own, (x_t, t, cond))

    def null_cond(cond: Cond) -> Cond:
        null = torch.full_like(cond, NULL)
        for column, size in enumerate(sizes):
            null[:, column] = size + torch.arange(batch, device=cond.device)
        return null

    return replace(chain, denoiser=replace(denoiser, network=network, null_cond=null_cond))


def _denoiser(chain: Chain) -> GuidedDenoiser:
    if not isinstance(chain.denoiser, GuidedDenoiser):
        kind = type(chain.denoiser).__name__
        raise TypeError(f"null-text inversion needs a tag-conditioned model, not a {kind}")
    return chain.denoiser


def _module(denoiser: GuidedDenoiser) -> nn.Module:
    network: Callable[..., Tensor] = denoiser.network
    if not isinstance(network, nn.Module):
        raise TypeError("null-text inversion needs a network with tag embeddings")
    return network


def _tables(denoiser: GuidedDenoiser) -> dict[str, Tensor]:
    """Return every tag's embedding (size, width) by parameter name, in column order."""
    network = _module(denoiser)
    tags = [name for name, module in network.named_modules() if isinstance(module, TagEmbedding)]
    if len(tags) != 1:
        raise TypeError("null-text inversion needs a network with tag embeddings")
    return {
        name: weight
        for name, weight in network.named_parameters()
        if name.startswith(f"{tags[0]}.")
    }
