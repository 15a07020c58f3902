"""All checks of a run, one after another; none stops the others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mlkit_cluster.store.database import open_run
from mlkit_cluster.validation.blobs import BLOB_CHECKS
from mlkit_cluster.validation.copies import COPY_CHECKS
from mlkit_cluster.validation.distances import DISTANCE_CHECKS, DistanceView
from mlkit_cluster.validation.findings import Finding, run_check, verdict
from mlkit_cluster.validation.instances import INSTANCE_CHECKS
from mlkit_cluster.validation.measures import MEASURE_CHECKS
from mlkit_cluster.validation.repeats import check_images_again, check_pairs_again
from mlkit_cluster.validation.tables import TABLE_CHECKS
from mlkit_cluster.validation.view import RunView
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_cluster.validation.repeats import Recompute, Reextract


def validate_run(
    path: Path,
    *,
    images: int = 5,
    pairs: int = 20,
    reextract: Reextract | None = None,
    recompute: Recompute | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Return what each check found; a run is sound if all are ok.

    Args:
        path: A run's folder or database.
        images: Random images to extract again.
        pairs: Random pairs to compute again.
        reextract: Extracts images; None: that check is left out.
        recompute: Computes pairs; None: that check is left out.
        seed: Of what is sampled.

    Raises:
        InputError: There is no run at the path.
    """
    try:
        run = open_run(path, readonly=True)
    except InputError:
        raise
    except MlkitError as err:
        return [Finding("database", False, str(err))]
    with run:
        view = RunView(run, seed)
        checks = (*TABLE_CHECKS, *BLOB_CHECKS, *MEASURE_CHECKS, *INSTANCE_CHECKS)
        found = [run_check(check, view) for check in checks]
        if reextract is not None:
            again = partial(check_images_again, count=images, reextract=reextract)
            found.append(_named("images again", run_check(again, view)))
        return found + _distance_findings(view, pairs, recompute)


def _distance_findings(view: RunView, pairs: int, recompute: Recompute | None) -> list[Finding]:
    begun = run_check(check_distances, view)
    if not begun.ok or "distance_fingerprint" not in view.metadata:
        return [begun]
    distances = DistanceView(view)
    found = [run_check(check, distances) for check in (*DISTANCE_CHECKS, *COPY_CHECKS)]
    if recompute is not None:
        again = partial(check_pairs_again, count=pairs, recompute=recompute)
        found.append(_named("pairs again", run_check(again, distances)))
    return found


def check_distances(view: RunView) -> Finding:
    """Say whether there are distances; blocks without settings are none."""
    begun = "distance_fingerprint" in view.metadata
    (count,) = view.rows("SELECT COUNT(*) FROM shards")[0]
    stray = ["blocks without settings"] if count and not begun else []
    return verdict("distances", stray, f"{count} files" if begun else "not computed")


def _named(name: str, found: Finding) -> Finding:
    return Finding(name, found.ok, found.detail)
