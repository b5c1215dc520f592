"""The loss of the base: draws of t and noise, weights, parameterisations."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.test_base import TINY, Clips
from torch import Tensor

from ditto.diffusion.schedule import Schedule
from ditto.errors import DataError
from ditto.models.unet import TagUNet
from ditto.training.base import load_ema, train_base
from ditto.training.denoising import Setting, diffusion_loss, draw


def test_timesteps_are_spread_over_the_batch_and_drawn_from_the_step() -> None:
    schedule, x_0 = Schedule.cosine(), torch.zeros(8, 1, 2, 2)
    t, noise, _ = draw(TINY, schedule, x_0, 3)
    assert [int(value) // 125 for value in t] == list(range(8))
    again, same, _ = draw(TINY, schedule, x_0, 3)
    assert torch.equal(t, again)
    assert torch.equal(noise, same)
    for other in (draw(TINY, schedule, x_0, 4), draw(replace(TINY, seed=1), schedule, x_0, 3)):
        assert not torch.equal(noise, other[1])


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_0, tags = Clips().batch(0, 4)
    t, noise, _ = draw(TINY, Schedule.cosine(), x_0, 0)
    return x_0, tags, t, noise


class Fixed(torch.nn.Module):
    """A network that always gives the same output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x_t: Tensor, t: Tensor, tags: Tensor) -> Tensor:
        return self.output


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_the_weighted_loss_is_the_error_of_v_for_data_of_variance_1(prediction) -> None:
    # data scaled to variance 1, on the schedule whose σ is scaled alike, has the same ᾱ: its v
    # error is the definition
    x_0, tags, t, noise = batch()
    t = t.clamp(50, 900)
    schedule, plain = Schedule.cosine(shift=0.26), Schedule.cosine()
    setting = Setting(schedule, prediction, 0.26, 1e9)
    x_t = schedule.add_noise(x_0, noise, t)
    estimate = 0.9 * x_0
    output = {
        "sample": estimate,
        "epsilon": schedule.to_epsilon(estimate, x_t, t),
        "v_prediction": schedule.velocity(estimate, schedule.to_epsilon(estimate, x_t, t), t),
    }[prediction]
    y_t = plain.add_noise(x_0 / 0.26, noise, t)
    v = plain.velocity(x_0 / 0.26, noise, t)
    v_hat = plain.velocity(estimate / 0.26, plain.to_epsilon(estimate / 0.26, y_t, t), t)
    loss = diffusion_loss(Fixed(output), setting, x_0, tags, t, noise)
    torch.testing.assert_close(loss, (v_hat - v).square().mean(), rtol=1e-3, atol=0)
    bounded = diffusion_loss(Fixed(output), replace(setting, max_weight=2.0), x_0, tags, t, noise)
    assert bounded < loss


def test_the_velocitys_loss_is_the_error_of_a_straight_paths_velocity() -> None:
    x_0, tags, t, noise = batch()
    t = t.clamp(200, 900)
    setting = Setting(Schedule.cosine(), "sample", 1.0, 1e9, "velocity_mse", least_share=1e-6)
    estimate = 0.9 * x_0
    sigma = setting.schedule.sigma(t, x_0)
    share = sigma / (1 + sigma)
    path = (1 - share) * x_0 + share * noise
    velocity, found = noise - x_0, (path - estimate) / share
    loss = diffusion_loss(Fixed(estimate), setting, x_0, tags, t, noise)
    torch.testing.assert_close(loss, (found - velocity).square().mean(), rtol=1e-4, atol=0)
    bounded = diffusion_loss(
        Fixed(estimate), replace(setting, least_share=0.5), x_0, tags, t, noise
    )
    capped = ((estimate - x_0) / share.clamp(min=0.5)).square().mean()
    torch.testing.assert_close(bounded, capped, rtol=1e-4, atol=0)


def test_the_papers_loss_is_l1_on_the_noise() -> None:
    x_0, tags, t, noise = batch()
    setting = Setting(Schedule.cosine(), "epsilon", 1.0, 50.0, "noise_l1")
    guess = torch.randn_like(noise)
    loss = diffusion_loss(Fixed(guess), setting, x_0, tags, t, noise)
    torch.testing.assert_close(loss, (guess - noise).abs().mean())
    with pytest.raises(DataError, match="noise_l1 needs the prediction epsilon, not sample"):
        diffusion_loss(Fixed(guess), replace(setting, prediction="sample"), x_0, tags, t, noise)


def test_the_papers_unet_and_loss_train(tmp_path: Path) -> None:
    network = {
        "block_out_channels": [8, 8],
        "layers_per_block": [1, 1],
        "attention_stages": 1,
        "attention_heads": 2,
        "norm_groups": 4,
        "tag_width": 8,
        "tag_sizes": [4, 3, 13],
    }
    config = replace(
        TINY,
        network_kind="unet",
        network=network,
        loss="noise_l1",
        data_std=1.0,
        steps=3,
        lr=1e-3,
        lr_decay="cosine",
        decay=1.0,
    )
    trained = train_base(config, Clips(), tmp_path, show=False)
    assert isinstance(trained, TagUNet)
    assert isinstance(load_ema(tmp_path), TagUNet)
