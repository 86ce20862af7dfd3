"""The narrow waist between training and serving: sealed ONNX artifacts.

    from aigc.artifact import Artifact

    artifact = Artifact.open("artifacts/digits")
    images = artifact.sample(seed=0, n=16)["image"]     # (16, 1, 28, 28) float32 in [-1, 1]

Needs numpy, onnxruntime, pillow and fsspec; neither torch nor Ray.
"""

from aigc.artifact.manifest import ArtifactError, Manifest, Signature, TensorSpec
from aigc.artifact.session import Artifact
from aigc.artifact.store import Store

__all__ = ["Artifact", "ArtifactError", "Manifest", "Signature", "Store", "TensorSpec"]
