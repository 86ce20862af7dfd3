"""Tiny artifacts of every modality, made without torch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc.artifact import Signature, Store, TensorSpec, autoregressive, latents
from aigc.artifact.manifest import Manifest, Parity, Reproducibility, Training, seal
from aigc.artifact.preprocessing import default_for
from aigc.artifact.runtime import ort

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LATENT = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(16,))
LABEL = TensorSpec(
    name="label", kind="label", dtype="int64", shape=(), range=(0, 9), classes=CLASSES
)
IMAGE = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 8, 8), range=(-1, 1))
WORDS = ("one", "twenty", "twenty one", "Two")
WORD = replace(LABEL, range=(0, len(WORDS) - 1), classes=WORDS)
SOUND = TensorSpec(
    name="sound", kind="audio", dtype="float32", shape=(1, 400), range=(-1, 1), sample_rate_hz=8000
)
VECTOR = TensorSpec(name="vector", kind="vector", dtype="float32", shape=(4,))


def write_graph(
    path: Path, nodes: list[Any], weights: dict[str, Any], signature: Signature
) -> None:
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

    def info(spec: TensorSpec) -> Any:
        return helper.make_tensor_value_info(spec.name, types[spec.dtype], ["batch", *spec.shape])

    graph = helper.make_graph(
        nodes,
        path.stem,
        [info(spec) for spec in signature.inputs],
        [info(spec) for spec in signature.outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def publish(
    store: Store,
    folder: Path,
    name: str,
    seed: int,
    classes: tuple[str, ...] = CLASSES,
    ballast: int = 0,
    known: int = len(CLASSES),
) -> str:
    """A class-conditional generator of 8 x 8 images, an encoder, and a signature of numbers.

    `classes`: ten of them. `ballast`: bytes of weights that nothing uses. Samples of a class from
    `known` on make the graph fail.
    """
    label = replace(LABEL, classes=classes)
    random = np.random.default_rng(seed)
    weights = {
        "w": random.normal(0, 0.4, (16, 64)).astype(np.float32),
        "classes": random.normal(0, 0.6, (10, 64)).astype(np.float32)[:known],
        "shape": np.array([-1, 1, 8, 8], np.int64),
    }
    signatures = {
        "sample": Signature(graph="sample.onnx", inputs=(LATENT, label), outputs=(IMAGE,)),
        "encode": Signature(graph="encode.onnx", inputs=(IMAGE,), outputs=(VECTOR,)),
        "numbers": Signature(graph="numbers.onnx", inputs=(LATENT,), outputs=(VECTOR,)),
    }
    (folder / "references").mkdir(parents=True)
    node = helper.make_node
    write_graph(
        folder / "sample.onnx",
        [
            node("MatMul", ["latent", "w"], ["a"]),
            node("Gather", ["classes", "label"], ["b"]),
            node("Add", ["a", "b"], ["c"]),
            node("Tanh", ["c"], ["d"]),
            node("Reshape", ["d", "shape"], ["image"]),
        ],
        weights | ({"ballast": np.zeros(ballast, np.uint8)} if ballast else {}),
        signatures["sample"],
    )
    flat = {"flat": np.array([-1, 64], np.int64), "w": weights["w"].T[:, :4].copy()}
    write_graph(
        folder / "encode.onnx",
        [node("Reshape", ["image", "flat"], ["a"]), node("MatMul", ["a", "w"], ["vector"])],
        flat,
        signatures["encode"],
    )
    write_graph(
        folder / "numbers.onnx",
        [node("MatMul", ["latent", "w"], ["vector"])],
        {"w": weights["w"][:, :4].copy()},
        signatures["numbers"],
    )
    inputs: dict[str, dict[str, Any]] = {
        "sample": {
            "latent": latents.normal(0, range(16), (16,)),
            "label": latents.labels(0, range(16), 10) % known,
        },
        "encode": {"image": latents.normal(0, range(16), (1, 8, 8))},
        "numbers": {"latent": latents.normal(0, range(16), (16,))},
    }
    for signature, feeds in inputs.items():
        write_references(folder, signature, feeds)
    return publish_sealed(store, folder, name, signatures)


def publish_colours(store: Store, folder: Path, name: str) -> str:
    """A generator of colour images, 6 wide and 4 high, without classes."""
    random = np.random.default_rng(5)
    image = replace(IMAGE, shape=(3, 4, 6))
    signatures = {"sample": Signature(graph="sample.onnx", inputs=(LATENT,), outputs=(image,))}
    (folder / "references").mkdir(parents=True)
    node = helper.make_node
    weights = {
        "w": random.normal(0, 0.4, (16, 72)).astype(np.float32),
        "shape": np.array([-1, 3, 4, 6], np.int64),
    }
    nodes = [
        node("MatMul", ["latent", "w"], ["a"]),
        node("Tanh", ["a"], ["b"]),
        node("Reshape", ["b", "shape"], ["image"]),
    ]
    write_graph(folder / "sample.onnx", nodes, weights, signatures["sample"])
    write_references(folder, "sample", {"latent": latents.normal(0, range(16), (16,))})
    return publish_sealed(store, folder, name, signatures)


def publish_sounds(store: Store, folder: Path, name: str) -> str:
    """A generator of 50 ms of sound at 8 kHz by class; one class has a name of two words."""
    random = np.random.default_rng(6)
    signatures = {
        "sample": Signature(graph="sample.onnx", inputs=(LATENT, WORD), outputs=(SOUND,)),
    }
    (folder / "references").mkdir(parents=True)
    node = helper.make_node
    weights = {
        "w": random.normal(0, 0.2, (16, 400)).astype(np.float32),
        "classes": random.normal(0, 0.6, (len(WORDS), 400)).astype(np.float32),
        "shape": np.array([-1, 1, 400], np.int64),
    }
    nodes = [
        node("MatMul", ["latent", "w"], ["a"]),
        node("Gather", ["classes", "label"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("Tanh", ["c"], ["d"]),
        node("Reshape", ["d", "shape"], ["sound"]),
    ]
    write_graph(folder / "sample.onnx", nodes, weights, signatures["sample"])
    feeds = {
        "latent": latents.normal(0, range(16), (16,)),
        "label": latents.labels(0, range(16), len(WORDS)),
    }
    write_references(folder, "sample", feeds)
    return publish_sealed(store, folder, name, signatures)


def publish_translator(store: Store, folder: Path, name: str) -> str:
    """Image, text and sound from one another; each output depends on all that is given."""
    random = np.random.default_rng(8)
    image = replace(IMAGE, presence="image_given", preprocessing=default_for("image"))
    text = TensorSpec(
        name="text",
        kind="text",
        dtype="int64",
        shape=(6,),
        range=(0, len(LETTERS) - 1),
        vocabulary=LETTERS,
        presence="text_given",
        preprocessing=default_for("text"),
    )
    audio = replace(SOUND, name="audio", presence="audio_given", preprocessing=default_for("audio"))
    flags = [
        TensorSpec(
            name=f"{one.name}_given", kind="presence", dtype="float32", shape=(), range=(0, 1)
        )
        for one in (image, text, audio)
    ]
    new = [
        replace(one, name=f"new_{one.name}", presence="", preprocessing=msgspec.UNSET)
        for one in (image, text, audio)
    ]
    signature = Signature(
        graph="translate.onnx", inputs=(image, text, audio, *flags, LATENT), outputs=tuple(new)
    )
    (folder / "references").mkdir(parents=True)
    node = helper.make_node
    weights: dict[str, Any] = {
        f"from_{one}": random.normal(0, 0.5, (size, 16)).astype(np.float32)
        for one, size in (("image", 64), ("text", 6), ("audio", 400))
    }
    weights |= {
        f"to_{one}": random.normal(0, 0.5, (16, size)).astype(np.float32)
        for one, size in (("image", 64), ("text", 6 * len(LETTERS)), ("audio", 400))
    }
    weights |= {"row": np.array([-1, 1], np.int64), "flat": np.array([0, -1], np.int64)}
    weights |= {
        "image_shape": np.array([-1, 1, 8, 8], np.int64),
        "text_shape": np.array([-1, 6, len(LETTERS)], np.int64),
        "audio_shape": np.array([-1, 1, 400], np.int64),
    }
    nodes = [node("Cast", ["text"], ["text_f"], to=TensorProto.FLOAT)]
    code = "latent"
    for one, given in (("image", "image"), ("text", "text_f"), ("audio", "audio")):
        nodes += [
            node("Reshape", [given, "flat"], [f"{one}_flat"]),
            node("MatMul", [f"{one}_flat", f"from_{one}"], [f"{one}_code"]),
            node("Reshape", [f"{one}_given", "row"], [f"{one}_row"]),
            node("Mul", [f"{one}_code", f"{one}_row"], [f"{one}_part"]),
            node("Add", [code, f"{one}_part"], [f"after_{one}"]),
        ]
        code = f"after_{one}"
    for one in ("image", "text", "audio"):
        nodes += [
            node("MatMul", [code, f"to_{one}"], [f"{one}_long"]),
            node("Reshape", [f"{one}_long", f"{one}_shape"], [f"{one}_raw"]),
        ]
    nodes += [
        node("Tanh", ["image_raw"], ["new_image"]),
        node("ArgMax", ["text_raw"], ["new_text"], axis=2, keepdims=0),
        node("Tanh", ["audio_raw"], ["new_audio"]),
    ]
    write_graph(folder / "translate.onnx", nodes, weights, signature)
    tokens = latents.labels(1, range(96), len(LETTERS)).reshape(16, 6)
    feeds = {
        "image": np.tanh(latents.normal(2, range(16), (1, 8, 8))),
        "text": tokens,
        "audio": np.tanh(latents.normal(3, range(16), (1, 400))),
        **{f.name: latents.labels(i, range(16), 2).astype(np.float32) for i, f in enumerate(flags)},
        "latent": latents.normal(0, range(16), (16,)),
    }
    write_references(folder, "translate", feeds)
    return publish_sealed(store, folder, name, {"translate": signature})


def write_references(folder: Path, called: str, feeds: dict[str, Any]) -> None:
    """References of a signature: whatever its graph gives for these inputs."""
    session = ort.InferenceSession(folder / f"{called}.onnx")
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    arrays = {f"in/{k}": v for k, v in feeds.items()} | {f"out/{k}": v for k, v in outputs.items()}
    np.savez(folder / "references" / f"{called}.npz", **arrays)


def publish_sealed(store: Store, folder: Path, name: str, signatures: dict[str, Signature]) -> str:
    bit = Reproducibility(level="bit", max_abs=0)
    parity = Parity(max_abs=0, uint8_mismatch=0, samples=0, batch_sizes=(1,))
    manifest = Manifest(
        name=name,
        version=store.next_version(name),
        family="gan",
        model="tiny",
        preset="test",
        created="2026-01-01T00:00:00Z",
        licence="Apache-2.0",
        signatures=signatures,
        reproducibility=dict.fromkeys(signatures, bit),
        parity=dict.fromkeys(signatures, parity),
        training=Training(config={}, samples=0, data={}, wall_seconds=0, workers=0),
        metrics={"accuracy": 0.5},
    )
    seal(folder, manifest)
    return store.publish(folder)


WORDS_LENGTH = 24
LETTERS = ("", " ", *"abcdefghij", "be", "fe")
"""Characters, and two pieces of two."""


def publish_words(store: Store, folder: Path, name: str, *, classes: tuple[str, ...] = ()) -> str:
    """Texts of letters, written step by step by a small recurrent net; `classes`: of texts."""
    state, high = 8, float(len(LETTERS) - 1)
    random = np.random.default_rng(11)

    def weights(*shape: int, scale: float = 1.0) -> Any:
        return random.normal(0, scale, shape).astype(np.float32)

    def spec(name: str, kind: Any, dtype: Any, *shape: int, **more: Any) -> TensorSpec:
        return TensorSpec(name=name, kind=kind, dtype=dtype, shape=shape, **more)

    latent, vector = (spec("latent", kind, "float32", 4) for kind in ("latent", "vector"))
    text = spec("text", "text", "int64", WORDS_LENGTH, range=(0, high), vocabulary=LETTERS)
    mood = replace(LABEL, range=(0, len(classes) - 1), classes=classes)
    label = (mood,) if classes else ()
    before = spec("state", "vector", "float32", state)
    token = spec("token", "token", "int64", range=(0, high), vocabulary=LETTERS)
    most = spec(
        "max_tokens", "setting", "int64", range=(1, WORDS_LENGTH), default=float(WORDS_LENGTH)
    )
    signatures = {
        "sample": Signature(
            graph="step.onnx",
            inputs=(
                latent,
                *label,
                spec("noise", "uniform", "float32", WORDS_LENGTH),
                spec("temperature", "setting", "float32", range=(0, 100), default=1.0),
                spec("top_k", "setting", "int64", range=(0, high), default=0.0),
                most,
            ),
            outputs=(text,),
            step="step",
        ),
        "decode": Signature(
            graph="step.onnx", inputs=(vector, *label, most), outputs=(text,), step="step"
        ),
        "encode": Signature(
            graph="encode.onnx",
            inputs=(text, *label),
            outputs=tuple(spec(name, "vector", "float32", 4) for name in ("mu", "logvar")),
        ),
        "step": Signature(
            graph="step.onnx",
            inputs=(vector, before, token, *label),
            outputs=(
                spec("logits", "vector", "float32", len(LETTERS)),
                replace(before, name="next_state"),
            ),
        ),
    }
    (folder / "references").mkdir(parents=True)
    node, of_label = helper.make_node, "label" if classes else "none"
    write_graph(
        folder / "step.onnx",
        [
            node("MatMul", ["latent", "of_latent"], ["a"]),
            node("MatMul", ["state", "of_state"], ["b"]),
            node("Gather", ["of_token", "token"], ["c"]),
            *([node("Gather", ["of_label", of_label], ["d"])] if classes else []),
            node("Sum", ["a", "b", "c", *(["d"] if classes else [])], ["e"]),
            node("Tanh", ["e"], ["next_state"]),
            node("MatMul", ["next_state", "of_next"], ["f"]),
            node("Add", ["f", "bias"], ["logits"]),
        ],
        {
            "of_latent": weights(4, state),
            "of_state": weights(state, state, scale=0.5),
            "of_token": weights(len(LETTERS), state),
            "of_next": weights(state, len(LETTERS)),
            "bias": np.zeros(len(LETTERS), np.float32),
            **({"of_label": weights(len(classes), state, scale=2)} if classes else {}),
        },
        signatures["step"],
    )
    write_graph(
        folder / "encode.onnx",
        [
            node("Gather", ["letters", "text"], ["a"]),
            node("ReduceMean", ["a", "axis"], ["b"], keepdims=0),
            *([node("Gather", ["of_label", of_label], ["c"])] if classes else []),
            node("Add" if classes else "Identity", ["b", *(["c"] if classes else [])], ["mu"]),
            node("Neg", ["mu"], ["logvar"]),
        ],
        {
            "letters": weights(len(LETTERS), 4, scale=4),
            "axis": np.array([1], np.int64),
            **({"of_label": weights(len(classes), 4)} if classes else {}),
        },
        signatures["encode"],
    )
    _refer(folder, signatures)
    return publish_sealed(store, folder, name, signatures)


def _refer(folder: Path, signatures: dict[str, Signature]) -> None:
    """Write references of texts: whatever the graphs give for some inputs."""
    sessions = {each: ort.InferenceSession(folder / each) for each in ("step.onnx", "encode.onnx")}

    def run(graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
        names = [output.name for output in sessions[graph].get_outputs()]
        return dict(zip(names, sessions[graph].run(names, feeds), strict=True))

    random = np.random.default_rng(3)
    for each, signature in signatures.items():
        feeds: dict[str, Any] = {}
        for spec in signature.inputs:
            if spec.kind in ("latent", "vector", "uniform"):
                feeds[spec.name] = random.random((8, *spec.shape)).astype(np.float32)
            elif spec.kind == "setting":
                feeds[spec.name] = np.full(8, spec.default, spec.dtype)
            else:
                assert spec.range is not None
                feeds[spec.name] = random.integers(0, int(spec.range[1]) + 1, (8, *spec.shape))
        if signature.step:
            step = signatures[signature.step]
            outputs = autoregressive.generate(signature, step, lambda f: run("step.onnx", f), feeds)
        else:
            outputs = run(signature.graph, feeds)
        arrays = {f"in/{k}": v for k, v in feeds.items()}
        arrays |= {f"out/{k}": v for k, v in outputs.items()}
        np.savez(folder / "references" / f"{each}.npz", **arrays)
