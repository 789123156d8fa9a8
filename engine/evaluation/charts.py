"""Geometry of the curves in the report; the template draws them. No markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 16, 34  # room for ticks and titles

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """Labelled grid line at ``at`` pixels along its axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A curve, optionally with the base's curve, in pixels of a WIDTH x HEIGHT picture with y down.

    Attributes:
        title: Title of the y axis.
        points: Points in SVG syntax, "x,y x,y".
        dots: The same points if there are few enough to mark each; otherwise empty.
        x_title: Title of the x axis.
        x_ticks: Ticks of the x axis.
        y_ticks: Ticks of the y axis.
        best: Point of the best adapter, or None.
        best_label: Value and epoch of ``best``.
        base: y of the base's value, or None.
        base_points: The base's curve, as ``points``, or empty.
        summary: Description of the curve for screen readers.
    """

    title: str
    points: str
    dots: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best: Point | None
    best_label: str
    base: float | None
    summary: str
    x_title: str = "epoch"
    base_points: str = ""


def curve(
    title: str,
    points: Sequence[Point],
    *,
    best: Point | None = None,
    base: float | None = None,
    from_zero: bool = False,
    x_title: str = "epoch",
    marked: str = "best",
) -> Curve:
    """Lay out one curve.

    Args:
        title: Name of the values.
        points: (epoch, value), in order, at least one, all finite.
        best: Point to mark.
        base: Value of a dashed horizontal line.
        from_zero: Start the y axis at zero.
        x_title: Name of the x values, if they are not epochs.
        marked: Word for the marked point.
    """
    values = [value for _, value in points] + ([] if base is None else [base]) + ([] if best is None else [best[1]])
    y_values = nice_ticks(min(values + [0.0] * from_zero), max(values))
    last = max(epoch for epoch, _ in points)
    x_values = [x for x in nice_ticks(0.0, max(last, 1.0)) if x <= max(last, 1.0)]

    def x_of(epoch: float) -> float:
        return round(LEFT + epoch / max(last, 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        low, high = y_values[0], y_values[-1]
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    placed = [(x_of(epoch), y_of(value)) for epoch, value in points]
    first, end = points[0], points[-1]
    summary = f"{title}: {first[1]:.3g} at {x_title} {first[0]:.3g}, {end[1]:.3g} at {x_title} {end[0]:.3g}"
    return Curve(
        title=title,
        points=" ".join(f"{x},{y}" for x, y in placed),
        dots=tuple(placed) if len(placed) <= 40 else (),
        x_ticks=tuple(Tick(x_of(x), f"{x:g}") for x in x_values),
        y_ticks=tuple(Tick(y_of(y), f"{y:g}") for y in y_values),
        best=None if best is None else (x_of(best[0]), y_of(best[1])),
        best_label="" if best is None else f"{marked} {best[1]:.3f} at {x_title} {best[0]:.3g}",
        base=None if base is None else y_of(base),
        summary=summary if best is None else f"{summary}, {marked} {best[1]:.3g} at {x_title} {best[0]:.3g}",
        x_title=x_title,
    )


def ratio_curve(title: str, points: Sequence[Point], base: Sequence[Point], *, x_title: str) -> Curve:
    """Lay out a curve of ratios, both axes from 0 to 1.

    Args:
        title: Name of the y values.
        points: (x, y), in order, at least one.
        base: Points of the base; may be empty.
        x_title: Name of the x values.
    """
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)

    def x_of(value: float) -> float:
        return round(LEFT + value * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM), 1)

    def line(values: Sequence[Point]) -> str:
        return " ".join(f"{x_of(x)},{y_of(y)}" for x, y in values)

    best_x, best_y = max(points, key=lambda point: point[1])
    return Curve(
        title=title,
        points=line(points),
        dots=tuple((x_of(x), y_of(y)) for x, y in points) if len(points) == 1 else (),
        x_ticks=tuple(Tick(x_of(value), f"{value:g}") for value in ticks),
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in ticks),
        best=None,
        best_label="",
        base=None,
        summary=f"{title} over {x_title}: highest {best_y:.3g} at {best_x:.3g}",
        x_title=x_title,
        base_points=line(base),
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that cover ``low`` to ``high``.

    >>> nice_ticks(0, 0.43)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    >>> nice_ticks(0, 0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        high = low + 1
    rough = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.6g}") for i in range(start, end + 1)]
