"""What an XA cine's header tells: frames, angles, timing, spacing; no pixel is read.

Nothing that names a patient is kept: a cine is known by a hash of its SOP instance UID.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError, PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

XA, ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.1.1"
_XRF = "1.2.840.10008.5.1.4.1.1.12.2"
_SAME_DEG = 1e-6


@dataclass(frozen=True, kw_only=True)
class CineHeader:
    """An XA cine.

    Args:
        uid_hash: First 16 hexadecimal digits of the SHA-256 of its SOP instance UID.
        frames: Number of frames.
        size: Height and width, pixels.
        angles: Primary and secondary of each frame in degrees, DICOM signs; None where the file
            does not say.
        frame_ms: Duration of a frame in milliseconds, None where the file does not say.
        representative: Frame that the file names as its best one, from 0; None where it does not.
        spacing_mm: Millimetres per pixel, rows and columns; None where the file does not say.
        spacing_at: "isocentre" (imager spacing scaled by SOD / SID), "calibrated" (pixel spacing
            with a calibration), "detector" (imager spacing alone: too large by SID / SOD), or "".
        is_inverted: MONOCHROME1: the least value is white.
        bits: Bits stored.
        collimator: Top, bottom, left and right edges of what the shutters leave open, pixels, last
            row and column included; None where they are not said.
    """

    uid_hash: str
    frames: int
    size: tuple[int, int]
    angles: tuple[tuple[float, float], ...] | None
    frame_ms: float | None
    representative: int | None
    spacing_mm: tuple[float, float] | None
    spacing_at: str
    is_inverted: bool
    bits: int
    collimator: tuple[int, int, int, int] | None


def is_dicom(path: Path) -> bool:
    """Return whether a file has DICOM's mark at byte 128."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dataset(path: Path, *, pixels: bool) -> Any:  # noqa: ANN401  # pydicom's dataset
    """Return pydicom's dataset of an XA file.

    Raises:
        PluginError: pydicom is not installed.
        DataError: The file is no DICOM, is cut short, or is no XA or XRF cine.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-angioseg[dicom]'"
        raise PluginError(f"{path.name}: pydicom is not installed", hint=hint) from err
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError) as err:
        raise DataError(f"{path}: cannot be read as DICOM: {err}") from err
    kind = str(dataset.get("SOPClassUID", ""))
    if kind == ENHANCED_XA:
        hint = "export the run as plain XA Image Storage (most workstations offer both)"
        raise DataError(f"{path}: Enhanced XA is not read", hint=hint)
    if kind not in (XA, _XRF):
        raise DataError(f"{path}: expected an X-ray angiogram, got SOP class {kind or 'none'}")
    return dataset


def read_header(path: Path) -> CineHeader:
    """Return the header of an XA cine.

    Raises:
        DataError: As `read_dataset`, or the file has no size or contradicts itself.
        PluginError: pydicom is not installed.
    """
    dataset = read_dataset(path, pixels=False)
    try:
        return _header(dataset)
    except (ValueError, TypeError, AttributeError) as err:
        raise DataError(f"{path}: its header cannot be used: {err}") from err


def _header(dataset: Any) -> CineHeader:  # noqa: ANN401  # pydicom's dataset
    frames = int(dataset.get("NumberOfFrames") or 1)
    height, width = int(dataset.Rows), int(dataset.Columns)
    spacing, where = _spacing(dataset)
    best = _number(dataset, "RepresentativeFrameNumber")
    uid = str(dataset.get("SOPInstanceUID", "")).encode()
    return CineHeader(
        uid_hash=hashlib.sha256(uid).hexdigest()[:16],
        frames=frames,
        size=(height, width),
        angles=_angles(dataset, frames),
        frame_ms=_frame_ms(dataset),
        representative=int(best) - 1 if best is not None and 1 <= best <= frames else None,
        spacing_mm=spacing,
        spacing_at=where,
        is_inverted=str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1",
        bits=int(dataset.get("BitsStored") or 8),
        collimator=_collimator(dataset, height, width),
    )


def _number(dataset: Any, keyword: str) -> float | None:  # noqa: ANN401  # pydicom's dataset
    """Return an element's number; None where it is missing or empty, which both occur."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{keyword} is {number}")
    return number


def _numbers(dataset: Any, keyword: str) -> list[float]:  # noqa: ANN401  # pydicom's dataset
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return [float(v) for v in value] if _is_many(value) else [float(value)]


def _is_many(value: object) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str)


def _angles(dataset: Any, frames: int) -> tuple[tuple[float, float], ...] | None:  # noqa: ANN401  # pydicom's dataset
    primary = _number(dataset, "PositionerPrimaryAngle")
    secondary = _number(dataset, "PositionerSecondaryAngle")
    if primary is None and secondary is None:
        return None
    if primary is None or secondary is None:
        missing = "PositionerPrimaryAngle" if primary is None else "PositionerSecondaryAngle"
        raise ValueError(f"{missing} is empty, the other angle is not")
    if abs(primary) > 180 or abs(secondary) > 90:
        raise ValueError(f"angles {primary:g}/{secondary:g} are out of range: ±180 and ±90")
    moves = str(dataset.get("PositionerMotion", "")).upper() == "DYNAMIC"
    turns = (
        moved_angles(primary, _numbers(dataset, "PositionerPrimaryAngleIncrement"), frames, moves),
        moved_angles(
            secondary, _numbers(dataset, "PositionerSecondaryAngleIncrement"), frames, moves
        ),
    )
    return tuple(zip(*turns, strict=True))


def moved_angles(
    start: float, increments: Sequence[float], frames: int, moves: bool
) -> list[float]:
    """Return the angle of each frame, degrees.

    Source: DICOM PS3.3 C.8.7.5: increments are the change from frame to frame. One value holds for
    every step; with one value for each frame, the first is the first frame's own, mostly 0.

    Raises:
        ValueError: A moving positioner whose increments fit neither way.
    """
    if not moves or not increments:
        return [start] * frames
    if len(increments) == 1:
        return [start + increments[0] * frame for frame in range(frames)]
    if len(increments) not in (frames, frames - 1):
        raise ValueError(f"{len(increments)} angle increments for {frames} frames")
    steps = list(increments) if len(increments) == frames else [0.0, *increments]
    angle, found = start, list[float]()
    for step in steps:
        angle += step
        found.append(angle)
    return found


def _frame_ms(dataset: Any) -> float | None:  # noqa: ANN401  # pydicom's dataset
    own = _number(dataset, "FrameTime")
    if own:
        return own
    steps = [v for v in _numbers(dataset, "FrameTimeVector")[1:] if v > 0]
    if steps:
        return sum(steps) / len(steps)
    rate = _number(dataset, "CineRate") or _number(dataset, "RecommendedDisplayFrameRate")
    return 1000.0 / rate if rate else None


def _spacing(dataset: Any) -> tuple[tuple[float, float] | None, str]:  # noqa: ANN401  # pydicom's dataset
    calibrated = _numbers(dataset, "PixelSpacing")
    imager = _numbers(dataset, "ImagerPixelSpacing")
    if len(calibrated) == 2 and calibrated != imager:
        return (calibrated[0], calibrated[1]), "calibrated"
    if len(imager) != 2 or min(imager) <= 0:
        return None, ""
    source = _number(dataset, "DistanceSourceToPatient")
    detector = _number(dataset, "DistanceSourceToDetector")
    if not source or not detector:
        return (imager[0], imager[1]), "detector"
    scale = source / detector
    return (imager[0] * scale, imager[1] * scale), "isocentre"


def _collimator(dataset: Any, height: int, width: int) -> tuple[int, int, int, int] | None:  # noqa: ANN401  # pydicom's dataset
    """Return what rectangular collimator and shutter both leave open, clipped to the image."""
    top, bottom, left, right, said = 0, height - 1, 0, width - 1, False
    for kind in ("Collimator", "Shutter"):
        sides = (
            "UpperHorizontalEdge",
            "LowerHorizontalEdge",
            "LeftVerticalEdge",
            "RightVerticalEdge",
        )
        edges = [_number(dataset, f"{kind}{side}") for side in sides]
        if any(edge is None for edge in edges):
            continue
        # DICOM counts rows and columns from 1, and the edge itself is outside.
        upper, lower, west, east = (int(edge or 0) for edge in edges)
        if upper >= lower or west >= east:
            continue
        top, bottom = max(top, upper), min(bottom, lower - 2)
        left, right, said = max(left, west), min(right, east - 2), True
    return (top, bottom, left, right) if said and top < bottom and left < right else None


def describe(header: CineHeader) -> dict[str, object]:
    """Return plain values for reports and tables; nothing names a patient."""
    first = header.angles[0] if header.angles else (None, None)
    moving = header.angles is not None and any(
        abs(a - b) > _SAME_DEG
        for pair in header.angles
        for a, b in zip(pair, first, strict=True)  # pyright: ignore
    )
    return {
        "cine": header.uid_hash,
        "frames": header.frames,
        "height": header.size[0],
        "width": header.size[1],
        "primary_angle": first[0],
        "secondary_angle": first[1],
        "positioner_moves": moving,
        "frame_ms": header.frame_ms,
        "spacing_mm": list(header.spacing_mm) if header.spacing_mm else None,
        "spacing_at": header.spacing_at or None,
        "bits": header.bits,
        "collimator": list(header.collimator) if header.collimator else None,
    }
