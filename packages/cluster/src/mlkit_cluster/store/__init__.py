"""The run's folder: tables in SQLite, big arrays in files beside it."""

from __future__ import annotations

from mlkit_cluster.store.database import RunStore, open_run
from mlkit_cluster.store.distance_spec import DistanceSpec
from mlkit_cluster.store.entries import ImageEntry
from mlkit_cluster.store.fingerprint import fingerprint
from mlkit_cluster.store.runs import RunSpec

__all__ = ["DistanceSpec", "ImageEntry", "RunSpec", "RunStore", "fingerprint", "open_run"]
