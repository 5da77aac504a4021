"""Distil a fine-tuned teacher into a student on one task, with every seed, and score it.

PD, BERT-PKD and TinyBERT's second stage, by a recipe of `evaluation.task_distillation`. The
teacher is fine-tuned first, as `evaluation.finetune` says, unless one that was is given; the
student's text may be augmented.
Reads two stock model folders and a task's examples; writes a report like fine-tuning's, and with
--out the student whose score is the median. Killed anywhere, the same command goes on from the last
teacher, text or seed that was finished.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from stages.command import log, parser_for, run
from stages.distillation.layer_terms import layer_term
from stages.distillation.phases import draw, hold_unreached
from stages.errors import SettingsError
from stages.evaluation.augmented_text import augment
from stages.evaluation.classifier import logits_of_all
from stages.evaluation.examples import ShuffledBatches
from stages.evaluation.finetune import spread, tune, tune_on_labels, tuning_schedule
from stages.evaluation.keep import median_seed
from stages.evaluation.metrics import headline
from stages.evaluation.task_distillation import TaskDistillation
from stages.evaluation.task_models import Split, answers, open_model, read_split, scored
from stages.evaluation.task_teacher import check_tokenizers, open_tuned
from stages.files import atomic_output, read_json, scratch, sha256_of, sha256_of_tree, write_json
from stages.params import Params, load
from stages.params import TaskDistillation as Settings
from stages.teacher.models import save_model
from stages.training.processes import Processes, joined_processes


def distil_task(
    teacher_folder: Path,
    student_folder: Path,
    task_folder: Path,
    recipe: str,
    params: Params,
    processes: Processes,
    report_file: Path,
    out: Path | None = None,
    tuned_teacher: Path | None = None,
) -> dict[str, Any]:
    """Write the report of one student on one task by one recipe, and return it.

    Args:
        teacher_folder: A masked language model, which is fine-tuned and may augment text.
        student_folder: Any stock model with the teacher's tokenizer.
        task_folder: With the task's examples.
        recipe: A name under `evaluation.task_distillation`.
        params: The settings.
        processes: That train.
        report_file: Where the report goes.
        out: Where the student of the seed with the median score goes; None keeps none.
        tuned_teacher: A model that was fine-tuned on the task already, which then teaches.

    Raises:
        SettingsError: there is no such recipe, or it cannot be had on this task.
        TeacherError: a teacher has another tokenizer or another head.
    """
    known = params.evaluation.task_distillation
    if recipe not in known:
        raise SettingsError(
            f"--recipe {recipe}: evaluation.task_distillation in params.yaml has "
            f"{', '.join(known) or 'none: give it a recipe with phases'}"
        )
    task = read_json(task_folder / "task.json")
    settings = known[recipe].on(task["name"])
    if task["kind"] == "span" and settings.augmentation is not None:
        raise SettingsError(f"{task['name']}: the answers of changed texts are not known")
    teachers = [teacher_folder, *([tuned_teacher] if tuned_teacher else [])]
    check_tokenizers(student_folder, *teachers)
    # Where fine-tuning has a grid, the teacher takes its first choice.
    tuning = params.evaluation.finetune.choices(task["name"])[0]
    workspace = scratch(
        f"distil-task-{recipe}-{student_folder.name}-{task['name']}",
        settings.model_dump(mode="json"),
        tuning.model_dump(mode="json"),
        # That of the text, and of the teacher.
        (params.seed, params.evaluation.seeds[0]),
        *(sha256_of(folder / "model.safetensors") for folder in (*teachers, student_folder)),
        sha256_of_tree(task_folder),
    )
    tokenizer = student_folder / "tokenizer.json"

    def read(split: str, folder: Path = task_folder) -> Split:
        limit = tuning.max_train_examples if split == "train" else tuning.max_validation_examples
        return read_split(folder, task, split, tokenizer, tuning, limit)

    judged = {split: read(split) for split in task["validation_splits"]}
    tuned = tuned_teacher or workspace / "teacher"
    if not tuned.exists():
        seed = params.evaluation.seeds[0]
        teacher = open_model(teacher_folder, task, tuning.dropout, seed).to(processes.device)
        tune_on_labels(teacher, task, read("train"), tuning, params.launch, processes, seed)
        with atomic_output(tuned) as target:
            teacher.save_pretrained(target)
    teacher = open_tuned(tuned, task).to(processes.device)
    given = {split: answers(teacher, examples, task) for split, examples in judged.items()}
    text = task_folder
    if settings.augmentation is not None:
        text = workspace / "text"
        if not text.exists():
            limit = tuning.max_train_examples
            augment(
                settings.augmentation, teacher_folder, task_folder, task, limit, params.seed, text
            )
    # Variants count as examples of their own, and are all used.
    training = read("train") if text == task_folder else read_split(
        text, task, "train", tokenizer, tuning, None
    )  # fmt: skip
    # Asked once: every epoch of every seed has the same text, and the teacher has no dropout.
    taught_NC = None
    if task["kind"] != "span" and any(p.soft_targets and not p.objectives for p in settings.phases):
        taught_NC = logits_of_all(teacher, training.examples)
    done = []
    for seed in params.evaluation.seeds:
        file, kept = workspace / f"seed-{seed}.json", workspace / f"student-{seed}"
        if not file.exists() or (out is not None and not kept.exists()):
            clock = time.monotonic()
            student = _distil_once(
                teacher,
                student_folder,
                task,
                training,
                taught_NC,
                settings,
                params,
                processes,
                seed,
            )
            metrics = scored(
                {split: answers(student, examples, task) for split, examples in judged.items()},
                task,
            )
            seconds = time.monotonic() - clock
            if out is not None:
                # Which one is wanted, only the last seed tells.
                save_model(student, student_folder, kept)
            write_json(file, {"metrics": metrics, "seconds": seconds})
        done.append(read_json(file))
    names = list(done[0]["metrics"])
    report = {
        "model": student_folder.name,
        "recipe": recipe,
        "task": task["name"],
        "title": task["title"],
        "score": spread([headline(result["metrics"], task["scored_by"]) for result in done]),
        "teacher_score": headline(scored(given, task), task["scored_by"]),
        "metrics": {name: spread([result["metrics"][name] for result in done]) for name in names},
        "seeds": params.evaluation.seeds,
        "num_train": len(training),
        "seconds": round(sum(result["seconds"] for result in done), 2),
        "settings": settings.model_dump(mode="json"),
    }
    if out is not None:
        with atomic_output(out) as folder:
            shutil.copytree(workspace / f"student-{median_seed(report)}", folder)
    write_json(report_file, report)
    shutil.rmtree(workspace)
    return report


def _distil_once(
    teacher: PreTrainedModel,
    student_folder: Path,
    task: dict[str, Any],
    training: Split,
    taught_NC: NDArray[np.float32] | None,
    settings: Settings,
    params: Params,
    processes: Processes,
    seed: int,
) -> PreTrainedModel:
    """Take a student through every phase, and return it."""
    student = open_model(student_folder, task, settings.dropout, seed)
    student = student.to(processes.device)
    projections = nn.ModuleDict()
    losses = []
    for phase in settings.phases:
        terms = [
            layer_term(objective, student.config, teacher.config, projections)
            for objective in phase.objectives
        ]
        found = [term for term in terms if term is not None]
        losses.append(
            TaskDistillation(student, teacher, phase, found, projections, kind=task["kind"])
        )
    draw(projections, seed, student.config.initializer_range)
    projections.to(processes.device)
    for index, (phase, loss) in enumerate(zip(settings.phases, losses, strict=True)):
        known = taught_NC if loss.reads_answers_alone else None
        batches = ShuffledBatches(
            training.examples, phase.batch_examples, seed + 1000 * index, known
        )
        schedule = tuning_schedule(phase, decay=phase.decay)
        hold_unreached(loss, batches(0), processes.device)
        title = f"{task['name']} {phase.name} seed {seed}"
        tune(loss, batches, schedule, params.launch, processes, seed=seed, title=title)
    return student


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    with joined_processes() as processes:
        report = distil_task(
            arguments.teacher,
            arguments.student,
            arguments.task_data,
            arguments.recipe,
            load(),
            processes,
            arguments.report,
            arguments.out,
            arguments.tuned_teacher,
        )
    log.info(
        "%s by %s on %s: median %.1f, its teacher %.1f",
        report["model"],
        report["recipe"],
        report["title"],
        report["score"]["median"],
        report["teacher_score"],
    )


if __name__ == "__main__":
    parser = parser_for(__doc__, ["teacher", "student", "task-data", "report"])
    parser.add_argument(
        "--recipe", required=True, help="a name under evaluation.task_distillation in params.yaml"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="where to leave the student of the median's seed, a stock model with its tokenizer",
    )
    parser.add_argument(
        "--tuned-teacher",
        type=Path,
        metavar="PATH",
        help="a model fine-tuned on the task, such as stages.evaluation.keep leaves: it teaches",
    )
    run(main, parser)
