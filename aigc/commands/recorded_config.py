"""Config of the run behind an artifact, without running code because the artifact says so.

Built-in models have their own Config. Of a model of a user's, whose code no artifact carries, the
facts that evaluation needs are in the manifest: shapes, classes and vocabulary in its signatures,
the likelihood in the recorded config.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from aigc import models, own_code
from aigc.artifact import Artifact
from aigc.commands.imported_data import evaluated
from aigc.config import Modality, ModelConfig, TrainConfig
from aigc.display import printable
from aigc.own_code import DATA, MODELS


@dataclass(frozen=True, kw_only=True)
class RecordedModel(ModelConfig):
    """Facts of a model of a user's."""

    parts: dict[str, tuple[int, ...]]
    """Shapes of a sample's parts by modality."""
    vocabulary: int = 0
    """Size of the vocabulary of texts; 0 for all else."""
    likelihood: Literal["", "bernoulli", "gaussian"] = ""
    gaussian_std: float = 0.3

    @property
    def modality(self) -> Modality:
        """See ModelConfig.modality."""
        return cast(Modality, next(iter(self.parts)) if len(self.parts) == 1 else "paired")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See ModelConfig.shapes."""
        return self.parts

    @property
    def num_tokens(self) -> int:
        """See ModelConfig.num_tokens."""
        return self.vocabulary


def recorded_config(artifact: Artifact, source: str = "") -> TrainConfig:
    """Config of the training run, with the data source `source` if that is not empty.

    Raises ValueError if the run had a data source of a user's and none is given.
    """
    manifest = artifact.manifest
    assert manifest.training is not None, "an imported artifact has no run"
    document = manifest.training.config
    if manifest.model in MODELS.built_in():
        config = TrainConfig.from_json(document, models.load(manifest.model).Config)
    else:
        facts = _facts(artifact, _object(document.get("model")))
        config = TrainConfig.from_json(document | {"model": facts}, RecordedModel)
    if source:
        config = replace(config, data=replace(config.data, source=own_code.find(DATA, source).name))
    elif config.data.source not in DATA.built_in():
        name = printable(config.data.source)
        entry = _object(_object(document.get("code")).get(config.data.source))
        where = f"./{printable(str(entry['file']))}" if "file" in entry else name
        raise ValueError(
            f"{artifact.id} was trained on data source {name}, code that an artifact never carries"
            f" nor has run: give it with --source, such as --source {where}"
        )
    return config


def _object(value: Any) -> dict[str, Any]:
    """A JSON object of a manifest; {} for anything else, as a stranger may have written it."""
    return value if isinstance(value, dict) else {}


def _facts(artifact: Artifact, recorded: dict[str, Any]) -> dict[str, Any]:
    """Fields of RecordedModel, by the signatures."""
    signature = artifact.signature(evaluated(artifact))
    parts = {spec.kind: spec.shape for spec in signature.at(signature.sizes({})).outputs}
    tokens = [len(spec.vocabulary) for spec in signature.outputs if spec.kind == "text"]
    label = signature.label
    facts = {
        "shape": next(iter(parts.values())),
        "num_classes": 0 if label is None or label.range is None else int(label.range[1]) + 1,
        "parts": parts,
        "vocabulary": max(tokens, default=0),
    }
    if recorded.get("likelihood") in ("bernoulli", "gaussian"):
        facts["likelihood"] = recorded["likelihood"]
        facts["gaussian_std"] = recorded.get("gaussian_std", 0.3)
    return facts
