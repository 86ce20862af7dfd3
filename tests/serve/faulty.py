"""Artifacts whose graphs do on some inputs what no manifest promises, made without torch.

The inputs decide row by row (`values`) or for a whole batch at once (`loops`, `shapes`), so that
the references, a batch of zeros at load, and every other request are what they should be.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from aigc.artifact import Signature, Store, TensorSpec
from tests.serve.artifacts import (
    IMAGE,
    LETTERS,
    VECTOR,
    WORDS_LENGTH,
    publish_sealed,
    write_graph,
    write_references,
)

BAD_LABEL = 1
LABEL = TensorSpec(
    name="label", kind="label", dtype="int64", shape=(), range=(0, 2), classes=("a", "b", "c")
)
LATENT = TensorSpec(name="latent", kind="latent", dtype="float32", shape=(4,))
ENDLESS = 1 << 62
node = helper.make_node


def publish_optional(store: Store, folder: Path, name: str) -> str:
    """translate: y = gain * (a + 10 b), of what is given; gain is a setting with the default 1."""
    a, b = (replace(VECTOR, name=one, presence=f"{one}_given") for one in "ab")
    flags = tuple(
        TensorSpec(name=f"{one}_given", kind="presence", dtype="float32", shape=(), range=(0, 1))
        for one in "ab"
    )
    gain = TensorSpec(
        name="gain", kind="setting", dtype="int64", shape=(), range=(0, 2**60), default=1.0
    )
    count = replace(VECTOR, name="count", dtype="int64", shape=())
    signature = Signature(
        graph="translate.onnx",
        inputs=(a, b, *flags, gain),
        outputs=(replace(VECTOR, name="y"), count),
    )
    nodes = [
        node("Unsqueeze", ["a_given", "axis"], ["a_row"]),
        node("Unsqueeze", ["b_given", "axis"], ["b_row"]),
        node("Mul", ["a", "a_row"], ["a_part"]),
        node("Mul", ["b", "b_row"], ["b_once"]),
        node("Mul", ["b_once", "ten"], ["b_part"]),
        node("Add", ["a_part", "b_part"], ["sum"]),
        node("Cast", ["gain"], ["gain_f"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["gain_f", "axis"], ["gain_row"]),
        node("Mul", ["sum", "gain_row"], ["y"]),
        node("Identity", ["gain"], ["count"]),
    ]
    weights = {"axis": np.array([1], np.int64), "ten": np.float32(10)}
    given = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    feeds = {
        "a": np.ones((3, 4), np.float32),
        "b": np.full((3, 4), 2, np.float32),
        "a_given": given[:, 0],
        "b_given": given[:, 1],
        "gain": np.ones(3, np.int64),
    }
    return _publish(store, folder, name, "translate", signature, nodes, weights, feeds)


def publish_faulty(store: Store, folder: Path, name: str, fault: str) -> str:
    """Images by label. Label 1 is at fault: `nan` or `inf` values in its own rows, and a batch in
    which it occurs has another shape (`shape`), does not run (`throw`) or does not end (`loop`)."""
    label = replace(LABEL)
    signature = Signature(graph="sample.onnx", inputs=(LATENT, label), outputs=(IMAGE,))
    weights: dict[str, Any] = {
        "w": np.random.default_rng(3).normal(0, 0.4, (4, 64)).astype(np.float32),
        "image_shape": np.array([-1, 1, 8, 8], np.int64),
        "bad": np.int64(BAD_LABEL),
    }
    nodes = [
        node("MatMul", ["latent", "w"], ["raw"]),
        node("Tanh", ["raw"], ["flat"]),
        node("Reshape", ["flat", "image_shape"], ["good"]),
        node("Equal", ["label", "bad"], ["hits"]),
        node("Cast", ["hits"], ["hits_f"], to=TensorProto.FLOAT),
    ]
    if fault in ("nan", "inf"):
        weights |= {"axes": np.array([1, 2, 3], np.int64), "one": np.float32(1)}
        weights["top"] = np.float32(0 if fault == "nan" else 1)
        nodes += [
            node("Sub", ["one", "hits_f"], ["keep"]),
            node("Unsqueeze", ["keep", "axes"], ["rows"]),
            node("Abs", ["good"], ["size"]),  # x / 1, and of the bad rows 0 / 0 or 1 / 0
            node("Add", ["size", "one"], ["more"]),
            node("Mul", ["more", "top"], ["inf_part"]),
            node("Mul", ["good", "rows"], ["kept"]),
            node("Where", ["hits_b", "inf_part", "kept"], ["over"]),
            node("Div", ["over", "rows"], ["image"]),
        ]
        nodes.insert(-5, node("Unsqueeze", ["hits", "axes"], ["hits_b"]))
    else:
        nodes += [
            node("ReduceMax", ["hits_f"], ["any_f"], keepdims=0),
            node("Cast", ["any_f"], ["any"], to=TensorProto.BOOL),
            node(
                "If", ["any"], ["image"], then_branch=_branch(fault), else_branch=_branch("nothing")
            ),
        ]
    feeds = {
        "latent": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
        "label": np.array([0, 2, 0, 2], np.int64),
    }
    return _publish(store, folder, name, "sample", signature, nodes, weights, feeds)


def _branch(fault: str) -> Any:
    """Out of `good`, by one name for each branch."""
    out = f"{fault}_image"
    constants: dict[str, Any] = {}
    if fault == "nothing":
        nodes = [node("Identity", ["good"], [out])]
    elif fault == "shape":
        constants["wide"] = np.array([1, 3, 8, 8], np.int64)
        nodes = [node("Expand", ["good", "wide"], [out])]
    elif fault == "throw":
        constants["odd"] = np.array([7, 13], np.int64)
        nodes = [node("Reshape", ["good", "odd"], [out])]
    else:
        body = helper.make_graph(
            [node("Identity", ["go_in"], ["go_out"]), node("Neg", ["x_in"], ["x_out"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
                helper.make_tensor_value_info("x_in", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("x_out", TensorProto.FLOAT, None),
            ],
        )
        constants |= {"times": np.int64(ENDLESS), "go": np.array(True)}
        nodes = [node("Loop", ["times", "go", "good"], [out], body=body)]
    return helper.make_graph(
        nodes,
        fault,
        [],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )


def publish_lost_words(store: Store, folder: Path, name: str) -> str:
    """Texts of one letter after another by label; label 1 gets no numbers from its third token."""
    high = float(len(LETTERS) - 1)
    text = TensorSpec(
        name="text",
        kind="text",
        dtype="int64",
        shape=(WORDS_LENGTH,),
        range=(0, high),
        vocabulary=LETTERS,
    )
    state = replace(VECTOR, name="state", shape=(1,))
    token = replace(text, name="token", kind="token", shape=())
    most = TensorSpec(
        name="max_tokens",
        kind="setting",
        dtype="int64",
        shape=(),
        range=(1, WORDS_LENGTH),
        default=float(WORDS_LENGTH),
    )
    signatures = {
        "sample": Signature(graph="step.onnx", inputs=(LABEL, most), outputs=(text,), step="step"),
        "step": Signature(
            graph="step.onnx",
            inputs=(state, token, LABEL),
            outputs=(
                replace(VECTOR, name="logits", shape=(len(LETTERS),)),
                replace(state, name="next_state"),
            ),
        ),
    }
    next_letter = np.zeros((len(LETTERS), len(LETTERS)), np.float32)
    for one in range(len(LETTERS)):
        next_letter[one, 1 + one % (len(LETTERS) - 1)] = 5
    nodes = [
        node("Add", ["state", "one"], ["next_state"]),
        node("Gather", ["next_letter", "token"], ["good"]),
        node("Equal", ["label", "bad"], ["hit"]),
        node("Unsqueeze", ["hit", "axis"], ["hits"]),
        node("Greater", ["next_state", "two"], ["late"]),
        node("And", ["hits", "late"], ["lost"]),
        node("Where", ["lost", "nan", "good"], ["logits"]),
    ]
    weights = {
        "one": np.float32(1),
        "two": np.float32(2),
        "nan": np.float32(np.nan),
        "bad": np.int64(BAD_LABEL),
        "axis": np.array([1], np.int64),
        "next_letter": next_letter,
    }
    (folder / "references").mkdir(parents=True)
    write_graph(folder / "step.onnx", nodes, weights, signatures["step"])
    label = np.array([0, 2], np.int64)
    tokens = 1 + np.arange(WORDS_LENGTH) % (len(LETTERS) - 1)
    np.savez(
        folder / "references" / "sample.npz",
        **{
            "in/label": label,
            "in/max_tokens": np.full(2, WORDS_LENGTH),
            "out/text": np.stack([tokens, tokens]),
        },
    )
    feeds = {
        "state": np.zeros((2, 1), np.float32),
        "token": np.zeros(2, np.int64),
        "label": label,
    }
    write_references(folder, "step", feeds)
    return publish_sealed(store, folder, name, signatures)


def _publish(
    store: Store,
    folder: Path,
    name: str,
    called: str,
    signature: Signature,
    nodes: list[Any],
    weights: dict[str, Any],
    feeds: dict[str, Any],
) -> str:
    (folder / "references").mkdir(parents=True)
    write_graph(folder / f"{called}.onnx", nodes, weights, signature)
    write_references(folder, called, feeds)
    return publish_sealed(store, folder, name, {called: signature})
