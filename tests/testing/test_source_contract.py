"""The contract of data sources: every check finds what breaks it, and nothing else."""

import re
from types import ModuleType

import numpy as np
import pytest

from aigc.config import DataConfig, ModelConfig
from aigc.data import Source, Split
from aigc.testing import ContractError, check_source, source_checks
from aigc.testing.source_contract import CONTRACT
from aigc.testing.source_under_test import SourceUnderTest

SOURCE = '''
from dataclasses import dataclass

import numpy as np

from aigc.data import Dataset, permutation


@dataclass
class Squares:
    """Squares of two shades on black, a split each."""

    split: str
    name = "squares"
    classes = ("dim", "bright")

    def __len__(self):
        return 12 if self.split == "train" else 6

    def read(self, row):
        label = row % 2
        x = np.full((1, 4, 4), -1, np.float32)
        x[:, :2] = label + 0.01 * row - 0.5 * (self.split == "test")
        return x * 0.8, label

    def order(self, seed, epoch):
        return permutation(seed, epoch, len(self))

    def fingerprint(self):
        return {"name": self.name, "samples": len(self), "classes": list(self.classes),
                "sha256": self.split}


def load(config, shape, split):
    return Squares(split)
'''
MODEL = ModelConfig(shape=(1, 4, 4), num_classes=2)
BREAKS: dict[str, tuple[str, str, str, str]] = {
    "no rows": ("12 if", "0 if", "opens", "split train has no rows"),
    "names of classes": ('"dim", "bright"', '"dim", "dim"', "opens", "two classes .* one name"),
    "classes of a split": (
        'classes = ("dim", "bright")',
        'classes = property(lambda self: ("dim", self.split))',
        "opens",
        "different classes",
    ),
    "cannot be opened": ("return Squares", "return 1 / 0 + Squares", "opens", "ZeroDivisionError"),
    "shape": (
        "(1, 4, 4), -1",
        "(1, 4, 5), -1",
        "rows_fit",
        r"row 0 of split train: .* \(1, 4, 5\)",
    ),
    "dtype": ("np.float32)", "np.float64)", "rows_fit", "dtype float64, not float32 or uint8"),
    "range": ("x * 0.8", "x * 80", "rows_fit", r"values in \[-80.*scale them to \[-1, 1\]"),
    "black is grey": (
        "x * 0.8",
        "(x + 1) / 3",
        "rows_fit",
        r"pictures .* lie in \[0, .*2 \* x - 1",
    ),
    "not finite": ("x * 0.8", "x / 0 * 0", "rows_fit", "not finite"),
    "a label too high": ("x * 0.8, label", "x * 0.8, 2 * label", "labels_fit", "has the label 2"),
    "a class without rows": ("x * 0.8, label", "x * 0.8, 0", "labels_fit", "no row of split train"),
    "a label that is no number": (
        "x * 0.8, label",
        "x * 0.8, str(label)",
        "labels_fit",
        "has the label '0'",
    ),
    "an order with repeats": (
        "return permutation(seed, epoch, len(self))",
        "return np.zeros(len(self), np.int64)",
        "order_is_a_permutation",
        "take aigc.data.permutation",
    ),
    "an order of its own": (
        "return permutation(seed, epoch, len(self))",
        "return np.random.default_rng().permutation(len(self))",
        "order_is_a_permutation",
        "is another one when it is asked for again",
    ),
    "an order for all epochs": (
        "permutation(seed, epoch,",
        "permutation(seed, 0,",
        "order_is_a_permutation",
        "two epochs of split train have one order",
    ),
    "rows that change": (
        "label = row % 2",
        "label = row % 2; row += np.random.random()",
        "reads_again",
        "is another one when it is read again",
    ),
    "an open file": (
        "return Squares(split)",
        "source = Squares(split); source.file = open(__file__); return source",
        "reads_again",
        "cannot be sent to the processes that read it",
    ),
    "one fingerprint": (
        '"sha256": self.split',
        '"sha256": ""',
        "fingerprints",
        "the splits have one fingerprint",
    ),
    "a fingerprint of the moment": (
        '"sha256": self.split',
        '"sha256": self.split + str(np.random.random())',
        "fingerprints",
        "could not be resumed",
    ),
    "a fingerprint without a hash": ('"sha256"', '"hash"', "fingerprints", "has no 'sha256'"),
    "one split twice": (
        '- 0.5 * (self.split == "test")',
        "",
        "splits_apart",
        "row 0 of split test is row 0 of split train, as are 6 of 6 rows",
    ),
}


def use(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have the source under test be that of a file with this text."""
    module = ModuleType("squares")
    module.__file__ = __file__
    monkeypatch.setitem(__import__("sys").modules, "squares", module)
    exec(compile(text, "squares.py", "exec"), module.__dict__)

    def opened(self: SourceUnderTest, split: Split) -> Source:
        made: Source = module.load(self.config, self.model.shape, split)
        return made

    monkeypatch.setattr(SourceUnderTest, "opened", opened)


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|unclosed file)")
@pytest.mark.parametrize(("old", "new", "check", "says"), BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_source_fails_exactly_one_check(
    old: str, new: str, check: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SOURCE.count(old) >= 1
    use(monkeypatch, SOURCE.replace(old, new))
    outcomes = [each.outcome() for each in source_checks(DataConfig(source="ring"), MODEL)]
    failed = {o.check: "\n".join(o.sentences) for o in outcomes if o.status == "failed"}
    assert list(failed) == [check], failed
    assert re.search(says, failed[check]), failed[check]


def test_a_whole_source_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SOURCE)
    check_source(DataConfig(source="ring"), MODEL)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([2, 1, 3, 0], "allows"),
        ([2, 1, 2, 1], "has no end"),
        ([2, 0, 1, 0], "goes on after its end"),
        ([2, 1, 0, 0], ""),
    ],
)
def test_texts_are_tokens_with_an_end(
    row: list[int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc.models import text_vae

    text = SOURCE.replace("return x * 0.8, label", f"return np.array({row}), label")
    text = text.replace('name = "squares"', 'name = "squares"\n    vocabulary = ("", "a", "b")')
    use(monkeypatch, text)
    model = text_vae.Config(shape=(4,), vocabulary=3)
    *_, check = source_checks(DataConfig(source="ring"), model, ["texts_end"])
    if not says:
        return check()
    with pytest.raises(ContractError, match=says):
        check()
    return None


def test_every_check_of_a_source_is_broken_by_something() -> None:
    broken = {check for _, _, check, _ in BREAKS.values()} | {"texts_end"}
    assert broken == {function.__name__ for function in CONTRACT}


def test_rows_are_read_evenly_of_a_large_source(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SOURCE.replace("12 if", "100_000 if"))
    subject = SourceUnderTest(DataConfig(source="ring"), MODEL)
    rows = subject.rows["train"]
    assert len(rows.samples) == 2000
    assert np.diff(rows.numbers).min() >= 50
    assert not rows.all
