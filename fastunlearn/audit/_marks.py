"""Marks that stay apart in greyscale: shape by position, filled or hollow by kind."""

from __future__ import annotations

import math

from fastunlearn.audit._markup import Element, make


def _polygon(x: float, y: float, radius: float, corners: int, turn: float) -> str:
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return " ".join(f"{x + radius * math.sin(a):.1f},{y - radius * math.cos(a):.1f}" for a in angles)


_CORNERS = (
    (0, 0.0), (4, math.pi / 4), (3, 0.0), (4, 0.0), (3, math.pi), (5, 0.0), (6, 0.0), (5, math.pi), (3, math.pi / 2),
    (3, -math.pi / 2), (6, math.pi / 6), (8, math.pi / 8),
)  # fmt: skip
RADIUS = 6.5


def mark(index: int, x: float, y: float, class_: str, radius: float = RADIUS) -> Element:
    """The mark of the ``index``-th method at (x, y): circle, square, triangle, diamond, and so on."""
    corners, turn = _CORNERS[index % len(_CORNERS)]
    if corners == 0:
        return make("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius - 1:.1f}", class_=class_)
    grown = radius * (1.25 if corners == 3 else 1.1)
    return make("polygon", points=_polygon(x, y, grown, corners, turn), class_=class_)


def star(x: float, y: float, class_: str, radius: float = 10.0) -> Element:
    """A five-pointed star, for the retrained model."""
    points = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else radius * 0.45
        angle = math.pi * corner / 5
        points.append(f"{x + reach * math.sin(angle):.1f},{y - reach * math.cos(angle):.1f}")
    return make("polygon", points=" ".join(points), class_=class_)


def cross(x: float, y: float, class_: str, radius: float = 6.0) -> Element:
    """A diagonal cross, for the original model."""
    r = radius
    path = f"M{x - r:.1f},{y - r:.1f}L{x + r:.1f},{y + r:.1f}M{x - r:.1f},{y + r:.1f}L{x + r:.1f},{y - r:.1f}"
    return make("path", d=path, class_=class_)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near ``wanted`` (sorted), at least ``gap`` apart and within low..high where they fit."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + gap if placed else low))
    ceiling = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def free_place(
    places: list[tuple[float, float, str]], width: float, height: float, taken: list[tuple[float, float]]
) -> tuple[float, float, str]:
    """The first of ``places`` (x, baseline, anchor) where a text of this size covers none of the points
    ``taken``; else the one that covers the fewest."""

    def covered(place: tuple[float, float, str]) -> int:
        x, y, anchor = place
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        return sum(left - 8 < px < left + width + 8 and y - height - 6 < py < y + 8 for px, py in taken)

    return min(places, key=covered)
