"""Does the view reach the mask, where the image alone cannot tell which vessels are asked for?

`uv run python benchmarks/angioseg_view.py` trains three fusions on a generated proof set of four
families of curves, of which the quadrant of the angles names one, and prints each one's Dice on
unseen images with true, shuffled and sign-flipped angles. `--angio FOLDER` adds real angiograms in
the folder layout, in which the label is the wide vessels in LAO and the narrow ones in RAO.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlkit_angioseg.phantom import no_view_bound, write_proof, write_semi_synthetic
from mlkit_core import load_run
from mlkit_core.training.evaluation import evaluating

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_core.model import Model
    from mlkit_core.types import Batch

PROOF = """
name: {name}
seed: {seed}
data: {{name: angio-frames, root: proof, size: 96, augment: false}}
model:
  encoders:
    image: {{name: conv-stem, dim: 32, stride: 2}}
{view}  head: {{name: conv-mask, dim: 32, hidden: [32, 32]}}
losses: [{{name: bce, weight: 0.5}}, {{name: dice, weight: 0.5}}]
metrics: [{{name: mask-overlap, resamples: 0}}]
optimizer: {{name: adamw, lr: 1e-2, warmup: 0.05}}
trainer: {{epochs: {epochs}, batch_size: 8, validate_every: 0, pictures: 0}}
"""
REAL = """
name: {name}
seed: {seed}
data: {{name: angio-frames, root: real, size: 512, augment: {{crop: 320}}}}
model:
  encoders:
    image: {{name: timm, model: resnet10t, weights: none}}
    stem: {{name: conv-stem, input: image, dim: 16, stride: 2}}
{view}  head: {{name: fpn-mask, stem: stem}}
losses: [{{name: bce, weight: 0.5}}, {{name: dice, weight: 0.5}}]
metrics: [{{name: mask-overlap, resamples: 0}}]
optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.02, warmup: 0.05}}
trainer: {{epochs: {epochs}, batch_size: 4, precision: bf16, ema: 0.98, validate_every: 0,
  pictures: 0}}
"""
VIEW = """    view: {{name: view-angle, dim: {dim}}}
  fusion: {{{fusion}, "on": image, by: view}}
"""
FUSIONS = {"film": "name: film", "cross-attention": "name: cross-attention, heads: 4", "none": ""}


@dataclass(frozen=True)
class Scores:
    """Mean Dice of one fusion, with true, shuffled and sign-flipped angles."""

    true: float
    shuffled: float
    flipped: float
    seconds: float


def run_file(text: str, fusion: str, dim: int, **values: object) -> str:
    """Return a run file with one of the fusions."""
    view = VIEW.format(dim=dim, fusion=FUSIONS[fusion]) if FUSIONS[fusion] else ""
    return text.format(view=view, **values)


def dice(prediction: Tensor, target: Tensor) -> float:
    """Return the Dice of two masks at the image's own size."""
    both = (prediction & target).sum().item()
    return 2 * both / max(prediction.sum().item() + target.sum().item(), 1)


def mean_dice(
    model: Model, batches: list[Batch], views: Tensor | None, truth: list[Tensor]
) -> float:
    """Return the mean over images when the model is told these views."""
    found = []
    with evaluating(model), torch.no_grad():
        for row, batch in enumerate(batches):
            if views is not None:
                batch.inputs = {**batch.inputs, "view": views[row : row + 1]}
            [prediction] = model.head.decode(model(batch).head, batch.meta)
            found.append(dice(prediction.probabilities >= 0.5, truth[row]))
    return sum(found) / len(found)


def true_masks(root: Path, batches: list[Batch]) -> list[Tensor]:
    """Return the label of every image, at its own size."""
    import numpy as np
    from PIL import Image

    paths = [root / "masks" / f"{batch.meta[0].key}.png" for batch in batches]
    return [torch.from_numpy(np.asarray(Image.open(path)) > 0) for path in paths]


def measure(text: str, root: Path, split: str) -> Scores:
    """Train one run file and return its scores on a split."""
    Path("run.yaml").write_text(text)
    begin = time.process_time()
    run = load_run("run.yaml")
    run.fit()
    spent = time.process_time() - begin
    stage = run.stage_of("last")[0]
    data, model = stage.data, stage.model
    units = data.units(split, 0)
    batches = [data.collate([[data.load(draw) for draw in unit]])[0] for unit in units]
    truth = true_masks(root, batches)
    if "view" not in batches[0].inputs:
        same = mean_dice(model, batches, None, truth)
        return Scores(same, same, same, spent)
    views = torch.cat([batch.inputs["view"] for batch in batches])
    order = torch.randperm(len(views), generator=torch.Generator().manual_seed(0))
    told = (views, views[order], -views)
    return Scores(*(mean_dice(model, batches, view, truth) for view in told), spent)


def table(title: str, rows: dict[str, Scores]) -> None:
    """Print one set's table."""
    print(title)
    print(f"  {'fusion':16} {'true':>6} {'shuffled':>9} {'flipped':>8} {'CPU s':>6}")
    for name, row in rows.items():
        scores = f"{row.true:6.3f} {row.shuffled:9.3f} {row.flipped:8.3f}"
        print(f"  {name:16} {scores} {row.seconds:6.0f}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--angio", type=Path, help="folder with images, masks_clean and index.csv")
    parser.add_argument("--epochs", type=int, default=6, help="on the proof set")
    parser.add_argument("--real-epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    angio = options.angio.resolve() if options.angio else None
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_proof("proof", count=180, families=4, seed=1, split=(0.8, 0.02, 0.18))
        rows = {}
        for name in FUSIONS:
            values = {"name": f"proof-{name}", "seed": options.seed, "epochs": options.epochs}
            text = run_file(PROOF, name, 32, **values)
            rows[name] = measure(text, Path("proof"), "test")
        table(f"four families of curves; without the view at most {no_view_bound(4):.2f}", rows)
        if angio is not None:
            write_semi_synthetic(
                "real",
                images=angio / "images",
                masks=angio / "masks_clean",
                patients=angio / "index.csv",
            )
            rows = {}
            for name in FUSIONS:
                values = {"name": f"real-{name}", "seed": options.seed}
                text = run_file(REAL, name, 64, epochs=options.real_epochs, **values)
                rows[name] = measure(text, Path("real"), "val")
            table(f"real pixels, wide or narrow; at most {no_view_bound(2):.2f} without", rows)
        os.chdir("/")


if __name__ == "__main__":
    main()
