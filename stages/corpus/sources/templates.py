"""Templates that stand for words of a sentence: what a reader sees in their place.

All others (boxes, notes, citations, pronunciations) leave nothing.
"""

import re
from calendar import month_name
from collections.abc import Callable

Show = Callable[[list[str], dict[str, str]], str]


def _first(values: list[str], named: dict[str, str]) -> str:
    return next(iter(values), named.get("1", ""))


def _last(values: list[str], named: dict[str, str]) -> str:
    return values[-1] if values else named.get("2", named.get("1", ""))


def _quote(values: list[str], named: dict[str, str]) -> str:
    return named.get("text", named.get("quote", _first(values, named)))


def _convert(values: list[str], named: dict[str, str]) -> str:  # noqa: ARG001
    """Numbers, words between them such as `to`, and the first unit; not what it converts to."""
    shown = []
    for value in values:
        if _NUMBER.fullmatch(value):
            shown.append(value)
        elif value in _BETWEEN:
            shown.append(_BETWEEN[value])
        else:
            shown.append(_UNITS.get(value, value))
            break
    return " ".join(shown).replace(" - ", "\u2013")


def _fraction(values: list[str], named: dict[str, str]) -> str:  # noqa: ARG001
    if len(values) == 3:
        return f"{values[0]} {values[1]}/{values[2]}"
    return "/".join(values) if len(values) == 2 else f"1/{values[0]}" if values else "/"


def _value(values: list[str], named: dict[str, str]) -> str:
    unit = named.get("u", named.get("ul", ""))
    return f"{_first(values, named)} {unit}".strip()


def _as_of(values: list[str], named: dict[str, str]) -> str:
    words = "as of" if named.get("lc", "")[:1] == "y" else "As of"
    # Year, month and day, of which a reader sees the day first.
    year, month, day = [*values, "", "", ""][:3]
    if month.isdecimal() and 1 <= int(month) <= 12:
        month = month_name[int(month)]
    return " ".join(filter(None, [words, day, month, year]))


def _link(values: list[str], named: dict[str, str]) -> str:
    return named.get("lt", _first(values, named))


def _ship(values: list[str], named: dict[str, str]) -> str:  # noqa: ARG001
    return " ".join(values[:2])


def _joined(values: list[str], named: dict[str, str]) -> str:  # noqa: ARG001
    return "".join(values)


def _isotope(values: list[str], named: dict[str, str]) -> str:  # noqa: ARG001
    return "-".join(values[:2])


def _word(shown: str) -> Show:
    return lambda values, named: shown  # noqa: ARG005


def _before(prefix: str) -> Show:
    return lambda values, named: prefix + _first(values, named)


_NUMBER = re.compile(r"[-+\u2212]?[\d.,/]+(?:e-?\d+)?")
_BETWEEN = {"to": "to", "and": "and", "or": "or", "by": "by", "x": "by", "-": "-", "\u2013": "-"}
_UNITS = {
    "C": "\u00b0C",
    "F": "\u00b0F",
    "C-change": "\u00b0C",
    "F-change": "\u00b0F",
    "sqmi": "sq mi",
    "km2": "km\u00b2",
    "m2": "m\u00b2",
    "sqkm": "km\u00b2",
    "m3": "m\u00b3",
}

_SHOWN: dict[str, Show] = {
    **dict.fromkeys(
        """
        nowrap nobr nobreak small smaller big larger resize nobold sc smallcaps mvar math eqm
        unicode script script/arabic script/hebrew abbr tooltip vanchor overline underline
        sup sub keypress key linktext nihongo flag flagcountry transl2 lang-2 nihongo2 zh bce
        visible_anchor var tmath formatnum nts sort hs dts start_date date not_a_typo proper_name
        """.split(),  # noqa: SIM905
        _first,
    ),
    **dict.fromkeys(
        "lang transl transliteration rtl-lang translit unicode_fonts color font".split(),  # noqa: SIM905
        _last,
    ),
    **dict.fromkeys("quote blockquote cquote bquote quotation quote_text".split(), _quote),  # noqa: SIM905
    **dict.fromkeys(["convert", "cvt"], _convert),
    **dict.fromkeys(["frac", "sfrac", "fraction"], _fraction),
    **dict.fromkeys(["chem", "chem2", "gaps"], _joined),
    **dict.fromkeys(["ill", "interlanguage_link"], _link),
    **dict.fromkeys(["simplenuclide", "simplenuclide2"], _isotope),
    **dict.fromkeys(["circa", "c.", "ca."], _before("c. ")),
    **dict.fromkeys(["fl.", "floruit"], _before("fl. ")),
    **dict.fromkeys(["uss", "hms", "rms", "ss", "hmas"], _first),
    **dict.fromkeys(["nbsp", "spaces", "thinsp", "sp", "space", "hairsp"], _word(" ")),
    **dict.fromkeys(["snd", "spaced_ndash", "ndash", "\u2013", "spnd"], _word(" \u2013 ")),
    **dict.fromkeys(["mdash", "mdashb", "em_dash", "\u2014"], _word("\u2014")),
    **dict.fromkeys(["'", "apostrophe"], _word("'")),
    "'s": _word("'s"),
    "okina": _word("\u02bb"),
    "lord": _word("Lord"),
    "pi": _word("\u03c0"),
    "val": _value,
    "as_of": _as_of,
    "ship": _ship,
    "e": _before("\u00d710^"),
    "angbr": lambda values, named: f"\u27e8{_first(values, named)}\u27e9",
}
for _sign, _codes in {
    "US$": ["us$", "usd"],
    "A$": ["a$", "aud"],
    "C$": ["c$", "cad"],
    "\u00a3": ["\u00a3", "gbp"],
    "\u20ac": ["\u20ac", "eur"],
    "\u20b9": ["\u20b9", "inr", "indian_rupee"],
    "\u00a5": ["\u00a5", "jpy"],
}.items():
    _SHOWN.update(dict.fromkeys(_codes, _before(_sign)))
for _prefix in ("USS", "HMS", "RMS", "SS", "HMAS"):
    _SHOWN[_prefix.lower()] = _before(f"{_prefix} ")

BLOCKS = frozenset(["quote", "blockquote", "cquote", "bquote", "quotation", "quote_text"])
"""Templates whose text is a paragraph of its own."""


def key(name: str) -> str:
    """Return the name under which a template is known: its case and spaces do not count."""
    name = name.strip().lower().replace(" ", "_")
    if name.startswith("lang-"):
        return "lang"
    return "formatnum" if name.startswith("formatnum:") else name


def is_shown(name: str) -> bool:
    """Return whether a template of this name stands for words."""
    return key(name) in _SHOWN


def text_of(name: str, values: list[str], named: dict[str, str]) -> str:
    """Return what a reader sees where a template stands, given the text of its parameters."""
    if name.lower().startswith("formatnum:"):
        return name.partition(":")[2].strip()
    show = _SHOWN.get(key(name))
    return show(values, named) if show else ""
