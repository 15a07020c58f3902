"""XA cines as pydicom writes them, for tests."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

XA = "1.2.840.10008.5.1.4.1.1.12.1"


def write_cine(path, frames=None, *, sop_class=XA, **elements):
    """Write an XA cine of `frames [T, H, W]`; an element given as None is left empty."""
    if frames is None:
        frames = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID = "Doe^Jane", "4711"
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape
    bits = 8 * frames.dtype.itemsize
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    ds.PositionerPrimaryAngle, ds.PositionerSecondaryAngle = "-29.3", "25.5"
    ds.PixelData = frames.tobytes()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    if "BitsStored" in elements:
        ds.HighBit = elements["BitsStored"] - 1
    ds.save_as(path, enforce_file_format=True)
    return path
