"""Fine-tune one model on one task with every seed, and score it.

Reads a stock model folder and a task's examples; writes a report with every seed's value. A seed
that is done is not done again when the stage is killed and rerun.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from stages.command import log, parser_for, run
from stages.evaluation.classifier import TaskLoss, open_classifier, predict
from stages.evaluation.examples import Examples, ShuffledBatches, read_examples
from stages.evaluation.metrics import headline, score
from stages.evaluation.tasks import get_task, metric_key
from stages.files import read_json, scratch, sha256_of, sha256_of_tree, write_json
from stages.params import FineTune, Launch, Params, Schedule, load
from stages.training.loop import train
from stages.training.processes import Processes, joined_processes


def finetune_once(
    model_folder: Path,
    task: dict[str, Any],
    training: Examples,
    validation: dict[str, Examples],
    settings: FineTune,
    launch: Launch,
    processes: Processes,
    seed: int,
) -> dict[str, float]:
    """Fine-tune with one seed and return the metrics of every validation split."""
    regression = task["kind"] == "regression"
    model = open_classifier(model_folder, task["labels"], settings.dropout, seed)
    model = model.to(processes.device)
    batches = ShuffledBatches(training, settings.batch_examples, seed)
    num_steps = max(1, round(settings.num_epochs * batches.per_epoch))
    train(
        TaskLoss(model, regression=regression),
        batches,
        Schedule(
            num_steps=num_steps,
            batch_sequences=settings.batch_examples,
            learning_rate=settings.learning_rate,
            warmup_fraction=settings.warmup_fraction,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            max_grad_norm=1.0,
        ),
        num_steps,
        # A fine-tuning batch is small enough to go through in one piece.
        launch.model_copy(update={"micro_batch_sequences": settings.batch_examples}),
        processes,
        seed=seed,
        workspace=None,
        title=f"{task['name']} seed {seed}",
    )
    spec = get_task(task["name"])
    metrics: dict[str, float] = {}
    for split, examples in validation.items():
        predictions = predict(model, examples, regression=regression)
        for name, value in score(task["metrics"], predictions, examples.labels).items():
            metrics[metric_key(spec, name, split)] = value
    return metrics


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median, mean and range of the seeds' values, and every value."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def finetune(
    model_folder: Path, task_folder: Path, params: Params, processes: Processes, out: Path
) -> dict[str, Any]:
    """Write the report of one model on one task to `out`, and return it."""
    settings, seeds = params.evaluation.finetune, params.evaluation.seeds
    task = read_json(task_folder / "task.json")
    tokenizer = model_folder / "tokenizer.json"
    training = read_examples(
        task_folder, "train", tokenizer, settings.max_length, settings.max_train_examples
    )
    validation = {
        split: read_examples(
            task_folder, split, tokenizer, settings.max_length, settings.max_validation_examples
        )
        for split in task["validation_splits"]
    }
    workspace = scratch(
        f"finetune-{model_folder.name}-{task['name']}",
        settings.model_dump(mode="json"),
        sha256_of(model_folder / "model.safetensors"),
        sha256_of_tree(task_folder),
    )
    done: list[dict[str, Any]] = []
    for seed in seeds:
        file = workspace / f"seed-{seed}.json"
        if not file.exists():
            clock = time.monotonic()
            metrics = finetune_once(
                model_folder, task, training, validation, settings, params.launch, processes, seed
            )
            seconds = time.monotonic() - clock
            write_json(file, {"metrics": metrics, "seconds": seconds})
        done.append(read_json(file))
    names = list(done[0]["metrics"])
    metrics_by_seed = {name: [result["metrics"][name] for result in done] for name in names}
    scores = [headline(result["metrics"], task["metrics"]) for result in done]
    report = {
        "model": model_folder.name,
        "task": task["name"],
        "title": task["title"],
        "kind": task["kind"],
        "is_glue": task["is_glue"],
        "score": spread(scores),
        "metrics": {name: spread(values) for name, values in metrics_by_seed.items()},
        "seeds": seeds,
        "num_train": len(training),
        "num_validation": {split: len(examples) for split, examples in validation.items()},
        "seconds": round(sum(result["seconds"] for result in done), 2),
        "settings": settings.model_dump(mode="json"),
    }
    write_json(out, report)
    shutil.rmtree(workspace)
    return report


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    with joined_processes() as processes:
        report = finetune(arguments.model, arguments.task_data, load(), processes, arguments.report)
    log.info(
        "%s on %s: median %.1f of %d seeds",
        report["model"],
        report["title"],
        report["score"]["median"],
        len(report["seeds"]),
    )


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["model", "task-data", "report"]))
