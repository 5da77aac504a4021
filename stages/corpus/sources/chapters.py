"""Where chapters begin, and what of a book is not its text."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stages.corpus.records import Drops

MAX_DOCUMENT_CHARACTERS = 8_000_000
"""A longer text is several documents: it is never held in memory as a whole."""
MAX_FRONT_CHARACTERS = 30_000
"""What stands before the first chapter and is longer than this is text, not front matter."""
MIN_FRONT_RUNNING = 3
"""With so many paragraphs of running text before the first heading, the book has begun."""
MAX_MARK_CHARACTERS = 400
MIN_CHAPTER_WORDS = 40
"""A heading with less than this before the next one is a line of the contents."""

_NUMBER = (
    r"(?:\d+|[ivxlc]+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty"
    r"|thirty|forty|fifty|(?:twenty|thirty|forty|fifty)[- ]\w+|first|second|third|fourth|fifth"
    r"|sixth|seventh|eighth|ninth|tenth|\w+teenth|twentieth|last)"
)
_HEADING = re.compile(
    rf"(?:chapter|chap\.|book|part|volume|vol\.|canto|letter|stave|act)\s+(?:the\s+)?{_NUMBER}\b"
    r"(?:[\s.:,;\u2014_-].{0,80})?"
    r"|(?:prologue|epilogue|introduction|introductory|preface|foreword|afterword|conclusion"
    r"|author's (?:note|preface))[\s.:]*",
    re.I,
)
_NUMERAL = re.compile(r"(?:([IVXLC]{1,8})|(\d{1,3}))\.?")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_ORNAMENT = re.compile(
    r"[\W\d_]*|\[illustration.*\]"
    r"|(?:finis|the end|(?:the )?end of (?:\w+ ){0,2}(?:book|vol|volume|part|story)[\s.,]*\w*)\W*",
    re.I,
)
_STARTS = re.compile(r"\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG", re.I)
_ENDS = re.compile(
    r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|^End of (?:the )?Project Gut", re.I
)
_CREDITS = re.compile(
    r"(?:produced|transcribed|e-?text prepared|scanned|proofed|digitized) by\b"
    r"|this e-?(?:book|text) was (?:produced|prepared|transcribed)|\[?transcriber'?s'? note",
    re.I,
)


class Headings:
    """Tells headings from other lines; a bare numeral is one only where it counts on."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, line: str) -> bool:
        """Return whether a line is the heading of a chapter."""
        if len(line) > 100 or not line:
            return False
        if bare := _NUMERAL.fullmatch(line):
            number = int(bare.group(2)) if bare.group(2) else _roman(bare.group(1))
            if number != 1 and not self._last < number <= self._last + 2:
                return False
            self._last = number
            return True
        return _HEADING.fullmatch(line) is not None


def _roman(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < after else value for value, after in pairs)


@dataclass(slots=True)
class Part:
    """A piece of a book: a chapter, what stands before the first one, or a part of either."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    num_characters: int = 0
    is_followed: bool = False
    """Whether another heading comes after it."""

    def add(self, paragraph: str) -> None:
        """Append a paragraph."""
        self.paragraphs.append(paragraph)
        self.num_characters += len(paragraph) + 2


def parts(paragraphs: Iterable[str], is_heading: Headings, drops: Drops) -> Iterator[Part]:
    """Yield the parts of a book that hold its text; what is none is counted in `drops`."""
    part = Part("")
    has_ended = False
    for paragraph in paragraphs:
        is_short = len(paragraph) < MAX_MARK_CHARACTERS
        if is_short and _STARTS.search(paragraph):
            drops.add("licence", " ".join(part.paragraphs[:3]))
            part = Part("")
            has_ended = False
        elif has_ended:
            # The licence at length; but one file may hold several books.
            continue
        elif is_short and _ENDS.search(paragraph):
            drops.add("licence", paragraph)
            yield from _text_of(part, drops)
            part = Part("")
            has_ended = True
        elif is_short and _CREDITS.match(paragraph):
            drops.add("front_matter", paragraph)
        elif is_heading(paragraph):
            part.is_followed = True
            yield from _text_of(part, drops)
            part = Part(paragraph)
        elif _ORNAMENT.fullmatch(paragraph):
            drops.add("ornament", paragraph)
        else:
            if part.num_characters + len(paragraph) > MAX_DOCUMENT_CHARACTERS:
                yield from _text_of(part, drops)
                part = Part(part.heading)
            part.add(paragraph)
    yield from _text_of(part, drops)


def _text_of(part: Part, drops: Drops) -> Iterator[Part]:
    """Yield a part without its title lines, if it is text at all."""
    is_front = not part.heading and part.is_followed
    is_front = is_front and part.num_characters < MAX_FRONT_CHARACTERS
    kept = Part(part.heading)
    num_running = 0
    for paragraph in part.paragraphs:
        is_running = is_front and _is_running_text(paragraph)
        num_running += is_running
        has_begun = num_running >= MIN_FRONT_RUNNING and not _is_title(paragraph)
        if is_front and not is_running and not has_begun:
            drops.add("front_matter", paragraph)
        elif not kept.paragraphs and _is_title(paragraph):
            # Between the heading and the text: the chapter's name, or the book's before any.
            drops.add("heading", paragraph)
            if kept.heading and len(kept.heading) < 60:
                kept.heading = f"{kept.heading} {paragraph}"
        else:
            kept.add(paragraph)
    if part.heading:
        drops.add("heading", part.heading)
    # The beginnings are enough to tell, and a chapter may be long.
    beginning = " ".join(kept.paragraphs[:MIN_CHAPTER_WORDS])[:2000]
    num_words = len(beginning.split())
    if num_words >= MIN_CHAPTER_WORDS or (num_words and not part.is_followed):
        yield kept
    else:
        for paragraph in kept.paragraphs:
            drops.add("front_matter" if not part.heading else "contents", paragraph)


def _is_title(paragraph: str) -> bool:
    if len(paragraph) > 100:
        return False
    return paragraph.isupper() or not paragraph.rstrip("\"'\u2019\u201d)").endswith(
        (".", "!", "?", ",", ";", ":", "-", "\u2014")
    )


def _is_running_text(paragraph: str) -> bool:
    return len(paragraph.split()) >= 25 and paragraph.rstrip("\"')\u201d").endswith((".", "!", "?"))
