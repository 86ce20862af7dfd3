"""Archives of references are inflated only if they are what the manifest promises."""

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aigc.artifact import Artifact, ArtifactError
from aigc.artifact.references import MAX_ROWS, read_references
from tests.artifact.archives import ROWS, archive, header, whole
from tests.artifact.hostile import model, write, zeros_graph

MOST = 8 << 20
"""Memory that a refusal may take, in bytes; the bombs are of 64 MiB and more."""


def refused(tmp_path: Path, npz: bytes, message: str) -> None:
    opened = Artifact.open(write(tmp_path / "a", model(zeros_graph()), npz=npz), verify=False)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            opened.references("sample")
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_archive_as_promised_is_read(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        npz = archive(whole(), compression)
        opened = Artifact.open(write(tmp_path / f"{compression}", model(zeros_graph()), npz=npz))
        inputs, outputs = opened.references("sample")
        assert {k: v.shape for k, v in (inputs | outputs).items()} == {
            name.partition("/")[2]: shape for name, shape in ROWS.items()
        }
    spec = opened.signature("sample").inputs[0]
    fortran = header("in/latent", (2, 4), fortran_order=True) + np.arange(8, dtype="<f4").tobytes()
    found = read_references(archive({"in/latent": fortran}), {"in/latent": spec})["in/latent"]
    assert found.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_bomb_under_a_promised_name_is_not_inflated(tmp_path: Path) -> None:
    bomb = {**whole(), "in/latent": header("in/latent", (4, 4))}
    refused(tmp_path, archive(bomb, zeros=1 << 26), "has not the 64 bytes of its shape")
    bomb = {**whole(), "in/latent": header("in/latent", (1 << 26, 4))}
    refused(tmp_path, archive(bomb, zeros=1 << 26), f"there are 1 to {MAX_ROWS}")


@pytest.mark.parametrize("shape", [(4, 1 << 40), (4, 4, 1), (0, 4), (-4, 4), (4, -4), (1 << 62, 4)])
def test_header_with_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    claimed = {**whole(), "in/latent": header("in/latent", shape) + bytes(64)}
    refused(tmp_path, archive(claimed), r"promised float32 of \(N, 4\)|rows; there are 1 to")


def test_unpromised_members_are_not_read(tmp_path: Path) -> None:
    refused(tmp_path, archive({**whole(), "more": b""}, zeros=1 << 26), "promised")
    refused(tmp_path, archive({"in/latent": whole()["in/latent"]}), "promised")
    buffer = io.BytesIO(archive(whole()))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as packed:
        packed.writestr("in/latent.npy", whole()["in/latent"])
    refused(tmp_path, buffer.getvalue(), "promised")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, compression: int) -> None:
    refused(tmp_path, archive(whole(), compression), "compressed in an unknown way")


def test_array_headers_are_bounded(tmp_path: Path) -> None:
    version_2 = b"\x93NUMPY\x02\0" + (1 << 30).to_bytes(4, "little")
    refused(tmp_path, archive({**whole(), "in/latent": version_2}, zeros=1 << 26), "version")
    long = b"\x93NUMPY\x01\0\xff\xff" + b"(" * 65535
    refused(tmp_path, archive({**whole(), "in/latent": long}), "references")
    objects = header("in/latent", (4, 4), descr="|O") + bytes(64)
    refused(tmp_path, archive({**whole(), "in/latent": objects}), "promised float32")
    odd = header("in/latent", (4, 4), descr=">f4") + bytes(64)
    refused(tmp_path, archive({**whole(), "in/latent": odd}), "promised float32")
