"""Runs over the painted images by the tiny detector, for tests of whole verbs."""

import sqlite3

from mlkit_cluster.engines.local import LocalEngine
from mlkit_cluster.steps.distances import DistanceWish, distances
from mlkit_cluster.steps.extraction import extract
from mlkit_cluster.steps.parts import make_part

SIDE = 96
# Columns that say when, not what.
TIMES = {"created_ts"}


def data_part(folder, **options):
    given = {"source": str(folder / "data.yaml"), "image_size": SIDE}
    return make_part("data", "image-folder", {**given, **options})


def yolo_part(model, **options):
    given = {"model": str(model), "image_size": SIDE, "device": "cpu"}
    return make_part("extractor", "yolo", {**given, **options})


def extracted(out, folder, model, *, shard=None, engine=None, data=None, **options):
    """Extract into a run and return its folder."""
    extract(
        out,
        data_part(folder, **(data or {})),
        yolo_part(model, **options),
        engine=engine or LocalEngine(),
        shard=shard,
    )
    return out


def computed(out, *, engine=None, shard=None, **wish):
    """Compute a run's distances."""
    wanted = DistanceWish(device="cpu", **wish)
    return distances(out, wanted, engine=engine or LocalEngine(), shard=shard)


def content(run):
    """Return every row of a run's database but times, with what is random in no run."""
    with sqlite3.connect(f"file:{run / 'run.db'}?mode=ro", uri=True) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        found = {}
        for table in tables:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            kept = [name for name in columns if name not in TIMES]
            rows = db.execute(f"SELECT {', '.join(kept)} FROM {table}").fetchall()
            found[table] = sorted(rows, key=repr)
    db.close()
    return found


def blocks(run):
    """Return the bytes of a run's matrix files by name."""
    return {path.name: path.read_bytes() for path in sorted((run / "dist").glob("*.npy"))}
