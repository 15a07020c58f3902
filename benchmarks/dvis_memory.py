"""Peak memory of an offline video, from short to long: it must not grow with the frames.

    uv run python benchmarks/dvis_memory.py [--frames 100 1000] [--size 128 192] [--queries 20]

A generated video runs through segmenter, tracker and refiner of random weights, each length in a
process of its own; thresholds let a steady number of tracks live.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RUN = """
name: memory
data: {{name: video-clips, classes: [a, b, c], size: {side}}}
model:
  encoders:
    frames: {{name: mask2former, backbone: "timm:regnety_002", pixel_decoder: fpn, dim: 64,
      mask_dim: 64, num_queries: {queries}, decoder_layers: 3, heads: 4, feedforward: 256,
      reid_dim: 0, weights: none}}
  fusion:
    - {{name: daq-tracker, as: tracks, num_queries: {queries}, layers: 3, heads: 4,
        feedforward: 256, inference_select_threshold: 0.3}}
    - {{name: temporal-refiner, as: refined, layers: 3, heads: 4, feedforward: 256,
        num_rows: {queries}}}
  head: {{name: video-instances}}
losses: [{{name: video-set}}]
freeze: [encoders.frames, fusions.tracks]
"""
WINDOW = 5


def measure(frames: int, size: tuple[int, int], queries: int) -> str:
    """Run one video in this process; return its row of the table."""
    import torch

    from mlkit_core import load_run
    from mlkit_core.training.stages import build_stage
    from mlkit_dvis.drawing.memory import return_large_blocks
    from mlkit_dvis.pipeline.session import Parts
    from mlkit_dvis.synthetic.scene import Difficulty, render

    return_large_blocks()  # as the verb `run` does
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(RUN.format(side=min(size), queries=queries))
        stage = build_stage(load_run(path).config.stages[0], 0)
        model, data = stage.model.eval(), stage.data
        parts = Parts.of(model)
        clip = render(16, size, Difficulty(), np.random.default_rng(0)).frames
        session, start = None, time.perf_counter()
        for first in range(0, frames, WINDOW):
            shown = range(first, min(first + WINDOW, frames))
            pictures = [np.roll(clip[t % len(clip)], t // len(clip), axis=1) for t in shown]
            batch = data.batch_of(pictures, first=first, total=frames)
            session = session or model.head.session(parts, batch, spill=Path(folder))
            with torch.no_grad():
                session.add(batch)
        spilled = sum(file.stat().st_size for file in Path(folder).rglob("*.bin"))
        tracks = len(session.finish().tracks)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{frames} {peak:.0f} {spilled / 2**20:.0f} {seconds / frames:.3f} {tracks}"


def main() -> None:
    """Measure every length and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--size", type=int, nargs=2, default=[128, 192], metavar=("H", "W"))
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(measure(options.child, tuple(options.size), options.queries))
        return
    head = ("frames", "peak MiB", "spilled MiB", "s/frame", "tracks", "of the first")
    print(" ".join(f"{name:>12}" for name in head))
    first = 0.0
    shared = ["--size", *map(str, options.size), "--queries", str(options.queries)]
    for frames in options.frames:
        command = [sys.executable, "-W", "ignore", __file__, "--child", str(frames), *shared]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = done.stdout.split()
        first = first or float(row[1])
        cells = [*row, f"{float(row[1]) / first:.2f}x"]
        print(" ".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
