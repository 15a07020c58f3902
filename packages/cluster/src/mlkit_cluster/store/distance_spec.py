"""What a run's distances are of: noted before the first block, compared before every other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlkit_cluster.store.edges import COLUMNS
from mlkit_cluster.store.fingerprint import canonical_json, fingerprint
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from mlkit_cluster.store.database import RunStore
    from mlkit_cluster.store.matrix import Kind


@dataclass(frozen=True, kw_only=True)
class DistanceSpec:
    """What distances are of.

    Args:
        components: Which of box, cls, dfl, seg.
        mode: "full", or "knn" for edges only.
        knn_k: Edges of a row; None in mode "full".
        parts: What else changes the numbers, JSON values. The detector's own settings and the
            images with their content are added by `begin_distances`.
    """

    components: Sequence[str]
    mode: Literal["full", "knn"] = "full"
    knn_k: int | None = None
    parts: Mapping[str, object]


def begin_distances(run: RunStore, spec: DistanceSpec, *, replace: bool = False) -> str:
    """Note what the distances are of, or check that it is what is noted.

    Args:
        run: Whose images are all extracted.
        spec: What is asked for.
        replace: Forget distances of other settings or images; else they are an error.

    Returns:
        The fingerprint to give to `write_block`.

    Raises:
        InputError: Distances of other settings are registered.
        MlkitError: Images are not extracted yet.
    """
    if waiting := run.pending("yolo"):
        raise MlkitError(
            f"{run.path}: {len(waiting)} images are not extracted yet, first {waiting[0][1]!r}",
            hint="run `mlkit cluster extract` again",
        )
    with run.transaction() as db:
        parts = _parts(db, spec)
        name = fingerprint(parts)
        row = db.execute("SELECT value FROM metadata WHERE key = 'distance_fingerprint'").fetchone()
        if row is None or row[0] != name:
            count = db.execute("SELECT COUNT(*) FROM shards").fetchone()[0]
            if count and not replace:
                raise InputError(
                    f"{run.path}: holds distances of other settings or images",
                    hint="ask to replace them, or give another -o for a run of its own",
                )
            _forget(db)
            _note(db, parts, name)
    return name


def _parts(db: sqlite3.Connection, spec: DistanceSpec) -> dict[str, object]:
    detector = db.execute("SELECT fingerprint FROM runs WHERE kind = 'yolo'").fetchone()
    images = distance_images(db)
    return {
        **spec.parts,
        "run": detector[0] if detector else None,
        "images": images[1],
        "n": images[0],
        "components": list(spec.components),
        "mode": spec.mode,
        "knn_k": spec.knn_k,
    }


def distance_images(db: sqlite3.Connection) -> tuple[int, str]:
    """Return how many images the matrix has, and a digest of their ids and contents in order."""
    found, count = hashlib.blake2b(digest_size=16), 0
    for row in db.execute("SELECT img_id, sha FROM images WHERE error IS NULL ORDER BY img_id"):
        found.update(f"{row[0]}:{row[1]};".encode())
        count += 1
    return count, found.hexdigest()


def _forget(db: sqlite3.Connection) -> None:
    for table in ("shards", "distances", "neighbors"):
        db.execute(f"DELETE FROM {table}")
    db.execute("DELETE FROM metadata WHERE key IN ('distances_table', 'knn_recall', 'knn_k')")


def _note(db: sqlite3.Connection, parts: Mapping[str, Any], name: str) -> None:
    values = {
        "distance_fingerprint": name,
        "distance_parts": canonical_json(dict(parts)),
        "distance_mode": str(parts["mode"]),
        "distance_n": str(parts["n"]),
        "distance_components": canonical_json(parts["components"]),
    }
    if parts["knn_k"] is not None:
        values["knn_k"] = str(parts["knn_k"])
    db.executemany("INSERT OR REPLACE INTO metadata VALUES (?, ?)", list(values.items()))


@dataclass(frozen=True)
class Layout:
    """What blocks of this run must be: their kind, the matrix's name and size, their arrays."""

    kind: Kind
    fingerprint: str
    n: int
    names: tuple[str, ...]


def layout(run: RunStore) -> Layout:
    """Return what `begin_distances` noted.

    Raises:
        MlkitError: It has not been called.
    """
    found = run.metadata()
    if "distance_fingerprint" not in found:
        raise MlkitError(f"{run.path}: no distances", hint="run `mlkit cluster distances` first")
    components = tuple(json.loads(found["distance_components"]))
    knn = found["distance_mode"] == "knn"
    names = (COLUMNS, *components) if knn else components
    kind: Kind = "edges" if knn else "block"
    return Layout(kind, found["distance_fingerprint"], int(found["distance_n"]), names)
