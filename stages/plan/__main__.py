r"""Say what a run will take before it runs: tokens, work by part, memory, hours, cost.

    python -m stages.plan                                     # params.yaml on this machine
    python -m stages.plan --profile bert-base --corpus-tokens 4e9 --hardware H200 \
        --processes 64 --price-per-hour 3

With --processes the batch of a step is shared as that many processes would share it, without
starting them. Hours are the work divided by a rate: the one that was measured
(--tokens-per-second), or an assumed share (--mfu) of the hardware's peak. Processes on this CPU
share it; of other hardware each has one.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from stages import params
from stages.command import parser_for, run
from stages.errors import SettingsError
from stages.files import read_json
from stages.plan.estimate import Plan, plans, together
from stages.plan.teachers import teacher_config
from stages.training.hardware import MEMORY, PEAKS, matmul_rate
from stages.training.teacher_states import GIGABYTE

SHARDS = Path("data/shards/manifest.json")
CPU = "CPU"
GIB = 2**30
MFU_OF_A_GPU, MFU_OF_A_CPU = 0.25, 0.6
"""Shares of the peak that were measured (docs/experiments.md)."""
LIMITS = {
    "mfu": 1,
    **dict.fromkeys(
        ("processes", "corpus_tokens", "tokens_per_second", "price_per_hour"), math.inf
    ),
}
"""The most that an option may be, and what is more than nothing."""


def main(arguments: argparse.Namespace) -> None:
    """Print the plan of every model that is trained.

    Raises:
        SettingsError: an option is out of its range.
    """
    for name, most in LIMITS.items():
        given = getattr(arguments, name)
        if given is not None and not 0 < given <= most:
            bound = f" and at most {most}" if most < math.inf else ""
            raise SettingsError(
                f"--{name.replace('_', '-')} {given:g}: must be greater than 0{bound}"
            )
    path = params.PROFILES / f"{arguments.profile}.yaml" if arguments.profile else params.PARAMS
    settings = params.load(path)
    num_sequences = None
    length = settings.corpus.shards.sequence_length
    if arguments.corpus_tokens:
        num_sequences = round(arguments.corpus_tokens / length)
    elif not arguments.profile and SHARDS.is_file():
        num_sequences = read_json(SHARDS)["splits"]["train"]["num_sequences"]
    processes = arguments.processes or settings.launch.num_processes
    found = plans(settings, teacher_config(settings, arguments.teacher), num_sequences, processes)
    # Processes on this CPU share what it does; of what was measured, each had a device.
    is_shared = arguments.hardware == CPU and not arguments.tokens_per_second
    devices = 1 if is_shared else processes
    rate, how = _rate(arguments, settings.distill.schedule.precision)
    hours = {
        plan.name: plan.num_tokens / arguments.tokens_per_second / 3600
        if arguments.tokens_per_second
        else plan.hours(rate * devices)
        for plan in found
    }
    if arguments.json:
        answer = [plan.as_json() | {"hours": hours[plan.name]} for plan in found]
        json.dump({"rate": how, "models": answer}, sys.stdout, indent=2)
        print()
        return
    print(f"{path}, {processes} process{'es' if processes > 1 else ''}; time at {how}")
    price, hardware = arguments.price_per_hour, arguments.hardware
    for _, of_phase in groupby(found, key=lambda plan: plan.phase):
        stretches = list(of_phase)
        took = sum(hours[plan.name] for plan in stretches)
        corpus = (num_sequences or 0) * length
        print(_text(stretches, took, devices, price, hardware, corpus))
    total = sum(hours.values())
    print(f"\nin all: {_duration(total)}, {_device_hours(total, devices, price)}")
    print(_beside(settings.evaluation))


def _beside(evaluation: params.Evaluation) -> str:
    """Say what comes after all that is planned here."""
    num_models, seeds = 1 + len(evaluation.students), evaluation.seeds
    settings = sum(len(evaluation.finetune.choices(task)) for task in evaluation.tasks)
    return (
        f"beside it, not counted: {num_models * len(seeds) * settings:,} fine-tuning runs "
        f"({num_models} models on {', '.join(evaluation.tasks)}; seeds "
        f"{', '.join(map(str, seeds))}), speed and export"
    )


def _rate(arguments: argparse.Namespace, precision: str) -> tuple[float, str]:
    """Return one device's operations a second, and how they are known."""
    if arguments.tokens_per_second:
        return 0.0, f"{arguments.tokens_per_second:,.0f} tokens/s, as measured"
    if arguments.hardware == CPU:
        peak, share = matmul_rate(), MFU_OF_A_CPU
        of = f"{peak / 1e9:.0f} GFLOP/s, this machine's matrix products now"
    else:
        peak, share = PEAKS[arguments.hardware][precision] * 1e12, MFU_OF_A_GPU
        of = f"{peak / 1e12:g} TFLOP/s, the peak of {arguments.hardware} in {precision}"
    share = arguments.mfu or share
    return peak * share, f"{share:.0%} (assumed) of {of}"


def _text(
    stretches: Sequence[Plan],
    hours: float,
    devices: int,
    price: float | None,
    hardware: str,
    corpus: int,
) -> str:
    """Return what one phase takes: one stretch of training, or one for each layer."""
    plan = together(stretches)
    work, memory, sharing = plan.work_per_token, plan.memory, plan.sharing
    parts = {
        "teacher forward": work.teacher_forward,
        "student forward": work.student_forward,
        "student backward": work.student_backward,
        "vocabulary heads": work.heads,
        "optimiser": work.optimizer,
    }
    holds = {
        "weights": memory.weights,
        "teacher": memory.teacher,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "activations (estimate)": memory.activations,
        "vocabulary": memory.vocabulary,
    }
    uneven = f", {sharing.idle:.1%} of the time waiting" if sharing.idle else ""
    size = f"{sharing.smallest}"
    if sharing.largest > sharing.smallest:
        size += f" or {sharing.largest}"
    layers = f", {len(stretches)} layers one after another" if len(stretches) > 1 else ""
    lines = [
        "",
        f"{plan.name}{layers}: {plan.num_parameters / 1e6:.1f} M parameters, "
        f"{plan.num_steps:,} steps, {plan.num_tokens:,} tokens"
        + (f", {plan.num_tokens / corpus:.3g} times the corpus" if corpus else ""),
        f"  work     {work.total / 1e9:.3f} GFLOP a token, {plan.flops:.3g} in all",
        *(f"    {part / work.total:6.1%}  {name}" for name, part in parts.items() if part),
        f"  memory   {memory.total / GIB:.2f} GiB a process{_of(memory.total, hardware)}",
        *(f"    {part / GIB:6.2f}  {name}" for name, part in holds.items() if part),
        *([_disk(plan.teacher_states)] if plan.teacher_states else []),
        f"  sharing  {size} sequences a process and step, {sharing.passes} "
        f"pass{'es' if sharing.passes > 1 else ''}{uneven}",
        f"  time     {_duration(hours)}, {_device_hours(hours, devices, price)}",
    ]
    return "\n".join(lines)


def _of(num_bytes: int, hardware: str) -> str:
    """Return what a device has, and what to do where that is not enough."""
    if hardware == CPU:
        return ""
    has = MEMORY[hardware] * GIGABYTE
    too_much = ": too much, lower launch.micro_batch_sequences" if num_bytes > has else ""
    return f", of the {has / GIB:.1f} of {hardware}{too_much}"


def _disk(num_bytes: int) -> str:
    free = shutil.disk_usage(Path()).free
    return (
        f"  disk     {num_bytes / GIGABYTE:,.2f} GB where the teacher's states are kept "
        f"(launch.teacher_states_gigabytes); {free / GIGABYTE:,.0f} GB are free"
    )


def _device_hours(hours: float, devices: int, price: float | None) -> str:
    device_hours = hours * devices
    cost = "" if price is None else f", {device_hours * price:,.2f} at {price:g} a device-hour"
    return f"{device_hours:.2f} device-hours{cost}"


def _duration(hours: float) -> str:
    return f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--profile", choices=params.profile_names(), help="instead of params.yaml")
    parser.add_argument("--teacher", type=Path, metavar="PATH", help="a folder with config.json")
    parser.add_argument(
        "--corpus-tokens", type=float, metavar="N", help="where the shards are not here yet"
    )
    parser.add_argument(
        "--hardware",
        choices=[CPU, *PEAKS],
        default=CPU,
        help="one device of each process (default: this CPU)",
    )
    parser.add_argument(
        "--mfu",
        type=float,
        help=f"share of its peak (default: {MFU_OF_A_GPU}, of a CPU {MFU_OF_A_CPU})",
    )
    parser.add_argument("--tokens-per-second", type=float, metavar="N", help="measured, of all")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of one device")
    parser.add_argument("--processes", type=int, metavar="N", help="default: launch.num_processes")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    run(main, parser)
