"""A run's results in the form of other tools: FiftyOne, COCO, tables."""

from __future__ import annotations

from mlkit_cluster.exports.coco import export_coco
from mlkit_cluster.exports.fiftyone import export_fiftyone
from mlkit_cluster.exports.table import export_table

__all__ = ["export_coco", "export_fiftyone", "export_table"]
