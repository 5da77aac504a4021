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
from stages.params.release import (
    Export,
    Gate,
    Registry,
)
from stages.params.students import (
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
    "BookcorpusSource",
    "Corpus",
    "Curate",
    "Distill",
    "DocstringsSource",
    "Evaluation",
    "Expectations",
    "Export",
    "FineTune",
    "FolderTeacher",
    "Gate",
    "HubTeacher",
    "Launch",
    "Masking",
    "Params",
    "Registry",
    "Schedule",
    "Shards",
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
