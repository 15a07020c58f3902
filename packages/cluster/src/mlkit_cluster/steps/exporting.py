"""`export`: a run in the form of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_cluster.exports import export_coco, export_fiftyone, export_table
from mlkit_cluster.store.database import open_run, run_folder
from mlkit_cluster.store.seed_layout import export_seed_sqlite
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def export(
    path: Path, form: str, out: Path, *, images: Path | None = None, all_pairs: bool = False
) -> list[Path]:
    """Write a run, or some of its images, and return the files.

    Args:
        path: Of the run.
        form: "fiftyone", "coco", "csv", "parquet" or "seed-sqlite".
        out: File, or folder for fiftyone and seed-sqlite.
        images: A list of paths as the run has them; None: all images.
        all_pairs: Of seed-sqlite: all pairs, however many images.

    Raises:
        InputError: An image is not in the run, or the form is not to be had.
    """
    folder = run_folder(path)
    chosen = _chosen(folder, images) if images is not None else None
    if form == "seed-sqlite":
        if chosen is not None:
            raise InputError("--images: seed-sqlite holds all images of a run")
        out.mkdir(parents=True, exist_ok=True)
        files = [out / "EMB.db", out / "DIST.db"]
        with open_run(folder, readonly=True) as run:
            export_seed_sqlite(run, *files, all_pairs=all_pairs)
        return [file for file in files if file.is_file()]
    if form == "fiftyone":
        written = export_fiftyone(folder, out, img_ids=chosen)
    elif form == "coco":
        written = export_coco(folder, out, img_ids=chosen)
    else:
        written = export_table(folder, out, form, img_ids=chosen)
    return list(written) if isinstance(written, (list, tuple)) else [written]


def _chosen(folder: Path, images: Path) -> Sequence[int]:
    try:
        lines = images.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{images}: not a readable list: {err}") from err
    with open_run(folder, readonly=True) as run:
        known = dict(run.db.execute("SELECT path, img_id FROM images"))
    wanted = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(wanted, 1):
        if line not in known:
            raise InputError(f"{images}:{number}: no image {line!r} in this run")
    return [known[line] for line in wanted]
