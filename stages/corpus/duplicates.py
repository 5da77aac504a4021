"""What a document has that an earlier one had: the whole of it, or paragraphs, by 64-bit hashes.

Only hashes that occur more than once are kept, so memory grows with what repeats and not with the
corpus. Near duplicates are found before (minhash.py) and only looked up here.
"""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stages import params
from stages.corpus.cleaning import unfit
from stages.corpus.records import Document, Tally

MIN_REPEATED_WORDS = 5
"""People in novels say "Yes, sir." without copying each other."""
_WHOLE = "\f"
"""Stands before what is hashed of a document: one of one paragraph is not that paragraph."""

Hashes = NDArray[np.uint64]


def document_hash(text: str) -> int:
    """Return the hash of a whole document."""
    return _hash(_WHOLE + text)


def paragraph_hash(text: str) -> int | None:
    """Return the hash of a paragraph, None where it is too short to have been copied."""
    return _hash(text) if text.count(" ") >= MIN_REPEATED_WORDS - 1 else None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def repeated(hashes: list[Hashes]) -> set[int]:
    """Return the hashes that occur more than once."""
    ordered = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    return set(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist())


class Deduplication:
    """What the documents that were kept have, so far as any other has it too."""

    def __init__(self, rules: params.Curate, repeated: set[int], original: NDArray[np.int64]):
        self._rules = rules
        self._repeated = repeated
        self._original = original
        self._titles = dict.fromkeys(original[original >= 0].tolist(), "")
        self._seen: set[int] = set()
        self._number = -1

    def keep(self, document: Document, tally: Tally) -> Document | None:
        """Return the next document as it stays in the corpus, or count why it does not."""
        self._number += 1
        if self._number in self._titles:
            self._titles[self._number] = document.title
        whole = document_hash(document.text)
        if whole in self._seen:
            tally.documents.add("duplicate_document", document.text)
            return None
        if self._number < len(self._original) and self._original[self._number] >= 0:
            like = self._titles[int(self._original[self._number])]
            tally.documents.add("near_duplicate", f"{document.title} is {like}: {document.text}")
            return None
        fresh, copied = [], []
        own: set[int] = set()
        for paragraph in document.text.split("\n\n"):
            number = paragraph_hash(paragraph)
            if number is not None and (number in self._seen or number in own):
                copied.append(paragraph)
                continue
            fresh.append(paragraph)
            if number is not None:
                own.add(number)
        if copied and unfit(fresh, self._rules):
            tally.documents.add("duplicate_paragraphs", document.text)
            return None
        for paragraph in copied:
            tally.paragraphs.add("duplicate_paragraph", paragraph)
        self._seen |= self._repeated & own
        if whole in self._repeated:
            self._seen.add(whole)
        return replace(document, text="\n\n".join(fresh))
