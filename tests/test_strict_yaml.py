"""YAML and JSON of strangers: read as kubectl reads them, and bounded in size, depth and time."""

import json
import math
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc.strict_yaml import (
    MAX_ALIASED,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    Unreadable,
    decode,
    document,
    documents,
    read,
)
from tests.yaml_bombs import BOMBS, nested

ROOT = Path(__file__).parents[1]

# PyYAML writes 0E0 and 0o7 without quotes, which kubectl reads as numbers.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12).filter(
    lambda text: not re.fullmatch(r"[-+]?[\d._]+(e[-+]?\d+)?|0o[0-7]+", text, re.IGNORECASE)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT, below, max_size=4),
    max_leaves=30,
)


@settings(max_examples=30)
@given(VALUES)
def test_common_yaml_reads_as_before(value: Any) -> None:
    assert list(documents(json.dumps([value]))) == [[value]]
    assert list(documents(yaml.safe_dump(value, allow_unicode=True))) == [value]


@given(st.binary(max_size=200) | st.text(alphabet="{}[]&*a:-,#'\"|>!%@ \n\t<0", max_size=80))
def test_any_text_is_read_or_refused(data: bytes | str) -> None:
    try:
        text = decode(data if isinstance(data, bytes) else data.encode())
    except Unreadable:
        return
    for unclear in (True, False):
        for each in read(text, unclear=unclear):
            repr(each)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0440", 288),
        ("0o440", 288),
        ("0x1f", 31),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("yes", True),
        ("Off", False),
        ("y", "y"),
        ("yEs", "yEs"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("9" * 5000, "9" * 5000),
        ("'0440'", "0440"),
        ("! 12", "12"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
    ],
)
def test_scalars_resolve_like_kubectl(text: str, value: Any) -> None:
    assert list(documents(f"a: {text}")) == [{"a": value}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{1: a, true: b, 1.5: c, on: d}", {"1": "a", "true": "d", "1.5": "c"}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("{<<: [{x: 1}, {x: 2, y: 2}], z: 3}", {"x": 1, "y": 2, "z": 3}),
        ("{<<: {x: 1}, <<: {x: 2, y: 2}}", {"x": 1, "y": 2}),
        ("'<<': 1", {"<<": 1}),
        ("- <<", ["<<"]),
        ("a: &a 1\n*a : 2", {"a": 1, "1": 2}),
    ],
)
def test_keys_are_strings_and_merge_keys_apply(text: str, value: Any) -> None:
    if "on:" in text:
        with pytest.raises(Unreadable, match="key 'true' stands twice"):
            document(text.replace("on:", "'true':"))
        text = text.replace("true: b, ", "")
        value = {"1": "a", "1.5": "c", "true": "d"}
    assert list(documents(text)) == [value]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n---\n---\n# nothing\n---\nb: 2\n", [{"a": 1}, None, None, {"b": 2}]),
        ("# a\n%YAML 1.2\n---\na: 1\n...\n---\nb: 2", [{"a": 1}, {"b": 2}]),
        ("--- {a: 1}\n--- # two\nb: 2", [{"a": 1}, {"b": 2}]),
        ("a: |\n  ---\n  text\n", [{"a": "---\ntext\n"}]),
        ('{"a": 1}\n{"a": 2} {"a": 3}', [{"a": 1}, {"a": 2}, {"a": 3}]),
        ('{"a": 1}\n---\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("{a: 1}\n---\nb: 2", [{"a": 1}, {"b": 2}]),
        ("\ufeffa: 1\r\n---\r\n\ufeffb: 2\r\n", [{"a": 1}, {"b": 2}]),
        ("", []),
    ],
)
def test_every_document_is_read(text: str, found: list[Any]) -> None:
    assert list(documents(decode(text.encode()))) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: ]", "no YAML: .* in line 3"),
        ("a:\n\tb: 1", "line 4.*: a tab indents it, and YAML wants spaces"),
        ("a: {{ .Values.a }}\nb: {{x", "if this is a template, render it first"),
        ("a: 1\na: 2", "key 'a' stands twice in the mapping at line 3, again in line 4"),
        ("a: &a {b: *a}", r"line 3: \*a stands within &a: it would have no end"),
        ("a: *b", r"line 3: no anchor &b stands before \*b"),
        ("a: !Ref x", "line 3: the tag !Ref has no meaning"),
        ("a: !!python/object:os.system {}", "line 3: the tag .*os.system has no meaning here"),
        ("a: !!int x", "line 3: the tag .* has no meaning for 'x'"),
        ("? [a]\n: 1", "line 3: a key must be text"),
        ("~: 1", "line 3: a key must be text"),
        ("<<: 1", "line 3: << takes a mapping or several, got 1"),
        ("a: " + "[" * 101, "line 3 is nested more than 100 deep"),
        ("a: \x07", "no YAML: "),
    ],
)
def test_broken_document_is_named_and_others_read(text: str, said: str) -> None:
    first, broken, last = read(f"first: 1\n---\n{text}\n---\nlast: 1\n")
    assert (first, last) == ({"first": 1}, {"last": 1})
    assert isinstance(broken, Unreadable)
    with pytest.raises(Unreadable, match=said):
        raise broken


def test_broken_json_document_is_named_and_others_read() -> None:
    first, broken, last = read('{"a": 1}\n{"a": 1, "a": 2}\n{"b": 1}')
    assert (first, last) == ({"a": 1}, {"b": 1})
    assert str(broken) == "key 'a' stands twice in a mapping (in the document at line 2)"


PROGRAM = """
import sys
from aigc.strict_yaml import decode, read
try:
    print(*read(decode(sys.stdin.buffer.read())), sep="\\n")
except ValueError as error:
    print(error)
"""


@pytest.mark.process
@pytest.mark.parametrize("name", BOMBS)
def test_alias_bomb_takes_bounded_memory_and_time(name: str) -> None:
    """In a process with 1 GiB of address space, and far more time than it takes."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=BOMBS[name].encode(),
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
        capture_output=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if name.startswith(("deep", "billion", "many", "one")):
        said = b"nested more than" if name.startswith("deep") else b"nothing of that size"
        assert said in done.stdout


def test_documents_within_the_bounds_are_read() -> None:
    assert len(next(documents(f"[{'1,' * (MAX_NODES - 2)}1]"))) == MAX_NODES - 1
    assert next(documents(nested("[", "]", MAX_DEPTH)))
    assert next(documents(f"a: {nested('[', ']', MAX_DEPTH - 1)}"))
    many = MAX_ALIASED // 10
    assert len(next(documents("a: &a [1, 2, 3, 4]\nb: [" + "*a," * many + "]"))["b"]) == many
    assert len(decode(b"x" * MAX_BYTES)) == MAX_BYTES


def test_other_encodings_are_read_or_named() -> None:
    assert decode("a: é\n".encode("utf-16")) == "a: é\n"
    assert decode("a: é\n".encode("utf-8-sig")) == "a: é\n"
    with pytest.raises(Unreadable, match="byte 0xe9 in line 2 is not UTF-8; save it as UTF-8"):
        decode("a: 1\nb: é\n".encode("latin-1"))
    with pytest.raises(Unreadable, match="begins as UTF-16, and is none"):
        decode(b"\xff\xfea")


def test_single_document_is_one() -> None:
    assert document("a: 1") == {"a": 1}
    assert document("") is None
    assert document("# a\n---\na: 1") == {"a": 1}
    with pytest.raises(Unreadable, match="one document is expected"):
        document("a: 1\n---\nb: 1")
