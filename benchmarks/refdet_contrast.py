"""What contrast brings a detector that knows an object by three photos.

`uv run python benchmarks/refdet_contrast.py --out contrast` makes scenes of the products in
`$MLKIT_DATA` (default `../shared/data`) on COCO photos, trains `examples/refdet-photos.yaml` on
most products and tests it on those held out, on other photos. Split a holds out every fourth
product in sorted order from the fourth on, split b from the second. Arms:

- detection: box, DFL and cross-entropy of all anchors;
- infonce: and region InfoNCE against the prototypes of all training products;
- positives: detection whose cross-entropy leaves out background anchors.

A photo is asked for all that it shows and for three absent products, then for one absent product
alone. Printed are mAP50, false alarms of a frame and an absent product at the threshold that keeps
70 % and 80 % of the arm's own hits (empty frames, frames of other products), recall at 0.1 of the
latter, AUROC, and processor seconds of training; a split's first run also computes the trunks'
maps, which are kept. Finished runs are read, not repeated; two processes fill two cores. With
`OMP_NUM_THREADS=1 THP_MEM_ALLOC_ENABLE=1` a step takes about a tenth less (huge pages).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from mlkit_core.run import Run, load_run
from mlkit_refdet.scenes.scene_set import write_scenes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUN_FILE = Path(__file__).parents[1] / "examples" / "refdet-photos.yaml"
SHARED = Path(__file__).parents[2] / "shared" / "data"
HELD_OUT = {"a": 3, "b": 1}  # place in sorted order, modulo four
TRAIN_SCENES, TRAIN_EMPTY, TEST_SCENES, TEST_EMPTY = 2400, 700, 600, 600
LOSSES = {
    "detection": "{name: anchor-bce, weight: 1.5}",
    "infonce": "{name: anchor-bce, weight: 1.5}, {name: region-infonce, weight: 1.0}",
    "positives": "{name: anchor-bce, weight: 1.5, positives_only: true}",
}
BOXES = "{name: box-iou, weight: 7.5, variant: ciou}, {name: box-dfl, weight: 1.5}"
COLUMNS = {
    "mAP50": "box-map.map50",
    "empty 70": "false-alarms.fp70_background",
    "empty 80": "false-alarms.fp80_background",
    "others 70": "false-alarms.fp70_distractor",
    "others 80": "false-alarms.fp80_distractor",
    "recall .1": "false-alarms.recall_fp10_distractor",
    "AUROC": "false-alarms.auroc_distractor",
}


def main() -> None:
    """Make what is missing, train what is missing, print the table."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    ask.add_argument("--splits", nargs="+", choices=sorted(HELD_OUT), default=["a"])
    ask.add_argument("--arms", nargs="+", choices=sorted(LOSSES), default=["detection", "infonce"])
    ask.add_argument("--seeds", nargs="+", type=int, default=[0])
    ask.add_argument("--steps", type=int, default=1400)
    ask.add_argument("--absent", nargs="+", type=int, default=[3, 1], help="asked of each photo")
    ask.add_argument("--set", action="append", default=[], help="key=value of the run file")
    ask.add_argument("--label", default="", help="names runs with other options")
    args = ask.parse_args()
    data = Path(os.environ.get("MLKIT_DATA", SHARED))
    weights = make_weights(args.out, data)
    rows: dict[str, Mapping[str, float]] = {}
    for split in args.splits:
        train, test = make_sets(args.out, data, split)
        base = [
            f"data.root={train}",
            "data.val_fold=null",
            f"data.val_root={test}",
            f"data.episodes={args.steps}",
            f"model.encoders.query.weights={weights}",
            f"model.encoders.support.weights={weights}",
        ]
        for arm in args.arms:
            for seed in args.seeds:
                name = f"{split}-{arm}{args.label}-{args.steps}-{seed}"
                own = [f"losses=[{BOXES}, {LOSSES[arm]}]", f"seed={seed}", f"name={name}"]
                every = [*base, *own, *args.set]
                rows[name] = measured(args.out / "runs" / name, every, args.absent)
                print_table({name: rows[name]}, args.absent)
    print_table(rows, args.absent)


def make_weights(out: Path, data: Path) -> Path:
    """Write YOLOv8n's weights as plain tensors; return the file."""
    path = (out / "yolov8n.safetensors").resolve()
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        found = torch.load(data / "weights" / "yolov8n_dequant_sd.pt", weights_only=True)
        state = {key: value.float().contiguous() for key, value in found["state_dict"].items()}
        save_file(state, path)
    return path


def products(data: Path, split: str) -> tuple[dict[str, Path], list[str]]:
    """Return name to photo of every product, and the names that a split holds out."""
    photos = sorted((data / "refdet" / "products").glob("*.jpg"))
    cutouts = {path.stem.removesuffix("_Iconic"): path for path in photos}
    held_out = [name for place, name in enumerate(cutouts) if place % 4 == HELD_OUT[split]]
    return cutouts, held_out


def make_sets(out: Path, data: Path, split: str) -> tuple[Path, Path]:
    """Write scenes of a split's products to train on, and of the others to test on."""
    cutouts, unseen = products(data, split)
    seen = [name for name in cutouts if name not in unseen]
    plans = {
        "train": (seen, TRAIN_SCENES, TRAIN_EMPTY, "train.txt", 0),
        "test": (unseen, TEST_SCENES, TEST_EMPTY, "val.txt", 1),
    }
    roots: list[Path] = []
    for kind, (classes, scenes, empty, listed, seed) in plans.items():
        root = (out / f"{kind}-{split}").resolve()
        roots.append(root)
        if not (root / "annotations.json").is_file():
            lines = (data / "coco" / listed).read_text(encoding="utf-8").split()
            backgrounds = [data / "coco" / line for line in lines]
            write_scenes(
                root, cutouts, backgrounds,
                classes=classes, count=scenes, backgrounds_only=empty, seed=seed,
            )  # fmt: skip
    return roots[0], roots[1]


def measured(folder: Path, overrides: Sequence[str], absent: Sequence[int]) -> dict[str, float]:
    """Return a run's cost, and its metrics by number of absent products asked; train if needed."""
    result = folder.with_suffix(".json")
    found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    if not found:
        start = time.process_time()
        changes = [*overrides, "trainer.validate_every=0", "trainer.monitor=null"]
        Run(load_run(RUN_FILE, changes).config, folder).fit()
        found["seconds"] = time.process_time() - start
    for count in absent:
        if f"{count}.box-map.map50" not in found:
            metrics = load_run(folder, [f"data.eval_asked={count}"]).evaluate("val").metrics
            found |= {f"{count}.{key}": value for key, value in metrics.items()}
            result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def print_table(rows: Mapping[str, Mapping[str, float]], absent: Sequence[int]) -> None:
    """Print a line for each run and way of asking."""
    for count in absent:
        head = f"{count} absent"
        print(f"\n{head:26s} " + " ".join(f"{column:>9s}" for column in COLUMNS) + "  seconds")
        for name, found in rows.items():
            values = " ".join(f"{found[f'{count}.{key}']:9.3f}" for key in COLUMNS.values())
            print(f"{name:26s} {values} {found['seconds']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
