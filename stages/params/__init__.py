"""params.yaml as one validated model: unknown keys refused, every mistake reported at once."""

from stages.params.corpus import (
    BookcorpusSource,
    BooksSource,
    Curate,
    DocstringsSource,
    Expectations,
    FilesSource,
    JsonlSource,
    MediawikiSource,
    ParquetSource,
    Shards,
    Source,
    TextSource,
    WikipediaSource,
)
from stages.params.evaluation import Evaluation, FineTune, Grid, SpeedTest, TaskTuning
from stages.params.loading import PARAMS, PROFILES, load, profile_names, use
from stages.params.objectives import (
    AttentionMaps,
    AttentionScores,
    Cosine,
    FeatureMaps,
    HiddenStates,
    MaskedTokens,
    MixedLabels,
    ObjectiveSettings,
    Patience,
    Relations,
    SoftTargets,
)
from stages.params.recipes import (
    TEACHER,
    AtRandom,
    FromEmbeddings,
    FromLayers,
    MobileBertShape,
    Phase,
    Recipe,
    Shape,
    Successor,
)
from stages.params.release import Export, Gate
from stages.params.students import Distill, Student, Weights
from stages.params.tasks import TASK_NAMES, Augmentation, OwnTask, TaskDistillation, TaskPhase
from stages.params.teacher import (
    FolderTeacher,
    HubTeacher,
    IBBertTeacher,
    OtherTeacher,
    Teacher,
    TeacherSource,
    WheelTeacher,
)
from stages.params.training import Launch, Masking, Schedule
from stages.params.whole import Params
