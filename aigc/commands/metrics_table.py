"""Metrics of an evaluation as a table for the terminal."""

from collections.abc import Iterable

from aigc.metrics import Metric, Omitted


def table(title: str, metrics: Iterable[Metric], omitted: Iterable[Omitted] = ()) -> str:
    """Table of metrics for the terminal; metrics named `kind/from>to` become a matrix.

    Notes stand beside plain metrics and below a matrix; omitted metrics come last, with reasons.
    Where some have a value in float32, all are plain, with that value and the loss.
    """
    metrics, omitted = list(metrics), list(omitted)
    compared = any(m.float32 is not None for m in metrics)
    plain = [m for m in metrics if compared or ">" not in m.name]
    names = [m.name for m in plain] + [o.name for o in omitted]
    width = max([len(name) for name in names] or [len(title)])
    beside = f"{'float32':<9} {'loss':<8} " * compared
    spans = [_interval(m) for m in plain]
    wide = max(map(len, spans), default=0)
    beside = f"{'95 %':<{wide}}   " * bool(wide) + beside
    lines = [f"{title:<{width}}   value     {beside}real vs real   better"]
    for m, span in zip(plain, spans, strict=True):
        floor = "" if m.floor is None else f"{m.floor:.4g}"
        beside = f"{span:<{wide}}   " * bool(wide) + _float32(m) * compared
        line = f"{m.name:<{width}}   {m.value:<9.4g} {beside}{floor:<14} {m.better:<6}   {m.note}"
        lines.append(line.rstrip())
    pairs = [m for m in metrics if m not in plain]
    kinds: dict[str, list[Metric]] = {}
    for m in pairs:
        kinds.setdefault(m.name.partition("/")[0], []).append(m)
    lines += [line for kind in kinds for line in _matrix(kind, kinds[kind])]
    lines += [f"{m.name}: {m.note}" for m in pairs if m.note]
    return "\n".join([*lines, *(f"{o.name:<{width}}   left out: {o.reason}" for o in omitted)])


def _interval(metric: Metric) -> str:
    """`0.91 to 0.93`, empty for a value without an interval."""
    return " to ".join(f"{end:.3g}" for end in metric.interval or ())


def _float32(metric: Metric) -> str:
    """Cells of the value in float32 and of the loss of quality, empty where there are none."""
    value = "" if metric.float32 is None else f"{metric.float32:.4g}"
    loss = "" if metric.quality_loss is None else f"{metric.quality_loss:.1%}"
    return f"{value:<9} {loss:<8} "


def _matrix(kind: str, metrics: list[Metric]) -> list[str]:
    """A row for each input, a column for each output, and a last row for real data."""
    cells: dict[str, dict[str, str]] = {}
    real: dict[str, str] = {}
    for m in metrics:
        source, _, target = m.name.removeprefix(f"{kind}/").partition(">")
        cells.setdefault(source, {})[target] = f"{m.value:.4g}"
        real[target] = "" if m.floor is None else f"{m.floor:.4g}"
    head = f"{kind} ({metrics[0].better}), from"
    wide = max(len(name) for name in (head, *cells))
    rows = {head: {target: target for target in real}, **cells, "real data": real}
    return [
        "",
        *(
            f"{name:<{wide}}" + "".join(f"   {row.get(target, ''):<12}" for target in real)
            for name, row in rows.items()
        ),
    ]
