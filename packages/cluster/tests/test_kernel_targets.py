"""Masks as blobs, boxes in their one frame, and what a table says of targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_kit import STRIDES
from pycocotools import mask as coco

from mlkit_cluster.kernel import Grid, Targets, TargetTable, decode_mask, encode_mask, to_canonical
from mlkit_core.errors import InputError

GRID = Grid(64, STRIDES, 16, 3)


def one_box(*corners, masks=None) -> Targets:
    boxes = to_canonical(np.array([corners]), 64)
    return Targets(boxes, np.zeros(1, np.int32), np.array([0, 1]), masks)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**81 - 1))
@settings(max_examples=200, derandomize=True)
def test_a_mask_comes_back_as_it_went_in(height, width, bits):
    cells = [bits >> place & 1 for place in range(height * width)]
    mask = np.array(cells, bool).reshape(height, width)
    assert (decode_mask(encode_mask(mask)) == mask).all()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_a_blob_holds_the_size_and_the_runs_that_pycocotools_counts():
    mask = np.random.default_rng(0).random((7, 5)) < 0.4
    blob = encode_mask(mask)
    height, width = np.frombuffer(blob, "<u2", 2)
    runs = np.frombuffer(blob, "<u4", offset=4)
    encoded = coco.frPyObjects({"size": [7, 5], "counts": runs.tolist()}, 7, 5)
    assert (height, width) == (7, 5)
    assert (coco.decode(encoded).astype(bool) == mask).all()


def test_a_mask_that_starts_with_a_one_starts_with_a_run_of_no_zeros():
    assert np.frombuffer(encode_mask(np.ones((2, 3), bool)), "<u4", offset=4).tolist() == [0, 6]


def test_a_blob_that_was_cut_is_refused():
    blob = encode_mask(np.eye(4, dtype=bool))
    with pytest.raises(InputError, match="expected runs of 4 x 4 pixels in all, got"):
        decode_mask(blob[:-4])
    with pytest.raises(InputError, match="whole runs of 4, got 3 bytes"):
        decode_mask(blob[:3])


def test_the_canonical_frame_is_centre_and_size_over_the_side():
    boxes = to_canonical(np.array([[16, 8, 48, 24]]), 64)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0.5, 0.25, 0.5, 0.25]]
    assert to_canonical(np.zeros((0, 4)), 64).shape == (0, 4)


def test_the_targets_of_an_image_are_its_rows():
    targets = Targets(
        np.ones((3, 4), np.float32), np.arange(3, dtype=np.int32), np.array([0, 1, 1, 3])
    )
    assert len(targets) == 3
    assert [targets.of(index)[1].tolist() for index in range(3)] == [[0], [], [1, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.array([0, 2])}, "starts must rise from 0 to 1"),
        ({"labels": np.zeros(2, np.int32)}, "2 labels for boxes"),
        ({"boxes_xywhn": np.full((1, 4), np.nan, np.float32)}, "a box is not finite"),
        ({"masks": ()}, "0 masks for 1 boxes"),
    ],
)
def test_targets_that_contradict_themselves_are_refused(changes, message):
    fields = {"boxes_xywhn": np.ones((1, 4), np.float32), "labels": np.zeros(1, np.int32)}
    with pytest.raises(InputError, match=message):
        Targets(**({**fields, "starts": np.array([0, 1])} | changes))


def test_the_cells_of_a_target_are_those_whose_centres_lie_strictly_inside():
    table = TargetTable(one_box(20, 20, 36, 36), GRID)
    # Centres: 4, 12, 20, 28, 36 … at stride 8; 8, 24, 40 … at 16; 16, 48 at 32.
    assert table.cells[0].tolist() == [[3, 4, 3, 4], [1, 2, 1, 2], [0, 0, 0, 0]]


def test_a_small_target_looks_for_anchors_as_far_as_the_second_stride():
    table = TargetTable(one_box(27, 27, 29, 29), GRID)
    # Enlarged about its centre to 16 px: 20 to 36, as above; its own corners stay.
    assert table.cells[0].tolist() == [[3, 4, 3, 4], [1, 2, 1, 2], [0, 0, 0, 0]]
    assert table.boxes[0, :4].tolist() == [27, 27, 29, 29]


def test_a_class_that_the_detector_lacks_is_refused():
    targets = Targets(np.ones((1, 4), np.float32), np.array([3], np.int32), np.array([0, 1]))
    with pytest.raises(InputError, match="labels 3 to 3 for 3 classes"):
        TargetTable(targets, GRID)


def test_a_mask_of_another_size_is_refused():
    blob = encode_mask(np.ones((8, 8), bool))
    with pytest.raises(InputError, match=r"mask 0: expected 16 x 16 cells, got \(8, 8\)"):
        TargetTable(one_box(0, 0, 64, 64, masks=(blob,)), GRID)


def test_runs_stay_in_their_columns_and_in_the_crop():
    mask = np.ones((16, 16), bool)
    crops = TargetTable(one_box(6, 8, 14, 20, masks=(encode_mask(mask),)), GRID).crops
    # Cells 1.5 to 3.5 across hold columns 2 and 3, 2 to 5 down rows 2, 3 and 4; columns have 17.
    assert crops.boxes.tolist() == [[2, 4, 2, 5]]
    assert crops.runs.tolist() == [[2 * 17 + 2, 2 * 17 + 5], [3 * 17 + 2, 3 * 17 + 5]]
    assert crops.scales[0] == pytest.approx(1 / (16 * 16) / (8 / 64 * 12 / 64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((60, STRIDES, 16, 3), "expected strides that divide 60"),
        ((64, (), 16, 3), "expected strides that divide 64"),
        ((64, STRIDES, 1, 3), "got 1 bins and 3 classes"),
        ((64, STRIDES, 16, 0), "got 16 bins and 0 classes"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Grid(*fields)
