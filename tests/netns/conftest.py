"""Fixtures of this tier: fresh namespaces for each test, gone after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.namespaces import Namespace, Namespaces, remove_leftovers


@pytest.fixture(scope="session", autouse=True)
def _clean_start() -> None:
    remove_leftovers()


@pytest.fixture
def namespaces(request: pytest.FixtureRequest) -> Iterator[Namespaces]:
    """Makes namespaces named after the test."""
    made = Namespaces(request.node.name)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def netns(namespaces: Namespaces) -> Namespace:
    """One fresh namespace with lo up."""
    return namespaces.make()
