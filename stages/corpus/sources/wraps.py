"""Paragraphs of plain text, whichever way its lines are laid out.

There are three ways: a paragraph a line; lines wrapped at some 70 columns with a blank line or an
indent between paragraphs; wrapped lines with nothing between, where only a short last line tells.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

SAMPLE_CHARACTERS = 200_000
"""How much of a text is looked at to find its layout."""
MAX_WRAP = 100
"""Lines are wrapped if most are no longer than this."""
MAX_PARAGRAPH_CHARACTERS = 1 << 20
_ENDS = re.compile(r"[.!?:;\u2014-][\"')\]\u2019\u201d]*$")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the lines of a text make its paragraphs."""

    width: int
    """Columns of a full line; 0 if a line is a paragraph."""
    by_blanks: bool
    by_indents: bool


def layout_of(lines: list[str]) -> Layout:
    """Return the layout of a text, given its first lines."""
    filled = [line for line in lines if line.strip()]
    if not filled:
        return Layout(0, by_blanks=False, by_indents=False)
    widths = sorted(len(line.rstrip()) for line in filled)
    width = widths[int(0.95 * (len(widths) - 1))]
    if width > MAX_WRAP:
        return Layout(0, by_blanks=False, by_indents=False)
    num_indented = sum(line[0] in " \t" for line in filled)
    return Layout(
        width,
        by_blanks=len(lines) - len(filled) > 0.03 * len(lines),
        # Where many lines are, it is the margin.
        by_indents=0.005 < num_indented / len(filled) < 0.4,
    )


def paragraphs(
    lines: Iterable[str], stands_alone: Callable[[str], bool] | None = None
) -> Iterator[str]:
    """Yield paragraphs, each on one line; those past 1 Mi characters in pieces.

    Args:
        lines: of the text, without their ends.
        stands_alone: tells lines, such as headings, that no wrapped paragraph goes on with.
    """
    rest = iter(lines)
    sample: list[str] = []
    num_characters = 0
    while num_characters < SAMPLE_CHARACTERS and (line := next(rest, None)) is not None:
        sample.append(line)
        num_characters += len(line) + 1
    layout = layout_of(sample)
    wrapped: list[str] = []
    num_wrapped = 0
    for line in chain(sample, rest):
        alone = (
            stands_alone is not None
            and (not wrapped or not layout.by_blanks)
            and stands_alone(line.strip())
        )
        if wrapped and (
            alone
            or _begins_paragraph(line, wrapped[-1], layout)
            or num_wrapped > MAX_PARAGRAPH_CHARACTERS
        ):
            yield _joined(wrapped)
            wrapped, num_wrapped = [], 0
        if alone:
            yield line.strip()
        elif line.strip():
            wrapped.append(line.rstrip())
            num_wrapped += len(line)
    if wrapped:
        yield _joined(wrapped)


def _begins_paragraph(line: str, previous: str, layout: Layout) -> bool:
    """Return whether a line ends the paragraph before it, being blank or the first of the next."""
    if not layout.width or not line.strip():
        return True
    if layout.by_indents and line[0] in " \t" and previous[0] not in " \t":
        return True
    if layout.by_blanks or layout.by_indents or not _ENDS.search(previous):
        return False
    # Nothing else separates them: had the paragraph gone on, its next word had room on this line.
    return len(previous) + 1 + len(line.split(maxsplit=1)[0]) < layout.width - 3


def _joined(wrapped: list[str]) -> str:
    text = wrapped[0].strip()
    for line in wrapped[1:]:
        is_hyphenated = text.endswith("-") and not text.endswith(("--", " -"))
        text += line.strip() if is_hyphenated else " " + line.strip()
    return text
