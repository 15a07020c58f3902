"""XA cines: angles, windows, inversion, bit depths, and what is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pydicom
import pytest
from dicom_kit import write_cine

from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.dicom.header import describe, moved_angles, read_header
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_core.errors import DataError
from mlkit_core.types import Needs


def test_the_header_holds_what_the_file_says_and_no_name(tmp_path):
    path = write_cine(
        tmp_path / "Doe_Jane.dcm",
        FrameTime="66.7",
        RepresentativeFrameNumber=2,
        ImagerPixelSpacing=["0.3", "0.3"],
        DistanceSourceToPatient="750",
        DistanceSourceToDetector="1000",
    )
    header = read_header(path)
    assert header.angles == ((-29.3, 25.5),) * 3
    assert (header.frame_ms, header.representative) == (66.7, 1)
    assert header.spacing_mm == pytest.approx((0.225, 0.225))  # 0.3 * 750 / 1000
    assert header.spacing_at == "isocentre"
    text = json.dumps(describe(header))
    assert "Doe" not in text
    assert "4711" not in text
    assert len(header.uid_hash) == 16


def test_a_moving_positioner_gives_each_frame_its_own_angles(tmp_path):
    path = write_cine(
        tmp_path / "c.dcm",
        PositionerMotion="DYNAMIC",
        PositionerPrimaryAngleIncrement=["0", "2", "3"],
        PositionerSecondaryAngleIncrement="-1",
    )
    found = read_header(path).angles
    np.testing.assert_allclose(found, [(-29.3, 25.5), (-27.3, 24.5), (-24.3, 23.5)])
    assert moved_angles(10, [1, 2], 3, True) == [10, 11, 13]
    assert moved_angles(10, [1, 2], 3, False) == [10, 10, 10]


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_angles_are_no_angles(tmp_path, empty):
    path = write_cine(
        tmp_path / "c.dcm", PositionerPrimaryAngle=empty, PositionerSecondaryAngle=empty
    )
    assert read_header(path).angles is None


def test_a_file_without_spacing_claims_none(tmp_path):
    header = read_header(write_cine(tmp_path / "c.dcm"))
    assert (header.spacing_mm, header.spacing_at) == (None, "")
    lone = read_header(write_cine(tmp_path / "d.dcm", ImagerPixelSpacing=["0.3", "0.3"]))
    assert lone.spacing_at == "detector"


def test_collimator_edges_are_outside_of_what_they_leave_open(tmp_path):
    path = write_cine(
        tmp_path / "c.dcm",
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=1,
        ShutterLowerHorizontalEdge=8,
        ShutterLeftVerticalEdge=2,
        ShutterRightVerticalEdge=7,
    )
    assert read_header(path).collimator == (1, 6, 2, 5)


def test_the_chosen_frame_is_read(tmp_path):
    frames = np.stack([np.full((8, 8), value, np.uint8) for value in (0, 51, 255)])
    path = write_cine(tmp_path / "c.dcm", frames)
    for index, grey in enumerate((0.0, 0.2, 1.0)):
        np.testing.assert_allclose(read_frame(path, index), grey, atol=1e-6)
    with pytest.raises(DataError, match="frame 3 of 3: it has 0 to 2"):
        read_frame(path, 3)


def test_twelve_bits_in_sixteen_are_scaled_by_twelve(tmp_path):
    frames = np.full((1, 8, 8), 4095, np.uint16)
    path = write_cine(tmp_path / "c.dcm", frames, BitsStored=12)
    np.testing.assert_allclose(read_frame(path, 0), 1.0)


def test_the_window_is_dicoms_linear_function(tmp_path):
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5); c 100, w 51: 74.5 is 0, 124.5 is 1.
    frames = np.array([[[74, 75, 99, 100, 124, 125, 0, 255]] * 8], np.uint8)
    path = write_cine(tmp_path / "c.dcm", frames, WindowCenter="100", WindowWidth="51")
    row = read_frame(path, 0)[0]
    np.testing.assert_allclose(row, [0, 0.01, 0.49, 0.51, 0.99, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(read_frame(path, 0, "full")[0, 0], 74 / 255, atol=1e-6)


def test_of_several_windows_the_first_is_taken(tmp_path):
    frames = np.full((1, 8, 8), 100, np.uint8)
    path = write_cine(
        tmp_path / "c.dcm", frames, WindowCenter=["100", "200"], WindowWidth=["51", "20"]
    )
    np.testing.assert_allclose(read_frame(path, 0), 0.51, atol=1e-6)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    frames = np.array([[[0, 255, 51, 0, 0, 0, 0, 0]] * 8], np.uint8)
    path = write_cine(tmp_path / "c.dcm", frames, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_frame(path, 0)[0, :3], [1, 0, 0.8], atol=1e-6)


def test_rescaling_comes_before_the_window(tmp_path):
    frames = np.full((1, 8, 8), 50, np.uint8)
    path = write_cine(
        tmp_path / "c.dcm",
        frames,
        RescaleSlope="2",
        RescaleIntercept="0",
        WindowCenter="100",
        WindowWidth="51",
    )
    np.testing.assert_allclose(read_frame(path, 0), 0.51, atol=1e-6)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"PositionerSecondaryAngle": None}, "PositionerSecondaryAngle is empty"),
        ({"PositionerPrimaryAngle": "200"}, "angles 200/25.5 are out of range"),
        (
            {
                "PositionerMotion": "DYNAMIC",
                "PositionerPrimaryAngleIncrement": ["1", "2", "3", "4", "5"],
            },
            "5 angle increments for 3 frames",
        ),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.12.1.1"}, "Enhanced XA is not read"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, "expected an X-ray angiogram"),
    ],
)
def test_headers_that_cannot_be_used_are_refused(tmp_path, elements, message):
    path = write_cine(tmp_path / "c.dcm", **elements)
    with pytest.raises(DataError, match=message):
        read_header(path)


def test_a_file_cut_short_says_which_frame_is_lost(tmp_path):
    path = write_cine(tmp_path / "c.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="frame 2 cannot be decoded"):
        read_frame(path, 2)


def test_a_cine_opens_with_its_own_angles_and_without_its_name(tmp_path):
    path = write_cine(tmp_path / "Doe_Jane.dcm")
    data = AngioFrames(tmp_path, size=16)
    data.bind({"image": Needs(), "view": Needs()})
    batches = list(data.open({"image": path}))
    assert len(batches) == 3
    np.testing.assert_allclose(batches[0].inputs["view"], [[-29.3, 25.5]], rtol=1e-6)
    assert "Doe" not in repr([batch.meta for batch in batches])
    assert batches[2].meta[0].key.endswith("#2")


def test_given_angles_stand_before_the_files(tmp_path):
    path = write_cine(tmp_path / "c.dcm")
    data = AngioFrames(tmp_path, size=16)
    data.bind({"image": Needs(), "view": Needs()})
    batch = next(data.open({"image": path, "view": "10,-20"}))
    np.testing.assert_allclose(batch.inputs["view"], [[10, -20]])


def test_a_cine_without_angles_asks_for_them(tmp_path):
    path = write_cine(
        tmp_path / "c.dcm", PositionerPrimaryAngle=None, PositionerSecondaryAngle=None
    )
    data = AngioFrames(tmp_path, size=16)
    data.bind({"image": Needs(), "view": Needs()})
    with pytest.raises(DataError, match="its angles are missing"):
        next(data.open({"image": path}))


def test_a_table_may_list_dicom_cines_that_bring_angles_and_frame(tmp_path):
    write_cine(tmp_path / "Doe.dcm", RepresentativeFrameNumber=2)
    mask = np.zeros((8, 8), bool)
    mask[2:4] = True
    np.save(tmp_path / "m.npy", mask)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["cine_path", "mask_path", "frame_index", "split"])
        writer.writerow(["Doe.dcm", "m.npy", "", "train"])
    data = AngioFrames(tmp_path, size=16)
    data.bind({"image": Needs(), "view": Needs()})
    (row,) = data.rows()
    assert (row.frame, row.angles) == (1, (-29.3, 25.5))
    assert "Doe" not in row.key
    sample = data.load(
        data.units("val", 0)[0][0] if row.split == "val" else data.units("train", 0)[0][0]
    )
    assert sample.inputs["image"].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("name", "angles", "frames"),
    [
        ("IM4", (0.1, 28.7), 10),
        ("IM6", (24.0, -18.8), 9),
        ("IM7", (-29.3, 25.5), 9),
        ("IM8", (30.7, 23.6), 8),
    ],
)
def test_real_cines_give_their_published_angles_and_frames(real_data, name, angles, frames):
    path = real_data / "xa_dicom" / f"{name}.dcm"
    header = read_header(path)
    assert header.angles is not None
    assert header.angles[0] == pytest.approx(angles)
    assert header.frames == frames
    every = pydicom.dcmread(path).pixel_array
    grey = read_frame(path, frames - 1)
    # GE's window is 128 / 256: ((x - 127.5) / 255 + 0.5) is x / 255.
    np.testing.assert_allclose(grey, every[frames - 1] / 255, atol=1 / 255)
