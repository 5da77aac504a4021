"""From text to token ids, and to where the sentences begin.

The ids are the tokenizer library's own. It is asked in the two ways that cost it least: for many
sentences at once, with a mark between them that becomes an id of its own, since every text that it
is given has its price; and without its normaliser where the text is printable ASCII,
which is nearly all of English: all that BERT's normaliser does to that is to lower it, and its
bookkeeping takes a third of the tokenizer's time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.corpus.reading import SpecialIds
from stages.errors import DataError

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
MARK = "\x1e"
"""Stands between sentences: a control character, which BERT's normaliser would remove."""
SENTENCES_PER_RUN = 16
"""Some kilobytes: for fewer the library's cost of a text shows, for more its want of memory."""
RUNS_PER_CALL = 256
MAX_SENTENCE_CHARACTERS = 10_000
"""What is longer is no sentence, and is cut: the library needs hundreds of bytes a character."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document as token ids, without special tokens."""

    ids: NDArray[Any]
    starts: NDArray[np.bool_]
    """True at the first token of every sentence."""


def open_tokenizer(path: Path) -> Any:
    """Return a tokenizer that neither cuts nor pads, and reads `[MASK]` in a text as text.

    Raises:
        DataError: the file is not a tokenizer's.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise DataError(
            f"{path} does not exist; run the stage that makes it: dvc repro fetch_teacher"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A text that speaks of [PAD] must not become padding.
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_ids(tokenizer: Any, path: Path) -> SpecialIds:
    """Return the ids of BERT's special tokens.

    Raises:
        DataError: the tokenizer is not one of BERT's kind.
    """
    ids = {name: tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
    missing = [SPECIAL_TOKENS[name] for name, number in ids.items() if number is None]
    if missing:
        raise DataError(
            f"{path} has no token {', '.join(missing)}: it is not a BERT tokenizer. Choose a "
            "teacher with BERT's vocabulary under teacher.source in params.yaml"
        )
    return SpecialIds(**ids)


def id_type(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)


def continuations(tokenizer: Any) -> NDArray[np.bool_]:
    """Return for each id whether it continues a word (`##ing`)."""
    found = np.zeros(tokenizer.get_vocab_size(with_added_tokens=True), dtype=np.bool_)
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    if prefix:
        continuing = [i for token, i in tokenizer.get_vocab().items() if token.startswith(prefix)]
        found[continuing] = True
    return found


def sentences(text: str) -> Iterator[str]:
    """Yield a text's sentences, without the white space between them; none spans paragraphs."""
    from sentencex import segment

    for piece in segment("en", text):
        sentence = piece.strip()
        while len(sentence) > MAX_SENTENCE_CHARACTERS:
            cut = sentence.rfind(" ", 1, MAX_SENTENCE_CHARACTERS)
            cut = MAX_SENTENCE_CHARACTERS if cut < 0 else cut
            yield sentence[:cut]
            sentence = sentence[cut:].lstrip()
        if sentence:
            yield sentence


class Encoder:
    """A tokenizer for whole documents."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = open_tokenizer(path)
        self.special = special_ids(self.tokenizer, path)
        self.vocabulary_size: int = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.id_type = id_type(self.vocabulary_size)
        self._plain = PlainText.of(self.tokenizer)
        self._any = _with_mark(path)
        self._bare = _with_mark(path)
        self._bare.normalizer = None

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the tokens of each text."""
        # The library's normaliser would remove the mark too.
        split = [list(sentences(text.replace(MARK, ""))) for text in texts]
        marked = self._marked(list(chain.from_iterable(split)))
        is_mark = marked == self.vocabulary_size
        ids = marked[~is_mark].astype(self.id_type)
        marks = np.flatnonzero(is_mark)
        # Where each sentence begins once the marks before it are gone.
        first = np.concatenate([[0], marks - np.arange(len(marks))])
        starts = np.zeros(len(ids) + 1, dtype=np.bool_)
        starts[first] = True
        documents = np.cumsum([0, *map(len, split)])
        for begin, end in pairwise(first[documents]):
            yield Tokens(ids[begin:end], starts[begin:end])

    def _marked(self, texts: list[str]) -> NDArray[np.uint32]:
        """Return the ids of all sentences one after the other, with a mark behind each."""
        runs = [
            (plain, MARK.join([*run, ""]))
            for start in range(0, len(texts), SENTENCES_PER_RUN)
            for plain, run in groupby(texts[start : start + SENTENCES_PER_RUN], self._plain.holds)
        ]
        pieces = [runs[i : i + RUNS_PER_CALL] for i in range(0, len(runs), RUNS_PER_CALL)]
        return np.concatenate([np.empty(0, dtype=np.uint32), *map(self._run_ids, pieces)])

    def _run_ids(self, runs: list[tuple[bool, str]]) -> NDArray[np.uint32]:
        ids: list[list[int]] = [[]] * len(runs)
        for bare in (True, False):
            chosen = [i for i, (plain, _) in enumerate(runs) if plain == bare]
            texts = [self._plain.normalised(runs[i][1]) if bare else runs[i][1] for i in chosen]
            tokenizer = self._bare if bare else self._any
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for i, encoding in zip(chosen, encodings, strict=True):
                ids[i] = encoding.ids
        return np.fromiter(chain.from_iterable(ids), dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class PlainText:
    """The text for which a tokenizer's normaliser can be done without."""

    known: bool
    """Whether there is any: the normaliser is BERT's, and no added token is looked for."""
    lowers: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "PlainText":
        """Return what holds for a tokenizer."""
        from tokenizers.normalizers import BertNormalizer

        normalizer = tokenizer.normalizer
        added = tokenizer.get_added_tokens_decoder().values()
        known = isinstance(normalizer, BertNormalizer) and all(token.special for token in added)
        return cls(known, known and normalizer.lowercase)

    def holds(self, text: str) -> bool:
        """Return whether a text is such: ASCII, and without control characters."""
        return self.known and text.isascii() and text.isprintable()

    def normalised(self, text: str) -> str:
        """Return what the normaliser would make of it."""
        return text.lower() if self.lowers else text


def _with_mark(path: Path) -> Any:
    """Return a tokenizer that gives MARK the first id past the vocabulary."""
    from tokenizers import AddedToken

    tokenizer = open_tokenizer(path)
    tokenizer.add_tokens([AddedToken(MARK, normalized=False, special=False)])
    return tokenizer
