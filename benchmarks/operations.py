"""Where the time of the engine's distillation step goes on this machine, operation by operation.

    python -m benchmarks.operations
    python -m benchmarks.operations --shape base --batch 512 --precision bfloat16 --compile

Prints the seconds of a step, tokens a second, the rate of its products and their share of the
device's peak, peak memory, and what took the time: kernels on a GPU, and beside them what the host
did meanwhile. A host that is not ahead of its GPU is what a step waits for: larger batches help
then, and fewer kernels; a host that is ahead is not, and compiled layers help.
"""

import argparse
import logging
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contest import (
    MASKING,
    SAMPLED_FRACTION,
    Contest,
    add_engine,
    parser_of_steps,
    peak_memory,
    shape_of,
)
from stages.students.heads import num_parameters
from stages.training.batches import Batch
from stages.training.hardware import device_name, peak_flops
from stages.training.work import asked_by, work_per_token

NUM_ROWS = 40
PROFILED = 2
"""Steps that are profiled: every one is like the next."""


class Watched:
    """Batches that are handed out; clocks are read, and the profiler is run, between steps."""

    def __init__(self, contest: Contest, warmup: int, steps: int) -> None:
        self.contest, self.first, self.last = contest, warmup, warmup + steps
        activities = [ProfilerActivity.CPU]
        if contest.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(activities=activities, acc_events=True)
        self.seconds = self.ahead = 0.0
        self.peak_memory = 0

    def __call__(self, step: int) -> Batch:
        """Return a step's batch."""
        if step == self.first:
            self._finish()
            self.seconds = -time.perf_counter()
        if step == self.last:
            self.ahead = self._finish()
            self.seconds += time.perf_counter()
            self.peak_memory = peak_memory(self.contest.device)
            self.profiler.start()
        if step == self.last + PROFILED:
            self._finish()
            self.profiler.stop()
        return self.contest.batches(step)

    def _finish(self) -> float:
        """Wait until the device has done all that was asked of it; return for how long."""
        begun = time.perf_counter()
        if self.contest.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun


def main(arguments: argparse.Namespace) -> None:
    """Measure some steps, profile some more, and print what they spent their time on."""
    logging.disable(logging.INFO)
    device = torch.device(arguments.device)
    # One step more than is looked at: the profiler is stopped when a batch is asked for.
    num_steps = arguments.warmup + arguments.steps + PROFILED + 1
    contest = Contest(arguments, device, num_steps)
    watched = Watched(contest, arguments.warmup, arguments.steps)
    objective = contest.objective()
    contest.run_engine(objective, watched)

    shape = shape_of(arguments)
    seconds = watched.seconds / arguments.steps
    work = work_per_token(
        contest.student.config,
        [contest.teacher.config],
        asked_by(objective, True, MASKING, SAMPLED_FRACTION),
        sequence_length=shape.length,
        num_parameters=num_parameters(contest.student),
        tokens_per_step=shape.num_tokens,
    )
    rate = work.total * shape.num_tokens / seconds
    peak = peak_flops(device, arguments.precision)
    print(f"{shape}, {arguments.positions}, {arguments.precision}, {device_name(device)}")
    print(
        f"{seconds * 1e3:.1f} ms a step, {shape.num_tokens / seconds:,.0f} tokens/s, "
        f"{rate / 1e12:.3g} TFLOP/s{f', {rate / peak:.1%} of peak' if peak else ''}, "
        f"{watched.peak_memory / 1e9:.1f} GB"
    )
    events = watched.profiler.key_averages()
    if device.type == "cuda":
        print(f"the host was {watched.ahead * 1e3:.1f} ms ahead at the end")
        print_table("kernels", events, "self_device_time_total")
    print_table("operations of the host", events, "self_cpu_time_total")


def print_table(title: str, events: Any, key: str) -> None:
    """Print what took longest, for one step: milliseconds, calls and name."""
    on_device = key == "self_device_time_total"
    rows = [
        (getattr(event, key) / PROFILED / 1e3, event.count / PROFILED, event.key)
        for event in events
        if on_device == (event.device_type != torch.autograd.DeviceType.CPU)
    ]
    rows.sort(reverse=True)
    total = sum(row[0] for row in rows)
    print(f"\n{title}: {total:.1f} ms a step in {sum(row[1] for row in rows):.0f} calls")
    for milliseconds, count, name in rows[:NUM_ROWS]:
        print(f"{milliseconds:9.2f}{milliseconds / total:6.1%}{count:8.0f}  {name[:100]}")


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_of_steps(__doc__)
    add_engine(parser)
    parser.add_argument("--warmup", type=int, default=3, help="steps before (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (default 5)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
