"""SVG by hand: elements, scales with round ticks, and the frame of a picture.

Text is escaped because every element is put together by `tag`, never by pasting strings. Colours
come from the page's style sheet, so a picture follows the light or dark scheme it is shown in.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

NOTHING = Markup()


def tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return one element: `class_` becomes `class`, `text_anchor` becomes `text-anchor`."""
    written = NOTHING.join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(name, written, NOTHING.join(children), name)


def picture(
    name: str, title: str, description: str, size: tuple[int, int], parts: Iterable[str]
) -> Markup:
    """Return a picture that a screen reader announces by its title and description."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-description"),
        *parts,
        role="img",
        viewBox=f"0 0 {size[0]} {size[1]}",
        aria_labelledby=f"{name}-title {name}-description",
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from values (low..high) to places in a picture (start..end)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Return about `count` round values inside the scale, each with its text."""
        step = _round_step((self.high - self.low) / (count + 1.5))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:,.{decimals}f}") for i in range(first, last + 1)]


def scale_over(
    values: Sequence[float], start: float, end: float, *, from_zero: bool = False
) -> Scale:
    """Return a scale that shows all values with some air, from zero where ratios matter."""
    low, high = min(values), max(values)
    # Equal values still need a width; a twentieth of the value, or 1 around zero.
    air = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    return Scale(0.0 if from_zero else low - air, high + air, start, end)


def ground(x: Scale, y: Scale, *, x_ticks: int = 4, y_ticks: int = 4) -> Markup:
    """Return grid lines and tick texts of a plot whose y scale starts at its lower edge."""
    parts = []
    for value, text in y.ticks(y_ticks):
        place = y(value)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=place, y2=place, class_="grid"))
        parts.append(
            tag("text", text, x=x.start - 6, y=place + 4, text_anchor="end", class_="tick")
        )
    for value, text in x.ticks(x_ticks):
        parts.append(
            tag("text", text, x=x(value), y=y.start + 16, text_anchor="middle", class_="tick")
        )
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    return NOTHING.join(parts)


def path_through(places: Iterable[tuple[float, float]]) -> str:
    """Return the `d` of a path through places."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _round_step(rough: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
