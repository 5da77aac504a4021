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
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.limit import Limit, Products, Shape
from benchmarks.published_step import PublishedStep
from stages.command import parser_for
from stages.corpus.reading import Sequences, SpecialIds
from stages.params import Launch, Masking, Schedule, Weights
from stages.students.distilbert import build_student
from stages.training.batches import Batch, Batches, MaskedBatches
from stages.training.compiling import compile_layers
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.loop import train
from stages.training.processes import Processes
from stages.training.triple_loss import TripleLoss

VOCABULARY = 30522
WEIGHTS = Weights(ce=5.0, mlm=2.0, cos=1.0)
TEMPERATURE = 2.0
MASKING = Masking()
SAMPLED_FRACTION = 0.1
MEGABYTE = 1e6
WAYS = ("published", "engine")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MODELS = {
    "small": {"layers": 6, "width": 384, "heads": 12, "student": [0, 2, 5]},
    "base": {"layers": 12, "width": 768, "heads": 12, "student": [0, 2, 4, 7, 9, 11]},
}


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
        Contest(arguments, device, num_steps).run(arguments.way)
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


def shape_of(arguments: argparse.Namespace) -> Shape:
    """Return the sizes that the command line asks for."""
    model = MODELS[arguments.shape]
    return Shape(
        teacher_layers=model["layers"],
        student_layers=len(model["student"]),
        width=model["width"],
        inner=4 * model["width"],
        heads=model["heads"],
        vocabulary=VOCABULARY,
        batch=arguments.batch,
        length=arguments.length,
    )


class Contest:
    """Teacher, student, batches and settings that both ways of taking a step share."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, num_steps: int) -> None:
        shape = shape_of(arguments)
        self.arguments, self.device, self.num_steps = arguments, device, num_steps
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.width,
            num_hidden_layers=shape.teacher_layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=max(512, shape.length),
        )
        self.teacher = BertForMaskedLM(config).to(device)
        self.student = build_student(self.teacher, MODELS[arguments.shape]["student"]).to(device)
        self.schedule = Schedule(
            num_steps=num_steps,
            batch_sequences=shape.batch,
            learning_rate=5e-4,
            warmup_fraction=0.05,
            precision=arguments.precision,
        )
        self.batches = MaskedBatches(
            sequences(shape), shape.batch, 0, MASKING, sampled_fraction=SAMPLED_FRACTION
        )

    def run(self, way: str) -> None:
        """Take steps in one way, a step for each line of standard input.

        Prints the seconds of each, and in the end the `Peak`, a line of JSON each.
        """
        cuda = self.device.type == "cuda"
        models = torch.cuda.memory_allocated() if cuda else _resident("VmRSS")
        turns = Turns(self)
        if way == "engine":
            self.run_engine(self.objective(), turns)
        else:
            self.run_published(turns)
        turns.finish()
        peak = peak_memory(self.device)
        print(json.dumps(asdict(Peak(peak, peak - models))), flush=True)

    def run_published(self, turns: "Turns") -> None:
        """Train with the published step."""
        step = PublishedStep(
            self.student, self.teacher, WEIGHTS, self.schedule, self.num_steps, TEMPERATURE
        )
        precision = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if self.arguments.published_precision == "bfloat16"
            else contextlib.nullcontext()
        )
        for number in range(self.num_steps):
            with precision:
                step({name: x.to(self.device) for name, x in turns(number).items()})

    def objective(self) -> TripleLoss:
        """Return the engine's student with its loss."""
        if self.arguments.compile:
            compile_layers(self.student)
        teacher = FrozenTeacher(
            self.teacher,
            narrow=self.arguments.teacher_precision == "bfloat16",
            compiled=self.arguments.compile,
        )
        return TripleLoss(
            self.student,
            teacher,
            WEIGHTS,
            temperature=TEMPERATURE,
            positions=self.arguments.positions,
        )

    def run_engine(self, objective: TripleLoss, batches: Batches) -> None:
        """Train with the engine, which asks for each step's batch when it begins with it."""
        train(
            objective,
            batches,
            self.schedule,
            self.num_steps,
            Launch(micro_batch_sequences=self.arguments.micro_batch or self.arguments.batch),
            Processes(0, 1, self.device),
            seed=0,
            workspace=None,
            title="engine",
        )


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


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held at one time, on its device, in bytes."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM")


def _resident(key: str) -> int:
    """Return this process's resident memory, now (VmRSS) or at its highest (VmHWM), in bytes.

    Not getrusage: its maximum counts the process that started this one, too.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(x for x in status.splitlines() if x.startswith(key)).split()[1])


def sequences(shape: Shape) -> Sequences:
    """Return rows of random tokens, [CLS] ... [SEP], as full as shards are."""
    special = SpecialIds(pad=0, unk=100, cls=101, sep=102, mask=103)
    size = (8 * shape.batch, shape.length)
    rows = np.random.default_rng(0).integers(1000, VOCABULARY, size=size).astype(np.uint16)
    rows[:, 0], rows[:, -1] = special.cls, special.sep
    return Sequences(
        num_sequences=len(rows),
        sequence_length=shape.length,
        vocabulary_size=VOCABULARY,
        special=special,
        token_counts=np.bincount(rows.ravel(), minlength=VOCABULARY),
        continuations=np.zeros(VOCABULARY, dtype=np.bool_),
        digest="0" * 64,
        _pieces=(rows,),
        _starts=np.array([0]),
    )


def parser_of_steps(module_doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that asks for the shape of a step: models, sequences and their length."""
    parser = parser_for(module_doc)
    parser.add_argument("--shape", choices=MODELS, default="small", help="teacher and student")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step (default 16)")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence (default 128)")
    return parser


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's user say what it counts time by."""
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu counts processor time: where other work shares the machine, with one thread",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark's user say how the engine takes its steps, and where."""
    parser.add_argument("--compile", action="store_true", help="compile the engine's layers")
    parser.add_argument(
        "--positions",
        choices=("all", "masked", "sampled"),
        default="all",
        help="of the engine's soft targets",
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the engine"
    )
    parser.add_argument(
        "--teacher-precision",
        choices=("schedule", "bfloat16"),
        default="schedule",
        help="of the engine's teacher: as the student's, or bfloat16",
    )
    parser.add_argument(
        "--micro-batch", type=int, help="sequences at a time in the engine (default: all)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


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
