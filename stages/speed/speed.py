r"""The `speed` stage: size, work, time and memory of the teacher and every student, side by side.

What is timed is the encoder without a head, as in the papers, on the CPU: in PyTorch, and for the
teacher and the exported students in ONNX Runtime as fp32 and INT8. All of it lives in one process
and takes turns.

Run: python -m stages.speed.speed --teacher models/teacher --students models/students \
         --report reports/speed.json
"""

import argparse
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from stages import params
from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.export.graph import inputs_of, write_fp32
from stages.export.quantise import write_int8
from stages.files import write_json
from stages.params import TEACHER
from stages.params.release import Int8
from stages.speed.memory import peak_growth
from stages.speed.published import one_pass, sentence_pairs
from stages.speed.runners import onnx_runner, open_encoder, torch_runner, weights_of
from stages.speed.timing import Runner, Seconds, percentiles, speedup, time_batches
from stages.students.flops import encoder_gflops
from stages.students.heads import num_parameters
from stages.students.positions import num_positions
from stages.training.energy import energy_meter
from stages.training.hardware import processor_name

TORCH, FP32, INT8 = "PyTorch", "ONNX fp32", "ONNX INT8"


def measure_speed(
    folders: Mapping[str, Path],
    exported: Collection[str],
    settings: params.SpeedTest,
    int8: Int8,
) -> dict[str, Any]:
    """Return the speed report.

    Args:
        folders: Of models by name, one of which is the teacher.
        exported: The models that are timed in ONNX Runtime too.
        settings: What is timed.
        int8: How the INT8 graphs are made: as those that are exported.

    Raises:
        SettingsError: a sequence length is more than a model reads.
    """
    models = {name: open_encoder(folder) for name, folder in folders.items()}
    longest = max(settings.sequence_lengths)
    for name, model in models.items():
        if longest > num_positions(model.config):
            raise SettingsError(
                f"params.yaml: evaluation.speed.sequence_lengths = {settings.sequence_lengths}: "
                f"{name} has positions for {num_positions(model.config)} tokens"
            )
    facts = {
        name: {
            "num_parameters": num_parameters(model),
            "weights_megabytes": _megabytes(weights_of(folders[name])),
            "encoder_gflops": round(encoder_gflops(model.config), 3),
        }
        for name, model in models.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        graphs: dict[tuple[str, str], Path] = {}
        for name in exported:
            fp32, narrow = (Path(scratch) / f"{name}.{kind}.onnx" for kind in ("fp32", "int8"))
            log.info("speed: %s as ONNX", name)
            write_fp32(models[name], fp32)
            # Eight bits cost the same whatever is in them: any ids do to calibrate by.
            ones = np.ones((1, settings.sequence_lengths[0]), dtype=np.int64)
            write_int8(fp32, narrow, int8, [dict.fromkeys(inputs_of(models[name]), ones)])
            graphs |= {(name, FP32): fp32, (name, INT8): narrow}
        del models
        runners, opened = open_runners(folders, graphs, settings)
    cells = time_runners(runners, settings)
    for runtime in opened:
        own = (runtime["model"], runtime["runtime"])
        runtime["cells"] = [as_cell(cell, own) for cell in cells]
    first = [cell for cell in cells if cell["length"] == settings.sequence_lengths[0]]
    return {
        "machine": {
            "processor": processor_name(),
            "num_cores": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "sequence_length": settings.sequence_lengths[0],
        "models": {
            name: known
            | {
                "latency_ms": {
                    str(cell["batch"]): percentiles(cell["seconds"][name, TORCH]) for cell in first
                }
            }
            for name, known in facts.items()
        },
        "ratios": {
            name: {
                "speedup": {
                    str(cell["batch"]): speedup(
                        cell["seconds"][TEACHER, TORCH], cell["seconds"][name, TORCH]
                    )
                    for cell in first
                },
                "parameter_fraction": round(
                    facts[name]["num_parameters"] / facts[TEACHER]["num_parameters"], 4
                ),
            }
            for name in folders
            if name != TEACHER
        },
        "runtimes": opened,
        "published_pass": None,
    }


def open_runners(
    folders: Mapping[str, Path], graphs: Mapping[tuple[str, str], Path], settings: params.SpeedTest
) -> tuple[dict[tuple[str, str], Runner], list[dict[str, Any]]]:
    """Open every model in every runtime; return what runs them, and how large each one is."""
    ids = np.full((max(settings.batch_sizes), max(settings.sequence_lengths)), 5, dtype=np.int64)

    def opened(own: tuple[str, str]) -> Runner:
        path = graphs.get(own)
        runner = onnx_runner(path) if path else torch_runner(open_encoder(folders[own[0]]))
        runner(ids, np.ones_like(ids))
        return runner

    runners: dict[tuple[str, str], Runner] = {}
    found = []
    for own in [*((name, TORCH) for name in folders), *graphs]:
        if own[1] not in {runtime for _, runtime in runners}:
            # What a library keeps for all models is not the first one's.
            opened(own)
        runners[own], memory = peak_growth(lambda own=own: opened(own))  # type: ignore[misc]
        file = graphs.get(own) or weights_of(folders[own[0]])
        found.append(
            {
                "model": own[0],
                "runtime": own[1],
                "file_megabytes": _megabytes(file),
                "peak_megabytes": memory,
            }
        )
    return runners, found


def time_runners(
    runners: Mapping[tuple[str, str], Runner], settings: params.SpeedTest
) -> list[dict[str, Any]]:
    """Return the times and joules of every batch size and length, the first ones first."""
    meter = energy_meter(torch.device("cpu"), is_first_here=True)
    cells = []
    for length in settings.sequence_lengths:
        for batch in settings.batch_sizes:
            seconds, joules = time_batches(runners, batch, length, settings.num_rounds, meter)
            cells.append({"batch": batch, "length": length, "seconds": seconds, "joules": joules})
    return cells


def as_cell(cell: Mapping[str, Any], own: tuple[str, str]) -> dict[str, Any]:
    """Return what one model did at one batch size and length, beside the teacher in PyTorch."""
    seconds: Seconds = cell["seconds"][own]
    return {
        "batch": cell["batch"],
        "length": cell["length"],
        "latency_ms": percentiles(seconds),
        "sequences_per_second": round(cell["batch"] / float(np.median(seconds)), 2),
        "speedup": speedup(cell["seconds"][TEACHER, TORCH], seconds),
        "joules_per_sequence": cell["joules"][own],
    }


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 3)


def main(arguments: argparse.Namespace) -> None:
    """Measure the teacher and the students of params.yaml."""
    settings = params.load()
    evaluation = settings.evaluation
    folders = {TEACHER: arguments.teacher}
    folders |= {name: arguments.students / name for name in evaluation.students}
    exported = [TEACHER, *settings.export.students]
    # All read the teacher's tokens, before minutes of timing: the texts may not be there.
    rows = (
        sentence_pairs(settings, arguments.teacher / "tokenizer.json")
        if evaluation.speed.published_pass
        else []
    )
    report = measure_speed(folders, exported, evaluation.speed, settings.export.int8)
    if rows:
        report["published_pass"] = one_pass(folders, rows)
    write_json(arguments.report, report)
    for line in table(report):
        log.info("%s", line)


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the ratios as lines of text, the fastest last."""
    shape = report["runtimes"][0]["cells"][0]
    rows = sorted(report["runtimes"], key=lambda runtime: runtime["cells"][0]["speedup"])
    return [
        f"batch {shape['batch']}, {shape['length']} tokens, against the teacher in PyTorch:"
    ] + [
        f"  {row['cells'][0]['speedup']:6.2f}x  {row['cells'][0]['latency_ms']['p50']:8.2f} ms  "
        f"{row['file_megabytes']:7.1f} MB  {row['model']}, {row['runtime']}"
        for row in rows
    ]


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["teacher", "students", "report"]))
