"""Turns one row of a table into a frame, noting everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.frames.angles import agree, read_json_angles, to_dicom
from mlkit_angioseg.frames.csvfile import Cells, cell
from mlkit_angioseg.frames.headers import Header, Headers
from mlkit_angioseg.frames.rows import FrameRow, Problems
from mlkit_angioseg.frames.splits import choose_split

if TYPE_CHECKING:
    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.frames.angles import Angles

CINE = ("cine_path",)
IMAGE = ("image", "file", "filename")
MASKS = {
    "manual": ("vessel_mask_actual_path", "mask_path"),
    "pseudo": ("deepsa_pseudo_label_path",),
}
SOURCES = {"manual": ("manual",), "pseudo": ("pseudo",), "prefer_manual": ("manual", "pseudo")}
_PATIENT = ("patient", "patient_id")
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


class RowReader:
    """Reads the rows of one table.

    Args:
        options: The data's options.
        base: What relative paths start from.
        needs_angles: Whether missing angles are a problem.
    """

    def __init__(self, options: AngioFramesConfig, base: Path, *, needs_angles: bool) -> None:
        self.options, self.base, self.needs_angles = options, base, needs_angles
        self.problems, self.headers, self.dropped = Problems(), Headers(), 0

    def cine_row(self, where: str, cells: Cells) -> FrameRow | None:
        """Return the frame of a row with cine, mask and JSON paths; None if it cannot be used.

        Raises:
            ValueError: The row names no cine.
        """
        image = self.base / _required(cells, CINE)
        source, mask = self._mask_cell(cells)
        cine, case = _relative(image, self.base), cell(cells, ("case_id",))
        contours = cell(cells, ("contours_path",))
        named = _Named(
            key="/".join(filter(None, (case, image.stem, cell(cells, ("cass_segment",))))),
            image=image,
            mask=self.base / mask if mask else None,
            mask_source=source,
            contours=self.base / contours if contours else None,
            cine=cine,
            patient=cell(cells, _PATIENT) or case or cine,
        )
        return self._row(where, cells, named)

    def picture_row(self, where: str, cells: Cells) -> FrameRow | None:
        """Return the frame of a row that names a picture; None if it cannot be used.

        Raises:
            ValueError: The row names no picture.
        """
        name = _required(cells, IMAGE)
        cine = cell(cells, ("cine",)) or Path(name).stem
        mask = cell(cells, ("mask",)) or self._mask_of(name)
        named = _Named(
            key=str(Path(name).with_suffix("")),
            image=self.base / self.options.images / name,
            mask=self.base / self.options.masks / mask,
            cine=cine,
            patient=cell(cells, _PATIENT) or cine,
        )
        return self._row(where, cells, named)

    def _row(self, where: str, cells: Cells, named: _Named) -> FrameRow | None:
        before, header, frame, split = len(self.problems.lines), Header(0, 0), None, ""
        with self.problems.at(where):
            header = self.headers.image(named.image)
            frame = _frame_index(cells, header)
        with self.problems.at(where):
            self._check_mask(named.mask, header)
        angles = self._angles(where, cells, named.contours, header, frame)
        with self.problems.at(where):
            split = choose_split(cells, named.patient, self.options)
        dropped = angles is None and self.needs_angles and self.options.on_missing_angle == "drop"
        if len(self.problems.lines) > before or named.mask is None or dropped:
            self.dropped += dropped
            return None
        # A hospital's file names may name a patient: of a DICOM file the hash stands for it.
        hashed = header.cine.uid_hash if header.cine is not None else named.image.stem
        key = named.key.replace(named.image.stem, hashed)
        return FrameRow(
            where=where,
            key=key if frame is None else f"{key}#{frame}",
            image=named.image,
            frame=frame,
            mask=named.mask,
            mask_source=named.mask_source,
            size=(header.height, header.width),
            angles=angles,
            split=split,
            cine=named.cine,
            patient=named.patient,
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

    def _mask_cell(self, cells: Cells) -> tuple[str, str]:
        for source in SOURCES[self.options.mask_source]:
            if path := cell(cells, MASKS[source]):
                return source, path
        return "", ""

    def _mask_of(self, image: str) -> str:
        """Return the mask with the image's name; its ending may differ."""
        folder = self.base / self.options.masks
        for ending in dict.fromkeys((Path(image).suffix, ".png", ".npy")):
            if (folder / Path(image).with_suffix(ending)).is_file():
                return str(Path(image).with_suffix(ending))
        return image

    def _check_mask(self, mask: Path | None, image: Header) -> None:
        if mask is None:
            raise ValueError(f"mask is missing (mask_source: {self.options.mask_source})")
        try:
            header = self.headers.mask(mask)
        except ValueError as err:
            raise ValueError(f"mask: {err}") from err
        if image.height and (header.height, header.width) != (image.height, image.width):
            raise ValueError(
                f"mask {mask.name!r} is {header.width}x{header.height}, "
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
