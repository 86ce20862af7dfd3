"""A Grafana dashboard drawn as SVG: the panels' own places, queries, units and colours."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.chart import label

Points = Sequence[tuple[float, float]]
Ask = Callable[[str], Sequence[tuple[Mapping[str, str], Points]]]
"""An expression -> labels and (seconds, value) of each of its series."""

CELL_W, CELL_H, GAP, MARGIN, HEAD = 50, 24, 6, 14, 58
PAGE, CARD, LINE, INK, FAINT = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#8e8e8e"
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0")
NAMED = {"green": "#73bf69", "red": "#f2495c", "blue": "#5794f2"}

_text = partial(label, size=11, colour=INK)


@dataclass(frozen=True, kw_only=True)
class Curve:
    legend: str
    colour: str
    points: Points
    dashed: bool = False


def draw(
    dashboard: Mapping[str, Any], ask: Ask, *, start_s: float, end_s: float, subtitle: str
) -> str:
    """The SVG of a dashboard's JSON, from one time to another."""
    panels = dashboard["panels"]
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    width, height = 24 * CELL_W + 2 * MARGIN, HEAD + bottom * CELL_H + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="Inter, system-ui, Helvetica, Arial, sans-serif" font-size="11">',
        f"<title>{escape(dashboard['title'])}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAGE}"/>',
        _text(MARGIN + 4, 30, dashboard["title"], size=18, weight="600"),
        _text(MARGIN + 4, 48, subtitle, colour=FAINT),
    ]
    for panel in panels:
        place = panel["gridPos"]
        x, y = MARGIN + place["x"] * CELL_W, HEAD + place["y"] * CELL_H
        w, h = place["w"] * CELL_W - GAP, place["h"] * CELL_H - GAP
        if panel["type"] == "row":
            lines.append(_text(x + 4, y + 15, f"⌄  {panel['title']}", size=13, weight="600"))
            continue
        lines.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{CARD}"/>')
        lines.append(_text(x + 8, y + 17, panel["title"], size=12, weight="500"))
        curves = _curves(panel, ask)
        shape = _stat if panel["type"] == "stat" else _graph
        lines += shape(panel, curves, (x, y, w, h), (start_s, end_s))
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _curves(panel: Mapping[str, Any], ask: Ask) -> list[Curve]:
    overrides = panel["fieldConfig"]["overrides"]
    dashed = {o["matcher"]["options"] for o in overrides if o["matcher"]["id"] == "byName"}
    found: list[Curve] = []
    for target in panel["targets"]:
        for labels, points in ask(target["expr"]):
            legend = target["legendFormat"]
            for name, value in labels.items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            if "{{" not in legend and points:
                colour = _colour(legend, overrides) or PALETTE[len(found) % len(PALETTE)]
                found.append(
                    Curve(legend=legend, colour=colour, points=points, dashed=legend in dashed)
                )
    return found


def _colour(legend: str, overrides: Sequence[Mapping[str, Any]]) -> str | None:
    """Colour that the panel sets for this legend, if any."""
    for override in overrides:
        kind, wanted = override["matcher"]["id"], override["matcher"]["options"]
        if legend == wanted or (kind == "byRegexp" and re.search(wanted[1:-1], legend)):
            colour = override["properties"][-1]["value"]["fixedColor"]
            return NAMED.get(colour, colour)
    return None


def _stat(
    panel: Mapping[str, Any],
    curves: Sequence[Curve],
    box: tuple[float, float, float, float],
    span: tuple[float, float],
) -> list[str]:
    """A number over its own history."""
    x, y, w, h = box
    defaults = panel["fieldConfig"]["defaults"]
    if not curves:
        return [_text(x + w / 2, y + h / 2 + 14, defaults["noValue"], size=26, anchor="middle")]
    points = curves[0].points
    value = points[-1][1]
    reached = [s for s in defaults["thresholds"]["steps"] if (s.get("value") or 0) <= value]
    colour = NAMED.get(reached[-1]["color"], reached[-1]["color"])
    most = max(v for _, v in points) or 1.0
    base, room = y + h - 2, h * 0.32
    scaled = [(_x(t, x + 2, w - 4, span), base - v / most * room) for t, v in points]
    path = "L".join(f"{px:.1f} {py:.1f}" for px, py in scaled)
    area = f"M{scaled[0][0]:.1f} {base:.1f}L{path}L{scaled[-1][0]:.1f} {base:.1f}Z"
    number = _format(value, defaults["unit"])
    size = 27 if len(number) < 8 else 20
    return [
        f'<path d="{area}" fill="{colour}" fill-opacity="0.16"/>',
        f'<path d="M{path}" stroke="{colour}" stroke-opacity="0.6" fill="none"/>',
        _text(
            *(x + w / 2, y + h / 2 + 12, number),
            size=size,
            anchor="middle",
            colour=colour,
            weight="600",
        ),
    ]


def _graph(
    panel: Mapping[str, Any],
    curves: Sequence[Curve],
    box: tuple[float, float, float, float],
    span: tuple[float, float],
) -> list[str]:
    """Curves over time with axes, and their legend below."""
    x, y, w, h = box
    defaults = panel["fieldConfig"]["defaults"]
    left, right, top, bottom = x + 52, x + w - 10, y + 30, y + h - 38
    if not curves:
        return [_text(x + w / 2, y + h / 2, "No data", anchor="middle", colour=FAINT)]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    shown = _stack(curves) if stacked else [(curve, curve.points) for curve in curves]
    values = [value for _, points in shown for _, value in points]
    low = min(0.0, *values) if defaults["min"] is None else 0.0
    high = defaults["max"] or max(values)
    step = _step((high - low) or 1.0)
    low, high = step * (low // step), step * -(-high // step) or step

    def height(value: float) -> float:
        return bottom - (min(value, high) - low) / (high - low) * (bottom - top)

    lines = []
    tick = low
    while tick <= high + step / 1e6:
        lines.append(f'<path d="M{left} {height(tick):.1f}H{right}" stroke="{LINE}"/>')
        said = _format(tick, defaults["unit"])
        lines.append(_text(left - 6, height(tick) + 4, said, anchor="end", colour=FAINT))
        tick += step
    for minute in range(int((span[1] - span[0]) // 60) + 1):
        px = _x(span[0] + 60 * minute, left, right - left, span)
        anchor = "end" if px > right - 15 else "middle"
        lines.append(_text(px, bottom + 15, f"{minute} min", anchor=anchor, colour=FAINT))
    fill = defaults["custom"]["fillOpacity"] / 100
    for curve, points in reversed(shown):
        steps = [(_x(t, left, right - left, span), height(value)) for t, value in points]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in steps)
        if not curve.dashed:
            area = f"M{steps[0][0]:.1f} {bottom}L{path}L{steps[-1][0]:.1f} {bottom}Z"
            lines.append(f'<path d="{area}" fill="{curve.colour}" fill-opacity="{fill}"/>')
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        lines.append(
            f'<path d="M{path}" stroke="{curve.colour}" stroke-width="1.5"{dash} fill="none"/>'
        )
    px = x + 10.0
    for curve in curves:
        lines.append(
            f'<rect x="{px}" y="{y + h - 14}" width="12" height="3" fill="{curve.colour}"/>'
        )
        lines.append(_text(px + 16, y + h - 8, curve.legend))
        px += 30 + 6.2 * len(curve.legend)
    return lines


def _stack(curves: Sequence[Curve]) -> list[tuple[Curve, Points]]:
    """Each on top of those before it."""
    below = dict.fromkeys(sorted({time_s for c in curves for time_s, _ in c.points}), 0.0)
    stacked = []
    for curve in curves:
        for time_s, value in curve.points:
            below[time_s] += value
        stacked.append((curve, list(below.items())))
    return stacked


def _step(most: float) -> float:
    """Distance of ticks: 1, 2, 2.5 or 5 times a power of ten, for at most five of them."""
    step = 1e-9
    while True:
        for factor in (1, 2, 2.5, 5):
            if most / (step * factor) <= 4.2:
                return step * factor
        step *= 10


def _format(value: float, unit: str) -> str:
    """As Grafana writes it."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s" and value:
        if abs(value) < 1:
            return f"{1000 * value:.3g} ms"
        return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
    suffix = {"reqps": " req/s", "s": " s"}.get(unit, "")
    if abs(value) >= 1000:
        return f"{value / 1000:.3g} K{suffix}"
    if 0 < abs(value) < 0.01:
        return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}".rstrip("0")
    return f"{value:.3g}{suffix}"


def _x(time_s: float, left: float, width: float, span: tuple[float, float]) -> float:
    return left + (time_s - span[0]) / (span[1] - span[0]) * width
