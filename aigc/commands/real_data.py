"""Real data that an artifact is evaluated with: those of its run, or others that are given."""

from dataclasses import dataclass, replace

from aigc import data, files
from aigc.artifact import Artifact
from aigc.commands.imported_data import evaluated, imported_config
from aigc.commands.recorded_config import recorded_config
from aigc.config import TrainConfig, require
from aigc.data import Dataset, NoRows, Split
from aigc.data.survey import first_of

ADVICE = "give data like those of the training run with --data PATH"


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


def read_splits(config: TrainConfig, advice: str = ADVICE) -> Real:
    """Both splits of a config's data. Raises ValueError, with advice, if they cannot be read."""
    train = _split(config, "train", advice)
    lacking = ""
    try:
        test = _split(config, "test", advice)
    except NoRows as error:
        test = replace(train, samples=train.samples[:0], labels=train.labels[:0], origin=None)
        lacking = f": {error}"
    where = f" at {config.data.path}" if config.data.path else ""
    splits = ", ".join(f"{name} {rows:,}" for name, rows in train.survey.splits.items())
    line = (
        f"judged against data {train.name!r}{where}: {len(test):,} rows of its test split,"
        f" judges trained on {len(train):,} rows of its training split"
        f"{f' ({splits})' if splits else ''}{lacking}"
    )
    return Real(config=config, train=train, test=test, description=(line,))


def real_data(artifact: Artifact, path: str = "", source: str = "") -> Real:
    """Both splits of the training run's data, or of the data at `path` and from `source`.

    Raises ValueError if the data cannot be read or do not fit the model.
    """
    real = read_splits(config_of(artifact, path, source))
    config, train, lines = real.config, real.train, [*real.description]
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
    return replace(real, description=tuple(lines))


def config_of(artifact: Artifact, path: str, source: str = "") -> TrainConfig:
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


def _split(config: TrainConfig, split: Split, advice: str) -> Dataset:
    """A split in memory. Raises NoRows, or ValueError with `advice` in place of training's."""
    try:
        return data.whole(data.load(config.data, config.model, split), config.data.on_error)
    except NoRows:
        raise
    except ValueError as error:
        raise ValueError(_replace_advice(str(error), advice)) from error


def _replace_advice(message: str, advice: str) -> str:
    """A source's message with the advice for `aigc train` replaced."""
    parts = message.split("; ")
    kept = [part for part in parts if not any(flag in part for flag in ("--data.", "--model."))]
    if kept == parts:
        return message
    return "; ".join([*kept, advice])
