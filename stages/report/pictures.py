"""The page's three kinds of picture: seeds as dots, score against cost, and loss curves.

Each is a small panel of its own, so that panels flow into one column on a phone and stay legible.
Its numbers are in the page as well, in a table or a legend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from stages.report.svg import Scale, ground, path_through, picture, scale_over, tag
from stages.report.wording import fixed

DOT = 4.5
TOUCHING = 12.0
"""Points of models that are nearer than this have one label together."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One model's scores on one task, a value per seed."""

    label: str
    style: str
    """The model's class in the style sheet: its colour and whether its marks are hollow."""
    values: Sequence[float]
    median: float


def seed_dots(name: str, title: str, lanes: Sequence[Lane]) -> Markup:
    """Return every seed of every model on one task; the first lane's median crosses all lanes."""
    width, lane_height, top = 360, 50, 4
    bottom = top + lane_height * len(lanes)
    x = scale_over([value for lane in lanes for value in lane.values], 8, width - 44)
    parts = []
    for value, text in x.ticks():
        parts.append(tag("line", x1=x(value), x2=x(value), y1=top, y2=bottom, class_="grid"))
        parts.append(
            tag("text", text, x=x(value), y=bottom + 17, text_anchor="middle", class_="tick")
        )
    reference = x(lanes[0].median)
    parts.append(tag("line", x1=reference, x2=reference, y1=top, y2=bottom, class_="reference"))
    for i, lane in enumerate(lanes):
        parts.append(_lane(lane, x, top + i * lane_height, width))
    described = "; ".join(f"{lane.label} median {fixed(lane.median)}" for lane in lanes)
    return picture(name, title, f"{described}.", (width, bottom + 24), parts)


def _lane(lane: Lane, x: Scale, top: float, right: float) -> Markup:
    line = top + 32
    median = x(lane.median)
    parts = [
        tag("text", lane.label, x=x.start, y=top + 13, class_="label"),
        tag("text", fixed(lane.median), x=right, y=line + 4, text_anchor="end", class_="value"),
        tag(
            "line", x1=x(min(lane.values)), x2=x(max(lane.values)), y1=line, y2=line, class_="span"
        ),
        tag("line", x1=median, x2=median, y1=line - 9, y2=line + 9, class_="median"),
    ]
    for value, shift in swarm([x(value) for value in lane.values]):
        parts.append(tag("circle", cx=value, cy=line + shift, r=DOT, class_="dot"))
    return tag("g", *parts, class_=lane.style)


def swarm(places: Sequence[float]) -> list[tuple[float, float]]:
    """Return places with the shift that keeps dots apart, so that equal seeds all show."""
    step = min(2 * DOT, 18 / len(places))
    laid: list[tuple[float, float]] = []
    for place in sorted(places):
        # The middle, then above and below in turn; as many lines as dots, so one is free.
        shifts = [(k + 1) // 2 * step * (-1) ** k for k in range(len(places))]
        used = {shift for other, shift in laid if place - other < DOT}
        laid.append((place, next(shift for shift in shifts if shift not in used)))
    return laid


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


@dataclass(frozen=True, slots=True)
class Line:
    """One model's loss over its optimiser steps, thinned to what a panel can show."""

    label: str
    style: str
    points: Sequence[tuple[float, float]]
    smooth: Sequence[float]


def line_of(label: str, style: str, steps: Sequence[float], values: Sequence[float | None]) -> Line:
    """Return a line through the steps at which the loss was computed (not None)."""
    measured = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
    points = thin(measured)
    return Line(label, style, points, smoothed([value for _, value in points]))


def loss_curves(name: str, title: str, lines: Sequence[Line]) -> Markup:
    """Return one loss of several models, as measured (thin) and smoothed (thick), from zero."""
    width, height = 270, 206
    x = Scale(0.0, max(line.points[-1][0] for line in lines), 32, width - 12)
    highest = max(value for line in lines for _, value in line.points)
    y = Scale(0.0, highest * 1.06 or 1.0, height - 40, 10)
    parts = [
        ground(x, y, x_ticks=3, y_ticks=4),
        tag("text", "steps", x=x.end, y=height - 6, text_anchor="end", class_="tick"),
    ]
    for line in lines:
        raw = [(x(step), y(value)) for step, value in line.points]
        smooth = [(place[0], y(value)) for place, value in zip(raw, line.smooth, strict=True)]
        parts.append(
            tag(
                "g",
                tag("path", d=path_through(raw), class_="raw"),
                tag("path", d=path_through(smooth), class_="line"),
                tag("circle", cx=smooth[-1][0], cy=smooth[-1][1], r=3.5, class_="end"),
                class_=line.style,
            )
        )
    described = " ".join(
        f"{line.label}: from {fixed(line.points[0][1], 3)} to {fixed(line.smooth[-1], 3)} "
        f"at step {line.points[-1][0]:.0f}."
        for line in lines
    )
    return picture(name, title, described, (width, height), parts)


def thin(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """Return at most so many points, each the mean of its neighbours: long runs stay light."""
    size = -(-len(points) // most)
    pieces = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(step for step, _ in piece) / len(piece), sum(value for _, value in piece) / len(piece))
        for piece in pieces
    ]


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean around every value, over about a tenth of the curve."""
    reach = len(values) // 20
    return [
        sum(near) / len(near)
        for i in range(len(values))
        for near in [values[max(0, i - reach) : i + reach + 1]]
    ]
