"""The model card of an artifact, generated from its manifest."""

from collections.abc import Mapping

from aigc.artifact.manifest import Manifest, TensorSpec
from aigc.artifact.precision import Precision
from aigc.artifact.sampling_inputs import is_picture

_LIMITS = {
    "digits": "Trained on 1,437 digits of 43 writers at 8x8 pixels, enlarged: no other script, no"
    " finer detail.",
    "spoken_digits": "Trained on the synthetic speech of eSpeak NG, ten words in three monotone"
    " voices: no other word, no person's voice.",
    "digits3": "Trained on 1,437 digits of 43 writers at 8x8 pixels, enlarged, ten words, and the"
    " synthetic speech of eSpeak NG in three monotone voices: no other script, word or voice.",
}


def card(manifest: Manifest) -> str:
    """README.md of an artifact (Markdown): contents, data, metrics, usage, limits."""
    m = manifest
    data = "" if m.training is None else str(m.training.data.get("name"))
    lines = [
        f"# {m.id}",
        "",
        *(["![samples, one column per class](samples.png)", ""] if has_picture(m) else []),
        f"{_origin(m)} Created {m.created}. Licence {m.licence}.",
        "",
        "| signature | inputs | outputs | reproducibility | max abs(torch - onnx) |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {_specs(s.inputs)} | {_specs(s.outputs)}"
            f" | {m.reproducibility[name].level} | {_parity(m, name)} |"
            for name, s in m.signatures.items()
        ),
        "",
        *_precision(m),
        "## Metrics",
        "",
        *(_metrics(m) if m.metrics else ["Not evaluated yet: `aigc evaluate ARTIFACT --write`."]),
        "",
        "## Use",
        "",
        "```python",
        "from aigc.artifact import Artifact",
        "",
        *_usage(m),
        "```",
        "",
        "## Limits",
        "",
        _LIMITS.get(data, "It imitates its training data and knows nothing else.")
        + " Samples are synthetic; no person wrote, drew or said them.",
        "",
    ]
    return "\n".join(lines)


BESIDE = ("/low", "/high", "/real")
"""Ends of names in a manifest's metrics: the 95 % interval, and the value of real data."""


def has_picture(manifest: Manifest) -> bool:
    """True if samples.png shows what the artifact draws: `sample` is there and gives pictures."""
    sample = manifest.signatures.get("sample")
    return sample is not None and sample.drawable and is_picture(sample.outputs[0])


def _origin(m: Manifest) -> str:
    """Sentence that says how the weights came about."""
    if m.training is None:
        return f"An imported model (`{m.model}`); how it was trained is not recorded here."
    data = m.training.data
    family = m.family.upper() if len(m.family) <= 3 else f"model for {m.family}"
    return (
        f"A {family} (`{m.source}`) trained on {m.training.samples:,} samples"
        f" of {data.get('name', 'unknown')} ({data.get('samples', '?')} training samples,"
        f" {len(data.get('classes', []))} classes) in {m.training.wall_seconds:.0f} s on"
        f" {m.training.workers or 1} worker(s)."
    )


def _parity(m: Manifest, signature: str) -> str:
    """Distance to the torch module; it is absent for a model that came as ONNX."""
    return f"{m.parity[signature].max_abs:.1e}" if signature in m.parity else "no torch module"


def _precision(m: Manifest) -> list[str]:
    """Lines on reduced precision and its cost; none for float32."""
    if not isinstance(m.precision, Precision):
        return []
    return [
        "## Precision",
        "",
        f"The graphs are reduced to `{m.precision.name}`. The column above is of the float32 graphs"
        " that they were made from; their own outputs differ from float32 by:",
        "",
        "| signature | largest difference | mean, of a half span | pixels or texts that differ"
        " | largest of 255 |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {loss.max_abs:.1e} | {loss.mean_loss:.1e} | {loss.uint8_mismatch:.2%}"
            f" | {loss.uint8_max} |"
            for name, loss in m.precision.loss.items()
        ),
        "",
    ]


def _metrics(m: Manifest) -> list[str]:
    """Table of metrics beside those of real data, with intervals if there are any; of reduced
    precision beside those in float32, too."""
    precision = m.precision if isinstance(m.precision, Precision) else None
    of = precision.name if precision and precision.float32_metrics else "value"
    columns: dict[str, Mapping[str, float | None]] = {of: m.metrics}
    if precision and precision.float32_metrics:
        columns["float32"] = precision.float32_metrics
    columns["real data"] = {name: m.metrics.get(f"{name}/real") for name in m.metrics}
    cells = {n: [_number(column.get(n)) for column in columns.values()] for n in m.metrics}
    head = ["metric", *columns]
    if any(f"{name}/low" in m.metrics for name in m.metrics):
        head.append("95 %")
        for name, row in cells.items():
            ends = [m.metrics.get(f"{name}/{end}") for end in ("low", "high")]
            row.append(" to ".join(_number(end) for end in ends if end is not None))
    rows = [[name, *row] for name, row in cells.items() if not name.endswith(BESIDE)]
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _usage(m: Manifest) -> list[str]:
    """Lines of Python that call the first signature that can be called."""
    name = next((n for n in ("sample", *m.offered) if n in m.offered), "")
    if not name or m.signatures[name].drawable:
        called = "" if name == "sample" else repr(name) + ", "
        return [f'outputs = Artifact.open("path/to/this/folder").sample({called}seed=0, n=4)']
    given = ", ".join(f'"{s.name}": {s.name}' for s in m.signatures[name].inputs)
    return [f'outputs = Artifact.open("path/to/this/folder").run("{name}", {{{given}}})']


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} (N{''.join(f', {d}' for d in s.shape)}) {s.dtype}" for s in specs)
