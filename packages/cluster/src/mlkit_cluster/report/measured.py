"""The section "what was measured": how the numbers came about, and how far they reach."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit_cluster.report.pairs import Pairs
    from mlkit_cluster.report.source import Record, RunData

_DIRECTION = (
    "D_ij is the loss of the raw output of image i against the predictions of image j as targets: "
    "asymmetric, not 0 on the diagonal, without box, dfl and seg where j has no targets"
)


def measured(run: RunData, pairs: Pairs) -> dict[str, Any]:
    """Return facts in order, one block for each model, the evaluations, and failed images."""
    return {
        "facts": _facts(run, pairs),
        "models": [_model(record) for record in run.runs],
        "evaluations": [
            {"id": e["evaluation_id"], "params": e["params"], "scores": e["scores"]}
            for e in run.evaluations
        ],
        "clusterings": [{"id": c.name, "params": c.params} for c in run.clusterings],
        "projections": [{"id": p.name, "params": p.params} for p in run.projections],
        "failed": [list(entry) for entry in run.failed],
    }


def _facts(run: RunData, pairs: Pairs) -> list[list[object]]:
    told = run.metadata
    facts: list[list[object]] = [
        ["images", len(run)],
        ["images that could not be read", len(run.failed)],
        ["image folder", str(run.root)],
        ["labels", told.get("labels") or "none: metrics and losses against labels are unknown"],
        ["encoders", ", ".join(run.encoders) or "none"],
        ["distance", _DIRECTION if pairs else f"not shown: {pairs.note}" if pairs.note else "none"],
    ]
    if pairs:
        known = "all pairs" if pairs.keys is None else f"{len(pairs.keys):,} edges"
        facts.append(["pairs known", known])
        facts.append(["components", ", ".join(pairs.components)])
        gains = ", ".join(f"{name} {run.gains[name]:g}" for name in pairs.components)
        facts.append(["weights of a total", gains])
    for key in ("distance_mode", "distances_table", "knn_k", "knn_recall"):
        if told.get(key):
            facts.append([key.replace("_", " "), told[key]])
    return facts


def _model(record: Record) -> dict[str, Any]:
    wanted = (
        ("kind", "kind"),
        ("model", "model"),
        ("model_sha256", "sha256 of the weights"),
        ("imgsz", "input side, pixels"),
        ("conf", "confidence of stored predictions, at least"),
        ("iou", "IoU of non-maximum suppression"),
        ("target_conf", "confidence of targets, at least"),
        ("gains", "gains"),
        ("components", "components"),
        ("rest", "further options"),
        ("versions", "versions"),
        ("fingerprint", "fingerprint"),
    )
    options = record["options"] if isinstance(record["options"], dict) else {}
    rest = {key: value for key, value in options.items() if key not in (*record, "supercategories")}
    record = {**record, "rest": rest or None}
    facts = [[words, record[key]] for key, words in wanted if record.get(key) is not None]
    return {"title": record["model"], "facts": [[words, _short(value)] for words, value in facts]}


def _short(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return (
            json.dumps(value)
            if any(isinstance(v, dict) for v in value)
            else ", ".join(map(str, value))
        )
    return value
