"""A frozen encoder with and without the feature cache, in one run of this program.

`uv run python benchmarks/feature_cache.py` trains a small head on a frozen ViT-B for two epochs,
live and cached, and prints the seconds that the second epoch's steps take, and the ratio.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

from mlkit_angioseg.phantom import write_phantom
from mlkit_core import load_run
from mlkit_core.training.loop import StageLoop

RUN_FILE = """
name: {name}
data: {{name: angio-frames, root: data, size: 384, augment: false}}
model:
  encoders:
    image: {{name: timm, model: vit_base_patch16_384, weights: none, cache: {cache}}}
  head: {{name: conv-mask, dim: 64, hidden: [32, 16]}}
freeze: [encoders.image]
losses: [{{name: bce}}, {{name: dice}}]
trainer: {{epochs: 2, batch_size: 4, validate_every: 0}}
"""


def second_epoch_seconds(name: str, cache: bool) -> tuple[float, float]:
    """Return the seconds of the second epoch's steps, loading included, and the last loss."""
    started: dict[int, float] = {}
    ended: dict[int, float] = {}
    begin, report = StageLoop._units, StageLoop._report

    def units(self: StageLoop, epoch: int) -> object:
        started[epoch] = time.perf_counter()
        return begin(self, epoch)

    def reported(self: StageLoop, *args: object) -> None:
        ended[self.position.epoch] = time.perf_counter()
        report(self, *args)

    Path(f"{name}.yaml").write_text(RUN_FILE.format(name=name, cache=str(cache).lower()))
    StageLoop._units, StageLoop._report = units, reported
    try:
        load_run(f"{name}.yaml").fit()
    finally:
        StageLoop._units, StageLoop._report = begin, report
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    import json

    return ended[1] - started[1], json.loads(lines[-1])["loss"]


def main() -> None:
    """Print the table."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_phantom(Path("data"), trees=3, views_per_tree=4, size=384, seed=1, split=(1, 0, 0))
        live, live_loss = second_epoch_seconds("live", cache=False)
        cached, cached_loss = second_epoch_seconds("cached", cache=True)
        os.chdir("/")
    print(f"{'':8} {'2nd epoch, s':>14} {'last loss':>10}")
    print(f"{'live':8} {live:>14.2f} {live_loss:>10.5f}")
    print(f"{'cached':8} {cached:>14.2f} {cached_loss:>10.5f}")
    print(f"ratio {live / cached:.1f}")


if __name__ == "__main__":
    main()
