"""The task table, GLUE as the hub has it, and the folders that tasks become."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages import params
from stages.errors import DataError, SettingsError
from stages.evaluation.task_folder import Example, Question, TaskData, write_task
from stages.evaluation.task_sources import read_hub
from stages.evaluation.tasks import TASKS, check_labels, get_task, metric_key, split_metrics

GLUE_NAMES = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


@pytest.fixture
def hub(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """Settings that read the real GLUE beside the project, with a cache of their own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    settings = params.load(Path("profiles/offline.yaml"))
    return settings.model_copy(update={"hub_root": str(shared_data / "hub")})


def test_glue_squad_imdb_and_three_derived_tasks_are_there():
    assert [name for name, spec in TASKS.items() if spec.is_glue] == GLUE_NAMES
    derived = [name for name, spec in TASKS.items() if spec.is_derived]
    assert derived == ["acceptability", "package", "summary_match"]
    assert tuple(TASKS) == (*GLUE_NAMES, "squad", "imdb", *derived) == params.TASK_NAMES


def test_a_derived_task_says_so_in_its_title():
    for spec in TASKS.values():
        assert spec.is_derived == spec.title.endswith("(derived)")


def test_ax_is_a_split_of_mnli_with_a_metric_of_its_own():
    mnli = get_task("mnli")
    assert mnli.test_splits == ("test_matched", "test_mismatched", "ax")
    assert split_metrics(mnli.metrics, "validation_matched") == ("accuracy",)
    assert split_metrics(mnli.metrics, "ax") == ("mcc",)
    assert metric_key("mcc", "ax", "validation_matched") == "mcc_ax"


def test_squad_is_scored_by_f1_and_mrpc_by_both_its_metrics():
    assert get_task("squad").scored_by == ("f1",)
    assert get_task("mrpc").scored_by == ("accuracy", "f1")


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"no task 'cloa'; there are: cola, sst2, mrpc"):
        get_task("cloa")


def test_rte_begins_with_entailment_and_wnli_does_not():
    assert get_task("rte").labels == ("entailment", "not_entailment")
    assert get_task("wnli").labels == ("not_entailment", "entailment")


def test_labels_in_another_order_are_refused():
    with pytest.raises(
        DataError, match=r"\['not_entailment', 'entailment'\], and must be \['entailment'"
    ):
        check_labels(get_task("rte"), ["not_entailment", "entailment"])


def test_a_regression_has_no_label_names():
    check_labels(get_task("stsb"), None)
    with pytest.raises(DataError, match="must be numbers"):
        check_labels(get_task("stsb"), ["low", "high"])


def test_mismatched_mnli_has_metrics_of_its_own():
    matched, mismatched = get_task("mnli").validation_splits
    assert metric_key("accuracy", matched, matched) == "accuracy"
    assert metric_key("accuracy", mismatched, matched) == "accuracy_mismatched"


def test_cola_has_its_published_size_and_texts(hub: params.Params):
    data = read_hub(get_task("cola"), hub)
    assert (len(data.train), len(data.validation["validation"])) == (8551, 1043)
    assert data.labels == ("unacceptable", "acceptable")
    # The first rows of CoLA's files: acceptable, and without a second text.
    assert data.train[0].label == 1
    assert data.train[0].text_b is None
    assert data.validation["validation"][0].text_a.startswith("The sailors rode the breeze")


def test_mnli_has_two_validation_splits(hub: params.Params):
    data = read_hub(get_task("mnli"), hub)
    assert list(data.validation) == ["validation_matched", "validation_mismatched"]
    assert data.labels == ("entailment", "neutral", "contradiction")
    assert {example.label for example in data.train} == {0, 1, 2}
    assert all(example.text_b is not None for example in data.train)


def test_stsb_scores_lie_between_0_and_5(hub: params.Params):
    data = read_hub(get_task("stsb"), hub)
    scores = [example.label for example in data.train]
    assert (min(scores), max(scores)) == (0.0, 5.0)


@pytest.mark.parametrize("name", GLUE_NAMES)
def test_every_glue_task_is_read_with_its_labels_in_order(hub: params.Params, name: str):
    data = read_hub(get_task(name), hub)
    num_labels = len(data.labels or ())
    for examples in (data.train, *data.validation.values()):
        assert len(examples) > 50
        if num_labels:
            assert {example.label for example in examples} == set(range(num_labels))


def test_a_split_that_the_hub_lacks_is_named_with_those_it_has(hub: params.Params):
    with pytest.raises(
        DataError, match=r"task cola: no split test in .* has: train, validation; .*predict_test"
    ):
        read_hub(get_task("cola"), hub, ("test",))


def test_squad_is_read_with_every_accepted_answer_at_its_place(hub: params.Params):
    data = read_hub(get_task("squad"), hub)
    validation = data.validation["validation"]
    assert (len(data.train), len(validation)) == (78_795, 10_570)
    first = validation[0]
    assert isinstance(first, Question)
    assert first.id == "56be4db0acb8001400a502ec"
    assert first.answers == ("Denver Broncos",) * 3
    assert all(first.context[start:].startswith("Denver Broncos") for start in first.starts)


def test_imdb_is_scored_on_its_test_split(hub: params.Params):
    data = read_hub(get_task("imdb"), hub)
    assert (len(data.train), list(data.validation)) == (25_000, ["test"])
    assert data.labels == ("neg", "pos")
    assert sum(row.label for row in data.validation["test"] if isinstance(row, Example)) == 12_500


def test_a_hub_folder_without_glue_is_refused_with_what_to_do(tmp_path: Path):
    settings = params.load(Path("profiles/offline.yaml"))
    settings = settings.model_copy(update={"hub_root": str(tmp_path)})
    with pytest.raises(
        DataError, match=r"task cola: .*nyu-mll/glue \(cola\) cannot be read .*hub_root"
    ):
        read_hub(get_task("cola"), settings)


def test_a_task_folder_holds_what_the_contract_says(tmp_path: Path):
    rows = [Example("Good.", "Bad.", 1.5), Example("Red.", "Blue.", 4.0)]
    data = TaskData(None, rows, {"validation": rows[:1]})
    write_task(get_task("stsb"), data, "by hand", tmp_path / "stsb")
    assert json.loads((tmp_path / "stsb" / "task.json").read_text()) == {
        "name": "stsb",
        "title": "STS-B",
        "kind": "regression",
        "labels": None,
        "metrics": ["pearson", "spearman"],
        "scored_by": ["pearson", "spearman"],
        "is_glue": True,
        "is_derived": False,
        "pair": True,
        "validation_splits": ["validation"],
        "test_splits": [],
        "num_train": 2,
        "num_validation": {"validation": 1},
        "num_test": {},
        "source": "by hand",
    }
    table = pq.read_table(tmp_path / "stsb" / "train.parquet")
    assert table.schema.names == ["text_a", "text_b", "label"]
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "double"]
    assert table.to_pylist()[0] == {"text_a": "Good.", "text_b": "Bad.", "label": 1.5}


def test_labels_are_int64_and_a_missing_second_text_is_null(tmp_path: Path):
    rows = [Example("Good.", None, 1)]
    data = TaskData(("unacceptable", "acceptable"), rows, {"validation": rows})
    write_task(get_task("cola"), data, "by hand", tmp_path / "cola")
    table = pq.read_table(tmp_path / "cola" / "validation.parquet")
    assert str(table.schema.field("label").type) == "int64"
    assert table.to_pylist() == [{"text_a": "Good.", "text_b": None, "label": 1}]


def test_a_question_keeps_its_id_and_every_answer(tmp_path: Path):
    rows = [Question("q1", "Who?", "It was Ada, not Alan.", ("Ada", "Ada, not Alan"), (7, 7))]
    data = TaskData(None, rows, {"validation": rows})
    write_task(get_task("squad"), data, "by hand", tmp_path / "squad")
    table = pq.read_table(tmp_path / "squad" / "validation.parquet")
    assert table.to_pylist() == [
        {
            "id": "q1",
            "text_a": "Who?",
            "text_b": "It was Ada, not Alan.",
            "answers": ["Ada", "Ada, not Alan"],
            "starts": [7, 7],
        }
    ]
