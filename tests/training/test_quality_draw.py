"""Samples that training draws for its grids and its quality are those of the artifact."""

import numpy as np
import pytest

from aigc import models
from aigc.artifact.sampling_inputs import ArtifactSpec
from aigc.training.quality import draw
from tests.manifests import manifest
from tests.small_models import smaller


@pytest.mark.parametrize(
    "preset", ["style_gan:pictures64", "dcgan:digits", "multimodal_vae:digits3"]
)
def test_training_draws_what_an_artifact_draws(preset: str) -> None:
    """Also where a signature has several latents, each with numbers of its own."""
    signature = models.build(smaller(models.preset(preset))).exports()["sample"].signature
    spec = ArtifactSpec(manifest({"sample": signature}))
    labels = np.arange(3) % 2
    label = labels.tolist() if signature.label else None
    expected = spec.draw("sample", 0, range(4, 7), label)
    drawn = draw(signature, range(4, 7), labels)
    assert drawn.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(drawn[name], values, err_msg=name)
