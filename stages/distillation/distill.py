"""Train one student from the teacher on the corpus, with the losses that params.yaml gives it.

Reads the teacher and the shards; writes the student as a stock model, a report and a loss curve.
Killed anywhere, the same command goes on from its last checkpoint to the identical student.
Run by hand, on two processes: torchrun --nproc-per-node 2 -m stages.distillation.distill ...
"""

import argparse
import shutil

from stages.command import log, parser_for, run
from stages.corpus.reading import Sequences, open_split
from stages.errors import SettingsError
from stages.files import scratch, sha256_of, write_json
from stages.params import Params, load
from stages.students.distilbert import build_student
from stages.students.heads import num_parameters
from stages.teacher.models import open_teacher, save_model
from stages.training.batches import MaskedBatches
from stages.training.curves import write_curve
from stages.training.heldout import measure_heldout
from stages.training.loop import train
from stages.training.processes import Processes, joined_processes, start_processes
from stages.training.triple_loss import FrozenTeacher, TripleLoss


def distill(arguments: argparse.Namespace, params: Params, processes: Processes) -> None:
    """Train the student named on the command line and write what it became."""
    if arguments.student not in params.students:
        raise SettingsError(
            f"--student {arguments.student}: params.yaml has {', '.join(params.students)}"
        )
    recipe, settings = params.students[arguments.student], params.distill
    sequences = open_split(arguments.shards, "train")
    teacher_model = open_teacher(arguments.teacher).to(processes.device)
    teacher = FrozenTeacher(teacher_model)
    check_same_vocabulary(sequences, teacher_model.config.vocab_size)
    student = build_student(
        teacher_model,
        recipe.teacher_layers,
        initialise=recipe.initialise,
        fold_token_type=recipe.fold_token_type,
        dropout=settings.dropout,
        seed=params.seed,
    ).to(processes.device)
    heldout = MaskedBatches(
        open_split(arguments.shards, "heldout"),
        params.launch.micro_batch_sequences,
        params.seed,
        settings.masking,
    )

    def measured() -> dict[str, float]:
        return measure_heldout(student, teacher, heldout.fixed(settings.heldout_sequences))

    report: dict[str, object] = {}
    if processes.is_first:
        report["initial_heldout"] = measured()
    num_steps = settings.schedule.total_steps(sequences.num_sequences)
    workspace = scratch(
        f"distill-{arguments.student}",
        params.seed,
        settings.model_dump(mode="json"),
        recipe.model_dump(mode="json"),
        sequences.digest,
        sha256_of(arguments.teacher / "model.safetensors"),
    )
    outcome = train(
        TripleLoss(
            student,
            teacher,
            recipe.weights,
            temperature=settings.temperature,
            positions=settings.positions,
        ),
        MaskedBatches(sequences, settings.schedule.batch_sequences, params.seed, settings.masking),
        settings.schedule,
        num_steps,
        params.launch,
        processes,
        seed=params.seed,
        workspace=workspace,
        title=arguments.student,
    )
    if not processes.is_first:
        return
    num_tokens = num_steps * settings.schedule.batch_sequences * sequences.sequence_length
    report |= outcome.cost(num_tokens) | {
        "student": arguments.student,
        "num_parameters": num_parameters(student),
        "batch_sequences": settings.schedule.batch_sequences,
        "temperature": settings.temperature,
        "positions": settings.positions,
        "weights": recipe.weights.model_dump(),
        "teacher_layers": recipe.teacher_layers,
        "initialise": recipe.initialise,
        "heldout": measured(),
    }
    save_model(student, arguments.teacher, arguments.out)
    report["model_sha256"] = sha256_of(arguments.out / "model.safetensors")
    write_curve(arguments.curve, outcome.curve)
    write_json(arguments.report, report)
    shutil.rmtree(workspace)


def check_same_vocabulary(sequences: Sequences, vocabulary_size: int) -> None:
    """Refuse shards that were tokenised with another vocabulary than the teacher's."""
    if sequences.vocabulary_size != vocabulary_size:
        raise SettingsError(
            f"the shards were made with a vocabulary of {sequences.vocabulary_size} tokens, the "
            f"teacher has {vocabulary_size}: run dvc repro to make them with its tokenizer"
        )


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    params = load()
    start_processes(params.launch)
    with joined_processes() as processes:
        distill(arguments, params, processes)
    log.info("%s is in %s", arguments.student, arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["teacher", "shards", "out", "report", "curve"])
    parser.add_argument("--student", required=True, help="a name under students in params.yaml")
    run(main, parser)
