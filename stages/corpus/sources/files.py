"""Files that the settings name, and their text: nothing outside of the workspace by mistake."""

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

    A line past `MAX_LINE_CHARACTERS` comes in pieces. Bytes that are not UTF-8 are taken as
    Windows-1252, which old text files are in, and the tally is told.
    """
    num_bad = 0
    rest = ""
    # Each byte that is not UTF-8 arrives as a lone surrogate, which no sound text holds.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        while line := file.readline(MAX_LINE_CHARACTERS):
            if _NOT_UTF8.search(line):
                num_bad += len(_NOT_UTF8.findall(line))
                line = _NOT_UTF8.sub(_from_windows, line)
            line = rest + line
            cut = len(line)
            if not line.endswith("\n") and len(line) >= MAX_LINE_CHARACTERS:
                cut = line.rfind(" ") + 1 or len(line)
            yield line[:cut].rstrip("\n")
            rest = line[cut:]
    if rest:
        yield rest
    if num_bad:
        tally.warn(f"{path}: {num_bad} bytes are not UTF-8; they were read as Windows-1252")


def _from_windows(match: re.Match[str]) -> str:
    return match.group().encode(errors="surrogateescape").decode("cp1252", errors="replace")
