"""Labelled tasks made from the corpus, with labels that are true by construction.

* acceptability: is this a sentence as it was written, or were some of its words moved, dropped or
  replaced? First and last words, capitals and punctuation stay, so only reading helps.
* package: which package's documentation is this paragraph from? The names are masked.
* summary_match: does this body belong to this summary line, or to another document of the same
  package?

Train examples come from train documents and validation examples from held-out ones, and no text is
in both. Everything follows from the documents and a seed. Texts are short: a fine-tuning at 64
tokens sees nearly all of them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path

import numpy as np

from stages.errors import DataError
from stages.evaluation.corruption import PLAIN_WORD, corrupt
from stages.evaluation.curated import Document, read_documents
from stages.evaluation.task_folder import Example, TaskData

MAX_TRAIN, MAX_VALIDATION = 4000, 1000
MIN_TRAIN, MIN_VALIDATION = 40, 10
"""With fewer examples a task is refused: its scores would be noise."""

ALSO_CALLED = {
    "matplotlib": ("pyplot", "mpl", "plt"),
    "numpy": ("np",),
    "pandas": ("pd",),
    "sklearn": ("scikit-learn", "scikit"),
    "tensorflow": ("tf",),
    "torch": ("pytorch",),
    "transformers": ("hugging face", "huggingface"),
}
"""What texts call a package besides its import name."""

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|(?<=\s[.!?])\s+|\n+")
WORD = re.compile(r"[A-Za-z'-]+[,;:]?")

Maker = Callable[[list[Document], np.random.Generator], list[Example]]


def derive(name: str, curated: Path, seed: int) -> TaskData:
    """Make one derived task from `curated`/train.parquet and heldout.parquet.

    Raises:
        DataError: a file is missing, or the corpus holds too little of what the task is made of.
    """
    train = read_documents(curated / "train.parquet", seed)
    heldout = read_documents(curated / "heldout.parquet", seed)
    return derive_from(name, train, heldout, seed)


def derive_from(name: str, train: list[Document], heldout: list[Document], seed: int) -> TaskData:
    """Make one derived task from documents; `derive` says what can go wrong."""
    labels, make = {
        "acceptability": lambda: (("corrupted", "acceptable"), acceptability),
        "package": lambda: _package_task(train),
        "summary_match": lambda: (("other", "match"), summary_match),
    }[name]()
    key = sum(name.encode())
    examples = alternate(make(train, np.random.default_rng([seed, key, 0])), len(labels))
    examples = examples[:MAX_TRAIN]
    seen = {text for example in examples for text in (example.text_a, example.text_b)} - {None}
    unseen = [
        example
        for example in make(heldout, np.random.default_rng([seed, key, 1]))
        if not seen & {example.text_a, example.text_b}
    ]
    validation = alternate(unseen, len(labels))[:MAX_VALIDATION]
    _check_enough(name, examples, validation)
    return TaskData(labels, examples, {"validation": validation})


def alternate(examples: list[Example], num_labels: int) -> list[Example]:
    """Return examples with their labels in turn, so that whatever is taken first is balanced.

    With two labels the surplus of one is left out; with more, what is left of the larger ones
    comes last.
    """
    by_label = [[e for e in examples if e.label == label] for label in range(num_labels)]
    rounds = (zip if num_labels == 2 else zip_longest)(*by_label)
    return [example for turn in rounds for example in turn if example is not None]


def acceptability(documents: list[Document], rng: np.random.Generator) -> list[Example]:
    """Return sentences, each once: half of them as written, half with some words disturbed."""
    sentences = _unique(
        sentence
        for document in documents
        for paragraph in document.paragraphs
        for sentence in SENTENCE_END.split(paragraph)
        if _is_clean_sentence(sentence)
    )
    rng.shuffle(sentences)
    written = set(sentences)
    # Drawn with their frequency, so that a rare word does not give a replacement away.
    words = [word for text in sentences for word in text.split() if PLAIN_WORD.fullmatch(word)]
    examples = []
    for number, sentence in enumerate(sentences):
        if number % 2:
            examples.append(Example(sentence, None, 1))
            continue
        corrupted = corrupt(sentence, words, rng)
        if corrupted != sentence and corrupted not in written:
            examples.append(Example(corrupted, None, 0))
    return examples


def package(
    documents: list[Document], rng: np.random.Generator, packages: tuple[str, ...]
) -> list[Example]:
    """Return paragraphs labelled with the package they document, at most as many of each."""
    pattern = mask_pattern(packages)
    examples: list[Example] = []
    for label, name in enumerate(packages):
        texts = _unique(
            _clip(pattern.sub("package", paragraph), 28)
            for document in documents
            if document.is_docstring and document.group == name
            for paragraph in document.paragraphs
            if len(paragraph.split()) >= 8
        )
        rng.shuffle(texts)
        examples += [Example(text, None, label) for text in texts[: MAX_TRAIN // len(packages)]]
    # A text that two packages share (a licence, a boilerplate line) has no true label.
    counts = Counter(example.text_a for example in examples)
    return [example for example in examples if counts[example.text_a] == 1]


def mask_pattern(packages: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds every word made of a package's name, however it is written."""
    names = {name.lower() for name in packages}
    also = {other for name in names for other in ALSO_CALLED.get(name, ())}
    # A short name is masked only as a whole word: `np` is inside `input`.
    inside = sorted((n for n in names | also if len(n) >= 5), key=lambda n: (-len(n), n))
    whole = sorted(n for n in names | also if len(n) < 5)
    parts = [rf"\w*{re.escape(name)}\w*" for name in inside]
    parts += [rf"\b{re.escape(name)}\b" for name in whole]
    return re.compile("|".join(parts), re.IGNORECASE)


def summary_match(documents: list[Document], rng: np.random.Generator) -> list[Example]:
    """Return summary lines with a body: half with their own, half with a neighbour's."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    used: set[str] = set()
    for document in documents:
        summary = _clip(document.paragraphs[0], 12)
        bodies = [text for text in document.paragraphs[1:] if len(text.split()) >= 8]
        body = _clip(bodies[0], 20) if bodies else ""
        if not body or len(summary.split()) < 3 or used & {summary, body}:
            continue
        used |= {summary, body}
        pairs.setdefault(document.group, []).append((summary, body))
    examples = []
    for group in sorted(pairs):
        members = pairs[group]
        rng.shuffle(members)
        half = len(members) // 2
        if half < 2:
            continue
        examples += [Example(summary, body, 1) for summary, body in members[half : 2 * half]]
        # Each takes the next one's body, so that a body alone says nothing about the label.
        bodies = [body for _, body in members[:half]]
        others = bodies[1:] + bodies[:1]
        examples += [
            Example(summary, other, 0)
            for (summary, _), other in zip(members[:half], others, strict=True)
        ]
    # Packages are mixed, so that a first part has some of each.
    return [examples[i] for i in rng.permutation(len(examples))]


def _package_task(train: list[Document]) -> tuple[tuple[str, ...], Maker]:
    counts = Counter(
        document.group
        for document in train
        if document.is_docstring
        for paragraph in document.paragraphs
        if len(paragraph.split()) >= 8
    )
    packages = tuple(sorted(name for name, count in counts.items() if count >= MIN_TRAIN // 2))
    if len(packages) < 2:
        raise DataError(
            f"task package: the corpus documents {len(packages)} packages with at least "
            f"{MIN_TRAIN // 2} paragraphs each, and 2 are needed; add packages to a docstrings "
            "source, or take 'package' out of evaluation.tasks"
        )
    return packages, lambda documents, rng: package(documents, rng, packages)


def _check_enough(name: str, train: list[Example], validation: list[Example]) -> None:
    if len(train) < MIN_TRAIN or len(validation) < MIN_VALIDATION:
        raise DataError(
            f"task {name}: the corpus gives {len(train)} train and {len(validation)} validation "
            f"examples, and {MIN_TRAIN} and {MIN_VALIDATION} are needed; add text to "
            f"corpus.sources, or take '{name}' out of evaluation.tasks"
        )


def _is_clean_sentence(sentence: str) -> bool:
    tokens = sentence.split()
    if not 8 <= len(tokens) <= 24 or sentence[-1] not in ".!?":
        return False
    body = [*tokens[:-1], tokens[-1].rstrip(".!?") or "x"]
    num_plain = sum(1 for token in tokens[1:-1] if PLAIN_WORD.fullmatch(token))
    return all(WORD.fullmatch(token) for token in body) and num_plain >= 6


def _clip(text: str, num_words: int) -> str:
    return " ".join(text.split()[:num_words])


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
