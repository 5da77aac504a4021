r"""What a teacher keeps when it is made smaller without distillation: INT8, and magnitude pruning.

Each seed is fine-tuned on the task as any model is. INT8 is made from the tuned classifier. Pruned,
the smallest weights of all linear maps of the encoder are zero before tuning and stay so (Gordon et
al. 2020, arXiv 2002.08307); embeddings are whole. The size of what is left of a pruned model is a
bit per weight that could go, and the others in full; zeros are multiplied like any number, so that
it takes the teacher's time.

Writes <out>/int8/<task>.json and <out>/pruned_50/<task>.json, rows for stages.report.comparison.

Run: python -m stages.export.compressed --model models/teacher --task-data data/tasks/sst2 \
         --out reports/beside [--sparsity 0.5 0.7]
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from transformers import PreTrainedModel

from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.evaluation.metrics import headline
from stages.evaluation.task_models import Split, answers, open_model, read_split, scored
from stages.evaluation.tuning import alone, spread, tune_on_labels
from stages.export.graph import inputs_of, write_fp32
from stages.export.parity import onnx_logits, open_session
from stages.export.quantise import write_int8
from stages.export.task_model import BATCH, feeds_of, score_of
from stages.files import read_json, write_json
from stages.params import Params, load
from stages.params.release import Int8
from stages.students.heads import num_parameters
from stages.training.processes import Processes, joined_processes

BYTES_PER_WEIGHT = 4


def compress(
    model_folder: Path,
    task_folder: Path,
    ways: Mapping[str, float | None],
    params: Params,
    processes: Processes,
    out: Path,
) -> dict[str, dict[str, Any]]:
    """Write a report for every way of making a model smaller, and return them by name.

    Args:
        model_folder: A stock model folder.
        task_folder: With a task's examples.
        ways: The share of weights that goes, by name; None stands for INT8.
        params: The settings; fine-tuning is that of the task, the first choice of a grid.
        processes: This one, and its device.
        out: The folder below which reports are written.

    Raises:
        SettingsError: the task asks for spans, or there are several processes.
    """
    alone(processes)
    task = read_json(task_folder / "task.json")
    if task["kind"] == "span":
        raise SettingsError(f"{task['name']}: only classifiers and regressions are made smaller")
    settings = params.evaluation.finetune.choices(task["name"])[0]
    tokenizer = model_folder / "tokenizer.json"

    def read(split: str, limit: int | None) -> Split:
        return read_split(task_folder, task, split, tokenizer, settings, limit)

    training = read("train", settings.max_train_examples)
    judged = {
        split: read(split, settings.max_validation_examples) for split in task["validation_splits"]
    }
    reports = {}
    for name, sparsity in ways.items():
        values: list[float] = []
        size: dict[str, Any] = {}
        for seed in params.evaluation.seeds:
            model = open_model(model_folder, task, settings.dropout, seed).to(processes.device)
            maps = [] if sparsity is None else prune_smallest(model, sparsity)
            tune_on_labels(model, task, training, settings, params.launch, processes, seed)
            if sparsity is None:
                value, size = _as_int8(model.cpu(), training, judged, task, params.export.int8)
            else:
                for linear in maps:
                    prune.remove(linear, "weight")
                size = what_is_left(model, maps)
                given = {
                    split: answers(model, examples, task) for split, examples in judged.items()
                }
                value = headline(scored(given, task), task["scored_by"])
            values.append(value)
        reports[name] = size | {
            "model": "teacher",
            "task": task["name"],
            "title": task["title"],
            "score": spread(values),
            "seeds": params.evaluation.seeds,
            "settings": settings.model_dump(mode="json", exclude={"by_task", "grid"}),
        }
        write_json(out / name / f"{task['name']}.json", reports[name])
    return reports


def prune_smallest(model: PreTrainedModel, share: float) -> list[nn.Module]:
    """Hold the smallest weights of the encoder's linear maps at zero; return those maps."""
    encoder = model.base_model
    maps: list[nn.Module] = [
        module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and "pooler" not in name
    ]
    prune.global_unstructured(
        [(module, "weight") for module in maps],
        pruning_method=prune.L1Unstructured,
        amount=share,
    )
    return maps


def what_is_left(model: PreTrainedModel, maps: Iterable[nn.Module]) -> dict[str, Any]:
    """Return how many weights of a pruned model are not zero, and what storing them takes."""
    weights = [module.get_parameter("weight") for module in maps]
    gone = sum(int(torch.count_nonzero(weight == 0)) for weight in weights)
    left = num_parameters(model) - gone
    mask_bits = sum(weight.numel() for weight in weights)
    return {
        "num_parameters": left,
        "weights_megabytes": round((left * BYTES_PER_WEIGHT + mask_bits / 8) / 1e6, 3),
    }


def _as_int8(
    model: PreTrainedModel,
    training: Split,
    judged: dict[str, Split],
    task: dict[str, Any],
    settings: Int8,
) -> tuple[float, dict[str, Any]]:
    """Return what a tuned classifier scores in eight bits, and how large its file is."""
    with tempfile.TemporaryDirectory() as scratch:
        fp32, int8 = (Path(scratch) / f"{kind}.onnx" for kind in ("fp32", "int8"))
        model.eval()
        write_fp32(model, fp32)
        # As what is exported and timed; made only where activations are calibrated.
        rows = range(min(settings.calibration_rows, len(training.examples)))
        texts = (training.examples.batch([row]) for row in rows)
        calibration = ({name: row[name].numpy() for name in inputs_of(model)} for row in texts)
        write_int8(fp32, int8, settings, calibration)
        session = open_session(int8)
        # The first validation split is the one that the headline is of.
        examples = next(iter(judged.values())).examples
        logits = [onnx_logits(session, feeds) for feeds in feeds_of(examples, model, BATCH)]
        size = {
            "runtime": "ONNX INT8",
            "num_parameters": num_parameters(model),
            "weights_megabytes": round(int8.stat().st_size / 1e6, 3),
        }
        return score_of(task, logits, examples), size


def main(arguments: argparse.Namespace) -> None:
    """Make the rows of one task with the settings in force."""
    for share in arguments.sparsity:
        if not 0 < share < 1:
            raise SettingsError(f"--sparsity {share:g}: must be between 0 and 1")
    with joined_processes() as processes:
        reports = compress(
            arguments.model,
            arguments.task_data,
            {"int8": None} | {f"pruned_{round(100 * x)}": x for x in arguments.sparsity},
            load(),
            processes,
            arguments.out,
        )
    for name, report in reports.items():
        log.info(
            "%s on %s: median %.1f, %.1f MB",
            name,
            report["title"],
            report["score"]["median"],
            report["weights_megabytes"],
        )


if __name__ == "__main__":
    parser = parser_for(__doc__, ["model", "task-data", "out"])
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="*",
        default=[0.5],
        metavar="SHARE",
        help="of the weights of all linear maps that go (default: 0.5)",
    )
    run(main, parser)
