"""`aigc evaluate`: quality of an artifact's samples, by networks trained on real data only."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from msgspec import UNSET
from numpy.typing import NDArray

from aigc import feature_network, files
from aigc.artifact import Artifact, image_files, latents, signing
from aigc.artifact.latents import Whole, whole
from aigc.artifact.manifest import SIGNATURE_FILE, Manifest, seal
from aigc.artifact.model_card import card
from aigc.artifact.precision import Precision
from aigc.artifact.sampling_inputs import is_picture
from aigc.commands.imported_data import evaluated
from aigc.commands.metrics_table import table
from aigc.commands.real_data import Real, config_of, real_data
from aigc.config import TrainConfig, require
from aigc.data import Dataset, scaled
from aigc.feature_network import FeatureNetwork
from aigc.metrics import (
    Draw,
    Evaluation,
    Metric,
    TooFewRows,
    drawing_of,
    draws,
    evaluator_of,
    reconstruction,
    restoration,
)
from aigc.metrics.degradation import restores
from aigc.metrics.image import measure, nearest_pictures
from aigc.metrics.measures import is_measure
from aigc.metrics.reconstruction import RECONSTRUCT
from aigc.nn.losses import bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood

RECONSTRUCTION = "reconstruction"
"""Metrics of pictures after `reconstruct` (aigc/metrics/reconstruction.py)."""


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
    """Metrics of pictures by name, in place of the quick default ones: accuracy, frechet (fid),
    frechet_infinity, kid, prdc (precision, recall, density, coverage), vendi, class_share,
    class_recall, neighbours, diversity, cas, path_length (ppl), or all. Or files or modules of
    metrics, such as ./sharpness.py, or modalities, in place of those of the samples' modality."""
    features: tuple[str, ...] = ()
    """Networks for the metrics of pictures: an ONNX file, a FILE.py with its weights beside it, a
    run or an artifact of `aigc train classifier`. By default a small one that is trained on the
    training split; it stays beside them unless --metrics names metrics. Pictures that are made
    again, or of others, are compared with their originals by these networks alone."""
    neighbours: str = ""
    """PNG to write, of samples beside the nearest training and test pictures, the most suspicious
    first."""
    float32: str = ""
    """The same weights in float32, for an artifact of reduced precision: its metrics, of the same
    seed, judges and data, stand beside."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000
    """Number of samples to generate."""
    seed: int = 0
    """Seed of the samples, of which the first n are taken."""
    picture: str = ""
    """PNG to write, of real samples above generated ones: images, or spectrograms of sounds. With
    `--metrics reconstruction`, of test images, their reconstructions, and the images again."""
    write: bool = False
    """Write the metrics into the manifest and the model card of a local artifact."""
    sign: str = ""
    """With --write: private key to sign it with again, if it was signed; needs aigc[sign]."""

    def __post_init__(self) -> None:
        require(self.n > 0, f"n must be > 0, got {self.n}")
        require(0 <= self.seed < 2**63, f"seed must be in [0, 2^63), got {self.seed}")
        require(self.write or not self.sign, "--sign has no effect without --write")
        by_features = any(is_measure(one) or one == RECONSTRUCTION for one in self.metrics)
        for reference in (*self.features, *(["--neighbours"] if self.neighbours else [])):
            require(
                not self.metrics or by_features,
                f"{reference} is for metrics of pictures by name, and --metrics"
                f" {' '.join(self.metrics)} names none; add one, such as frechet",
            )


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
    float32 = open_float32(artifact, options.float32) if options.float32 else None
    if options.picture:
        config = config_of(artifact, options.data, options.source)
        _drawing(artifact, config, Path(options.picture), options.metrics)
    for reference in options.metrics:  # mistakes show before data are read
        if not is_measure(reference):
            evaluator_of("", reference)
    networks = [feature_network.load(reference) for reference in options.features]
    if options.neighbours:
        _check_folder(Path(options.neighbours))
    real = real_data(artifact, options.data, options.source)
    if options.neighbours:
        require(
            draws_pictures(artifact, real.config),
            f"{artifact.id} draws no pictures to show beside neighbours; leave out --neighbours",
        )
    print("\n".join(real.description), file=sys.stderr)

    def measured(one: Artifact) -> Evaluation:
        return evaluate_on(one, real, options.n, options.seed, options.metrics, networks)

    evaluation = measured(artifact)
    if float32 is not None:
        evaluation = evaluation.beside(measured(float32))
    print(table(artifact.id, evaluation.metrics, evaluation.omitted), file=sys.stderr)
    if options.write:
        write_metrics(artifact, evaluation, options.sign)
    if options.picture:
        picture = Path(options.picture)
        draw(artifact, picture, seed=options.seed, real=real, metrics=options.metrics)
    if options.neighbours:
        network = networks[0] if networks else None
        drawn = nearest_pictures(artifact, real.train, real.test, options.n, options.seed, network)
        files.write(Path(options.neighbours), image_files.png(drawn))
    return evaluation


def open_float32(artifact: Artifact, where: str) -> Artifact:
    """Open the float32 artifact with the graphs that one of reduced precision was made from.

    Raises ValueError unless it is that, by the hashes of the graphs.
    """
    precision = artifact.manifest.precision
    if not isinstance(precision, Precision):
        raise ValueError(f"{artifact.id} is of float32; leave out --float32")
    float32 = Artifact.open(where, verify=False, trust=signing.wanted(""))
    files = float32.manifest.files
    graphs = {one.graph: files[one.graph].sha256 for one in float32.manifest.signatures.values()}
    require(
        graphs == precision.float32_graphs,
        f"{float32.id} is not {artifact.id} in float32: its graphs are others; export the same"
        " checkpoint, or import the same file, without --precision",
    )
    return float32


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
    artifact: Artifact,
    real: Real,
    n: Whole,
    seed: Whole,
    metrics: Sequence[str] = (),
    networks: Sequence[FeatureNetwork] = (),
) -> Evaluation:
    """Metrics of an artifact's first n samples of a seed beside those of real data.

    aigc/metrics/<modality>.py measures samples; autoencoders of images also get the metrics of
    aigc/metrics/reconstruction.py, VAEs with a likelihood their test ELBO in nats. `metrics` are
    names of metrics of pictures (metrics/measures.py) and references to others, in place of these;
    `networks` are for metrics of pictures. A metric that needs more rows than there are is left
    out, with the reason. Raises ValueError if there is no metric for such samples.
    """
    n, seed = whole(n, "n"), whole(seed, "seed")
    require(n > 0, f"n must be > 0, got {n}")
    config = real.config
    evaluation = Evaluation()
    named = [reference for reference in metrics if is_measure(reference)]
    pictures = draws_pictures(artifact, config)
    again = restores(artifact.signature(evaluated(artifact)))
    require(
        pictures or (not named and (again or not networks)),
        f"{artifact.id} draws no pictures, which {' '.join(named) or '--features'} measures; leave"
        " it out",
    )
    if named:
        evaluation.extend(measure(artifact, real.train, real.test, n, seed, named, networks))
    data = real.train, real.test
    for reference in metrics:
        if reference == RECONSTRUCTION:
            evaluation.extend(reconstruction.evaluate(artifact, *data, n, networks=networks))
        elif reference not in named:
            own = evaluator_of(config.model.modality, reference)
            assert own is not None
            evaluation.extend(own(artifact, *data, n, seed))
    if metrics:
        return evaluation
    name = evaluated(artifact)
    if not artifact.signature(name).drawable:
        return restoration.evaluate(artifact, name, real.test, n, networks)
    evaluate_samples = evaluator_of(config.model.modality)
    has_elbo = bool(getattr(config.model, "likelihood", "")) and _has_posterior(artifact)
    require(
        evaluate_samples is not None or has_elbo,
        f"{artifact.id}: nothing judges its samples, and it has no encoder",
    )
    if pictures:
        evaluation.extend(measure(artifact, *data, n, seed, (), networks))
    elif evaluate_samples is not None:
        evaluation.extend(evaluate_samples(artifact, *data, n, seed))
    if reconstruction.reconstructs(artifact):
        evaluation.extend(reconstruction.evaluate(artifact, *data, n, networks=networks))
    if has_elbo:
        evaluation.add("elbo/test", lambda: _elbo(artifact, config, real.test), None, "higher")
    return evaluation


def draws_pictures(artifact: Artifact, config: TrainConfig) -> bool:
    """True if samples of an artifact are pictures that are drawn from a seed."""
    return config.model.modality == "image" and artifact.signature(evaluated(artifact)).drawable


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
    drawing = _drawing(artifact, real.config if real else config_of(artifact, path), file, metrics)
    test = (real or real_data(artifact, path)).test
    files.write(file, image_files.png(drawing(artifact, test, seed)))


def _drawing(
    artifact: Artifact, config: TrainConfig, file: Path, metrics: Sequence[str] = ()
) -> Draw:
    """Function that draws an artifact's samples. Raises ValueError without one or the folder."""
    drawing = drawing_of(
        config.model.modality, next(filter(draws, (m for m in metrics if not is_measure(m))), "")
    )
    signature = artifact.signature(evaluated(artifact))
    images = [s for s in signature.outputs if s.kind == "image"]
    if (restores(signature) and not metrics) or [*metrics] == [RECONSTRUCTION]:
        if metrics:
            reconstruction.check(artifact)
        name = RECONSTRUCT if metrics else evaluated(artifact)

        def drawing(artifact: Artifact, test: Dataset, seed: int) -> NDArray[np.uint8]:
            return restoration.side_by_side(artifact, name, test)

    elif drawing is None or not signature.drawable or not all(map(is_picture, images)):
        raise ValueError(f"{artifact.id}: there is no picture of its samples; leave out --picture")
    _check_folder(file)
    return drawing


def _check_folder(file: Path) -> None:
    require(
        file.absolute().parent.is_dir(),
        f"{file}: the folder {file.absolute().parent} is not there; create it first",
    )


def write_metrics(artifact: Artifact, metrics: Iterable[Metric], sign: str = "") -> None:
    """Seal a local artifact again with metrics in its manifest and card; its digest changes.

    This is the only change of a version, once, between export and first use. It removes a
    signature; `sign` is a private key for a new one. Raises ValueError if the artifact has metrics
    already, is on an object store, or is signed and no key is given.
    """
    _check_writable(artifact, sign)
    folder = Path(artifact.uri)
    manifest = with_metrics(artifact.manifest, list(metrics))
    files.write(folder / "README.md", card(manifest).encode())
    seal(folder, manifest)
    if sign:
        signing.sign(folder, sign)


def with_metrics(manifest: Manifest, metrics: Sequence[Metric]) -> Manifest:
    """A manifest with metrics: values, floors as NAME/real, 95 % intervals as NAME/low and
    NAME/high, and where they have one in float32."""
    values = {m.name: round(m.value, 6) for m in metrics}
    for m in metrics:
        if m.interval is not None:
            ends = zip(("low", "high"), m.interval, strict=True)
            values |= {f"{m.name}/{end}": round(at, 6) for end, at in ends}
    values |= {f"{m.name}/real": round(m.floor, 6) for m in metrics if m.floor is not None}
    float32 = {m.name: round(m.float32, 6) for m in metrics if m.float32 is not None}
    precision = manifest.precision
    if isinstance(precision, Precision):  # those of other metrics go
        precision = replace(precision, float32_metrics=float32 or UNSET)
    return replace(manifest, metrics=values, precision=precision)


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
