"""Whether a run holds what it says: everything is recomputed that can be."""

from __future__ import annotations

from mlkit_cluster.validation.findings import Finding
from mlkit_cluster.validation.run import validate_run
from mlkit_cluster.validation.seed import validate_seed

__all__ = ["Finding", "validate_run", "validate_seed"]
