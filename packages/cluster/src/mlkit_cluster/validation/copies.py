"""Checks of what is written twice: the tables `distances` and `neighbors` against the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.materialise import ALL_PAIRS, row_batches
from mlkit_cluster.validation.findings import Finding, close, sample, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.distances import DistanceView

_SAMPLED = 1000


def check_distance_table(found: DistanceView) -> Finding:
    """`distances` holds what the files hold: count and sum of each component, and each pair."""
    view = found.view
    said = view.metadata.get("distances_table")
    held = {
        row[0]: row[1:]
        for row in view.rows(
            "SELECT component, COUNT(*), COUNT(distance), TOTAL(distance) FROM distances GROUP BY 1"
        )
    }
    if said is None:
        problems = ["rows without distances_table in metadata: unfinished"] if held else []
        return verdict("distance table", problems, "not written")

    def problems_of() -> Iterator[str]:
        if set(held) != set(found.components):
            yield f"holds {sorted(held)}, expected {sorted(found.components)}"
        if said == ALL_PAIRS:
            yield from _sum_problems(found, held)
        yield from _pair_problems(found)

    count = sum(row[0] for row in held.values())
    return verdict("distance table", problems_of(), f"{said}: {count} rows agree with the files")


def _sum_problems(found: DistanceView, held: dict[str, tuple]) -> Iterator[str]:
    numbers = dict.fromkeys(found.components, 0)
    totals = dict.fromkeys(found.components, 0.0)
    for batch in row_batches(found.view.run):
        for name, values in batch.values.items():
            numbers[name] += int(np.isfinite(values).sum())
            totals[name] += float(np.nansum(values, dtype=np.float64))
    for name in found.components:
        rows, known, total = held.get(name, (0, 0, 0.0))
        if rows != found.expected.n**2 or known != numbers[name]:
            yield f"{name}: {known} of {rows} rows known, the files hold {numbers[name]}"
        elif not close(total, totals[name], 1e-6):
            yield f"{name}: sums to {total:.9g}, the files to {totals[name]:.9g}"


def _pair_problems(found: DistanceView) -> Iterator[str]:
    view = found.view
    (low, high) = view.rows("SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), -1) FROM distances")[0]
    places = {img_id: place for place, img_id in enumerate(view.ids)}
    lookup = _lookup(found)
    for offset in sample(high - low + 1, _SAMPLED, view.seed):
        query = "SELECT img_i, img_j, component, distance FROM distances WHERE id = ?"
        for img_i, img_j, name, value in view.rows(query, (low + int(offset),)):
            if img_i not in places or img_j not in places:
                yield f"pair {img_i}, {img_j}: no such images"
                continue
            expected = lookup(name, places[img_i], places[img_j])
            known = expected is not None and not np.isnan(expected)
            if (value is not None) != known or (known and value != expected):
                yield f"{name} of {img_i}, {img_j} is {value!r}, the files say {expected!r}"


def _lookup(found: DistanceView):  # noqa: ANN202  # (component, row, column) -> number or None
    run = found.view.run
    if found.expected.kind == "edges":
        return run.open_edges().value
    parts = {name: run.open_matrix(name) for name in found.components}
    return lambda name, row, column: parts[name].value(row, column) if name in parts else None


def check_neighbors(found: DistanceView) -> Finding:
    """`neighbors` ranks by rising distance, and holds the files' own numbers."""
    view = found.view
    places = {img_id: place for place, img_id in enumerate(view.ids)}
    ids = view.rows("SELECT DISTINCT img_i FROM neighbors ORDER BY 1")
    chosen = [ids[place][0] for place in sample(len(ids), 50, view.seed)]

    def problems() -> Iterator[str]:
        falls = (
            "SELECT COUNT(*) FROM neighbors a JOIN neighbors b ON b.component = a.component AND "
            "b.img_i = a.img_i AND b.rank = a.rank + 1 WHERE b.distance < a.distance"
        )
        if (count := view.rows(falls)[0][0]) > 0:
            yield f"distance falls with rank in {count} places"
        if (count := view.rows("SELECT COUNT(*) FROM neighbors WHERE img_i = img_j")[0][0]) > 0:
            yield f"{count} images are their own neighbours"
        lookup, gains = _lookup(found), view.run.gains()
        query = "SELECT component, img_j, distance FROM neighbors WHERE img_i = ?"
        for img_i in chosen:
            for name, img_j, value in view.rows(query, (img_i,)):
                row, column = places.get(img_i, -1), places.get(img_j, -1)
                if row < 0 or column < 0:
                    yield f"pair {img_i}, {img_j}: no such images"
                    continue
                names = found.components if name == "total" else (name,)
                numbers = {one: _number(lookup(one, row, column)) for one in names}
                weighted = sum(gains[one] * number for one, number in numbers.items())
                expected = weighted if name == "total" else numbers[name]
                if not close(value, expected, 1e-6):
                    yield f"{name} of {img_i}, {img_j} is {value!r}, the files say {expected!r}"

    return verdict("neighbors", problems(), f"{len(ids)} images' nearest, by rising distance")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


COPY_CHECKS = (check_distance_table, check_neighbors)
