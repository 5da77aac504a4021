r"""Keep the fine-tuned model that a report's median is of, to use it or to export it.

Fine-tuning scores its models and drops them: a table of GLUE would be hundreds of them. The same
seed with the same settings makes the same model again (to the bit on a CPU), so one is had for the
time of one seed; killed, the same command goes on from the last checkpoint.

Run: python -m stages.evaluation.keep --model models/students/distilbert \
         --task-data data/tasks/sst2 --report reports/finetune/distilbert/sst2.json \
         --out models/finetuned/distilbert-sst2
"""

import argparse
from pathlib import Path
from typing import Any

from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.evaluation.metrics import headline
from stages.evaluation.task_models import read_split
from stages.evaluation.tuning import alone, tune_and_score
from stages.files import discard, read_json, scratch, sha256_of_tree
from stages.params import FineTune, Params, load
from stages.teacher.models import save_model
from stages.training.processes import Processes, joined_processes


def keep(
    model_folder: Path,
    task_folder: Path,
    report: dict[str, Any],
    params: Params,
    processes: Processes,
    out: Path,
) -> float:
    """Fine-tune with the seed of the median and write the model; return its score, 0 to 100.

    Raises:
        DataError: the report is of another model or another task, or not of fine-tuning.
        SettingsError: there are several processes.
    """
    alone(processes)
    task = read_json(task_folder / "task.json")
    for key, found in (("model", model_folder.name), ("task", task["name"])):
        if report.get(key) != found:
            raise DataError(f"the report is of {key} {report.get(key)}, not of {found}")
    if "recipe" in report:
        raise DataError(
            f"the report is of distillation by recipe {report['recipe']}, not of fine-tuning: "
            "stages.evaluation.distil_task keeps its student itself, with --out"
        )
    settings = FineTune(**report["settings"])
    tokenizer = model_folder / "tokenizer.json"
    training, judged = (
        read_split(task_folder, task, split, tokenizer, settings, most)
        for split, most in (
            ("train", settings.max_train_examples),
            (task["validation_splits"][0], settings.max_validation_examples),
        )
    )
    seed = median_seed(report)
    workspace = scratch(
        f"keep-{model_folder.name}-{task['name']}",
        (report["settings"], seed),
        *map(sha256_of_tree, (model_folder, task_folder)),
    )
    tuned = tune_and_score(
        model_folder,
        task,
        training,
        {task["validation_splits"][0]: judged},
        settings,
        params.launch,
        processes,
        seed,
        workspace,
    )
    save_model(tuned.model, model_folder, out)
    discard(workspace)
    return headline(tuned.metrics, task["scored_by"])


def median_seed(report: dict[str, Any]) -> int:
    """Return the seed whose score is the median, or the one just below it."""
    by_score = sorted(zip(report["score"]["values"], report["seeds"], strict=True))
    return int(by_score[(len(by_score) - 1) // 2][1])


def main(arguments: argparse.Namespace) -> None:
    """Keep one model."""
    report = read_json(arguments.report)
    with joined_processes() as processes:
        score = keep(arguments.model, arguments.task_data, report, load(), processes, arguments.out)
    log.info(
        "%s: seed %d, score %.2f (the report's median is %.2f)",
        arguments.out,
        median_seed(report),
        score,
        report["score"]["median"],
    )


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["model", "task-data", "report", "out"]))
