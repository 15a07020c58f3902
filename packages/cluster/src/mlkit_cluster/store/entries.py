"""Images of a run: ids are given once, in order, and never again to another path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_cluster.store.files import disk_errors, text_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.store.database import RunStore


@dataclass(frozen=True)
class ImageEntry:
    """An image to register.

    Args:
        path: Relative to the run's `image_root`, or absolute; it identifies the image.
        split: "train", "val" and the like; None where there is none.
    """

    path: str
    split: str | None = None


def register_images(run: RunStore, paths: Sequence[ImageEntry]) -> int:
    """Give each new path the next id, in order; known paths keep theirs.

    Returns:
        How many were new.
    """
    new = "INSERT INTO images (img_id, path, split) VALUES (?, CAST(? AS TEXT), ?)"
    with run.transaction() as db:
        known = {path for (path,) in db.execute("SELECT path FROM images")}
        (first,) = db.execute("SELECT COALESCE(MAX(img_id) + 1, 0) FROM images").fetchone()
        fresh = {entry.path: entry.split for entry in reversed(paths) if entry.path not in known}
        order = [path for path in dict.fromkeys(entry.path for entry in paths) if path in fresh]
        db.executemany(
            new,
            ((first + place, text_bytes(path), fresh[path]) for place, path in enumerate(order)),
        )
    return len(order)


def pending(run: RunStore, encoder: str) -> list[tuple[int, str]]:
    """Return id and path of images without a row of this encoder and without an error."""
    query = (
        "SELECT img_id, path FROM images WHERE error IS NULL AND img_id NOT IN "
        "(SELECT img_id FROM embeddings WHERE encoder = ?) ORDER BY img_id"
    )
    with disk_errors(run.path):
        return [(int(img_id), path) for img_id, path in run.db.execute(query, (encoder,))]


def clear_failures(run: RunStore) -> int:
    """Forget the errors of failed images, so that they are tried again."""
    with run.transaction() as db:
        return db.execute("UPDATE images SET error = NULL WHERE error IS NOT NULL").rowcount


def matrix_ids(run: RunStore) -> list[int]:
    """Return the id of each row and column of the matrix, in its order."""
    query = "SELECT img_id FROM images WHERE error IS NULL ORDER BY img_id"
    with disk_errors(run.path):
        return [int(img_id) for (img_id,) in run.db.execute(query)]
