"""Resident memory over 300 steps of a run whose steps carry two kinds of batches.

`uv run python benchmarks/memory.py` prints the resident set after 50 and after 300 steps.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import mlkit_core.plugin
from mlkit_core import hookimpl, load_run
from mlkit_core.plugins import Catalogue, using

MINIATURES = Path(__file__).parents[1] / "packages/core/tests/miniatures"
RUN_FILE = """
name: memory
data: {name: blobs, count: 40, size: 96, mixed: true}
model:
  encoders: {image: {name: tiny-conv, width: 32, norm: true}, hint: {name: hint}}
  fusion: {name: film}
  head: {name: tiny-mask}
losses: [{name: bce}, {name: counted}, {name: projected}]
metrics: [{name: disc-dice}]
trainer: {epochs: 30, batch_size: 4, log_every: 1, ema: 0.99}
"""


def resident_mib() -> float:
    """Return the resident set of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Gauge:
    """Notes the resident set at every line of `metrics.jsonl`."""

    MLKIT_API = 1

    def __init__(self) -> None:
        self.readings: dict[int, float] = {}

    @hookimpl
    def mlkit_metrics(self, record: dict[str, object]) -> None:
        """Note one reading."""
        self.readings[int(str(record["step"]))] = resident_mib()


def main() -> None:
    """Train and print the table."""
    sys.path.insert(0, str(MINIATURES))
    import mlkit_miniatures

    gauge = Gauge()
    plugins = {"core": mlkit_core.plugin, "miniatures": mlkit_miniatures, "gauge": gauge}
    with tempfile.TemporaryDirectory() as folder, using(Catalogue.from_plugins(plugins)):
        os.chdir(folder)
        Path("run.yaml").write_text(RUN_FILE)
        steps = load_run("run.yaml").fit().steps
        os.chdir("/")
    print(f"{'step':>6} {'MiB':>8}")
    for step in (1, 50, 100, 200, steps):
        print(f"{step:>6} {gauge.readings[step]:>8.1f}")
    growth = gauge.readings[steps] / gauge.readings[50] - 1
    print(f"growth after the first 50 steps: {100 * growth:+.2f} %")


if __name__ == "__main__":
    main()
