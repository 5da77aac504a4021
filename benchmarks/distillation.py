"""The engine's distillation step against the published one, on this machine, in one run.

    python -m benchmarks.distillation                       # 6x384 to 3 layers, 2,048 tokens a step
    python -m benchmarks.distillation --shape base --batch 8

Both train the same student from the same teacher on the same batches with the same triple loss,
in turn, step by step, each in a process of its own: what one sets for a process (the library of
products, what becomes of freed memory) the other does not have. Prints tokens per second, their
ratio, peak memory, and how near each comes to the limit that this machine's matrix products set,
measured in the same run (benchmarks/limit.py).
"""

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.contest import (
    CLOCKS,
    TEMPERATURE,
    WEIGHTS,
    Contest,
    add_clock,
    add_engine,
    parser_of_steps,
    peak_memory,
    resident,
    shape_of,
)
from benchmarks.limit import Limit, Products
from benchmarks.published_step import PublishedStep
from stages.training.batches import Batch

MEGABYTE = 1e6
WAYS = ("published", "engine")


@dataclass(frozen=True, slots=True)
class Peak:
    """What one way of taking steps needs, in bytes: all of it, and what is not model or library."""

    total: int
    above_models: int


def main(arguments: argparse.Namespace) -> None:
    """Measure what was asked for, and print it."""
    logging.disable(logging.INFO)
    device = torch.device(arguments.device)
    if arguments.way:
        # The last step is not counted: the other process may be ending while it is taken.
        num_steps = (arguments.warmup + arguments.rounds + 1) * arguments.steps
        run(Contest(arguments, device, num_steps), arguments.way)
        return
    seconds, peaks, limit = measured(arguments, device)
    shape = shape_of(arguments)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(
        [p / e for p, e in zip(seconds["published"], seconds["engine"], strict=True)]
    )
    result = {
        "shape": asdict(shape),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "positions": arguments.positions,
        "precision": arguments.precision,
        "clock": arguments.clock,
        "limit_seconds": limit.seconds,
        "limit_flops": limit.flops,
        "seconds": seconds,
        "tokens_per_second": {n: shape.num_tokens / s for n, s in medians.items()},
        "share_of_limit": {n: limit.seconds / s for n, s in medians.items()},
        "peak_memory": {name: asdict(peak) for name, peak in peaks.items()},
        "speed_ratio": ratio,
        "memory_ratio": peaks["engine"].total / peaks["published"].total,
        "memory_ratio_above_models": peaks["engine"].above_models / peaks["published"].above_models,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{shape}, {arguments.positions}, {arguments.precision}, {result['device']}")
    print(f"{result['threads']} threads, {arguments.clock} clock")
    print(f"{'':12}{'s/step':>9}{'tokens/s':>10}{'of limit':>10}{'peak MB':>9}{'above models':>14}")
    for name in WAYS:
        peak = peaks[name]
        print(
            f"{name:12}{medians[name]:9.3f}{shape.num_tokens / medians[name]:10.0f}"
            f"{limit.seconds / medians[name]:10.0%}{peak.total / MEGABYTE:9.0f}"
            f"{peak.above_models / MEGABYTE:14.0f}"
        )
    print(
        f"{'limit':12}{limit.seconds:9.3f}{shape.num_tokens / limit.seconds:10.0f}"
        f"{limit.flops / limit.seconds / 1e9:10.0f} GFLOP/s"
    )
    print(
        f"engine: {ratio:.2f} times the tokens per second (median of {arguments.rounds} pairs), "
        f"{result['memory_ratio']:.2f} of the peak memory, "
        f"{result['memory_ratio_above_models']:.2f} of that above the models"
    )


def run(contest: Contest, way: str) -> None:
    """Take steps in one way, a step for each line of standard input.

    Prints the seconds of each, and in the end the `Peak`, a line of JSON each.
    """
    cuda = contest.device.type == "cuda"
    models = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    turns = Turns(contest)
    if way == "engine":
        contest.run_engine(contest.objective(), turns)
    else:
        run_published(contest, turns)
    turns.finish()
    peak = peak_memory(contest.device)
    print(json.dumps(asdict(Peak(peak, peak - models))), flush=True)


def run_published(contest: Contest, turns: "Turns") -> None:
    """Train with the published step."""
    step = PublishedStep(
        contest.student, contest.teacher, WEIGHTS, contest.schedule, contest.num_steps, TEMPERATURE
    )
    precision = (
        torch.autocast(contest.device.type, dtype=torch.bfloat16)
        if contest.arguments.published_precision == "bfloat16"
        else contextlib.nullcontext()
    )
    for number in range(contest.num_steps):
        with precision:
            step({name: x.to(contest.device) for name, x in turns(number).items()})


class Turns:
    """Batches that are handed out when it is this process's turn.

    A batch is asked for at the start of each step: from one answer to the next question is one
    whole step of a loop, with everything that it does for its users. A turn may be several steps:
    on a GPU the host works ahead, unless it is stopped after every one.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest, self.steps = contest, contest.arguments.steps
        self._answered: float | None = None

    def __call__(self, step: int) -> Batch:
        """Return a step's batch; the first of a turn once a line is read that asks for it."""
        if step % self.steps == 0:
            self.finish()
            sys.stdin.readline()
            self._answered = self._now()
        return self.contest.batches(step)

    def finish(self) -> None:
        """Print the seconds of the last turn, for a step of it."""
        if self._answered is not None:
            print(json.dumps((self._now() - self._answered) / self.steps), flush=True)
        self._answered = None

    def _now(self) -> float:
        if self.contest.device.type == "cuda":
            torch.cuda.synchronize()
        return CLOCKS[self.contest.arguments.clock]()


def measured(
    arguments: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Peak], Limit]:
    """Return the seconds of each step and the peak of each way, and the limit.

    The limit is measured before and after the steps.
    """
    dtype = torch.bfloat16 if arguments.precision == "bfloat16" else torch.float32
    products = Products(shape_of(arguments), dtype, device, CLOCKS[arguments.clock])
    products.measure(3)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks = {}
    with contextlib.ExitStack() as stack:
        running = {way: stack.enter_context(_started(way)) for way in WAYS}
        for _ in range(arguments.warmup + arguments.rounds + 1):
            for way, process in running.items():
                print(file=process.stdin, flush=True)
                seconds[way].append(json.loads(process.stdout.readline()))
        for way, process in running.items():
            peaks[way] = Peak(**json.loads(process.stdout.readline()))
    limit = products.measure(3)
    return {way: values[arguments.warmup : -1] for way, values in seconds.items()}, peaks, limit


def _started(way: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.distillation", *sys.argv[1:], "--way", way]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_of_steps(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured steps of each (default 7)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn (default 1)")
    parser.add_argument(
        "--published-precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the published step, as it was: float32; bfloat16: by autocast",
    )
    add_engine(parser)
    add_clock(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything measured here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
