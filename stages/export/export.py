r"""The `export@` stage: a student as safetensors, ONNX and INT8, with parity measured.

Reads models/students/<name> and the held-out shards. Writes the report first; the folder
models/export/<name> appears only if the parity is within the bounds of `export` in params.yaml.

Run: python -m stages.export.export --student models/students/distilbert --shards data/shards \
         --out models/export/distilbert --report reports/export/distilbert.json
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.reading import open_split
from stages.errors import DataError
from stages.export.card import model_card
from stages.export.graph import write_fp32, write_int8
from stages.export.parity import Batch, as_report, check, heldout_batches, measure
from stages.files import atomic_output, read_json, sha256_of, write_json

REQUIRED = ("model.safetensors", "config.json", "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "vocab.txt")
"""A tokenizer is whole without these; other software looks for them."""
ONNX = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
CARD = "README.md"


def export(
    student: Path,
    batches: list[Batch],
    settings: params.Export,
    out: Path,
    report: Path,
    student_report: Path | None = None,
) -> dict[str, Any]:
    """Export one student and return its report.

    Raises:
        DataError: the student's folder lacks a file.
        ParityError: the ONNX files do not answer as the student does; the report is written, the
            folder is not.
    """
    name = out.name
    with atomic_output(out) as folder:
        folder.mkdir()
        copied = _copy(student, folder)
        model = _open(folder)
        log.info("%s: ONNX fp32", name)
        write_fp32(model, folder / ONNX["fp32"])
        log.info("%s: ONNX INT8", name)
        write_int8(folder / ONNX["fp32"], folder / ONNX["int8"])
        exported = {kind: folder / file for kind, file in ONNX.items()}
        parity = measure(model, exported, batches)
        result: dict[str, Any] = {
            "student": name,
            "files": {file: _describe(folder / file) for file in (*copied, *ONNX.values())},
            **{kind: as_report(found) for kind, found in parity.items()},
        }
        made = read_json(student_report) if student_report else None
        card = model_card(name, read_json(folder / "config.json"), result, made)
        (folder / CARD).write_text(card, encoding="utf-8")
        result["files"][CARD] = _describe(folder / CARD)
        write_json(report, result)
        check(parity, settings, report)
    return result


def _copy(student: Path, folder: Path) -> list[str]:
    for file in REQUIRED:
        if not (student / file).is_file():
            raise DataError(f"{student / file} does not exist; run: dvc repro distill")
    copied = [file for file in (*REQUIRED, *OPTIONAL) if (student / file).is_file()]
    for file in copied:
        shutil.copyfile(student / file, folder / file)
    return copied


def _open(folder: Path) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    return model.float().eval()


def _describe(path: Path) -> dict[str, Any]:
    return {"megabytes": round(path.stat().st_size / 1e6, 3), "sha256": sha256_of(path)}


def main(arguments: argparse.Namespace) -> None:
    """Export one student and report how near the exports are."""
    settings = params.load().export
    batches = heldout_batches(open_split(arguments.shards, "heldout"))
    result = export(
        arguments.student,
        batches,
        settings,
        arguments.out,
        arguments.report,
        arguments.student_report,
    )
    log.info(
        "%s: fp32 within %.1e, INT8 agrees on %.1f %% of tokens -> %s",
        result["student"],
        result["fp32"]["max_logit_difference"],
        100 * result["int8"]["agreement"],
        arguments.out,
    )


if __name__ == "__main__":
    parser = parser_for(__doc__, ["student", "shards", "out", "report"])
    parser.add_argument(
        "--student-report",
        type=Path,
        metavar="PATH",
        help="reports/students/<name>.json, for the training part of the model card",
    )
    run(main, parser)
