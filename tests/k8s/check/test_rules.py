"""Every rule is there for a mistake that a test makes."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from k8s.check.manifests import Manifests
from k8s.check.rules import check, families, rules
from tests.k8s.check.mutation import WHOLE, Mutation, broken, findings

MUTATIONS: list[Mutation] = [
    mutation
    for family in families()
    for mutation in import_module(f"tests.k8s.check.rules.test_{family}").MUTATIONS
]


def test_nothing_is_wrong_with_the_whole_set() -> None:
    assert findings(WHOLE) == []


@pytest.mark.parametrize("rule", rules())
def test_every_rule_is_broken_by_a_mutation(rule: str) -> None:
    own = [mutation for mutation in MUTATIONS if mutation.rule == rule]
    assert own
    for mutation in own:
        documents = broken(mutation)
        assert rule in {each.rule for each in findings(documents)}
        without, *_ = check(Manifests(documents), skip=[rule])
        assert rule not in {each.rule for each in without}


@pytest.mark.parametrize("rule", rules())
def test_every_rule_says_in_a_line_what_it_finds(rule: str) -> None:
    line = (rules()[rule].__doc__ or "").partition("\n")[0]
    assert 20 < len(line) < 100
    assert line.endswith(".")


def test_a_family_can_be_left_out_and_an_unknown_rule_is_refused() -> None:
    mutation = next(each for each in MUTATIONS if each.rule == "images/pinned")
    assert check(Manifests(broken(mutation)), skip=["images"]) == ([], {}, {})
    with pytest.raises(ValueError, match="unknown rule 'imges'; there are: clusters, images, pl"):
        check(Manifests(WHOLE), skip=["imges"])


def test_every_function_of_a_family_that_finds_is_among_its_rules() -> None:
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
