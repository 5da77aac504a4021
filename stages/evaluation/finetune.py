r"""Fine-tune one model on one task with every seed, and score it.

Reads a stock model folder and a task's examples; writes a report with every seed's value, and what
every seed answered to every example. Killed anywhere, the same command goes on with the seeds that
are done, and in the midst of one from its last checkpoint. With --encoder it also leaves what the
first seed made of the encoder, as a model folder to tune on another task (docs/evaluation.md,
Starting from another task).

Run: python -m stages.evaluation.finetune --model models/students/distilbert \
         --task-data data/tasks/cola --report reports/finetune/distilbert/cola.json \
         --predictions reports/predictions/distilbert/cola.parquet
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.command import log, parser_for, run
from stages.evaluation.metrics import headline
from stages.evaluation.predictions import write_predictions
from stages.evaluation.task_models import read_split
from stages.evaluation.tuning import alone, spread, tune_and_score
from stages.files import atomic_output, discard, read_json, scratch, sha256_of_tree, write_json
from stages.params import FineTune, Params, load
from stages.teacher.models import save_model
from stages.training.processes import Processes, joined_processes


def finetune(
    model_folder: Path,
    task_folder: Path,
    params: Params,
    processes: Processes,
    out: Path,
    predictions: Path,
    encoder: Path | None = None,
) -> dict[str, Any]:
    """Write the report of one model on one task to `out`, and return it.

    What was answered goes to `predictions` (stages/evaluation/predictions.py), and what the first
    seed made of the encoder to `encoder`, if that is given. Where there is a grid, all are of the
    setting with the best median score, and the report says what was tried.

    Raises:
        SettingsError: there are several processes.
    """
    alone(processes)
    seeds = params.evaluation.seeds
    task = read_json(task_folder / "task.json")
    choices = params.evaluation.finetune.choices(task["name"])
    # Choices differ in how they train, not in what they read.
    common, tokenizer = choices[0], model_folder / "tokenizer.json"
    training = read_split(task_folder, task, "train", tokenizer, common, common.max_train_examples)
    validation = {
        split: read_split(
            task_folder, task, split, tokenizer, common, common.max_validation_examples
        )
        for split in task["validation_splits"]
    }
    # Predicted whole: a server that is sent a part refuses it.
    test = {
        split: read_split(task_folder, task, split, tokenizer, common, None)
        for split in task["test_splits"]
    }
    sources = sha256_of_tree(model_folder), sha256_of_tree(task_folder)
    tried: list[dict[str, Any]] = []
    workspaces: list[Path] = []
    for settings in choices:
        workspace = scratch(
            f"finetune-{model_folder.name}-{task['name']}",
            settings.model_dump(mode="json"),
            *sources,
        )
        for seed in seeds:
            file = workspace / f"seed-{seed}.json"
            keeps_encoder = encoder is not None and seed == seeds[0]
            if file.exists() and not (keeps_encoder and not (workspace / "encoder").exists()):
                continue
            steps = workspace / f"seed-{seed}"
            tuned = tune_and_score(
                model_folder,
                task,
                training,
                validation | test,
                settings,
                params.launch,
                processes,
                seed,
                steps,
            )
            if keeps_encoder:
                save_model(tuned.model.base_model, model_folder, workspace / "encoder")
            write_predictions([tuned.answers], workspace / f"seed-{seed}.parquet")
            write_json(file, {"metrics": tuned.metrics, "seconds": tuned.seconds})
            shutil.rmtree(steps)
            log.info(
                "%s seed %d, run %d of %d: %.1f, %.0f s",
                task["name"],
                seed,
                len(tried) * len(seeds) + seeds.index(seed) + 1,
                len(choices) * len(seeds),
                headline(tuned.metrics, task["scored_by"]),
                tuned.seconds,
            )
        done = [read_json(workspace / f"seed-{seed}.json") for seed in seeds]
        tried.append(_over_seeds(done, task["scored_by"], settings))
        workspaces.append(workspace)
    best = max(range(len(tried)), key=lambda number: tried[number]["score"]["median"])
    report = tried[best] | {
        "model": model_folder.name,
        "task": task["name"],
        "title": task["title"],
        "kind": task["kind"],
        "is_glue": task["is_glue"],
        "is_derived": task["is_derived"],
        "scored_by": task["scored_by"],
        "seeds": seeds,
        "num_train": len(training),
        "num_validation": {split: len(examples) for split, examples in validation.items()},
        "seconds": round(sum(setting["seconds"] for setting in tried), 2),
        # The best of several on the split it is scored on flatters: whoever reads must know.
        "selected_from": tried if len(tried) > 1 else [],
    }
    tables = [pq.read_table(workspaces[best] / f"seed-{seed}.parquet") for seed in seeds]
    write_predictions(tables, predictions)
    if encoder is not None:
        with atomic_output(encoder) as folder:
            shutil.copytree(workspaces[best] / "encoder", folder)
    write_json(out, report)
    for workspace in workspaces:
        discard(workspace)
    return report


def _over_seeds(
    done: list[dict[str, Any]], scored_by: list[str], settings: FineTune
) -> dict[str, Any]:
    """Return what all seeds of one setting measured."""
    return {
        "score": spread([headline(result["metrics"], scored_by) for result in done]),
        "metrics": {
            name: spread([result["metrics"][name] for result in done])
            for name in done[0]["metrics"]
        },
        "seconds": round(sum(result["seconds"] for result in done), 2),
        "settings": settings.model_dump(mode="json", exclude={"by_task", "grid"}),
    }


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    with joined_processes() as processes:
        report = finetune(
            arguments.model,
            arguments.task_data,
            load(),
            processes,
            arguments.report,
            arguments.predictions,
            arguments.encoder,
        )
    log.info(
        "%s on %s: median %.1f of %d seeds",
        report["model"],
        report["title"],
        report["score"]["median"],
        len(report["seeds"]),
    )


if __name__ == "__main__":
    parser = parser_for(__doc__, ["model", "task-data", "report", "predictions"])
    parser.add_argument("--encoder", type=Path, help="where to leave the encoder of the first seed")
    run(main, parser)
