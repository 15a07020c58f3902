"""Listing plugins and checking a run file import nothing heavy, seen from a fresh process."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "timm", "ultralytics", "transformers", "segment_anything"),
    *("sklearn", "cv2", "numpy", "accelerate", "pandas", "numba", "matplotlib"),
}
LOAD = """\
import sys
from mlkit_core.config import dump_resolved, load_config, schema
from mlkit_core.errors import ConfigError
from mlkit_core.plugins import load_catalogue
catalogue = load_catalogue()
try:
    dump_resolved(load_config(sys.argv[1]))
except ConfigError as err:
    print(err.problems, file=sys.stderr)
schema(catalogue)
print(*sorted(sys.modules))
"""
RUN = """\
name: lazy
data: {name: no-such-data}
model:
  encoders: {image: {name: timm, model: resnet18}}
  fusion: {name: film}
losses: [{name: bce}, {name: dice}, {name: focal}]
"""


def _modules(code: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        timeout=60,
    )
    return set(done.stdout.split())


def test_loading_the_catalogue_a_run_file_and_the_schema_imports_nothing_heavy(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    modules = _modules(LOAD, str(path))
    assert "mlkit_core.config.load" in modules
    assert "mlkit_core.components.config" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize(
    "module",
    [
        "mlkit_core",
        "mlkit_core.types",
        "mlkit_core.interfaces",
        "mlkit_core.scope",
        "mlkit_core.errors",
        "mlkit_core.plugin",
        "mlkit_core.config.json_schema",
    ],
)
def test_a_light_module_imports_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    assert _modules(code) & HEAVY == set()


def test_a_plugins_module_needs_no_yaml_reader():
    modules = _modules("import sys, mlkit_core.plugin; print(*sys.modules)")
    assert "ruamel.yaml" not in modules
