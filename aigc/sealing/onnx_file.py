"""ONNX files of other projects: checked as a stranger's artifact is, then read.

model = read_onnx(Path("upscaler.onnx"))        # onnx.ModelProto, its weights inside
"""

import stat
from collections.abc import Iterator
from pathlib import Path

import onnx

from aigc.artifact.graph import check_graph
from aigc.artifact.manifest import ArtifactError, File

MAX_BYTES = 1_800_000_000
"""Most bytes of a graph with its weights; a protobuf message ends at 2 GiB."""
MAX_BESIDE = 10_000
"""Most files beside the graph that are looked at for its weights."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in a file, with weights that lie in files beside it taken inside.

    Raises ArtifactError, in one sentence, for whatever a server refuses of a stranger: operators
    other than ONNX's own numeric ones, random numbers, sizes that a caller's values decide, weights
    outside of the folder, and files that are no ONNX. Nothing has loaded the graph then.
    """
    size = _size(path)
    if size > MAX_BYTES:
        raise ArtifactError(_too_large(path, size))
    data = path.read_bytes()
    beside = dict(_beside(path))
    try:
        external = check_graph(path.name, data, beside).external
    except ArtifactError as error:
        raise ArtifactError(str(error).replace("of the manifest", "beside it")) from None
    total = size + sum(beside[name].bytes for name in set(external.values()))
    if total > MAX_BYTES:
        raise ArtifactError(_too_large(path, total))
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises types without a common base
        raise ArtifactError(f"{path} is no ONNX model: {error}") from None
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _take_inside(tensor, path.parent)
    check_training(model, path.name)
    return model


def check_training(model: onnx.ModelProto, name: str) -> None:
    """Raise ArtifactError for a graph in training mode: dropout, or statistics of the batch."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in _nodes(model):
        if node.op_type == "Constant" and node.attribute:
            constants[node.output[0]] = node.attribute[0].t
    for node in _nodes(model):
        mode = ""
        if node.op_type == "Dropout" and len(node.input) > 2:
            mode = node.input[2]
            known = constants.get(mode)
            if mode and (known is None or onnx.numpy_helper.to_array(known).any()):
                raise ArtifactError(_in_training(name, "drops values at random by 'Dropout'"))
        norm = node.op_type == "BatchNormalization"
        if norm and any(a.name == "training_mode" and a.i for a in node.attribute):
            raise ArtifactError(_in_training(name, "normalises by the batch's statistics"))


def _in_training(name: str, what: str) -> str:
    return (
        f"graph {name!r} is in training mode: it {what}, so no seed determines a sample; export it"
        " after module.eval()"
    )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of graphs within nodes and of functions included."""
    waiting = [*model.graph.node, *(node for body in model.functions for node in body.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting += attribute.g.node
            for graph in attribute.graphs:
                waiting += graph.node


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is no file; give an ONNX file")
    return status.st_size


def _too_large(path: Path, size: int) -> str:
    return (
        f"{path} has {size / 1e9:.1f} GB with its weights; an imported graph has at most"
        f" {MAX_BYTES / 1e9:.1f} GB: split the model, one graph for each signature"
    )


def _beside(path: Path) -> Iterator[tuple[str, File]]:
    """Regular files of the graph's folder. A link might hand out any file of this machine."""
    for count, entry in enumerate(path.parent.iterdir()):
        if count > MAX_BESIDE:
            return
        status = entry.lstat()
        if stat.S_ISREG(status.st_mode):
            yield entry.name, File(sha256="", bytes=status.st_size)


def _take_inside(tensor: onnx.TensorProto, folder: Path) -> None:
    """Replace a reference to a file, whose place and size were checked, by its bytes."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(said.get("offset", 0)), int(said.get("length", 0))
    if not length:
        length = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for size in tensor.dims:
            length *= size
    with (folder / said["location"]).open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise ArtifactError(f"{said['location']} ends before the weights of {tensor.name!r} do")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
    tensor.raw_data = data
