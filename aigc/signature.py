"""Tensor specs that the signatures of several models share."""

from aigc.artifact.manifest import TensorSpec
from aigc.config import ModelConfig


def latent_spec(config: ModelConfig) -> TensorSpec:
    """A latent that the seed gives."""
    return TensorSpec(name="latent", kind="latent", dtype="float32", shape=(config.latent,))


def label_spec(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """The class index of a conditional model; nothing for the others.

    Class names are filled in from the data at export.
    """
    if not config.num_classes:
        return ()
    high = float(config.num_classes - 1)
    return (TensorSpec(name="label", kind="label", dtype="int64", shape=(), range=(0.0, high)),)


def sample_spec(config: ModelConfig) -> TensorSpec:
    """What the model generates, in [-1, 1]; vectors are unbounded.

    The rate of a sound is filled in from the data at export.
    """
    return TensorSpec(
        name=config.modality,
        kind=config.modality,
        dtype="float32",
        shape=config.shape,
        range=None if config.modality == "vector" else (-1.0, 1.0),
    )


def vector_spec(name: str, size: int) -> TensorSpec:
    """A vector given or returned as it is."""
    return TensorSpec(name=name, kind="vector", dtype="float32", shape=(size,))
