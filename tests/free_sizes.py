"""Artifacts with free axes, made without torch: a convolutional generator, an upscaler that
somebody else might have made, a generator of sounds of any length; and upscalers with tiles."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from aigc.artifact import Signature, Store, TensorSpec, latents
from aigc.artifact.axes import Axis, Shape
from aigc.artifact.axes import free_positions as free
from aigc.artifact.preprocessing import default_for
from aigc.artifact.references import reference_file
from aigc.artifact.runtime import ort
from aigc.artifact.sampling_inputs import channels
from aigc.sealing import seal
from tests.sealing.upscalers import upscaler
from tests.serve.artifacts import LABEL, publish_sealed, write_graph

SIDE = {"h": Axis(min=2, max=12, default=4), "w": Axis(min=2, max=12, default=6)}
EVEN = {name: Axis(min=4, max=16, multiple=2, default=8) for name in ("h", "w")}
LENGTH = {"t": Axis(min=1, max=40, default=10)}


def _spec(name: str, kind: Any, *shape: int | str, **more: Any) -> TensorSpec:
    return TensorSpec(name=name, kind=kind, dtype="float32", shape=shape, **more)


LATENT = _spec("latent", "latent", 4, "h", "w")
SMALL = _spec(
    "image", "image", 1, "h", "w", range=(-1, 1), preprocessing=default_for("image", free=True)
)
LARGE = _spec("image", "image", 1, "2*h", "2*w", range=(-1, 1))
SOUND = _spec("sound", "audio", 1, "16*t+8", range=(-1, 1), sample_rate_hz=8000)

SIGNATURES = {
    "sample": Signature(graph="sample.onnx", inputs=(LATENT, LABEL), outputs=(LARGE,), axes=SIDE),
    "enlarge": Signature(
        graph="enlarge.onnx",
        inputs=(SMALL,),
        outputs=(_spec("large", "image", 1, "2*h", "2*w", range=(-1, 1)),),
        axes=EVEN,
    ),
    "hum": Signature(
        graph="hum.onnx", inputs=(_spec("latent", "latent", 2, "t"),), outputs=(SOUND,), axes=LENGTH
    ),
}


def publish_free(store: Store, folder: Path, name: str) -> str:
    """Signatures `sample` of a class, `enlarge` of an image, `hum`; references of several sizes."""
    random = np.random.default_rng(3)

    def weights(*shape: int) -> Any:
        return random.normal(0, 0.4, shape).astype(np.float32)

    (folder / "references").mkdir(parents=True)
    node = helper.make_node
    same: Any = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    write_graph(
        folder / "sample.onnx",
        [
            node("Gather", ["classes", "label"], ["a"]),
            node("Conv", ["latent", "first"], ["b"], **same),
            node("Add", ["a", "b"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("Conv", ["d", "second"], ["e"], **same),
            node("DepthToSpace", ["e"], ["f"], blocksize=2),
            node("Tanh", ["f"], ["image"]),
        ],
        {
            "classes": weights(10, 8, 1, 1),
            "first": weights(8, 4, 3, 3),
            "second": weights(4, 8, 3, 3),
        },
        SIGNATURES["sample"],
    )
    write_graph(
        folder / "enlarge.onnx",
        [
            node("Conv", ["image", "first"], ["a"], **same),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "second"], ["c"], **same),
            node("DepthToSpace", ["c"], ["d"], blocksize=2),
            node("Tanh", ["d"], ["large"]),
        ],
        {"first": weights(8, 1, 3, 3), "second": weights(4, 8, 3, 3)},
        SIGNATURES["enlarge"],
    )
    write_graph(
        folder / "hum.onnx",
        [
            node("ConvTranspose", ["latent", "first"], ["a"], kernel_shape=[24], strides=[16]),
            node("Tanh", ["a"], ["sound"]),
        ],
        {"first": weights(2, 1, 24)},
        SIGNATURES["hum"],
    )
    for called, signature in SIGNATURES.items():
        odd = {axis: one.min + one.multiple for axis, one in signature.axes.items()}
        for sizes in (signature.sizes({}), signature.smallest, signature.largest, odd):
            _refer(folder, called, sizes)
    return publish_sealed(store, folder, name, SIGNATURES)


def _refer(folder: Path, called: str, sizes: dict[str, int]) -> None:
    """References of a signature at sizes: whatever its graph gives."""
    named = SIGNATURES[called]
    feeds = {
        spec.name: latents.labels(0, range(3), 10)
        if spec.kind == "label"
        else noise(spec.fixed_shape, each.shape).clip(-1, 1)
        for spec, each in zip(named.at(sizes).inputs, named.inputs, strict=True)
    }
    session = ort.InferenceSession(folder / named.graph)
    names = [output.name for output in session.get_outputs()]
    arrays = {f"in/{k}": v for k, v in feeds.items()}
    arrays |= {f"out/{k}": v for k, v in zip(names, session.run(names, feeds), strict=True)}
    file = reference_file(called, None if sizes == named.sizes({}) else sizes)
    np.savez(folder / file, **arrays)


def noise(shape: tuple[int, ...], named: Shape) -> Any:
    return latents.normal(0, range(3), shape, free=free(named))


def seal_tiled(folder: Path) -> str:
    """Signatures `enlarge` of an image and `sample` of noise, both made of tiles where larger."""
    axes = {
        "height": Axis(min=4, max=16, multiple=2, default=8),
        "width": Axis(min=4, max=14, default=8),
    }
    taken = {
        "enlarge": _spec("lr", "image", 1, "height", "width", range=(0, 1)),
        "sample": _spec("z", "latent", 2, "height", "width"),
    }
    large = _spec("hr", "image", 1, "2*height", "2*width", range=(0, 1))
    signatures = {
        name: Signature(graph=f"{name}.onnx", inputs=(one,), outputs=(large,), axes=axes)
        for name, one in taken.items()
    }
    graphs = {
        name: upscaler(folder / f"{name}.onnx", 2, taken=(one.name, channels(one)))
        for name, one in taken.items()
    }
    return seal(graphs, name="up", store=folder / "store", signatures=signatures, tile=True)
