"""Where a run stands, and what each stage's loop is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlkit_core.training.engine import Engine
    from mlkit_core.training.journal import Journal, Watcher


@dataclass
class Position:
    """Where a run stands: what a resume needs beside the tensors.

    Args:
        stage: Index of the stage.
        epoch: Of this stage, in progress.
        unit_step: Optimiser steps done in this epoch.
        stage_step: Optimiser steps done in this stage.
        step: Optimiser steps done over all stages.
        done: Whether this stage is finished.
        best: Name of the best checkpoint, "" before the first validation.
        best_value: The monitored value there.
        window: Loss parts since the last line of `metrics.jsonl`: sums and their count.
        metrics: Of the last validation.
    """

    stage: int = 0
    epoch: int = 0
    unit_step: int = 0
    stage_step: int = 0
    step: int = 0
    done: bool = False
    best: str = ""
    best_value: float | None = None
    window: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Setting:
    """What a stage's loop is given.

    Args:
        folder: The run folder.
        seed: Of the run.
        engine: This process.
        journal: Where lines go.
        watcher: Where progress goes.
        record: Plain values that every checkpoint's state repeats: the resolved run file, ranks.
        watch_grads: Steps between gradient tables; 0: none.
        stopping: Says whether a signal asked to stop.
    """

    folder: Path
    seed: int
    engine: Engine
    journal: Journal
    watcher: Watcher
    record: dict[str, Any]
    watch_grads: int
    stopping: Callable[[], bool]
