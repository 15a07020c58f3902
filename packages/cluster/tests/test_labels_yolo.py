"""YOLO labels: boxes and polygons in pixels, what is unknown, and lines that are wrong."""

import numpy as np
import pytest
from PIL import Image

from mlkit_cluster.images.annotations import ground_truth, rasterise
from mlkit_cluster.images.letterbox import fit
from mlkit_cluster.images.listing import list_images
from mlkit_cluster.images.yolo_labels import YoloLabels
from mlkit_cluster.kernel.masks import decode_mask
from mlkit_core.errors import DataError

SIZE = (50, 100)  # height, width


@pytest.fixture
def labelled(tmp_path):
    """Return a function that writes label lines for one image and reads them."""

    def read(*lines, folder="labels", names=()):
        for name in ("images", folder):
            (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/a.png")
        (tmp_path / folder / "a.txt").write_text("\n".join(lines))
        listing = list_images(tmp_path / "images")
        return YoloLabels(listing, folder, names).of(listing.images[0], SIZE)

    return read


def test_a_box_is_centre_and_size_over_the_image(labelled):
    found = labelled("3 0.5 0.5 0.2 0.4")
    np.testing.assert_allclose(found.boxes, [[40, 15, 60, 35]])
    assert found.labels.tolist() == [3]
    assert found.outlines is None


def test_a_polygon_gives_its_outline_and_its_bounding_box(labelled):
    found = labelled("0 0.1 0.2 0.5 0.2 0.5 0.6", folder="labels_seg")
    np.testing.assert_allclose(found.boxes, [[10, 10, 50, 30]])
    np.testing.assert_allclose(found.outlines[0][0], [[10, 10], [50, 10], [50, 30]])


def test_a_box_among_polygons_leaves_the_masks_unknown(labelled):
    found = labelled("0 0.1 0.2 0.5 0.2 0.5 0.6", "1 0.5 0.5 0.1 0.1")
    assert found.labels.tolist() == [0, 1]
    assert found.outlines is None


def test_equal_lines_count_once_and_an_empty_file_says_nothing_is_there(labelled):
    assert len(labelled("0 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1").labels) == 1
    assert len(labelled("", " ").labels) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.1", "expected class and 4 values, or class and a polygon, got 4 values"),
        ("0 0.5 0.5 0.1 0.1 0.3", "got 6 values"),
        ("x 0.5 0.5 0.1 0.1", "expected numbers"),
        ("0 50 20 10 10", "expected values from 0 to 1"),
        ("0 nan 0.5 0.1 0.1", "expected values from 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class: expected a class number, got -1"),
        ("1.5 0.5 0.5 0.1 0.1", "class: expected a class number, got 1.5"),
    ],
)
def test_a_wrong_line_is_named_by_file_and_number(labelled, line, said):
    with pytest.raises(DataError, match=rf"labels/a\.txt:2: .*{said}"):
        labelled("0 0.5 0.5 0.1 0.1", line)


def test_a_class_beyond_the_names_is_refused(labelled):
    with pytest.raises(DataError, match=r"a\.txt:1: class: expected 0 to 1, got 2"):
        labelled("2 0.5 0.5 0.1 0.1", names=("cat", "dog"))


def test_a_missing_file_is_background_beside_labelled_images_and_unknown_elsewhere(tmp_path):
    for name in ("train/a", "train/b", "test/c"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10)).save(path)
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.1 0.1")
    listing = list_images(tmp_path)
    labels = YoloLabels(listing)
    found = {one.key: labels.of(one, (10, 10)) for one in listing.images}
    assert len(found["images/train/a.png"].labels) == 1
    assert len(found["images/train/b.png"].labels) == 0
    assert found["images/test/c.png"] is None
    assert labels.labelled == 2


def test_the_last_folder_named_images_decides(tmp_path):
    path = tmp_path / "images/set/images/x/1.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path)
    labels = YoloLabels(list_images(path))
    assert labels.file_of(path) == tmp_path / "images/set/labels/x/1.txt"


def test_boxes_become_input_boxes_and_what_lies_outside_is_dropped(labelled):
    found = labelled("0 0.5 0.5 0.2 0.4", "1 1.0 0.5 0.1 0.2", "2 0.3 0.3 0.0 0.2")
    truth = ground_truth(found, fit(SIZE, 64), SIZE, 64)
    # Scale .64, 16 rows above: x 40..60 becomes 25.6..38.4, y 15..35 becomes 25.6..38.4.
    np.testing.assert_allclose(
        truth.boxes_input, [[25.6, 25.6, 38.4, 38.4], [60.8, 28.8, 64, 35.2]], atol=1e-5
    )
    np.testing.assert_allclose(truth.boxes, [[40, 15, 60, 35], [95, 20, 100, 30]], atol=1e-4)
    assert truth.labels.tolist() == [0, 1]


def test_a_mask_covers_the_cells_that_its_polygon_half_fills():
    # The left half of a 64 px square, by 16 x 16 cells: columns 0..7.
    box = fit((64, 64), 64)
    half = (np.array([[0, 0], [32, 0], [32, 64], [0, 64]], float),)
    expected = np.zeros((16, 16), bool)
    expected[:, :8] = True
    assert (rasterise(half, box, (64, 64), 64) == expected).all()
    pixels = np.zeros((64, 64), bool)
    pixels[:, :32] = True
    assert (rasterise(pixels, box, (64, 64), 64) == expected).all()


def test_masks_of_a_letterboxed_image_lie_where_its_boxes_do(labelled):
    found = labelled("0 0.2 0.2 0.6 0.2 0.6 0.8 0.2 0.8", folder="labels_seg")
    truth = ground_truth(found, fit(SIZE, 160), SIZE, 160)
    rows, columns = np.nonzero(decode_mask(truth.masks[0]))
    cells = truth.boxes_input[0] / 4  # 8, 14, 24, 26
    np.testing.assert_allclose(cells, [8, 14, 24, 26], atol=1e-5)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (8, 14, 24, 26)
