r"""The `speed` stage: size, work and time of the teacher and every student, side by side.

What is timed is the encoder without a head, as in the papers, on the CPU. All models live in one
process and take turns round by round, and a speedup is the median of the rounds' ratios: whatever
else the machine does meanwhile slows the models of a round alike.

Run: python -m stages.evaluation.speed --teacher models/teacher --students models/students \
         --report reports/speed.json
"""

import argparse
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.files import write_json
from stages.students.flops import encoder_gflops
from stages.students.heads import num_parameters

TEACHER = "teacher"
SEQUENCES_PER_TURN = 8
"""A turn at a small batch repeats it up to this many sequences: one pass is too short to time."""
WARM_UP_TURNS = 2

Seconds = NDArray[np.float64]
"""Rounds x passes."""


def measure_speed(folders: Mapping[str, Path], settings: params.SpeedTest) -> dict[str, Any]:
    """Return the speed report of models by name, one of which is the teacher."""
    models = {name: open_encoder(folder) for name, folder in folders.items()}
    seconds = time_models(models, settings)
    sizes = {name: num_parameters(model) for name, model in models.items()}
    students = [name for name in models if name != TEACHER]
    return {
        "machine": {
            "processor": _processor(),
            "num_cores": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "sequence_length": settings.sequence_length,
        "models": {
            name: {
                "num_parameters": sizes[name],
                "weights_megabytes": round(_weights(folders[name]).stat().st_size / 1e6, 3),
                "encoder_gflops": round(encoder_gflops(model.config), 3),
                "latency_ms": {
                    str(size): percentiles(times[name]) for size, times in seconds.items()
                },
            }
            for name, model in models.items()
        },
        "ratios": {
            name: {
                "speedup": {
                    str(size): speedup(times[TEACHER], times[name])
                    for size, times in seconds.items()
                },
                "parameter_fraction": round(sizes[name] / sizes[TEACHER], 4),
            }
            for name in students
        },
    }


def open_encoder(folder: Path) -> PreTrainedModel:
    """Return a model folder's encoder, without its head, in fp32."""
    if not _weights(folder).is_file():
        raise DataError(f"{_weights(folder)} does not exist; run: dvc repro teacher distill")
    # A masked language model brings no pooler: BERT's is made anew, and counted as in the papers.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model: PreTrainedModel = AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model.eval()


def time_models(
    models: Mapping[str, PreTrainedModel], settings: params.SpeedTest
) -> dict[int, dict[str, Seconds]]:
    """Return the seconds of every forward pass, by batch size and model."""
    rounds = settings.num_rounds
    num_turns = len(settings.batch_sizes) * (rounds + WARM_UP_TURNS) * len(models)
    found: dict[int, dict[str, Seconds]] = {}
    with torch.inference_mode(), tqdm(total=num_turns, desc="speed", unit="turn") as progress:
        for size in settings.batch_sizes:
            passes = max(1, SEQUENCES_PER_TURN // size)
            times = {name: np.empty((rounds, passes)) for name in models}
            for turn in range(-WARM_UP_TURNS, rounds):
                # The one that begins is another each round: it meets the coldest caches.
                names = list(models)
                names = names[turn % len(names) :] + names[: turn % len(names)]
                for name in names:
                    taken = _turn(models[name], size, settings.sequence_length, passes)
                    if turn >= 0:
                        times[name][turn] = taken
                    progress.update()
            found[size] = times
    return found


def speedup(teacher: Seconds, student: Seconds) -> float:
    """Return how many times faster the student is: the median over rounds of their ratio."""
    ratios = np.median(teacher, axis=1) / np.median(student, axis=1)
    return round(float(np.median(ratios)), 3)


def percentiles(seconds: Seconds) -> dict[str, float]:
    """Return the median and the 95th percentile of all passes, in milliseconds."""
    return {
        f"p{percent}": round(1000 * float(np.percentile(seconds, percent)), 3)
        for percent in (50, 95)
    }


def _turn(model: PreTrainedModel, size: int, length: int, passes: int) -> Seconds:
    """Return the seconds of some forward passes on the same tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    seconds = np.empty(passes)
    for i in range(passes):
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=mask)
        seconds[i] = time.perf_counter() - start
    return seconds


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def _processor() -> str:
    """Return the processor's name, from Linux where the platform module knows only its family."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main(arguments: argparse.Namespace) -> None:
    """Measure the teacher and the students of params.yaml."""
    evaluation = params.load().evaluation
    folders = {TEACHER: arguments.teacher}
    folders |= {name: arguments.students / name for name in evaluation.students}
    report = measure_speed(folders, evaluation.speed)
    write_json(arguments.report, report)
    for name, ratios in report["ratios"].items():
        log.info(
            "%s: %.0f %% of the teacher's parameters, speedup %s",
            name,
            100 * ratios["parameter_fraction"],
            ", ".join(f"{x:.2f} at batch {size}" for size, x in ratios["speedup"].items()),
        )


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["teacher", "students", "report"]))
