"""An ONNX file as a feature network, run by onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aigc.artifact.providers import NAMES, ProviderOptions, chain, cuda_options, load_libraries
from aigc.artifact.providers import resolve as resolved
from aigc.artifact.runtime import ort
from aigc.config import require
from aigc.feature_network.feature_input import FeatureInput, identity

FEATURES = "features"
"""Name of the output that features are taken of where there are several."""
Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureGraph:
    """A graph of one input, pictures."""

    session: Any
    pictures: FeatureInput
    output: str
    """Name of the output of features."""
    map_names: list[str]
    """Names of the outputs that are feature maps, (N, D, h, w)."""
    sha256: str

    def features(self, images: Images) -> Images:
        """(N, C, H, W) float32 in [-1, 1] -> (N, D) float32."""
        return flat(self._run([self.output], images)[0])

    def maps(self, images: Images) -> list[Images]:
        """(N, C, H, W) float32 in [-1, 1] -> (N, D, h, w) float32, all of map_names."""
        return self._run(self.map_names, images)

    def _run(self, names: list[str], images: Images) -> list[Images]:
        given = self.session.get_inputs()[0].name
        feeds = {given: self.pictures(torch.from_numpy(images)).numpy()}
        try:
            found = self.session.run(names, feeds)
        except Exception as error:  # onnxruntime raises pybind types without a common base
            raise ValueError(
                f"feature network {self.pictures.where} fails for pictures {feeds[given].shape}:"
                f" {' '.join(str(error).split())[:300]}"
            ) from error
        return [np.asarray(one, np.float32) for one in found]


def flat(features: NDArray[Any]) -> Images:
    """(N, D), or (N, D, h, w) whose mean over places is taken -> (N, D) float32."""
    places = features.reshape(*features.shape[:2], -1)
    return np.asarray(places.mean(2), np.float32)


def open_graph(path: Path, options: Mapping[str, str]) -> FeatureGraph:
    """Open a file. Its metadata may say what options do, which come first.

    Raises ValueError if it is no graph of one picture.
    """
    require(path.is_file(), f"there is no file {path}")
    data = path.read_bytes()
    session = _session(data, path)
    metadata = session.get_modelmeta().custom_metadata_map
    said = {**metadata, **options}
    pictures = FeatureInput.of_graph(session.get_inputs(), said, str(path))
    output, ranks = _output_of(session, said.get("output", ""), path)
    return FeatureGraph(
        session=session,
        pictures=pictures,
        output=output,
        map_names=[name for name, rank in ranks.items() if rank == 4],
        sha256=identity(data, options),
    )


def _session(data: bytes, path: Path) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 3
    wanted = resolved("auto")
    load_libraries(wanted)
    cuda = cuda_options(ProviderOptions())
    providers = [(NAMES[one], cuda if one == "cuda" else {}) for one in chain(wanted)]
    try:
        return ort.InferenceSession(data, settings, providers=providers)
    except Exception as error:  # onnxruntime raises pybind types without a common base
        raise ValueError(
            f"{path} is no ONNX file that onnxruntime loads, with its weights inside:"
            f" {' '.join(str(error).split())[:300]}"
        ) from error


def _output_of(session: Any, wanted: str, path: Path) -> tuple[str, dict[str, int]]:
    """Name of the output of features, and the ranks of all outputs by name."""
    ranks = {one.name: len(one.shape) for one in session.get_outputs()}
    names = ", ".join(ranks)
    if not wanted:
        wanted = FEATURES if FEATURES in ranks else next(iter(ranks))
        require(
            len(ranks) == 1 or wanted == FEATURES,
            f"{path} has the outputs {names}; say which are the features by {path},output=NAME",
        )
    require(wanted in ranks, f"{path} has no output {wanted!r}; it has {names}")
    require(
        ranks[wanted] in (2, 4),
        f"{path}: features must be (N, D) or (N, D, h, w); output {wanted!r} has rank"
        f" {ranks[wanted]}",
    )
    return wanted, ranks
