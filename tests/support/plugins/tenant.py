"""Fixtures: the emulated Auth0 tenant with its providers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emulators.client import Emulation, running


@pytest.fixture(scope="session")
def emulation() -> Iterator[Emulation]:
    """The emulated tenant and providers, in their own process."""
    with running() as started:
        yield started


@pytest.fixture
def tenant(emulation: Emulation) -> Emulation:
    """The emulation, emptied."""
    emulation.reset()
    return emulation
