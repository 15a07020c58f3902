"""Checks of the distances: files, rows, and what the loss of a pair must look like."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.adoption import blocks_of, missing_blocks
from mlkit_cluster.store.distance_spec import Layout, distance_images, layout
from mlkit_cluster.store.edges import COLUMNS
from mlkit_cluster.store.fingerprint import fingerprint
from mlkit_cluster.store.materialise import RowBatch, row_batches
from mlkit_cluster.store.matrix import PREFIX, block_file, row_digests
from mlkit_cluster.validation.findings import Finding, sample, verdict
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.view import RunView

SENTINEL = 424242.0  # what the earlier system wrote for "suspicious"
_TABLE_ROWS = 512  # of the matrix, whose asymmetry is looked at


@dataclass
class DistanceView:
    """A run that holds distances, and what is sampled of them."""

    view: RunView
    asked: dict[str, int] = field(default_factory=dict)

    @cached_property
    def expected(self) -> Layout:
        """What `begin_distances` noted."""
        return layout(self.view.run)

    @property
    def components(self) -> tuple[str, ...]:
        """The losses among the arrays."""
        return tuple(name for name in self.expected.names if name != COLUMNS)


def check_distance_settings(found: DistanceView) -> Finding:
    """The distances are of these images and this detector."""
    view, metadata = found.view, found.view.metadata

    def problems() -> Iterator[str]:
        parts = json.loads(metadata["distance_parts"])
        if fingerprint(parts) != metadata["distance_fingerprint"]:
            yield "distance_fingerprint is not that of distance_parts"
        count, digest = distance_images(view.run.db)
        if (parts["n"], parts["images"]) != (count, digest):
            yield f"made for {parts['n']} images, not for these {count}"
        if parts["run"] != (view.detector or {}).get("fingerprint"):
            yield "made by a detector with other settings"
        said = (str(parts["n"]), parts["mode"], parts["components"])
        noted = (metadata["distance_n"], metadata["distance_mode"])
        if said != (*noted, json.loads(metadata["distance_components"])):
            yield "distance_n, distance_mode or distance_components differ from distance_parts"

    return verdict("distance settings", problems(), f"{found.expected.n} images, as noted")


def check_distance_files(found: DistanceView) -> Finding:
    """All blocks are there, whole, of the right shape, and their files unchanged."""
    run, expected = found.view.run, found.expected
    count = 0

    def problems() -> Iterator[str]:
        nonlocal count
        for first, last in missing_blocks(run, expected.n, max(expected.n, 1)):
            yield f"rows {first} to {last - 1} are missing"
        names = {PREFIX[expected.kind] + name for name in expected.names}
        for name, row0, path, state in found.view.rows(
            "SELECT component, row0, path, state FROM shards ORDER BY 1, 2"
        ):
            plain = name.removeprefix(PREFIX[expected.kind])
            if name not in names or path != block_file(expected.kind, plain, row0):
                yield f"shard {name} at {row0}: {path!r} is not its file"
            if state != "complete":
                yield f"shard {name} at {row0}: {state}"
        for name in expected.names:
            for block in blocks_of(run, expected.kind, name):
                count += 1
                try:
                    block.verify()
                    width = block.load().shape[1]
                    if width != expected.n and expected.kind == "block":
                        yield f"{block.path.name}: {width} columns, expected {expected.n}"
                except MlkitError as err:
                    yield str(err)

    result = verdict("distance files", problems(), "")
    return Finding(result.check, result.ok, result.detail or f"{count} files, crc32 of all agrees")


def check_distance_rows(found: DistanceView) -> Finding:
    """Each row has the digest with which its worker wrote it, and no two rows are one."""
    run, expected = found.view.run, found.expected

    def problems() -> Iterator[str]:
        for name in expected.names:
            query = "SELECT row_checks FROM shards WHERE component = ? ORDER BY row0"
            noted = found.view.rows(query, (PREFIX[expected.kind] + name,))
            blocks = blocks_of(run, expected.kind, name)
            for block, (digests,) in zip(blocks, noted, strict=True):
                made = row_digests(block.load(), name, block.row0, expected.fingerprint)
                if made == digests:
                    continue
                pairs = zip(_pieces(made), _pieces(digests or b""), strict=False)
                rows = [str(block.row0 + at) for at, (a, b) in enumerate(pairs) if a != b]
                yield f"{name}: rows {', '.join(rows[:4]) or 'of a block'} are not as written"

    return verdict("distance rows", problems(), f"{expected.n} rows, each in its place")


def _pieces(digests: bytes) -> list[bytes]:
    return [digests[at : at + 8] for at in range(0, len(digests), 8)]


def check_distance_values(found: DistanceView) -> Finding:
    """Losses are finite where there are targets, NaN where there are none, and never made up."""
    has = found.view.has_targets

    def problems() -> Iterator[str]:
        zeros = dict.fromkeys(found.components, True)
        for batch in row_batches(found.view.run):
            columns = np.arange(len(has))[None] if batch.columns is None else batch.columns
            there = np.broadcast_to(columns >= 0, next(iter(batch.values.values())).shape)
            wanted = has[columns] & there
            for name, values in batch.values.items():
                zeros[name] = zeros[name] and not values[wanted].any()
                yield from _value_problems(name, values, wanted, there)
            if "cls" in batch.values and batch.columns is None:
                yield from _background_problems(batch, has)
        if has.any():
            yield from (f"{name}: 0 throughout" for name, all_zero in zeros.items() if all_zero)

    return verdict("distance values", problems(), f"{', '.join(found.components)}: all plausible")


def _value_problems(
    name: str, values: np.ndarray, wanted: np.ndarray, there: np.ndarray
) -> Iterator[str]:
    known = there if name == "cls" else wanted
    if not np.isfinite(values[known]).all():
        yield f"{name}: {int((~np.isfinite(values[known])).sum())} numbers are not finite"
    if not np.isnan(values[~known]).all():
        yield f"{name}: numbers where there is no target"
    if (values == SENTINEL).any():
        yield f"{name}: holds the sentinel {SENTINEL:.0f}"
    if (values[known] < -1e-4).any():
        yield f"{name}: negative losses"


def _background_problems(batch: RowBatch, has: np.ndarray) -> Iterator[str]:
    """Without targets, cls is the row's loss against nothing: one number for all such columns."""
    if has.all():
        return
    empty = batch.values["cls"][:, ~has]
    spread = empty.max(1) - empty.min(1)
    for place in np.flatnonzero(spread > 1e-5 * np.maximum(1, np.abs(empty).max(1))):
        yield f"cls: row {batch.row0 + place} differs between columns without targets"


def check_asymmetry(found: DistanceView) -> Finding:
    """`dist[i][j]` and `dist[j][i]` are losses of two images, and not the same number."""
    places = sample(found.expected.n, _TABLE_ROWS, found.view.seed)
    if found.expected.kind == "edges" or len(places) < 2:
        return Finding("asymmetry", True, "too few rows to tell, or nearest neighbours only")

    def problems() -> Iterator[str]:
        for name in found.components:
            values = _square(found, name, places)
            both = np.isfinite(values) & np.isfinite(values.T)
            np.fill_diagonal(both, False)
            if both.any() and (values == values.T)[both].all():
                yield f"{name}: equal to its transpose"
            if name != "cls" and both.any() and len(np.unique(values[both])) == 1:
                yield f"{name}: one number for all pairs"

    return verdict("asymmetry", problems(), f"D differs from its transpose on {len(places)} images")


def _square(found: DistanceView, name: str, places: np.ndarray) -> np.ndarray:
    matrix = found.view.run.open_matrix(name)
    return np.stack([matrix[int(place)][places] for place in places])


def check_diagonal(found: DistanceView) -> Finding:
    """An image's loss against its own predictions is small, but a loss: not 0."""
    if found.expected.kind == "edges":
        return Finding("diagonal", True, "nearest neighbours only")
    own = found.view.has_targets

    def problems() -> Iterator[str]:
        for name in found.components:
            matrix = found.view.run.open_matrix(name)
            values = np.array([matrix.value(i, i) for i in range(found.expected.n)], np.float32)
            known = values[own]
            if len(known) and not known.any():
                yield f"{name}: 0 on the whole diagonal"
            elif name == "cls" and (values == 0).any():
                yield f"{name}: 0 on the diagonal in {int((values == 0).sum())} rows"

    return verdict("diagonal", problems(), "self-losses are kept")


DISTANCE_CHECKS = (
    check_distance_settings,
    check_distance_files,
    check_distance_rows,
    check_distance_values,
    check_asymmetry,
    check_diagonal,
)
