"""The bars that a run has to pass, measured on the run's own frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import InputError
from mlkit_core.run import load_run
from mlkit_core.training.checkpoint import find

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_core.run import Run

METRIC = "mask-overlap"
EVERYTHING = "everything is vessel"
_TINY = 1e-9  # vesselness that is always reached
_COLUMNS = ("dice", "cldice", "sensitivity", "precision", "hd95_px")


@dataclass
class Bars:
    """What was measured.

    Args:
        split: On which part of the data.
        rows: Model to the metric's values.
        notes: Sentences that belong below the table.
    """

    split: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure_bars(folder: Path, split: str, others: dict[str, Path]) -> Bars:
    """Return the scores of a run, of other runs, of Frangi's filter and of marking everything.

    Frangi's threshold is the best one on the run's training frames. Its runs are kept in
    `<folder>/baselines`, and a finished one is taken as it is.

    Args:
        folder: A run of `angio-frames`.
        split: What is scored.
        others: Name to run folder, for instance of a U-Net; they must have the same frames.

    Raises:
        InputError: A run has other data, or other frames than the first.
    """
    run = load_run(folder)
    part = run.config.stages[-1].data
    name = None if part is None else part.name
    if name != "angio-frames":
        raise InputError(f"{folder}: its data is {name!r}, the bars are of angio-frames")
    bars, keys = Bars(split), None
    for name, path in {run.config.name: folder, **others}.items():
        metrics, seen = _scored(load_run(path), split)
        if keys is not None and seen != keys:
            raise InputError(
                f"{path}: has other frames in split {split!r} than {folder}",
                hint="train both on one data set, with the same val_patients",
            )
        keys = seen
        bars.rows[name] = metrics
    level = _best_level(folder)
    for name, value in (("frangi", level), (EVERYTHING, _TINY)):
        bars.rows[name], seen = _scored(_filter_run(folder, name, value), split)
    if keys != seen:  # on_missing_angle: drop
        count = f"{len(seen)} frames; the run leaves out those without angles"
        bars.notes.append(f"Frangi's filter and marking everything are scored on {count}.")
    note = f"Frangi's vesselness counts from {level:.3g}, the best on the training frames."
    bars.notes.append(note)
    return bars


def _scored(run: Run, split: str) -> tuple[dict[str, float], set[str]]:
    """Return the metric's values and the frames' keys.

    An evaluation that is there is taken, unless it is of another checkpoint than the best one.
    """
    path = run.folder / f"eval-{split}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if record.get("checkpoint") != find(run.folder, "best").name:
        record = asdict(run.evaluate(split))
    metrics, rows = record["metrics"], record["rows"]
    own = {k.partition(".")[2]: v for k, v in metrics.items() if k.startswith(f"{METRIC}.")}
    if not own:
        raise InputError(f"{run.folder}: has no metric {METRIC}")
    return own, {str(row["key"]) for row in rows if row.get("metric", METRIC) == METRIC}


def _best_level(folder: Path) -> float:
    """Return the vesselness from which a pixel is vessel, the best on the training frames."""
    start = 0.005
    metrics, _ = _scored(_filter_run(folder, "frangi-training", start), "train")
    chance = metrics["best_threshold"]
    return start * chance / (1 - chance)


def _filter_run(folder: Path, name: str, level: float) -> Run:
    """Return the run of Frangi's filter on a run's data, made where it is not there."""
    place = folder / "baselines" / name.replace(" ", "-")
    plain: Any = load_run(folder).config.resolved
    stage = plain["stages"][-1] if plain.get("stages") else plain
    values = {
        "name": place.name,
        "data": {**stage["data"], "augment": False},
        "model": {
            "encoders": {"image": {"name": "grey"}},
            "head": {"name": "frangi", "level": level},
        },
        "metrics": [{"name": METRIC}],
        "trainer": {"name": "none"},
    }
    place.parent.mkdir(exist_ok=True)
    file = place.parent / f"{place.name}.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")
    wanted = load_run(file)
    is_done = (place / "best").exists()
    if is_done and load_run(place).config.resolved == wanted.config.resolved:
        return load_run(place)
    if place.exists():  # stopped before its end, or of other frames or another level
        shutil.rmtree(place)
    wanted.folder = place
    wanted.fit()
    return load_run(place)


def write_table(bars: Bars, folder: Path) -> Path:
    """Write the bars as a section of the run's report; return the file."""
    columns = ["model", *_COLUMNS]
    rows = [
        [name, *(round(values[column], 4) if column in values else None for column in _COLUMNS)]
        for name, values in bars.rows.items()
    ]
    content = {
        "title": f"Bars on split {bars.split}",
        "text": " ".join(bars.notes),
        "columns": columns,
        "rows": rows,
    }
    path = folder / "tables" / "baselines.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
