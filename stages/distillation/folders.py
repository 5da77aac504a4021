"""The model folders that a student is made from."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from stages.errors import SettingsError
from stages.params import TEACHER, Params, Recipe, Successor
from stages.teacher.models import pooler_in


def folders_read(arguments: argparse.Namespace, params: Params) -> dict[str, Path]:
    """Return the folders of the models that a student needs, by their names.

    Raises:
        SettingsError: there is no such student, or it comes after another whose folder is missing.
    """
    if arguments.student not in params.recipes:
        raise SettingsError(
            f"--student {arguments.student}: params.yaml has {', '.join(params.recipes)}"
        )
    recipe = params.recipes[arguments.student]
    folders = {TEACHER: arguments.teacher}
    folders |= {
        name: arguments.teacher / name for name in params.teacher.others if name in recipe.taught_by
    }
    if isinstance(recipe, Successor):
        if arguments.after is None:
            raise SettingsError(f"--after: {arguments.student} needs the folder of {recipe.after}")
        folders[recipe.after] = arguments.after
    return folders


def pooler_beside(
    recipe: Recipe,
    student: PreTrainedModel,
    models: Mapping[str, PreTrainedModel],
    folders: Mapping[str, Path],
) -> dict[str, Tensor]:
    """Return the pooler that goes with the layers a student began with, {} where there is none.

    A masked language model has none, but BERT-PKD's students begin a task with their teacher's.
    """
    of = {"layers": recipe.taught_by[0], "student": getattr(recipe, "after", "")}
    source = of.get(recipe.initialise.kind)
    if source is None or models[source].config.model_type != student.config.model_type:
        return {}
    return pooler_in(folders[source])
