"""Turns one row of a table into a frame, noting everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.frames.angles import agree, read_json_angles, to_dicom
from mlkit_angioseg.frames.csvfile import Cells, cell
from mlkit_angioseg.frames.headers import Header, Headers
from mlkit_angioseg.frames.rows import FrameRow, Problems
from mlkit_angioseg.frames.sources import MASKS, choose_mask
from mlkit_angioseg.frames.splits import choose_split

if TYPE_CHECKING:
    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.frames.angles import Angles

CINE = ("cine_path",)
IMAGE = ("image", "file", "filename")
PATIENT = ("patient", "patient_id")
_MISSING = (
    "on_missing_angle: drop leaves such rows out, learned trains an embedding of 'unknown', "
    "zero takes them for AP (0/0)"
)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What a row's cells name, before any file is looked at."""

    key: str
    image: Path
    mask: Path | None
    cine: str
    patient: str
    mask_source: str = ""
    contours: Path | None = None
    valid: Path | None = None


class RowReader:
    """Reads the rows of one table.

    Args:
        options: The data's options.
        base: What relative paths start from.
        needs_angles: Whether missing angles are a problem.
        needs_masks: Whether missing masks are a problem.
    """

    def __init__(
        self,
        options: AngioFramesConfig,
        base: Path,
        *,
        needs_angles: bool,
        needs_masks: bool = True,
    ) -> None:
        self.options, self.base = options, base
        self.needs_angles, self.needs_masks = needs_angles, needs_masks
        self.problems, self.headers, self.dropped = Problems(), Headers(), 0

    def cine_row(self, where: str, cells: Cells) -> FrameRow | None:
        """Return the frame of a row with cine, mask and JSON paths; None if it cannot be used.

        Raises:
            ValueError: The row names no cine.
        """
        image = self.base / _required(cells, CINE)
        source, mask = choose_mask(cells, self.options.mask_source)
        case = cell(cells, ("case_id",))
        cine = cell(cells, ("cine",)) or _relative(image, self.base)
        contours = cell(cells, ("contours_path",))
        named = _Named(
            key="/".join(filter(None, (case, image.stem, cell(cells, ("cass_segment",))))),
            image=image,
            mask=self.base / mask if mask else None,
            mask_source=source,
            contours=self.base / contours if contours else None,
            cine=cine,
            patient=cell(cells, PATIENT) or case or cine,
        )
        return self._row(where, cells, named)

    def picture_row(self, where: str, cells: Cells) -> FrameRow | None:
        """Return the frame of a row that names a picture; None if it cannot be used.

        Raises:
            ValueError: The row names no picture.
        """
        name = _required(cells, IMAGE)
        cine = cell(cells, ("cine",)) or Path(name).stem
        source, mask = choose_mask(cells, self.options.mask_source, self._own_mask(cells, name), "")
        named = _Named(
            key=str(Path(name).with_suffix("")),
            image=self.base / self.options.images / name,
            mask=self.base / mask if mask else None,
            mask_source=source,
            cine=cine,
            patient=cell(cells, PATIENT) or cine,
            valid=self._valid(name),
        )
        return self._row(where, cells, named)

    def _row(self, where: str, cells: Cells, named: _Named) -> FrameRow | None:
        before, header, frame, split = len(self.problems.lines), Header(0, 0), None, ""
        with self.problems.at(where):
            header = self.headers.image(named.image)
            named = _without_names(named, header, self.base)
            frame = _frame_index(cells, header)
        with self.problems.at(where):
            self._check_mask(named.mask, header)
        with self.problems.at(where):
            self._check_size("valid mask", named.valid, header)
        angles = self._angles(where, cells, named.contours, header, frame)
        with self.problems.at(where):
            split = choose_split(cells, named.patient, self.options)
        dropped = angles is None and self.needs_angles and self.options.on_missing_angle == "drop"
        if len(self.problems.lines) > before or dropped:
            self.dropped += dropped
            return None
        return FrameRow(
            where=where,
            key=named.key if frame is None else f"{named.key}#{frame}",
            image=named.image,
            frame=frame,
            mask=named.mask,
            mask_source=named.mask_source,
            size=(header.height, header.width),
            angles=angles,
            split=split,
            cine=named.cine,
            patient=named.patient,
            collimator=header.cine.collimator if header.cine is not None else _collimator(cells),
            valid=named.valid,
        )

    def _angles(
        self, where: str, cells: Cells, contours: Path | None, header: Header, frame: int | None
    ) -> Angles | None:
        before, angles = len(self.problems.lines), None
        with self.problems.at(where):
            angles = agree(read_json_angles(contours) if contours else None, cells)
            if angles is not None:
                return to_dicom(angles, self.options.angle_convention)
        if header.cine is not None and header.cine.angles is not None and frame is not None:
            return header.cine.angles[frame]
        policy = self.options.on_missing_angle
        if policy == "zero":
            return (0.0, 0.0)
        if policy == "error" and self.needs_angles and len(self.problems.lines) == before:
            keys = "primary or primary_angle, secondary or secondary_angle"
            place = f"{contours.name}: view_angles" if contours else "columns"
            self.problems.add(where, f"angles are missing ({place}: {keys})", _MISSING)
        return None

    def _own_mask(self, cells: Cells, image: str) -> str:
        """Return the mask of the column `mask`, or the one with the image's name in any form.

        Where neither is there, a table without that column, and without pseudo-labels, names the
        file that it should be.
        """
        folder = Path(self.options.masks)
        if name := cell(cells, ("mask",)):
            return str(folder / name)
        if found := self._named_as(image, folder):
            return str(found)
        is_silent = "mask" in cells or cell(cells, MASKS["pseudo"]) or not self.needs_masks
        return "" if is_silent else str(folder / image)

    def _named_as(self, image: str, folder: Path) -> Path | None:
        """Return the mask in a folder, from the base, with the image's name in any form."""
        for ending in dict.fromkeys((Path(image).suffix, ".png", ".npy")):
            if (self.base / folder / Path(image).with_suffix(ending)).is_file():
                return folder / Path(image).with_suffix(ending)
        return None

    def _valid(self, image: str) -> Path | None:
        """Return the mask of the pixels that count; where it is missing, what it should be."""
        if self.options.valid_masks is None or not self.needs_masks:
            return None
        folder = Path(self.options.valid_masks)
        return self.base / (self._named_as(image, folder) or folder / image)

    def _check_mask(self, mask: Path | None, image: Header) -> None:
        if mask is None and not self.needs_masks:
            return
        if mask is None:
            raise ValueError(f"mask is missing (mask_source: {self.options.mask_source})")
        self._check_size("mask", mask, image)

    def _check_size(self, kind: str, mask: Path | None, image: Header) -> None:
        if mask is None:
            return
        try:
            header = self.headers.mask(mask)
        except ValueError as err:
            raise ValueError(f"{kind}: {err}") from err
        if image.height and (header.height, header.width) != (image.height, image.width):
            raise ValueError(
                f"{kind} {mask.name!r} is {header.width}x{header.height}, "
                f"its frame {image.width}x{image.height}"
            )


def _required(cells: Cells, names: tuple[str, ...]) -> str:
    if text := cell(cells, names):
        return text
    raise ValueError(f"{names[0]} is empty")


def _relative(path: Path, base: Path) -> str:
    """Return one name for a file however the table spells its path."""
    path, base = path.resolve().with_suffix(""), base.resolve()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _collimator(cells: Cells) -> tuple[int, int, int, int] | None:
    """Return what `mlkit angioseg import` wrote of a DICOM file's collimator.

    Raises:
        ValueError: It is not four whole numbers.
    """
    text = cell(cells, ("collimator",))
    if not text:
        return None
    try:
        top, bottom, left, right = (int(part) for part in text.split())
    except ValueError as err:
        raise ValueError(f"collimator: expected four whole numbers, got {text!r}") from err
    return top, bottom, left, right


def _without_names(named: _Named, header: Header, base: Path) -> _Named:
    """Return a DICOM file's row with the file's hash for its name, which may name a patient."""
    if header.cine is None:
        return named
    code, stem = header.cine.uid_hash, named.image.stem
    own = (stem, _relative(named.image, base))
    return replace(
        named,
        key=named.key.replace(stem, code),
        cine=code if named.cine in own else named.cine,
        patient=code if named.patient in own else named.patient,
    )


def _frame_index(cells: Cells, header: Header) -> int | None:
    """Return the frame's index in a cine, None for a picture.

    Where the table says none, a DICOM file's own representative frame is taken.

    Raises:
        ValueError: No whole number, or outside the cine; it is never moved into it.
    """
    if header.frames is None:
        return None
    text = cell(cells, ("frame_index",))
    if not text and header.cine is not None and header.cine.representative is not None:
        return header.cine.representative
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if number != int(number):
        raise ValueError(f"frame_index: expected a whole number, got {text!r}")
    if not 0 <= number < header.frames:
        raise ValueError(
            f"frame_index {int(number)} is outside the cine's {header.frames} frames (from 0)"
        )
    return int(number)
