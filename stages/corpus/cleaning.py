"""The rules of cleaning: what a text becomes, and why a paragraph or a document is unfit."""

import re
import unicodedata

from stages import params
from stages.corpus.records import Drops

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_NEITHER_LETTER_NOR_SPACE = re.compile(r"[^\w ]+|[\d_]+")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u0600-\u0605\u061c\u180e\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ue000-\uf8ff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]"
)
"""Control and format characters (zero width, direction marks, soft hyphens) and private use."""

_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4](?:[\x80-\xbf]|[\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160"
    "\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153"
    "\u017e\u0178])"
    "|[\x80-\x84\x86-\x9f]"
)
"""A lead byte of UTF-8 and another byte, read as Latin-1 or Windows-1252, or what Windows-1252 has
as quotes and dashes, read as Latin-1: worth a closer look."""

_BOILERPLATE = (
    "all rights reserved",
    "smashwords edition",
    "licensed for your personal enjoyment",
    "project gutenberg",
    "no part of this book",
    "no part of this publication",
    "this is a work of fiction",
    "copyright (c)",
    "copyright \u00a9",
    "isbn:",
    "isbn-",
    "isbn 97",
    "cookie policy",
    "subscribe to our newsletter",
    "enable javascript",
)
"""What publishers and web sites print in every text, in lower case."""
MAX_BOILERPLATE_WORDS = 120
"""A longer paragraph says something of its own."""

_ENGLISH = frozenset(
    # Words that English cannot do without, but for those that other languages have too, such as
    # a, in, is, by, for, at, was, on, he, her, will.
    """the of and to that with it his she not are were which this from they have but you if when
    their them then there these than into can each would has been who what its only any more other
    how does between after before or using must should may used use given returns return""".split()  # noqa: SIM905
)
MIN_ENGLISH_FRACTION = {0: 0.025, 200: 0.08}
"""Of a document of so many words. Articles and novels have 0.2 and more, other languages 0.01 and
less; but a docstring of 40 words may have one."""
MAX_LANGUAGE_WORDS = 2_000
"""A document's first words are enough to tell its language."""


def sound_paragraphs(text: str, drops: Drops) -> list[str]:
    """Return a text's paragraphs, cleaned; damage is mended or dropped, boilerplate dropped."""
    kept = []
    for piece in _PARAGRAPH_BREAK.split(text):
        # Before anything is taken out: half of what was decoded wrongly is invisible characters.
        sound = mended(piece) if _MOJIBAKE.search(piece) else piece
        paragraph = clean(piece if sound is None else sound)
        if sound is None or "\ufffd" in paragraph:
            drops.add("mojibake", paragraph)
        elif is_boilerplate(paragraph):
            drops.add("boilerplate", paragraph)
        elif paragraph:
            kept.append(paragraph)
    return kept


def clean(paragraph: str) -> str:
    """Return a paragraph in NFC, without invisible characters, its white space made single."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", paragraph))
    return " ".join(text.split())


def is_boilerplate(paragraph: str) -> bool:
    """Return whether a paragraph is what publishers print in every book, and nothing more."""
    folded = paragraph.lower()
    # A loop over plain strings: an order of magnitude faster than one regular expression.
    return any(phrase in folded for phrase in _BOILERPLATE) and (
        len(folded.split()) <= MAX_BOILERPLATE_WORDS
    )


def mended(paragraph: str) -> str | None:
    """Return a paragraph with its encoding put right, None if it is wrong beyond that."""
    import ftfy
    from ftfy.badness import is_bad
    from ftfy.fixes import fix_c1_controls

    text = fix_c1_controls(ftfy.fix_encoding(paragraph))
    return None if is_bad(text) else text


def unfit(paragraphs: list[str], rules: params.Curate) -> str | None:
    """Return why a document breaks the rules on its length and letters, None if it does not."""
    if sum(len(paragraph.split()) for paragraph in paragraphs) < rules.min_words:
        return "too_few_words"
    num_characters = sum(map(len, paragraphs))
    num_other = sum(
        len(run) for text in paragraphs for run in _NEITHER_LETTER_NOR_SPACE.findall(text)
    )
    if num_characters - num_other < rules.min_alphabetic_fraction * num_characters:
        return "too_few_letters"
    return None


def is_english(paragraphs: list[str]) -> bool:
    """Return whether enough of a document's words are those that English cannot do without."""
    num_words = num_english = 0
    for paragraph in paragraphs:
        words = paragraph.lower().split()
        num_words += len(words)
        num_english += sum(word in _ENGLISH for word in words)
        if num_words >= MAX_LANGUAGE_WORDS:
            break
    needed = max(share for words, share in MIN_ENGLISH_FRACTION.items() if words <= num_words)
    return num_english >= needed * num_words
