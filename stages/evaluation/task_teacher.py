"""What a teacher of a task must be: fine-tuned on it, and a reader of the student's tokens."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from stages.errors import TeacherError
from stages.evaluation.task_models import open_model
from stages.files import read_json

OF_ONE_CALL = {"truncation", "padding"}
"""What a tokenizer.json says of how it was last used; whoever reads it here sets its own."""


def check_tokenizers(student: Path, *teachers: Path) -> None:
    """Refuse teachers to whom the ids of the student's tokenizer are other words.

    Raises:
        TeacherError: a folder has no tokenizer.json, or another than the student's.
    """
    for folder in (student, *teachers):
        if not (folder / "tokenizer.json").is_file():
            raise TeacherError(
                f"{folder} holds no model, for it has no tokenizer.json: dvc repro makes those "
                "under models/, stages.evaluation.keep one that is tuned"
            )
    mine = read_json(student / "tokenizer.json")
    for teacher in teachers:
        theirs = read_json(teacher / "tokenizer.json")
        differing = [
            key
            for key in sorted((mine.keys() | theirs.keys()) - OF_ONE_CALL)
            if mine.get(key) != theirs.get(key)
        ]
        if differing:
            raise TeacherError(
                f"{teacher}/tokenizer.json differs from {student}/tokenizer.json in "
                f"{', '.join(differing)}: both models read the student's tokens, so that a student "
                "on a task needs a teacher with its own tokenizer"
            )


def open_tuned(folder: Path, task: dict[str, Any]) -> PreTrainedModel:
    """Return a model that was fine-tuned on a task, as it is, in eval mode.

    Raises:
        TeacherError: the folder's model has no head for the task, or one with another number of
            answers.
        DataError: its labels are not the task's in its order.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    head = "ForQuestionAnswering" if task["kind"] == "span" else "ForSequenceClassification"
    found = ", ".join(config.architectures or ["no architecture"])
    if head not in found:
        raise TeacherError(
            f"{folder} is {found}, which was not fine-tuned on {task['title']}: a tuned teacher is "
            f"a model {head}, such as stages.evaluation.keep leaves"
        )
    num_answers = len(task["labels"] or [None])
    if task["kind"] != "span" and config.num_labels != num_answers:
        raise TeacherError(
            f"{folder} has {config.num_labels} labels, and {task['title']} has {num_answers}"
        )
    return open_model(folder, task, 0.0, 0).eval()
