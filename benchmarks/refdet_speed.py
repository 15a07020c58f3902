"""How fast frames are searched, with photos enrolled once and with photos encoded for every frame.

`uv run python benchmarks/refdet_speed.py` prints frames a second on the CPU of the models of
`examples/refdet-stage2.yaml` (YOLOv8n and DINOv2-S) and of `mlkit init refdet` (YOLOv8n for both),
with random weights, for frames of 320 and 640 px and three photos of one object, and parameters.
Decoding of files is not in it. Both ways are measured in turns in one process; with one thread by
the processor's time, with more by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_core import load_run
from mlkit_core.build import input_needs
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.stages import build_stage
from mlkit_core.types import Batch, SampleMeta
from mlkit_refdet.demo import run_file
from mlkit_refdet.references.enrolling import Finder
from mlkit_refdet.references.reference_set import reference_set
from mlkit_refdet.scenes.drone import write_drone_set
from mlkit_refdet.search.config import SearchOptions
from mlkit_refdet.search.searching import Searcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlkit_refdet.episodes.images import Pixels

EXAMPLE = Path(__file__).parents[1] / "examples" / "refdet-stage2.yaml"
SHOTS = 3


def finder_of(text: str, size: int) -> Finder:
    """Return a model of a run file with fresh weights, for frames of a size."""
    with tempfile.TemporaryDirectory() as folder:
        path, root = Path(folder) / "run.yaml", Path(folder) / "clips"
        write_drone_set(root, videos=6, frames=32, size=(128, 160), object_px=(16, 48))
        path.write_text(text, encoding="utf-8")
        changes = [f"data.root={root}", f"data.query_size={size}"]
        run = load_run(path, [*changes, "model.encoders.support.weights=none"])
        stage = build_stage(run.config.stages[0], 0)
    stage.data.bind(input_needs(stage.model, stage.config.encoders))
    provenance = {"checkpoint": "none", "stage": stage.config.name, "weights": stage.weights}
    return Finder(stage.model.eval(), stage.data, "support", torch.device("cpu"), provenance)  # pyright: ignore[reportArgumentType]  # reference-frames


def photos_of(finder: Finder) -> Batch:
    """Return a batch of three photos of one object, noise, all of them foreground."""
    side = finder.data.loader.support.side
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, SHOTS, 3, side, side, generator=generator)
    return Batch(
        inputs={"support": pixels},
        meta=(SampleMeta(key="photos"),),
        valid={"support": torch.ones(1, SHOTS, dtype=torch.bool)},
        masks={"support": torch.ones(1, SHOTS, side, side)},
    )


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return what one call takes."""
    start = clock()
    work()
    return clock() - start


def measure(
    finder: Finder, frame: Pixels, clock: Callable[[], float], repeats: int
) -> tuple[float, float]:
    """Return the median seconds of a frame with enrolled photos, and of one that encodes them."""
    photos, model = photos_of(finder), finder.model
    encoder = model.encoders[finder.role]

    def enrolled() -> Searcher:
        with evaluating(model):
            features = model.encode(finder.role, photos)
        known = reference_set(replace(features), ["object"], encoder)  # pyright: ignore[reportArgumentType]  # photos'
        return Searcher(finder, known, SearchOptions(tiles="off"))

    def encode() -> None:
        with evaluating(model):
            model.encode(finder.role, photos)

    search = enrolled()
    search([frame])  # the first call of a process is slower
    once, both = [], []
    for _ in range(repeats):
        spent = seconds(lambda: search([frame]), clock)
        once.append(spent)
        both.append(seconds(lambda: search([frame]), clock) + seconds(encode, clock))
    return statistics.median(once), statistics.median(both)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    runs = {"DINOv2-S, 518": EXAMPLE.read_text(encoding="utf-8"), "YOLOv8n, 160": run_file()}
    heads = ("photos by", "frame px", "M params", "enrolled fps", "encoding fps", "ratio")
    print(" ".join(f"{text:>13}" for text in heads))
    for name, text in runs.items():
        for size in options.sizes:
            finder = finder_of(text, size)
            count = sum(p.numel() for p in finder.model.parameters()) / 1e6
            rng = np.random.default_rng(0)
            frame = rng.integers(0, 255, (size * 9 // 16, size, 3)).astype(np.uint8)
            once, both = measure(finder, frame, clock, options.repeats)
            row = (name, str(size), f"{count:.2f}", f"{1 / once:.2f}", f"{1 / both:.2f}")
            print(" ".join(f"{text:>13}" for text in (*row, f"{both / once:.1f}")), flush=True)


if __name__ == "__main__":
    main()
