"""Curves over one time axis as an SVG file, in panels one below the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM, GAP = 760, 130, 64, 16, 44, 40, 34
INK, FAINT = "#1f2933", "#d5dbe1"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """points: (seconds, value), drawn as steps: a value holds until the next."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    curves: Sequence[Curve]
    whole: bool = False
    """Ticks at whole numbers only."""


def write_chart(path: Path, title: str, panels: Sequence[Panel], seconds: float) -> None:
    """Draw the panels from 0 to `seconds`."""
    height = TOP + len(panels) * (PANEL + GAP) - GAP + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        label(LEFT, 20, title, size=14, weight="600"),
    ]
    for number, panel in enumerate(panels):
        lines += _panel(panel, TOP + number * (PANEL + GAP), seconds)
    step = next(s for s in (10, 20, 30, 60, 120, 300, 600, 3600) if seconds / s <= 12)
    for tick in range(0, int(seconds) + 1, step):
        x = _x(tick, seconds)
        lines.append(label(x, height - BOTTOM + 18, str(tick), anchor="middle"))
    lines.append(label(WIDTH - RIGHT, height - 6, "seconds", anchor="end"))
    lines.append("</svg>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _panel(panel: Panel, top: int, seconds: float) -> list[str]:
    most = max((value for curve in panel.curves for _, value in curve.points), default=1.0) or 1.0
    step = _step(most, panel.whole)
    most = step * -(-most // step)

    def y(value: float) -> float:
        return top + PANEL - value / most * PANEL

    lines = [label(LEFT, top - 6, panel.title)]
    tick = 0.0
    while tick <= most + 1e-9:
        lines.append(
            f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="{FAINT}" fill="none"/>'
        )
        lines.append(label(LEFT - 8, y(tick) + 4, f"{tick:,.10g}", anchor="end"))
        tick += step
    right = WIDTH - RIGHT
    for curve in reversed(panel.curves):
        if len(panel.curves) > 1:
            lines.append(label(right, top - 6, curve.name, anchor="end", colour=curve.colour))
            right -= 7 * len(curve.name) + 14
        if curve.points:
            (start, first), *rest = curve.points
            path = f"M{_x(start, seconds):.1f} {y(first):.1f}"
            path += "".join(f"H{_x(s, seconds):.1f}V{y(value):.1f}" for s, value in rest)
            path += f"H{_x(seconds, seconds):.1f}"
            lines.append(
                f'<path d="{path}" stroke="{curve.colour}" stroke-width="1.6" fill="none"/>'
            )
    return lines


def _step(most: float, whole: bool) -> float:
    """Distance of ticks: 1, 2 or 5 times a power of ten, for at most five of them."""
    step = 1.0 if whole else 10.0**-6
    while most / step > 5:
        for factor in (2.0, 2.5, 2.0):
            step *= factor
            if most / step <= 5:
                break
    return step


def _x(second: float, seconds: float) -> float:
    return LEFT + second / seconds * (WIDTH - LEFT - RIGHT)


def label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "400",
    colour: str = INK,
) -> str:
    """A text of an SVG."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
