"""Fixtures: the miniature plugin, run files made of it, and runs that end in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MINIATURES = Path(__file__).parent / "miniatures"

RUN_FILE = """
name: mini
seed: 3
data: {name: blobs}
model:
  encoders:
    image: {name: tiny-conv}
    hint: {name: hint}
  fusion: {name: film}
  head: {name: tiny-mask}
losses: [{name: bce}, {name: dice}]
metrics: [{name: disc-dice}]
optimizer: {name: adamw, lr: 0.02}
trainer: {epochs: 3, batch_size: 4, monitor: disc-dice.dice, log_every: 1}
"""


@pytest.fixture
def miniatures(monkeypatch):
    """The miniature plugin and core's own, and nothing else that is installed."""
    monkeypatch.syspath_prepend(str(MINIATURES))
    import mlkit_miniatures

    import mlkit_core.plugin
    from mlkit_core.plugins import Catalogue, using

    catalogue = Catalogue.from_plugins({"core": mlkit_core.plugin, "mini": mlkit_miniatures})
    with using(catalogue):
        yield mlkit_miniatures


@pytest.fixture
def make_run(miniatures, tmp_path, monkeypatch):
    """Return a function that writes a run file into the temporary folder and loads it."""
    from mlkit_core import load_run

    monkeypatch.chdir(tmp_path)

    def make(*overrides, text=RUN_FILE, name="mini"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return load_run(path, [f"name={name}", *overrides])

    return make


_SCRIPT = """
import sys
sys.path.insert(0, {miniatures!r})
import mlkit_miniatures, mlkit_core.plugin
from mlkit_core.plugins import Catalogue, using
with using(Catalogue.from_plugins({{"core": mlkit_core.plugin, "mini": mlkit_miniatures}})):
    from mlkit_core import load_run
{body}
"""


@pytest.fixture
def in_process(tmp_path):
    """Return a function that runs Python code with the miniatures, in `ranks` processes."""

    def start(body, ranks=1, **env):
        indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
        script = tmp_path / "script.py"
        script.write_text(_SCRIPT.format(miniatures=str(MINIATURES), body=indented))
        command = [sys.executable, str(script)]
        if ranks > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            command = [sys.executable, *launch, str(script)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env}
        return subprocess.Popen(
            command, cwd=tmp_path, env=variables, text=True, stdout=-1, stderr=subprocess.STDOUT
        )

    return start
