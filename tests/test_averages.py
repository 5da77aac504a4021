"""Averages against the tables of the papers, whose numbers are typed here as they are printed."""

import csv

import pytest

from stages.evaluation.averages import CONVENTIONS, averages, mean_of_tasks
from tests.conftest import ROOT

GLUE_KEYS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")


def dev_row(*values: float) -> dict[str, dict[str, float]]:
    """A row of DistilBERT's table; where it prints one number for two metrics, both get it."""
    names = {"cola": ("mcc",), "stsb": ("pearson", "spearman")}
    names |= dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1"))
    return {
        task: dict.fromkeys(names.get(task, ("accuracy",)), value / 100)
        for task, value in zip(GLUE_KEYS, values, strict=True)
    }


def tinybert_row(*values: float) -> dict[str, dict[str, float]]:
    """A row of TinyBERT's table: MNLI-m, -mm, QQP, QNLI, SST-2, CoLA, STS-B, MRPC, RTE."""
    matched, mismatched, qqp, qnli, sst2, cola, stsb, mrpc, rte = (value / 100 for value in values)
    return {
        "mnli": {"accuracy": matched, "accuracy_mismatched": mismatched},
        "qqp": {"f1": qqp},
        "qnli": {"accuracy": qnli},
        "sst2": {"accuracy": sst2},
        "cola": {"mcc": cola},
        "stsb": {"spearman": stsb},
        "mrpc": {"f1": mrpc},
        "rte": {"accuracy": rte},
    }


BERT = dev_row(56.3, 84.7, 88.6, 91.8, 89.6, 69.3, 92.7, 89.0, 53.5)
DISTILBERT = dev_row(51.3, 82.1, 87.5, 89.2, 88.5, 59.9, 91.3, 86.9, 56.3)
DISTILROBERTA = dev_row(59.3, 84.0, 86.6, 90.8, 89.4, 67.9, 92.5, 88.3, 52.1)


@pytest.mark.parametrize(
    ("row", "published"), [(BERT, 79.50), (DISTILBERT, 77.00), (DISTILROBERTA, 78.99)]
)
def test_macro9_dev_is_distilberts_table(row: dict[str, dict[str, float]], published: float):
    assert averages(row)["macro9_dev"] == pytest.approx(published, abs=0.005)


def test_macro8_dev_leaves_wnli_out():
    assert averages(DISTILROBERTA)["macro8_dev"] == pytest.approx(82.35, abs=0.005)


@pytest.mark.parametrize(
    ("row", "published"),
    [
        (tinybert_row(83.9, 83.4, 71.1, 90.9, 93.4, 52.8, 85.2, 87.5, 67.0), 79.47),
        (tinybert_row(82.5, 81.8, 71.3, 87.7, 92.6, 44.1, 80.4, 86.4, 66.6), 77.04),
        (tinybert_row(82.6, 81.3, 70.1, 88.9, 92.5, 49.0, 81.3, 86.9, 58.4), 76.78),
        (tinybert_row(84.6, 83.2, 71.6, 90.4, 93.1, 51.1, 83.7, 87.3, 70.0), 79.44),
        (tinybert_row(81.5, 81.6, 68.9, 89.5, 91.7, 46.7, 80.1, 87.9, 65.1), 77.00),
    ],
    ids=["BERT-base", "TinyBERT4", "DistilBERT6", "TinyBERT6", "MobileBERT-tiny"],
)
def test_avg9_test_is_tinyberts_table(row: dict[str, dict[str, float]], published: float):
    assert averages(row)["avg9_test"] == pytest.approx(published, abs=0.005)


def test_glue_official_is_mobileberts_77_7():
    # The paper prints F1 and Spearman only. WNLI 65.1 (its majority class), QQP accuracy 89 and
    # MRPC accuracy 84 are near what its average needs; Pearson is taken equal to Spearman.
    row = {
        "cola": {"mcc": 0.505},
        "sst2": {"accuracy": 0.928},
        "mrpc": {"accuracy": 0.84, "f1": 0.888},
        "stsb": {"pearson": 0.844, "spearman": 0.844},
        "qqp": {"accuracy": 0.89, "f1": 0.702},
        "mnli": {"accuracy": 0.833, "accuracy_mismatched": 0.826},
        "qnli": {"accuracy": 0.906},
        "rte": {"accuracy": 0.662},
        "wnli": {"accuracy": 0.651},
    }
    # (50.5 + 92.8 + 86.4 + 84.4 + 79.6 + 82.95 + 90.6 + 66.2 + 65.1) / 9
    assert averages(row)["glue_official"] == pytest.approx(698.55 / 9)
    assert averages(row)["glue_official"] == pytest.approx(77.7, abs=0.1)


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ((0.0, 83.2, 81.1, 71.1, 74.3, 73.6, 62.2, 83.4, 70.2, 70.3, 81.5, 57.2, 62.3), 64.2),
        ((0.0, 85.9, 81.1, 71.8, 75.4, 73.3, 66.4, 86.2, 74.8, 74.3, 84.1, 57.9, 62.3), 65.8),
        ((27.8, 89.7, 83.4, 76.2, 78.8, 77.0, 68.1, 87.0, 77.6, 77.0, 86.4, 61.8, 62.3), 71.2),
        ((38.0, 89.6, 86.6, 81.6, 80.4, 78.4, 69.6, 87.9, 80.0, 79.1, 87.7, 62.2, 62.3), 73.5),
    ],
    ids=["BERT-Tiny", "BERT-Mini", "BERT-Small", "BERT-Medium"],
)
def test_glue_official_is_what_the_server_gave_berts_miniatures(
    values: tuple[float, ...], published: float
):
    """Rows of google-research/bert with every metric of every task, and the server's average."""
    names = "cola.mcc sst2.accuracy mrpc.f1 mrpc.accuracy stsb.pearson stsb.spearman qqp.f1 "
    names += "qqp.accuracy mnli.accuracy mnli.accuracy_mismatched qnli.accuracy rte.accuracy "
    row: dict[str, dict[str, float]] = {}
    for name, value in zip((names + "wnli.accuracy").split(), values, strict=True):
        task, metric = name.split(".")
        row.setdefault(task, {})[metric] = value / 100
    assert averages(row)["glue_official"] == pytest.approx(published, abs=0.06)


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ((76.8, 84.5, 93.2, 91.7, 68.6, 87.3, 91.3), 84.77),
        ((70.7, 82.2, 91.3, 89.2, 59.9, 87.5, 88.5), 81.33),
    ],
    ids=["BERT-base", "DistilBERT"],
)
def test_avg7_is_minilms_table(values: tuple[float, ...], published: float):
    squad, *rest = values
    row = {
        task: {"accuracy": value / 100}
        for task, value in zip(("mnli", "sst2", "qnli", "rte", "mrpc", "qqp"), rest, strict=True)
    }
    assert averages(row | {"squad2": {"f1": squad / 100}})["avg7"] == pytest.approx(
        published, abs=0.005
    )


def test_a_convention_without_all_its_tasks_has_no_value():
    without_rte = {task: metrics for task, metrics in BERT.items() if task != "rte"}
    assert averages(without_rte) == {}
    assert set(averages(BERT)) == {"macro9_dev", "macro8_dev"}


def test_derived_tasks_never_make_a_glue_average():
    derived = {"acceptability": {"mcc": 0.5}, "package": {"accuracy": 0.8}}
    assert averages(derived) == {}
    assert averages(BERT | derived) == averages(BERT)


def test_there_are_five_conventions():
    # Nine columns where the name says so; MNLI twice in TinyBERT's.
    assert {name: len(columns) for name, columns in CONVENTIONS.items()} == {
        "macro9_dev": 9, "avg9_test": 9, "glue_official": 9, "macro8_dev": 8, "avg7": 7
    }  # fmt: skip


def test_the_mean_of_tasks_is_plain():
    assert mean_of_tasks({"acceptability": 40.0, "package": 80.0}) == pytest.approx(60)


PUBLISHED = ROOT.parent / "shared" / "reference" / "published"
# File, the column of the average as it is printed, the convention, and each table's columns as
# (task, metrics that share the printed number).
TABLES = [
    ("glue_dev_distilbert.csv", "macro9_published", "macro9_dev", {
        "CoLA_mcc": ("cola", ["mcc"]), "MNLI_m_acc": ("mnli", ["accuracy"]),
        "MRPC": ("mrpc", ["accuracy", "f1"]), "QNLI_acc": ("qnli", ["accuracy"]),
        "QQP": ("qqp", ["accuracy", "f1"]), "RTE_acc": ("rte", ["accuracy"]),
        "SST2_acc": ("sst2", ["accuracy"]), "STSB": ("stsb", ["pearson", "spearman"]),
        "WNLI_acc": ("wnli", ["accuracy"]),
    }),
    ("glue_test_tinybert.csv", "avg9_published", "avg9_test", {
        "MNLI_m_acc": ("mnli", ["accuracy"]), "MNLI_mm_acc": ("mnli", ["accuracy_mismatched"]),
        "QQP_f1": ("qqp", ["f1"]), "QNLI_acc": ("qnli", ["accuracy"]),
        "SST2_acc": ("sst2", ["accuracy"]), "CoLA_mcc": ("cola", ["mcc"]),
        "STSB_spearman": ("stsb", ["spearman"]), "MRPC_f1": ("mrpc", ["f1"]),
        "RTE_acc": ("rte", ["accuracy"]),
    }),
    ("dev_minilm_xtreme.csv", "avg_published", "avg7", {
        "SQuAD2_f1": ("squad2", ["f1"]), "MNLI_m": ("mnli", ["accuracy"]),
        "SST2": ("sst2", ["accuracy"]), "QNLI": ("qnli", ["accuracy"]),
        "RTE": ("rte", ["accuracy"]), "MRPC": ("mrpc", ["accuracy"]),
        "QQP": ("qqp", ["accuracy"]),
    }),
]  # fmt: skip


def test_of_several_seeds_a_column_is_the_median_as_a_score_is():
    # 0.8, 0.7 and 0.8 by seed; the medians of the metrics would make it 0.75.
    seeds = {"accuracy": [0.7, 0.8, 0.9], "f1": [0.9, 0.6, 0.7]}
    found = averages(DISTILBERT | {"mrpc": seeds})["macro9_dev"]
    assert found == pytest.approx(averages(DISTILBERT)["macro9_dev"] + (80 - 87.5) / 9)


@pytest.mark.parametrize(
    ("file", "printed", "convention", "columns"), TABLES, ids=lambda x: str(x)[:24]
)
def test_published_tables_average_to_what_they_print(
    file: str, printed: str, convention: str, columns: dict[str, tuple[str, list[str]]]
):
    if not PUBLISHED.is_dir():
        pytest.skip(f"published tables are not here: {PUBLISHED} does not exist")
    with (PUBLISHED / file).open(encoding="utf-8", newline="") as table:
        rows = [
            row for row in csv.DictReader(table) if all(row[name] for name in [printed, *columns])
        ]
    assert len(rows) >= 7
    wrong = {}
    for row in rows:
        metrics: dict[str, dict[str, float]] = {}
        for name, (task, keys) in columns.items():
            metrics.setdefault(task, {}).update(dict.fromkeys(keys, float(row[name]) / 100))
        value = averages(metrics)[convention]
        # Cells and averages are printed with one decimal, cut or rounded.
        if abs(value - float(row[printed])) > 0.1 + 1e-9:
            wrong[row["system"]] = (value, row[printed])
    assert wrong == {}
