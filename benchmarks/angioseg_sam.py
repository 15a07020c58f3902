"""What SAM's ViT-B costs at its true size: encoding, a cached epoch, and LoRA steps.

`uv run python benchmarks/angioseg_sam.py` (random weights; speed does not depend on them) prints

- seconds to encode one image of 1024 x 1024, and bytes that the cache keeps of it;
- seconds of an epoch over 200 cached frames, reading alone and with the head's training, and how
  many times faster that is than encoding them;
- loss, seconds and peak memory of five LoRA steps (rank 16 on `qkv`) on one image.

Of the 200 frames only `--encode` are encoded; the cache gets their features under all keys, so
that what is read is as large as it would be.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlkit_angioseg.phantom import write_phantom
from mlkit_core import load_run
from mlkit_core.training import cache as caching
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.loop import StageLoop
from mlkit_core.training.sampling import derive
from mlkit_core.training.stages import build_stage

if TYPE_CHECKING:
    from mlkit_core.run import Run

RUN_FILE = """
name: {name}
seed: 0
data: {{name: angio-frames, root: data, size: {size}, augment: false}}
model:
  encoders:
    image: {{name: sam, variant: vit_b, image_size: {size}, weights: none, {options}}}
  head: {{name: conv-mask}}
{rest}losses: [{{name: bce}}, {{name: dice}}]
optimizer: {{name: adamw, lr: 1e-3}}
trainer: {{epochs: {epochs}, batch_size: {batch}, validate_every: 0, pictures: 0, log_every: 1}}
"""


def cached_run(size: int) -> str:
    """Return the run file of the cached encoder."""
    return RUN_FILE.format(
        name="cached",
        size=size,
        options="cache: true",
        rest="freeze: [encoders.image]\n",
        epochs=1,
        batch=4,
    )


def lora_run(size: int) -> str:
    """Return the run file of five LoRA steps on one image."""
    lora = "lora: {rank: 16, alpha: 32, targets: [qkv]}, checkpointing: true"
    return RUN_FILE.format(name="lora", size=size, options=lora, rest="", epochs=5, batch=1)


def measure_cache(size: int, frames: int, encode: int) -> None:
    """Print what encoding and a cached epoch take."""
    Path("cached.yaml").write_text(cached_run(size))
    run = load_run("cached.yaml")
    stage = build_stage(run.config.stages[0], derive(run.config.seed, 0, "weights"))
    cache = caching.FeatureCache(Path("runs/.cache"), stage, "image", "fp32")
    caching.bind(stage, {"image": cache}, skip=False)
    units = stage.data.units("cache", 0)
    first = stage.data.collate(
        [[stage.data.load(draw) for draw in unit] for unit in units[:encode]]
    )
    with evaluating(stage.model):
        start = time.perf_counter()
        known = [stage.model.encode("image", batch) for batch in first]
        seconds = (time.perf_counter() - start) / encode
    caching.bind(stage, {"image": cache}, skip=True)
    keys = [key for batch in caching._batches(stage, [units]) for key in batch.keys["image"]]
    for place, key in enumerate(keys):
        row = known[place % len(known)]
        cache.add([key], row)
    stored = sum(path.stat().st_size for path in Path("runs/.cache").rglob("*.bin")) / len(keys)
    cache.load()
    start = time.perf_counter()
    for at in range(0, len(keys), 4):
        cache.read(keys[at : at + 4])
    reading = time.perf_counter() - start
    epoch = training_seconds(run)
    print(f"SAM ViT-B, {size} px, {torch.get_num_threads()} threads, {len(keys)} frames")
    print(f"  encode one image      {seconds:9.2f} s   (mean of {encode})")
    print(f"  kept of one image     {stored / 2**20:9.2f} MiB")
    for name, spent in (("cached, reading alone", reading), ("cached, head trained", epoch)):
        print(f"  {name:21} {spent:9.2f} s   {seconds * len(keys) / spent:6.0f} x faster")


def training_seconds(run: Run) -> float:
    """Return the seconds of the first epoch's steps, loading included, with a filled cache."""
    marks: dict[str, float] = {}
    begin, report = StageLoop._units, StageLoop._report

    def units(self: StageLoop, epoch: int) -> object:
        marks["start"] = time.perf_counter()
        return begin(self, epoch)

    def reported(self: StageLoop, *args: object) -> None:
        marks["end"] = time.perf_counter()
        report(self, *args)

    StageLoop._units, StageLoop._report = units, reported
    run.fit()
    StageLoop._units, StageLoop._report = begin, report
    return marks["end"] - marks["start"]


def measure_lora(size: int) -> None:
    """Print five steps on one image; for a process of its own, as a peak never falls."""
    Path("lora.yaml").write_text(lora_run(size))
    run = load_run("lora.yaml")
    start = time.perf_counter()
    run.fit()
    seconds = (time.perf_counter() - start) / 5
    stage = run.stage_of("last")[0]
    encoder = stage.model.encoders["image"]
    count = sum(p.numel() for name, p in encoder.named_parameters() if "lora_" in name)
    lines = Path("runs/lora/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"LoRA, rank 16 on qkv: {count:,} trained parameters in the encoder")
    print(f"  loss of 5 steps       {' '.join(f'{loss:.4f}' for loss in losses)}")
    print(f"  a step                {seconds:9.2f} s   peak {peak:.2f} GiB, blocks computed again")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--encode", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lora", action="store_true", help="only that part, in this process")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trees = 1 if options.lora else max(options.frames // 10, 1)
        views = 1 if options.lora else 10
        write_phantom(
            Path("data"), trees=trees, views_per_tree=views, size=256, seed=1, split=(1, 0, 0)
        )
        if options.lora:
            measure_lora(options.size)
        else:
            measure_cache(options.size, options.frames, options.encode)
        os.chdir("/")
    if not options.lora:
        sys.stdout.flush()
        given = [f"--size={options.size}", f"--threads={options.threads}"]
        subprocess.run([sys.executable, __file__, "--lora", *given], check=True)


if __name__ == "__main__":
    main()
