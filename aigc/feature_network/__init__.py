"""Networks that turn pictures into features, by reference, for metrics and for losses.

network = load("inception.onnx,range=0..1,size=299")     # for metrics
network.features(images)                                  # (N, C, H, W) -> (N, D)
network = load_module("./vgg.py")                         # for losses
network.feature_maps(x)                                   # tensors with gradients

A reference is one of these; OPTION=VALUE may follow, separated by commas:
- FILE.onnx, whose one output is (N, D), or (N, D, h, w) of which the mean over places is taken; for
  metrics alone, since onnxruntime has no gradients;
- FILE.py of a user's that defines `Network`, a torch module made without arguments, with its
  weights in FILE.safetensors beside it. `feature_maps(x)` returns a list of (N, D, h, w);
  `features(x)` returns (N, D), by default the mean of the last map over places; `channels = 3`
  has grey pictures repeated;
- an artifact or the folder of a run whose model has the signature `features` and the method
  `feature_maps`, such as aigc/models/classifier.py. Losses need an artifact with --weights.

Weights are read from safetensors or ONNX, never from pickles. A network is told from others by the
SHA-256 of what it is made of, whose first digits are in its name; with the option `sha256=DIGITS`
any other is refused.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from aigc import models
from aigc.artifact import Artifact
from aigc.artifact.manifest import WEIGHTS
from aigc.config import TrainConfig, require
from aigc.feature_network.feature_input import (
    PIN,
    FeatureInput,
    given_options,
    identity,
    with_signature,
)
from aigc.feature_network.onnx_graph import flat, open_graph
from aigc.files import expanded, read_text
from aigc.model import GenerativeModel
from aigc.own_code import MODELS, code_files
from aigc.training import run_code, run_folder

SIGNATURE = "features"
"""Signature of artifacts and runs that turns pictures into features."""
CLASS = "Network"
"""Name that a file of a user's defines."""
DIGITS = 8
"""Digits of the SHA-256 in a name."""
BATCH = 64
"""Pictures in one run of a network."""

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network for metrics; it is deterministic and never trained."""

    name: str
    """STEM@DIGITS, part of the names of metrics."""
    sha256: str
    run: Callable[[Images], Images]
    """A batch (N, C, H, W) float32 in [-1, 1] -> (N, D) float32."""
    run_maps: Callable[[Images], list[Images]] | None = None
    """The same -> feature maps, each (N, D, h, w) float32; None if it has none."""

    def features(self, images: Images) -> Images:
        """(N, C, H, W) float32 in [-1, 1] -> (N, D) float32, N > 0.

        Raises ValueError for features that are not finite.
        """
        found = np.concatenate(
            [self.run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        )
        if not np.isfinite(found).all():
            fault = "gives features" if np.isfinite(images).all() else "is given pictures"
            raise ValueError(f"feature network {self.name} {fault} that are NaN or infinite")
        return found

    def feature_maps(self, images: Images) -> list[Images]:
        """A batch (N, C, H, W) float32 in [-1, 1] -> maps of (N, D, h, w). Raises ValueError if the
        network has none."""
        if self.run_maps is None:
            raise ValueError(
                f"feature network {self.name} has no feature maps; take an ONNX file with outputs"
                " of rank 4, a FILE.py, or the run of a model with `feature_maps`"
            )
        return self.run_maps(images)


class FrozenNetwork(nn.Module):
    """A network for losses: always in eval mode, its weights are buffers and no part of the state.

    Checkpoints, moving averages and optimizers so leave it out; `.to()` moves it.
    """

    def __init__(self, network: nn.Module, name: str, sha256: str, pictures: FeatureInput) -> None:
        super().__init__()
        for module in network.modules():
            for key, parameter in [*module.named_parameters(recurse=False)]:
                del module._parameters[key]
                module.register_buffer(key, parameter.detach())
            module._non_persistent_buffers_set.update(module._buffers)
        self.network = network
        self.name, self.sha256, self._pictures = name, sha256, pictures
        self.eval()

    def train(self, mode: bool = True) -> "FrozenNetwork":
        """Stay in eval mode."""
        return super().train(False)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """x: (N, C, H, W) in [-1, 1] -> maps of (N, D, h, w), with gradients by x.

        Raises ValueError if the network takes no such pictures, or gives no such maps.
        """
        maps = _called(self.name, self.network.feature_maps, self._pictures(x))
        if not (
            isinstance(maps, list | tuple)
            and maps
            and all(isinstance(one, Tensor) and one.ndim == 4 for one in maps)
        ):
            raise ValueError(
                f"feature_maps(x) of feature network {self.name} must return a list of tensors"
                f" (N, D, h, w), got {_described(maps)}"
            )
        return list(maps)

    def features(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [-1, 1] -> (N, D); the mean of the last map over places if the network
        has no method of that name."""
        own = getattr(self.network, "features", None)
        if callable(own) and not isinstance(own, nn.Module):
            found = _called(self.name, own, self._pictures(x))
            if not (isinstance(found, Tensor) and found.ndim == 2):
                raise ValueError(
                    f"features(x) of feature network {self.name} must return a tensor (N, D), got"
                    f" {_described(found)}"
                )
            return found
        return self.feature_maps(x)[-1].mean((2, 3))

    forward = feature_maps


def _called(name: str, network: Any, x: Tensor) -> Any:
    """Call a network. Raises ValueError if it fails for pictures of that size."""
    try:
        return network(x)
    except (RuntimeError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"feature network {name} fails for pictures {tuple(x.shape)}: {error}"
        ) from error


def _described(found: Any) -> str:
    return f"a tensor of {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)[:100]


def load(reference: str) -> FeatureNetwork:
    """A network for metrics. Raises ValueError, with what to do, for one that cannot be read."""
    path, options = given_options(reference)
    where = Path(expanded(path))
    if where.suffix == ".py" or (where / run_folder.CONFIG).exists():
        return _of_module(load_module(reference))
    digits = options.pop(PIN, "")
    if where.suffix == ".onnx":
        graph = open_graph(where, options)
        found = FeatureNetwork(
            name=_named(where.stem, graph.sha256),
            sha256=graph.sha256,
            run=graph.features,
            run_maps=graph.maps if graph.map_names else None,
        )
    else:
        _no_options(reference, options)
        found = _of_artifact(Artifact.open(path, verify=False, threads=torch.get_num_threads()))
    _check_pin(path, digits, found.sha256)
    return found


def pinned(reference: str) -> str:
    """The reference of a network for losses with `sha256=DIGITS` of the network that it leads to
    now; as it is if it has digits already, or leads to none."""
    if not reference or PIN in given_options(reference)[1]:
        return reference
    try:
        return f"{reference},{PIN}={load_module(reference).sha256[:DIGITS]}"
    except Exception:  # any error of a user's file; preflight, which needs the network, names it
        return reference


def load_module(reference: str) -> FrozenNetwork:
    """A network for losses. Raises ValueError, with what to do, for one that cannot be read or that
    has no gradients. The state of torch's global generator is kept."""
    path, options = given_options(reference)
    digits = options.pop(PIN, "")
    where = Path(expanded(path))
    require(
        where.suffix != ".onnx",
        f"{path} is an ONNX file, which has no gradients: for a loss define the network in a"
        f" FILE.py with {CLASS} and put its weights into FILE.safetensors, or name a run or"
        " artifact of `aigc train classifier`",
    )
    with torch.random.fork_rng(devices=[]):
        if where.suffix == ".py":
            found = _of_file(where, options)
        else:
            _no_options(reference, options)
            if (where / run_folder.CONFIG).exists():
                found = _of_model(_run_model(where), where.resolve().name, reference)
            else:
                artifact = Artifact.open(path, verify=False)
                found = _of_model(_artifact_model(artifact), artifact.manifest.name, reference)
    _check_pin(path, digits, found.sha256)
    return found


def _check_pin(path: str, digits: str, sha256: str) -> None:
    require(
        sha256.startswith(digits),
        f"{path} is not the network that is wanted: its sha256 begins with {sha256[:DIGITS]}, and"
        f" {PIN}={digits} is asked for; restore that one, or begin another run and name the network"
        f" without {PIN}",
    )


def _no_options(reference: str, options: Mapping[str, str]) -> None:
    require(
        not options,
        f"{reference}: the signature of a run or artifact says what pictures it takes; leave out"
        f" {', '.join(options)}",
    )


def _named(stem: str, sha256: str) -> str:
    return f"{stem}@{sha256[:DIGITS]}"


def _of_file(path: Path, options: Mapping[str, str]) -> FrozenNetwork:
    """`Network` of a user's file, with the weights beside it."""
    file = code_files.read(path)
    network_class = getattr(code_files.load(file), CLASS, None)
    if network_class is None:
        raise ValueError(
            f"{path} defines no {CLASS}; add a class {CLASS}(torch.nn.Module), made without"
            " arguments, with feature_maps(x) that returns a list of tensors (N, D, h, w)"
        )
    require(
        "output" not in options,
        f"{path}: output is an option of ONNX files; {CLASS}.features(x) says what is taken",
    )
    try:
        network = network_class()
    except TypeError as error:
        raise ValueError(f"{path}: {CLASS}() must be made without arguments: {error}") from error
    require(isinstance(network, nn.Module), f"{path}: {CLASS}() must be a torch.nn.Module")
    require(
        hasattr(network, "feature_maps"),
        f"{path}: {CLASS} has no feature_maps; add feature_maps(x), which returns a list of tensors"
        " (N, D, h, w)",
    )
    channels = int(getattr(network, "channels", 0))
    pictures = FeatureInput.of(options, str(path), channels=channels)
    beside = path.with_suffix(".safetensors")
    try:
        weights = beside.read_bytes()
        network.load_state_dict(load_safetensors(weights))
    except FileNotFoundError:
        raise ValueError(
            f"there is no {beside} with the weights of {path.name}; write them with"
            " safetensors.torch.save_file(network.state_dict(), ...)"
        ) from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{beside} does not fit {CLASS} of {path.name}: {error}") from error
    sha256 = identity(file.source + weights, options)
    return FrozenNetwork(network, _named(file.stem, sha256), sha256, pictures)


def _of_model(model: GenerativeModel, stem: str, reference: str) -> FrozenNetwork:
    """A model with `feature_maps`, whose signature says what pictures it takes."""
    exports = model.exports()
    require(
        SIGNATURE in exports and hasattr(model, "feature_maps"),
        f"{reference} has no features: it needs a signature {SIGNATURE!r} and a method"
        " `feature_maps`, as the model `classifier` has",
    )
    sha256 = weights_sha256(model)
    pictures = with_signature(exports[SIGNATURE].signature, reference)
    return FrozenNetwork(model, _named(stem, sha256), sha256, pictures)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of the names and bytes of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _run_model(folder: Path) -> GenerativeModel:
    """Model of a run's newest checkpoint, with its averaged weights."""
    document: dict[str, Any] = json.loads(read_text(folder / run_folder.CONFIG))
    run_code.read(folder, document)
    model = _built(document, document["preset"].partition(":")[0])
    checkpoint = run_folder.newest(folder / run_folder.CHECKPOINTS)
    require(checkpoint is not None, f"{folder} has no whole checkpoint yet; train it first")
    assert checkpoint is not None
    tensors = load_safetensors((checkpoint / run_folder.STATE).read_bytes())
    for part, prefix in ((model, "model/"), (model.averaged(), "average/")):
        part.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    return model.float()


def _artifact_model(artifact: Artifact) -> GenerativeModel:
    """Model of an artifact with weights; code of a user's is never run because one names it."""
    manifest = artifact.manifest
    require(
        WEIGHTS in manifest.files and manifest.training is not None,
        f"{artifact.id} carries no weights; export it with --weights, or name its run",
    )
    require(
        manifest.model in MODELS.built_in(),
        f"{artifact.id} is of {manifest.model}, code that an artifact never carries; name its run",
    )
    assert manifest.training is not None
    model = _built(manifest.training.config, manifest.model)
    model.load_state_dict(load_safetensors(artifact.read(WEIGHTS)))
    return model.float()


def _built(document: dict[str, Any], name: str) -> GenerativeModel:
    return models.build(TrainConfig.from_json(document, models.load(name).Config))


def _of_module(network: FrozenNetwork) -> FeatureNetwork:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)

    def features(images: Images) -> Images:
        with torch.no_grad():
            found = network.features(torch.from_numpy(images).to(device))
        return found.float().cpu().numpy()

    def maps(images: Images) -> list[Images]:
        with torch.no_grad():
            found = network.feature_maps(torch.from_numpy(images).to(device))
        return [one.float().cpu().numpy() for one in found]

    return FeatureNetwork(name=network.name, sha256=network.sha256, run=features, run_maps=maps)


def _of_artifact(artifact: Artifact) -> FeatureNetwork:
    """The graph of the signature `features`, whose first output they are."""
    require(
        SIGNATURE in artifact.manifest.signatures,
        f"{artifact.id} has no signature {SIGNATURE!r}, only"
        f" {', '.join(artifact.manifest.offered)}; take one of `aigc train classifier`",
    )
    signature = artifact.signature(SIGNATURE)
    pictures = with_signature(signature, artifact.id)
    given, made = signature.inputs[0].name, signature.outputs[0].name
    sha256 = artifact.manifest.files[signature.graph].sha256

    def run(images: Images) -> Images:
        feeds = {given: pictures(torch.from_numpy(images)).numpy()}
        return flat(artifact.run(SIGNATURE, feeds)[made])

    return FeatureNetwork(name=_named(artifact.manifest.name, sha256), sha256=sha256, run=run)
