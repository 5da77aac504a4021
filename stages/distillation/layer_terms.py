"""The term that an objective has in the layers of student and teacher."""

from typing import Any

from torch import nn

from stages.distillation.attention_terms import map_term, relation_term
from stages.distillation.hidden_terms import patience_term, state_term
from stages.distillation.terms import LayerTerm, same
from stages.errors import SettingsError
from stages.params import (
    AttentionMaps,
    AttentionScores,
    Cosine,
    FeatureMaps,
    HiddenStates,
    ObjectiveSettings,
    Patience,
    Relations,
)


def layer_term(
    settings: ObjectiveSettings,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
    only_layer: int | None = None,
) -> LayerTerm | None:
    """Return the term of an objective, or None where it has none in the layers.

    Args:
        settings: Of the objective.
        student: The student's configuration.
        teacher: The teacher's.
        projections: Of the whole recipe; what this objective learns is added here, once.
        only_layer: Keep only what concerns this layer of the student; the term's divisor stays
            that of all layers. None keeps every layer.

    Raises:
        SettingsError: the objective does not fit this student and this teacher.
    """
    try:
        if isinstance(settings, HiddenStates | FeatureMaps):
            return state_term(settings, student, teacher, projections, only_layer)
        if isinstance(settings, AttentionScores | AttentionMaps):
            return map_term(settings, student, teacher, only_layer)
        if isinstance(settings, Relations):
            return relation_term(settings, student, teacher)
        if isinstance(settings, Patience):
            return patience_term(settings, student, teacher)
        if isinstance(settings, Cosine):
            same("width", student.hidden_size, teacher.hidden_size)
    except SettingsError as error:
        raise SettingsError(f"objective {settings.kind}: {error}") from error
    return None
