"""`aigc evaluate`: quality of an artifact's samples, by networks trained on real data only."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from aigc import data, files
from aigc.artifact import Artifact, image_files, latents, signing
from aigc.artifact.latents import Whole, whole
from aigc.artifact.manifest import SIGNATURE_FILE, seal
from aigc.artifact.model_card import card
from aigc.artifact.sampling_inputs import is_picture
from aigc.commands.imported_data import evaluated, imported_config
from aigc.commands.recorded_config import recorded_config
from aigc.config import TrainConfig, require
from aigc.data import Dataset, NoRows, Split, scaled
from aigc.data.survey import first_of
from aigc.metrics import (
    Draw,
    Evaluation,
    Metric,
    Omitted,
    TooFewRows,
    drawing_of,
    draws,
    evaluator_of,
    restoration,
)
from aigc.nn.losses import bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood


@dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluate an artifact against real data."""

    artifact: tyro.conf.Positional[str]
    """Folder, STORE/NAME or STORE/NAME@VERSION."""
    data: str = ""
    """Folder of the data set; by default that of the training run."""
    source: str = ""
    """Data source in place of the training run's, such as ./faces.py. Code of a user's is never run
    because an artifact names it, so a source that is such code must be given."""
    metrics: tuple[str, ...] = ()
    """Files or modules of metrics, such as ./sharpness.py, or modalities, in place of those of the
    samples' modality."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000
    """Number of samples to generate."""
    seed: int = 0
    """Seed of the samples, of which the first n are taken."""
    picture: str = ""
    """PNG to write, of real samples above generated ones: images, or spectrograms of sounds."""
    write: bool = False
    """Write the metrics into the manifest and the model card of a local artifact."""
    sign: str = ""
    """With --write: private key to sign it with again, if it was signed; needs aigc[sign]."""

    def __post_init__(self) -> None:
        require(self.n > 0, f"n must be > 0, got {self.n}")
        require(0 <= self.seed < 2**63, f"seed must be in [0, 2^63), got {self.seed}")
        require(self.write or not self.sign, "--sign has no effect without --write")


def command(argv: list[str]) -> int:
    """Evaluate an artifact's samples by a classifier trained on real data."""
    options = tyro.cli(Options, args=argv, prog="aigc evaluate", description=Options.__doc__)
    artifact = Artifact.open(options.artifact, verify=False, trust=signing.wanted(""))
    run(artifact, options)
    print(artifact.uri)
    return 0


def run(artifact: Artifact, options: Options) -> Evaluation:
    """Evaluate as the command does; prints the data and the table to stderr.

    Raises ValueError, before anything is computed, for metrics or a picture that cannot be written.
    """
    if options.write:
        _check_writable(artifact, options.sign)
    if options.picture:
        config = _config(artifact, options.data, options.source)
        _drawing(artifact, config, Path(options.picture), options.metrics)
    for reference in options.metrics:  # mistakes show before data are read
        evaluator_of("", reference)
    real = real_data(artifact, options.data, options.source)
    print("\n".join(real.description), file=sys.stderr)
    evaluation = evaluate_on(artifact, real, options.n, options.seed, options.metrics)
    print(table(artifact.id, evaluation.metrics, evaluation.omitted), file=sys.stderr)
    if options.write:
        write_metrics(artifact, evaluation, options.sign)
    if options.picture:
        picture = Path(options.picture)
        draw(artifact, picture, seed=options.seed, real=real, metrics=options.metrics)
    return evaluation


@dataclass(frozen=True)
class Real:
    """Real data that an artifact's samples are compared with."""

    config: TrainConfig
    """Config of the training run, with the present place of its data."""
    train: Dataset
    test: Dataset
    """Test split; empty if the data have no test rows."""
    description: tuple[str, ...]
    """Lines that describe the data, and say if they differ from those of the training run."""


def real_data(artifact: Artifact, path: str = "", source: str = "") -> Real:
    """Both splits of the training run's data, or of the data at `path` and from `source`.

    Raises ValueError if the data cannot be read or do not fit the model.
    """
    config = _config(artifact, path, source)
    train = _split(config, "train")
    lacking = ""
    try:
        test = _split(config, "test")
    except NoRows as error:
        test = replace(train, samples=train.samples[:0], labels=train.labels[:0], origin=None)
        lacking = f": {error}"
    where = f" at {config.data.path}" if config.data.path else ""
    splits = ", ".join(f"{name} {rows:,}" for name, rows in train.survey.splits.items())
    lines = [
        f"judged against data {train.name!r}{where}: {len(test):,} rows of its test split,"
        f" judges trained on {len(train):,} rows of its training split"
        f"{f' ({splits})' if splits else ''}{lacking}"
    ]
    training = artifact.manifest.training
    label = artifact.signature(evaluated(artifact)).label
    require(
        training is not None or label is None or label.classes in ((), train.classes),
        f"{artifact.id} has the classes {first_of(label.classes if label else (), 5)}, the data"
        f" {first_of(train.classes, 5)}; name and order must be the same",
    )
    recorded = training.config.get("data", {}).get("source") if training else None
    if source and recorded and config.data.source != recorded:
        lines.append(f"the data source is {config.data.source}, the run's was {recorded}")
    trained_on, now = training.data if training else {}, train.fingerprint()
    if trained_on.get("sha256") not in (None, now["sha256"]):
        lines.append(
            f"these are not the data that it was trained on: {now['samples']:,} training rows"
            f" with sha256 {now['sha256'][:12]}, there were"
            f" {trained_on.get('samples', 0):,} with {trained_on['sha256'][:12]}"
        )
    return Real(config=config, train=train, test=test, description=tuple(lines))


def evaluate(
    artifact: Artifact,
    *,
    n: Whole = 2000,
    seed: Whole = 0,
    path: str = "",
    source: str = "",
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Metrics of an artifact's first n samples of a seed, beside those of real data.

    The data are those of the training run, or those at `path` and from `source`. See evaluate_on().
    """
    return evaluate_on(artifact, real_data(artifact, path, source), n, seed, metrics)


def evaluate_on(
    artifact: Artifact, real: Real, n: Whole, seed: Whole, metrics: Sequence[str] = ()
) -> Evaluation:
    """Metrics of an artifact's first n samples of a seed beside those of real data.

    aigc/metrics/<modality>.py measures samples; VAEs with a likelihood also get their test ELBO in
    nats. `metrics` are references to others in place of these. A metric that needs more rows than
    there are is left out, with the reason. Raises ValueError if there is no metric for such
    samples.
    """
    n, seed = whole(n, "n"), whole(seed, "seed")
    require(n > 0, f"n must be > 0, got {n}")
    config = real.config
    evaluation = Evaluation()
    for reference in metrics:
        own = evaluator_of(config.model.modality, reference)
        assert own is not None
        evaluation.extend(own(artifact, real.train, real.test, n, seed))
    if metrics:
        return evaluation
    name = evaluated(artifact)
    if not artifact.signature(name).drawable:
        return restoration.evaluate(artifact, name, real.test, n)
    evaluate_samples = evaluator_of(config.model.modality)
    has_elbo = bool(getattr(config.model, "likelihood", "")) and _has_posterior(artifact)
    require(
        evaluate_samples is not None or has_elbo,
        f"{artifact.id}: nothing judges its samples, and it has no encoder",
    )
    if evaluate_samples is not None:
        evaluation.extend(evaluate_samples(artifact, real.train, real.test, n, seed))
    if has_elbo:
        evaluation.add("elbo/test", lambda: _elbo(artifact, config, real.test), None, "higher")
    return evaluation


def draw(
    artifact: Artifact,
    file: Path,
    *,
    seed: int = 0,
    path: str = "",
    real: Real | None = None,
    metrics: Sequence[str] = (),
) -> None:
    """Write a PNG of test samples above the first samples of a seed.

    The test samples are those of `real`, else of the training run's data or the data at `path`.
    Raises ValueError if such samples cannot be drawn, or if the file's folder does not exist.
    """
    drawing = _drawing(artifact, real.config if real else _config(artifact, path), file, metrics)
    test = (real or real_data(artifact, path)).test
    files.write(file, image_files.png(drawing(artifact, test, seed)))


def _drawing(
    artifact: Artifact, config: TrainConfig, file: Path, metrics: Sequence[str] = ()
) -> Draw:
    """Function that draws an artifact's samples. Raises ValueError without one or the folder."""
    drawing = drawing_of(config.model.modality, next(filter(draws, metrics), ""))
    signature = artifact.signature(evaluated(artifact))
    images = [s for s in signature.outputs if s.kind == "image"]
    if drawing is None or not signature.drawable or not all(map(is_picture, images)):
        raise ValueError(f"{artifact.id}: there is no picture of its samples; leave out --picture")
    require(
        file.absolute().parent.is_dir(),
        f"{file}: the folder {file.absolute().parent} is not there; create it first",
    )
    return drawing


def table(title: str, metrics: Iterable[Metric], omitted: Iterable[Omitted] = ()) -> str:
    """Table of metrics for the terminal; metrics named `kind/from>to` become a matrix.

    Notes stand beside plain metrics and below a matrix; omitted metrics come last, with reasons.
    """
    metrics, omitted = list(metrics), list(omitted)
    plain = [m for m in metrics if ">" not in m.name]
    names = [m.name for m in plain] + [o.name for o in omitted]
    width = max([len(name) for name in names] or [len(title)])
    lines = [f"{title:<{width}}   value     real vs real   better"]
    for m in plain:
        floor = "" if m.floor is None else f"{m.floor:.4g}"
        line = f"{m.name:<{width}}   {m.value:<9.4g} {floor:<14} {m.better:<6}   {m.note}"
        lines.append(line.rstrip())
    kinds: dict[str, list[Metric]] = {}
    for m in metrics:
        if ">" in m.name:
            kinds.setdefault(m.name.partition("/")[0], []).append(m)
    lines += [line for kind in kinds for line in _matrix(kind, kinds[kind])]
    lines += [f"{m.name}: {m.note}" for m in metrics if ">" in m.name and m.note]
    return "\n".join([*lines, *(f"{o.name:<{width}}   left out: {o.reason}" for o in omitted)])


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


def write_metrics(artifact: Artifact, metrics: Iterable[Metric], sign: str = "") -> None:
    """Seal a local artifact again with metrics in its manifest and card; its digest changes.

    This is the only change of a version, once, between export and first use. It removes a
    signature; `sign` is a private key for a new one. Raises ValueError if the artifact has metrics
    already, is on an object store, or is signed and no key is given.
    """
    _check_writable(artifact, sign)
    folder, metrics = Path(artifact.uri), list(metrics)
    values = {m.name: round(m.value, 6) for m in metrics}
    values |= {f"{m.name}/real": round(m.floor, 6) for m in metrics if m.floor is not None}
    manifest = replace(artifact.manifest, metrics=values)
    files.write(folder / "README.md", card(manifest).encode())
    seal(folder, manifest)
    if sign:
        signing.sign(folder, sign)


def _check_writable(artifact: Artifact, sign: str) -> None:
    folder = Path(artifact.uri)
    require(folder.is_dir(), f"{artifact.uri} is not a local folder: evaluate before publishing it")
    require(
        not artifact.manifest.metrics,
        f"{artifact.id} was evaluated already and versions never change; export a new one,"
        " or evaluate without --write",
    )
    require(
        bool(sign) or not (folder / SIGNATURE_FILE).exists(),
        f"{artifact.id} is signed, and --write changes what was signed: give --sign KEY to sign it"
        " again, or evaluate without --write",
    )
    if sign:
        signing.check_key(sign)


def _config(artifact: Artifact, path: str, source: str = "") -> TrainConfig:
    """Config of the training run, with its data at `path` and from `source` if these are given;
    for an imported artifact one of the data at `path` as its signature has them."""
    if artifact.manifest.training is None:
        return imported_config(artifact, path, source)
    config = recorded_config(artifact, source)
    require(
        not path or config.data.source not in data.PATHLESS,
        f"--data {path} has no effect: {artifact.id} was trained on data source"
        f" {config.data.source}, which reads no files; leave it out",
    )
    data_config = replace(config.data, path=files.expanded(path or config.data.path))
    if data_config.source == "npz" and not data_config.range:  # training ran without: as they are
        data_config = replace(data_config, range="-1..1")
    return replace(config, data=data_config)


def _split(config: TrainConfig, split: Split) -> Dataset:
    """A split in memory. Raises NoRows, or ValueError with advice for `aigc evaluate`."""
    try:
        return data.whole(data.load(config.data, config.model, split), config.data.on_error)
    except NoRows:
        raise
    except ValueError as error:
        raise ValueError(_replace_advice(str(error))) from error


def _replace_advice(message: str) -> str:
    """A source's message with the advice for `aigc train` replaced."""
    parts = message.split("; ")
    kept = [part for part in parts if not any(flag in part for flag in ("--data.", "--model."))]
    if kept == parts:
        return message
    return "; ".join([*kept, "give data like those of the training run with --data PATH"])


def _elbo(artifact: Artifact, config: TrainConfig, test: Dataset) -> float:
    """Test ELBO per sample in nats, beta 1, one draw of the posterior per sample.

    It is the ELBO of the exported model, which clamps the mean of a Gaussian to the data's range
    [-1, 1], so it is at least that of the decoder without the clamp. Raises TooFewRows if there are
    none.
    """
    if not len(test):
        raise TooFewRows("there are no test rows")
    x = scaled(test.samples)
    label = {"label": test.labels} if config.model.num_classes else {}
    key = config.model.modality
    moments = artifact.run("encode", {key: x, **label})
    mu, logvar = moments["mu"], moments["logvar"]
    eps = latents.normal(0, range(len(x)), mu.shape[1:], "elbo")
    z = (mu + np.exp(0.5 * logvar) * eps).astype(np.float32)
    mean = artifact.run("decode", {"latent": z, **label})[key]
    values = _log_likelihood(config, mean, x) - _kl(mu, logvar)
    return float(values.mean())


def _has_posterior(artifact: Artifact) -> bool:
    """True of an artifact that encodes samples to the moments of a posterior, and decodes."""
    signatures = artifact.manifest.signatures
    if not {"encode", "decode"} <= signatures.keys():
        return False
    return {"mu", "logvar"} <= {spec.name for spec in signatures["encode"].outputs}


def _kl(mu: NDArray[np.float32], logvar: NDArray[np.float32]) -> NDArray[np.float64]:
    return gaussian_kl(torch.from_numpy(mu).double(), torch.from_numpy(logvar).double()).numpy()


def _log_likelihood(
    config: TrainConfig, mean: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float64]:
    a, b = torch.from_numpy(mean).double(), torch.from_numpy(x).double()
    likelihood = getattr(config.model, "likelihood", "")
    if likelihood == "gaussian":
        std = float(getattr(config.model, "gaussian_std", 0))
        return gaussian_log_likelihood(a, b, std).numpy()
    p = ((a + 1) / 2).clamp(1e-7, 1 - 1e-7)
    return bernoulli_log_likelihood(p.logit(), (b + 1) / 2).numpy()
