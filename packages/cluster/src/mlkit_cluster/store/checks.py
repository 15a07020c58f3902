"""Digests that bind what was written to its image: swapped or changed rows are found.

Each covers the image's id, path and content hash, and all columns of its rows in one table; it is
made from the rows as SQLite gives them back, in the transaction that writes them.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

_BOX = "box_x1, box_y1, box_x2, box_y2, input_x1, input_y1, input_x2, input_y2"
_QUERIES = {
    "image": "SELECT path, sha, w, h, ratio, pad_x, pad_y FROM images WHERE img_id = ?",
    "features": "SELECT gap_features, bottleneck_features FROM features WHERE img_id = ?",
    "predictions": f"SELECT {_BOX}, confidence, class_id, class_name, mask FROM predictions "
    "WHERE img_id = ? ORDER BY id",
    "labels": f"SELECT {_BOX}, class_id, class_name, mask FROM labels WHERE img_id = ? ORDER BY id",
}
_EMBEDDING = (
    "SELECT embedding, hit_freq, mean_iou, mean_conf, dice_score, box_loss, cls_loss, dfl_loss, "
    "seg_loss, flag_cat, flag_supercat, fingerprint, mean_conf_matched, precision, n_gt, n_pred, "
    "n_match, n_pos, score_sum FROM embeddings WHERE img_id = ? AND encoder = ?"
)
PARTS = ("image", "features", "predictions", "labels", "embedding:yolo")


def digest(db: sqlite3.Connection, img_id: int, part: str) -> bytes:
    """Return 16 bytes over an image's rows of one part.

    Args:
        db: Connection.
        img_id: Of the image.
        part: "image", "features", "predictions", "labels" or "embedding:<encoder>".
    """
    identity = db.execute("SELECT path, sha FROM images WHERE img_id = ?", (img_id,)).fetchone()
    name, _, encoder = part.partition(":")
    if encoder not in ("", "yolo"):
        # Another encoder may come before the detector, which alone notes content hashes.
        identity = (identity or ())[:1]
    if name == "embedding":
        rows = db.execute(_EMBEDDING, (img_id, encoder)).fetchall()
    else:
        rows = db.execute(_QUERIES[name], (img_id,)).fetchall()
    found = hashlib.blake2b(digest_size=16)
    for row in ((img_id, part), identity or (), *rows):
        found.update(_row_bytes(row))
    return found.digest()


def write_checks(db: sqlite3.Connection, img_ids: Sequence[int], parts: Sequence[str]) -> None:
    """Write the digests of images, within the caller's transaction."""
    db.executemany(
        "INSERT OR REPLACE INTO row_checks (img_id, part, digest) VALUES (?, ?, ?)",
        [(img_id, part, digest(db, img_id, part)) for img_id in img_ids for part in parts],
    )


def changed_rows(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield id and part of each image whose rows are not those that were written."""
    noted = db.execute("SELECT img_id, part, digest FROM row_checks ORDER BY img_id, part")
    for img_id, part, expected in noted.fetchall():
        known = part.partition(":")[0] in ("embedding", *_QUERIES)
        if not known or digest(db, img_id, part) != expected:
            yield img_id, part


def _row_bytes(row: Sequence[object]) -> bytes:
    """Return a row so that no two rows look alike: each value with its kind and length."""
    cells = [_cell(value) for value in row]
    return struct.pack("<I", len(cells)) + b"".join(cells)


def _cell(value: object) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool | int):
        return b"I" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"F" + struct.pack("<d", value)
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return (b"B" if isinstance(value, bytes) else b"S") + struct.pack("<q", len(raw)) + raw
