"""Two small kinds of plots as SVG text: stacked bars, and lines. Readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#3b82f6", "#f59e0b", "#ef4444", "#10b981", "#8b5cf6")
GREY = "#888888"
WIDTH, LEFT, ROW, GAP = 720, 220, 24, 8


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def bars(title: str, unit: str, rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str]) -> str:
    """One bar for each row, made of one value for each part."""
    longest = max((sum(values) for _, values in rows), default=1.0) or 1.0
    scale = (WIDTH - LEFT - 90) / longest
    top = 58
    out = []
    for index, (label, values) in enumerate(rows):
        y = top + index * (ROW + GAP)
        out.append(_text(LEFT - 8, y + 16, label, "end"))
        x = float(LEFT)
        for part, value in enumerate(values):
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="{ROW}" fill="{COLOURS[part]}"/>')
            x += value * scale
        out.append(_text(x + 6, y + 16, number(sum(values))))
    return _page(title, unit, top + len(rows) * (ROW + GAP) + 8, _legend(parts) + out)


def lines(title: str, unit: str, across: str, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> str:
    """Values over xs, both scales from zero."""
    height, top, bottom = 300, 58, 250
    widest, highest = max(xs), max((max(values) for values in series.values()), default=1.0) or 1.0
    out = []
    for step in range(5):
        value = highest * step / 4
        y = bottom - (bottom - top) * step / 4
        out.append(f'<line x1="70" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" stroke-opacity="0.3"/>')
        out.append(_text(62, y + 4, number(value), "end"))

    def place(x: float) -> float:
        return 70 + (WIDTH - 90) * x / widest

    out += [_text(place(x), bottom + 18, f"{x:g}", "middle") for x in xs]
    out.append(_text((WIDTH + 70) / 2, height - 8, across, "middle"))
    for part, values in enumerate(series.values()):
        points = [(place(x), bottom - (bottom - top) * value / highest) for x, value in zip(xs, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[part]}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[part]}"/>' for x, y in points]
    return _page(title, unit, height, _legend(list(series)) + out)


def _page(title: str, unit: str, height: int, inside: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13"><style>text {{ fill: #333 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #ccc }} }}'
        f"</style>"
    )
    return "\n".join([head, _text(10, 20, f"{title} ({unit})", weight="bold"), *inside, "</svg>\n"])


def _legend(names: Sequence[str]) -> list[str]:
    out = []
    x = 10.0
    for part, name in enumerate(names):
        out.append(f'<rect x="{x:.0f}" y="32" width="12" height="12" fill="{COLOURS[part]}"/>')
        out.append(_text(x + 17, 43, name))
        x += 34 + 7.5 * len(name)
    return out


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
