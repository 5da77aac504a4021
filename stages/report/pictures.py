"""The page's pictures: seeds as dots, and loss curves; score against cost is in scatter.py.

Each is a small panel of its own, so that panels flow into one column on a phone and stay legible.
Its numbers are in the page as well, in a table or a legend.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.report.svg import Scale, ground, path_through, picture, scale_over, tag
from stages.report.wording import fixed

DOT = 4.5


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
