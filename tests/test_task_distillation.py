"""Distillation on a task: each loss against its formula, and a whole run on a tiny task."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn.utils import prune
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)

from stages.distillation.layer_terms import layer_term
from stages.errors import DataError, SettingsError, TeacherError
from stages.evaluation.augmentation import Augmenter
from stages.evaluation.augmented_text import augment
from stages.evaluation.classifier import open_classifier
from stages.evaluation.distil_task import distil_task
from stages.evaluation.finetune import finetune
from stages.evaluation.keep import keep
from stages.evaluation.metrics import score
from stages.evaluation.task_distillation import TaskDistillation
from stages.evaluation.task_folder import TaskData, write_task
from stages.evaluation.task_models import Split, answers, read_split, scored
from stages.evaluation.task_student import distil_once, lesson
from stages.evaluation.task_teacher import check_tokenizers
from stages.evaluation.tasks import get_task
from stages.evaluation.tuning import tuning_schedule
from stages.export.compressed import compress, prune_smallest
from stages.export.graph import Feeds
from stages.export.quantise import write_int8
from stages.files import read_json, sha256_of, write_json
from stages.params import Augmentation, FineTune, TaskPhase, load
from stages.params import TaskDistillation as TaskDistillationSettings
from stages.params.release import Int8
from stages.teacher.models import save_model as save_model_with
from stages.training.optimisation import learning_rate
from stages.training.processes import Processes
from tests import test_finetune
from tests.conftest import ROOT
from tests.test_finetune import MortalBatches
from tests.test_finetune_spans import questions
from tests.tiny_models import ALONE
from tests.tiny_pipeline import save_tokenizer

BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0], [2, 5, 6, 3]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "token_type_ids": torch.zeros(3, 4, dtype=torch.long),
    "labels": torch.tensor([0, 2, 1]),
}


TUNING = FineTune(num_epochs=1, learning_rate=0.01, max_length=16)


def classifier(num_layers: int, seed: int, num_labels: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=40, num_hidden_layers=num_layers, initializer_range=0.3,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0, num_labels=num_labels, **sizes,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def loss_of(num_labels: int = 3, **phase: object) -> TaskDistillation:
    settings = TaskPhase.model_validate(
        {"name": "p", "num_epochs": 1, "learning_rate": 0.01} | phase
    )
    student, teacher = classifier(2, 1, num_labels), classifier(4, 2, num_labels)
    projections = nn.ModuleDict()
    terms = [
        layer_term(objective, student.config, teacher.config, projections)
        for objective in settings.objectives
    ]
    kind = "regression" if num_labels == 1 else "classification"
    return TaskDistillation(student, teacher, settings, terms, projections, kind=kind)


def logits(loss: TaskDistillation) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = {name: x for name, x in BATCH.items() if name != "labels"}
    with torch.no_grad():
        return loss.student(**inputs).logits, loss._teacher[0](**inputs).logits


def test_pkd_is_labels_soft_targets_and_patience() -> None:
    loss = loss_of(
        labels=0.3, soft_targets=0.7, temperature=10.0, reduction="upstream",
        objectives=[{"kind": "patience", "weight": 100}],
    )  # fmt: skip
    assert loss.terms == ("labels", "soft_targets", "patience")
    counts = loss.counts(BATCH)
    assert counts == [3, 9, 3 * 1 * 16]
    total, sums = loss(BATCH, counts)
    mine, theirs = logits(loss)
    ce = F.cross_entropy(mine, BATCH["labels"])
    soft = (theirs / 10).softmax(-1)
    kl = 100 * (soft * (soft.log() - (mine / 10).log_softmax(-1))).mean()
    inputs = {name: x for name, x in BATCH.items() if name != "labels"}
    states = [
        F.normalize(model.bert(**inputs, output_hidden_states=True).hidden_states[layer][:, 0])
        for model, layer in ((loss.student, 1), (loss._teacher[0], 2))
    ]
    patience = F.mse_loss(*states)
    torch.testing.assert_close(total, 0.3 * ce + 0.7 * kl + 100 * patience)
    assert sums[0].item() == pytest.approx(3 * ce.item(), rel=1e-5)


def test_a_teacher_whose_answers_are_known_is_not_asked_again() -> None:
    loss = loss_of(labels=0.5, soft_targets=0.5, temperature=2.0)
    counts, (_, theirs) = loss.counts(BATCH), logits(loss)
    asked, _ = loss(BATCH, counts)
    loss._teacher = ()
    known, _ = loss(BATCH | {"taught": theirs}, counts)
    torch.testing.assert_close(known, asked)
    assert loss.reads_answers_alone
    patience = [{"kind": "patience", "weight": 1}]
    assert not loss_of(soft_targets=1.0, objectives=patience).reads_answers_alone
    labels_alone = loss_of(labels=1.0)
    labels_alone._teacher = ()
    labels_alone(BATCH, labels_alone.counts(BATCH))


def test_soft_targets_in_bfloat16_are_compared_in_float32() -> None:
    """At T = 10 three classes are within a hundredth of each other, and of a teacher's."""
    loss = loss_of(soft_targets=1.0, temperature=10.0)
    mine, _ = logits(loss)
    batch = BATCH | {"taught": mine + torch.tensor([[0.3, 0.0, -0.3]])}
    counts = loss.counts(batch)
    exact, _ = loss(batch, counts)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = loss(batch, counts)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0)


def test_regression_learns_the_teachers_numbers_or_the_labels() -> None:
    mine, theirs = logits(loss_of(1, soft_targets=1.0))
    gold = BATCH | {"labels": torch.tensor([0.5, 4.0, 2.0])}
    for phase, target in (({"soft_targets": 1.0}, theirs[:, 0]), ({"labels": 1.0}, gold["labels"])):
        loss = loss_of(1, **phase)
        total, _ = loss(gold, loss.counts(gold))
        torch.testing.assert_close(total, F.mse_loss(mine[:, 0], target))


def test_second_distillation_on_squad_is_half_labels_and_half_the_teachers_spans() -> None:
    """DistilBERT (D): 0.5 x the mean of two cross-entropies + 0.5 x that of two KL at T = 2."""
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = classifier(2, seed, 2).config
        models.append(BertForQuestionAnswering(config))
    phase = TaskPhase(
        name="d", labels=0.5, soft_targets=0.5, temperature=2, num_epochs=1, learning_rate=0.1
    )
    loss = TaskDistillation(*models, phase, [], nn.ModuleDict(), kind="span")
    batch = BATCH | {"labels": torch.tensor([[1, 2], [0, 0], [2, 2]])}
    total, _ = loss(batch, loss.counts(batch))
    inputs = {name: x for name, x in BATCH.items() if name != "labels"}
    expected = 0.0
    for side, name in enumerate(("start_logits", "end_logits")):
        mine, theirs = (model(**inputs)[name] for model in models)
        expected += (
            F.cross_entropy(
                mine.masked_fill(BATCH["attention_mask"] == 0, -1e9), batch["labels"][:, side]
            )
            / 4
        )
        for row, real in enumerate((4, 3, 4)):
            soft = (theirs[row, :real] / 2).softmax(-1)
            kl = (soft * (soft.log() - (mine[row, :real] / 2).log_softmax(-1))).sum()
            expected += 4 * kl / 3 / 4
    torch.testing.assert_close(total, expected)


def test_layers_learn_without_any_answer() -> None:
    loss = loss_of(objectives=[{"kind": "attention_scores"}, {"kind": "hidden_states"}])
    total, _ = loss(BATCH, loss.counts(BATCH))
    total.backward()
    assert loss.student.classifier.weight.grad is None
    assert loss.student.bert.encoder.layer[0].attention.self.query.weight.grad is not None
    assert all(parameter.grad is None for parameter in loss._teacher[0].parameters())
    assert not any("teacher" in name for name, _ in loss.named_parameters())
    # The released TinyBERT leaves its teacher's dropout on.
    loss.train()
    assert not any(module.training for module in loss._teacher[0].modules())


def test_answers_that_alone_are_learnt_from_are_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.evaluation.task_student.logits_of_all", lambda *_: "asked")

    def taught(task: str, **phase: object) -> object:
        recipe = TaskDistillationSettings.model_validate({"phases": [loss_of(**phase).phase]})
        return lesson({"kind": task}, None, Split(None), recipe).taught_NC

    layers = [{"kind": "hidden_states"}]
    assert taught("classification", soft_targets=1) == "asked"
    assert taught("classification", soft_targets=1, objectives=layers) is None
    assert taught("span", soft_targets=1) is None
    assert taught("regression", labels=1) is None


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({}, "give labels or soft_targets a weight, or name objectives"),
        ({"objectives": [{"kind": "mlm"}]}, "objective mlm is for text, not for a task"),
    ],
)
def test_phase_without_a_loss_is_refused(phase: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_of(**phase)


def save_model(folder: Path, num_layers: int) -> None:
    size = save_tokenizer(folder)
    torch.manual_seed(num_layers)
    config = BertConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=num_layers, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Which of two words a text has, in the form of a task's folder."""
    folder = tmp_path / "task"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, num in (("train", 48), ("validation", 24)):
        labels = rng.integers(0, 2, num)
        texts = [f"the {'tensor' if label else 'string'} of data" for label in labels]
        table = pa.table(
            {"text_a": texts, "text_b": pa.array([None] * num, pa.string()), "label": labels}
        )
        pq.write_table(table, folder / f"{split}.parquet")
    write_json(
        folder / "task.json",
        {
            "name": "sst2", "title": "SST-2", "kind": "classification", "labels": ["a", "b"],
            "scored_by": ["accuracy"], "metrics": ["accuracy"], "is_glue": False,
            "is_derived": True, "validation_splits": ["validation"], "test_splits": [],
        },
    )  # fmt: skip
    return folder


def settings_with(tmp_path: Path, **given: object):
    params = load(ROOT / "params.yaml")
    tuning = params.evaluation.finetune.model_copy(
        update={"num_epochs": 2, "learning_rate": 0.01, "max_length": 16}
    )
    evaluation = params.evaluation.model_dump() | {"finetune": tuning.model_dump(), "seeds": [1]}
    return params.model_validate(params.model_dump() | {"evaluation": evaluation | given})


def test_tinybert_learns_a_task_from_augmented_text(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    glove = tmp_path / "glove.txt"
    glove.write_text("tensor 1 0\narray 1 0.1\nstring 0 1\ntext 0.1 1\n")
    for name, num_layers in (("teacher", 2), ("student", 1)):
        save_model(tmp_path / name, num_layers)
    common = {"num_epochs": 1, "learning_rate": 0.01, "batch_examples": 16}
    common |= {"precision": "bfloat16"}
    phases = [
        common | {
            "name": "intermediate", "decay": "constant", "by_task": {"sst2": {"num_epochs": 2}},
            "objectives": [{"kind": "attention_scores"}, {"kind": "hidden_states"}],
        },
        common | {"name": "prediction", "soft_targets": 1.0},
    ]  # fmt: skip
    augmentation = {"glove": str(glove), "num_variants": 2, "num_variants_by_task": {"sst2": 3}}
    params = settings_with(
        tmp_path, task_distillation={"td": {"phases": phases, "augmentation": augmentation}}
    )
    folders = (tmp_path / "teacher", tmp_path / "student", task)
    report = distil_task(*folders, "td", params, ALONE, tmp_path / "report.json")
    assert 48 < report["num_train"] <= 4 * 48
    assert 0 <= report["score"]["median"] <= 100
    assert read_json(tmp_path / "report.json")["teacher_score"] == report["teacher_score"]
    assert report["settings"]["augmentation"]["num_variants"] == 3
    assert [phase["num_epochs"] for phase in report["settings"]["phases"]] == [2, 1]
    assert not list((tmp_path / ".scratch").glob("distil-task-*"))


def test_tinybert_has_the_released_codes_settings_for_every_task() -> None:
    recipe = load(ROOT / "profiles" / "tinybert.yaml").evaluation.task_distillation["tinybert"]
    found = {}
    for task in ("cola", "mnli", "mrpc", "sst2", "stsb", "qqp", "qnli", "rte"):
        on_task = recipe.on(task)
        intermediate, prediction = on_task.phases
        assert (prediction.num_epochs, prediction.warmup_fraction) == (3, 0.1)
        schedule = tuning_schedule(intermediate, decay=intermediate.decay)
        # No warm-up and no decay: its schedule is called "none".
        assert learning_rate(schedule, 0, 100) == learning_rate(schedule, 99, 100) == 5e-5
        assert on_task.augmentation is not None
        found[task] = (intermediate.num_epochs, on_task.augmentation.num_variants)
    assert found == {
        "cola": (50, 30), "mnli": (5, 10), "mrpc": (20, 30), "sst2": (10, 20),
        "stsb": (20, 30), "qqp": (5, 10), "qnli": (10, 20), "rte": (20, 30),
    }  # fmt: skip


def test_a_task_sets_what_it_names_and_leaves_the_rest() -> None:
    phase = loss_of(
        labels=1.0, batch_examples=8, by_task={"rte": {"num_epochs": 10, "learning_rate": 1e-4}}
    ).phase
    there, elsewhere = phase.on("rte"), phase.on("cola")
    assert (there.num_epochs, there.learning_rate, there.batch_examples) == (10, 1e-4, 8)
    assert (elsewhere.num_epochs, elsewhere.learning_rate) == (1, 0.01)
    # What others set decides nothing here, and so is no part of a run's fingerprint.
    assert there.by_task == elsewhere.by_task == {}
    assert tuning_schedule(there).precision == "float32"
    assert tuning_schedule(loss_of(labels=1, precision="bfloat16").phase).precision == "bfloat16"


KD = {
    "name": "kd", "labels": 0.5, "soft_targets": 0.5, "temperature": 2.0,
    "num_epochs": 1, "learning_rate": 0.01, "batch_examples": 16,
}  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders of a teacher and a student, in a working folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name, num_layers in (("teacher", 2), ("student", 1)):
        save_model(tmp_path / name, num_layers)
    return tmp_path / "teacher", tmp_path / "student"


def test_student_of_the_median_is_a_stock_classifier_with_its_score(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the third seed, it still has the students of the first two."""
    # The scores of numbers differ between seeds, however little was learnt.
    task = test_finetune.write_task(tmp_path / "task", regression=True)
    recipe = {"phases": [KD], "dropout": 0.2}
    params = settings_with(tmp_path, seeds=[1, 2, 3], task_distillation={"kd": recipe})
    trained = []

    def once(*given: Any) -> Any:
        trained.append(given[4])
        if trained == [1, 2, 3]:
            raise KeyboardInterrupt
        return distil_once(*given)

    monkeypatch.setattr("stages.evaluation.distil_task.distil_once", once)
    asked = (*pair, task, "kd", params, ALONE, tmp_path / "report.json", tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        distil_task(*asked)
    assert not (tmp_path / "kept").exists()
    report = distil_task(*asked)
    assert trained == [1, 2, 3, 3]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept").eval()
    assert model.config.hidden_dropout_prob == 0.2
    tokenizer = Tokenizer.from_file(str(tmp_path / "kept" / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    judged = pq.read_table(task / "validation.parquet").to_pydict()
    rows = [torch.tensor([tokenizer.encode(text).ids]) for text in judged["text_a"]]
    with torch.no_grad():
        given = np.array([model(ids).logits.item() for ids in rows])
    again = score(["pearson", "spearman"], given, np.array(judged["label"]))
    assert report["score"]["median"] == pytest.approx(50 * sum(again.values()), abs=1e-4)
    assert report["score"]["min"] < report["score"]["median"] < report["score"]["max"]


def test_student_that_answers_with_spans_is_kept_too(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    data = TaskData(None, questions(24, 0), {"validation": questions(12, 1)})
    write_task(get_task("squad"), data, "by hand", tmp_path / "squad")
    phase = KD | {"learning_rate": 0.001}
    params = settings_with(tmp_path, task_distillation={"d": {"phases": [phase]}})
    folders = (*pair, tmp_path / "squad")
    report = distil_task(*folders, "d", params, ALONE, tmp_path / "r.json", tmp_path / "kept")
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "kept")
    description = read_json(tmp_path / "squad" / "task.json")
    split = read_split(
        folders[2], description, "validation", tmp_path / "kept" / "tokenizer.json",
        params.evaluation.finetune, None,
    )  # fmt: skip
    again = scored({"validation": answers(model, split, description)}, description)
    assert again["f1"] == report["metrics"]["f1"]["median"]


def test_killed_in_the_midst_of_a_seed_it_ends_with_the_identical_student(
    task: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [{"kind": "attention_scores"}, {"kind": "hidden_states"}]
    alone = {"name": "layers", "labels": 0, "soft_targets": 0, "temperature": 1.0}
    phases = [KD | alone | {"objectives": layers}, KD]
    params = settings_with(tmp_path, task_distillation={"td": {"phases": phases}})
    launch = params.launch.model_copy(update={"checkpoint_every_seconds": 0})
    params = params.model_copy(update={"launch": launch})
    monkeypatch.setattr("stages.evaluation.task_student.ShuffledBatches", MortalBatches)

    def ended(name: str) -> tuple[list[int], dict[str, Any], str]:
        MortalBatches.asked.clear()
        report = distil_task(
            *pair, task, "td", params, ALONE, tmp_path / f"{name}.json", tmp_path / name
        )
        del report["seconds"]
        return [*MortalBatches.asked], report, sha256_of(tmp_path / name / "model.safetensors")

    # A phase's first batch is asked for what its loss reaches, too; both have three steps.
    steps, report, student = ended("undisturbed")
    assert steps == [0, 0, 1, 2, 0, 0, 1, 2]
    monkeypatch.setattr(MortalBatches, "last", 7)
    with pytest.raises(KeyboardInterrupt):
        ended("killed")
    monkeypatch.setattr(MortalBatches, "last", None)
    assert ended("killed") == ([0, 0, 1, 2], report, student)


def test_several_processes_are_refused(task: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    params = settings_with(tmp_path, task_distillation={"kd": {"phases": [KD]}})
    two = Processes(1, 2, torch.device("cpu"))
    words = "a task is the work of one process, and there are 2: run this without torchrun"
    with pytest.raises(SettingsError, match=words):
        distil_task(*pair, task, "kd", params, two, tmp_path / "r.json")
    with pytest.raises(SettingsError, match=words):
        finetune(pair[0], task, params, two, tmp_path / "r.json", tmp_path / "p.parquet")
    with pytest.raises(SettingsError, match=words):
        keep(pair[0], task, {}, params, two, tmp_path / "kept")
    with pytest.raises(SettingsError, match=words):
        compress(pair[0], task, {"int8": None}, params, two, tmp_path / "beside")


def test_a_teacher_whose_words_are_no_word_pieces_augments_nothing(
    task: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5}
    Tokenizer(models.BPE(vocabulary, [])).save(str(pair[0] / "tokenizer.json"))
    settings = Augmentation(glove="none.txt")
    with pytest.raises(
        SettingsError, match=r"kind BPE: it wants .* WordPiece with a token \[MASK\]"
    ):
        augment(settings, pair[0], task, TUNING, 0, ALONE.device, tmp_path / "text")


def test_augmentation_is_as_set_on_the_device_that_trains(
    task: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def variants(self: Augmenter, texts: list[str], *_: int) -> list[list[str]]:
        length = self.tokenizer.truncation["max_length"]
        found.append((self.model.device.type, self.num_candidates, self.probability, length))
        return [[] for _ in texts]

    monkeypatch.setattr(Augmenter, "variants", variants)
    (tmp_path / "glove.txt").write_text("tensor 1 0\n")
    settings = Augmentation(glove=str(tmp_path / "glove.txt"), num_candidates=7, probability=0.2)
    # No device of numbers: what is sent there needs no GPU to be seen.
    augment(settings, pair[0], task, TUNING, 0, torch.device("meta"), tmp_path / "text")
    # Each text beside itself.
    assert found == 2 * [("meta", 7, 0.2, 2 * TUNING.max_length)]


def save_classifier(teacher: Path, folder: Path, labels: list[str] | None) -> Path:
    save_model_with(open_classifier(teacher, labels, 0.1, 5), teacher, folder)
    return folder


def test_a_teacher_that_was_tuned_teaches_as_it_is(
    task: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    tuned = save_classifier(pair[0], tmp_path / "tuned", ["a", "b"])
    with pytest.MonkeyPatch.context() as patch:
        # It is the students that are trained, and nobody else.
        patch.setattr("stages.evaluation.distil_task.tune_on_labels", None)
        params = settings_with(tmp_path, task_distillation={"kd": {"phases": [KD]}})
        report = distil_task(*pair, task, "kd", params, ALONE, tmp_path / "r.json", None, tuned)
    description = read_json(task / "task.json")
    split = read_split(
        task, description, "validation", pair[1] / "tokenizer.json",
        params.evaluation.finetune, None,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    own = scored({"validation": answers(model, split, description)}, description)
    assert report["teacher_score"] == 100 * own["accuracy"]


def test_a_teacher_of_another_head_or_tokenizer_is_refused(
    task: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    params = settings_with(tmp_path, task_distillation={"kd": {"phases": [KD]}})

    def refused(tuned: Path, message: str, error: type[Exception] = TeacherError) -> None:
        with pytest.raises(error, match=message):
            distil_task(*pair, task, "kd", params, ALONE, tmp_path / "r.json", None, tuned)

    refused(tmp_path / "nowhere", "nowhere holds no model, .*keep one that is tuned")
    refused(pair[0], "teacher is BertForMaskedLM, which was not fine-tuned on SST-2")
    three = save_classifier(pair[0], tmp_path / "three", ["a", "b", "c"])
    refused(three, "three has 3 labels, and SST-2 has 2")
    refused(save_classifier(pair[0], tmp_path / "one", None), "one has 1 labels, and SST-2 has 2")
    turned = save_classifier(pair[0], tmp_path / "turned", ["b", "a"])
    refused(turned, r"labels \['b', 'a'\], and the task has \['a', 'b'\]", DataError)
    other = save_classifier(pair[0], tmp_path / "other", ["a", "b"])
    file = other / "tokenizer.json"
    # How text was last cut is no difference; which id a word has, is.
    write_json(file, read_json(file) | {"truncation": None, "padding": None})
    check_tokenizers(pair[1], other)
    tokenizer = read_json(file)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["true"], vocabulary["false"] = vocabulary["false"], vocabulary["true"]
    write_json(file, tokenizer)
    refused(other, "other/tokenizer.json differs from .*student/tokenizer.json in model: both")


def test_recipe_that_is_not_there_is_refused(task: Path, tmp_path: Path) -> None:
    params = settings_with(tmp_path)
    with pytest.raises(SettingsError, match=r"--recipe pd: .* has none: give it a recipe"):
        distil_task(tmp_path, tmp_path, task, "pd", params, ALONE, tmp_path / "report.json")


def test_the_teacher_is_tuned_as_its_task_says(
    task: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(*given: Any) -> None:
        raise KeyboardInterrupt(given[3].num_epochs)

    monkeypatch.setattr("stages.evaluation.distil_task.tune_on_labels", tune)
    tuning = {"num_epochs": 1, "learning_rate": 0.1, "by_task": {"sst2": {"num_epochs": 7}}}
    given = {"tasks": ["sst2"], "task_distillation": {"kd": {"phases": [KD]}}, "finetune": tuning}
    with pytest.raises(KeyboardInterrupt, match="7"):
        distil_task(*pair, task, "kd", settings_with(tmp_path, **given), ALONE, tmp_path / "r.json")


def test_objective_that_does_not_fit_is_refused_before_the_teacher_is_tuned(
    task: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.evaluation.distil_task.tune_on_labels", None)
    phases = [KD | {"objectives": [{"kind": "patience", "weight": 1}]}]
    params = settings_with(tmp_path, task_distillation={"pkd": {"phases": phases}})
    with pytest.raises(SettingsError, match="phase kd: objective patience: patience needs a stu"):
        distil_task(*pair, task, "pkd", params, ALONE, tmp_path / "report.json")


def smaller(
    task: Path, tmp_path: Path, ways: dict[str, float | None], int8: Int8 | None = None
) -> dict[str, object]:
    """Make the teacher of a task smaller in one way; return its report."""
    save_model(tmp_path / "teacher", 2)
    params = settings_with(tmp_path)
    export = params.export.model_copy(update={"int8": int8 or Int8()})
    params = params.model_copy(update={"export": export})
    reports = compress(tmp_path / "teacher", task, ways, params, ALONE, tmp_path / "beside")
    ((name, report),) = reports.items()
    assert read_json(tmp_path / "beside" / name / "sst2.json") == report
    assert report["model"] == "teacher"
    assert report["score"]["median"] >= 50
    return report


NUM_WEIGHTS, NUM_MAPPED = 7506, 2 * (4 * 16**2 + 2 * 16**2)
"""Of the classifier made from the tiny teacher, and in the linear maps of its encoder."""


def test_pruned_weights_stay_at_zero_through_fine_tuning(task: Path, tmp_path: Path) -> None:
    report = smaller(task, tmp_path, {"pruned_75": 0.75})
    left = NUM_WEIGHTS - 3 * NUM_MAPPED // 4
    assert report["num_parameters"] == left
    assert report["weights_megabytes"] == pytest.approx((4 * left + NUM_MAPPED / 8) / 1e6, abs=6e-4)


def test_the_smallest_weights_of_all_layers_go(tmp_path: Path) -> None:
    save_model(tmp_path, 2)
    model = open_classifier(tmp_path, ["a", "b"], 0.0, 0)
    before = {name: p.detach().clone() for name, p in model.bert.encoder.named_parameters()}
    maps = prune_smallest(model, 0.5)
    assert len(maps) == 2 * 6
    for linear in maps:
        prune.remove(linear, "weight")
    after = dict(model.bert.encoder.named_parameters())
    kept = {name: after[name] != 0 for name in before if before[name].ndim == 2}
    largest_gone = max(before[name][~there].abs().max().item() for name, there in kept.items())
    smallest_left = min(before[name][there].abs().min().item() for name, there in kept.items())
    assert largest_gone <= smallest_left


@pytest.mark.slow
def test_eight_bits_are_scored_like_any_model(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def write(fp32: Path, path: Path, given: Int8, calibration: Iterable[Feeds]) -> None:
        made.append(given)
        write_int8(fp32, path, given, calibration)

    monkeypatch.setattr("stages.export.compressed.write_int8", write)
    calibrated = Int8(activations="calibrated", feed_forward_out=False)
    report = smaller(task, tmp_path, {"int8": None}, calibrated)
    assert (report["runtime"], report["num_parameters"]) == ("ONNX INT8", NUM_WEIGHTS)
    assert set(made) == {calibrated}, "eight bits are those that are exported and timed"
