"""The page's picture of score against cost, with labels that cover nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from stages.report.svg import ground, path_through, picture, scale_over, tag
from stages.report.wording import fixed

TOUCHING = 12.0
"""Points of models that are nearer than this have one label together."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model: what it costs (x), what it scores (y)."""

    label: str
    style: str
    x: float
    y: float


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in one direction without losing in the other."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def score_against(name: str, title: str, axes: tuple[str, str], points: Sequence[Point]) -> Markup:
    """Return models by cost and score, and a line through those that nothing else beats."""
    width, height = 360, 270
    x = scale_over([point.x for point in points], 40, width - 14, from_zero=True)
    y = scale_over([point.y for point in points], height - 44, 30)
    best = front(points)
    corners = [(x(best[0].x), y(best[0].y))]
    for last, this in pairwise(best):
        corners += [(x(this.x), y(last.y)), (x(this.x), y(this.y))]
    parts = [
        ground(x, y),
        tag("text", axes[0], x=x.end, y=height - 8, text_anchor="end", class_="tick"),
        tag("text", axes[1], x=4, y=14, class_="tick"),
        tag("path", d=path_through(corners), class_="front"),
    ]
    taken = [_Box(x(p.x) - 6, y(p.y) - 6, 12, 12) for p in points]
    taken += [_Box.around(start, end) for start, end in pairwise(corners)]
    for together in _clusters(points, [(x(p.x), y(p.y)) for p in points]):
        (first, place), *others = together
        text = f"{first.label} and {len(others)} more" if len(others) > 1 else first.label
        text += f", {others[0][0].label}" if len(others) == 1 else ""
        label, box = _free_label(text, place, taken, (x.start, width))
        taken.append(box)
        dots = [
            tag("circle", tag("title", point.label), cx=at[0], cy=at[1], r=6, class_="dot")
            for point, at in together
        ]
        parts.append(tag("g", *dots, label, class_=first.style))
    described = "; ".join(f"{p.label}: {fixed(p.x)} and {fixed(p.y)}" for p in points)
    return picture(name, title, f"{axes[0]} and {axes[1]}. {described}.", (width, height), parts)


def _clusters(
    points: Sequence[Point], places: Sequence[tuple[float, float]]
) -> list[list[tuple[Point, tuple[float, float]]]]:
    """Return points with their places; those that cover each other are to have one label."""
    found: list[list[tuple[Point, tuple[float, float]]]] = []
    for point, place in zip(points, places, strict=True):
        for together in found:
            near = together[0][1]
            if together[0][0].style == point.style and math.dist(near, place) < TOUCHING:
                together.append((point, place))
                break
        else:
            found.append([(point, place)])
    return found


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def around(cls, start: tuple[float, float], end: tuple[float, float]) -> "_Box":
        """Return the box of a straight line."""
        left, top = min(start[0], end[0]), min(start[1], end[1])
        return cls(left, top, abs(end[0] - start[0]) + 1, abs(end[1] - start[1]) + 1)

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.top < other.top + other.height
            and other.top < self.top + self.height
        )


def _free_label(
    text: str, place: tuple[float, float], taken: Sequence[_Box], edges: tuple[float, float]
) -> tuple[Markup, _Box]:
    """Return a label beside its point where it covers nothing, or at least is not cut."""
    width, height = 7.4 * len(text), 14.0
    x, y = place
    # How the text is anchored, where, and how far left of that its box begins.
    anchors = {"start": (x + 10, 0.0), "end": (x - 10, width), "middle": (x, width / 2)}
    lines = [("start", y), ("end", y), ("middle", y - 17), ("middle", y + 17)]
    lines += [("start", y - 14), ("start", y + 14), ("end", y - 14), ("end", y + 14)]
    choices = []
    for anchor, line in lines:
        at, back = anchors[anchor]
        label = tag("text", text, x=at, y=line + 4, text_anchor=anchor, class_="label")
        choices.append((label, _Box(at - back, line - 7, width, height)))
    whole = [
        choice
        for choice in choices
        if choice[1].left >= edges[0] and choice[1].left + width <= edges[1]
    ]
    free = [choice for choice in whole if not any(choice[1].meets(other) for other in taken)]
    return (free or whole or choices)[0]
