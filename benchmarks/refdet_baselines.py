"""A trained detector beside two baselines that learn nothing, on drone clips.

`uv run python benchmarks/refdet_baselines.py --out contrast --run contrast/runs/a-infonce-1400-0`
makes clips of the products that `refdet_contrast.py` held out (split a or b) over the AU-AIR photos
of `$MLKIT_DATA` (default `../shared/data`): 640 x 360, one product each, seen in a quarter of the
frames. Every frame that is looked at is asked for the clip's own product, alone and without
tracks. Printed are mAP50, ST-IoU at the threshold that suits each method best on these very clips,
false alarms of a frame without the product at the threshold that keeps 70 % and 80 % of the
method's own hits, and processor seconds. `template-match` takes seconds for a frame.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from refdet_contrast import HELD_OUT, SHARED, make_weights, products

import mlkit_refdet.baselines
from mlkit_core.run import Run, load_run
from mlkit_core.training.evaluation import evaluate
from mlkit_refdet.metrics.box_map import BoxMap
from mlkit_refdet.metrics.false_alarms import FalseAlarms
from mlkit_refdet.metrics.st_iou import StIou
from mlkit_refdet.scenes.drone import write_product_clips

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.interfaces import Metric

BASELINES = Path(mlkit_refdet.baselines.__file__).parent / "run_files"
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7)


def main() -> None:
    """Make what is missing, evaluate, print the table."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--out", type=Path, required=True, help="folder for data and runs")
    ask.add_argument("--run", type=Path, action="append", default=[], help="a trained run's folder")
    ask.add_argument("--split", choices=sorted(HELD_OUT), default="a")
    ask.add_argument("--methods", nargs="*", default=["template-match", "prototype-match"])
    ask.add_argument("--clips", type=int, default=12)
    ask.add_argument("--stride", type=int, default=20, help="every n-th of 200 frames")
    args = ask.parse_args()
    data = Path(os.environ.get("MLKIT_DATA", SHARED))
    clips = make_clips(args.out, data, args.split, args.clips)
    weights = make_weights(args.out, data)
    heads = ("mAP50", "ST-IoU", "from", "alarms 70", "alarms 80", "seconds")
    print(f"{'':26s} " + " ".join(f"{head:>9s}" for head in heads))
    for method in args.methods:
        overrides = [f"data.root={clips}", f"data.val_root={clips}"]
        if method == "prototype-match":
            options = (f"weights={weights}", "folded=true")
            roles = ("query", "support")
            overrides += [f"model.encoders.{role}.{option}" for role in roles for option in options]
        folder = args.out / "runs" / f"{method}-{clips.name}"
        run = Run(load_run(BASELINES / f"{method}.yaml", overrides).config, folder)
        if not (folder / "last").exists():
            run.fit()
        print_row(method, folder, clips, args.stride)
    for folder in args.run:
        print_row(folder.name, folder, clips, args.stride)


def make_clips(out: Path, data: Path, split: str, videos: int) -> Path:
    """Write clips of a split's held-out products; return the set's folder."""
    root = (out / f"clips-{split}-{videos}").resolve()
    if not (root / "annotations" / "annotations.json").is_file():
        cutouts, unseen = products(data, split)
        photos = sorted((data / "refdet" / "auair_subset").rglob("*.jpg"))
        write_product_clips(root, cutouts, photos, videos=videos, classes=unseen, seed=3)
    return root


def print_row(name: str, folder: Path, clips: Path, stride: int) -> None:
    """Evaluate a run folder on the clips and print its line."""
    start = time.process_time()
    found = measured(folder, clips, stride)
    best = max(THRESHOLDS, key=lambda threshold: found[f"from {threshold}.st_iou"])
    alarms = [found.get(f"alarms.fp{share}_background", float("nan")) for share in (70, 80)]
    values = [found["boxes.map50"], found[f"from {best}.st_iou"], best, *alarms]
    numbers = " ".join(f"{value:9.3f}" for value in values)
    print(f"{name:26s} {numbers} {time.process_time() - start:9.0f}", flush=True)


def measured(folder: Path, clips: Path, stride: int) -> Mapping[str, float]:
    """Return a run's metrics on the clips, ST-IoU at every threshold."""
    changes = [
        f"data.val_root={clips}",
        "data.query_size=640",
        f"data.eval_stride={stride}",
        "data.eval_asked=0",
    ]
    stage, engine, _ = load_run(folder, changes).ready()
    names = stage.data.classes

    def make() -> dict[str, Metric]:
        whole: dict[str, Metric] = {"boxes": BoxMap(classes=names), "alarms": FalseAlarms()}
        return whole | {f"from {t}": StIou(t, names) for t in THRESHOLDS}

    return evaluate(stage.model, stage.data, make, "val", engine).metrics


if __name__ == "__main__":
    main()
