"""How numbers are written on the page; what is not a finite number is written as a dash.

The same number is written the same way everywhere, so a reader can search the page for it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

DASH = "\u2013"
METRICS = {"mcc": "Matthews", "f1": "F1", "pearson": "Pearson", "spearman": "Spearman"}
NARROW = "\u202f"  # the narrow space that does not break, between a number and its unit


def is_number(value: object) -> bool:
    """Say whether a value is a finite number (and not a truth value)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value: Any, decimals: int = 1) -> str:
    """Return a number with so many decimals, thousands apart."""
    return f"{value:,.{decimals}f}" if is_number(value) else DASH


def percent(value: Any, decimals: int = 1) -> str:
    """Return a percentage that is already in percent."""
    return f"{value:.{decimals}f}{NARROW}%" if is_number(value) else DASH


def fraction(value: Any, decimals: int = 0) -> str:
    """Return a fraction as a percentage."""
    return percent(100 * value, decimals) if is_number(value) else DASH


def count(value: Any) -> str:
    """Return a count: exact below a million, then in millions or thousand millions."""
    if not is_number(value):
        return DASH
    if value >= 1e9:
        return f"{value / 1e9:.2f}{NARROW}G"
    if value >= 1e6:
        return f"{value / 1e6:.1f}{NARROW}M"
    return f"{value:,.0f}"


def times(value: Any) -> str:
    """Return a ratio, such as a speed-up."""
    return f"{value:.2f}\u00d7" if is_number(value) else DASH


def megabytes(value: Any) -> str:
    """Return a size in megabytes, or in kilobytes or bytes where it is small."""
    if not is_number(value):
        return DASH
    if value >= 0.1:
        return f"{value:,.1f}{NARROW}MB"
    kilobytes = 1000 * value
    return f"{kilobytes:,.1f}{NARROW}kB" if kilobytes >= 0.1 else f"{1000 * kilobytes:.0f}{NARROW}B"


def energy(joules: Any) -> str:
    """Return an energy in watt-hours, or in kilowatt-hours where there are many."""
    if not is_number(joules):
        return DASH
    hours = joules / 3600
    return f"{hours:,.1f}{NARROW}Wh" if hours < 1000 else f"{hours / 1000:,.2f}{NARROW}kWh"


def duration(seconds: Any) -> str:
    """Return a time in the two units that suit it."""
    if not is_number(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{NARROW}h {minutes:02d}{NARROW}min"


def plain(value: Any) -> str:
    """Return whatever a check measured: numbers to four digits, lists in words, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or DASH
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or DASH
    return str(value)


def weighted(weights: dict[str, float]) -> str:
    """Return a sum of losses, without those of weight 0."""
    used = [f"{plain(weight)} {words(term)}" for term, weight in weights.items() if weight]
    return " + ".join(used) or "nothing"


def metric(name: str) -> str:
    """Return a metric's key as people write it."""
    return METRICS.get(name) or words(name)


def words(name: str) -> str:
    """Return a key such as `too_short` as words."""
    return name.replace("_", " ")


FILTERS: dict[str, Callable[..., str]] = {
    "fixed": fixed,
    "fixed3": partial(fixed, decimals=3),
    "percent": percent,
    "fraction": fraction,
    "fraction2": partial(fraction, decimals=2),
    "count": count,
    "times": times,
    "megabytes": megabytes,
    "duration": duration,
    "energy": energy,
    "plain": plain,
    "weighted": weighted,
    "words": words,
    "metric": metric,
}
