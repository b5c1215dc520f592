"""What surrounds every training's loss: what is saved of a network in part frozen, what is logged,
what is refused."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, distributed, nn

from ditto.errors import DataError
from ditto.training.learner import Learner, Recipe
from ditto.training.loop import Checkpoints, read_log
from ditto.training.place import training_on
from ditto.training.run import Run


@dataclass(frozen=True)
class Small(Recipe):
    steps: int = 6
    lr: float = 0.05
    decay: float = 0.5
    log_every: int = 2
    checkpoint_every: int = 3


class Net(nn.Module):
    """A frozen layer, a trained one, and a count of its calls, which is no parameter but must be
    saved."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.frozen, self.trained = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.trained(self.frozen(x))


def started(out: Path, config: Small = Small(), **settings: object) -> Run:
    return Run(config, out, Accelerator(), Net(), averages={"ema": 0.9}, **settings)  # pyright: ignore[reportArgumentType]


def train(run: Run, stop: int = 1000) -> Run:
    for step in run.steps("test", show=False):
        if step == stop:
            break
        run.update(run.model(torch.ones(2, 3) * (step + 1)).square().sum())
    return run


def whole_and_killed(make: Callable[[Path], Run], folder: Path) -> tuple[Run, Run]:
    """A run of 6 steps, and one that was killed after its checkpoint of step 3 and made again."""
    whole = train(make(folder / "whole"))
    train(make(folder / "killed"), stop=4)
    again = train(make(folder / "killed"))
    assert (again.start, again.done) == (3, 6)
    return whole, again


def assert_alike(whole: Run, again: Run) -> None:
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_a_killed_run_with_frozen_parts_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, again = whole_and_killed(started, tmp_path)
    assert_alike(whole, again)
    assert whole.network.get_buffer("calls") == 6
    assert torch.equal(
        whole.averages["ema"].shadow["trained.weight"],
        again.averages["ema"].shadow["trained.weight"],
    )
    untrained = Net().state_dict()
    assert torch.equal(whole.network.state_dict()["frozen.weight"], untrained["frozen.weight"])
    assert not torch.equal(
        whole.network.state_dict()["trained.weight"], untrained["trained.weight"]
    )


class Stack(Net):
    """The same, with a transformer's blocks before them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.blocks = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.blocks[1](self.blocks[0](x).tanh()))


def stacked(out: Path) -> Run:
    config = Small(optimizer="muon")
    return Run(config, out, Accelerator(), Stack(), averages={"ema": 0.9})


def test_a_killed_run_of_muon_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, again = whole_and_killed(stacked, tmp_path)
    assert_alike(whole, again)


def test_muon_steps_the_blocks_matrices_alike_in_all_directions() -> None:
    """Jordan et al. 2024: the singular values of a step are about 1, here times 0.2 √(the longer
    side) and the rate."""
    learner = Learner(Accelerator(), net := Stack(), Small(optimizer="muon", warmup=1))
    weight = net.get_parameter("blocks.0.weight")
    before, (u, _, v) = weight.detach().clone(), torch.linalg.svd(weight.detach(), False)
    slope = u @ torch.tensor([4.0, 2.0, 1.0]).diag() @ v
    learner.descend((weight * slope).sum(), 0)
    step = (before - weight.detach()) / (0.05 * 0.2 * 5**0.5)
    assert torch.linalg.svdvals(step).tolist() == pytest.approx([1, 1, 1], abs=0.35)
    names = ["trained.weight", "trained.bias", "blocks.0.bias", "blocks.1.bias"]
    rest = learner.optimizers[0].param_groups[0]["params"]
    assert set(map(id, rest)) == {id(net.get_parameter(name)) for name in names}


def test_muon_needs_blocks() -> None:
    with pytest.raises(DataError, match="choose adamw"):
        Learner(Accelerator(), Net(), Small(optimizer="muon"))


def test_what_is_frozen_is_not_saved(tmp_path: Path) -> None:
    train(started(tmp_path))
    saved = {
        name: set(load_file(tmp_path / "step-00000006" / f"{name}.safetensors"))
        for name in ("model", "ema")
    }
    assert saved == {
        "model": {"trained.weight", "trained.bias", "calls"},
        "ema": {"trained.weight", "trained.bias"},
    }


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(started(tmp_path))
    groups, _ = Checkpoints(tmp_path).newest()
    for change in (groups["model"] | {"more": torch.zeros(1)}, {"calls": groups["model"]["calls"]}):
        with pytest.raises(DataError, match="of another network"):
            Learner(Accelerator(), Net(), Small()).load(groups | {"model": change})


def test_a_run_that_began_with_something_else_is_refused(tmp_path: Path) -> None:
    train(started(tmp_path, begun_with={"teacher": "a"}))
    assert json.loads((tmp_path / "step-00000006" / "state.json").read_text()) == {
        "step": 6,
        "teacher": "a",
    }
    with pytest.raises(
        DataError, match="begun with another teacher: choose another folder, or give --teacher"
    ):
        started(tmp_path, begun_with={"teacher": "b"})


def test_the_learning_rate_is_the_recipes_share_of_each_learners_own(tmp_path: Path) -> None:
    config = Small(warmup=4)
    run, other = started(tmp_path, config), Learner(Accelerator(), Net(), config, lr=0.3)
    rates = []
    for step in run.steps("test", show=False):
        run.update(run.model(torch.ones(2, 3)).square().sum())
        other.descend(other.model(torch.ones(2, 3)).square().sum(), step)
        groups = (run._learner.optimizers[0].param_groups, other.optimizers[0].param_groups)
        rates.append([group[0]["lr"] for group in groups])
    factors = [0.25, 0.5, 0.75, 1.0, 2 / 3, 1 / 3]
    assert rates == [pytest.approx([0.05 * factor, 0.3 * factor]) for factor in factors]


def test_losses_are_logged_smoothed_and_their_parts_as_they_are(tmp_path: Path) -> None:
    config = Small(steps=2, log_every=1)
    for name in ("whole", "parts"):
        run = started(tmp_path / name, config)
        for _ in run.steps("test", show=False):
            weight = run.network.get_parameter("trained.weight")
            parts = {"a": weight.square().sum(), "b": torch.tensor(2.0)}
            run.update(parts["a"] + parts["b"], parts if name == "parts" else None)
    whole, parts = (read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    assert [row["loss"] for row in whole] == [row["smooth_loss"] for row in parts]
    assert parts[1]["loss"] == pytest.approx(parts[1]["a"] + parts[1]["b"])
    assert parts[1]["smooth_loss"] == pytest.approx(
        0.98 * parts[0]["loss"] + 0.02 * parts[1]["loss"], rel=1e-4
    )


def test_what_is_due_is_due_at_its_multiples_and_in_the_end(tmp_path: Path) -> None:
    run, found = started(tmp_path, replace(Small(), steps=7)), []
    for _ in run.steps("test", show=False):
        run.update(run.model(torch.ones(1, 3)).square().sum())
        found += [run.done] if run.due(3) else []
    assert found == [3, 6, 7]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000006",
        "step-00000007",
    ]


@pytest.mark.parametrize(
    ("error", "left"), [(None, True), (KeyboardInterrupt, True), (DataError, False)]
)
def test_processes_part_at_the_end_but_not_where_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[BaseException] | None, left: bool
) -> None:
    """One that fails must not wait for the others to part, who wait for its gradients."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    try:
        with pytest.raises(error) if error else nullcontext(), training_on("cpu"):
            distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
            if error:
                raise error
        assert distributed.is_initialized() is not left
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
