"""params.yaml as one validated model: unknown keys refused, every mistake reported at once."""

from stages.params.corpus import (
    BookcorpusSource,
    Corpus,
    Curate,
    DocstringsSource,
    Expectations,
    Shards,
    Source,
    WikipediaSource,
)
from stages.params.evaluation import (
    Evaluation,
    FineTune,
    SpeedTest,
)
from stages.params.loading import (
    PARAMS,
    PROFILES,
    load,
    profile_names,
    use,
)
from stages.params.objectives import (
    AttentionMaps,
    AttentionScores,
    Cosine,
    FeatureMaps,
    HiddenStates,
    LayerPairs,
    MaskedTokens,
    MixedLabels,
    ObjectiveSettings,
    Patience,
    Relations,
    SoftTargets,
)
from stages.params.recipes import (
    AtRandom,
    FromEmbeddings,
    FromLayers,
    MobileBertShape,
    Phase,
    Recipe,
    Shape,
)
from stages.params.release import (
    Export,
    Gate,
    Registry,
)
from stages.params.students import (
    AnyStudent,
    Distill,
    Student,
    Weights,
)
from stages.params.teacher import (
    FolderTeacher,
    HubTeacher,
    Teacher,
    TeacherSource,
    WheelTeacher,
)
from stages.params.training import (
    Launch,
    Masking,
    Schedule,
)
from stages.params.whole import (
    Params,
)

__all__ = [
    "PARAMS",
    "PROFILES",
    "AnyStudent",
    "AtRandom",
    "AttentionMaps",
    "AttentionScores",
    "BookcorpusSource",
    "Corpus",
    "Cosine",
    "Curate",
    "Distill",
    "DocstringsSource",
    "Evaluation",
    "Expectations",
    "Export",
    "FeatureMaps",
    "FineTune",
    "FolderTeacher",
    "FromEmbeddings",
    "FromLayers",
    "Gate",
    "HiddenStates",
    "HubTeacher",
    "Launch",
    "LayerPairs",
    "MaskedTokens",
    "Masking",
    "MixedLabels",
    "MobileBertShape",
    "ObjectiveSettings",
    "Params",
    "Patience",
    "Phase",
    "Recipe",
    "Registry",
    "Relations",
    "Schedule",
    "Shape",
    "Shards",
    "SoftTargets",
    "Source",
    "SpeedTest",
    "Student",
    "Teacher",
    "TeacherSource",
    "Weights",
    "WheelTeacher",
    "WikipediaSource",
    "load",
    "profile_names",
    "use",
]
