"""Rates of the corpus's sources and of near-duplicate detection, side by side in one process.

    python -m benchmarks.sources --data ../shared/data

Measured on one core: MB of wikitext a second for the source's own way, for the parser alone on the
whole article and for its tokenizer; what markup is left; near duplicates by this project's MinHash
and by datasketch's, if that is installed (it is no dependency). Medians of --rounds, interleaved.
"""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mwparserfromhell
import numpy as np
import pyarrow.parquet as pq

from stages.command import parser_for
from stages.corpus import minhash
from stages.corpus.records import Drops
from stages.corpus.sources import dump
from stages.corpus.sources.wikitext import is_disambiguation, is_redirect, prose

MARKUP = ["{{", "[[", "|", "==", "<ref", "&entity;"]
PATTERNS = [re.escape(mark) for mark in MARKUP[:-1]] + [r"&(?:[a-zA-Z]+|#\d+);"]


def rates(ways: dict[str, Callable[[], Any]], num_bytes: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            seconds[name].append(time.process_time() - begin)
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"  {name}: {num_bytes / 1e6 / median:.2f} MB/s ({median:.2f} CPU s)")


def articles(folder: Path) -> list[tuple[str, str]]:
    found = []
    for path in sorted(folder.glob("*.bz2")):
        for raw in dump.pages(dump.chunks(path)):
            page = ElementTree.fromstring(raw)
            text = page.findtext("revision/text") or ""
            title = page.findtext("title") or ""
            is_article = page.findtext("ns") == "0" and page.find("redirect") is None
            if is_article and not is_redirect(text) and not is_disambiguation(title, text):
                found.append((title, text))
    return found


def wikitext(data: Path, rounds: int) -> None:
    pages = articles(data / "wikipedia_dump")
    num_bytes = sum(len(text.encode()) for _, text in pages)
    drops = Drops()
    paragraphs = [p for _, text in pages for p in prose(text, drops, False, "sentences")]
    num_characters = sum(map(len, paragraphs))
    print(
        f"wikitext: {len(pages)} articles, {num_bytes / 1e6:.1f} MB, to {num_characters} characters"
    )
    text = "\n".join(paragraphs)
    counts = {mark: len(re.findall(p, text)) for mark, p in zip(MARKUP, PATTERNS, strict=True)}
    total = sum(counts.values())
    print(f"  markup left: {counts}, {1e4 * total / num_characters:.4f} in 10,000 characters")
    sample = [text for _, text in pages[::16]]
    tokenizer = __import__("mwparserfromhell.parser._tokenizer", fromlist=["CTokenizer"])

    def parse_all() -> None:
        for text in sample:
            mwparserfromhell.parse(text, skip_style_tags=True).strip_code()

    rates(
        {
            "cut, then parsed where needed": lambda: [
                prose(text, Drops(), False, "sentences") for text in sample
            ],
            "mwparserfromhell, parse and strip_code": parse_all,
            "its C tokenizer alone": lambda: [
                tokenizer.CTokenizer().tokenize(text, 0, True) for text in sample
            ],
        },
        sum(len(text.encode()) for text in sample),
        rounds,
    )
    path = max((data / "wikipedia_dump").glob("*.bz2"), key=lambda path: path.stat().st_size)
    size = sum(map(len, dump.chunks(path)))
    print("reading a dump")
    rates(
        {
            "bz2": lambda: sum(map(len, dump.chunks(path))),
            "bz2 and pages": lambda: sum(1 for _ in dump.pages(dump.chunks(path))),
        },
        size,
        rounds,
    )


def near_duplicates(data: Path, rounds: int) -> None:
    folder = data / "hub" / "bookcorpus" / "bookcorpus" / "plain_text"
    sentences = [
        text
        for path in sorted(folder.iterdir())
        for text in pq.read_table(path)["text"].to_pylist()
    ]
    texts = [" ".join(sentences[i : i + 300]) for i in range(0, len(sentences), 300)]
    sample = texts[::40]
    num_bytes = sum(len(text.encode()) for text in sample)
    print(f"MinHash, 128 hashes of runs of five words: {len(sample)} of {len(texts)} texts")

    def shingles(text: str) -> set[bytes]:
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)}

    ways: dict[str, Callable[[], Any]] = {
        "numpy": lambda: [minhash.signature(text) for text in sample]
    }
    try:
        from datasketch import MinHash

        def sketch() -> None:
            for text in sample:
                MinHash(128).update_batch(list(shingles(text)))

        ways["datasketch, update_batch"] = sketch
    except ImportError:
        print("  datasketch is not installed")
    rates(ways, num_bytes, rounds)
    # How near the estimates are, for pairs of known likeness.
    errors = []
    for i, text in enumerate(sample[:100]):
        words = text.split()
        rng = np.random.default_rng(i)
        for place in rng.choice(len(words), len(words) // 60, replace=False):
            words[place] = "changed"
        other = " ".join(words)
        a, b = shingles(text), shingles(other)
        estimate = (minhash.signature(text) == minhash.signature(other)).mean()
        errors.append(float(estimate) - len(a & b) / len(a | b))
    print(f"  estimate less the truth: mean {np.mean(errors):+.4f}, deviation {np.std(errors):.4f}")
    for count in (50_000, 200_000):
        signatures = np.random.default_rng(1).integers(0, 2**32, (count, 128), dtype=np.uint32)
        signatures[count // 2 :: 50] = signatures[: len(signatures[count // 2 :: 50])]
        begin = time.process_time()
        found = (minhash.near_duplicates(signatures, 0.8) >= 0).sum()
        print(f"  {count} signatures: {found} repeated, {time.process_time() - begin:.1f} CPU s")


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the real data")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    wikitext(arguments.data, arguments.rounds)
    near_duplicates(arguments.data, arguments.rounds)


if __name__ == "__main__":
    main()
