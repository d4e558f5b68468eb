"""Line charts as small SVG files, drawn by hand: no library draws what is compared byte by byte.

A point is the median of its rounds, the bar through it reaches from the lowest to the highest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 210, 40, 50
_COLOURS: Final = (
    *("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a"),
    *("#787774", "#b58900", "#337ea9", "#d44c47", "#2f9e8f", "#5c5470"),
)
_STEPS: Final = (1, 2, 5)
_MARGIN: Final = 0.06
"""Of an axis, left free at either end."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a line.

    Attributes:
        x: Where it stands.
        y: The median.
        low: The lowest of the rounds.
        high: The highest.
    """

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps values to pixels, straight or by their logarithm."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool

    @staticmethod
    def over(values: Sequence[float], begin: float, end: float, *, is_log: bool) -> _Axis:
        low, high = min(values), max(values)
        if is_log:
            # Nothing to tell apart is shown within a factor of two.
            room = max(math.log(high / low), math.log(2)) * _MARGIN
            return _Axis(low / math.exp(room), high * math.exp(room), begin, end, is_log)
        room = max(high - low, abs(high) * 0.02, 1e-9) * _MARGIN
        return _Axis(low - room, high + room, begin, end, is_log)

    def at(self, value: float) -> float:
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = _STEPS if len(decades) <= 4 else (1,)
            made = [step * 10.0**decade for decade in decades for step in steps]
            return [value for value in made if self.low <= value <= self.high]
        size = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step = next(s * size for s in (1, 2, 5, 10) if (self.high - self.low) / (s * size) <= 6)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    is_x_log: bool = False,
    is_y_log: bool = True,
) -> str:
    """Draw lines; those whose names begin with "shoal" are thick.

    Raises:
        ValueError: There is no point to draw.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError(f"{title}: there is nothing to draw")
    x = _Axis.over([p.x for p in points], _LEFT, _WIDTH - _RIGHT, is_log=is_x_log)
    heights = [value for p in points for value in (p.low, p.high)]
    y = _Axis.over(heights, _HEIGHT - _BOTTOM, _TOP, is_log=is_y_log)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(_LEFT, 22, title, size=15),
        *_frame(x, y, x_label, y_label),
    ]
    for number, (name, line) in enumerate(lines.items()):
        if line:
            parts += _line(name, line, x, y, number)
    return "\n".join([*parts, "</svg>", ""])


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in x.ticks():
        at = x.at(value)
        parts.append(_rule(at, y.begin, at, y.end))
        parts.append(_text(at, y.begin + 18, _tick(value), anchor="middle"))
    for value in y.ticks():
        at = y.at(value)
        parts.append(_rule(x.begin, at, x.end, at))
        parts.append(_text(x.begin - 6, at + 4, _tick(value), anchor="end"))
    middle = (y.begin + y.end) / 2
    parts.append(_text((x.begin + x.end) / 2, y.begin + 38, x_label, anchor="middle"))
    label = escape(y_label)
    parts.append(
        f'<text transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{label}</text>"
    )
    return parts


def _line(name: str, line: Sequence[Point], x: _Axis, y: _Axis, number: int) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    width = 3 if name.startswith("shoal") else 1.3
    ordered = sorted(line, key=lambda point: point.x)
    path = " ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in ordered)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>']
    for p in ordered:
        at = x.at(p.x)
        parts.append(_rule(at, y.at(p.low), at, y.at(p.high), colour))
        parts.append(f'<circle cx="{at:.1f}" cy="{y.at(p.y):.1f}" r="3.5" fill="{colour}"/>')
    top = _TOP + 10 + 18 * number
    left = _WIDTH - _RIGHT + 14
    parts.append(f'<rect x="{left}" y="{top - 6}" width="14" height="{width}" fill="{colour}"/>')
    parts.append(_text(left + 20, top, name))
    return parts


def _tick(value: float) -> str:
    rounded = float(f"{value:.6g}")
    return f"{rounded:,.0f}" if rounded >= 1_000 else f"{rounded:g}"


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = "#e3e2e0") -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
