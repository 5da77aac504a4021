"""What measurements of a distillation step share: models, batches, settings and command lines."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.limit import Shape
from stages.command import parser_for
from stages.corpus.reading import Sequences, SpecialIds
from stages.params import Launch, Masking, Schedule, Weights
from stages.students.distilbert import build_student
from stages.training.batches import Batches, MaskedBatches
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
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MODELS = {
    "small": {"layers": 6, "width": 384, "heads": 12, "student": [0, 2, 5]},
    "base": {"layers": 12, "width": 768, "heads": 12, "student": [0, 2, 4, 7, 9, 11]},
}


class Contest:
    """Teacher, student, batches and settings of steps, and the engine that takes them."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, num_steps: int) -> None:
        shape = shape_of(arguments)
        self.arguments, self.device, self.num_steps = arguments, device, num_steps
        self.teacher = random_teacher(shape).to(device)
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


def random_teacher(shape: Shape) -> BertForMaskedLM:
    """Return a BERT of a shape, with weights that are the same in every process."""
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.width,
            num_hidden_layers=shape.teacher_layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=max(512, shape.length),
        )
    )


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


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has held at one time, on its device, in bytes."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")


def resident(key: str) -> int:
    """Return this process's resident memory, now (VmRSS) or at its highest (VmHWM), in bytes.

    Not getrusage: its maximum counts the process that started this one, too.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(x for x in status.splitlines() if x.startswith(key)).split()[1])


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
