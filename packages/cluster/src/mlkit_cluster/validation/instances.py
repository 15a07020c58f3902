"""Checks of predictions and labels: classes, boxes, masks and their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_cluster.kernel.masks import mask_runs
from mlkit_cluster.validation.findings import Finding, verdict
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.view import RunView

_TABLES = {"predictions": "pred", "labels": "gt"}
_MARGIN = 0.5  # pixels


def check_classes(view: RunView) -> Finding:
    """Classes are the model's, under their names."""

    def problems() -> Iterator[str]:
        for table in _TABLES:
            query = f"SELECT DISTINCT class_id, class_name FROM {table} ORDER BY 1"
            for number, name in view.rows(query):
                if not 0 <= number < len(view.names):
                    yield f"{table}: class {number}, the model knows {len(view.names)}"
                elif view.names[number] != name:
                    yield f"{table}: class {number} is {name!r}, the model says otherwise"

    return verdict("classes", problems(), f"all among the model's {len(view.names)}")


def check_counts(view: RunView) -> Finding:
    """`image_classes` counts what predictions and labels hold."""

    def problems() -> Iterator[str]:
        for table, source in _TABLES.items():
            rows = f"SELECT img_id, class_id, COUNT(*) FROM {table} GROUP BY 1, 2"
            noted = f"SELECT img_id, class_id, n FROM image_classes WHERE source = '{source}'"
            for one, other in ((rows, noted), (noted, rows)):
                for img_id, number, _ in view.rows(f"{one} EXCEPT {other}"):
                    yield f"image {img_id}: count of class {number} differs from {table}"
        for (source,) in view.rows("SELECT DISTINCT source FROM image_classes"):
            if source not in _TABLES.values():
                yield f"image_classes: unknown source {source!r}"

    return verdict("class counts", problems(), "image_classes agrees with predictions and labels")


def check_boxes(view: RunView) -> Finding:
    """Boxes lie in their image and have an extent; detections are confident enough."""
    size = (view.detector or {}).get("imgsz") or float("inf")
    least = (view.detector or {}).get("conf") or 0.0

    def problems() -> Iterator[str]:
        for table in _TABLES:
            outside = (
                f"SELECT p.id, p.img_id FROM {table} p JOIN images i USING (img_id) WHERE NOT ("
                "box_x1 < box_x2 AND box_y1 < box_y2 AND box_x1 >= :low AND box_y1 >= :low AND "
                "box_x2 <= w + :margin AND box_y2 <= h + :margin AND input_x1 < input_x2 AND "
                "input_y1 < input_y2 AND input_x1 >= :low AND input_y1 >= :low AND "
                "input_x2 <= :side AND input_y2 <= :side)"
            )
            limits = {"low": -_MARGIN, "margin": _MARGIN, "side": size + _MARGIN}
            for row, img_id in view.run.db.execute(outside, limits):
                yield f"{table} row {row}: box of image {img_id} is empty or outside"
        weak = "SELECT id FROM predictions WHERE NOT (confidence >= ? AND confidence <= 1.000001)"
        for (row,) in view.rows(weak, (least - 1e-6,)):
            yield f"predictions row {row}: confidence is not between {least:.6g} and 1"

    (count,) = view.rows("SELECT COUNT(*) FROM predictions")[0]
    return verdict("boxes", problems(), f"{count} detections inside their images")


def check_masks(view: RunView) -> Finding:
    """Masks are whole run lengths of one size."""
    count = 0
    sizes: set[tuple[int, int]] = set()

    def problems() -> Iterator[str]:
        nonlocal count
        for table in _TABLES:
            for row, mask in view.run.db.execute(
                f"SELECT id, mask FROM {table} WHERE mask IS NOT NULL"
            ):
                count += 1
                try:
                    sizes.add(mask_runs(mask)[0])
                except (MlkitError, TypeError) as err:
                    yield f"{table} row {row}: {err}"
        if len(sizes) > 1:
            yield f"masks of several sizes: {sorted(sizes)}"

    found = verdict("masks", problems(), "")
    return Finding(found.check, found.ok, found.detail or f"{count} masks can be read")


INSTANCE_CHECKS = (check_classes, check_counts, check_boxes, check_masks)
