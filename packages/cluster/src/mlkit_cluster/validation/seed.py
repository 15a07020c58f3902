"""Checks of the earlier system's two files, as far as they can be checked without its model."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

from mlkit_cluster.validation.findings import Finding, run_check, verdict
from mlkit_cluster.validation.seed_pairs import PAIR_CHECKS
from mlkit_cluster.validation.seed_rows import LOSSES, ROW_CHECKS
from mlkit_cluster.validation.seed_view import SeedView, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_EMB = {
    "embeddings": ("img_id", "embedding", "hit_freq", "mean_iou", "mean_conf", *LOSSES[:3]),
    "features": ("img_id", "gap_features", "bottleneck_features"),
    "predictions": (
        *("img_id", "box_x1", "box_y1", "box_x2", "box_y2"),
        *("confidence", "class_id", "class_name"),
    ),
    "metadata": ("key", "value"),
}
_DIST = {
    "distances": ("img_i", "img_j", "component", "distance"),
    "metadata": ("key", "value"),
}


def validate_seed(emb_db: Path, dist_db: Path) -> list[Finding]:
    """Return what each check found in `EMB.db` and `DIST.db`.

    Raises:
        InputError: A file is missing or no database.
    """
    with closing(open_file(emb_db)) as emb, closing(open_file(dist_db)) as dist:
        view = SeedView(emb, dist)
        found = [run_check(check, view) for check in (check_databases, check_columns)]
        if not found[1].ok:
            return found
        return found + [run_check(check, view) for check in (check_ids, *ROW_CHECKS, *PAIR_CHECKS)]


def check_databases(view: SeedView) -> Finding:
    """Ask SQLite whether both files are intact."""

    def problems() -> Iterator[str]:
        for name, db in (("EMB", view.emb), ("DIST", view.dist)):
            for (said,) in db.execute("PRAGMA integrity_check"):
                if said != "ok":
                    yield f"{name}: {said}"

    return verdict("databases", problems(), "SQLite finds both intact")


def check_columns(view: SeedView) -> Finding:
    """Tables and columns are there."""

    def problems() -> Iterator[str]:
        for db, tables in ((view.emb, _EMB), (view.dist, _DIST)):
            for table, wanted in tables.items():
                held = view.columns(db, table)
                missing = [name for name in wanted if name not in held]
                if missing:
                    yield f"{table}: {', '.join(missing) if held else 'the table'} missing"

    return verdict("columns", problems(), "all tables and columns are there")


def check_ids(view: SeedView) -> Finding:
    """Each image has one row of embeddings and of features, and rows name known images."""

    def problems() -> Iterator[str]:
        for table in ("embeddings", "features"):
            query = f"SELECT img_id, COUNT(*) FROM {table} GROUP BY 1 HAVING COUNT(*) > 1"
            for img_id, count in view.emb.execute(query):
                yield f"{table}: image {img_id} has {count} rows"
        for table, other in (("embeddings", "features"), ("features", "embeddings")):
            query = f"SELECT img_id FROM {table} EXCEPT SELECT img_id FROM {other}"
            yield from (
                f"image {i}: in {table}, not in {other}" for (i,) in view.emb.execute(query)
            )
        query = "SELECT DISTINCT img_id FROM predictions EXCEPT SELECT img_id FROM embeddings"
        for (img_id,) in view.emb.execute(query):
            yield f"predictions: image {img_id} is unknown"
        ids = view.ids()
        if not ids:
            yield "no images"
        said = dict(view.emb.execute("SELECT key, value FROM metadata"))
        known = {*ids, *json.loads(said.get("failed_images", "[]"))}
        missing = sorted(set(range(ids[0], ids[-1] + 1)) - known) if ids else []
        if missing:
            some = ", ".join(map(str, missing[:5]))
            yield f"{len(missing)} of ids {ids[0]} to {ids[-1]} are missing: {some}"

    return verdict("image ids", problems(), f"{len(view.ids())} images, each once")
