"""The English prose of a docstring: its sentences, without tables, code, mathematics and markup.

`layout.blocks` leaves out what is no running text by its form; `judge` looks at each paragraph
that is left, and says why it does not read as prose, if it does not.
"""

import inspect
import re

from stages.corpus.sources.layout import blocks

# --------------------------------------------------------------------------------- markup

_MARKUP: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"`\\ ?(?=\w)"), "`"),  # `name`\\s
    (re.compile(r"<!--.*?-->|</?[a-zA-Z][a-zA-Z0-9]*(?: [^<>]*)?/?>"), " "),  # HTML
    (re.compile(r"\[`~(?:[^`\]]*\.)?([^`\].]+)`\](?:\([^)]*\))?"), r"`\1`"),  # [`~package.Class`]
    (re.compile(r"!?\[`([^`\]]+)`\](?:\([^)]*\))?"), r"`\1`"),  # [`Class`]
    (re.compile(r"!?\[([^\]]+)\]\([^)\s]*\)"), r"\1"),  # [text](address)
    (re.compile(r":math:`([A-Za-z0-9 ]{1,12})`"), r"\1"),  # :math:`n`
    (re.compile(r":[\w:+-]+:`([^`<>]+?)\s*<[^`<>]*>`"), r"\1"),  # :role:`text <target>`
    (re.compile(r":(?!math)[\w:+-]+:`~(?:[^`]*\.)?([^`.]+)`"), r"\1"),  # :role:`~package.name`
    (re.compile(r":(?!math)[\w:+-]+:`!?\.?([^`]+)`"), r"\1"),  # :role:`name`
    (re.compile(r"`([^`<>]+?)\s*<[^`<>]*>`__?"), r"\1"),  # `text <address>`_
    (re.compile(r"\s*\[(?:#?\w*|\*|[\w.-]+)\]_"), ""),  # [1]_
    (re.compile(r"\|(\w+)\|_?"), r"\1"),  # |substitution|
    (re.compile(r"(?<!:)``([^`]+)``|(?<!:)`~?([^`]+)`_{0,2}"), r"\1\2"),  # ``code``, `name`
    (re.compile(r"\\ (?=\w)"), ""),  # a space that is not printed
    (re.compile(r"(?<![\w*])\*{1,3}(?=[^\s*])([^*]+?)(?<=[^\s*])\*{1,3}(?![\w*])"), r"\1"),
    (re.compile(r"\\([_*`|<>#])"), r"\1"),  # escapes
    (re.compile(r"\s*[(<\[](?:see |from |cf\. )?https?://[^\s)>\]]+[)>\]]"), ""),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" (?=[,.;:!?)](?:\s|$))"), ""),
]


_HAS_MARKUP = re.compile(r"[`\[*|<\\]|://|  ")


def plain(text: str) -> str:
    """Return a paragraph without its markup: roles, links, literals, emphasis, citations."""
    if not _HAS_MARKUP.search(text):
        return text.strip()
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()


# --------------------------------------------------------------------------------- prose or not

_CODE_CHARACTERS = re.compile(r"[_(){}\[\]=<>/\\|@#$%^&*~+:]|\d[a-z]|[a-z][A-Z]|\w\.\w")
_CODE = re.compile(r">>>|==|->|=>|::|\w\(\w+=|^\w+(?:\.\w+)*\(|\w \(.*\) ?:|^\$|\{\w*\}|;$")
_MATH = re.compile(r":math:|\\[a-zA-Z]+|\$|\w\^|\w_\{|[=<>]\s*\w+\s*[-+*/^]|\S+ = \S+")
_LEGAL = re.compile(r"copyright|all rights reserved|licen[cs]ed? under|SPDX|warrant|endorse", re.I)
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"'][.!?])\s+(?=[A-Z\"'(])")
_LETTER = re.compile(r"[^\W\d_]| ")
_FUNCTION_WORDS = frozenset(
    """a an and are as at be been but by can for from has have if in into is it its may more must no
    not of on one only or other over so some such than that the their them then there these they
    this to up used was we when where which will with you your""".split()  # noqa: SIM905
)
MIN_WORDS = {"summary": 4, "text": 7, "item": 8, "definition": 12}
MAX_CODE_FRACTION = 0.2
MIN_ALPHABETIC_FRACTION = 0.85
MIN_FUNCTION_WORD_FRACTION = 0.1


def judge(text: str, form: str) -> tuple[str, str | None]:
    """Return a paragraph as it may be kept, and why it may not (None: it is prose)."""
    if text.endswith(":"):
        # What it announces is code or a list, which is gone: the announcement goes too.
        sentences = _SENTENCE_END.split(text)
        text = " ".join(sentences[:-1])
        if not text:
            return sentences[-1], "announcement"
    words = [word for raw in text.split() if (word := raw.strip("\"'.,;:!?()[]"))]
    if len(words) < MIN_WORDS[form]:
        return text, "too_short"
    if _LEGAL.search(text):
        return text, "legal"
    if "http://" in text or "https://" in text or "www." in text:
        return text, "address"
    if _MATH.search(text):
        return text, "mathematics"
    num_code = sum(bool(_CODE_CHARACTERS.search(word)) for word in words)
    if _CODE.search(text) or num_code > MAX_CODE_FRACTION * len(words):
        return text, "code"
    if len(_LETTER.findall(text)) < MIN_ALPHABETIC_FRACTION * len(text):
        return text, "symbols"
    if _is_fragment(text, words, form):
        return text, "fragment"
    num_function_words = sum(word.lower() in _FUNCTION_WORDS for word in words)
    if form != "summary" and num_function_words < MIN_FUNCTION_WORD_FRACTION * len(words):
        return text, "not_english"
    return text, None


def _is_fragment(text: str, words: list[str], form: str) -> bool:
    """Return whether a paragraph begins or ends in the middle of a sentence."""
    begins = text.lstrip("\"'(")[:1].isupper()
    ends = text.rstrip("\"')")[-1:] in (".", "!", "?")
    if form == "summary":
        # A title needs no full stop.
        return not begins
    if form == "text" and ends and not begins:
        # Many a sentence begins with the name of an argument.
        return words[0].lower() in _FUNCTION_WORDS
    return not (begins and ends)


def paragraphs(docstring: str) -> list[tuple[str, str | None]]:
    """Return each paragraph of a docstring with the reason why it is dropped, None if it stays.

    Running text comes first, its summary before all else; then what explains single parameters,
    which stays only where there is running text for it to follow.
    """
    text: list[tuple[str, str | None]] = []
    definitions: list[tuple[str, str | None]] = []
    has_summary = False
    for form, raw in blocks(inspect.cleandoc(docstring).splitlines()):
        if form not in MIN_WORDS:
            text.append((raw, form))
        elif form == "definition":
            definitions.append(judge(plain(raw), form))
        else:
            paragraph, reason = judge(plain(raw), form if has_summary else "summary")
            has_summary = has_summary or reason is None
            text.append((paragraph, reason))
    if not has_summary:
        definitions = [
            (paragraph, reason or "definition_alone") for paragraph, reason in definitions
        ]
    return text + definitions
