"""Manifests are rendered once for all tests."""

import pytest

from tests.k8s.rendered import Rendered


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """All combinations of base, components and overlays."""
    return Rendered(tmp_path_factory.mktemp("rendered"))
