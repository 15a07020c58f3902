"""The settings that a run's numbers depend on: noted once, never mixed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mlkit_cluster.store.files import disk_errors
from mlkit_cluster.store.fingerprint import canonical_json, fingerprint
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_cluster.store.database import RunStore

GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "seg": 7.5}
# Parts that are columns of `runs` too, for plain SQL; lists and mappings as JSON.
COLUMNS = ("imgsz", "conf", "iou", "target_conf", "gains", "components")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The settings of one encoder's rows.

    Args:
        kind: "yolo" for the detector, of which a run has one; "embedding" for any other encoder.
        encoder: Name of its rows in `embeddings`; the detector's is "yolo".
        model: Where the weights came from, for people.
        model_sha256: Of the weights' file.
        parts: JSON values that change results: imgsz, conf, iou, target_conf, max_det, gains,
            components and the like.
        names: The classes, in order; empty where there are none.
        versions: Of the libraries; noted, no part of the fingerprint.
    """

    kind: Literal["yolo", "embedding"]
    encoder: str
    model: str
    model_sha256: str
    parts: Mapping[str, object]
    names: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_parts(self) -> dict[str, object]:
        """What the fingerprint is of; `runs.options` holds it as JSON."""
        own = {"kind": self.kind, "encoder": self.encoder, "model_sha256": self.model_sha256}
        return {**self.parts, **own}

    @property
    def fingerprint(self) -> str:
        """The name of these settings."""
        return fingerprint(self.all_parts)


def begin_run(run: RunStore, spec: RunSpec) -> str:
    """Note the settings, or check that they are those of the rows that are there.

    Returns:
        The fingerprint.

    Raises:
        InputError: The database holds rows of this encoder with other settings.
    """
    if (spec.kind == "yolo") != (spec.encoder == "yolo"):
        raise InputError(f"encoder {spec.encoder!r}: the name 'yolo' is the detector's own")
    with run.transaction() as db:
        query = "SELECT fingerprint, options FROM runs WHERE encoder = ?"
        found = db.execute(query, (spec.encoder,)).fetchone()
        if found is None:
            row = _row(spec)
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        elif found[0] != spec.fingerprint:
            raise InputError(
                f"{run.path}: holds {spec.encoder} rows with other settings: "
                f"{_differences(json.loads(found[1]), spec.all_parts)}",
                hint="give the same settings, or another -o for a run of its own",
            )
    return spec.fingerprint


def _row(spec: RunSpec) -> dict[str, object]:
    plain = {name: spec.parts.get(name) for name in COLUMNS}
    return {
        "run_id": f"{spec.encoder}-{spec.fingerprint[:8]}",
        "fingerprint": spec.fingerprint,
        "kind": spec.kind,
        "encoder": spec.encoder,
        "model": spec.model,
        "model_sha256": spec.model_sha256,
        **{name: column_value(value) for name, value in plain.items()},
        "names": canonical_json(list(spec.names)) if spec.names else None,
        "options": canonical_json(spec.all_parts),
        "created_ts": time.time(),
        "versions": canonical_json(dict(spec.versions)),
    }


def column_value(value: object) -> object:
    """Return a part as its column holds it: lists and mappings as JSON."""
    return canonical_json(value) if isinstance(value, (list, tuple, dict)) else value


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    new = json.loads(canonical_json(dict(new)))
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)


def class_names(run: RunStore) -> list[str]:
    """Return the detector's classes, from `runs.names`; empty where no detector has run."""
    row = run.db.execute("SELECT names FROM runs WHERE kind = 'yolo'").fetchone()
    return list(json.loads(row[0])) if row and row[0] else []


def gains(run: RunStore) -> dict[str, float]:
    """Return component to its weight in a total: the run's own, else ultralytics' defaults."""
    with disk_errors(run.path):
        row = run.db.execute("SELECT gains FROM runs WHERE kind = 'yolo'").fetchone()
    given = json.loads(row[0]) if row and row[0] else {}
    return {name: float(given.get(name, usual)) for name, usual in GAINS.items()}
