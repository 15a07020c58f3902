"""The contract as a test class: a plugin inherits it and names itself."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import torch

from mlkit_core.plugins import Catalogue
from mlkit_core.testing.checks import CHECKS
from mlkit_core.testing.subject import Subject, require

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from mlkit_core.plugins import ComponentSpec
    from mlkit_core.testing.checks import Check

HEAVY = {
    *("torch", "torchvision", "timm", "ultralytics", "transformers", "segment_anything"),
    *("sklearn", "cv2", "numpy", "accelerate", "pandas", "numba", "matplotlib"),
}


class PluginContract:
    """Inherit this as `class TestAcme(PluginContract)` and set `plugin` to your module's name."""

    plugin: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test for each check of each component."""
        if "check" in metafunc.fixturenames:
            entries = Catalogue.from_plugins({"tested": self.plugin}).components()
            cases = [(spec, check) for spec, _ in entries for check in CHECKS[spec.kind]]
            names = [f"{spec.kind}/{spec.name}-{check.__name__[6:]}" for spec, check in cases]
            metafunc.parametrize(("spec", "check"), cases, ids=names)

    def test_plugin(self) -> None:
        """The plugin loads, is of this API version, and imports no heavy module, nor do configs."""
        found = Catalogue.from_plugins({"tested": self.plugin})
        require(not found.failures, f"{self.plugin} does not load: {found.failures}")
        configs = {spec.config.partition(":")[0] for spec, _ in found.entries if spec.config}
        modules = ", ".join(["sys", self.plugin, *sorted(configs)])
        code = f"import {modules}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
        heavy = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
        require(not heavy, f"{self.plugin} or a config loads {heavy}; import it inside functions")

    def test_component(self, spec: ComponentSpec, check: Check, tmp_path: Path) -> None:
        """One check of one component."""
        with torch.random.fork_rng(devices=[]):
            check(Subject.of(spec, tmp_path))
