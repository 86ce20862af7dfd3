"""`aigc evaluate`: how good an artifact's samples are, by a judge that never saw generated data."""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc import data, models
from aigc.artifact import Artifact, codecs, latents
from aigc.artifact.card import card
from aigc.artifact.manifest import seal
from aigc.config import TrainConfig, require
from aigc.data import Dataset, Split, scaled
from aigc.metrics import Metric, drawing_of, judge_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """Judge an artifact against real data."""

    artifact: tyro.conf.Positional[str]
    """Folder, STORE/NAME or STORE/NAME@VERSION."""
    data: str = ""
    """Folder of the data set, where it is not that of the training run."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000
    """Number of samples to generate."""
    seed: int = 0
    """Seed of the samples; the first n are taken, nothing is picked."""
    picture: str = ""
    """PNG to write, of real samples above generated ones: images, or spectrograms of sounds."""
    write: bool = False
    """Write the metrics into the manifest and the model card of a local artifact."""


def command(argv: list[str]) -> int:
    """Judge an artifact's samples by a classifier trained on real data."""
    options = tyro.cli(Options, args=argv, prog="aigc evaluate", description=Options.__doc__)
    artifact = Artifact.open(options.artifact, verify=False)
    metrics = evaluate(artifact, n=options.n, seed=options.seed, path=options.data)
    print(table(artifact.id, metrics), file=sys.stderr)
    if options.picture:
        draw(artifact, Path(options.picture), seed=options.seed, path=options.data)
    if options.write:
        write(artifact, metrics)
    print(artifact.uri)
    return 0


def evaluate(artifact: Artifact, *, n: int = 2000, seed: int = 0, path: str = "") -> list[Metric]:
    """Metrics of an artifact's first n samples of a seed, floors beside them.

    What is measured of samples is said in aigc/metrics/<modality>.py. VAEs with a likelihood: test
    ELBO in nats.
    Raises ValueError if neither applies.
    """
    config = _config(artifact, path)
    train, test = _split(config, "train"), _split(config, "test")
    metrics: list[Metric] = []
    judge = judge_of(config.model.modality)
    if judge is not None:
        metrics += judge(artifact, train, test, n, seed)
    if (
        hasattr(config.model, "likelihood")
        and {"encode", "decode"} <= artifact.manifest.signatures.keys()
    ):
        metrics.append(_elbo(artifact, config, test))
    require(bool(metrics), f"{artifact.id}: nothing judges its samples, and it has no encoder")
    return metrics


def draw(artifact: Artifact, file: Path, *, seed: int = 0, path: str = "") -> None:
    """Write a PNG of test samples above the first samples of a seed, nothing picked.

    Raises ValueError for samples of which there is no picture.
    """
    config = _config(artifact, path)
    drawing = drawing_of(config.model.modality)
    if drawing is None:
        raise ValueError(f"{artifact.id}: there is no picture of its samples; leave out --picture")
    codecs.write(file, codecs.png(drawing(artifact, _split(config, "test"), seed)))


def table(title: str, metrics: list[Metric]) -> str:
    """A table for the terminal; of what is made of something else, `kind/from>to`, a matrix."""
    plain = [m for m in metrics if ">" not in m.name]
    width = max([len(m.name) for m in plain] or [len(title)])
    lines = [f"{title:<{width}}   value     real vs real   better"]
    for m in plain:
        floor = "" if m.floor is None else f"{m.floor:.4g}"
        lines.append(f"{m.name:<{width}}   {m.value:<9.4g} {floor:<14} {m.better}")
    kinds: dict[str, list[Metric]] = {}
    for m in metrics:
        if ">" in m.name:
            kinds.setdefault(m.name.partition("/")[0], []).append(m)
    return "\n".join(lines + [line for kind in kinds for line in _matrix(kind, kinds[kind])])


def _matrix(kind: str, metrics: list[Metric]) -> list[str]:
    """A row for what was given, a column for what was made, and below what real data score."""
    cells: dict[str, dict[str, str]] = {}
    real: dict[str, str] = {}
    for m in metrics:
        given, _, made = m.name.removeprefix(f"{kind}/").partition(">")
        cells.setdefault(given, {})[made] = f"{m.value:.4g}"
        real[made] = "" if m.floor is None else f"{m.floor:.4g}"
    head = f"{kind} ({metrics[0].better}), from"
    wide = max(len(name) for name in (head, *cells))
    rows = {head: {made: made for made in real}, **cells, "real data": real}
    return [
        "",
        *(
            f"{name:<{wide}}" + "".join(f"   {row.get(made, ''):<12}" for made in real)
            for name, row in rows.items()
        ),
    ]


def write(artifact: Artifact, metrics: list[Metric]) -> None:
    """Seal a local artifact again with metrics in its manifest and card; its digest changes.

    The one change that a version ever sees, once, between export and its first use. Raises
    ValueError for an artifact that has metrics, or is on an object store.
    """
    folder = Path(artifact.uri)
    require(folder.is_dir(), f"{artifact.uri} is no local folder: evaluate before publishing it")
    require(
        not artifact.manifest.metrics,
        f"{artifact.id} was evaluated already and versions never change; export a new one,"
        " or evaluate without --write",
    )
    values = {m.name: round(m.value, 6) for m in metrics}
    values |= {f"{m.name}/real": round(m.floor, 6) for m in metrics if m.floor is not None}
    manifest = replace(artifact.manifest, metrics=values)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        file.write(card(manifest))
    Path(file.name).chmod(0o644)
    Path(file.name).rename(folder / "README.md")
    seal(folder, manifest)


def _config(artifact: Artifact, path: str) -> TrainConfig:
    """Of the training run, its data at `path` if that is not empty."""
    document = artifact.manifest.training.config
    config = TrainConfig.from_json(document, models.load(artifact.manifest.model).Config)
    return replace(config, data=replace(config.data, path=path or config.data.path))


def _split(config: TrainConfig, split: Split) -> Dataset:
    return data.whole(data.load(config.data, config.model, split), config.data.on_error)


def _elbo(artifact: Artifact, config: TrainConfig, test: Dataset) -> Metric:
    """Test ELBO per sample in nats, beta 1, one draw of the posterior per sample.

    Of the model that is served: a Gaussian's mean is clamped to [-1, 1] there, where the data are,
    so the figure is at least that of the decoder without the clamp.
    """
    model = models.build(config)
    x = scaled(test.samples)
    given = {"label": test.labels} if config.model.num_classes else {}
    key = config.model.modality
    moments = artifact.run("encode", {key: x, **given})
    mu, logvar = moments["mu"], moments["logvar"]
    eps = latents.normal(0, range(len(x)), mu.shape[1:], "elbo")
    z = (mu + np.exp(0.5 * logvar) * eps).astype(np.float32)
    mean = artifact.run("decode", {"latent": z, **given})[key]
    values = _log_likelihood(config, mean, x) - _kl(mu, logvar)
    assert model.family == "vae"
    return Metric("elbo/test", float(values.mean()), None, "higher")


def _kl(mu: NDArray[np.float32], logvar: NDArray[np.float32]) -> NDArray[np.float64]:
    import torch

    from aigc.losses import gaussian_kl

    return gaussian_kl(torch.from_numpy(mu).double(), torch.from_numpy(logvar).double()).numpy()


def _log_likelihood(
    config: TrainConfig, mean: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float64]:
    import torch

    from aigc.losses import bernoulli_log_likelihood, gaussian_log_likelihood

    a, b = torch.from_numpy(mean).double(), torch.from_numpy(x).double()
    likelihood = getattr(config.model, "likelihood", "")
    if likelihood == "gaussian":
        std = float(getattr(config.model, "gaussian_std", 0))
        return gaussian_log_likelihood(a, b, std).numpy()
    p = ((a + 1) / 2).clamp(1e-7, 1 - 1e-7)
    return bernoulli_log_likelihood(p.logit(), (b + 1) / 2).numpy()
