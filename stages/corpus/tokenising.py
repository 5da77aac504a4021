"""From text to token ids, and to where the sentences begin.

The ids are the tokenizer library's own, but it is asked for every word only once. BERT's normaliser
and pre-tokenizer never look past a space or an ASCII punctuation mark, so the ids of what stands
between two of these depend on nothing else, and are remembered. What is left to do for a text is to
cut it there, which needs no more than the class of each of its bytes.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.corpus.tokenizer_file import BYTE_SPACE, read_tokenizer, special_ids

SENTENCES_AT_A_TIME = 4096
"""Half a megabyte, of which everything is held several times."""
MAX_REMEMBERED_BYTES = 1_000_000
"""Of words, some 130,000; with all that belongs to them it is twenty times as much."""
MAX_SENTENCE_CHARACTERS = 10_000
"""What is longer is no sentence, and is cut: the library needs hundreds of bytes a character."""
IN_WORD, SPACE, ALONE = range(3)
"""Classes of bytes. A punctuation mark is a word by itself, whatever stands beside it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A document as token ids, without special tokens."""

    ids: NDArray[Any]
    starts: NDArray[np.bool_]
    """True at the first token of every sentence."""


def open_tokenizer(path: Path) -> Any:
    """Return a tokenizer that neither cuts nor pads, and reads `[MASK]` in a text as text.

    Errors are those of `read_tokenizer`.
    """
    tokenizer = read_tokenizer(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A text that speaks of [PAD] must not become padding.
    tokenizer.encode_special_tokens = True
    return tokenizer


def id_type(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)


def continuations(tokenizer: Any) -> NDArray[np.bool_]:
    """Return for each id whether it continues a word (`##ing`; of bytes, what has no space)."""
    found = np.zeros(tokenizer.get_vocab_size(with_added_tokens=True), dtype=np.bool_)
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False).items()
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    if prefix:
        found[[i for token, i in vocabulary if token.startswith(prefix)]] = True
    elif _is_of_bytes(tokenizer):
        words = {i for token, i in vocabulary if token[0] == BYTE_SPACE or token in special}
        found[[i for _, i in vocabulary if i not in words]] = True
    return found


def _is_of_bytes(tokenizer: Any) -> bool:
    """Return whether a tokenizer is RoBERTa's or ModernBERT's: a word's space is part of it."""
    from tokenizers.pre_tokenizers import ByteLevel

    return isinstance(tokenizer.pre_tokenizer, ByteLevel)


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
        self._classes = _byte_classes(self.tokenizer)
        # Between sentences; only where it makes another token.
        self._space = " " * _is_of_bytes(self.tokenizer)
        self._remembered: dict[bytes, bytes] = {}
        self._num_remembered_bytes = 0

    def encode(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yield the tokens of each text."""
        split = [list(self._sentences(text)) for text in texts]
        every = list(chain.from_iterable(split))
        blocks = [
            self._encode_sentences(every[start : start + SENTENCES_AT_A_TIME])
            for start in range(0, len(every), SENTENCES_AT_A_TIME)
        ]
        ids = np.concatenate([np.empty(0, self.id_type), *(ids for ids, _ in blocks)])
        first = np.cumsum(np.concatenate([[0], *(lengths for _, lengths in blocks)]))
        starts = np.zeros(len(ids) + 1, dtype=np.bool_)
        starts[first] = True
        documents = np.cumsum([0, *map(len, split)])
        for begin, end in pairwise(first[documents]):
            yield Tokens(ids[begin:end], starts[begin:end])

    def _sentences(self, text: str) -> Iterator[str]:
        space = ""
        for sentence in sentences(text):
            yield space + sentence
            space = self._space

    def _encode_sentences(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the ids of all sentences one after the other, and the number of each one's ids."""
        encoded = [text.encode() for text in texts]
        data = b"".join(encoded)
        sentence_offsets = np.cumsum([0, *map(len, encoded)])
        offsets = self._cut(data, sentence_offsets)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        pieces = pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, buffers)
        distinct = pieces.dictionary_encode()
        known = self._ids_of(distinct.dictionary.to_pylist())
        # Where in `table` the ids of each distinct piece are, and then those of every piece.
        table = np.frombuffer(b"".join(known), self.id_type)
        bounds = np.cumsum([0, *map(len, known)], dtype=np.int32) // self.id_type.itemsize
        # Not to_numpy, which imports pandas: a second in every process.
        chosen = np.frombuffer(distinct.indices.buffers()[1], np.int32, len(pieces))
        lengths = np.diff(bounds)[chosen]
        ends = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int32)
        places = np.repeat(bounds[chosen] - ends[:-1], lengths)
        places += np.arange(ends[-1], dtype=np.int32)
        return table[places], np.diff(ends[np.searchsorted(offsets, sentence_offsets)])

    def _cut(self, data: bytes, sentence_offsets: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return where pieces begin that are tokenised each by itself, and where the last ends."""
        classes = self._classes[np.frombuffer(data, np.uint8)]
        begins = np.ones(len(data) + 1, dtype=np.bool_)
        begins[1:-1] = (classes[1:] != classes[:-1]) | (classes[1:] == ALONE)
        begins[sentence_offsets] = True
        return np.flatnonzero(begins).astype(np.int32)

    def _ids_of(self, pieces: list[bytes]) -> list[bytes]:
        """Return the ids of each piece, as stored; the library is asked for those that are new."""
        if self._num_remembered_bytes > MAX_REMEMBERED_BYTES:
            # Not cleared: another thread may be in the midst of it.
            self._remembered, self._num_remembered_bytes = {}, 0
        remembered = self._remembered
        new = [piece for piece in pieces if piece not in remembered]
        if new:
            # As the words of one text: the library has a price for every text that it is given.
            words = [piece.decode() for piece in new]
            encoding = self.tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
            lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(new))
            ids = np.array(encoding.ids, self.id_type)
            bounds = np.cumsum([0, *lengths])
            found = (ids[begin:end].tobytes() for begin, end in pairwise(bounds))
            remembered.update(zip(new, found, strict=True))
            self._num_remembered_bytes += sum(map(len, new))
        return [remembered[piece] for piece in pieces]


def _byte_classes(tokenizer: Any) -> NDArray[np.uint8]:
    """Return for each byte of UTF-8 its class: a piece ends where it changes.

    For a tokenizer that is not known to take words one by one, all are the same.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    classes = np.full(256, IN_WORD, dtype=np.uint8)
    added = tokenizer.get_added_tokens_decoder().values()
    if (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and all(token.special for token in added)
    ):
        classes[[ord(character) for character in " \t\n\r"]] = SPACE
        classes[[ord(character) for character in string.punctuation]] = ALONE
    return classes
