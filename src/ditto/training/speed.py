"""How many clips a second a recipe of the base trains on this machine."""

import time

import torch

from ditto.models.conditioning import drop_conditions
from ditto.training.base import network_of
from ditto.training.denoising import BaseConfig, Setting, diffusion_loss, draw
from ditto.training.learner import Learner
from ditto.training.loop import Ema
from ditto.training.place import accelerator_of

WARM = 3
"""Steps that are not timed."""


def clips_per_second(config: BaseConfig, steps: int = 12) -> float:
    """Time whole steps: draws, loss, gradient, AdamW and averages; no data are read.

    The fastest third of `steps` steps counts: others who use the machine slow single steps
    down; the fastest say what it can do.
    """
    accelerator = accelerator_of(config.precision)
    network = network_of(config)
    setting, learner = Setting.of(config, network), Learner(accelerator, network, config)
    decays = [config.ema, *([config.slow_ema] if config.slow_ema else [])]
    averages = [Ema(network, decay, config.ema_every) for decay in decays]
    bands = int(config.network.get("n_mels", 160))
    x_0 = torch.randn(config.batch_size, 1, bands, config.frames)
    tags = torch.zeros(config.batch_size, 5, dtype=torch.long)
    seconds = []
    for step in range(WARM + steps):
        began = time.perf_counter()
        t, noise, generator = draw(config, setting.schedule, x_0, step)
        dropped = drop_conditions(tags, config.tag_dropout, generator, config.grid_dropout)
        batch = (a.to(accelerator.device) for a in (x_0, dropped, t, noise))
        with accelerator.autocast():
            loss = diffusion_loss(learner.model, setting, *batch)
        learner.descend(loss, step)
        for average in averages:
            average.update(network, step)
        loss.item()
        seconds.append(time.perf_counter() - began)
    fastest = sorted(seconds[WARM:])[: max(1, steps // 3)]
    return config.batch_size * len(fastest) / sum(fastest)
