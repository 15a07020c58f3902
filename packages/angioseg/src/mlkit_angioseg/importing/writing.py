"""Writing what was found: pictures, masks, then the table, which names whole files only."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames import pixels
from mlkit_angioseg.importing.arcade import draw
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mlkit_angioseg.frames.rows import Problems
    from mlkit_angioseg.importing.found import FoundFrame

TABLE, RECORD = "index.csv", "import.json"
_EXACT = 1e-3  # of a grey step: float32 rounding


def begin(out: Path, record: Mapping[str, object]) -> bool:
    """Make or re-open a folder for an import; return whether it is finished already.

    Raises:
        DataError: The folder holds something else than this import.
    """
    path = out / RECORD
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get("fingerprint") != record["fingerprint"]:
            hint = "name a new folder; an import goes on only where source and options are the same"
            raise DataError(f"{out}: holds another import", hint=hint)
        return bool(known.get("complete"))
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty", hint="name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    _write_record(out, {**record, "complete": False})
    return False


def finish(out: Path, frames: Sequence[FoundFrame], record: Mapping[str, object]) -> None:
    """Write the table, then the word that the import is complete."""
    linked, source = bool(record["linked"]), str(record["mask_source"])
    rows = [_row(frame, out, linked=linked, mask_source=source) for frame in frames]
    write_table(out / TABLE, rows)
    _write_record(out, {**record, "complete": True})


def write_frames(
    out: Path,
    frames: Sequence[FoundFrame],
    problems: Problems,
    *,
    linked: bool,
    is_binary: bool,
    told: Callable[[int, int], None],
) -> list[FoundFrame]:
    """Write pictures (unless linked) and masks; return the frames that could be read.

    A file that is there was written whole by an earlier try and is left.
    """
    for name in ("masks",) if linked else ("images", "masks"):
        (out / name).mkdir(exist_ok=True)
    good: list[FoundFrame] = []
    for number, frame in enumerate(frames, 1):
        try:
            if not linked:
                once(out / "images" / f"{frame.name}.png", lambda f=frame: stored_pixels(f))
            if frame.is_labelled:
                once(out / "masks" / f"{frame.name}.png", lambda f=frame: _labels(f, is_binary))
            good.append(frame)
        except DataError as err:
            problems.add(frame.where, str(err), err.hint)
        told(number, len(frames))
    return good


def once(path: Path, make: Callable[[], NDArray[np.uint8 | np.uint16]]) -> None:
    """Write a PNG aside and rename it, unless it is there."""
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.part")
    Image.fromarray(make()).save(aside, format="PNG")
    aside.replace(path)


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as a CSV table, aside and renamed; the first row names the columns."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


def stored_pixels(frame: FoundFrame) -> NDArray[np.uint8 | np.uint16]:
    """Return a frame as it is written: 8 bits where they hold its grey exactly, else 16.

    Of a DICOM file that is grey after rescale, window and inversion; a picture stays as it is.
    """
    if frame.frame is None or not is_dicom(frame.image):
        return pixels.read_stored(frame.image, frame.frame, frame.where)
    grey = read_frame(frame.image, frame.frame).astype(np.float64)
    eight = grey * 255
    if np.abs(eight - eight.round()).max() < _EXACT:
        return eight.round().astype(np.uint8)
    return (grey * 65535).round().astype(np.uint16)


def _labels(frame: FoundFrame, is_binary: bool) -> NDArray[np.uint8]:
    if frame.mask is not None:
        return pixels.read_mask(frame.mask, frame.where).astype(np.uint8) * np.uint8(255)
    labels = draw(frame.outlines, frame.size)
    return np.where(labels > 0, 255, 0).astype(np.uint8) if is_binary else labels


def _row(frame: FoundFrame, out: Path, *, linked: bool, mask_source: str) -> dict[str, object]:
    mask = f"{frame.name}.png" if frame.is_labelled else ""
    if linked:
        mask = f"masks/{mask}" if mask else ""
        place = os.path.relpath(frame.image.resolve(), out.resolve())
        named: dict[str, object] = {"cine_path": place, "vessel_mask_actual_path": mask}
    else:
        named = {"image": f"{frame.name}.png", "mask": mask}
    primary, secondary = frame.angles or ("", "")
    row_mm, column_mm = frame.spacing_mm or ("", "")
    return named | {
        "mask_source": mask_source if mask else "",
        "patient": frame.patient,
        "cine": frame.cine,
        "frame_index": "" if frame.frame is None else frame.frame,
        "primary_angle": primary,
        "secondary_angle": secondary,
        "split": frame.split or "train",
        "spacing_row_mm": row_mm,
        "spacing_column_mm": column_mm,
        "spacing_at": frame.spacing_at,
        "frame_ms": "" if frame.frame_ms is None else frame.frame_ms,
        "collimator": " ".join(map(str, frame.collimator or ())),
    }


def fingerprint(frames: Sequence[FoundFrame], record: Mapping[str, object]) -> str:
    """Return a hash of all that the written files hang on."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for frame in frames:
        digest.update(repr(frame).encode())
        for path in filter(None, (frame.image, frame.mask)):
            stat = path.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _write_record(out: Path, record: Mapping[str, object]) -> None:
    about = {**record, "software": f"mlkit-angioseg {version('mlkit-angioseg')}"}
    aside = out / f".{RECORD}.part"
    aside.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(out / RECORD)
