"""Sentences of the hub's bookcorpus, put back together as chapters.

The data set is one sentence a row, in reading order, with no mark where a paragraph, a chapter or
a book ends. Headings are rows too, and a document ends before one; where a chapter is long, or a
book has no headings, it ends after `sentences_per_document`.

Paragraphs are cut after sentences whose checksum is divisible by `MEAN_SENTENCES`: the cuts follow
the text, not the counting, so a book that the data set holds twice gives the same paragraphs
twice, and `curate` can see and drop the copy.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator

from stages.corpus.records import Document, Tally
from stages.corpus.sources.chapters import Headings
from stages.corpus.sources.hub import stream
from stages.params import BookcorpusSource

MEAN_SENTENCES = 16
_THE_END = re.compile(r"\W*the end\W*", re.I)


def documents(
    name: str, settings: BookcorpusSource, hub_path: Callable[[str], str], tally: Tally
) -> Iterator[Document]:
    """Yield chapters, and pieces of `sentences_per_document` of those that are longer."""
    rows = stream(hub_path(settings.dataset), settings.config, ["text"])
    sentences = (text for row in rows if (text := (row["text"] or "").strip()))
    for number, (heading, piece) in enumerate(_pieces(sentences, settings, tally)):
        if number == settings.max_documents:
            return
        tally.num_read += 1
        title = f"{name} {number}" + (f", {heading}" if heading else "")
        yield Document(f"{name}:{number}", name, title, "\n\n".join(paragraphs(piece)))


def _pieces(
    sentences: Iterable[str], settings: BookcorpusSource, tally: Tally
) -> Iterator[tuple[str, list[str]]]:
    """Yield the heading that stands before some sentences, and these; counts the headings."""
    is_heading = Headings()
    heading, piece = "", list[str]()
    for sentence in sentences:
        is_end = _THE_END.fullmatch(sentence) is not None
        if is_end or is_heading(sentence):
            tally.paragraphs.add("heading", sentence)
            if piece:
                yield heading, piece
            heading, piece = "" if is_end else sentence, []
            continue
        piece.append(sentence)
        if len(piece) == settings.sentences_per_document:
            yield heading, piece
            piece = []
    if piece:
        yield heading, piece


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
