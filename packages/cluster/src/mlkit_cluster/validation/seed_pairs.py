"""Checks of `DIST.db`: which pairs are there, and whether they can be losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_cluster.validation.distances import SENTINEL
from mlkit_cluster.validation.findings import Finding, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.seed_view import SeedView


def check_pairs(view: SeedView) -> Finding:
    """Pairs are there once, of known images, and all of them unless metadata says otherwise."""
    ids = view.ids()

    def problems() -> Iterator[str]:
        known = set(ids)
        ends = "SELECT DISTINCT img_i FROM distances UNION SELECT DISTINCT img_j FROM distances"
        strange = sorted({row[0] for row in view.dist.execute(ends)} - known)
        if strange:
            yield f"{len(strange)} unknown images, first {strange[0]}"
        twice = (
            "SELECT COUNT(*) FROM (SELECT 1 FROM distances GROUP BY component, img_i, img_j "
            "HAVING COUNT(*) > 1)"
        )
        if (count := view.dist.execute(twice).fetchone()[0]) > 0:
            yield f"{count} pairs more than once"
        said = dict(view.dist.execute("SELECT key, value FROM metadata")).get("distances_table")
        rows = view.dist.execute("SELECT component, COUNT(*) FROM distances GROUP BY 1").fetchall()
        if not rows:
            yield "no distances"
        for name, count in rows:
            if said != "nearest neighbours" and count != len(ids) ** 2:
                yield f"{name}: {count} pairs, expected {len(ids) ** 2}"

    return verdict("pairs", problems(), f"of {len(ids)} images")


def check_distances(view: SeedView) -> Finding:
    """Distances are losses: no sentinel, not 0 or one value throughout, not symmetric."""

    def problems() -> Iterator[str]:
        query = (
            "SELECT component, COUNT(*), COUNT(distance), SUM(distance = ?), "
            "SUM(distance = 0), MIN(distance), MAX(distance), SUM(abs(distance) > 1e300) "
            "FROM distances GROUP BY 1 ORDER BY 1"
        )
        for name, rows, known, sentinel, zero, low, high, huge in view.dist.execute(
            query, (SENTINEL,)
        ):
            if sentinel:
                yield f"{name}: the sentinel {SENTINEL:.0f} in {sentinel} of {rows} rows"
            if huge:
                yield f"{name}: {huge} infinite"
            if known and zero == known:
                yield f"{name}: 0 throughout"
            elif known > 2 and low == high:
                yield f"{name}: {low!r} throughout"
            yield from _symmetry(view, name)

    return verdict("distances", problems(), "losses of ordered pairs")


def _symmetry(view: SeedView, name: str) -> Iterator[str]:
    query = (
        "SELECT COUNT(*), SUM(a.distance = b.distance) FROM distances a JOIN distances b "
        "ON a.img_i = b.img_j AND a.img_j = b.img_i AND a.component = b.component "
        "WHERE a.component = ? AND a.img_i < a.img_j AND a.distance IS NOT NULL "
        "AND b.distance IS NOT NULL"
    )
    pairs, same = view.dist.execute(query, (name,)).fetchone()
    if pairs and same == pairs:
        yield f"{name}: symmetric in all {pairs} pairs"
    own = "SELECT COUNT(distance), SUM(distance = 0) FROM distances WHERE component = ? AND "
    count, zero = view.dist.execute(f"{own} img_i = img_j", (name,)).fetchone()
    if count and zero == count:
        yield f"{name}: 0 on the whole diagonal"


PAIR_CHECKS = (check_pairs, check_distances)
