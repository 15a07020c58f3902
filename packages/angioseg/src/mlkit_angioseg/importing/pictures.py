"""Folders of pictures with masks: DCA1, XCAD, and whatever is laid out like them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.frames.angles import Angles, to_dicom
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.importing.found import Found, FoundFrame, Wish
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_angioseg.frames.rows import Problems

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".gif"})
_IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "frames"})
_MASK_FOLDERS = frozenset(
    {"mask", "masks", "gt", "label", "labels", "annotation", "annotations", "groundtruth",
     "ground_truth", "1st_manual", "manual"}
)  # fmt: skip
_MASK_ENDING = re.compile(r"[_-](gt|mask|seg|label|manual)\d*$", re.IGNORECASE)
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_ANGLE = r"(-?\d+(?:\.\d+)?)"
_XCAD = re.compile(rf"PPA_{_ANGLE}_PSA_{_ANGLE}", re.IGNORECASE)


def find_pictures(source: Path, wish: Wish, problems: Problems) -> Found:
    """Return the pictures under a folder, each with its mask; notes every file that does not fit.

    A mask lies in a folder called masks, gt, labels or the like, or its name ends in `_gt`,
    `_mask`, `_seg` or `_label`; the rest of path and name is its picture's. `PPA_<primary>_PSA_
    <secondary>` in a name are the view's angles.
    """
    images, masks = _pairs(source, wish, problems)
    for key in sorted(masks.keys() - images.keys()):
        problems.add(str(masks[key]), "is a mask without a picture")
    mode = wish.frames if wish.frames != "auto" else ("labelled" if masks else "all")
    if mode == "best":
        raise InputError("--frames best: pictures are no cines; choose labelled or all")
    found, headers = Found(knows_patients=wish.patient is not None), Headers()
    for key, image in images.items():
        mask = masks.get(key)
        if mask is None and mode == "labelled":
            found.leave_out("pictures without a mask")
            continue
        with problems.at(str(image)):
            found.frames.append(_frame(key, image, mask, wish, headers))
    return found


def has_xcad_names(source: Path) -> bool:
    """Return whether a picture under a folder carries angles in its name."""
    return any(_XCAD.search(path.name) for path in pictures_under(source))


def pictures_under(source: Path) -> Iterator[Path]:
    """Yield all pictures under a folder in order of their paths; hidden ones are left alone."""
    for path in sorted(source.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        if path.suffix.lower() in PICTURES and path.is_file() and not hidden:
            yield path


def split_of(parts: tuple[str, ...]) -> str:
    """Return the split that a folder on the way to a file names, or ""."""
    return next((_SPLITS[p.lower()] for p in reversed(parts) if p.lower() in _SPLITS), "")


def file_name(key: str) -> str:
    """Return a path without suffix as one file name of letters, digits, dot, plus and minus."""
    return re.sub(r"[^\w.+-]", "_", key.replace("/", "-")).lstrip(".") or "_"


def name_angles(name: str) -> Angles | None:
    """Return the angles in a file's name, DICOM signs; None where there are none.

    Raises:
        ValueError: No C-arm stands so.
    """
    found = _XCAD.search(name)
    return None if found is None else to_dicom((float(found[1]), float(found[2])), "dicom")


def _pairs(source: Path, wish: Wish, problems: Problems) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and masks under the key that both have."""
    images, masks = dict[str, Path](), dict[str, Path]()
    apart = wish.masks.resolve() if wish.masks is not None else None
    for path in pictures_under(source):
        if apart is not None and path.resolve().is_relative_to(apart):
            continue
        parts = path.relative_to(source).parts
        in_folder = any(part.lower() in _MASK_FOLDERS for part in parts[:-1])
        if apart is not None and in_folder:
            continue  # other masks than those asked for
        is_mask = apart is None and (in_folder or _MASK_ENDING.search(path.stem) is not None)
        _note(masks if is_mask else images, _key(parts, is_mask=is_mask), path, problems)
    if wish.masks is not None:
        for path in pictures_under(wish.masks):
            key = _key(path.relative_to(wish.masks).parts, is_mask=True)
            _note(masks, key, path, problems)
    return images, masks


def _key(parts: tuple[str, ...], *, is_mask: bool) -> str:
    folders = _MASK_FOLDERS if is_mask else _IMAGE_FOLDERS
    kept = [part for part in parts[:-1] if part.lower() not in folders]
    stem = Path(parts[-1]).stem
    return "/".join([*kept, _MASK_ENDING.sub("", stem) if is_mask else stem])


def _note(known: dict[str, Path], key: str, path: Path, problems: Problems) -> None:
    if key in known:
        problems.add(str(path), f"stands for the same picture as {known[key]}")
    known.setdefault(key, path)


def _frame(key: str, image: Path, mask: Path | None, wish: Wish, headers: Headers) -> FoundFrame:
    header = headers.image(image)
    size = (header.height, header.width)
    if mask is not None:
        shape = headers.mask(mask)
        if (shape.height, shape.width) != size:
            raise ValueError(
                f"is {size[1]}x{size[0]}, its mask {mask.name!r} {shape.width}x{shape.height}"
            )
    name = file_name(key)
    patient = _patient(key, wish.patient)
    return FoundFrame(
        where=str(image),
        name=name,
        image=image,
        frame=None,
        size=size,
        mask=mask,
        patient=patient or name,
        cine=name,
        split=split_of(Path(key).parts[:-1]),
        angles=name_angles(image.name),
    )


def _patient(key: str, pattern: str | None) -> str:
    if pattern is None:
        return ""
    found = re.search(pattern, key)
    if found is None or not found.groups() or not found[1]:
        raise ValueError(f"--patient {pattern!r}: finds no patient in {key!r}")
    return found[1]
