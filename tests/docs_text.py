"""Markdown as the tests of the documentation need it: code, links, headings."""

import re
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|\n\n)((?: {4}[^\n]*\n?(?:\n(?= {4}))?)+)")


@cache
def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks in a language."""
    text = path.read_text(encoding="utf-8")
    return [textwrap.dedent(found[3]) for found in FENCED.finditer(text) if found[2] == language]


@cache
def code(path: Path) -> list[str]:
    """Return every command line of a page's blocks, and every piece of code in its sentences."""
    text = path.read_text(encoding="utf-8")
    found: list[str] = []
    for pattern, group in ((FENCED, 3), (INDENTED, 1)):
        for block in pattern.finditer(text):
            lines = re.sub(r"\\\n\s*", "", textwrap.dedent(block[group]))
            found += [line for line in lines.splitlines() if line.strip()]
        text = pattern.sub("\n\n", text)
    return [*found, *(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))]


@cache
def links(path: Path) -> list[str]:
    """Return the targets of a page's links and pictures, but for those of the network."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    return set(_anchors(FENCED.sub("", path.read_text(encoding="utf-8"))))


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


REPLACED = ("source", "sources")
"""Sections that an example gives whole: the pages say to replace what stands there."""


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return settings with others laid over them, section by section."""
    result = deepcopy(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        both = both and key not in REPLACED
        result[key] = merged(result[key], value) if both else value
    return result
