"""The user's own frames: what `mlkit predict --input image=… --input view=…` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames.angles import (
    Angles,
    parse_angle,
    pick_angles,
    read_json_angles,
    to_dicom,
)
from mlkit_angioseg.frames.csvfile import cell, read_table
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.frames.reader import IMAGE
from mlkit_angioseg.frames.rows import Problems
from mlkit_angioseg.frames.tables import PICTURES
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.dicom.header import CineHeader
    from mlkit_angioseg.frames.headers import Header
    from mlkit_core.types import Role

_VIEW_HINT = "give --input view=FILE.json, view=TABLE.csv or view=PRIMARY,SECONDARY in degrees"


@dataclass(frozen=True, kw_only=True)
class OpenFrame:
    """One frame to predict: file, index in a cine, size in pixels, angles with DICOM signs.

    `cine` is the header of a DICOM file, whose name is then in no output.
    """

    where: str
    key: str
    image: Path
    frame: int | None
    size: tuple[int, int]
    angles: Angles | None
    cine: CineHeader | None = None


def open_frames(
    inputs: Mapping[Role, Path], options: AngioFramesConfig, *, needs_angles: bool
) -> Iterator[OpenFrame]:
    """Yield the frames of a picture, a folder of pictures, an NPY or a DICOM cine, in order.

    A DICOM file's own angles are taken unless `view` gives others.

    Raises:
        DataError: Nothing to read, a file that is no image, or missing angles.
    """
    unknown = set(inputs) - {"image", "view"}
    if unknown or "image" not in inputs:
        given = ", ".join(sorted(inputs)) or "nothing"
        raise DataError(f"inputs: expected image, and view where the model reads it, got {given}")
    image = Path(inputs["image"])
    angles_of = _angle_source(inputs.get("view"), options)
    headers = Headers()
    for path in pictures(image):
        try:
            header = headers.image(path)
        except ValueError as err:
            raise DataError(f"{path}: {err}") from err
        yield from _frames(path, header, angles_of, options, needs_angles=needs_angles)


def _frames(
    path: Path,
    header: Header,
    angles_of: Callable[[str], Angles | None],
    options: AngioFramesConfig,
    *,
    needs_angles: bool,
) -> Iterator[OpenFrame]:
    known = header.cine.angles if header.cine is not None else None
    given = angles_of(path.name)
    if given is None and known is None:
        given = _missing(path, options, needs_angles=needs_angles)
    stem = path.stem if header.cine is None else header.cine.uid_hash
    for frame in [None] if header.frames is None else range(header.frames):
        yield OpenFrame(
            where=str(path),
            key=stem if frame is None else f"{stem}#{frame}",
            image=path,
            frame=frame,
            size=(header.height, header.width),
            angles=known[frame] if given is None and known and frame is not None else given,
            cine=header.cine,
        )


def pictures(image: Path) -> list[Path]:
    """Return a picture, or a folder's pictures and DICOM files in order of their names.

    Raises:
        DataError: There is nothing to read.
    """
    if image.is_file():
        return [image]
    if not image.is_dir():
        raise DataError(f"{image}: no such file or folder")
    files = sorted(path for path in image.iterdir() if path.is_file())
    found = [path for path in files if path.suffix.lower() in PICTURES or is_dicom(path)]
    if not found:
        raise DataError(f"{image}: holds no pictures and no DICOM files")
    return found


def _missing(path: Path, options: AngioFramesConfig, *, needs_angles: bool) -> Angles | None:
    if options.on_missing_angle == "zero":
        return (0.0, 0.0)
    if needs_angles and options.on_missing_angle != "learned":
        raise DataError(f"{path}: its angles are missing", hint=_VIEW_HINT)
    return None


def _angle_source(view: Path | None, options: AngioFramesConfig) -> Callable[[str], Angles | None]:
    """Return a function from a picture's file name to its angles."""
    if view is None:
        return lambda _: None
    view = Path(view)
    try:
        if view.suffix.lower() == ".csv":
            table = _read_table(view, options)
            return lambda name: table.get(name, table.get(Path(name).stem))
        angles = read_json_angles(view) if view.suffix.lower() == ".json" else _literal(str(view))
        signed = to_dicom(angles, options.angle_convention) if angles is not None else None
    except ValueError as err:
        raise DataError(f"view: {err}", hint=_VIEW_HINT) from err
    return lambda _: signed


def _literal(text: str) -> Angles:
    parts = [parse_angle(part.strip(), "view") for part in text.split(",")]
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        raise ValueError(f"expected PRIMARY,SECONDARY in degrees, got {text!r}")
    return parts[0], parts[1]


def _read_table(path: Path, options: AngioFramesConfig) -> dict[str, Angles]:
    problems, table = Problems(), dict[str, Angles]()
    for where, cells in read_table(path, problems):
        with problems.at(where):
            angles = pick_angles(cells)
            if angles is not None:
                name = cell(cells, IMAGE)
                table[name] = to_dicom(angles, options.angle_convention)
    problems.raise_any()
    return table
