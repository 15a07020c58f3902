"""pytest fixtures for plugin authors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlkit_core.plugins import Catalogue


@pytest.fixture
def mlkit_plugins() -> Catalogue:
    """Return the catalogue of all installed plugins."""
    from mlkit_core.plugins import load_catalogue

    return load_catalogue()
