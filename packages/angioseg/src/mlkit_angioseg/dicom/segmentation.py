"""Masks of a cine as a DICOM Segmentation (extra `seg`): what a PACS shows on top of the cine.

Written by pydicom, not by highdicom, whose segmentation of a cine needs planes in the patient's
coordinates. A projection has none, and invented ones would be false.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from mlkit_angioseg.dicom.segmented import SegmentedCine

_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_SERIES_NUMBER = 900  # behind the examination's own series
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
    *("ContentCreatorName", "PatientOrientation"),
)


@dataclass(frozen=True, kw_only=True)
class SegmentedBy:
    """Who made the masks.

    Args:
        checkpoint: Name of the model's checkpoint.
        threshold: Probability from which a pixel is vessel.
    """

    checkpoint: str
    threshold: float


def write_segmentation(
    path: Path, cine: SegmentedCine, masks: Iterable[NDArray[np.bool_]], by: SegmentedBy
) -> None:
    """Write the masks of all frames of a cine as one binary DICOM Segmentation.

    Frame k of the file is frame k of the cine, frames without vessel included, and names it by
    SOP instance UID and frame number. Patient, accession, dates of the study and physician are
    empty; UIDs of study, series and instance are the cine's own.

    Source: DICOM PS3.3 A.51: without a frame of reference each pixel is the referenced image's
    pixel at the same place; PS3.5 8.1.1: bits follow each other without padding between frames.

    Args:
        path: Replaced when all is written.
        cine: What the masks belong to.
        masks: `[H, W]`, one for each frame, in order.
        by: Who made them.

    Raises:
        ValueError: A mask has another size than the cine, or there are more or fewer than frames.
    """
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = _instance(cine)
    _add_image(dataset, cine)
    dataset.SegmentSequence = [_segment(by)]
    _add_frames(dataset, cine)
    dataset.PixelData = packed_bits(_checked(masks, cine))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    aside = path.with_name(f".{path.name}.part")
    dataset.save_as(aside, enforce_file_format=True)
    aside.replace(path)


def packed_bits(masks: Iterable[NDArray[np.bool_]]) -> bytes:
    """Return pixels as bits, lowest bit first, frames without a gap, of even length at the end."""
    chunks: list[bytes] = []
    rest = np.zeros(0, bool)
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()])
        whole = len(bits) // 8 * 8
        chunks.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        rest = bits[whole:]
    chunks.append(np.packbits(rest, bitorder="little").tobytes())
    data = b"".join(chunks)
    return data + b"\0" * (len(data) % 2)


def _checked(
    masks: Iterable[NDArray[np.bool_]], cine: SegmentedCine
) -> Iterable[NDArray[np.bool_]]:
    count = 0
    for mask in masks:
        if mask.shape != cine.size:
            raise ValueError(f"mask {count} is {mask.shape}, the cine's frames are {cine.size}")
        count += 1
        yield mask
    if count != cine.frames:
        raise ValueError(f"{count} masks for {cine.frames} frames")


def _instance(cine: SegmentedCine) -> Dataset:
    """Return a new object of the cine's study without anything that tells whose study it is."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import generate_uid

    dataset = Dataset()
    for keyword in _EMPTY:
        setattr(dataset, keyword, None)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = _STORAGE, generate_uid(prefix=None)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = cine.study, generate_uid(prefix=None)
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "SEG", _SERIES_NUMBER, 1
    dataset.SeriesDescription = "Coronary vessels (mlkit)"
    # DICOM wants a serial number of whatever made the object; software has none.
    dataset.Manufacturer, dataset.ManufacturerModelName = "mlkit", "mlkit-angioseg"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "none", version("mlkit-angioseg")
    now = datetime.now()
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.file_meta = FileMetaDataset()
    series = Dataset()
    series.SeriesInstanceUID = cine.series
    series.ReferencedInstanceSequence = [_reference(cine)]
    dataset.ReferencedSeriesSequence = [series]
    return dataset


def _add_image(dataset: Dataset, cine: SegmentedCine) -> None:
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = 1, 1
    dataset.HighBit, dataset.PixelRepresentation = 0, 0
    (dataset.Rows, dataset.Columns), dataset.NumberOfFrames = cine.size, cine.frames
    dataset.LossyImageCompression = "01" if cine.is_lossy else "00"
    if cine.is_lossy and len(cine.lossy_methods) == len(cine.lossy_ratios) > 0:
        dataset.LossyImageCompressionMethod = list(cine.lossy_methods)
        dataset.LossyImageCompressionRatio = [f"{ratio:.6g}" for ratio in cine.lossy_ratios]
    dataset.SegmentationType, dataset.SegmentsOverlap = "BINARY", "NO"
    dataset.ContentLabel, dataset.ContentDescription = "VESSELS", "Coronary vessels of each frame"


def _segment(by: SegmentedBy) -> Dataset:
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "Coronary vessels"
    segment.SegmentDescription = f"Probability of vessel at least {by.threshold:g}"
    segment.SegmentAlgorithmType = "AUTOMATIC"
    # A backslash parts values in DICOM, and a long string ends at 64 characters.
    segment.SegmentAlgorithmName = f"mlkit {by.checkpoint}".replace("\\", "/")[:64]
    segment.SegmentedPropertyCategoryCodeSequence = [_code(codes.cid7150.AnatomicalStructure)]
    segment.SegmentedPropertyTypeCodeSequence = [_code(codes.SCT.CoronaryArtery)]
    return segment


def _add_frames(dataset: Dataset, cine: SegmentedCine) -> None:
    """Say of each frame where it stands in time and which frame of the cine it belongs to."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid(prefix=None)
    dataset.DimensionOrganizationSequence = [organization]
    dataset.DimensionIndexSequence = [
        _dimension(organization.DimensionOrganizationUID, *pointers)
        for pointers in (
            ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
            ("TemporalPositionIndex", "FrameContentSequence"),
        )
    ]
    segment, shared = Dataset(), Dataset()
    segment.ReferencedSegmentNumber = 1
    shared.SegmentIdentificationSequence = [segment]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame(cine, number) for number in range(1, cine.frames + 1)
    ]


def _dimension(organization: str, attribute: str, group: str) -> Dataset:
    from pydicom import Dataset
    from pydicom.datadict import tag_for_keyword

    index = Dataset()
    index.DimensionOrganizationUID = organization
    index.DimensionIndexPointer = tag_for_keyword(attribute)
    index.FunctionalGroupPointer = tag_for_keyword(group)
    return index


def _frame(cine: SegmentedCine, number: int) -> Dataset:
    from pydicom import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    content, derivation, source = Dataset(), Dataset(), _reference(cine)
    content.DimensionIndexValues, content.TemporalPositionIndex = [1, number], number
    source.ReferencedFrameNumber = number
    source.SpatialLocationsPreserved = "YES"
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    source.PurposeOfReferenceCodeSequence = [_code(purpose)]
    derivation.SourceImageSequence = [source]
    derivation.DerivationCodeSequence = [_code(Code("113076", "DCM", "Segmentation"))]
    frame = Dataset()
    frame.FrameContentSequence, frame.DerivationImageSequence = [content], [derivation]
    return frame


def _reference(cine: SegmentedCine) -> Dataset:
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = cine.sop_class
    reference.ReferencedSOPInstanceUID = cine.instance
    return reference


def _code(code: Any) -> Dataset:  # noqa: ANN401  # pydicom's code
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
