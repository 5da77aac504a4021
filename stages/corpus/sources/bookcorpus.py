"""Sentences of the hub's bookcorpus, put back together in documents of one length.

The data set is one sentence a row, in reading order, with no mark where a paragraph, a chapter or
a book ends. Paragraphs are cut after sentences whose checksum is divisible by
`MEAN_SENTENCES`: the cuts follow the text, not the counting, so a book that the data set holds
twice gives the same paragraphs twice, and `curate` can see and drop the copy.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from stages.corpus.records import Document, Tally
from stages.corpus.sources.hub import stream
from stages.params import BookcorpusSource

MEAN_SENTENCES = 16


def documents(
    name: str, settings: BookcorpusSource, hub_path: Callable[[str], str], tally: Tally
) -> Iterator[Document]:
    """Yield documents of `sentences_per_document` sentences; the last may be shorter."""
    rows = stream(hub_path(settings.dataset), settings.config)
    sentences = (text for row in rows if (text := row["text"].strip()))
    for number in range(settings.max_documents or 2**62):
        piece = list(islice(sentences, settings.sentences_per_document))
        if not piece:
            return
        tally.num_read += 1
        yield Document(f"{name}:{number}", name, f"{name} {number}", "\n\n".join(paragraphs(piece)))


def paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences joined to paragraphs whose borders depend on the sentences alone."""
    open_paragraph: list[str] = []
    for sentence in sentences:
        open_paragraph.append(sentence)
        if zlib.crc32(sentence.encode()) % MEAN_SENTENCES == 0:
            yield " ".join(open_paragraph)
            open_paragraph = []
    if open_paragraph:
        yield " ".join(open_paragraph)
