"""Masks as a DICOM Segmentation: read back by highdicom and pydicom, and nobody's name in it."""

from __future__ import annotations

import sys

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_kit import XA, write_cine
from PIL import Image
from pydicom.uid import generate_uid

from mlkit_angioseg.cines.predicting import Wanted, predict_cine
from mlkit_angioseg.dicom.segmentation import SegmentedBy, packed_bits, write_segmentation
from mlkit_angioseg.dicom.segmented import segmented_cine
from mlkit_core import load_run
from mlkit_core.errors import DataError, InputError, PluginError

STUDY, SERIES = generate_uid(), generate_uid()
NAMED = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711-X",
    "PatientBirthDate": "19430217",
    "PatientAddress": "Elm Street 12",
    "OtherPatientIDs": "OTHER-99",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "Saint Elsewhere",
    "InstitutionAddress": "Boston Road",
    "ReferringPhysicianName": "House^Gregory",
    "PerformingPhysicianName": "Wilson^James",
    "OperatorsName": "Chase^Robert",
    "StudyID": "STUDY-77",
    "StudyDate": "20190311",
    "StudyTime": "091733",
    "StudyDescription": "Angiography of Jane",
    "SeriesDescription": "LCA of Jane",
    "StationName": "CATHLAB-3",
    "DeviceSerialNumber": "SN-5551",
    "PatientComments": "knows Jane",
}
BY = SegmentedBy(checkpoint="step-00000007-end", threshold=0.35)


@pytest.fixture
def source(tmp_path):
    frames = np.zeros((4, 5, 7), np.uint8)
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
    return write_cine(tmp_path / "Doe_Jane.dcm", frames, **uids, **NAMED)


@pytest.fixture
def masks():
    """Four frames of 35 pixels, no multiple of 8; the third is empty."""
    drawn = np.random.default_rng(3).random((4, 5, 7)) < 0.4
    drawn[2] = False
    return drawn


@pytest.fixture
def written(source, masks, tmp_path):
    path = tmp_path / "segmentation.dcm"
    write_segmentation(path, segmented_cine(source), masks, BY)
    return path


def test_bits_run_on_from_frame_to_frame_with_the_lowest_first():
    first = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], bool)  # bits 0 and 9
    second = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)  # bit 10 + 1
    assert packed_bits([first, second]) == bytes([0b1, 0b1010, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (7, 9)])
def test_packing_agrees_with_pydicoms(size):
    from pydicom.pixels.utils import pack_bits

    drawn = np.random.default_rng(1).random((5, *size)) < 0.5
    assert packed_bits(drawn) == pack_bits(drawn.astype(np.uint8), pad=True)


def test_highdicom_reads_back_each_frames_own_mask(written, source, masks):
    read = highdicom.seg.segread(written)
    uid = pydicom.dcmread(source).SOPInstanceUID
    found = read.get_pixels_by_source_frame(
        source_sop_instance_uid=uid, source_frame_numbers=[1, 2, 3, 4]
    )
    np.testing.assert_array_equal(found[..., 0], masks)
    alone = read.get_pixels_by_source_frame(source_sop_instance_uid=uid, source_frame_numbers=[4])
    np.testing.assert_array_equal(alone[0, ..., 0], masks[3])


def test_pydicom_reads_back_the_same_and_an_empty_frame_is_kept(written, masks):
    found = pydicom.dcmread(written).pixel_array
    np.testing.assert_array_equal(found, masks)
    assert not found[2].any()


def test_every_frame_references_the_cines_frame_of_its_number(written, source):
    dataset, cine = pydicom.dcmread(written), pydicom.dcmread(source)
    assert dataset.StudyInstanceUID == STUDY
    assert dataset.SeriesInstanceUID != SERIES
    assert dataset.SOPInstanceUID not in (cine.SOPInstanceUID, "")
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    numbers = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPClassUID == XA
        assert reference.ReferencedSOPInstanceUID == cine.SOPInstanceUID
        numbers.append(reference.ReferencedFrameNumber)
        assert frame.FrameContentSequence[0].DimensionIndexValues == [1, numbers[-1]]
    assert numbers == [1, 2, 3, 4]


def test_the_segment_says_what_it_is_and_who_made_it(written):
    (segment,) = highdicom.seg.segread(written).SegmentSequence
    assert segment.segmented_property_type == highdicom.sr.CodedConcept(
        "41801008", "SCT", "Coronary artery"
    )
    assert segment.algorithm_type.value == "AUTOMATIC"
    assert segment.SegmentAlgorithmName == "mlkit step-00000007-end"
    assert segment.SegmentDescription == "Probability of vessel at least 0.35"


def test_nothing_that_names_a_patient_is_in_the_files_bytes(written, source):
    content = written.read_bytes().lower()
    assert b"doe" in source.read_bytes().lower()
    words = {part for value in NAMED.values() for part in value.lower().replace("^", " ").split()}
    words -= {"of", "angiography"}
    assert not [word for word in words if len(word) > 2 and word.encode() in content]
    assert str(source.parent).lower().encode() not in content
    dataset = pydicom.dcmread(written)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert dataset[keyword].is_empty


def test_a_lossy_cine_makes_a_lossy_segmentation(source, masks, tmp_path):
    cine = pydicom.dcmread(source)
    cine.LossyImageCompression, cine.LossyImageCompressionRatio = "01", "9.5"
    cine.LossyImageCompressionMethod = "ISO_10918_1"
    cine.save_as(source)
    write_segmentation(tmp_path / "s.dcm", segmented_cine(source), masks, BY)
    dataset = pydicom.dcmread(tmp_path / "s.dcm")
    assert dataset.LossyImageCompression == "01"
    assert dataset.LossyImageCompressionRatio == 9.5
    assert dataset.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's own
def test_a_cine_without_valid_uids_is_refused_and_a_wrong_one_is_not_quoted(tmp_path):
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": None}
    path = write_cine(tmp_path / "a.dcm", **uids)
    with pytest.raises(DataError, match="SeriesInstanceUID is missing"):
        segmented_cine(path)
    path = write_cine(tmp_path / "b.dcm", StudyInstanceUID="Doe", SeriesInstanceUID=SERIES)
    with pytest.raises(DataError, match="StudyInstanceUID is no UID") as caught:
        segmented_cine(path)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.zeros((3, 5, 7), bool), np.zeros((4, 7, 5), bool)])
def test_masks_that_do_not_fit_the_cine_leave_no_file(source, wrong, tmp_path):
    with pytest.raises(ValueError, match=r"masks for 4 frames|mask 0 is \(7, 5\)"):
        write_segmentation(tmp_path / "s.dcm", segmented_cine(source), wrong, BY)
    assert not list(tmp_path.glob("*s.dcm*"))


def test_what_is_no_dicom_file_is_refused_before_anything_is_predicted(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path):
        with pytest.raises(InputError, match="only a DICOM file") as caught:
            predict_cine(tmp_path / "run", path, tmp_path / "out", Wanted(write_dicom_seg=True))
        assert "--dicom-seg" in caught.value.hint
        assert caught.value.exit_code == 2
    with pytest.raises(DataError, match="no such file"):
        segmented_cine(tmp_path / "missing.dcm")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named_before_anything_is_predicted(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(PluginError, match="not installed") as caught:
        predict_cine(tmp_path / "run", source, tmp_path / "out", Wanted(write_dicom_seg=True))
    assert caught.value.hint == "pip install 'mlkit-angioseg[seg]'"
    assert not (tmp_path / "out").exists()


RUN_FILE = """
name: tiny
data: {name: angio-frames, root: data, size: 32, augment: false}
model:
  encoders: {image: {name: conv-stem, dim: 4, stride: 2, norm: group}}
  head: {name: conv-mask, dim: 4, hidden: [4, 4], norm: group}
losses: [{name: bce}]
metrics: [{name: mask-overlap, resamples: 0}]
trainer: {epochs: 1, batch_size: 2, monitor: mask-overlap.dice}
"""


def test_a_predicted_cine_has_the_masks_of_its_pictures(tmp_path, monkeypatch, one_thread):
    from mlkit_angioseg.phantom import write_phantom
    from mlkit_cli.main import main

    monkeypatch.chdir(tmp_path)
    write_phantom(tmp_path / "data", trees=2, views_per_tree=1, size=32, split=(0.5, 0.5, 0))
    (tmp_path / "tiny.yaml").write_text(RUN_FILE)
    run = load_run("tiny.yaml")
    run.fit()
    frames = np.random.default_rng(0).integers(0, 256, (3, 31, 33), np.uint8)
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}
    path = write_cine(tmp_path / "c.dcm", frames, **uids)
    options = ["--run", str(run.folder), "-o", "out", "--threshold", "0.04", "--no-video"]
    assert main(["angioseg", "predict", str(path), *options, "--dicom-seg"]) == 0
    pictures = [
        np.asarray(Image.open(tmp_path / f"out/masks/frame-{i:05d}.png")) > 0 for i in range(3)
    ]
    found = highdicom.seg.segread(tmp_path / "out/segmentation.dcm").pixel_array
    np.testing.assert_array_equal(found, pictures)
