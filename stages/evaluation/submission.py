r"""The zip file for GLUE's test server, from one model's predictions of the hidden test splits.

Needs all nine tasks fine-tuned with `evaluation.predict_test: true`. Of each task's seeds the one
with the best validation score is taken. The same predictions give the same bytes.

Run: python -m stages.evaluation.submission --model distilbert --reports reports \
         --out reports/submission/distilbert.zip
"""

import argparse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.evaluation.predictions import read_predictions
from stages.evaluation.tasks import AX, TASKS, TaskSpec
from stages.files import atomic_output, read_json

HIGHEST_SIMILARITY = 5.0
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip file can hold: that of writing would make every file another."""


@dataclass(frozen=True, slots=True)
class ServerFile:
    """One file that the server asks for."""

    name: str
    task: str
    split: str
    num_examples: int
    """As many as the official test set has."""
    by_name: bool = False
    """Whether labels are written as names; else as ids."""


FILES = (
    ServerFile("CoLA.tsv", "cola", "test", 1063),
    ServerFile("SST-2.tsv", "sst2", "test", 1821),
    ServerFile("MRPC.tsv", "mrpc", "test", 1725),
    ServerFile("STS-B.tsv", "stsb", "test", 1379),
    ServerFile("QQP.tsv", "qqp", "test", 390_965),
    ServerFile("MNLI-m.tsv", "mnli", "test_matched", 9796, by_name=True),
    ServerFile("MNLI-mm.tsv", "mnli", "test_mismatched", 9847, by_name=True),
    ServerFile("QNLI.tsv", "qnli", "test", 5463, by_name=True),
    ServerFile("RTE.tsv", "rte", "test", 3000, by_name=True),
    ServerFile("WNLI.tsv", "wnli", "test", 146),
    ServerFile("AX.tsv", "mnli", AX, 1104, by_name=True),
)


def submission(model: str, reports: Path) -> dict[str, str]:
    """Return the text of every file by its name.

    Raises:
        DataError: predictions are missing; the message names every file that lacks them.
    """
    texts: dict[str, str] = {}
    missing = []
    for file in FILES:
        answers = _answers(file, model, reports)
        if answers is None:
            missing.append(f"{file.name} (task {file.task}, split {file.split})")
            continue
        if len(answers) != file.num_examples:
            log.warning(
                "%s has %d predictions and the official test set %d examples: the server will "
                "refuse it",
                file.name,
                len(answers),
                file.num_examples,
            )
        texts[file.name] = "index\tprediction\n" + "".join(
            f"{index}\t{text}\n"
            for index, text in enumerate(_written(answers, TASKS[file.task], by_name=file.by_name))
        )
    if missing:
        raise DataError(
            f"{reports}/predictions/{model} lacks predictions for {', '.join(missing)}; set "
            "evaluation.predict_test: true, name all nine GLUE tasks in evaluation.tasks, and run: "
            "dvc repro"
        )
    return texts


def write_submission(texts: dict[str, str], out: Path) -> None:
    """Write the zip file, whole or not at all."""
    with atomic_output(out) as target, zipfile.ZipFile(target, "w") as archive:
        for name in sorted(texts):
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, texts[name], compresslevel=9)


def _answers(file: ServerFile, model: str, reports: Path) -> np.ndarray | None:
    given = read_predictions(reports / "predictions" / model / f"{file.task}.parquet", file.split)
    if given is None:
        return None
    report = read_json(reports / "finetune" / model / f"{file.task}.json")
    best: np.ndarray = given.answers_SN[int(np.argmax(report["score"]["values"]))]
    return best


def _written(answers: np.ndarray, spec: TaskSpec, *, by_name: bool) -> Iterator[str]:
    if spec.kind == "regression":
        yield from (f"{value:.3f}" for value in np.clip(answers, 0.0, HIGHEST_SIMILARITY))
    elif by_name:
        assert spec.labels is not None
        yield from (spec.labels[label] for label in answers)
    else:
        yield from (str(label) for label in answers)


def main(arguments: argparse.Namespace) -> None:
    """Write the zip file of one model."""
    texts = submission(arguments.model, arguments.reports)
    write_submission(texts, arguments.out)
    log.info("%d files -> %s; upload it at gluebenchmark.com/submit", len(texts), arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["reports", "out"])
    parser.add_argument("--model", required=True, help="teacher, or one of evaluation.students")
    run(main, parser)
