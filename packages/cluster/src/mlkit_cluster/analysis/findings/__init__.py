"""What to look at first: pairs, duplicates, hard images, doubtful labels, drift, a small subset."""

from __future__ import annotations

from mlkit_cluster.analysis.findings.coverage import (
    Subset,
    greedy_facility_location,
    greedy_k_center,
)
from mlkit_cluster.analysis.findings.drift import Drift, drift
from mlkit_cluster.analysis.findings.duplicates import Duplicates, NearPair, near_duplicates
from mlkit_cluster.analysis.findings.label_checks import (
    Boxes,
    LabelFinding,
    LabelThresholds,
    box_ious,
    suspicious_labels,
)
from mlkit_cluster.analysis.findings.pairs import (
    AsymmetricPair,
    Asymmetry,
    Contradiction,
    asymmetry,
    contradictions,
)
from mlkit_cluster.analysis.findings.sheets import HardImage, Sheet, hardest, medoid_sheets

__all__ = [
    "AsymmetricPair",
    "Asymmetry",
    "Boxes",
    "Contradiction",
    "Drift",
    "Duplicates",
    "HardImage",
    "LabelFinding",
    "LabelThresholds",
    "NearPair",
    "Sheet",
    "Subset",
    "asymmetry",
    "box_ious",
    "contradictions",
    "drift",
    "greedy_facility_location",
    "greedy_k_center",
    "hardest",
    "medoid_sheets",
    "near_duplicates",
    "suspicious_labels",
]
