r"""The `export@` stage: a student as safetensors, ONNX and INT8, with parity measured.

Reads models/students/<name> and the held-out shards. Writes the report first; the folder
models/export/<name> appears only if the parity is within the bounds of `export` in params.yaml.

Run: python -m stages.export.export --student models/students/distilbert --shards data/shards \
         --reports reports --out models/export/distilbert --report reports/export/distilbert.json
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.reading import open_split
from stages.errors import DataError
from stages.export.card import CARD, model_card
from stages.export.graph import INPUTS, Feeds, inputs_of, write_fp32
from stages.export.parity import as_report, check, heldout_batches, masked_rows, measure
from stages.export.quantise import write_int8
from stages.export.story import Story, read_story
from stages.export.tokenizer import TOKENIZER, TOKENIZER_CONFIG, write_tokenizer
from stages.files import atomic_output, read_json, sha256_of, write_json
from stages.params.release import Int8
from stages.students.heads import quiet_transformers
from stages.students.positions import num_positions

REQUIRED = ("model.safetensors", "config.json", TOKENIZER)
OPTIONAL = ("vocab.txt",)
"""A tokenizer is whole without it; other software looks for it."""
ONNX = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True, slots=True)
class Texts:
    """What a student is exported with: texts to calibrate with, and texts to compare on."""

    calibration: Sequence[Feeds]
    parity: Sequence[Feeds]


def export(
    student: Path,
    texts: Texts,
    settings: params.Export,
    out: Path,
    report: Path,
    story: Story | None = None,
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
        copy_model(student, folder)
        model = _open(folder)
        write_tokenizer(student, folder, model)
        exported = write_graphs(model, folder, settings.int8, texts.calibration)
        parity = measure(model, exported, texts.parity)
        result: dict[str, Any] = {
            "student": name,
            "inputs": list(inputs_of(model)),
            "max_tokens": num_positions(model.config),
            "files": describe(folder),
            **{kind: as_report(found) for kind, found in parity.items()},
        }
        mask = read_json(folder / TOKENIZER_CONFIG)["mask_token"]
        card = model_card(name, model.config.to_dict(), result, story, mask=mask)
        (folder / CARD).write_text(card, encoding="utf-8")
        result["files"] = describe(folder)
        write_json(report, result)
        check(parity, settings, report)
    return result


def write_graphs(
    model: PreTrainedModel, folder: Path, settings: Int8, calibration: Sequence[Feeds]
) -> dict[str, Path]:
    """Write a model's graphs into a folder and return their files by precision."""
    exported = {kind: folder / file for kind, file in ONNX.items()}
    log.info("%s: ONNX fp32", folder.name)
    write_fp32(model, exported["fp32"])
    log.info("%s: ONNX INT8", folder.name)
    write_int8(exported["fp32"], exported["int8"], settings, calibration)
    return exported


def copy_model(student: Path, folder: Path) -> None:
    """Copy a model's own files.

    Raises:
        DataError: one is not there.
    """
    for file in REQUIRED:
        if not (student / file).is_file():
            raise DataError(f"{student / file} does not exist; run: dvc repro distill")
    for file in (*REQUIRED, *OPTIONAL):
        if (student / file).is_file():
            shutil.copyfile(student / file, folder / file)


def _open(folder: Path) -> PreTrainedModel:
    quiet_transformers()
    model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    return model.float().eval()


def describe(folder: Path) -> dict[str, Any]:
    """Return the size and the sha256 of a folder's files, as they stand in a report."""
    return {
        path.name: {"megabytes": round(path.stat().st_size / 1e6, 6), "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }


def texts_of(shards: Path, settings: Int8) -> Texts:
    """Return training text to calibrate with, where that is asked for, and held-out text."""
    calibration: list[Feeds] = []
    if settings.activations == "calibrated":
        rows = masked_rows(open_split(shards, "train"), settings.calibration_rows)
        calibration = [
            {name: values[i : i + 1] for name, values in rows.items()}
            for i in range(len(rows[INPUTS[0]]))
        ]
    return Texts(calibration, heldout_batches(open_split(shards, "heldout")))


def main(arguments: argparse.Namespace) -> None:
    """Export one student of params.yaml."""
    settings = params.load()
    result = export(
        arguments.student,
        texts_of(arguments.shards, settings.export.int8),
        settings.export,
        arguments.out,
        arguments.report,
        read_story(arguments.reports, arguments.out.name, settings) if arguments.reports else None,
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
        "--reports",
        type=Path,
        metavar="PATH",
        help="the folder of all reports, for the model card's parts on training, data and cost",
    )
    run(main, parser)
