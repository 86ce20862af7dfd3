"""A dashboard as rows of panels, and the JSON that Grafana imports.

Where a panel stands follows from its width, of 24 in a row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

RUNBOOKS = "docs/operations.md"
"""Base URL of the runbooks of alerts; the rules have the same."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel of a dashboard."""

    title: str
    description: str
    unit: str
    """Grafana's name of it: short, s, reqps, percentunit, none."""
    queries: tuple[tuple[str, str], ...]
    """PromQL and the legend of its series."""
    kind: Literal["stat", "timeseries"] = "timeseries"
    width: int = 8
    thresholds: tuple[tuple[float, str], ...] = ()
    """Lower bounds of colours by value; below the first it is green, or blue without any."""
    falling: bool = False
    """Low is bad: below the first threshold it is red."""
    stacked: bool = False
    dashed: tuple[str, ...] = ()
    """Legends of bounds, drawn as dashed lines."""
    colours: tuple[tuple[str, str], ...] = ()
    """Regular expressions of legends, and their colours."""
    most: float | None = None
    """Upper end of the axis; the values decide without."""


@dataclass(frozen=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, str], ...]
    """Name and query of each choice on top."""
    rows: tuple[Row, ...]
    """The first one stands without a heading."""


def stat(title: str, description: str, unit: str, query: str, **options: Any) -> Panel:
    """One number, eight of them in a row."""
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=((query, ""),),
        kind="stat",
        **{"width": 3} | options,
    )


def graph(
    title: str, description: str, unit: str, *queries: tuple[str, str], **options: Any
) -> Panel:
    """Curves over time, three beside each other unless a width is given."""
    return Panel(title=title, description=description, unit=unit, queries=queries, **options)


def as_json(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as JSON for Grafana 10 or newer."""
    panels: list[dict[str, Any]] = []
    top = 0
    for number, row in enumerate(dashboard.rows):
        if number:
            place = {"x": 0, "y": top, "w": 24, "h": 1}
            panels.append(
                {"type": "row", "title": row.title, "gridPos": place, "collapsed": False}
                | {"panels": []}
            )
            top += 1
        left, height = 0, 4 if row.panels[0].kind == "stat" else 8
        for panel in row.panels:
            if left + panel.width > 24:
                left, top = 0, top + height
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            panels.append(_panel(panel) | {"gridPos": place})
            left += panel.width
        top += height
    for identity, entry in enumerate(panels, start=1):
        entry["id"] = identity
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["aigc"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": _links(),
        "templating": {"list": _variables(dashboard.variables)},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"color": RED if panel.falling else GREEN if panel.thresholds else BLUE}
    ]
    steps += [{"value": value, "color": colour} for value, colour in panel.thresholds]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": None if panel.unit == "none" else 0,
        "max": panel.most,
        "noValue": "-",
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"value": None} | step for step in steps]},
    }
    if panel.kind == "stat":
        options: dict[str, Any] = {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value",
        }
    else:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 2,
            "fillOpacity": 25 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": options,
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        *(_dashed(legend) for legend in panel.dashed),
        *(
            {
                "matcher": {"id": "byRegexp", "options": f"/^{legend}$/"},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }
            for legend, colour in panel.colours
        ),
    ]


def _dashed(legend: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": legend},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "color", "value": {"mode": "fixed", "fixedColor": "#8e8e8e"}},
        ],
    }


def _links() -> list[dict[str, Any]]:
    return [
        {"title": "aigc", "type": "dashboards", "tags": ["aigc"], "asDropdown": False},
        {
            "title": "What alerts mean",
            "type": "link",
            "url": f"{RUNBOOKS}#alerts",
            "targetBlank": True,
        },
    ]


def _variables(queries: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource"}
    everything = {"text": "All", "value": "$__all"}
    return [
        source | {"query": "prometheus"},
        *(
            {
                "name": name,
                "label": name.capitalize(),
                "type": "query",
                "datasource": SOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": True,
                "includeAll": True,
                # Also what carries no such label, as outside Kubernetes.
                "allValue": ".*",
                "current": everything,
            }
            for name, query in queries
        ),
    ]


def text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(as_json(dashboard), indent=1) + "\n"
