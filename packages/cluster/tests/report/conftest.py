"""Made-up runs for the tests of reports and exports: database, distances, painted images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mlkit_cluster.store import DistanceSpec, RunStore, open_run
from mlkit_cluster.store.edges import write_edges
from mlkit_cluster.store.matrix import write_block

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

NAMES = ("person", "bicycle", "car", "dog", "chair")
SUPERS = ("person", "vehicle", "animal", "furniture")
SUPER_OF = (0, 1, 1, 2, 3)
SIDE = 320
COMPONENTS = ("box", "cls", "dfl")
SIZES = ((320, 240), (240, 320), (300, 200), (256, 256))
FORMS = ("square", "disc", "triangle", "bar", "cross")
HOSTILE = (
    "<img src=x onerror=alert(1)>.jpg",
    "a</script><script>alert(2)</script>.jpg",
    '=HYPERLINK("x","y").jpg',
    'quote\'s "and" `tick` ${x}.jpg',
    "ü 中 \U0001f600.jpg",
)


@dataclass(frozen=True)
class Made:
    """What was made, for comparison: `matrix[component]` is `[N, N]`."""

    folder: Path
    matrix: dict[str, np.ndarray]
    cluster: np.ndarray
    xy: np.ndarray


def paint(path: Path, kind: int, seed: int, size: tuple[int, int]) -> None:
    """Write a JPEG of a few shapes of one kind on a ground that varies."""
    rng = np.random.default_rng(seed)
    width, height = size
    ground = Image.fromarray(rng.integers(30, 110, (6, 8, 3), np.uint8))
    image = ground.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(1 + seed % 3):
        colour = tuple(int(v) for v in rng.integers(140, 256, 3))
        side = int(rng.uniform(0.2, 0.45) * min(size))
        x, y = int(rng.uniform(0, width - side)), int(rng.uniform(0, height - side))
        if kind == 1:
            draw.ellipse([x, y, x + side, y + side], fill=colour)
        elif kind == 2:
            draw.polygon([(x, y + side), (x + side // 2, y), (x + side, y + side)], fill=colour)
        else:
            draw.rectangle([x, y, x + side, y + side // (1 + kind)], fill=colour)
    image.save(path, quality=80)


def _images(folder: Path, count: int, hostile: bool) -> list[str]:
    """Write or link `count` images of 24 painted ones; return their paths relative to the root."""
    source, root = folder / "painted", folder / "images"
    source.mkdir(parents=True)
    root.mkdir()
    for number in range(min(count, 24)):
        paint(source / f"{number}.jpg", number % len(FORMS), number, SIZES[number % 4])
    names = [f"{FORMS[n % len(FORMS)]}-{n:05d}.jpg" for n in range(count)]
    if hostile:
        names[: len(HOSTILE)] = HOSTILE[:count]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)  # one name holds slashes
        (root / name).hardlink_to(source / f"{number % 24}.jpg")
    return names


def _insert(db: sqlite3.Connection, table: str, rows: list[dict]) -> None:
    if rows:
        marks = ", ".join(f":{name}" for name in rows[0])
        db.executemany(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({marks})", rows)


def _object_rows(rng, ids, cluster, sizes, letterbox, *, sure: bool) -> list[dict]:
    rows = []
    for img_id, kind, (w, h), (ratio, left, top) in zip(
        ids, cluster, sizes, letterbox, strict=True
    ):
        for _ in range(int(rng.integers(0, 4)) if kind != 4 or not sure else 0):
            bw, bh = rng.uniform(0.15, 0.5) * w, rng.uniform(0.15, 0.5) * h
            x, y = rng.uniform(0, w - bw), rng.uniform(0, h - bh)
            label = int(kind) if rng.random() < 0.85 else int(rng.integers(len(NAMES)))
            box = (x, y, x + bw, y + bh)
            row = {"img_id": int(img_id), "class_id": label, "class_name": NAMES[label]}
            pads = (left, top, left, top)
            for key, value, pad in zip(("x1", "y1", "x2", "y2"), box, pads, strict=True):
                row[f"box_{key}"], row[f"input_{key}"] = float(value), float(value * ratio + pad)
            if not sure:
                row |= {"confidence": float(rng.uniform(0.2, 0.99)), "created_ts": 0.0}
            rows.append(row)
    return rows


def _letterbox(sizes: np.ndarray) -> np.ndarray:
    ratio = SIDE / sizes.max(1)
    new = np.rint(sizes * ratio[:, None])
    pads = np.round((SIDE - new) / 2 - 0.1)
    return np.column_stack([ratio, pads])


def _points(rng, cluster: np.ndarray) -> np.ndarray:
    centres = rng.normal(size=(len(FORMS), 16)) * 3
    return (centres[cluster] + rng.normal(size=(len(cluster), 16))).astype(np.float32)


def _matrices(rng, points: np.ndarray) -> dict[str, np.ndarray]:
    """Return losses that grow with distance, unlike in both directions, not 0 on the diagonal."""
    count = len(points)
    square = (points**2).sum(1)
    apart = np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0))
    made = {}
    for name, (base, slope) in zip(COMPONENTS, ((0.1, 0.2), (2, 6), (0.6, 0.3)), strict=True):
        noise = rng.random((count, count), dtype=np.float32)
        made[name] = (base + slope * apart.astype(np.float32) * (0.6 + 0.8 * noise)).astype("f4")
        if name != "cls":
            made[name][:, -1] = np.nan  # the last image has no targets
    return made


@pytest.fixture
def hostile_names() -> tuple[str, ...]:
    """Paths that a page must show as text; they are the first of a run made with `hostile`."""
    return HOSTILE


@pytest.fixture(scope="session")
def make_run():
    """The function `build`, which writes a made-up run."""
    return build


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of 24 images with everything, not to be changed."""
    return build(tmp_path_factory.mktemp("shared") / "run", 24, hostile=True, failed=2)


def build(
    folder: Path,
    count: int = 24,
    *,
    labels: bool = True,
    distances: str = "full",
    clusters: bool = True,
    projections: bool = True,
    hostile: bool = False,
    failed: int = 0,
    seed: int = 0,
) -> Made:
    """Write a run of `count` images; `distances` is "full", "edges" or "none"."""
    rng = np.random.default_rng(seed)
    paths = _images(folder, count, hostile)
    ids = np.arange(count) * 2 + 5  # neither from 0 nor without gaps
    cluster = np.arange(count) % len(FORMS)
    sizes = np.array([SIZES[number % 4] for number in range(count)])
    points = _points(rng, cluster)
    matrix = _matrices(rng, points) if distances != "none" else {}
    with open_run(folder, create=True) as store:
        with store.transaction() as db:
            _fill_images(db, rng, folder, paths, ids, cluster, sizes, failed, labels=labels)
            _fill_measures(db, rng, ids, cluster, points, labels=labels)
            if clusters:
                _fill_clusters(db, ids, cluster)
            if projections:
                _fill_projections(db, ids, points[:, :2])
        if matrix:
            (_write_blocks if distances == "full" else _write_edges)(store, matrix)
    return Made(folder, matrix, cluster, points[:, :2])


def _fill_images(db, rng, folder, paths, ids, cluster, sizes, failed, *, labels) -> None:
    letterbox = _letterbox(sizes)
    rows = [
        {"img_id": int(i), "path": p, "sha": f"{i:032x}", "w": int(w), "h": int(h), "split": "val"}
        | {"ratio": float(r), "pad_x": int(x), "pad_y": int(y), "error": None}
        for i, p, (w, h), (r, x, y) in zip(ids, paths, sizes, letterbox, strict=True)
    ]
    _insert(db, "images", rows)
    broken = [{"img_id": 10**6 + n, "path": f"broken{n}.jpg"} for n in range(failed)]
    _insert(db, "images", [row | {"error": "cannot identify image file"} for row in broken])
    predictions = _object_rows(rng, ids, cluster, sizes, letterbox, sure=False)
    _insert(db, "predictions", predictions)
    counted = {"pred": predictions}
    if labels:
        counted["gt"] = _object_rows(rng, ids, cluster, sizes, letterbox, sure=True)
        _insert(db, "labels", counted["gt"])
    for source, objects in counted.items():
        pairs = Counter((o["img_id"], o["class_id"]) for o in objects)
        rows = [
            {"img_id": i, "source": source, "class_id": c, "n": n}
            for (i, c), n in sorted(pairs.items())
        ]
        _insert(db, "image_classes", rows)
    metadata = {"image_root": str(folder / "images"), "labels": "yolo" if labels else ""}
    metadata |= {"names": json.dumps(NAMES), "supercategories": json.dumps(SUPERS)}
    _insert(db, "metadata", [{"key": k, "value": v} for k, v in metadata.items()])
    _fill_run(db)


def _fill_run(db) -> None:
    run = {"run_id": "r1", "fingerprint": "f1", "kind": "yolo", "model": "yolov8n.pt"}
    run |= {"model_sha256": "ab" * 32, "imgsz": SIDE, "conf": 0.05, "iou": 0.45}
    structured = {
        "gains": {"box": 7.5, "cls": 0.5, "dfl": 1.5},
        "components": COMPONENTS,
        "names": NAMES,
        "options": {"max_det": 300},
        "versions": {"torch": "2.15.0", "ultralytics": "8.4.190"},
    }
    run |= {"target_conf": 0.25, "created_ts": 0.0}
    run |= {name: json.dumps(value) for name, value in structured.items()}
    _insert(db, "runs", [run])


def _fill_measures(db, rng, ids, cluster, points, *, labels) -> None:
    rows = []
    for number, (img_id, kind) in enumerate(zip(ids.tolist(), cluster.tolist(), strict=True)):
        row = {"img_id": img_id, "embedding": points[number].astype("<f4").tobytes()}
        row |= {"encoder": "yolo", "fingerprint": "f1"}
        row |= {"mean_conf": float(rng.uniform(0.3, 0.9)), "n_pred": int(rng.integers(1, 6))}
        empty = kind == 4
        losses = {"box_loss": 0.1 + rng.gamma(2, 0.2), "dfl_loss": 0.6 + rng.gamma(2, 0.2)}
        metrics = {name: float(rng.uniform()) for name in ("hit_freq", "mean_iou", "precision")}
        known = metrics | {name: None if empty else float(v) for name, v in losses.items()}
        known |= {"cls_loss": float(1 + rng.gamma(2, 1.5) + kind), "n_gt": 0 if empty else 2}
        known |= {"n_match": 0 if empty else 1, "flag_cat": -1 if empty else kind}
        known |= {"flag_supercat": -1 if empty else SUPER_OF[kind]}
        rows.append(row | (known if labels else dict.fromkeys(known)))
    _insert(db, "embeddings", rows)


def _write_blocks(store: RunStore, matrix, rows: int = 400) -> None:
    name = store.begin_distances(DistanceSpec(components=COMPONENTS, parts={}))
    count = len(matrix["box"])
    for row0 in range(0, count, rows):
        row1 = min(row0 + rows, count)
        write_block(store.folder, row0, row1, {n: m[row0:row1] for n, m in matrix.items()}, name)
    store.adopt_blocks()


def _write_edges(store: RunStore, matrix, keep: int = 6) -> None:
    spec = DistanceSpec(components=COMPONENTS, mode="knn", knn_k=keep, parts={})
    name = store.begin_distances(spec)
    total = sum(np.nan_to_num(m, nan=1e9) for m in matrix.values())
    columns = np.argsort(total, axis=1)[:, :keep]
    arrays = {n: np.take_along_axis(m, columns, 1) for n, m in matrix.items()}
    write_edges(store.folder, (0, len(total)), columns, arrays, name)
    store.adopt_blocks()


def _fill_projections(db, ids, xy) -> None:
    for name, turn in (("umap-1", 1.0), ("tsne-2", -1.0)):
        params = {"method": name[:4], "n_neighbors": 15, "seed": 0}
        row = {"projection_id": name, "params": json.dumps(params), "created_ts": 1.0}
        _insert(db, "projections", [row])
        places = zip(ids.tolist(), (xy * [1, turn]).tolist(), strict=True)
        rows = [{"projection_id": name, "img_id": i, "x": x, "y": y} for i, (x, y) in places]
        _insert(db, "coordinates", rows)


def _fill_clusters(db, ids, cluster) -> None:
    for name, params in (
        ("kmedoids-7", {"method": "k-medoids", "k": 5, "weights": "gains"}),
        ("hdbscan-3", {"method": "hdbscan", "min_cluster_size": 5}),
    ):
        row = {"clustering_id": name, "params": json.dumps(params), "created_ts": 1.0}
        _insert(db, "clusterings", [row])
        labels = cluster if name.startswith("k") else np.where(cluster == 3, -1, cluster % 3)
        rows = [
            {"clustering_id": name, "img_id": i, "label": label, "prob": 0.9, "silhouette": 0.3}
            for i, label in zip(ids.tolist(), labels.tolist(), strict=True)
        ]
        _insert(db, "assignments", rows)
    scores = {
        "external": {
            "flag_cat": {"nmi": 0.91, "ari": 0.88, "nmi_permuted": 0.02, "p_value": 0.005}
        },
        "knn": [
            {"target": "flag_cat", "k": 5, "accuracy": 0.9, "majority": 0.21},
            {"target": "box_loss", "k": 5, "mae": 0.2, "majority": 0.3},
        ],
    }
    row = {"evaluation_id": "e1", "params": json.dumps({"clustering": "kmedoids-7"})}
    _insert(db, "evaluations", [row | {"scores": json.dumps(scores), "created_ts": 2.0}])
