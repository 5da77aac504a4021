"""Plain-text files: a document is a file, or a paragraph of one."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from stages.corpus.records import Document, Tally
from stages.corpus.sources.chapters import MAX_DOCUMENT_CHARACTERS, Part
from stages.corpus.sources.files import lines, matching
from stages.corpus.sources.wraps import paragraphs
from stages.params import TextSource


def documents(
    name: str,
    settings: TextSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield documents file by file, in the order of the files' names."""
    limit = MAX_DOCUMENT_CHARACTERS if settings.documents == "files" else 0
    found = (
        (path, number, part)
        for path in matching(name, settings, tally)
        for number, part in enumerate(_parts(path, limit, tally), start=1)
    )
    for path, number, part in islice(found, settings.max_documents):
        tally.num_read += 1
        identity = f"{name}:{path.as_posix()}#{number}"
        yield Document(identity, name, path.stem, "\n\n".join(part.paragraphs))


def _parts(path: Path, limit: int, tally: Tally) -> Iterator[Part]:
    """Yield runs of paragraphs that stay within a limit, or are one paragraph that does not."""
    part = Part("")
    for paragraph in paragraphs(lines(path, tally)):
        if part.paragraphs and part.num_characters + len(paragraph) > limit:
            yield part
            part = Part("")
        part.add(paragraph)
    if part.paragraphs:
        yield part
    else:
        tally.warn(f"{path} holds no text")
