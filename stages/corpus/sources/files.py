"""Files that the settings name, and their text: nothing outside of the workspace by mistake."""

import codecs
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from stages.corpus.records import Document, Tally
from stages.errors import DataError
from stages.params import FilesSource

MAX_LINE_CHARACTERS = 1 << 20
"""A longer line is given in pieces, cut at a space: memory does not grow with it."""
Given = TypeVar("Given", bound=FilesSource)
HEAD_BYTES = 65_536
"""Of a text file, looked at to see whether it is one."""
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def matching(name: str, settings: FilesSource, tally: Tally) -> list[Path]:
    """Return the files that a source's patterns match, sorted, and report the empty ones.

    Raises:
        DataError: a pattern matches nothing, or leads out of the workspace without permission.
    """
    workspace = Path.cwd().resolve()
    found = set()
    for pattern in settings.files:
        matches = [path for path in expand(pattern) if path.is_file()]
        if not matches:
            raise DataError(
                f"params.yaml: corpus.sources.{name}.files: no file matches '{pattern}' "
                f"(seen from {workspace}); put the files there, or mend the pattern"
            )
        for path in matches:
            if not settings.outside_workspace and not path.resolve().is_relative_to(workspace):
                raise DataError(
                    f"params.yaml: corpus.sources.{name}.files: '{pattern}' leads to "
                    f"{path.resolve()}, outside of the workspace {workspace}; copy it here, or "
                    f"set corpus.sources.{name}.outside_workspace to true"
                )
        found.update(matches)
    kept = []
    for path in sorted(found):
        if path.stat().st_size:
            kept.append(path)
        else:
            tally.warn(f"{path} is empty; it was skipped")
    if not kept:
        raise DataError(
            f"params.yaml: corpus.sources.{name}.files: every file that matches is empty "
            f"({len(found)} of them, such as {min(found)})"
        )
    return kept


def documents_of_files(
    name: str,
    settings: Given,
    tally: Tally,
    read: Callable[[str, Path, Given, Tally], Iterator[Document]],
) -> Iterator[Document]:
    """Yield what `read` finds in each file in turn, until there are `max_documents`."""
    found = (
        document
        for path in matching(name, settings, tally)
        for document in read(name, path, settings, tally)
    )
    yield from islice(found, settings.max_documents)


def expand(pattern: str, workspace: Path = Path()) -> Iterator[Path]:
    """Yield what a pattern matches; relative ones are seen from the workspace."""
    path = Path(pattern)
    if path.is_absolute():
        yield from Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    else:
        yield from workspace.glob(pattern)


def lines(path: Path, tally: Tally) -> Iterator[str]:
    """Yield a text file's lines without their ends, whichever ends they have, and without a BOM.

    A line past `MAX_LINE_CHARACTERS` comes in pieces. A BOM of UTF-16 is heeded. Bytes that are not
    UTF-8 are taken as Windows-1252, which old text files are in, and the tally is told; what is no
    text at all is left out, and the tally is told as well.
    """
    with path.open("rb") as binary:
        head = binary.read(HEAD_BYTES)
    encoding, errors = "utf-8-sig", "surrogateescape"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, errors = "utf-16", "replace"
    elif not _is_text(head):
        tally.warn(
            f"{path} is no text: it holds NUL bytes, as compressed files do, and UTF-16 without a "
            "BOM; it was skipped"
        )
        return
    num_bad = 0
    rest = ""
    # Each byte that is not UTF-8 arrives as a lone surrogate, which no sound text holds.
    with path.open(encoding=encoding, errors=errors) as file:
        while line := file.readline(MAX_LINE_CHARACTERS):
            line, num_new = _without_surrogates(line)
            num_bad += num_new
            line = rest + line
            cut = len(line)
            if not line.endswith("\n") and len(line) >= MAX_LINE_CHARACTERS:
                cut = line.rfind(" ") + 1 or len(line)
            yield line[:cut].rstrip("\n")
            rest = line[cut:]
    if rest:
        yield rest
    tell_of_bytes(path, num_bad, tally)


def _is_text(head: bytes) -> bool:
    """Return whether a file is text by its beginning: a NUL may have strayed into UTF-8 alone."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return b"\0" not in head
    return head.count(b"\0") <= len(head) / 10


def decoded(data: bytes) -> tuple[str, int]:
    """Return bytes as text, and how many were not UTF-8 and were taken as Windows-1252."""
    return _without_surrogates(data.decode("utf-8-sig", "surrogateescape"))


def tell_of_bytes(path: Path, num_bad: int, tally: Tally) -> None:
    """Warn of a file's bytes that were not UTF-8, if there were any."""
    if num_bad:
        tally.warn(f"{path}: {num_bad} bytes are not UTF-8; they were read as Windows-1252")


def _without_surrogates(text: str) -> tuple[str, int]:
    return _NOT_UTF8.subn(_from_windows, text)


def _from_windows(match: re.Match[str]) -> str:
    return match.group().encode(errors="surrogateescape").decode("cp1252", errors="replace")
