"""Distilling a model into a few-step student: CM or CTM (DITTO-2 §3), with the CFG scale as input.

Run it with ``ditto-music distill ctm --data datasets/train --out runs/ctm``. The student has the
teacher's architecture, starts from its weights, and answers in one call what the guided teacher
takes 2 × 20 for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ditto.data.dataset import ClipDataset
from ditto.data.latents import LatentClips
from ditto.data.shards import find_data, folder_of
from ditto.diffusion.consistency import StudentDenoiser
from ditto.diffusion.denoiser import Cond, Denoiser
from ditto.diffusion.samplers import Chain, ddim, dpm_solver_pp
from ditto.diffusion.schedule import CLEAN, Schedule
from ditto.errors import DataError
from ditto.models.folder import hash_with_student
from ditto.models.model import MusicModel
from ditto.models.network import hash_weights
from ditto.models.student import MOST_STEPS, OLD_STEPS, Student, StudentSpacing
from ditto.paths import StrPath
from ditto.tables import widened
from ditto.training.consistency_loss import Example, Grid, Solver, distance, goal
from ditto.training.denoising import Clips, DenoiserRecipe
from ditto.training.learner import Count, Decay, Every, NotNegative, Positive, Share
from ditto.training.loop import Checkpoints, Ema, load_config, read_log, step_seed
from ditto.training.place import accelerator_of
from ditto.training.run import Run
from ditto.training.student_gap import SCALES, TeacherStudentGap
from ditto.training.student_init import (
    copy_sharing_frozen,
    init_student,
    load_trainable,
    merge_lora,
    trainable,
)
from ditto.training.whole_chains import Chains, Groups, ends, follow, places, told_goal

SHOWN = 4


@dataclass(frozen=True)
class DistillConfig(DenoiserRecipe):
    """Everything that determines a student, given the teacher and the data.

    Attributes:
        kind: "cm" (every jump ends at clean data) or "ctm" (jumps end anywhere on the grid).
        grid: timesteps of the teacher's chain; at most 80.
        spacing: of that grid, see `Schedule.timesteps`.
        solver: Θ, the step between them: "ddim", or "dpm++" of second order, see
            `consistency_loss`.
        student_spacing: of the student's own grids, by which it will be sampled.
        student_steps: T', in which it decodes by default.
        start_from: "teacher", whose weights it begins with, or "student", the one in its folder.
        guidance: range of the CFG scale w, drawn uniformly for every example.
        clean_share: CTM: share of the jumps that end at clean data; the others end uniformly from
            the next timestep on. A student that is not told where learns a mean: this says how much
            the end of the chain counts.
        told_end: CTM with whole chains: the student is told where a jump ends (embedded model
            alone); the ends are then as frequent as they are wide, see `whole_chains.ends`.
        first_share: share of the examples at the grid's first timestep, from which every one-step
            surrogate jumps.
        whole_chains: chains of the teacher that are computed at once, for the global form of the
            loss (`whole_chains`), with DPM-Solver++(2M) for `solver` "dpm++"; 0 is the local form,
            `consistency_loss`. They need only the conditions of the data.
        plain_share: of these chains, those at w = 1, which cost half as much.
        loss: "mse" or "pseudo_huber", see `consistency_loss.distance`.
        target_ema: decay of the target network φ⁻.
        lora_rank: 0 trains every weight; otherwise the rank of the updates of the layers (LoRA),
            which are all that is trained besides the input for w.
        seconds: length of the clips that a pipeline is distilled on; None is its window.
        evaluate_count: clips whose teacher–student gap is measured.
    """

    kind: Literal["cm", "ctm"] = "ctm"
    grid: Annotated[int, Field(ge=1, le=80)] = 20
    spacing: Literal["trailing", "karras"] = "trailing"
    solver: Solver = "ddim"
    student_spacing: StudentSpacing = "trailing"
    student_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = OLD_STEPS
    start_from: Literal["teacher", "student"] = "teacher"
    guidance: tuple[float, float] = (1.0, 5.0)
    clean_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    told_end: bool = False
    first_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    whole_chains: Annotated[int, Field(ge=0)] = 0
    plain_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    loss: Literal["mse", "pseudo_huber"] = "mse"
    steps: Count = 1500
    lr: NotNegative = 3e-4
    warmup: Count = 50
    decay: Share = 0.5
    target_ema: Decay = 0.95
    tag_dropout: Share = 0.08
    lora_rank: Annotated[int, Field(ge=0)] = 0
    seconds: Positive | None = None
    evaluate_count: Every = 16

    @property
    def jumps_to_clean(self) -> float:
        """Share of the jumps that end at clean data: all of a CM's."""
        return 1.0 if self.kind == "cm" else self.clean_share

    def grid_of(self, schedule: Schedule) -> Grid:
        """Build the grid of the teacher's timesteps."""
        return Grid.of(schedule, self.grid, self.jumps_to_clean, self.spacing)

    def __post_init__(self) -> None:
        """Check the range of w, the number of chains and what the student is told.

        Raises:
            DataError: it does not rise from 0 or more; there are fewer chains than examples; or the
                student is told jumps' ends without whole chains, or as a CM, whose ends are alike.
        """
        if self.told_end and not (self.whole_chains and self.kind == "ctm"):
            raise DataError('told_end needs kind "ctm" and whole_chains in the config')
        if not 0 <= self.guidance[0] <= self.guidance[1]:
            raise DataError(
                f"guidance must be a rising pair in the config, not {list(self.guidance)}"
            )
        if 0 < self.whole_chains < self.batch_size:
            raise DataError(
                f"whole_chains must be 0 or at least the batch's {self.batch_size} in the config, "
                f"not {self.whole_chains}"
            )


def draw(
    config: DistillConfig, teacher: MusicModel, grid: Grid, x_0: Tensor, cond: Cond, step: int
) -> Example:
    """Draw a step's examples: all its randomness, from (seed, step) alone."""
    schedule = teacher.student_schedule
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    place = grid.draw(len(x_0), generator, config.first_share)
    low, high = config.guidance
    w = low + (high - low) * torch.rand(len(x_0), generator=generator)
    x_t = schedule.add_noise(x_0, torch.randn(x_0.shape, generator=generator), grid.t[place])
    cond = teacher.drop_conditions(cond, config.tag_dropout, generator, config.grid_dropout)
    t, t_next, share = grid.t[place], grid.t_next[place], grid.share[place]
    return Example(
        x_t,
        cond,
        teacher.denoiser.null_cond(cond),
        w,
        t,
        t_next,
        share,
        weight(config, schedule, t),
    )


def weight(config: DistillConfig, schedule: Schedule, t: Tensor) -> Tensor:
    """Compute ω(t) of timesteps (B,): 1 + (σ_data / σ_t)², bounded, as in the base's training.

    What is left to be known about x_0 at σ_t has about the variance σ_data²·σ_t²/(σ_data² + σ_t²);
    dividing by it makes the timesteps count alike. So the low noise levels, whose estimates are the
    goals of the higher ones, are not drowned by them.
    """
    ratio = config.data_std / schedule.sigma(t, widened(t))
    return (1 + ratio.square()).clamp(max=config.max_weight).float().to(t.device)


def distillation_loss(
    student: StudentDenoiser,
    target: StudentDenoiser,
    teacher: Denoiser,
    config: DistillConfig,
    example: Example,
) -> Tensor:
    """Compute the loss of `ditto.training.consistency_loss`, a float32 scalar."""
    aim = goal(teacher, target, student.schedule, example, config.solver)
    estimate = student(example.x_t, example.t, example.cond, example.w).float()
    return (example.weight * distance((estimate - aim) / config.data_std, config.loss)).mean()


def solver_of(config: DistillConfig) -> Callable[[Chain, Tensor], Tensor]:
    """Return the sampler of the teacher's whole chains."""
    return dpm_solver_pp if config.solver == "dpm++" else ddim


def chain_groups(
    config: DistillConfig, teacher: MusicModel, clips: Clips, device: torch.device
) -> Groups:
    """Build what makes the teacher's chains for the global form of the loss."""
    schedule, sampler = teacher.student_schedule, solver_of(config)
    levels = schedule.timesteps(config.grid, config.spacing)

    def begin(number: int, generator: torch.Generator) -> tuple[Tensor, Cond]:
        x_0, cond = clips.batch(number, config.whole_chains)
        cond = teacher.drop_conditions(cond, config.tag_dropout, generator, config.grid_dropout)
        return torch.randn(x_0.shape, generator=generator).to(device), cond.to(device)

    def make(x_T: Tensor, cond: Cond, w: float) -> Chains:
        share = None if config.told_end else config.jumps_to_clean
        return follow(sampler, teacher.denoiser, schedule, levels, x_T, cond, w, share)

    return Groups(
        make,
        begin,
        scales=config.guidance,
        plain_share=config.plain_share,
        seed=config.seed,
        steps=max(config.whole_chains * config.grid // config.batch_size, 1),
    )


def chain_loss(
    student: StudentDenoiser, config: DistillConfig, chains: Chains, step: int, part: slice
) -> Tensor:
    """Compute the loss of `ditto.training.whole_chains` on a step's draws, a float32 scalar."""
    generator = torch.Generator().manual_seed(step_seed(config.seed, step))
    grid = student.schedule.timesteps(config.grid, config.spacing)
    place = places(grid, config.batch_size, generator, config.first_share)
    item = torch.randperm(len(chains.w), generator=generator)[: config.batch_size]
    if config.told_end:
        end = ends(grid, place, generator, config.clean_share)[part]
        place, item = place[part], item[part]
        aim = told_goal(student.schedule, grid, chains, place, end, item)
        student = student.towards(torch.tensor([*grid, CLEAN])[end])
    else:
        place, item = place[part], item[part]
        aim = chains.goal[place, item]
    t, x_t = torch.tensor(grid)[place], chains.x_t[place, item]
    omega = weight(config, student.schedule, t).to(chains.w.device)
    estimate = student(x_t, t.to(x_t.device), chains.cond[item], chains.w[item]).float()
    return (omega * distance((estimate - aim) / config.data_std, config.loss)).mean()


def check_grids(config: DistillConfig, teacher: MusicModel) -> None:
    """Check that the teacher's noise levels have the config's grids.

    Raises:
        DataError: they have not, as flows have none by noise levels.
    """
    schedule = teacher.student_schedule
    try:
        schedule.timesteps(config.grid, config.spacing)
        schedule.timesteps(config.student_steps, config.student_spacing)
    except ValueError as error:
        raise DataError(
            f"{teacher.name!r} has no such grid ({error}): change grid, spacing, student_steps or "
            "student_spacing in the config"
        ) from None


def train_student(
    config: DistillConfig,
    teacher: MusicModel,
    clips: Clips,
    out: Path,
    *,
    held_out: Clips | None = None,
    show: bool = True,
) -> nn.Module:
    """Distil until `config.steps`, resuming from the newest checkpoint in `out`.

    Returns the EMA network. As with `train_base`, the same config, teacher, data and machine give
    the same float32 weights on a CPU bit for bit, however often the run was killed, and the same
    files are written under `out`. The teacher's network is moved to accelerate's device.

    Raises:
        DataError: the teacher cannot be distilled or is not the one that the run began with, or
            training diverged.
    """
    check_grids(config, teacher)
    accelerator = accelerator_of(config.precision)
    device, schedule = accelerator.device, teacher.student_schedule
    for part in teacher.parts():
        nn.Module.to(part, device)
    network = init_student(
        teacher, config.lora_rank, config.seed, config.start_from, config.told_end
    ).to(device)
    target_network, averaged = copy_sharing_frozen(network), copy_sharing_frozen(network)
    run = Run(
        config,
        out,
        accelerator,
        network,
        averages={"target": config.target_ema, "ema": config.ema},
        begun_with={"teacher": begun_from(config, teacher)},
    )
    _follow(target_network, run.averages["target"])
    student, target = (
        teacher.student_denoiser(network, run.model),
        teacher.student_denoiser(target_network),
    )
    grid, gap = config.grid_of(schedule), _gap(config, teacher, held_out or clips, device)
    # the mark to beat: what the teacher itself makes of so few steps
    if run.writes and not read_log(run.log.path):
        run.log.write(
            0, **{f"teacher_{name}": value for name, value in gap.measure(teacher.denoiser).items()}
        )
    groups = chain_groups(config, teacher, clips, device) if config.whole_chains else None

    def local_loss(step: int) -> Tensor:
        example = draw(config, teacher, grid, *clips.batch(step, config.batch_size), step)
        example = example[run.part].to(device)
        return distillation_loss(student, target, teacher.denoiser, config, example)

    for step in run.steps(config.kind, show):
        with accelerator.autocast():
            if groups is None:
                loss = local_loss(step)
            else:
                loss = chain_loss(student, config, groups.at(step), step, run.part)
        run.update(loss)
        if run.due(config.evaluate_every):
            run.averages["ema"].copy_to(averaged)
            _evaluate(gap, teacher, averaged, run)
    run.averages["ema"].copy_to(averaged)
    return merge_lora(averaged).eval()


def train_from_folder(
    config: DistillConfig,
    teacher: MusicModel,
    data: StrPath,
    out: Path,
    *,
    held_out: StrPath | None = None,
) -> nn.Module:
    """Run `train_student` on a data folder or shards, with the teacher's window and vocabulary.

    A pipeline reads recordings too.

    Raises:
        DataError: see `train_student`, `ClipDataset` and `LatentClips`. What is wrong with the
            teacher is said before recordings are encoded.
        ModelError: see `MusicModel.new_student`.
        TagError: the data has a tag that the teacher does not know.
    """
    from ditto.models.adapters.common import PipelineModel

    check_grids(config, teacher)
    init_student(teacher, config.lora_rank, config.seed, config.start_from, config.told_end)

    def clips(root: StrPath) -> Clips:
        if isinstance(teacher, PipelineModel):
            folder = folder_of(root, "the distillation of a pipeline")
            return LatentClips(folder, teacher, seconds=config.seconds, seed=config.seed)
        return ClipDataset(
            find_data(root),
            teacher.spec,
            teacher.vocabulary,
            frames=teacher.spec.clip_frames,
            seed=config.seed,
            bands=teacher.bands,
        )

    return train_student(
        config, teacher, clips(data), out, held_out=clips(held_out) if held_out else None
    )


def begun_from(config: DistillConfig, teacher: MusicModel) -> str:
    """Return a hash of all that a run needs of its teacher: of LoRA on a student, that one's too.

    The checkpoints of such a run hold what was added to the student, not the student.
    """
    digest, student = hash_weights(teacher.network), teacher.distilled
    if config.lora_rank and config.start_from == "student" and student is not None:
        return hash_with_student(digest, hash_weights(student.network))
    return digest


def load_distilled(out: Path, teacher: MusicModel) -> Student:
    """Load the averaged weights of a run's newest checkpoint as a part of the teacher's model.

    Raises:
        DataError: if the run has no checkpoint yet, or was made with another teacher.
    """
    config = load_config(out / "config.json", DistillConfig)
    groups, state = Checkpoints(out).newest()
    if state["teacher"] != begun_from(config, teacher):
        raise DataError(
            f"{str(out)!r} is of another teacher than {teacher.name!r}: give the one that it was "
            "made with"
        )
    # what LoRA leaves frozen is no part of a checkpoint
    start_from = config.start_from if config.lora_rank else "teacher"
    network = init_student(teacher, config.lora_rank, config.seed, start_from, config.told_end)
    load_trainable(network, groups["ema"])
    return Student(
        merge_lora(network).requires_grad_(False).eval(),
        config.kind,
        config.guidance,
        hash_weights(teacher.network),
        config.student_steps,
        config.student_spacing,
    )


def _follow(network: nn.Module, average: Ema) -> None:
    """Make a network's parameters the averages themselves, so that none need be copied."""
    for name, parameter in trainable(network).items():
        parameter.data = average.shadow[name]


def _gap(
    config: DistillConfig, teacher: MusicModel, clips: Clips, device: torch.device
) -> TeacherStudentGap:
    """Build the measure of the gap, on conditions of held-out clips."""
    x_0, cond = clips.batch(0, config.evaluate_count)
    base, schedule, shape = teacher.denoiser, teacher.student_schedule, x_0.shape[1:]
    return TeacherStudentGap(
        base,
        schedule,
        cond.to(device),
        shape,
        seed=config.seed,
        grid=config.grid,
        spacing=config.spacing,
        student_spacing=config.student_spacing,
        sampler=solver_of(config),
        data_std=config.data_std,
    )


def _evaluate(gap: TeacherStudentGap, teacher: MusicModel, network: nn.Module, run: Run) -> None:
    """Log the gap; draw the teacher's clips above the student's in 1, 2 and 4 steps."""
    student = teacher.student_denoiser(network)
    run.log.write(run.done, **gap.measure(student))
    w = SCALES[-1]
    rows = [gap.reference(w), *(gap.sample(student, steps, w) for steps in (1, 2, 4))]
    mels = [mel[None] for row in rows for mel in teacher.to_mel(row[:SHOWN])]
    from ditto.plots import mel_grid  # imports Matplotlib: here, for few steps draw

    mel_grid(run.picture, mels, columns=SHOWN)
