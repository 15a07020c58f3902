"""A made-up run for the tests of the store and its validation: records that agree with themselves.

Loaded by `runpy.run_path`, because test modules cannot import each other.
"""

import hashlib
import json
import struct
from types import SimpleNamespace

import numpy as np

from mlkit_cluster.store import DistanceSpec, ImageEntry, RunSpec, open_run
from mlkit_core.types import ImageRecord

NAMES = ("square", "disc", "triangle")
SIDE = 64
WIDTHS = {"p3": 8, "p4": 16, "p5": 32}
STRIDES = {"p3": 8, "p4": 16, "p5": 32}
COMPONENTS = ("box", "cls", "dfl")


def entries(count):
    return [ImageEntry(f"images/{i:03d}.png", ("train", "val")[i % 2]) for i in range(count)]


def spec(**changes):
    parts = {
        "imgsz": SIDE,
        "conf": 0.25,
        "iou": 0.45,
        "target_conf": 0.5,
        "max_det": 300,
        "gains": {"box": 7.5, "cls": 0.5, "dfl": 1.5, "seg": 7.5},
        "components": list(COMPONENTS),
    }
    return RunSpec(
        kind="yolo",
        encoder="yolo",
        model="tiny.pt",
        model_sha256="ab" * 32,
        parts=parts | changes,
        names=NAMES,
        versions={"torch": "2.15.0"},
    )


def mask(rng, side=SIDE // 4):
    """A 16 x 16 mask of two runs, written by hand: zeros, ones, zeros down the columns."""
    first = int(rng.integers(1, 200))
    return struct.pack("<HH3I", side, side, first, 40, side * side - first - 40)


def instances(rng, count, *, scored, masked):
    """Boxes of a 128 x 96 image that became the middle 64 x 48 of the input."""
    low = rng.uniform(0, (80, 50), (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], 1).astype(np.float32)
    return SimpleNamespace(
        boxes=boxes,
        boxes_input=(boxes * 0.5 + np.array([0, 8, 0, 8])).astype(np.float32),
        scores=rng.uniform(0.3, 1, count).astype(np.float32) if scored else None,
        labels=rng.integers(0, len(NAMES), count).astype(np.int32),
        masks=tuple(mask(rng) for _ in range(count)) if masked else None,
    )


def feature_maps(rng, full):
    maps = {
        level: rng.normal(1, 1, (width, SIDE // STRIDES[level], SIDE // STRIDES[level]))
        for level, width in WIDTHS.items()
    }
    maps = {level: values.astype(np.float16) for level, values in maps.items()}
    gap = {level: v.astype(np.float32).mean((1, 2)) for level, v in maps.items()}
    if full:
        return gap, maps
    pooled = maps["p3"].reshape(8, 4, 2, 4, 2).astype(np.float32).mean((2, 4)).astype(np.float16)
    large = maps["p5"].repeat(2, 1).repeat(2, 2)
    return gap, {"p3": pooled, "p4": maps["p4"], "p5": large}


def metrics(found, truth, rng):
    count = len(found.labels)
    made = {"mean_conf": float(found.scores.mean(dtype=float)) if count else None, "n_pred": count}
    if truth is None:
        return made
    objects = len(truth.labels)
    hits = min(objects, count)
    empty = 0.0 if objects or count else 1.0
    flag = int(np.bincount(truth.labels).argmax()) if objects else -1
    return made | {
        "mean_iou": float(rng.uniform(0.5, 0.95)) if hits else empty,
        "mean_conf_matched": float(rng.uniform(0.3, 1)) if hits else None,
        "hit_freq": hits / objects if objects else (None if count else 1.0),
        "precision": hits / count if count else empty,
        "n_gt": objects,
        "n_match": hits,
        "flag_cat": flag,
        "flag_supercat": 0 if objects else -1,
    }


def record(number, *, labelled=True, masked=False, full=False):
    """Image `number` of `entries`: number % 4 detections, (number + 1) % 3 objects."""
    rng = np.random.default_rng(number)
    gap, maps = feature_maps(rng, full)
    found = instances(rng, number % 4, scored=True, masked=masked)
    truth = instances(rng, (number + 1) % 3, scored=False, masked=masked) if labelled else None
    losses, positives, total = dict.fromkeys(("box", "cls", "dfl", "seg")), None, None
    if truth is not None:
        losses["cls"] = float(rng.gamma(2, 3))
        positives, total = 10 * len(truth.labels), float(len(truth.labels)) * 4.5
        if len(truth.labels):
            losses |= {"box": float(rng.gamma(2, 0.3)), "dfl": float(rng.gamma(2, 0.5))}
    values = {
        "width": 128,
        "height": 96,
        "ratio": 0.5,
        "pad_x": 0,
        "pad_y": 8,
        "sha": hashlib.blake2b(bytes([number % 256]), digest_size=16).hexdigest(),
        "embedding": np.concatenate([*gap.values()]),
        "gap": gap,
        "maps": maps,
        "detections": found,
        "labels": truth,
        "losses": losses,
        "n_pos": positives,
        "score_sum": total,
        "metrics": metrics(found, truth, rng),
    }
    return ImageRecord(entries(number + 1)[number].path, values)


def fill(folder, count, **kind):
    """Make a run of `count` images, extracted in batches of 4."""
    with open_run(folder, create=True) as run:
        run.begin_run(spec())
        known = kind.get("labelled", True)
        run.set_metadata({"names": json.dumps(NAMES), "labels": "yolo" if known else ""})
        run.register_images(entries(count))
        write_pending(run, **kind)
    return folder


def write_pending(run, **kind):
    waiting = [img_id for img_id, _ in run.pending()]
    for first in range(0, len(waiting), 4):
        batch = [record(number, **kind) for number in waiting[first : first + 4]]
        run.write_records(batch, full_maps=kind.get("full", False))


def matrices(targets, seed=0):
    """Losses that look like losses: NaN without targets, background cls, a small diagonal."""
    rng, count = np.random.default_rng(seed), len(targets)
    made = {name: rng.gamma(2, 1, (count, count)).astype(np.float32) for name in COMPONENTS}
    for name, values in made.items():
        values[np.diag_indices(count)] *= 0.01
        if name == "cls":
            values[:, ~targets] = rng.uniform(5, 6, (count, 1)).astype(np.float32)
        else:
            values[:, ~targets] = np.nan
    return made


def target_mask(run):
    from mlkit_cluster.store.reading import targets

    return np.array([len(found) > 0 for found in targets(run)])


def fill_distances(folder, rows=3, *, adopt=True):
    """Write all blocks of a full matrix, and return the matrices."""
    from mlkit_cluster.store.matrix import write_block

    with open_run(folder) as run:
        name = run.begin_distances(DistanceSpec(components=COMPONENTS, parts={"kernel": 1}))
        values = matrices(target_mask(run))
        count = len(values["box"])
        for row0, row1 in run.missing_blocks(count, rows):
            block = {c: v[row0:row1] for c, v in values.items()}
            write_block(run.folder, row0, row1, block, name)
        if adopt:
            run.adopt_blocks()
    return values


def content(folder):
    """All rows of all tables without times, and the bytes of all arrays."""
    with open_run(folder, readonly=True) as run:
        tables = [
            name
            for (name,) in run.db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
            )
        ]
        rows = {}
        for table in tables:
            names = [row[1] for row in run.db.execute(f"PRAGMA table_info({table})")]
            kept = ", ".join(name for name in names if name != "created_ts")
            rows[table] = run.db.execute(f"SELECT {kept} FROM {table} ORDER BY {kept}").fetchall()
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npy"))}
    return rows, files
