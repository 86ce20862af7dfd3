"""The model card of an artifact, generated from its manifest."""

from aigc.artifact.manifest import Manifest, TensorSpec
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
    m, data = manifest, manifest.training.data
    picture = is_picture(m.signatures["sample"].outputs[0])
    lines = [
        f"# {m.id}",
        "",
        *(["![samples, one column per class](samples.png)", ""] if picture else []),
        f"A {m.family.upper()} (`{m.model}:{m.preset}`) trained on {m.training.samples:,} samples"
        f" of {data.get('name', 'unknown')} ({data.get('samples', '?')} training samples,"
        f" {len(data.get('classes', []))} classes) in {m.training.wall_seconds:.0f} s on"
        f" {m.training.workers or 1} worker(s). Created {m.created}. Licence {m.licence}.",
        "",
        "| signature | inputs | outputs | reproducibility | max abs(torch - onnx) |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {_specs(s.inputs)} | {_specs(s.outputs)}"
            f" | {m.reproducibility[name].level} | {m.parity[name].max_abs:.1e} |"
            for name, s in m.signatures.items()
        ),
        "",
        "## Metrics",
        "",
        *(
            ["| metric | value |", "|---|---|"]
            + [f"| {name} | {value:.4g} |" for name, value in m.metrics.items()]
            if m.metrics
            else ["Not evaluated yet: `aigc evaluate ARTIFACT --write`."]
        ),
        "",
        "## Use",
        "",
        "```python",
        "from aigc.artifact import Artifact",
        "",
        'outputs = Artifact.open("path/to/this/folder").sample(seed=0, n=4)',
        "```",
        "",
        "## Limits",
        "",
        _LIMITS.get(str(data.get("name")), "It imitates its training data and knows nothing else.")
        + " Samples are synthetic; no person wrote, drew or said them.",
        "",
    ]
    return "\n".join(lines)


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} (N{''.join(f', {d}' for d in s.shape)}) {s.dtype}" for s in specs)
