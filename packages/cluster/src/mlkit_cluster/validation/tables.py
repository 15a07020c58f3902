"""Checks of the tables as such: intact, complete, and of the settings that they name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlkit_cluster.store.checks import PARTS, changed_rows
from mlkit_cluster.store.fingerprint import fingerprint
from mlkit_cluster.store.runs import COLUMNS, column_value
from mlkit_cluster.validation.findings import Finding, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.view import RunView


def check_database(view: RunView) -> Finding:
    """Ask SQLite whether its file is intact."""
    said = [text for (text,) in view.rows("PRAGMA integrity_check")]
    return verdict("database", (text for text in said if text != "ok"), "SQLite finds it intact")


def check_references(view: RunView) -> Finding:
    """No row names an image, clustering or projection that is not there."""
    found = view.rows("PRAGMA foreign_key_check")
    problems = (f"{row[0]} row {row[1]} names a {row[2]} that is not there" for row in found)
    return verdict("references", problems, "all rows name what is there")


def check_fingerprints(view: RunView) -> Finding:
    """Settings give the fingerprint that they stand under, and all rows bear it."""
    runs = view.records("SELECT * FROM runs")

    def problems() -> Iterator[str]:
        for row in runs:
            parts, name = json.loads(row["options"]), row["run_id"]
            if fingerprint(parts) != row["fingerprint"]:
                yield f"{name}: the fingerprint is not that of its settings"
            plain = {**{c: parts.get(c) for c in COLUMNS}, "kind": parts.get("kind")}
            plain |= {c: parts.get(c) for c in ("encoder", "model_sha256")}
            for column, value in plain.items():
                if column_value(value) != row[column]:
                    yield f"{name}: {column} is {row[column]!r}, its settings say {value!r}"
        query = (
            "SELECT encoder, fingerprint, COUNT(*) FROM embeddings e WHERE NOT EXISTS (SELECT 1 "
            "FROM runs r WHERE r.encoder = e.encoder AND r.fingerprint = e.fingerprint) GROUP BY 1"
        )
        for encoder, _, count in view.rows(query):
            yield f"{count} rows of {encoder!r} are of settings that are not noted"

    return verdict("fingerprints", problems(), f"{len(runs)} settings, each under its own")


def check_images(view: RunView) -> Finding:
    """Each image that could be read has one row of embeddings and one of features."""

    def problems() -> Iterator[str]:
        query = (
            "SELECT i.img_id, i.error IS NULL, (SELECT COUNT(*) FROM embeddings e "
            "WHERE e.img_id = i.img_id AND e.encoder = 'yolo'), (SELECT COUNT(*) FROM features f "
            "WHERE f.img_id = i.img_id), i.w, i.h, i.ratio, i.sha FROM images i ORDER BY 1"
        )
        for img_id, readable, embeddings, features, *shape in view.rows(query):
            if (embeddings, features) != (readable, readable):
                yield (
                    f"image {img_id}: expected {readable} rows, got {embeddings} in embeddings, "
                    f"{features} in features"
                )
            elif readable and (None in shape or min(shape[:3]) <= 0):
                yield f"image {img_id}: size, ratio or content hash is missing"

    good = f"{len(view.ids)} images, each with its rows"
    if view.detector is None:
        return Finding("images", True, "no detector has run")
    return verdict("images", problems(), good)


def check_row_digests(view: RunView) -> Finding:
    """Each image's rows are those that were written for it: none changed, none swapped."""

    def problems() -> Iterator[str]:
        for img_id, part in changed_rows(view.run.db):
            yield f"image {img_id}: {part} is not what was written"
        wanted = ["SELECT img_id, 'embedding:' || encoder FROM embeddings"]
        wanted += [f"SELECT img_id, '{part}' FROM features" for part in PARTS[:-1]]
        query = f"{' UNION '.join(wanted)} EXCEPT SELECT img_id, part FROM row_checks"
        for img_id, part in view.rows(query):
            yield f"image {img_id}: {part} has no digest"

    (count,) = view.rows("SELECT COUNT(*) FROM row_checks")[0]
    return verdict("row digests", problems(), f"{count} digests agree")


TABLE_CHECKS = (
    check_database,
    check_references,
    check_fingerprints,
    check_images,
    check_row_digests,
)
