"""Plain-text books, one a file, as documents of a chapter or of the whole book each.

The title is the file's name and the chapter's heading.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from stages.corpus.records import Document, Tally
from stages.corpus.sources.chapters import MAX_DOCUMENT_CHARACTERS, Headings, Part, parts
from stages.corpus.sources.files import documents_of_files, lines
from stages.corpus.sources.wraps import paragraphs
from stages.params import BooksSource


def documents(
    name: str,
    settings: BooksSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield the books in the order of their files' names."""
    yield from documents_of_files(name, settings, tally, _documents_of)


def _documents_of(name: str, path: Path, settings: BooksSource, tally: Tally) -> Iterator[Document]:
    # Two of them, as the first sees every line, and the second the paragraphs.
    found = parts(paragraphs(lines(path, tally), Headings()), Headings(), tally.paragraphs)
    if settings.documents == "books":
        found = _together(found)
    number = 0
    for number, part in enumerate(found, start=1):
        tally.num_read += 1
        title = f"{path.stem}, {part.heading}" if part.heading else path.stem
        # Two folders may hold files of one name: the path as it was found is unique.
        identity = f"{name}:{path.as_posix()}#{number}"
        yield Document(identity, name, title, "\n\n".join(part.paragraphs))
    if not number:
        tally.num_read += 1
        tally.documents.add("no_running_text", path.as_posix())
        tally.warn(f"{path} holds no running text")


def _together(chapters: Iterator[Part]) -> Iterator[Part]:
    """Yield whole books, those that are too long for one document in several."""
    book = Part("")
    for chapter in chapters:
        if (
            book.paragraphs
            and book.num_characters + chapter.num_characters > MAX_DOCUMENT_CHARACTERS
        ):
            yield book
            book = Part("")
        for paragraph in chapter.paragraphs:
            book.add(paragraph)
    if book.paragraphs:
        yield book
