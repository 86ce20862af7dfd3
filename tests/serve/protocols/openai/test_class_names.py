"""Which class a text asks for, and that nobody guesses one."""

from types import SimpleNamespace
from typing import Any

import pytest

from aigc.artifact import TensorSpec
from serve.errors import HTTPError
from serve.protocols.openai.class_names import parse_class_name, resolve
from serve.protocols.openai.number_words import value

DIGITS = tuple("0123456789")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def lane(classes: tuple[str, ...], num_classes: int | None = None) -> Any:
    """As much of a lane as a text is looked up in."""
    spec = TensorSpec(
        name="label",
        kind="label",
        dtype="int64",
        shape=(),
        range=(0, (num_classes or len(classes)) - 1),
        classes=classes,
    )
    return SimpleNamespace(
        spec=SimpleNamespace(label=spec),
        num_classes=num_classes or len(classes),
        artifact=SimpleNamespace(manifest=SimpleNamespace(name="model", id="model@1")),
    )


@pytest.mark.parametrize("classes", [DIGITS, WORDS, ()], ids=["digits", "words", "unnamed"])
@pytest.mark.parametrize(
    "prompt", ["seven", "Seven", " a seven", "The SEVEN", "7", "07", "a 7", "label: 7", "LABEL 7"]
)
def test_a_digit_is_asked_for_as_people_type_it(prompt: str, classes: tuple[str, ...]) -> None:
    assert resolve(prompt, None, lane(classes, 10)) == 7


@pytest.mark.parametrize(
    ("classes", "text", "label"),
    [
        (("7", "seven"), "seven", 1),
        (("7", "seven"), "Seven", 1),
        (("7", "seven"), "7", 0),
        (DIGITS[1:], "7", 6),
        (DIGITS[1:], "seven", 6),
        (DIGITS[1:], "07", 6),
        (DIGITS[1:], "label 7", 7),
        (WORDS[1:], "seven", 6),
        (("10", "20", "21"), "twenty-one", 2),
        (("ten", "twenty", "twenty one"), "Twenty-One", 2),
        (("1990", "2000"), "two thousand", 1),
        (("a cat", "cat"), "a cat", 0),
        (("cat", "dog"), "the dog", 1),
        (("cat", "dog"), "1", 1),
        (("cat", "seven"), "7", 1),
        (("A", "b"), "a", 0),
    ],
)
def test_a_name_comes_before_a_number(classes: tuple[str, ...], text: str, label: int) -> None:
    assert resolve(text, None, lane(classes)) == label


@pytest.mark.parametrize(
    ("classes", "prompt", "expected"),
    [
        (WORDS[1:], "7", "say 'label: 6' ('seven') or 'label: 7' ('eight')"),
        (WORDS[1:], "a 7", "say 'label: 6' ('seven') or 'label: 7' ('eight')"),
        (("7", "07"), "seven", "say 'label: 0' ('7') or 'label: 1' ('07')"),
        (("cat", "Cat"), "CAT", "say 'label: 0' ('cat') or 'label: 1' ('Cat')"),
        (("cat", "cat"), "cat", "say 'label: 0' ('cat') or 'label: 1' ('cat')"),
        (("7", "07"), "007", "say 'label: 0' ('7') or 'label: 1' ('07')"),
        (DIGITS[1:], "0", "must be a class of model@1"),
        (("cat", "dog"), "one", "must be a class of model@1"),
        (("cat", "dog"), "2", "must be a class of model@1"),
        (("cat", "dog"), "label: 2", "must be a class of model@1"),
        (DIGITS, "seventy", "must be a class of model@1"),
        (DIGITS, "seven eight", "must be a class of model@1"),
        (DIGITS, "a a seven", "must be a class of model@1"),
        (DIGITS, "\uff17", "must be a class of model@1"),
        (DIGITS, "9" * 5000, "must be a class of model@1"),
    ],
)
def test_what_may_mean_two_classes_or_none_is_refused(
    classes: tuple[str, ...], prompt: str, expected: str
) -> None:
    with pytest.raises(HTTPError) as refused:
        resolve(prompt, None, lane(classes))
    assert refused.value.code == "unknown_prompt"
    assert expected in refused.value.message
    assert len(refused.value.message) < 1000


def test_words_that_are_spoken_have_no_articles() -> None:
    assert parse_class_name("a seven", lane(WORDS)) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("zero", 0),
        ("Nineteen", 19),
        ("forty two", 42),
        ("one hundred", 100),
        ("nine hundred and ninety-nine", 999),
        ("one thousand two", 1002),
        ("9999", 9999),
        ("007", 7),
        ("", None),
        ("and", None),
        ("seven and", None),
        ("twenty twenty", None),
        ("-7", None),
        ("7.0", None),
    ],
)
def test_numbers_in_words(text: str, number: int | None) -> None:
    assert value(text) == number
