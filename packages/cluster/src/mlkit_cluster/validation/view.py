"""A run as the checks see it: open for reading, with what they all ask for."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.store.database import RunStore


class RunView:
    """An open run and its cached facts.

    Args:
        run: Open for reading.
        seed: Of what is sampled.
    """

    def __init__(self, run: RunStore, seed: int = 0) -> None:
        self.run, self.seed = run, seed

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.run.db.execute(query, values).fetchall()

    def records(self, query: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Return all rows of a query by name."""
        cursor = self.run.db.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The table `metadata`."""
        return self.run.metadata()

    @cached_property
    def detector(self) -> dict[str, Any] | None:
        """The detector's row of `runs`; None in a run of other encoders alone."""
        return next(iter(self.records("SELECT * FROM runs WHERE kind = 'yolo'")), None)

    @cached_property
    def names(self) -> list[str]:
        """The classes."""
        text = (self.detector or {}).get("names")
        return list(json.loads(text)) if text else []

    @cached_property
    def ids(self) -> list[int]:
        """Image ids in matrix order."""
        return [i for (i,) in self.rows("SELECT img_id FROM images WHERE error IS NULL ORDER BY 1")]

    @cached_property
    def has_targets(self) -> np.ndarray:
        """`[N]` bool in matrix order: whether an image's predictions give any target."""
        least = (self.detector or {}).get("target_conf") or 0.0
        query = "SELECT DISTINCT img_id FROM predictions WHERE confidence >= ?"
        known = {img_id for (img_id,) in self.rows(query, (least,))}
        return np.array([img_id in known for img_id in self.ids], np.bool_)
