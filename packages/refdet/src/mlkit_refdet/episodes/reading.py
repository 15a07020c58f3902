"""A data set of either layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes import aeroeyes, coco

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.index import ReferenceIndex


def read_index(root: Path, options: ReferenceFramesConfig) -> ReferenceIndex:
    """Return what a folder holds, read as the options say.

    Raises:
        DataError: It is missing, of no known layout, or wrong; every problem at once.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    layout = options.layout if options.layout != "auto" else _detect(root, options)
    if layout == "aeroeyes":
        return aeroeyes.read_aeroeyes(root, options.annotations, verify=options.verify_frames)
    return coco.read_coco(root, options.annotations, options.images, options.references)


def _detect(root: Path, options: ReferenceFramesConfig) -> str:
    if (root / "samples").is_dir():
        return "aeroeyes"
    if (root / (options.annotations or coco.ANNOTATIONS)).is_file():
        return "coco"
    what = f"holds neither `samples` nor {options.annotations or coco.ANNOTATIONS}"
    raise DataError(f"{root}: {what}", hint="name the layout: `layout: aeroeyes` or `coco`")
