r"""Distil a fine-tuned teacher into a student on one task, with every seed, and score it.

PD, BERT-PKD and TinyBERT's second stage, by a recipe of `evaluation.task_distillation`. The
teacher is fine-tuned first, as `evaluation.finetune` says, unless one that was is given; the
student's text may be augmented.
Reads two stock model folders and a task's examples; writes a report like fine-tuning's, and with
--out the student whose score is the median. Killed anywhere, the same command goes on with what was
finished, and in the midst of a tuning from its last checkpoint, to the identical students.

Run: python -m stages.evaluation.distil_task --recipe tinybert --teacher models/teacher \
         --student models/students/tinybert4 --task-data data/tasks/mrpc --report mrpc.json
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.evaluation.augmented_text import augment
from stages.evaluation.keep import median_seed
from stages.evaluation.metrics import headline
from stages.evaluation.task_models import (
    Split,
    answers,
    config_of,
    open_model,
    read_split,
    scored,
)
from stages.evaluation.task_student import distil_once, lesson, phase_terms
from stages.evaluation.task_teacher import check_tokenizers, open_tuned
from stages.evaluation.tuning import alone, spread, tune_on_labels
from stages.files import atomic_output, discard, read_json, scratch, sha256_of_tree, write_json
from stages.params import Params, load
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
        processes: This one, and its device.
        report_file: Where the report goes.
        out: Where the student of the seed with the median score goes; None keeps none.
        tuned_teacher: A model that was fine-tuned on the task already, which then teaches.

    Raises:
        SettingsError: there is no such recipe, it cannot be had on this task or with this teacher,
            or there are several processes.
        TeacherError: a teacher has another tokenizer or another head.
    """
    alone(processes)
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
    # Before the teacher is tuned for hours.
    phase_terms(settings, config_of(student_folder), config_of(teachers[-1]), nn.ModuleDict())
    seeds, launch = params.evaluation.seeds, params.launch
    # Where fine-tuning has a grid, the teacher takes its first choice.
    tuning = params.evaluation.finetune.choices(task["name"])[0]
    workspace = scratch(
        f"distil-task-{recipe}-{student_folder.name}-{task['name']}",
        settings.model_dump(mode="json"),
        tuning.model_dump(mode="json"),
        # That of the text, and of the teacher.
        (params.seed, seeds[0]),
        *map(sha256_of_tree, (*teachers, student_folder, task_folder)),
    )
    tokenizer = student_folder / "tokenizer.json"

    def read(split: str, folder: Path = task_folder) -> Split:
        limit = tuning.max_train_examples if split == "train" else tuning.max_validation_examples
        return read_split(folder, task, split, tokenizer, tuning, limit)

    text = task_folder
    # Before the tuning, too: this may lack a file, or not be had with the teacher.
    if settings.augmentation is not None:
        text = workspace / "text"
        if not text.exists():
            augment(
                settings.augmentation,
                teacher_folder,
                task_folder,
                tuning,
                params.seed,
                processes.device,
                text,
            )
    tuned = tuned_teacher or workspace / "teacher"
    if tuned_teacher is None and not tuned.exists():
        steps = workspace / "teacher-steps"
        teacher = open_model(teacher_folder, task, tuning.dropout, seeds[0]).to(processes.device)
        tune_on_labels(teacher, task, read("train"), tuning, launch, processes, seeds[0], steps)
        with atomic_output(tuned) as target:
            teacher.save_pretrained(target)
        shutil.rmtree(steps)
    teacher = open_tuned(tuned, task).to(processes.device)
    judged = {split: read(split) for split in task["validation_splits"]}
    given = {split: answers(teacher, examples, task) for split, examples in judged.items()}
    # Variants count as examples of their own, and are all used.
    training = read("train") if text == task_folder else read_split(
        text, task, "train", tokenizer, tuning, None
    )  # fmt: skip
    taught = lesson(task, teacher, training, settings)
    done = []
    for seed in seeds:
        file, kept = workspace / f"seed-{seed}.json", workspace / f"student-{seed}"
        if not file.exists() or (out is not None and not kept.exists()):
            steps = workspace / f"seed-{seed}"
            student, seconds = distil_once(taught, student_folder, launch, processes, seed, steps)
            metrics = scored(
                {split: answers(student, examples, task) for split, examples in judged.items()},
                task,
            )
            if out is not None:
                # Which one is wanted, only the last seed tells.
                save_model(student, student_folder, kept)
            write_json(file, {"metrics": metrics, "seconds": seconds})
            shutil.rmtree(steps)
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
        "seeds": seeds,
        "num_train": len(training),
        "seconds": round(sum(result["seconds"] for result in done), 2),
        "settings": settings.model_dump(mode="json"),
    }
    if out is not None:
        with atomic_output(out) as folder:
            shutil.copytree(workspace / f"student-{median_seed(report)}", folder)
    write_json(report_file, report)
    discard(workspace)
    return report


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
