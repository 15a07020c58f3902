"""What a DICOM Segmentation has to know of the cine that it belongs to, and nothing else of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_angioseg.dicom.header import is_dicom, read_dataset
from mlkit_core.errors import DataError, InputError, PluginError

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset


@dataclass(frozen=True, kw_only=True)
class SegmentedCine:
    """What a segmentation has to know of its cine, and all that it may: nobody's name is here.

    Args:
        sop_class: UID of the kind of object.
        instance: SOP instance UID.
        study: Study instance UID, which the segmentation shares.
        series: Series instance UID of the cine.
        frames: Number of frames.
        size: Height and width, pixels.
        lossy_methods: Code of each lossy compression that the cine went through.
        lossy_ratios: Compression ratio of each, where the file says it.
        is_lossy: Whether the cine says that it was compressed with loss.
    """

    sop_class: str
    instance: str
    study: str
    series: str
    frames: int
    size: tuple[int, int]
    lossy_methods: tuple[str, ...] = ()
    lossy_ratios: tuple[float, ...] = ()
    is_lossy: bool = False


def segmented_cine(path: Path) -> SegmentedCine:
    """Return what a segmentation references of a cine.

    Raises:
        PluginError: The extra `seg` is not installed.
        InputError: The file is no DICOM.
        DataError: There is no such file, it is no XA cine, or it lacks a UID.
    """
    try:
        import pydicom  # noqa: F401  # told before anything is predicted
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-angioseg[seg]'"
        raise PluginError("DICOM segmentation: pydicom is not installed", hint=hint) from err
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not is_dicom(path):
        hint = "leave out --dicom-seg: masks/ holds the same masks as PNG"
        raise InputError(f"{path}: only a DICOM file gets a DICOM segmentation", hint=hint)
    dataset = read_dataset(path, pixels=False)
    try:
        return SegmentedCine(
            sop_class=str(dataset.SOPClassUID),
            instance=_uid(dataset, "SOPInstanceUID"),
            study=_uid(dataset, "StudyInstanceUID"),
            series=_uid(dataset, "SeriesInstanceUID"),
            frames=int(dataset.get("NumberOfFrames") or 1),
            size=(int(dataset.Rows), int(dataset.Columns)),
            is_lossy=str(dataset.get("LossyImageCompression", "")) == "01",
            lossy_methods=tuple(
                name
                for name in map(str, _values(dataset, "LossyImageCompressionMethod"))
                if re.fullmatch(r"ISO_[0-9_]+", name)
            ),
            lossy_ratios=tuple(map(float, _values(dataset, "LossyImageCompressionRatio"))),
        )
    except (ValueError, TypeError, AttributeError) as err:
        raise DataError(f"{path}: cannot be referenced by a segmentation: {err}") from err


def _uid(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword) or "")
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", value):
        # The value itself is not shown: it is not known what a broken file put there.
        raise ValueError(f"{keyword} is {'no UID' if value else 'missing'}")
    return value


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
