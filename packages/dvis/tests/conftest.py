"""Where recorded outputs and real clips lie; tests that need them skip where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_ROOT = Path(__file__).resolve().parents[3]


def _folder(variable, default):
    return Path(os.environ.get(variable, str(_ROOT / default)))


@pytest.fixture(scope="session")
def oracle():
    """Return a function that loads a recorded output of the authors' modules by its name."""
    folder = _folder("MLKIT_ORACLES", "../shared/oracles") / "dvis"

    def load(name):
        path = folder / f"{name}.pt"
        if not path.is_file():
            pytest.skip(f"no recorded output {name}: set MLKIT_ORACLES")
        return torch.load(path, weights_only=True)

    return load


@pytest.fixture(scope="session")
def shared_data():
    """Return a function that gives a folder of real data by its name."""

    def find(name):
        path = _folder("MLKIT_DATA", "../shared/data") / name
        if not path.exists():
            pytest.skip(f"no real data {name}: set MLKIT_DATA")
        return path

    return find
