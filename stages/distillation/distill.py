r"""Train one student from the teacher on the corpus, as its recipe in params.yaml says.

Reads the teacher and the shards; writes the student as a stock model, a report and a loss curve.
A recipe's phases follow each other, each with its own checkpoints; without any, the student is
written as it is initialised.
Killed anywhere, the same command goes on from its last checkpoint to the identical student.

Run: python -m stages.distillation.distill --student distilbert \
         --teacher models/teacher --shards data/shards --out models/students/distilbert \
         --report reports/students/distilbert.json --curve reports/curves/distilbert.csv
On two processes, put `stages.training.torchrun --standalone --nproc-per-node 2 -m` after -m.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from stages.command import log, parser_for, run
from stages.corpus.reading import open_split
from stages.distillation.folders import folders_read, pooler_beside
from stages.distillation.phase_loss import PhaseLoss
from stages.distillation.phases import (
    Stretch,
    batches_of,
    hold_unreached,
    phase_losses,
    rate_factors,
    stretches,
)
from stages.files import discard, make_lasting, scratch, sha256_of, write_json
from stages.params import TEACHER, Params, Recipe, load
from stages.students.building import build
from stages.students.heads import num_parameters
from stages.teacher.models import check_reads, open_teacher, save_model
from stages.tracking.live import Training, live_curve
from stages.training.ahead import Ahead
from stages.training.checkpoints import CurveRow
from stages.training.compiling import compile_layers
from stages.training.curves import write_curve
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.heldout import heldout_batches, measure_heldout
from stages.training.loop import train
from stages.training.processes import Processes, joined_processes, start_processes
from stages.training.spending import Outcome, joined, later
from stages.training.teacher_states import bytes_of_states, check_room, open_states
from stages.training.work import work_per_token


def distill(arguments: argparse.Namespace, params: Params, processes: Processes) -> None:
    """Train the student named on the command line and write what it became."""
    folders = folders_read(arguments, params)
    recipe, settings = params.recipes[arguments.student], params.distill
    sequences = open_split(arguments.shards, "train", verify=processes.is_first_here)
    models = {name: open_teacher(path).to(processes.device) for name, path in folders.items()}
    for name, model in models.items():
        check_reads(model.config, sequences, name)
    taught_by = [models[name] for name in recipe.taught_by]
    dropout = settings.dropout if recipe.dropout is None else recipe.dropout
    before = models.get(getattr(recipe, "after", ""))
    student = build(taught_by[0], recipe, dropout=dropout, seed=params.seed, before=before)
    student = student.to(processes.device)
    check_reads(student.config, sequences, arguments.student)
    if params.launch.compile:
        compile_layers(student)
    teacher = FrozenTeacher(
        *taught_by, narrow=settings.teacher_precision == "bfloat16", compiled=params.launch.compile
    )
    plan = stretches(recipe, settings, sequences.num_sequences, student.config.num_hidden_layers)
    losses = phase_losses(plan, student, teacher, taught_by[0].config, settings, seed=params.seed)
    # Whoever taught it, a student is measured by the teacher: students then compare.
    reference = FrozenTeacher(models[TEACHER])
    heldout = heldout_batches(
        arguments.shards, params.seed, settings.masking, verify=processes.is_first_here
    )

    def measured() -> dict[str, float]:
        return measure_heldout(student, reference, heldout.fixed(settings.heldout_sequences))

    width, length = taught_by[0].config.hidden_size, sequences.sequence_length
    needed = sum(
        bytes_of_states(s.num_steps * s.schedule.batch_sequences * length, width)
        for s, loss in zip(plan, losses, strict=True)
        if loss.reads_last_states_alone
    )
    check_room(needed, params.launch, arguments.student)
    report: dict[str, object] = {}
    if processes.is_first:
        report["initial_heldout"] = measured()
    sha256 = {name: sha256_of(path / "model.safetensors") for name, path in folders.items()}
    workspace = scratch(
        f"distill-{arguments.student}",
        params.seed,
        settings.model_dump(mode="json"),
        recipe.model_dump(mode="json"),
        sequences.digest,
        *sha256.values(),
    )
    training = Training(params.registry.experiment, arguments.student, workspace.name)
    outcomes: list[Outcome] = []
    with live_curve(training, params.launch.live_curve_after_seconds) as listener:
        for index, (stretch, loss) in enumerate(zip(plan, losses, strict=True)):
            # Every stretch draws its own order, masks and dropout; the first those of the run.
            seed, size = params.seed + index, stretch.schedule.batch_sequences
            batches = batches_of(stretch, loss, sequences, settings, seed)
            factors = rate_factors(loss, stretch.only_layer)
            hold_unreached(loss, batches(0), processes.device, factors)
            work = work_per_token(
                student.config,
                teacher.configs,
                loss.asked(stretch.masking, settings.sampled_fraction),
                sequence_length=length,
                num_parameters=num_parameters(student),
                tokens_per_step=size * length,
            )
            if loss.reads_last_states_alone:
                precisions = settings.teacher_precision, stretch.schedule.precision
                loss.states = open_states(
                    sha256[recipe.taught_by[0]], precisions, size, params.launch, processes
                )
            alone = len(plan) == 1
            folder = workspace if alone else workspace / f"{index:02d}-{stretch.name}"
            # Each phase has checkpoints of its own; a rerun takes up the ends of those before.
            make_lasting(folder)
            with Ahead(batches, stretch.num_steps) as ahead:
                outcome = train(
                    loss,
                    ahead,
                    stretch.schedule,
                    stretch.num_steps,
                    params.launch,
                    processes,
                    seed=seed,
                    workspace=folder,
                    title=arguments.student if alone else f"{arguments.student}, {stretch.name}",
                    rate_factors=factors,
                    flops_per_token=work.total,
                    listener=following(outcomes, listener),
                )
            outcomes.append(outcome)
    nothing = Outcome(0, 0.0, processes.device.type, processes.world_size, [])
    outcome = joined(outcomes or [nothing])
    if not processes.is_first:
        return
    num_sequences = sum(s.num_steps * s.schedule.batch_sequences for s in plan)
    report |= outcome.cost(num_sequences * length) | described(recipe, plan, losses)
    report |= {
        "student": arguments.student,
        "training": training.fingerprint,
        "num_parameters": num_parameters(student),
        "num_layers": student.config.num_hidden_layers,
        "heldout": measured(),
    }
    pooler = pooler_beside(recipe, student, models, folders)
    save_model(student, arguments.teacher, arguments.out, pooler)
    report["model_sha256"] = sha256_of(arguments.out / "model.safetensors")
    write_curve(arguments.curve, outcome.curve)
    write_json(arguments.report, report)
    discard(workspace)


def described(recipe: Recipe, plan: list[Stretch], losses: list[PhaseLoss]) -> dict[str, object]:
    """Return what a report says of how its student was made."""
    return {
        "batch_sequences": plan[-1].schedule.batch_sequences if plan else 0,
        "weights": {name: weight for loss in losses for name, weight in loss.weights.items()},
        "recipe": recipe.model_dump(mode="json"),
        "phases": [
            {"name": s.name, "num_steps": s.num_steps, "weights": loss.weights, **_soft(loss)}
            for s, loss in zip(plan, losses, strict=True)
        ],
        "teacher_layers": recipe.initialise.layers if recipe.initialise.kind == "layers" else [],
        "initialise": recipe.initialise.kind,
        "taught_by": recipe.taught_by,
        "after": getattr(recipe, "after", None),
    }


def _soft(loss: PhaseLoss) -> dict[str, object]:
    if loss.triple is None or "ce" not in loss.triple.weights:
        return {}
    return {"temperature": loss.triple.temperature, "positions": loss.triple.positions}


def following(
    outcomes: list[Outcome], listener: Callable[[list[CurveRow]], None] | None
) -> Callable[[list[CurveRow]], None] | None:
    """Return a listener of the phase after some others, which tells all curves end to end."""
    if listener is None or not outcomes:
        return listener
    before = joined(outcomes)
    return lambda curve: listener([*before.curve, *later(curve, before.num_steps)])


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    params = load()
    start_processes(params.launch)
    with joined_processes() as processes:
        distill(arguments, params, processes)
    log.info("%s is in %s", arguments.student, arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["teacher", "shards", "out", "report", "curve"])
    parser.add_argument(
        "--student", required=True, help="a name under students or successors in params.yaml"
    )
    parser.add_argument(
        "--after", type=Path, metavar="PATH", help="of a successor: the student it comes after"
    )
    run(main, parser)
