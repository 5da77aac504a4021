"""Say what a run will take before it runs: tokens, work by part, memory, hours, cost.

    python -m stages.plan                                     # params.yaml on this machine
    python -m stages.plan --profile bert-base --corpus-tokens 4e9 --hardware H200 \
        --processes 64 --price-per-hour 3

With --processes the batch of a step is shared as that many processes would share it, without
starting them. Hours are the work divided by a rate: the one that was measured
(--tokens-per-second), or an assumed share (--mfu) of the hardware's peak.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from stages import params
from stages.command import parser_for, run
from stages.files import read_json
from stages.plan.estimate import Plan, plans
from stages.plan.teachers import teacher_config
from stages.training.hardware import MEMORY, PEAKS, matmul_rate
from stages.training.teacher_states import GIGABYTE

SHARDS = Path("data/shards/manifest.json")
CPU = "CPU"
GIB = 2**30


def main(arguments: argparse.Namespace) -> None:
    """Print the plan of every model that is trained."""
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
    rate, how = _rate(arguments, settings.distill.schedule.precision)
    hours = {
        plan.name: plan.num_tokens / arguments.tokens_per_second / 3600
        if arguments.tokens_per_second
        else plan.hours(rate * processes)
        for plan in found
    }
    if arguments.json:
        answer = [plan.as_json() | {"hours": hours[plan.name]} for plan in found]
        json.dump({"rate": how, "models": answer}, sys.stdout, indent=2)
        print()
        return
    print(f"{path}, {processes} process{'es' if processes > 1 else ''}; time at {how}")
    price, hardware = arguments.price_per_hour, arguments.hardware
    # A progressive phase is as many stretches as the student has layers, all alike.
    for _, alike in groupby(found, key=lambda plan: replace(plan, name="")):
        plan, *others = alike
        print(_text(plan, len(others), hours[plan.name], processes, price, hardware))
    total = sum(hours.values())
    print(f"\nin all: {_duration(total)}, {_device_hours(total, processes, price)}")


def _rate(arguments: argparse.Namespace, precision: str) -> tuple[float, str]:
    """Return one device's operations a second, and how they are known."""
    if arguments.tokens_per_second:
        return 0.0, f"{arguments.tokens_per_second:,.0f} tokens/s, as measured"
    if arguments.hardware == CPU:
        peak = matmul_rate()
        of = f"{peak / 1e9:.0f} GFLOP/s, this machine's matrix products now"
    else:
        peak = PEAKS[arguments.hardware][precision] * 1e12
        of = f"{peak / 1e12:g} TFLOP/s, the peak of {arguments.hardware} in {precision}"
    return peak * arguments.mfu, f"{arguments.mfu:.0%} (assumed) of {of}"


def _text(
    plan: Plan, num_more: int, hours: float, processes: int, price: float | None, hardware: str
) -> str:
    """Return what one of some stretches of training takes that are alike, and how many they are."""
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
    more = f" and {num_more} more like it, each" if num_more else ""
    lines = [
        "",
        f"{plan.name}{more}: {plan.num_parameters / 1e6:.1f} M parameters, "
        f"{plan.num_steps:,} steps, {plan.num_tokens:,} tokens",
        f"  work     {work.total / 1e9:.3f} GFLOP a token, {plan.flops:.3g} in all",
        *(f"    {part / work.total:6.1%}  {name}" for name, part in parts.items() if part),
        f"  memory   {memory.total / GIB:.2f} GiB a process{_of(memory.total, hardware)}",
        *(f"    {part / GIB:6.2f}  {name}" for name, part in holds.items() if part),
        *([_disk(plan.teacher_states)] if plan.teacher_states else []),
        f"  sharing  {size} sequences a process and step, {sharing.passes} "
        f"pass{'es' if sharing.passes > 1 else ''}{uneven}",
        f"  time     {_duration(hours)}, {_device_hours(hours, processes, price)}",
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


def _device_hours(hours: float, processes: int, price: float | None) -> str:
    device_hours = hours * processes
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
    parser.add_argument("--mfu", type=float, default=0.25, help="share of its peak (default: 0.25)")
    parser.add_argument("--tokens-per-second", type=float, metavar="N", help="measured, of all")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of one device")
    parser.add_argument("--processes", type=int, metavar="N", help="default: launch.num_processes")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    run(main, parser)
