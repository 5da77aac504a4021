"""params.yaml is refused with every mistake named, and every profile is valid as a whole."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import params
from stages.errors import SettingsError
from tests.conftest import ROOT

PHASE = {"name": "one", "objectives": [{"kind": "mlm"}]}
SOFT = {"name": "one", "objectives": [{"kind": "soft_targets"}]}
NO_WEIGHT = {"kind": "patience"}
TWICE = {"kind": "hidden_states", "layers": [[1, 2], [1, 2]]}
LAYERS = {"kind": "layers", "layers": [0, 1, 2]}
MOBILE = {"kind": "mobilebert", "num_layers": 3}
GENRE = {"folder": "raw", "texts": ["line"], "labels": ["verse", "prose"], "metrics": ["mcc"]}
ON_A_TASK = {
    "name": "kd", "labels": 1, "num_epochs": 1, "learning_rate": 0.1,
    "by_task": {"cola": {"num_epochs": 2}, "cloa": {"num_epochs": 3}},
}  # fmt: skip
RECIPE = {
    "architecture": {"kind": "bert", "num_layers": 2},
    "initialise": {"kind": "random"},
    "phases": [PHASE],
}
EVALUATION = yaml.safe_load((ROOT / "profiles" / "offline.yaml").read_text())["evaluation"]
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def broken(tmp_path: Path, **changes: object) -> Path:
    """The offline profile with some dotted keys set; None removes the key."""
    settings = yaml.safe_load((ROOT / "profiles" / "offline.yaml").read_text())
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        section = settings
        for name in sections:
            section = section[name]
        if value is None:
            del section[key]
        else:
            section[key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        params.load(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"distill.temperature": 0},
            "distill.temperature = 0: must be greater than 0 (the paper uses 2.0)",
        ),
        (
            {"gate.min_retenton": 1},
            "gate.min_retenton = 1: no such setting; there are: min_retention, min_task_retention, "
            "max_parameter_fraction, min_speedup, must_beat_baseline_on",
        ),
        (
            {"evaluation.finetune.by_task": {"acceptability": {"weight_decay": 3}}},
            "evaluation.finetune.by_task.acceptability.weight_decay = 3: no such setting; there "
            "are: num_epochs, batch_examples, learning_rate, max_length, max_train_examples, "
            "max_validation_examples",
        ),
        (
            {"distill.positions": "some"},
            "distill.positions = some: must be 'all', 'masked' or 'sampled'",
        ),
        ({"launch.micro_batch_sequences": None}, "launch.micro_batch_sequences: is missing"),
        (
            {"corpus.sources.docstrings.max_megabytes": -1},
            "corpus.sources.docstrings.max_megabytes = -1: must be greater than 0",
        ),
        (
            {"teacher.source.sha256": {"model.safetensors": "abc"}},
            "teacher.source.sha256.model.safetensors = abc: string should match pattern "
            "'^[0-9a-f]{64}$'",
        ),
        (
            {"students.distilbert.weights": {"ce": 0, "mlm": 0, "cos": 0}},
            "students.distilbert.weights: at least one of ce, mlm and cos must be greater than 0",
        ),
        (
            {"students.distilbert": {"phases": [], "initialise": {"kind": "random"}}},
            "students.distilbert.architecture: is missing",
        ),
        (
            {"students.distilbert": RECIPE | {"phases": [PHASE, PHASE]}},
            "students.distilbert: two phases have the same name: one, one",
        ),
        (
            {"students.distilbert": RECIPE | {"architecture": {"kind": "lstm"}}},
            "students.distilbert.architecture.kind = lstm: must be one of 'bert', 'roberta', "
            "'modernbert', 'distilbert', 'mobilebert'",
        ),
        (
            {"corpus.sources.docstrings.kind": None},
            "corpus.sources.docstrings.kind: is missing",
        ),
        (
            {"evaluation.own_tasks": {"My task": 3}, "launch.machine_lock": 3, "export": []},
            "evaluation.own_tasks.My task = My task: string should match pattern "
            "'^[a-z][a-z0-9_]*$'\nevaluation.own_tasks.My task = 3: must be a mapping\n"
            "export: must be a mapping\nlaunch.machine_lock = 3: must be a valid string",
        ),
        (
            {"students.distilbert.weights": {"ce": None, "mlm": 2, "cos": 1}},
            "students.distilbert.weights.ce = null: must be a valid number",
        ),
        (
            {"students.distilbert": RECIPE | {"phases": [PHASE | {"objectives": [NO_WEIGHT]}]}},
            "students.distilbert.phases.0.objectives.0.weight: is missing",
        ),
        (
            {"evaluation.finetune.by_task": {"rte": {"num_epochs": 10}}},
            "evaluation: finetune.by_task names 'rte', which tasks leaves out",
        ),
        (
            {"evaluation.tasks": ["genre", "cloa"], "evaluation.own_tasks": {"genre": GENRE}},
            "evaluation: tasks names 'cloa', and there is no such task; there are: "
            f"{', '.join(params.TASK_NAMES)}, genre; one of your own stands under own_tasks",
        ),
        (
            {"evaluation.speed.batch_sizes": [16, 1]},
            "evaluation.speed: batch_sizes = [16, 1]: must rise; of the first one is the speed-up "
            "that is judged and shown",
        ),
        (
            {"evaluation.own_tasks": {"cola": GENRE}},
            "evaluation: own_tasks: 'cola' is a task already; give yours another name",
        ),
        (
            {"evaluation.task_distillation": {"kd": {"phases": [ON_A_TASK]}}},
            "evaluation: task_distillation.kd names 'cloa', and there is no such task; there are: "
            f"{', '.join(params.TASK_NAMES)}",
        ),
        (
            {"evaluation.finetune.grid": {"learning_rate": [0.1, 0]}},
            "evaluation.finetune.grid.learning_rate.1 = 0: must be greater than 0",
        ),
        (
            {"students.distilbert": RECIPE | {"phases": [PHASE | {"masking": {"fraction": 0}}]}},
            "students.distilbert: phase one: masking.fraction is 0, but mlm is of masked tokens",
        ),
        (
            {"teacher.masking": {"fraction": 0}},
            "teacher: masking.fraction is 0, and masked tokens are all that adapt restores",
        ),
        (
            {"launch.num_processes": 9},
            "teacher.adapt.batch_sequences = 8 is fewer than the 9 of launch.num_processes that "
            "share it\ndistill.schedule.batch_sequences = 8 is fewer than the 9 of "
            "launch.num_processes that share it",
        ),
        (
            {
                "distill.masking": {"fraction": 0},
                "distill.positions": "masked",
                "students.distilbert": RECIPE | {"phases": [SOFT]},
            },
            "students.distilbert: phase one: masking.fraction is 0, but soft_targets is of "
            "masked tokens\nstudents.mlm_only: phase distil: masking.fraction is 0, but mlm is of "
            "masked tokens",
        ),
        (
            {
                "students.distilbert": RECIPE
                | {"phases": [SOFT | {"objectives": 2 * SOFT["objectives"]}]}
            },
            "students.distilbert.phases.0.objectives: objective soft_targets is there twice: a "
            "phase has one of a kind",
        ),
        (
            {
                "evaluation.task_distillation": {
                    "kd": {"phases": [ON_A_TASK | {"temperature": 2, "by_task": {}}]}
                }
            },
            "evaluation.task_distillation.kd.phases.0: temperature and reduction are of "
            "soft_targets, which has no weight",
        ),
        (
            {"students.distilbert": RECIPE | {"initialise": LAYERS}},
            "students.distilbert: initialise.layers names 3 layers, but the student has 2",
        ),
        (
            {"students.distilbert": RECIPE | {"initialise": LAYERS, "architecture": MOBILE}},
            "students.distilbert: initialise.layers: layers of MobileBERT cannot be copied singly",
        ),
        (
            {
                "students.distilbert": RECIPE
                | {"initialise": LAYERS | {"layers": [0, 1], "fold_token_type": False}}
            },
            "students.distilbert: initialise.fold_token_type = false is for a distilbert student: "
            "others keep the teacher's token types",
        ),
        (
            {"students.distilbert": RECIPE | {"initialise": {"kind": "embeddings"}}},
            "students.distilbert: initialise.kind = embeddings is for a mobilebert architecture",
        ),
        (
            {"students.distilbert": RECIPE | {"taught_by": ["teacher", "second"]}},
            "students.distilbert: taught_by = teacher, second: only soft_targets and mixed_labels "
            "are of more than the first, and no phase has them",
        ),
        (
            {"students.distilbert": RECIPE | {"phases": [PHASE | {"objectives": [TWICE]}]}},
            "students.distilbert.phases.0.objectives.0.layers: names (1, 2) twice",
        ),
        (
            {"students.distilbert": RECIPE | {"phases": [SOFT | {"progressive": True}]}},
            "students.distilbert.phases.0: objective soft_targets: a progressive phase teaches one "
            "layer after another, by hidden_states, attention_scores, feature_maps, attention_maps",
        ),
        (
            {"distill.schedule.num_epochs": 3},
            "distill.schedule: give either num_steps or num_epochs, not both",
        ),
        ({"evaluation.seeds": [1, 2, 1]}, "evaluation.seeds: names 1 twice"),
        ({"launch.num_processes": 0}, "launch.num_processes = 0: must be greater than 0"),
        (
            {"evaluation.students": ["distilbert"]},
            "evaluation.baseline names 'mlm_only', which evaluation.students leaves out",
        ),
        ({"evaluation.tasks": ["package", "package"]}, "evaluation.tasks: names package twice"),
        ({"distill.schedule.betas": [0.9, 1]}, "distill.schedule.betas.1 = 1: must be less than 1"),
        ({"seed": 2**32}, "seed = 4294967296: must be less than 4294967296"),
        ({"hub_root": ""}, "hub_root = : string should have at least 1 character"),
        (
            {"teacher.source.sha256": {"config.json": "0" * 64}},
            "teacher.source.sha256: must name model.safetensors",
        ),
        (
            {"evaluation": {**EVALUATION, "baseline": None}},
            "evaluation.baseline is null, but gate.must_beat_baseline_on asks for heldout_kl: name "
            "a baseline, or set gate.must_beat_baseline_on to []",
        ),
    ],
)
def test_mistake_is_named_with_its_key_value_and_bound(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    assert mistakes(broken(tmp_path, **changes)) == expected.splitlines()


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    path = broken(tmp_path, **{"distill.temperature": 0, "seed": -1, "launch.gpus": 3})
    assert len(mistakes(path)) == 3
    # And of names that one section gives another, each in a line of its own.
    given = {
        "evaluation.students": ["big"],
        "evaluation.baseline": "huge",
        "export.students": ["x"],
    }
    assert len(mistakes(broken(tmp_path, **given))) == 3
    tasks = {"tasks": ["cloa"], "finetune": EVALUATION["finetune"] | {"by_task": {"rte": {}}}}
    assert len(mistakes(broken(tmp_path, evaluation=EVALUATION | tasks))) == 2


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = broken(tmp_path)
    path.write_text(path.read_text() + "students: {}\n")
    line = len(path.read_text().splitlines())
    (said,) = mistakes(path)
    assert said.startswith(f"{path} is not valid YAML: line {line}, column 1: the key 'students'")


def test_every_key_that_a_stage_tracks_must_be_given(tmp_path: Path) -> None:
    """DVC refuses a stage whose keys are left to their default, and dvc.yaml without its lists."""
    graph = (ROOT / "dvc.yaml").read_text()
    stages = [stage.get("do", stage) for stage in yaml.safe_load(graph)["stages"].values()]
    tracked = {key for stage in stages for key in stage["params"] if "${" not in key}
    listed = set(re.findall(r"^ +(?:foreach|student|task): \$\{([a-z_.]+)\}", graph, re.MULTILINE))
    assert {"seed", "successors", "distill.heldout_sequences"} <= tracked | listed
    for key in sorted(tracked | listed):
        path = broken(tmp_path, **{key: None})
        assert mistakes(path)[0] == f"{key}: is missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation.students", ["distilbert", "nobody"]),
        ("evaluation.baseline", "nobody"),
        ("export.students", ["nobody"]),
    ],
)
def test_names_must_be_those_of_students(tmp_path: Path, key: str, value: object) -> None:
    line = mistakes(broken(tmp_path, **{key: value}))[0]
    assert f"{key} names 'nobody', which is not one of students: distilbert, mlm_only" in line


def test_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("- just\n- a list\n")
    assert mistakes(path) == [f"{path} must hold a mapping of sections, not list"]
    path.write_text("a: [unclosed\n")
    assert "is not valid YAML" in mistakes(path)[0]
    path.unlink()
    assert "does not exist" in mistakes(path)[0]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profile_is_valid_and_named_like_its_file(path: Path) -> None:
    assert params.load(path).profile == path.stem


def test_params_yaml_is_the_offline_profile() -> None:
    assert params.load(ROOT / "params.yaml") == params.load(ROOT / "profiles" / "offline.yaml")


def test_number_of_steps_follows_epochs_or_is_given() -> None:
    common = {"batch_sequences": 10, "learning_rate": 0.1, "warmup_fraction": 0}
    by_epochs = params.Schedule.model_validate(common | {"num_epochs": 1.5})
    assert by_epochs.total_steps(num_sequences=101) == 16  # ceil(1.5 * 101 / 10)
    assert params.Schedule.model_validate(common | {"num_steps": 7}).total_steps(101) == 7


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_graph_of_every_profile_is_complete(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC has every stage of a profile in its graph, in a workspace that has nothing yet."""
    from dvc.repo import Repo

    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    shutil.copy(path, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True) as repo:
        # As `dvc repro` does first: no output of two stages, no circle.
        repo.index.check_graph()
        planned = {stage.addressing for stage in repo.index.stages}
    settings = params.load(path)
    for stage in ("curate", "shards", "expectations", "teacher", "speed", "report"):
        assert stage in planned
    for student in settings.evaluation.students:
        stage = "distill_successor" if student in settings.successors else "distill"
        assert f"{stage}@{student}" in planned
        for task in settings.evaluation.tasks:
            assert f"finetune@{student}-{task}" in planned
    assert not untracked_keys(tmp_path)


def untracked_keys(project: Path) -> list[str]:
    """Settings that a stage tracks and params.yaml leaves to their default: DVC refuses those."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    given = yaml.safe_load((project / "params.yaml").read_text())

    def is_given(dotted: str) -> bool:
        section = given
        for name in dotted.split("."):
            if name not in section:
                return False
            section = section[name]
        return True

    with Repo(str(project)) as repo:
        tracked = [
            key
            for stage in repo.index.stages
            for dependency in stage.deps
            if isinstance(dependency, ParamsDependency)
            for key in dependency.params
        ]
    assert len(tracked) > 40
    return sorted({key for key in tracked if not is_given(key)})


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        # Draws the weights of an IB-BERT.
        ("fetch_teacher", "seed"),
        # Is measured on the same held-out text as the students it stands beside.
        ("teacher", "distill.heldout_sequences"),
        # Makes its own INT8 files, as export.int8 says.
        ("speed", "export"),
    ],
)
def test_stage_tracks_what_it_reads_of_other_sections(stage: str, key: str) -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert key in graph["stages"][stage]["params"]


def test_switching_profiles_copies_a_valid_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    (tmp_path / "profiles" / "bad.yaml").write_text("profile: bad\n")

    def use(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stages.params", "use", name],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    assert use("bert-base").returncode == 0
    assert params.load(tmp_path / "params.yaml").profile == "bert-base"
    unknown = use("bert-huge")
    assert unknown.returncode == 2
    assert "there is no profile 'bert-huge'; there are: ablations, bad, bert-base" in unknown.stderr
    assert use("bad").returncode == 2
    assert params.load(tmp_path / "params.yaml").profile == "bert-base"
    assert not (tmp_path / "params.yaml.before").exists()
    mine = (tmp_path / "params.yaml").read_text().replace("seed: 56", "seed: 57")
    (tmp_path / "params.yaml").write_text(mine)
    assert "what was in params.yaml is in params.yaml.before now" in use("offline").stderr
    assert use("bert-base").returncode == 0
    assert (tmp_path / "params.yaml.before").read_text() == mine
    for once_more, kept in [(mine, "before"), (f"{mine}\n", "before-2")]:
        (tmp_path / "params.yaml").write_text(once_more)
        assert f"is in params.yaml.{kept} now" in use("offline").stderr
        assert (tmp_path / f"params.yaml.{kept}").read_text() == once_more
