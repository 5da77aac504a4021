r"""Speed at length: the published protocol, and what is served against the teacher.

`published` times random BERT-base and DistilBERT (time does not depend on the weights) on one pass
over STS-B's validation set, one pair at a time, in PyTorch and in ONNX Runtime:

    python -m benchmarks.speed published --hub ../shared/data/hub --tokenizer tokenizer.json

`served` times a fine-tuned teacher in PyTorch against a fine-tuned student's exported files on
their task's validation set, one text at a time, and scores them all:

    python -m benchmarks.speed served --teacher models/finetuned/teacher-sst2 \
        --student models/export/distilbert-sst2 --task-data data/tasks/sst2
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from stages import params
from stages.command import parser_for
from stages.evaluation.examples import read_examples
from stages.export.export import ONNX
from stages.export.graph import Feeds, write_fp32
from stages.export.parity import onnx_logits, open_session, torch_logits
from stages.export.quantise import write_int8
from stages.export.task_model import feeds_of, score_of
from stages.files import read_json
from stages.params.release import Int8
from stages.speed.published import compare, sentence_pairs
from stages.speed.runners import onnx_runner, torch_runner
from stages.speed.timing import Runner, by_turn, time_pass


def published(arguments: argparse.Namespace) -> None:
    """Print the seconds of a pass and the ratios to BERT-base in PyTorch."""
    settings = params.load().model_copy(update={"hub_root": str(arguments.hub)})
    rows = sentence_pairs(settings, arguments.tokenizer)[: arguments.texts]
    torch.manual_seed(0)
    models = {
        "BERT-base": BertModel(BertConfig()).eval(),
        "DistilBERT": DistilBertModel(DistilBertConfig()).eval(),
    }
    runners: dict[str, Runner] = {
        f"{name}, PyTorch": torch_runner(model) for name, model in models.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            fp32, int8 = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}.int8.onnx"
            write_fp32(model, fp32)
            write_int8(fp32, int8, Int8())
            runners |= {
                f"{name}, ONNX fp32": onnx_runner(fp32),
                f"{name}, ONNX INT8": onnx_runner(int8),
            }
        report(compare(runners, rows))
        if arguments.padded:
            padded = [np.pad(row, ((0, 0), (0, 128 - row.shape[1]))) for row in rows[:200]]
            report(compare(runners, padded))


def served(arguments: argparse.Namespace) -> None:
    """Print score and speed of a fine-tuned teacher and of a student's files."""
    task = read_json(arguments.task_data / "task.json")
    split = task["validation_splits"][0]
    tokenizer = arguments.student / "tokenizer.json"
    examples = read_examples(arguments.task_data, split, tokenizer, 128, None)
    runners, scores = {}, {}
    for name, folder in (("teacher", arguments.teacher), ("student", arguments.student)):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        texts = feeds_of(examples, model, batch=1)
        label = f"{name}, PyTorch"
        runners[label] = _TorchTexts(model, texts)
        scores[label] = score_of(task, [torch_logits(model, text) for text in texts], examples)
        if name == "student":
            for kind, file in ONNX.items():
                session = open_session(folder / file, num_threads=torch.get_num_threads())
                label = f"student, ONNX {kind}"
                runners[label] = _OnnxTexts(session, texts)
                answers = [onnx_logits(session, text) for text in texts]
                scores[label] = score_of(task, answers, examples)
    # Every runner has its own inputs; what goes round is the number of the text.
    numbers = [np.array([[i]]) for i in range(len(examples))]
    seconds = time_pass(runners, numbers)
    reference = seconds["teacher, PyTorch"]
    for name, found in seconds.items():
        low, middle, high = np.percentile(by_turn(reference) / by_turn(found), [10, 50, 90])
        print(
            f"{name:22} {1000 * np.median(found):8.2f} ms  "
            f"{middle:6.2f}x ({low:.2f} to {high:.2f})  score {scores[name]:.2f}"
        )


class _TorchTexts:
    """A PyTorch model on numbered texts."""

    def __init__(self, model: torch.nn.Module, texts: Sequence[Feeds]) -> None:
        self.model, self.texts = model, texts

    @torch.inference_mode()
    def __call__(self, number: np.ndarray, _mask: np.ndarray) -> object:
        text = self.texts[int(number[0, 0])]
        return self.model(**{name: torch.from_numpy(ids) for name, ids in text.items()})


class _OnnxTexts:
    """An ONNX session on numbered texts."""

    def __init__(self, session: object, texts: Sequence[Feeds]) -> None:
        self.session, self.texts = session, texts

    def __call__(self, number: np.ndarray, _mask: np.ndarray) -> object:
        return self.session.run(None, self.texts[int(number[0, 0])])  # type: ignore[attr-defined]


def report(found: dict) -> None:
    """Print a pass."""
    print(f"{found['num_texts']} texts, {found['mean_length']} tokens on average")
    for name, seconds in found["seconds"].items():
        print(f"  {name:24} {seconds:8.2f} s  {found['speedup'][name]:6.2f}x")


if __name__ == "__main__":
    parser = parser_for(__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("published", help="BERT-base against DistilBERT on STS-B")
    one.add_argument("--hub", type=Path, required=True, help="a folder in the hub's layout")
    one.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json of BERT")
    one.add_argument("--texts", type=int, help="only so many of the 1,500 pairs")
    one.add_argument("--padded", action="store_true", help="also 200 pairs padded to 128 tokens")
    one.set_defaults(command=published)
    two = commands.add_parser("served", help="a fine-tuned teacher against a student's files")
    for option in ("teacher", "student", "task-data"):
        two.add_argument(f"--{option}", type=Path, required=True)
    two.set_defaults(command=served)
    chosen = parser.parse_args()
    chosen.command(chosen)
