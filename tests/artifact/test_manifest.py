"""manifest.json: sealed by its own digest, refused with the reason when anything in it is wrong."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.artifact import ArtifactError
from aigc.artifact.manifest import FORMAT_VERSIONS, Manifest, digest, parse, seal, to_document
from aigc.artifact.preprocessing import ImagePreprocessing
from tests.fixtures.make import ARTIFACT

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(sealed: Path) -> Document:
    loaded: Document = json.loads((sealed / "manifest.json").read_text())
    return loaded


def resealed(document: Document, change: Callable[[Document], object]) -> bytes:
    """A manifest altered by somebody who knows how its digest is made."""
    copy: Document = json.loads(json.dumps(document))
    change(copy)
    copy["digest"] = digest(copy)
    return json.dumps(copy).encode()


def optional(document: Document, **changes: Any) -> Document:
    """An input that may be left out, whose flag is another than it says, or none."""
    inputs = document["signatures"]["sample"]["inputs"]
    flag = {"name": "given", "kind": "presence", "dtype": "float32", "shape": [], "range": [0, 1]}
    inputs.append(flag | changes)
    inputs.append(inputs[0] | {"name": "hint", "kind": "vector", "presence": "given"})
    return document


def reading(document: Document, **preprocessing: Any) -> Document:
    """An image that is given, and how it is read."""
    image = {"name": "hint", "kind": "image", "dtype": "float32", "shape": [1, 8, 8]}
    image["preprocessing"] = preprocessing
    document["signatures"]["sample"]["inputs"].append(image)
    return document


@pytest.mark.process
def test_input_preprocessing_round_trips(document: Document) -> None:
    crop = ImagePreprocessing(resampling="lanczos")
    data = resealed(document, lambda d: reading(d, **msgspec.to_builtins(crop)))
    manifest = parse(data)
    assert manifest.signatures["sample"].inputs[-1].preprocessing == crop
    assert json.loads(json.dumps(to_document(manifest))) == json.loads(data)


def test_manifest_without_preprocessing_keeps_its_digest(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(ARTIFACT, folder)
    before = parse((folder / "manifest.json").read_bytes())
    specs = before.signatures["sample"].inputs
    assert all(spec.preprocessing is msgspec.UNSET for spec in specs)
    assert seal(folder, before).digest == before.digest


def test_optional_input_needs_a_presence_flag(document: Document) -> None:
    signature = parse(resealed(document, optional)).signatures["sample"]
    assert [spec.name for spec in signature.optional] == ["hint"]


def test_manifest_round_trips(document: Document) -> None:
    manifest = parse(json.dumps(document).encode())
    assert json.loads(json.dumps(to_document(manifest))) == document
    assert manifest.id == "tiny@1"


def test_digest_is_sha256_of_the_canonical_document(document: Document) -> None:
    body = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_digest_ignores_order_and_white_space(document: Document) -> None:
    other = json.dumps(dict(reversed(document.items())), indent=7).encode()
    assert parse(other) == parse(json.dumps(document).encode())


def test_parse_needs_every_field(document: Document) -> None:
    for field in document:
        changed = {key: value for key, value in document.items() if key != field}
        with pytest.raises(ArtifactError):
            parse(json.dumps(changed).encode())


def test_parse_detects_a_swapped_range(document: Document) -> None:
    text = json.dumps(document)
    altered = text.replace('"range": [-1.0, 1.0]', '"range": [0.0, 1.0]')
    assert altered != text
    with pytest.raises(ArtifactError, match="altered: its digest does not match"):
        parse(altered.encode())


def test_parse_refuses_a_truncated_manifest(document: Document) -> None:
    data = json.dumps(document).encode()
    for length in range(0, len(data) - 1, 37):
        with pytest.raises(ArtifactError, match="truncated or not JSON"):
            parse(data[:length])


@pytest.mark.parametrize("version", [FORMAT_VERSIONS[-1] + 1, 0, "1", None, 1.5])
def test_parse_refuses_other_format_versions_first(document: Document, version: Any) -> None:
    newer = resealed(document, lambda d: d.update(format_version=version, unheard_of={}))
    with pytest.raises(ArtifactError, match=rf"format_version {version!r} is unknown.*upgrade"):
        parse(newer)


@pytest.mark.parametrize(
    "path",
    ["../secret", "a/../../b", "/etc/passwd", "..", ".", "", "a\\..\\b", "//host/share", "a\0b"],
)
def test_parse_refuses_paths_outside_the_artifact(document: Document, path: str) -> None:
    data = resealed(document, lambda d: d["files"].update({path: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ArtifactError, match="lies outside the artifact"):
        parse(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(name="No Name"), "artifact name must be 1 to 64 of a-z"),
        (lambda d: d.update(version="1.x"), "version must be whole numbers joined by dots"),
        (lambda d: d["files"].pop("generator.onnx"), "graph 'generator.onnx' .* is no file"),
        (lambda d: d.update(files={}), "names no files"),
        (lambda d: d["signatures"]["sample"].update(graph="x.onnx"), "graph 'x.onnx' .* is no"),
        (
            lambda d: d["signatures"]["sample"]["inputs"][0].update(shape=[0]),
            "signature 'sample' has a tensor with an empty axis",
        ),
        (lambda d: d["signatures"]["sample"]["inputs"][0].update(kind="smell"), "kind|smell"),
        (
            lambda d: d["signatures"]["sample"]["inputs"][1].update(range=None),
            "label 'label' of signature 'sample' has no range",
        ),
        (lambda d: optional(d, name="other"), "have the presences .*'given'.*, its inputs"),
        (lambda d: optional(d, range=None), "presence 'given' .* is no number from 0 to 1"),
        (lambda d: reading(d, kind="image", fit="squeeze"), "Invalid enum value 'squeeze'"),
        (lambda d: reading(d, kind="image", sharpen=1), "unknown field `sharpen`"),
        (lambda d: reading(d, kind="audio"), "'hint' .* has a preprocessing of another kind"),
        (lambda d: reading(d, kind="audio", peak=2), "<= 1"),
        (lambda d: d.pop("training"), "says format_version 1 and uses what came with 2"),
        (lambda d: d.update(metrics=[1]), "metrics"),
    ],
)
def test_parse_refuses_inconsistent_manifests_with_valid_digest(
    document: Document, change: Callable[[Document], object], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        parse(resealed(document, change))


@given(
    st.one_of(
        st.binary(max_size=50),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
        st.text().map(lambda t: json.dumps({"format_version": 1, "digest": t}).encode()),
    )
)
def test_parse_refuses_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse(data)


def test_parse_refuses_deep_nesting_and_surrogates() -> None:
    for data in (b"[" * 100_000, b'{"format_version": 1, "name": "\\ud800"}', b"\xff\xfe"):
        with pytest.raises(ArtifactError):
            parse(data)


@given(data=st.data())
def test_digest_covers_every_value(data: st.DataObject, document: Document) -> None:
    leaves = list(_leaves(document))
    path = data.draw(st.sampled_from(leaves))
    copy = json.loads(json.dumps(document))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    old = parent[path[-1]]
    parent[path[-1]] = f"{old}." if isinstance(old, str) else [old]
    with pytest.raises(ArtifactError, match=r"altered|format_version"):
        parse(json.dumps(copy).encode())


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, (*path, key))
    else:
        yield path


def test_seal_hashes_files_and_writes_the_manifest_last(sealed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sealed, folder)
    manifest = parse((folder / "manifest.json").read_bytes())
    (folder / "deep").mkdir()
    (folder / "deep" / "note.txt").write_text("hello")
    again = seal(folder, manifest)
    assert isinstance(again, Manifest)
    assert again.digest != manifest.digest
    assert again.files.keys() - manifest.files.keys() == {"deep/note.txt"}
    for name, file in again.files.items():
        content = (folder / name).read_bytes()
        assert file.bytes == len(content)
        assert file.sha256 == hashlib.sha256(content).hexdigest()
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert present == {*again.files, "manifest.json"}, "a temporary file was left behind"
    (folder / "deep" / "note.txt").unlink()
    (folder / "deep").rmdir()
    assert seal(folder, again).digest == manifest.digest, "the digest is not one of the content"


def test_seal_writes_the_lowest_format_version_that_has_what_a_manifest_uses(
    sealed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sealed, tmp_path / "copy")
    before = (folder / "manifest.json").read_bytes()
    manifest = parse(before)
    seal(folder, replace(manifest, format_version=2))
    assert (folder / "manifest.json").read_bytes() == before, "version 1 is written as ever"
    imported = seal(folder, replace(manifest, training=None))
    assert (manifest.format_version, imported.format_version) == (1, 2)
    assert "training" not in json.loads((folder / "manifest.json").read_bytes())
    assert (manifest.source, imported.source) == ("fc_gan:mlp", "imported:fc_gan")
