"""Pages of a MediaWiki dump as raw XML, cut out of plain or bz2 files, one in memory at a time.

A page is found by its tags, which cannot stand in its text, where `<` is written `&lt;`. So no
parser ever sees the head of the file, where a document type could define entities; and a page
that is damaged spoils no other.
"""

import bz2
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stages.errors import DataError

FEED_BYTES = 4096
PIECE_BYTES = 1 << 20
MAX_PAGE_BYTES = 32 << 20
"""MediaWiki takes 2 MiB of text, and the history is not in these dumps."""
MAX_EXPANSION = 200
"""Text shrinks to a fifth and tables to a thirtieth; what shrinks more than this is no text."""
FREE_BYTES = 64 << 20
"""So many decompressed bytes are taken before the expansion is looked at."""
STREAMS_PER_RANGE = 16
"""Streams of a multistream file that are read in one go: 1,600 pages."""

MAX_RANGE_BYTES = 64 << 20
"""Of a multistream file. An index that leaves more than this between two streams is cut off."""

_INDEX_NAME = (re.compile(r"multistream(\d*)\.xml(.*)\.bz2$"), r"multistream-index\1.txt\2.bz2")


class Damage(Exception):  # noqa: N818 - it is a finding: what came before it was good
    """A file cannot be read on from here; the message says where, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a multistream file: whole bz2 streams, which can be read alone."""

    path: Path
    start: int
    end: int


def check(path: Path) -> None:
    """Look at the beginning of a file.

    Raises:
        DataError: it is no MediaWiki dump.
    """
    try:
        head = next(chunks(path), b"")
    except Damage as damage:
        raise DataError(f"{path} is damaged from its beginning: {damage}; fetch it again") from None
    if b"<mediawiki" not in head[:65536]:
        raise DataError(f"{path} is no MediaWiki dump: it does not begin with <mediawiki>")


def ranges(path: Path) -> list[Range]:
    """Return the parts of a multistream file that its index beside it names; none without one.

    Raises:
        Damage: the index does not belong to the file, or not to all of it.
    """
    pattern, replacement = _INDEX_NAME
    index = path.with_name(pattern.sub(replacement, path.name))
    if index == path or not index.is_file():
        return []
    starts = [0]
    rest = b""
    for chunk in chunks(index):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            # offset:page id:title, a hundred lines of one offset after the other
            number = line.partition(b":")[0]
            if not number.isdigit():
                raise Damage(f"{index} holds a line that names no offset: {line[:80]!r}")
            if int(number) > starts[-1]:
                starts.append(int(number))
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            if file.read(4)[:3] != b"BZh":
                raise Damage(f"{index} names byte {start}, where no bz2 stream begins")
        size = file.seek(0, 2)
    # The first stream is the head of the file, and the last one its end.
    borders = [*starts[::STREAMS_PER_RANGE], size]
    found = [Range(path, *pair) for pair in pairwise(borders)]
    for part in found:
        if part.end - part.start > MAX_RANGE_BYTES:
            raise Damage(f"{index} names no stream from byte {part.start} to {part.end}")
    return found


def chunks(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a plain or bz2 file, decompressed, 64 MiB at a time at most.

    Raises:
        Damage: the rest cannot be read; all that is good was given before.
    """
    with path.open("rb") as file:
        is_bz2 = file.read(3) == b"BZh"
        file.seek(start)
        if not is_bz2:
            while piece := file.read(PIECE_BYTES):
                yield piece
            return
        decompressor = bz2.BZ2Decompressor()
        position, produced = start, 0
        waiting = b""
        while True:
            limit = FEED_BYTES if end is None else min(FEED_BYTES, end - position)
            fed = file.read(limit)
            position += len(fed)
            waiting += fed
            if not waiting:
                break
            # What a feed gives is held back until its checksum is known to be right: when a stream
            # ends, or when it wants more, and so has begun the next block.
            verified: list[bytes] = []
            while waiting or not decompressor.needs_input:
                if decompressor.eof:
                    decompressor = bz2.BZ2Decompressor()
                try:
                    piece = decompressor.decompress(waiting, PIECE_BYTES)
                except OSError:
                    raise Damage(_at(position, produced, "the bz2 data is damaged")) from None
                verified.append(piece)
                produced += len(piece)
                if produced > max(FREE_BYTES, MAX_EXPANSION * (position - start)):
                    reason = f"it expands more than {MAX_EXPANSION} times, as no text does"
                    raise Damage(_at(position, produced, reason))
                waiting = decompressor.unused_data if decompressor.eof else b""
                if decompressor.eof:
                    yield b"".join(verified)
                    verified = []
                    if not waiting:
                        break
            if any(verified):
                yield b"".join(verified)
        if not decompressor.eof:
            raise Damage(_at(position, produced, "the file ends within a bz2 stream"))


def _at(position: int, produced: int, what: str) -> str:
    return f"at byte {position} of the file (byte {produced} of its text) {what}"


def pages(text: Iterable[bytes], is_end: bool = True) -> Iterator[bytes]:
    """Yield the raw XML of page after page, `<page>` to `</page>`.

    A page that never ends, because another begins, is given as far as it goes.

    Raises:
        Damage: the rest cannot be read, a page is cut off at the end, or nothing closes the dump
            where its end is meant to be.
    """
    buffer = b""
    consumed = 0
    for chunk in text:
        searched = max(0, len(buffer) - len(b"</page>"))
        buffer += chunk
        done = 0
        while (close := buffer.find(b"</page>", max(done, searched))) >= 0:
            end = close + len(b"</page>")
            begin = buffer.find(b"<page>", done, end)
            if begin >= 0:
                last = buffer.rfind(b"<page>", begin, end)
                if last > begin:
                    yield buffer[begin:last]
                yield buffer[last:end]
            done = end
        consumed += done
        buffer = buffer[done:]
        if len(buffer) > MAX_PAGE_BYTES:
            raise Damage(
                f"no page ends within {MAX_PAGE_BYTES} bytes of byte {consumed} of the text"
            )
    if b"<page>" in buffer:
        raise Damage(f"the page that begins at byte {consumed} of the text is cut off")
    if is_end and b"</mediawiki>" not in buffer:
        raise Damage(f"it is cut off after byte {consumed} of its text, between two pages")
