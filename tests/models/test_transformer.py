"""The patch transformer: shapes, patches, rotary positions, tags, precision, saving."""

from pathlib import Path

import pytest
import torch
from tests.conftest import make_network
from torch import Tensor

from ditto.models.network import in_precision
from ditto.models.transformer import PatchTransformer, attention, rotary, rotate

TAGS = torch.tensor([[1, 2, 3], [2, 0, 5]])
T = torch.tensor([10, 900])


def x(frames: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(
        2, 1, 16, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("frames", [2, 8, 30])
def test_any_number_of_whole_patches(tiny_network: PatchTransformer, frames: int) -> None:
    assert tiny_network(x(frames), T, TAGS).shape == (2, 1, 16, frames)
    assert frames % tiny_network.frame_multiple == 0


def test_the_first_output_is_zero() -> None:
    network = PatchTransformer(n_mels=16, patch=2, width=16, depth=1, heads=2)
    assert not network(x().float(), T, TAGS).any()


def test_patches_come_back_in_their_place(tiny_network: PatchTransformer) -> None:
    tokens = tiny_network._patchify(x())
    assert tokens.shape == (2, 4, 32)
    # a token is two neighbouring frames
    assert torch.equal(tokens[0, 1].sort().values, x()[0, 0, :, 2:4].flatten().sort().values)
    assert torch.equal(tiny_network._unpatchify(tokens), x())


def test_items_of_a_batch_do_not_mix(tiny_network: PatchTransformer) -> None:
    together = tiny_network(x(), T, TAGS)
    for item in range(2):
        part = slice(item, item + 1)
        torch.testing.assert_close(together[part], tiny_network(x()[part], T[part], TAGS[part]))


@pytest.mark.parametrize("column", [0, 1, 2])
def test_every_tag_and_the_timestep_matter(tiny_network: PatchTransformer, column: int) -> None:
    other = TAGS.clone()
    other[:, column] = 1 - TAGS[:, column].clamp(max=1)
    assert not torch.allclose(tiny_network(x(), T, other), tiny_network(x(), T, TAGS))
    assert not torch.allclose(
        tiny_network(x(), T + 1, TAGS), tiny_network(x(), T, TAGS), rtol=0, atol=1e-6
    )


def test_every_frame_sees_every_other(tiny_network: PatchTransformer) -> None:
    x_t = x().requires_grad_()
    tiny_network(x_t, T, TAGS)[0, 0, 3, 0].backward()
    assert x_t.grad is not None
    assert (x_t.grad[0, 0].abs().amax(dim=0) > 0).all()
    assert not x_t.grad[1].any()


def test_gradient_is_that_of_finite_differences(tiny_network: PatchTransformer) -> None:
    x_t = x(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x_t: tiny_network(x_t, T, TAGS), (x_t,), fast_mode=True)


def test_rotary_attention_depends_on_the_distance_alone() -> None:
    rotation = rotary(12, 8, torch.zeros(1, dtype=torch.float64))
    q, k = (
        torch.randn(16, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        for s in (0, 1)
    )
    a, b = (rotate(x.expand(1, 12, 16), rotation, 2)[0].unflatten(-1, (2, 8)) for x in (q, k))
    scores = a[:, 1] @ b[:, 1].T
    torch.testing.assert_close(scores[:-3, :-3], scores[3:, 3:])
    assert scores[0].std() > 0.01
    torch.testing.assert_close(a.flatten(1).norm(dim=1), q.norm().expand(12))


def test_a_rotation_is_that_of_complex_numbers_and_so_is_its_gradient() -> None:
    cosine, sine = rotary(5, 8, torch.zeros(1, dtype=torch.float64))
    x = torch.randn(
        2,
        5,
        24,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
        requires_grad=True,
    )
    a, b = x.unflatten(-1, (3, 2, 4)).unbind(-2)
    turned = torch.complex(a, b) * torch.complex(cosine, sine)[:, None]
    expected = torch.stack([turned.real, turned.imag], dim=-2).flatten(-3)
    found = rotate(x, (cosine, sine), 3)
    torch.testing.assert_close(found, expected)
    slope = torch.randn(
        found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    (ours,), (theirs,) = (torch.autograd.grad(y, x, slope) for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_both_gelus_are_near_and_kept_in_the_config(gelu: str) -> None:
    network = make_network(gelu=gelu).double()
    assert dict(network.config)["gelu"] == gelu
    other = make_network().double()
    assert (network(x(), T, TAGS) - other(x(), T, TAGS)).abs().max() < 1e-2


def test_bfloat16_autocast_runs_and_is_near(tiny_network: PatchTransformer) -> None:
    network = tiny_network.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x().float(), T, TAGS)
    exact = network(x().float(), T, TAGS)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_saving_keeps_weights_and_config(tiny_network: PatchTransformer, tmp_path: Path) -> None:
    network = tiny_network.float()
    network.save_pretrained(tmp_path)
    loaded = PatchTransformer.from_pretrained(tmp_path)
    assert dict(loaded.config)["tag_sizes"] == [4, 3, 13]
    assert torch.equal(loaded(x().float(), T, TAGS), network(x().float(), T, TAGS))


W = torch.tensor([1.0, 4.5])


def test_a_network_with_guidance_starts_as_the_one_without(tiny_network: PatchTransformer) -> None:
    settings = {
        name: value for name, value in dict(tiny_network.config).items() if not name.startswith("_")
    }
    student = PatchTransformer(**settings | {"guidance_embedded": True}).double()
    missing, unexpected = student.load_state_dict(tiny_network.state_dict(), strict=False)
    assert (sorted(missing), unexpected) == (["guidance.layer.bias", "guidance.layer.weight"], [])
    for w in (W, 3 * W):
        assert torch.equal(student(x(), T, TAGS, w), tiny_network(x(), T, TAGS))


def test_guidance_matters_smoothly_and_to_its_own_item_alone() -> None:
    network = make_network(guidance_embedded=True).double()
    base = network(x(), T, TAGS, W)
    near, far = (network(x(), T, TAGS, W + torch.tensor([0.0, step])) for step in (0.01, 1.0))
    assert torch.equal(near[0], base[0])
    changes = [(other[1] - base[1]).norm().item() for other in (near, far)]
    assert 0 < 10 * changes[0] < changes[1]


def test_w_goes_to_students_and_to_no_other(tiny_network: PatchTransformer) -> None:
    for network, w in ((tiny_network, W), (make_network(guidance_embedded=True).double(), None)):
        with pytest.raises(ValueError, match="if, and only if, it is a student"):
            network(x(), T, TAGS, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_of_torch(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    error = (attention(q, k, v).double() - expected).abs().max()
    assert error < (1e-6 if dtype == torch.float32 else 2e-2)


def test_a_copy_in_low_precision_computes_its_blocks_in_bfloat16_and_nothing_else() -> None:
    network = make_network(frame_rate=31.0)
    low, tags = (
        in_precision(network, torch.bfloat16),
        torch.tensor([[1, 2, 3, 1200, 0], [2, 0, 5, 0, 0]]),
    )
    x_t = x().float().requires_grad_()
    assert {p.dtype for p in low.blocks.parameters()} == {torch.bfloat16}
    assert {p.dtype for name, p in low.named_parameters() if not name.startswith("blocks.")} == {
        torch.float32
    }
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    seen: list[torch.dtype] = []
    low.blocks[0].register_forward_pre_hook(
        lambda module, args: seen.extend(arg.dtype for arg in args[:2])
    )
    found, expected = low(x_t, T, tags), network(x_t, T, tags)
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.03 * expected.abs().max()
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    slopes = [torch.autograd.grad((output * weights).sum(), x_t)[0] for output in (found, expected)]
    assert (
        torch.nn.functional.cosine_similarity(*(slope.flatten() for slope in slopes), dim=0) > 0.999
    )
