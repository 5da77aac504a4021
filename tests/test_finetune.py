"""Fine-tuning learns what can be learnt, and repeats itself exactly."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stages import params
from stages.errors import DataError
from stages.evaluation.classifier import open_classifier
from stages.evaluation.examples import ShuffledBatches, read_examples, read_rows
from stages.evaluation.finetune import finetune
from stages.evaluation.metrics import score
from stages.evaluation.predictions import read_predictions
from stages.evaluation.task_models import open_model, read_split
from stages.evaluation.tuning import spread, tune_on_labels
from tests.conftest import ROOT
from tests.tiny_models import ALONE
from tests.tiny_pipeline import save_teacher

REPORT, ANSWERS = Path("report.json"), Path("predictions.parquet")
WEIGHT = "encoder.layer.0.output.dense.weight"


def write_task(folder: Path, *, regression: bool = False, pair: bool = False) -> Path:
    """Label 1 when the sentence says `tensor`; or a number, how often it does."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, num in (("train", 160), ("validation", 40)):
        counts = rng.integers(0, 2, size=num)
        texts = [
            " ".join(
                rng.permutation(["tensor"] * c + ["the", "value", "of", "a"] * rng.integers(1, 4))
            )
            for c in counts
        ]
        kind = pa.float64() if regression else pa.int64()
        table = {
            "text_a": texts,
            "text_b": pa.array(["a list"] * num if pair else [None] * num, pa.string()),
            "label": pa.array(counts, kind),
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet")
    task = {
        "name": "stsb" if regression else "acceptability",
        "title": "Tensors",
        "kind": "regression" if regression else "classification",
        "labels": None if regression else ["without", "with"],
        "metrics": ["pearson", "spearman"] if regression else ["mcc"],
        "scored_by": ["pearson", "spearman"] if regression else ["mcc"],
        "is_glue": False,
        "is_derived": True,
        "validation_splits": ["validation"],
        "test_splits": [],
    }
    (folder / "task.json").write_text(json.dumps(task))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_teacher(tmp_path / "teacher")
    return tmp_path / "teacher"


def settings(**changes: object) -> params.Params:
    chosen = params.load(ROOT / "profiles" / "offline.yaml")
    tuning = chosen.evaluation.finetune.model_copy(
        update={"num_epochs": 10, "learning_rate": 1e-3, "dropout": 0.0, "batch_examples": 16}
        | changes
    )
    evaluation = chosen.evaluation.model_copy(update={"finetune": tuning, "seeds": [1, 2]})
    return chosen.model_copy(update={"evaluation": evaluation})


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tuned(model: Path, task: Path, chosen: params.Params | None = None) -> dict[str, Any]:
    return finetune(model, task, chosen or settings(), ALONE, REPORT, ANSWERS)


@pytest.mark.parametrize(("regression", "pair"), [(False, False), (True, True)])
def test_learnable_task_is_learnt_with_every_seed(
    model: Path, tmp_path: Path, regression: bool, pair: bool
) -> None:
    task = write_task(tmp_path / "task", regression=regression, pair=pair)
    report = tuned(model, task)
    assert len(report["score"]["values"]) == 2
    assert report["score"]["min"] > 80
    assert report == json.loads(REPORT.read_text())
    assert not list((tmp_path / ".scratch").iterdir())


def test_what_was_answered_is_kept_and_gives_the_reported_score(
    model: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "task")
    report = tuned(model, task, settings(num_epochs=2))
    kept = read_predictions(ANSWERS, "validation")
    assert kept is not None
    assert kept.answers_SN.shape == (2, 40)
    again = [score(["mcc"], answers, kept.truth_N)["mcc"] for answers in kept.answers_SN]
    assert again == report["metrics"]["mcc"]["values"]
    assert read_predictions(ANSWERS, "test") is None


def test_test_splits_are_predicted_and_ax_is_scored_where_it_is_labelled(
    model: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "task", pair=True)
    description = json.loads((task / "task.json").read_text())
    description |= {"name": "mnli", "labels": ["entailment", "neutral", "contradiction"]}
    description |= {"metrics": ["accuracy"], "scored_by": ["accuracy"]}
    description |= {"validation_splits": ["validation_matched"]}
    description |= {"test_splits": ["test_matched", "ax"]}
    (task / "task.json").write_text(json.dumps(description))
    table = pq.read_table(task / "validation.parquet")
    pq.write_table(table, task / "validation_matched.parquet")
    pq.write_table(table, task / "ax.parquet")
    hidden = table.set_column(2, "label", pa.array([-1] * table.num_rows, pa.int64()))
    pq.write_table(hidden, task / "test_matched.parquet")
    report = tuned(model, task, settings(max_validation_examples=20))
    assert report["num_validation"] == {"validation_matched": 20}
    assert list(report["metrics"]) == ["accuracy", "mcc_ax"]
    assert report["metrics"]["mcc_ax"]["median"] > 0.8
    answered = read_predictions(ANSWERS, "test_matched")
    assert answered is not None
    assert answered.answers_SN.shape == (2, 40)
    assert set(answered.truth_N) == {-1}


def test_a_classifier_of_another_label_order_is_refused(model: Path, tmp_path: Path) -> None:
    labels = ["not_entailment", "entailment"]
    classifier = open_classifier(model, labels, dropout=0.0, seed=1)
    classifier.save_pretrained(tmp_path / "tuned")
    task = {"kind": "classification", "labels": ["entailment", "not_entailment"]}
    with pytest.raises(DataError, match=r"labels \['not_entailment', 'entailment'\], and the task"):
        open_model(tmp_path / "tuned", task, 0.0, 1)
    open_model(tmp_path / "tuned", task | {"labels": labels}, 0.0, 1)
    with pytest.raises(DataError, match="and the task has numbers: what it learned"):
        open_model(tmp_path / "tuned", {"kind": "regression", "labels": None}, 0.0, 1)


def test_what_answers_with_a_number_says_so_to_pipelines(model: Path) -> None:
    assert open_classifier(model, None, dropout=0.0, seed=1).config.problem_type == "regression"
    assert open_classifier(model, ["a", "b"], dropout=0.0, seed=1).config.problem_type is None


def test_same_seed_gives_the_same_score(model: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    short = settings(num_epochs=1)
    reports = [tuned(model, task, short) for _ in range(2)]
    assert reports[0]["metrics"] == reports[1]["metrics"]


def test_tuning_takes_the_steps_of_a_plain_script(model: Path, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "task", pair=True)
    task = json.loads((folder / "task.json").read_text())
    chosen = settings(num_epochs=1, warmup_fraction=0.2)
    tuning = chosen.evaluation.finetune
    split = read_split(folder, task, "train", model / "tokenizer.json", tuning, None)
    tuned, plain = (open_model(model, task, 0.0, seed=1).train() for _ in range(2))
    tune_on_labels(tuned, task, split, tuning, chosen.launch, ALONE, seed=1)
    batches = ShuffledBatches(split.examples, 16, seed=1)
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    for step in range(10):
        # Up for two of ten steps, then down to zero.
        rate = 1e-3 * min((step + 1) / 2, (10 - step) / 8)
        for group in optimizer.param_groups:
            group["lr"] = rate
        plain(**batches(step)).loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    # Weights are not compared: those without an effect, such as a key's bias, follow rounding.
    after, before = (
        tuned(**batches(0)).logits,
        open_model(model, task, 0.0, seed=1)(**batches(0)).logits,
    )
    torch.testing.assert_close(after, plain(**batches(0)).logits, rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 1e-2


def test_grid_reports_the_best_setting_and_everything_it_was_chosen_from(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "distillery")
    task = write_task(tmp_path / "task")
    grid = params.Grid(learning_rate=[1e-9, 1e-3])
    short = settings(grid=grid, num_epochs=2)
    report = finetune(model, task, short, ALONE, REPORT, ANSWERS, tmp_path / "encoder")
    tried = report["selected_from"]
    # Two settings with two seeds each: each run says its score once it has ended.
    said = [text for text in caplog.messages if " seed " in text]
    assert [text.partition(":")[0].partition(", ")[2] for text in said] == [
        f"run {number} of 4" for number in (1, 2, 3, 4)
    ]
    assert [one["settings"]["learning_rate"] for one in tried] == [1e-9, 1e-3]
    assert [len(one["score"]["values"]) for one in tried] == [2, 2]
    best = max(tried, key=lambda one: one["score"]["median"])
    assert report["settings"] == best["settings"]
    assert report["settings"]["learning_rate"] == 1e-3
    assert report["score"] == best["score"]
    before, after = (
        open_classifier(folder, None, dropout=0.0, seed=1).base_model.get_parameter(WEIGHT)
        for folder in (model, tmp_path / "encoder")
    )
    assert (before - after).abs().max() > 1e-3
    assert report["seconds"] == pytest.approx(sum(one["seconds"] for one in tried))
    kept = read_predictions(ANSWERS, "validation")
    assert kept is not None
    again = [100 * score(["mcc"], answers, kept.truth_N)["mcc"] for answers in kept.answers_SN]
    assert again == report["score"]["values"]
    assert not list((tmp_path / ".scratch").iterdir())


def test_encoder_tuned_on_one_task_starts_another(model: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    finetune(model, task, settings(num_epochs=1), ALONE, REPORT, ANSWERS, tmp_path / "tuned")
    before, after = (
        open_classifier(folder, None, dropout=0.0, seed=1).base_model.state_dict()
        for folder in (model, tmp_path / "tuned")
    )
    assert before.keys() == after.keys()
    assert not any(before[n].equal(after[n]) for n in before if n.endswith("dense.weight"))
    number = write_task(tmp_path / "number", regression=True)
    report = tuned(tmp_path / "tuned", number, settings(num_epochs=1))
    assert report["model"] == "tuned"


def test_task_has_its_own_settings_and_the_grid_leaves_them() -> None:
    tuning = params.FineTune.model_validate(
        {
            "num_epochs": 3,
            "learning_rate": 2e-5,
            "max_train_examples": 1000,
            "by_task": {"rte": {"num_epochs": 10, "learning_rate": 3e-5, "max_train_examples": 50}},
            "grid": {"learning_rate": [1e-5, 2e-5], "batch_examples": [16, 32]},
        }
    )

    def tried(task: str) -> list[tuple[float, int, float]]:
        return [(c.num_epochs, c.batch_examples, c.learning_rate) for c in tuning.choices(task)]

    assert tried("rte") == [(10, 16, 3e-5), (10, 32, 3e-5)]
    assert tried("cola") == [(3, 16, 1e-5), (3, 16, 2e-5), (3, 32, 1e-5), (3, 32, 2e-5)]
    # Another task's settings are no part of this one's.
    assert not tuning.choices("rte")[0].by_task
    assert [tuning.choices(task)[0].max_train_examples for task in ("rte", "cola")] == [50, 1000]


def test_finished_seeds_are_kept_when_the_stage_is_killed(model: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    unwritable = tmp_path / "file"
    unwritable.write_text("")
    # Everything is computed, then the report cannot be written: the folder is a file.
    with pytest.raises(OSError, match=r"file"):
        finetune(
            model, task, settings(num_epochs=1), ALONE, unwritable / "report.json", tmp_path / "p"
        )
    (workspace,) = (tmp_path / ".scratch").iterdir()
    marked = {"metrics": {"mcc": 0.123}, "seconds": 1.0}
    assert (workspace / "seed-2.parquet").is_file()
    (workspace / "seed-2.json").write_text(json.dumps(marked))
    # The first seed's encoder, which nobody had asked for, wants that seed again.
    encoder = tmp_path / "encoder"
    report = finetune(model, task, settings(num_epochs=1), ALONE, REPORT, ANSWERS, encoder)
    assert report["metrics"]["mcc"]["values"][1] == 0.123
    assert (encoder / "config.json").is_file()


class MortalBatches(ShuffledBatches):
    """Batches that end the run with the one of a certain number, counted over all phases."""

    asked: ClassVar[list[int]] = []
    last: ClassVar[int | None] = None

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Return a batch, or die."""
        self.asked.append(step)
        if len(self.asked) == self.last:
            raise KeyboardInterrupt
        return super().__call__(step)


def test_killed_in_the_midst_of_a_seed_it_goes_on_to_the_same_answers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, chosen = write_task(tmp_path / "task"), settings(num_epochs=0.4, dropout=0.1)
    launch = chosen.launch.model_copy(update={"checkpoint_every_seconds": 0})
    chosen = chosen.model_copy(update={"launch": launch})
    monkeypatch.setattr("stages.evaluation.tuning.ShuffledBatches", MortalBatches)

    def ended() -> tuple[list[int], dict[str, Any], list[Any]]:
        MortalBatches.asked.clear()
        report = tuned(model, task, chosen)
        del report["seconds"]
        return [*MortalBatches.asked], report, pq.read_table(ANSWERS).to_pylist()

    steps, report, answered = ended()
    assert steps == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setattr(MortalBatches, "last", 7)
    with pytest.raises(KeyboardInterrupt):
        ended()
    monkeypatch.setattr(MortalBatches, "last", None)
    assert ended() == ([2, 3], report, answered)
    assert not list((tmp_path / ".scratch").iterdir())


def test_a_seed_shorter_than_the_time_between_checkpoints_writes_none(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("stages.training.loop.save_checkpoint", refused)
    tuned(model, write_task(tmp_path / "task"), settings(num_epochs=0.1))


def test_a_kill_while_the_workspace_is_removed_leaves_nothing_half(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, remove = write_task(tmp_path / "task"), shutil.rmtree

    def tune() -> None:
        tuned(model, task, settings(num_epochs=1))

    def dies(folder: Path, **options: bool) -> None:
        for answers in folder.glob("seed-1.parquet"):
            answers.unlink()
            raise KeyboardInterrupt
        remove(folder, **options)

    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            tune()
    tune()
    assert not list((tmp_path / ".scratch").iterdir())


def test_another_tokenizer_beside_the_same_weights_is_other_work(
    model: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "task")
    for _ in range(2):
        with pytest.raises(OSError, match=r"task\.json"):
            finetune(
                model, task, settings(num_epochs=1), ALONE, task / "task.json/r", tmp_path / "p"
            )
        with (model / "tokenizer.json").open("a") as tokenizer:
            tokenizer.write("\n")
    assert len(list((tmp_path / ".scratch").iterdir())) == 2


def test_batches_hold_every_example_once_an_epoch(model: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    examples = read_examples(task, "train", model / "tokenizer.json", 32, None)
    source = ShuffledBatches(examples, 16, seed=1)
    epochs = [[source(step) for step in range(first, first + 10)] for first in (0, 10)]
    for epoch in epochs:
        assert sum(len(batch["labels"]) for batch in epoch) == 160
        assert sum(int(batch["attention_mask"].sum()) for batch in epoch) == sum(
            len(ids) for ids in examples.ids
        )
    assert not np.array_equal(epochs[0][0]["input_ids"], epochs[1][0]["input_ids"])
    assert np.array_equal(source(0)["input_ids"], epochs[0][0]["input_ids"])


def test_texts_are_cut_and_examples_limited(model: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", pair=True)
    examples = read_examples(task, "train", model / "tokenizer.json", 8, 10)
    assert len(examples) == 10
    assert max(len(ids) for ids in examples.ids) == 8
    assert all(sum(types) > 0 for types in examples.types)
    numbered = pq.read_table(task / "train.parquet").append_column("n", pa.array(range(160)))
    pq.write_table(numbered, task / "train.parquet")
    # A part at random, in the order of the whole.
    part = read_rows(task, "train", 10)["n"].to_pylist()
    assert part == sorted(part) != list(range(10))


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_a_model_folder_lacks_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (model / file).unlink()
    with pytest.raises(DataError, match=f"teacher/{file} does not exist"):
        finetune(
            model, write_task(tmp_path / "task"), settings(), ALONE, tmp_path / "r", tmp_path / "p"
        )


def test_texts_longer_than_a_model_reads_are_refused(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    task = write_task(tmp_path / "task")
    about = json.loads((task / "task.json").read_text())
    for kind, pad, most in (("bert", 0, 9), ("roberta", 1, 7)):
        config |= {"model_type": kind, "max_position_embeddings": 9, "pad_token_id": pad}
        (model / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            DataError, match=rf"max_length = 48 leaves .* with \d+ tokens, and .* reads {most} at"
        ):
            read_split(
                task, about, "train", model / "tokenizer.json", settings().evaluation.finetune, None
            )


def test_missing_examples_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nothing/train.parquet does not exist; run dvc repro tasks@"
    ):
        read_examples(tmp_path / "nothing", "train", model / "tokenizer.json", 8, None)


def test_spread_is_median_mean_and_range() -> None:
    assert spread([3.0, 1.0, 8.0]) == {
        "median": 3.0, "mean": 4.0, "min": 1.0, "max": 8.0, "values": [3.0, 1.0, 8.0],
    }  # fmt: skip
