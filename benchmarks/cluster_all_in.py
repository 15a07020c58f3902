"""All distances of N images, as `mlkit cluster distances` computes them, against the obvious way.

`uv run python benchmarks/cluster_all_in.py --images DIR --model FILE [--count 1000] [--size 320]`
makes N different images out of those in DIR (mirrored, cropped), extracts them, and computes the
whole matrix. The obvious way is one forward pass and one call of the criterion for each pair; it is
measured on a sample of pairs, before and after, in the same process, and multiplied by N x N.
Times are CPU seconds of the process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from mlkit_cluster.distances.rows import RowsTask, by_criterion, to_unit
from mlkit_cluster.engines.local import LocalEngine
from mlkit_cluster.steps.distances import DistanceWish, distances, recipe_of
from mlkit_cluster.steps.extraction import extract
from mlkit_cluster.steps.parts import make_part
from mlkit_cluster.store.database import open_run

_SAMPLE = 40


def make_images(source: Path, folder: Path, count: int) -> None:
    """Write `count` images: each of the source's as it is, then mirrored and cropped anew."""
    rng = np.random.default_rng(0)
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in range(count):
        with Image.open(paths[number % len(paths)]) as image:
            picture = image.convert("RGB")
        if number >= len(paths):
            w, h = picture.size
            x, y = int(rng.integers(0, w // 3)), int(rng.integers(0, h // 3))
            picture = picture.crop((x, y, x + 2 * w // 3, y + 2 * h // 3))
            picture = ImageOps.mirror(picture) if rng.integers(2) else picture
        picture.thumbnail((640, 640))
        picture.save(folder / f"{number:06d}.jpg", quality=85)


def obvious(run: Path, seed: int) -> float:
    """Return CPU seconds of one pair: a forward pass and the criterion, mean over a sample."""
    with open_run(run, readonly=True) as store:
        recipe = recipe_of(store, DistanceWish(device="cpu"))
    worker = recipe.build()
    # As ultralytics leaves the model; this package's own memory format is part of the gain.
    worker.detector.model.to(memory_format=torch.contiguous_format)
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, len(recipe.paths), (_SAMPLE, 2)).tolist()
    images = {row: to_unit(worker.prepare(RowsTask(row, row + 1))) for row, _ in pairs}
    spent = 0.0
    for row, column in pairs:
        raw = worker.detector(images[row])
        start = time.process_time()
        with torch.inference_mode():
            worker.detector.model(images[row])
        by_criterion(worker.detector, raw, recipe.targets, np.array([column]))
        spent += time.process_time() - start
    return spent / _SAMPLE


def main() -> None:
    """Print one row: N, seconds, per pair, and the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=320)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        make_images(given.images, folder / "images", given.count)
        data = {"source": str(folder / "images"), "labels": "none", "image_size": given.size}
        options = {"model": str(given.model), "image_size": given.size, "maps": "none"}
        run = folder / "run"
        extractor = make_part("extractor", "yolo", {**options, "device": "cpu"})
        extract(run, make_part("data", "image-folder", data), extractor, engine=LocalEngine())
        before = obvious(run, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, wall = time.process_time(), time.monotonic()
        found = distances(run, DistanceWish(device="cpu"), engine=LocalEngine())
        took, wall = time.process_time() - start, time.monotonic() - wall
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        per_pair = (before + obvious(run, 1)) / 2
        sizes = [path.stat().st_size for path in (run / "dist").glob("cls-*.npy")]
    pairs = given.count**2
    print(f"{'images':<34}{given.count} at {given.size} px, {', '.join(found.components)}")
    print(f"{'all distances, everything included':<34}{took:.1f} CPU s ({wall:.1f} s on the clock)")
    print(f"{'of it for each pair':<34}{took / pairs * 1e6:.1f} us")
    print(f"{'obvious way, each pair':<34}{per_pair * 1e6:.0f} us (sample of {2 * _SAMPLE})")
    print(f"{'obvious way, all pairs':<34}{per_pair * pairs / 3600:.1f} CPU h (extrapolated)")
    print(f"{'ratio':<34}{per_pair * pairs / took:.0f} x")
    print(f"{'peak memory grew by':<34}{grown / 1024:.0f} MiB")
    print(f"{'on the disk, each component':<34}{sum(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
