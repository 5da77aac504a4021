r"""How fast text becomes shards, beside the tokenizer's own ceiling and beside `datasets.map`.

    python -m benchmarks.corpus --text '../shared/data/books/*.txt' \
        --tokenizer models/teacher_source/tokenizer.json

All three get the same documents and all cores, in turns, in one run; the shards are made by
processes that have to learn every word again in every round. Prints tokens per second, the ratios,
the peak memory of a corpus and of one ten times as large, and what a full Wikipedia and BookCorpus
would take, with the arithmetic.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from glob import glob
from itertools import chain
from pathlib import Path

from stages.command import num_cores, parser_for
from stages.corpus.records import Document, document_writer, read_documents
from stages.corpus.shards import make_shards
from stages.corpus.tokenising import open_tokenizer
from stages.corpus.workers import processes
from stages.params import Shards

ROOT = Path(__file__).resolve().parent.parent
NUM_CORES = num_cores()
CHARACTERS_PER_DOCUMENT = 20_000
SETTINGS = Shards(sequence_length=128, cross_documents=True)

# The hub's data sets, as their cards count them: bytes of text and documents.
WIKIPEDIA_BYTES = 20_200_062_385
BOOKCORPUS_BYTES = 4_853_859_824


def write_corpus(folder: Path, files: list[str], copies: int = 1) -> Path:
    """Write novels as chapters of one length; copies stand for a larger corpus."""
    for split in ("train", "heldout"):
        with document_writer(folder / f"{split}.parquet") as writer:
            for copy in range(copies if split == "train" else 1):
                for file in files if split == "train" else files[:1]:
                    for i, text in enumerate(chapters(Path(file))):
                        writer.write(Document(f"{split}:{file}:{copy}:{i}", "books", "", text))
    return folder


def chapters(file: Path) -> list[str]:
    """Return a book's text in pieces, paragraphs separated by a blank line, wraps joined."""
    text = file.read_text(encoding="utf-8-sig")
    found, size = [[]], 0
    for paragraph in re.split(r"\n\s*\n", text):
        found[-1].append(" ".join(paragraph.split()))
        size += len(paragraph)
        if size > CHARACTERS_PER_DOCUMENT:
            found.append([])
            size = 0
    return ["\n\n".join(filter(None, piece)) for piece in found]


# ------------------------------------------------------------------------------- the three ways


def library(texts: list[str], tokenizer: Path, method: str) -> int:
    """The tokenizer alone, on every core, nothing else done."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    encode = getattr(open_tokenizer(tokenizer), method)
    return sum(len(encoding) for encoding in encode(texts, add_special_tokens=False))


def ours(corpus: Path, tokenizer: Path, out: Path, executor: Executor) -> int:
    """From documents to a shards folder: read, tokenised, packed, written, hashed."""
    # Under another name, so that the processes open it again and have to learn every word.
    fresh = Path(tempfile.mkdtemp(dir=out.parent)) / tokenizer.name
    shutil.copyfile(tokenizer, fresh)
    manifest = make_shards(corpus, fresh, out, SETTINGS, lambda: nullcontext(executor))
    return sum(sum(part["tokens"].values()) for part in manifest["splits"].values())


def usual(corpus: Path, tokenizer: Path, cache: Path) -> int:
    """What `run_mlm.py` does: `datasets.map` to tokenise, and again to concatenate and cut."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datasets import Dataset, disable_progress_bars
    from transformers import PreTrainedTokenizerFast

    disable_progress_bars()
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    length = SETTINGS.sequence_length

    def tokenise(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return dict(fast(batch["text"], return_special_tokens_mask=True, verbose=False))

    def group_texts(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain.from_iterable(values)) for name, values in batch.items()}
        total = len(joined["input_ids"]) // length * length
        return {
            name: [values[i : i + length] for i in range(0, total, length)]
            for name, values in joined.items()
        }

    rows = Dataset.from_parquet(
        [str(corpus / f"{split}.parquet") for split in ("train", "heldout")], cache_dir=str(cache)
    )
    tokenised = rows.map(
        tokenise, batched=True, num_proc=NUM_CORES, remove_columns=rows.column_names
    )
    num_tokens = sum(map(len, tokenised["input_ids"]))
    tokenised.map(group_texts, batched=True, num_proc=NUM_CORES)
    return num_tokens


def timed(work: Callable[[], int]) -> float:
    """Return tokens per second."""
    start = time.perf_counter()
    num_tokens = work()
    return num_tokens / (time.perf_counter() - start)


# ------------------------------------------------------------------------------- memory

_MEMORY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from benchmarks.corpus import SETTINGS
from stages.corpus.shards import make_shards
from stages.corpus.statistics import measure

def peak():
    # Not getrusage: its maximum counts the process that started this one, too.
    status = Path("/proc/self/status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))

corpus, tokenizer = map(Path, sys.argv[1:])
make_shards(corpus, tokenizer, corpus / "shards", SETTINGS, lambda: ThreadPoolExecutor(1))
print(peak())
measure(corpus / "shards")
print(peak())
"""


def peak_megabytes(corpus: Path, tokenizer: Path) -> tuple[float, float]:
    """Return the peak memory of one process that makes all shards, and then measures them."""
    command = [sys.executable, "-c", _MEMORY, str(corpus), str(tokenizer)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    making, measuring = (int(line) / 1024 for line in done.stdout.split())
    return making, measuring


# ------------------------------------------------------------------------------- the report


def main(arguments: argparse.Namespace) -> None:
    found = sorted(glob(arguments.text))  # noqa: PTH207 - the pattern may be absolute
    files = [str(Path(file).resolve()) for file in found]
    tokenizer = arguments.tokenizer.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", files)
        os.chdir(folder)
        texts = [
            document.text
            for split in ("train", "heldout")
            for document in read_documents(corpus / f"{split}.parquet")
        ]
        num_bytes = sum(len(text.encode()) for text in texts)
        print(f"{len(texts)} documents, {num_bytes / 1e6:.1f} MB, {NUM_CORES} cores")
        with processes(NUM_CORES) as executor:
            ours(corpus, tokenizer, folder / "warm", executor)
            ways = {
                "encode_batch": lambda: library(texts, tokenizer, "encode_batch"),
                "encode_batch_fast": lambda: library(texts, tokenizer, "encode_batch_fast"),
                "shards": lambda: ours(corpus, tokenizer, folder / "shards", executor),
                "datasets.map": lambda: usual(
                    corpus, tokenizer, Path(tempfile.mkdtemp(dir=folder))
                ),
            }
            speeds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(arguments.rounds):
                for way, work in ways.items():
                    speeds[way].append(timed(work))
        median = {way: statistics.median(each) for way, each in speeds.items()}
        for way, each in speeds.items():
            rounds = ", ".join(f"{speed:,.0f}" for speed in each)
            print(f"{way:18} {median[way]:>12,.0f} tokens/s   ({rounds})", flush=True)
        for other in ("encode_batch", "encode_batch_fast", "datasets.map"):
            print(f"shards / {other:18} {median['shards'] / median[other]:.2f}")
        small = peak_megabytes(corpus, tokenizer)
        large = peak_megabytes(write_corpus(folder / "large", files, copies=10), tokenizer)
        for name, one, ten in zip(("shards", "expectations"), small, large, strict=True):
            print(
                f"memory, {name}: {one:.0f} MB, ten times the corpus {ten:.0f} ({ten / one:.3f}x)"
            )
        num_tokens = library(texts, tokenizer, "encode_batch_fast")
        stored = sum(path.stat().st_size for path in (folder / "shards").rglob("*.arrow"))
        extrapolate(num_bytes, num_tokens, stored, median["shards"])


def extrapolate(num_bytes: int, num_tokens: int, stored: int, speed: float) -> None:
    """Print what Wikipedia and BookCorpus would take at the measured ratios."""
    text = WIKIPEDIA_BYTES + BOOKCORPUS_BYTES
    tokens = text * num_tokens / num_bytes
    seconds = tokens / speed
    print(f"text    {WIKIPEDIA_BYTES / 1e9:.1f} + {BOOKCORPUS_BYTES / 1e9:.1f} GB")
    print(f"tokens  / {num_bytes / num_tokens:.2f} bytes a token = {tokens / 1e9:.2f} G")
    print(f"time    / {speed:,.0f} tokens/s = {seconds / 3600:.1f} h on {NUM_CORES} cores")
    print(
        f"disk    x {stored / num_tokens:.2f} bytes = {tokens * stored / num_tokens / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--text", required=True, help="a pattern of plain-text files")
    parser.add_argument("--tokenizer", required=True, type=Path, help="a tokenizer.json")
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
