"""`validate`: checks of what is stored, with images extracted and losses computed once more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.distances.rows import RowsTask, by_criterion, to_unit
from mlkit_cluster.steps.distances import DistanceWish, recipe_of
from mlkit_cluster.steps.parts import make_part
from mlkit_cluster.store.database import open_run
from mlkit_cluster.validation import Finding, validate_run, validate_seed
from mlkit_core.build import build_data, build_part
from mlkit_core.errors import InputError
from mlkit_core.types import Draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import ImageRecord


def validate(
    path: Path,
    distances: Path | None = None,
    *,
    images: int = 5,
    pairs: int = 20,
    model: Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> list[Finding]:
    """Return what each check of a run, or of the earlier system's two files, found.

    Args:
        path: A run, or EMB.db.
        distances: DIST.db; None: `path` is a run.
        images: How many to extract again.
        pairs: How many losses to compute again by ultralytics' own criterion at batch 1.
        model: Where the detector's file lies now; None: where it lay.
        device: As torch names it.
        seed: Of what is sampled.
    """
    if distances is not None:
        return validate_seed(path, distances)
    wish = DistanceWish(model=model, device=device)
    notes: list[Finding] = []
    again = _try("images again", lambda: _reextract(path, wish), notes) if images else None
    anew = _try("pairs again", lambda: _recompute(path, wish), notes) if pairs else None
    found = validate_run(
        path, images=images, pairs=pairs, reextract=again, recompute=anew, seed=seed
    )
    return [*found, *notes]


def _try(check: str, make: Callable[[], Any], notes: list[Finding]) -> Any:  # noqa: ANN401
    """Return what `make` gives; where model or images are gone, that is a finding."""
    try:
        return make()
    except InputError as err:
        notes.append(Finding(check, False, f"cannot be done: {err}"))
        return None


def _reextract(path: Path, wish: DistanceWish) -> Callable[[Sequence[str]], Iterator[ImageRecord]]:
    with open_run(path, readonly=True) as run:
        text = run.metadata().get("recipe")
        recipe_of(run, wish)  # the model is there and unchanged
    if text is None:
        raise InputError(f"{path}: no detector has been run")
    said = json.loads(text)
    options = {**said["extractor"], "device": wish.device}
    options |= {"model": str(wish.model)} if wish.model else {}
    extractor = build_part(make_part("extractor", "yolo", options), "extractor")
    data: Any = build_data(make_part("data", "image-folder", said["data"]))
    places = {entry.key: index for index, entry in enumerate(data.listing().images)}

    def again(paths: Sequence[str]) -> Iterator[ImageRecord]:
        for image in paths:
            sample = data.load(Draw(places[image], 0))
            yield from extractor.extract(data.collate([[sample]]))

    return again


def _recompute(
    path: Path, wish: DistanceWish
) -> Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]] | None:
    with open_run(path, readonly=True) as run:
        if "distance_fingerprint" not in run.metadata():
            return None
        names = tuple(json.loads(run.metadata()["distance_components"]))
        recipe = recipe_of(
            run, DistanceWish(components=names, model=wish.model, device=wish.device)
        )
    worker = recipe.build()

    def anew(rows: np.ndarray, columns: np.ndarray) -> Mapping[str, np.ndarray]:
        found: dict[str, list[float]] = {name: [] for name in names}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            raw = worker.detector(to_unit(worker.prepare(RowsTask(row, row + 1)))).cpu()
            losses = by_criterion(worker.detector, raw, recipe.targets, np.array([column]))
            for name in names:
                found[name].append(float(losses[name][0]))
        return {name: np.asarray(values, np.float32) for name, values in found.items()}

    return anew
