"""What every layout is read as: frames with what is known of them, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_angioseg.frames.rows import Problems


@dataclass(frozen=True)
class Outline:
    """Polygons of one class: `label` from 1, rings of `(x, y)` in pixels, corner of the image 0."""

    label: int
    rings: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True, kw_only=True)
class FoundFrame:
    """One frame to import.

    Args:
        where: The file, and what in it, for errors.
        name: Of the files that are written, without suffix; nothing of a patient.
        image: A picture or a DICOM file.
        frame: Index in the cine, from 0; None for a picture.
        size: Height and width, pixels.
        mask: A picture of the frame's size, None where there is none.
        outlines: Polygons that a mask is drawn from.
        patient: Frames of one patient share a split.
        cine: Frames of one cine look alike.
        split: That the source itself names, "" where it does not.
        angles: Primary and secondary in degrees, DICOM signs.
        spacing_mm: Millimetres per pixel, rows and columns.
        spacing_at: As `CineHeader.spacing_at`.
        frame_ms: Duration of a frame.
        collimator: As `CineHeader.collimator`.
        mask_source: "manual" or "pseudo" of the mask, "" where it is not said.
    """

    where: str
    name: str
    image: Path
    frame: int | None
    size: tuple[int, int]
    patient: str
    cine: str
    mask: Path | None = None
    outlines: tuple[Outline, ...] = ()
    split: str = ""
    angles: tuple[float, float] | None = None
    spacing_mm: tuple[float, float] | None = None
    spacing_at: str = ""
    frame_ms: float | None = None
    collimator: tuple[int, int, int, int] | None = None
    mask_source: str = ""

    @property
    def is_labelled(self) -> bool:
        """Whether there is a mask or something to draw one from."""
        return self.mask is not None or bool(self.outlines)


@dataclass(kw_only=True)
class Found:
    """All frames of a source, and what is worth telling of them.

    Args:
        frames: In a fixed order.
        classes: Names of the labels from 1; empty where masks are binary.
        notes: Sentences for the user.
        left_out: What was not imported, to its number.
        knows_patients: Whether the source says which frames are of one patient.
    """

    frames: list[FoundFrame] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    knows_patients: bool = True

    def leave_out(self, what: str, count: int = 1) -> None:
        """Note that something was not imported."""
        self.left_out[what] = self.left_out.get(what, 0) + count


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a source is read.

    Args:
        frames: "labelled", "all", "best" (of each DICOM cine the one with most contrast), or
            "auto": labelled where there are masks, else all.
        masks: Folder of mask pictures; None: where the layout has them.
        images: Folder that COCO's file names start from; None: by the layout.
        first_frame: The number, 0 or 1, that file names of masks give to a cine's first frame.
        patient: Pattern whose first group, in a picture's path, is the patient.
        secret: Keys the hash of patients' ids; None: patients are named after a cine.
        keeps_classes: Whether polygons keep their classes.
    """

    frames: str = "auto"
    masks: Path | None = None
    images: Path | None = None
    first_frame: int = 0
    patient: str | None = None
    secret: bytes | None = None
    keeps_classes: bool = False


def check_names(frames: Sequence[FoundFrame], problems: Problems) -> None:
    """Note every two frames that would be written under one name."""
    seen: dict[str, str] = {}
    for frame in frames:
        key = frame.name.casefold()  # file systems of two kinds do not tell A from a
        if key in seen:
            problems.add(frame.where, f"would be written as {frame.name!r}, as {seen[key]}")
        seen.setdefault(key, frame.where)
