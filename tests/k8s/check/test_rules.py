"""Every rule is there for a mistake that a test makes."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from k8s.check.manifests import Manifests
from k8s.check.rules import check, families, rules
from tests.k8s.check.mutation import WHOLE, Mutation, assert_found, broken, findings

MUTATIONS: list[Mutation] = [
    mutation
    for family in families()
    for mutation in import_module(f"tests.k8s.check.rules.test_{family}").MUTATIONS
]


def test_own_manifests_have_no_findings() -> None:
    assert findings(WHOLE) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_rule_finds_mutation(mutation: Mutation) -> None:
    assert_found(mutation)


@pytest.mark.parametrize("rule", rules())
def test_every_rule_has_a_mutation_and_can_be_skipped(rule: str) -> None:
    documents = broken(next(each for each in MUTATIONS if each.rule == rule))
    without, *_ = check(Manifests(documents), skip=[rule])
    assert rule not in {each.rule for each in without}


@pytest.mark.parametrize("rule", rules())
def test_every_rule_has_a_one_line_description(rule: str) -> None:
    line = (rules()[rule].__doc__ or "").partition("\n")[0]
    assert 20 < len(line) < 100
    assert line.endswith(".")


def test_families_may_be_skipped_and_unknown_rules_are_refused() -> None:
    mutation = next(each for each in MUTATIONS if each.rule == "images/pinned")
    assert check(Manifests(broken(mutation)), skip=["images"]) == ([], {}, {})
    with pytest.raises(ValueError, match="unknown rule 'imges'; there are: clusters, images, pl"):
        check(Manifests(WHOLE), skip=["imges"])


def test_every_rule_function_is_listed() -> None:
    """A rule that is written and not listed would never be applied."""
    for family in families():
        module = import_module(f"k8s.check.rules.{family}")
        tree = ast.parse(Path(str(module.__file__)).read_text())
        finding = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and ast.unparse(node.returns or ast.Constant(None)) == "Iterator[Finding]"
        }
        assert finding == {rule.__name__ for rule in module.RULES}
