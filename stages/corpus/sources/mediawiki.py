"""Articles of MediaWiki dumps, `pages-articles` as plain XML or bz2, one document each.

This process cuts the files into pages, and the pool's processes turn wikitext into prose. Where a
multistream file has its index beside it, they decompress it too. Documents come in the order of
the pages, whichever way they were read.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from xml.etree import ElementTree

from stages.command import num_cores
from stages.corpus.ahead import in_order
from stages.corpus.records import Document, Tally
from stages.corpus.sources import dump
from stages.corpus.sources.files import matching
from stages.corpus.sources.wikitext import is_disambiguation, is_redirect, prose
from stages.corpus.workers import processes
from stages.params import MediawikiSource

BATCH_BYTES = 1 << 20
"""Raw XML that goes to a process at once."""
_NOT_XML = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF])


@dataclass(slots=True)
class Batch:
    """Pages that stand together in a dump, or what became of them."""

    pages: list[bytes] = field(default_factory=list)
    read: list[tuple[Document | None, Tally]] = field(default_factory=list)
    damage: str | None = None
    """Why reading stops after these pages, if it does."""


def documents(
    name: str,
    settings: MediawikiSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield articles: pages of the main namespace that redirect to no other and tell none apart."""
    found = _articles(name, settings, tally)
    yield from islice(found, settings.max_documents)


def _articles(name: str, settings: MediawikiSource, tally: Tally) -> Iterator[Document]:
    paths = matching(name, settings, tally)
    for path in paths:
        # All of them before any is read: a mistake shows at once, not after hours.
        dump.check(path)
    num_workers = num_cores()
    with processes(num_workers) as executor:
        for path in paths:
            try:
                ranges = dump.ranges(path)
            except dump.Damage as damage:
                tally.warn(f"{damage}; {path} was read without its index")
                ranges = []
            work: Iterable[tuple[Callable[..., Batch], tuple[Any, ...]]]
            if ranges:
                work = ((_read_range, (name, settings, part)) for part in ranges)
            else:
                batches = _batches(dump.chunks(path))
                work = ((_read_batch, (name, settings, batch)) for batch in batches)
            last = "the beginning"
            for batch in in_order(executor, num_workers, work):
                for document, counted in batch.read:
                    for message in counted.warnings:
                        tally.warn(f"{path}: {message}")
                    tally.include(replace(counted, warnings=[]))
                    if document is not None:
                        last = f"page '{document.title}'"
                        yield document
                if batch.damage:
                    tally.warn(
                        f"{path}: {batch.damage}; what comes after {last} was not read up to "
                        + ("the next sound stream" if ranges else "the end of the file")
                    )


def _batches(text: Iterable[bytes], is_end: bool = True) -> Iterator[Batch]:
    """Yield pages in batches of about one size; the last one says what ended them.

    Args:
        text: of a dump, or of a part of one.
        is_end: whether the dump ends with it.
    """
    batch, num_bytes = Batch(), 0
    try:
        for page in dump.pages(text, is_end):
            batch.pages.append(page)
            num_bytes += len(page)
            if num_bytes >= BATCH_BYTES:
                yield batch
                batch, num_bytes = Batch(), 0
    except dump.Damage as damage:
        batch.damage = str(damage)
    yield batch


def _read_range(name: str, settings: MediawikiSource, part: dump.Range) -> Batch:
    """Return what a part of a multistream file holds."""
    read = Batch()
    is_end = part.end == part.path.stat().st_size
    for batch in _batches(dump.chunks(part.path, part.start, part.end), is_end):
        read.read += _read_batch(name, settings, batch).read
        read.damage = batch.damage
    return read


def _read_batch(name: str, settings: MediawikiSource, batch: Batch) -> Batch:
    """Return a batch with its pages turned into documents."""
    read = [_read_page(name, settings, raw) for raw in batch.pages]
    return Batch(read=read, damage=batch.damage)


def _read_page(name: str, settings: MediawikiSource, raw: bytes) -> tuple[Document | None, Tally]:
    """Return the article that a page holds, and what was counted; None if it is dropped."""
    tally = Tally(num_read=1)
    text = raw.decode(errors="replace")
    try:
        page = _parsed(text)
    except ElementTree.ParseError as error:
        beginning = " ".join(text[:120].split())
        tally.warnings.append(f"a page is damaged ({error}) and was dropped: {beginning}")
        tally.documents.add("damaged_page", text)
        return None, tally
    title = page.findtext("title", "")
    wikitext = page.findtext("revision/text") or ""
    if "\ufffd" in text and not _is_utf8(raw):
        tally.warnings.append(f"page '{title}' holds bytes that are not UTF-8; they became U+FFFD")
    reason = None
    if page.findtext("ns", "0") != "0":
        reason = "other_namespace"
    elif page.find("redirect") is not None or is_redirect(wikitext):
        reason = "redirect"
    elif is_disambiguation(title, wikitext):
        reason = "disambiguation"
    else:
        paragraphs = prose(wikitext, tally.paragraphs, settings.headings, settings.lists)
        if paragraphs:
            number = page.findtext("id", title)
            return Document(f"{name}:{number}", name, title, "\n\n".join(paragraphs)), tally
        reason = "no_running_text"
    tally.documents.add(reason, f"{title}: {wikitext[:400]}")
    return None, tally


def _parsed(page: str) -> ElementTree.Element:
    """Return a page's XML tree, without characters that XML may not hold.

    Nothing before `<page>` gets here, so no document type: entities cannot be defined.
    """
    try:
        return ElementTree.fromstring(page)  # noqa: S314
    except ElementTree.ParseError:
        return ElementTree.fromstring(page.translate(_NOT_XML))  # noqa: S314


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
